// What the steps of a run write, as they write it. Text nodes alone; what could play with the reader's eyes is shown as what it is.

import { h, put } from '../dom.js';
import { get } from '../api.js';
import { every } from '../live.js';
import { count, plural } from '../format.js';
import { copy, told } from '../parts.js';

// Lines on the page; the API has the others.
const SHOWN = 5000;
// Pages that one look reads.
const PAGES = 40;

// Controls, marks that turn the direction of text, and what has no width.
const DANGEROUS =
  /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]/g;
export const plain = text => text.replace(DANGEROUS, c => `\\u{${c.codePointAt(0).toString(16)}}`);

const time = at => at.slice(11, 23);
const place = l => `${l.epoch} ${l.attempt} ${l.key}`;

export class RunLogs {
  constructor(id, { over, step }) {
    this.id = id;
    this.over = over;
    this.step = step;
    this.steps = new Set();
    this.box = h('div', { class: 'log', tabindex: 0, role: 'log', 'aria-label': 'What the steps write' });
    this.note = h('span', { class: 'dim', 'aria-live': 'polite' });
    this.select = h('select', { 'aria-label': 'Step', onchange: () => this.choose(this.select.value || null) });
    this.root = h(
      'div',
      {},
      h('div', { class: 'log-tools' }, this.select, this.note, h('span', { class: 'spacer' }), copy(() => this.text(), 'log')),
      this.box,
    );
    this.begin();
  }

  begin() {
    this.after = '';
    this.lines = [];
    this.left = 0;
    this.last = new Map();
    this.whole = false;
    put(this.box);
    this.stop?.();
    this.looks = this.look().catch(error => put(this.box, told(error)));
    this.stop = every(700, () => {
      if (!this.whole || !this.over()) return this.look();
    });
  }

  choose(step) {
    this.step = step;
    this.begin();
  }

  async look() {
    const mine = (this.turn = {});
    for (let page = 0; page < PAGES; page++) {
      const of = this.step ? `&step=${encodeURIComponent(this.step)}` : '';
      const found = await get(`/runs/${this.id}/logs?after=${this.after}${of}`);
      if (mine !== this.turn) return;
      this.after = found.next;
      this.add(found.lines);
      if (!found.more) {
        // Once more after the end: the last words come a moment later.
        this.whole = this.over() && this.quiet === this.after;
        this.quiet = this.after;
        break;
      }
    }
    this.tell();
  }

  add(lines) {
    const atEnd = this.box.scrollHeight - this.box.scrollTop - this.box.clientHeight < 30;
    const rows = [];
    for (const l of lines) {
      this.steps.add(l.key);
      const before = this.last.get(place(l)) ?? 0;
      if (l.line > before + 1) rows.push(h('div', { class: 'log-gap' }, `… ${plural(l.line - before - 1, 'line')} not kept`));
      this.last.set(place(l), l.line);
      rows.push(
        h(
          'div',
          { class: `log-line is-${l.level}` },
          h('time', { datetime: l.at, title: l.at }, time(l.at)),
          h('span', { class: 'log-step', title: `${l.key}, attempt ${l.attempt}, ${l.stream}` }, l.key, l.attempt > 1 ? `#${l.attempt}` : ''),
          h('span', { class: 'log-text' }, plain(l.text)),
        ),
      );
    }
    this.lines.push(...lines);
    this.box.append(...rows);
    const extra = this.box.childElementCount - SHOWN;
    for (let i = 0; i < extra; i++) this.box.firstElementChild.remove();
    if (this.lines.length > SHOWN) {
      this.left += this.lines.length - SHOWN;
      this.lines = this.lines.slice(-SHOWN);
    }
    if (atEnd) this.box.scrollTop = this.box.scrollHeight;
  }

  tell() {
    const known = [...this.steps].sort();
    const stamp = known.join('\n') + this.step;
    if (this.select._stamp !== stamp) {
      this.select._stamp = stamp;
      if (this.step && !known.includes(this.step)) known.unshift(this.step);
      put(
        this.select,
        h('option', { value: '' }, 'All steps'),
        known.map(key => h('option', { value: key, selected: key === this.step }, key)),
      );
    }
    put(
      this.note,
      this.left ? `the last ${count(SHOWN)} of ${count(this.left + this.lines.length)} lines` : plural(this.lines.length, 'line'),
    );
    if (!this.lines.length)
      put(this.box, h('p', { class: 'empty' }, this.over() ? 'No step has written anything.' : 'No step has written anything yet.'));
    else this.box.querySelector('.empty')?.remove();
  }

  text() {
    return this.lines.map(l => `${l.at} ${l.key}#${l.attempt} ${l.stream} ${plain(l.text)}`).join('\n');
  }

  destroy() {
    this.turn = null;
    this.stop?.();
  }
}
