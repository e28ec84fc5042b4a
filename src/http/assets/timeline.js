// The timeline, drawn: one row a step, the run's workers above, crashes and resumes through all of them.

import { h, s, icon, put } from './dom.js';
import { compact, count, plural, span } from './format.js';
import { badge, complain, table } from './parts.js';
import { bars, drawLegend, drawMark, ROW } from './timeline-bars.js';
import { scale, story } from './timeline-model.js';

const MANY = 150;

export class Timeline {
  // `levels` reads what is unfolded; `changed` is called with what there is then.
  constructor({ choose, workers, levels, changed }) {
    this.choose = choose;
    this.levels = levels;
    this.changed = changed;
    this.workers = workers ?? (() => null);
    this.open = new Set();
    this.chosen = null;
    this.first = true;
    this.axis = h('div', { class: 'tl-axis' });
    this.owners = h('div', { class: 'tl-owners' });
    this.lines = h('div', { class: 'tl-lines', 'aria-hidden': 'true' });
    this.rows = h('div', { class: 'tl-rows', role: 'tree', 'aria-label': 'Steps over time', tabindex: 0 });
    this.legend = h('ul', { class: 'legend' });
    this.body = h('div', { class: 'tl-body' }, this.lines, this.rows);
    this.scroll = h('div', { class: 'tl-scroll' }, this.body);
    this.root = h('div', { class: 'timeline' }, h('div', { class: 'tl-head' }, this.axis, this.owners), this.scroll, this.legend);
    this.scroll.addEventListener('scroll', () => this.draw());
    this.observer = new ResizeObserver(() => this.layout());
    this.observer.observe(this.root);
    this.rows.addEventListener('keydown', event => this.key(event));
  }

  destroy() {
    this.observer.disconnect();
  }

  set(run, told, now, shared) {
    this.run = run;
    this.story = story(run, told, now);
    this.left = told.left;
    this.shared = shared;
    this.rescale();
    if (this.first) {
      this.first = false;
      // Small compounds are shown open; ten thousand items are one row.
      for (const node of this.story.root.byPath.values())
        if (!node.many && node.children.length && node.children.length <= 6 && depth(node) === 0) this.open.add(node.path);
    }
    this.layout();
  }

  rescale() {
    this.scale = this.shared ?? scale(this.story);
  }

  flat() {
    const list = [];
    const walk = (nodes, deep) => {
      for (const node of nodes) {
        // An item with a single step is drawn as that step.
        const only =
          node.item && !node.row && !node.many && node.children.length === 1 && node.children[0].row && !node.children[0].children.length
            ? node.children[0]
            : null;
        const drawn = only ?? node;
        list.push({
          node: drawn,
          deep,
          name: name(node, only),
          open: this.open.has(drawn.path),
          folds: inside(drawn) > 0,
        });
        if (drawn.children.length && this.open.has(drawn.path)) {
          walk(drawn.children, deep + 1);
          if (drawn.many && this.left?.get(drawn.path)) list.push(further(drawn.path, this.left.get(drawn.path), deep + 1));
        }
      }
    };
    walk(this.story.root.children, 0);
    if (this.left?.get('')) list.push(further('', this.left.get(''), 0));
    return list;
  }

  layout() {
    if (!this.story) return;
    const wide = this.root.clientWidth;
    if (!wide) return;
    this.nameWidth = wide < 620 ? 130 : Math.min(280, Math.max(170, wide * 0.22));
    this.list = this.flat();
    const longest = Math.max(
      6,
      span(this.story.end).length,
      ...this.list.slice(0, 300).map(l => (l.more ? 0 : this.note(l.node, l.node.row, l.folds).length)),
    );
    this.noteWidth = Math.min(wide < 620 ? 66 : wide < 900 ? 170 : 230, 20 + longest * 6.4);
    this.width = Math.max(80, wide - this.nameWidth - this.noteWidth - 26);
    this.root.style.setProperty('--name', `${this.nameWidth}px`);
    this.root.style.setProperty('--bar', `${this.width}px`);
    this.root.style.setProperty('--note', `${this.noteWidth}px`);
    this.body.style.height = `${this.list.length * ROW}px`;
    this.scroll.classList.toggle('windowed', this.list.length > MANY);
    this.drawAxis();
    this.drawOwners();
    this.drawLines();
    drawLegend(this);
    this.draw();
  }

  x(t) {
    return this.scale.place(t) * this.width;
  }

  drawAxis() {
    const drawn = s('svg', { width: this.width, height: 20, 'aria-hidden': 'true' });
    let last = -99;
    const tick = (t, place) => {
      const x = this.x(t);
      drawn.append(
        s('line', { x1: x, x2: x, y1: 14, y2: 20, class: 'tick-line' }),
        s('text', { x: Math.min(x, this.width - 1), y: 11, class: `tick ${place}` }, axisSpan(t)),
      );
      last = x;
    };
    tick(0, '');
    // Round numbers, as near as they come to even distances.
    for (let x = 110; x < this.width - 70; x += 55) {
      const near = this.scale.time(x / this.width),
        apart = Math.abs(this.scale.time(Math.min(1, (x + 40) / this.width)) - near);
      const t = round(near, apart);
      if (this.x(t) - last >= 84 && this.x(t) < this.width - 66) tick(t, 'middle');
    }
    tick(this.scale.end, 'end');
    put(this.axis, h('span', { class: 'tl-name dim' }, 'since enqueued'), drawn, h('span', { class: 'tl-note' }));
  }

  // Who had the run, one lane after the other: × is a death, ↻ the worker that went on.
  drawOwners() {
    const drawn = s('svg', { width: this.width, height: 30, role: 'img', 'aria-label': this.told() });
    const seen = [];
    for (const f of this.story.run.fills) {
      const [a, b] = [this.x(f.from), this.x(f.to)];
      const group = s(
        'g',
        {},
        s('title', {}, `${f.fill === 'own' ? `on ${this.worker(f) || 'a worker'}` : f.text}, ${span(f.to - f.from)}`),
      );
      if (f.fill === 'own') {
        const id = f.worker ?? `lane${f.lane}`;
        if (!seen.includes(id)) seen.push(id);
        group.append(
          s('rect', { x: a, y: 5, width: Math.max(2, b - a), height: 20, rx: 4, class: `own own-${seen.indexOf(id) % 4}` }),
        );
        const text = this.worker(f);
        const begun = this.story.run.marks.some(m => m.kind === 'resume' && Math.abs(m.at - f.from) < 1);
        const left = begun ? 30 : 9;
        if (text && b - a > text.length * 6.6 + left + 6)
          group.append(s('text', { x: a + left, y: 19, class: 'own-name' }, text));
      } else if (f.fill === 'rest') {
        group.append(
          s('line', { x1: a, x2: b, y1: 15, y2: 15, class: 'fill-rest' }),
          s('rect', { x: a, y: 5, width: Math.max(0, b - a), height: 20, class: 'hit' }),
        );
      } else {
        group.append(s('rect', { x: a, y: 9, width: Math.max(0, b - a), height: 12, rx: 2, class: `fill-${f.fill}` }));
      }
      drawn.append(group);
    }
    for (const mark of this.story.run.marks) drawn.append(drawMark(this, mark, 15));
    put(
      this.owners,
      h(
        'span',
        { class: 'tl-name' },
        h('strong', {}, 'run'),
        this.story.deaths.length ? h('span', { class: 'crashes' }, plural(this.story.deaths.length, 'crash', 'crashes')) : null,
      ),
      drawn,
      h('span', { class: 'tl-note' }, span(this.story.end)),
    );
  }

  told() {
    const parts = this.story.deaths.map(
      d =>
        `${this.worker(d)} died after ${span(d.at)}${d.resumed ? `, ${this.worker(d.resumed)} went on ${span(d.resumed.at - d.at)} later` : ''}`,
    );
    return parts.length ? parts.join('; ') : `The run over ${span(this.story.end)}, no crash`;
  }

  worker(of) {
    if (of.host) return `${of.host}·${of.pid}`;
    if (!of.worker) return '';
    const known =
      this.workers(of.worker) ??
      this.story.deaths.filter(d => d.worker === of.worker && d.host).map(d => `${d.host}·${d.pid}`)[0];
    return known ?? of.worker.slice(0, 8);
  }

  drawLines() {
    put(this.lines);
    const line = (t, kind) =>
      this.lines.append(h('i', { class: `tl-line ${kind}`, vars: { left: `${this.nameWidth + this.x(t)}px` } }));
    for (const d of this.story.deaths) line(d.at, 'crash');
    for (const r of this.story.resumes) if (!r.woken) line(r.at, 'resume');
    for (const b of this.scale.breaks) line((b.from + b.to) / 2, 'break');
  }

  draw() {
    const all = this.list;
    const windowed = all.length > MANY;
    const top = windowed ? Math.max(0, Math.floor(this.scroll.scrollTop / ROW) - 10) : 0;
    const end = windowed ? Math.min(all.length, top + Math.ceil(this.scroll.clientHeight / ROW) + 20) : all.length;
    const rows = [];
    for (let i = top; i < end; i++) rows.push(this.row(all[i], i, all.length));
    this.rows.style.transform = `translateY(${top * ROW}px)`;
    put(this.rows, rows);
    if (this.chosen) this.rows.setAttribute('aria-activedescendant', `tl-${this.chosen}`);
    else this.rows.removeAttribute('aria-activedescendant');
  }

  row(line, i, all) {
    return line.more ? this.moreRow(line, i, all) : this.nodeRow(line, i, all);
  }

  moreRow({ node, deep, name: text }, i, all) {
    const line = h(
      'div',
      {
        class: `tl-row tl-more ${this.chosen === node.path ? 'chosen' : ''}`,
        role: 'treeitem',
        id: `tl-${node.path}`,
        'aria-level': deep + 1,
        'aria-posinset': i + 1,
        'aria-setsize': all,
        'aria-selected': String(this.chosen === node.path),
        onclick: () => this.more(node.under),
      },
      h('span', { class: 'tl-name' }, h('span', { class: 'tl-fold none' }), h('span', { class: 'tl-text' }, text)),
      h('span'),
      h('span', { class: 'tl-note' }),
    );
    line.style.setProperty('--deep', deep);
    return line;
  }

  nodeRow({ node, deep, name: text, open, folds }, i, all) {
    const row = node.row;
    const state = row?.step.state ?? worst(node.sum.states);
    const label = folds ? `${text}, ${plural(inside(node), unit(node))}` : text;
    const line = h('div', {
      class: `tl-row ${this.chosen === node.path ? 'chosen' : ''}`,
      role: 'treeitem',
      id: `tl-${node.path}`,
      'aria-level': deep + 1,
      'aria-posinset': i + 1,
      'aria-setsize': all,
      'aria-expanded': folds ? String(open) : null,
      'aria-selected': String(this.chosen === node.path),
      'aria-label': `${label}: ${state}, ${this.note(node, row, folds)}`,
      onclick: event => {
        if (event.target.closest('.tl-fold')) this.fold(node);
        else this.pick(node);
      },
      ondblclick: () => folds && this.fold(node),
    });
    line.style.setProperty('--deep', deep);
    line.append(
      h(
        'span',
        { class: 'tl-name' },
        folds
          ? h('span', { class: `tl-fold ${open ? 'open' : ''}`, title: open ? 'Fold' : 'Unfold' }, icon('right'))
          : h('span', { class: 'tl-fold none' }),
        h('span', { class: `tl-state is-${state}`, title: state }, icon(state)),
        h(
          'span',
          { class: 'tl-text', title: text },
          text,
          folds ? badgeOf(inside(node), unit(node)) : null,
        ),
      ),
    );
    line.append(
      bars(this, node, row, folds && !open),
      h('span', { class: 'tl-note', title: this.note(node, row, folds) }, this.note(node, row, folds)),
    );
    return line;
  }

  note(node, row, folds) {
    const parts = [];
    const sum = node.sum;
    const time = row ? row.to - row.from : sum.to - sum.from;
    const state = row?.step.state;
    if (state === 'skipped') return 'skipped';
    parts.push(span(time));
    if (folds) {
      const odd = [...sum.states].filter(([st]) => st !== 'completed').map(([st, n]) => `${count(n)} ${st}`);
      parts.push(...odd);
    }
    if (node.many?.fold.failed_attempts) parts.push(plural(node.many.fold.failed_attempts, 'failed attempt'));
    if (row?.step.attempts > 1) parts.push(`${row.step.attempts} attempts`);
    if (row?.step.error_code) parts.push(row.step.error_code);
    if (row?.step.tokens_in != null) parts.push(`${count(row.step.tokens_in + (row.step.tokens_out ?? 0))} tokens`);
    return parts.join(' · ');
  }

  fold(node) {
    if (this.open.has(node.path)) this.open.delete(node.path);
    else this.open.add(node.path);
    if (node.many && this.open.has(node.path) && !this.levels.has(node.path)) this.read(this.levels.unfold(node.many.fold));
    this.layout();
  }

  more(under) {
    this.read(this.levels.more(under));
  }

  // One reading at a time.
  read(reading) {
    this.reading = Promise.allSettled([this.reading, reading])
      .then(() => reading)
      .then(told => this.changed(told))
      .catch(complain);
  }

  pick(node) {
    if (node.under != null) return this.more(node.under);
    this.chosen = node.path;
    this.draw();
    this.choose(node.row?.key ?? null, node);
  }

  key(event) {
    const at = this.list.findIndex(l => l.node.path === this.chosen);
    const line = this.list[at];
    const to = { ArrowDown: at + 1, ArrowUp: Math.max(0, at - 1), Home: 0, End: this.list.length - 1 }[event.key];
    if (to != null && this.list[to]) {
      this.chosen = this.list[to].node.path;
      const y = to * ROW;
      if (y < this.scroll.scrollTop || y + ROW > this.scroll.scrollTop + this.scroll.clientHeight)
        this.scroll.scrollTop = y - this.scroll.clientHeight / 2;
      this.draw();
    } else if (line && event.key === 'ArrowRight' && line.folds && !line.open) this.fold(line.node);
    else if (line && event.key === 'ArrowLeft' && line.open) this.fold(line.node);
    else if (line && (event.key === 'Enter' || event.key === ' ')) this.pick(line.node);
    else return;
    event.preventDefault();
    event.stopPropagation();
  }

  asTable() {
    return table(
      [
        { name: 'Step', cell: r => r.key },
        { name: 'Label', cell: r => (r.fold ? '' : (r.step.label ?? '')) },
        { name: 'Kind', cell: r => r.step.kind },
        { name: 'State', cell: r => (r.fold ? r.step.label : badge(r.step.state)) },
        { name: 'From', class: 'num', cell: r => span(r.from) },
        { name: 'Took', class: 'num', cell: r => span(r.to - r.from) },
        { name: 'Attempts', class: 'num', cell: r => r.step.attempts },
        {
          name: 'Crashes',
          cell: r =>
            r.marks
              .filter(m => m.kind === 'crash')
              .map(
                m =>
                  `${this.worker(m.death)} died at ${span(m.at)}${m.death.resumed ? `, ${this.worker(m.death.resumed)} went on` : ''}`,
              )
              .join('; '),
        },
        { name: 'Failure', cell: r => [r.step.error_code, r.step.error_message].filter(Boolean).join(': ') },
      ],
      [...this.story.folds.map(asStep), ...this.story.rows.slice(0, 2000)],
      { caption: 'Steps', empty: 'No step has started yet.' },
    );
  }
}

const STEPS = [
  1, 2, 5, 10, 20, 50, 100, 200, 500, 1e3, 2e3, 5e3, 1e4, 15e3, 3e4, 6e4, 12e4, 3e5, 6e5, 9e5, 18e5, 36e5, 72e5, 108e5, 216e5,
  432e5, 864e5, 1728e5, 6048e5,
];
const round = (t, apart) => {
  const step = STEPS.find(size => size >= apart) ?? 6048e5;
  return Math.round(t / step) * step;
};
const axisSpan = t =>
  span(Math.round(t))
    .replace(/\.0+ s$/, ' s')
    .replace(/(\.\d)0 s$/, '$1 s');

const depth = node => {
  let n = 0;
  for (let p = node.parent; p?.parent; p = p.parent) n++;
  return n;
};
const badgeOf = (n, one) => h('span', { class: 'tl-many', title: plural(n, one) }, compact(n));
const inside = node => node.many?.fold.items ?? node.children.length;
const unit = node =>
  node.row?.step.kind === 'repeat' ? 'round' : node.row?.step.kind === 'map' || node.children[0]?.item ? 'item' : 'step';
// The row behind the last that was read of many.
const further = (under, left, deep) => ({
  more: true,
  deep,
  name: `… ${count(left)} more: show the next`,
  node: { path: `${under}…`, under },
  open: false,
  folds: false,
});
// A folded node as a row of the table.
const asStep = many => ({
  ...many,
  step: {
    kind: `${count(many.fold.steps)} steps`,
    label: Object.entries(many.fold.states)
      .map(([state, n]) => `${count(n)} ${state}`)
      .join(', '),
    attempts: '',
  },
});
const ORDER = ['failed', 'running', 'waiting', 'cancelled', 'completed', 'skipped'];
const worst = states => ORDER.find(state => states.has(state)) ?? 'completed';

function name(node, only) {
  const step = (only ?? node).row?.step;
  if (step?.kind === 'end') return `ends: ${step.chosen ?? '?'}`;
  if (node.item) {
    const label = step?.label ?? firstLabel(node);
    return label ? `${node.name} ${label}` : only ? `${node.name} ${only.name}` : node.name;
  }
  return step?.label && !node.parent?.item ? `${node.name} (${step.label})` : node.name;
}
const firstLabel = node => node.children.map(c => c.row?.step.label).find(Boolean);
