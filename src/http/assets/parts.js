// What the pages are made of.

import { h, s, icon, put } from './dom.js';
import { ago, exact, shortId, span, Exact } from './format.js';
import { may, Problem, session } from './api.js';

export const STATES = ['scheduled', 'queued', 'held', 'running', 'waiting', 'paused', 'resuming', 'completed', 'failed', 'cancelled'];
export const FINAL = new Set(['completed', 'failed', 'cancelled']);

export const badge = state => h('span', { class: `state is-${state}` }, icon(state), state);

export const when = (at, otherwise = '–') => at
  ? h('time', { datetime: at, title: exact(at), 'data-at': at }, ago(at)) : h('span', { class: 'dim' }, otherwise);

setInterval(() => {
  if (document.hidden) return;
  for (const node of document.querySelectorAll('time[data-at]')) {
    const text = ago(node.dataset.at);
    if (node.textContent !== text) node.textContent = text;
  }
}, 1000);

export const took = (from, to) => h('span', { class: 'num' }, from ? span(new Date(to ?? Date.now()) - new Date(from)) : '–');

export const link = (to, ...children) => h('a', { href: to }, children);

export function copy(text, what) {
  const button = h('button', { class: 'icon-button copy', type: 'button', title: `Copy ${what}`, 'aria-label': `Copy ${what}` }, icon('copy'));
  button.addEventListener('click', async event => {
    event.preventDefault();
    event.stopPropagation();
    const value = typeof text === 'function' ? text() : text;
    try { await navigator.clipboard.writeText(value); } catch { fallbackCopy(value); }
    say(`Copied ${what}`);
  });
  return button;
}

function fallbackCopy(text) {
  const area = h('textarea', { value: text, class: 'off-screen', 'aria-hidden': 'true' });
  document.body.append(area);
  area.select();
  document.execCommand('copy');
  area.remove();
}

export const runLink = id => h('span', { class: 'id' }, h('a', { href: `/runs/${id}`, title: id, 'data-focus': id }, shortId(id)), copy(id, 'run id'));

export const labels = given => Object.entries(given ?? {}).map(([key, value]) =>
  h('a', { class: 'label', href: `/runs?label=${encodeURIComponent(`${key}=${plain(value)}`)}`, title: 'Runs with this label' }, h('span', {}, key), plain(value)));

const plain = value => value instanceof Exact ? value.text : typeof value === 'string' ? value : JSON.stringify(value);

// Messages: shown for a while, and read out.
let region;
export function say(text, kind = 'note') {
  region ??= document.querySelector('#messages');
  const node = h('div', { class: `message ${kind}` }, icon(kind === 'bad' ? 'warn' : 'completed'), h('span', {}, text),
    h('button', { type: 'button', class: 'icon-button', 'aria-label': 'Dismiss', onclick: () => node.remove() }, icon('failed')));
  region.append(node);
  setTimeout(() => node.remove(), kind === 'bad' ? 12000 : 4000);
}

export function told(error) {
  return h('div', { class: 'problem', role: 'alert' }, icon('warn'),
    h('div', {}, h('p', {}, error.message), error.hint ? h('p', { class: 'dim' }, error.hint) : null,
      error.code ? h('p', {}, link(`/errors/${error.code}`, `What ${error.code} means`)) : null));
}

export const complain = error => {
  if (error.name !== 'AbortError') say(error instanceof Problem ? [error.message, error.hint].filter(Boolean).join('. ') : String(error), 'bad');
};

export const button = (text, onclick, { name, kind = '', scope, title, disabled } = {}) => {
  const denied = scope && !may(scope);
  return h('button', {
    type: 'button', class: `button ${kind}`, disabled: denied || disabled, onclick,
    title: denied ? needs(scope) : title,
  }, name ? icon(name) : null, text);
};

export const needs = scope => session.name ? `The token ${session.name} is for ${session.scope}; this needs ${scope}.` : `Read-only: sign in with a token for ${scope} to do this.`;

export const field = (name, input, help) => h('label', { class: 'field' }, h('span', {}, name), input, help ? h('small', {}, help) : null);

// Asks; resolves with what `read` gives, or null.
export function ask({ title, body, action, kind = 'primary', wide }, perform) {
  return new Promise(resolve => {
    const wrong = h('div', { 'aria-live': 'polite' });
    const go = h('button', { class: `button ${kind}`, type: 'submit' }, action);
    const dialog = h('dialog', { class: wide ? 'wide' : '', 'aria-labelledby': 'dialog-title' },
      h('form', { method: 'dialog' }, h('h2', { id: 'dialog-title' }, title), h('div', { class: 'dialog-body' }, body), wrong,
        h('footer', {}, h('button', { class: 'button', type: 'button', onclick: () => dialog.close() }, 'Close'), go)));
    let result = null;
    dialog.querySelector('form').addEventListener('submit', async event => {
      event.preventDefault();
      go.disabled = true;
      put(wrong);
      try {
        result = await perform() ?? true;
        dialog.close();
      } catch (error) {
        put(wrong, told(error));
      }
      go.disabled = false;
    });
    dialog.addEventListener('close', () => { dialog.remove(); resolve(result); });
    document.body.append(dialog);
    dialog.showModal();
    (dialog.querySelector('.dialog-body input, .dialog-body textarea, .dialog-body select') ?? go).focus();
  });
}

export function table(columns, rows, { empty = 'Nothing here.', caption } = {}) {
  const head = h('tr', {}, columns.map(c => h('th', { scope: 'col', class: c.class }, c.name)));
  const line = row => h('tr', { class: row._class }, columns.map(c => h('td', { class: c.class }, c.cell(row))));
  return h('div', { class: 'table-box', tabindex: rows.length > 8 ? 0 : null, role: rows.length > 8 ? 'region' : null, 'aria-label': rows.length > 8 ? caption : null },
    h('table', {}, caption ? h('caption', { class: 'off-screen' }, caption) : null, h('thead', {}, head), h('tbody', {}, rows.map(line))),
    rows.length ? null : h('p', { class: 'empty' }, empty));
}

// A chart with its twin: the same as a table.
export function twin(title, chart, columns, rows, note) {
  const box = h('div', { class: 'twin-body' }, chart);
  let shown = false;
  const flip = h('button', { type: 'button', class: 'link-button', 'aria-pressed': 'false', onclick: () => {
    shown = !shown;
    flip.setAttribute('aria-pressed', String(shown));
    flip.textContent = shown ? 'Chart' : 'Table';
    put(box, shown ? table(columns, rows, { caption: title }) : chart);
  } }, 'Table');
  return h('section', { class: 'panel' }, h('header', {}, h('h2', {}, title), note ? h('span', { class: 'dim' }, note) : null, flip), box);
}

export const panel = (title, ...children) => h('section', { class: 'panel' }, h('header', {}, h('h2', {}, title)), children);

// A column for each stretch, its parts one above the other.
export function columns(stretches, parts, label) {
  const width = 720, height = 132, foot = 18, left = 34;
  const most = Math.max(1, ...stretches.map(x => parts.reduce((sum, p) => sum + (x[p.key] ?? 0), 0)));
  const y = n => (height - foot) * (1 - n / most) + 6 * (n / most);
  const w = (width - left) / Math.max(1, stretches.length);
  const chart = s('svg', { class: 'chart', viewBox: `0 0 ${width} ${height}`, role: 'img', 'aria-label': label });
  for (const n of [most, Math.round(most / 2)].filter((n, i, all) => n > 0 && all.indexOf(n) === i)) {
    chart.append(s('line', { x1: left, x2: width, y1: y(n), y2: y(n), class: 'grid' }), s('text', { x: left - 6, y: y(n) + 3.5, class: 'tick end' }, n));
  }
  stretches.forEach((x, i) => {
    let under = 0;
    const group = s('g', {}, s('title', {}, `${x.name}: ${parts.map(p => `${x[p.key] ?? 0} ${p.name}`).join(', ')}`),
      s('rect', { x: left + i * w, y: 0, width: w, height: height - foot, class: 'hit' }));
    for (const part of parts) {
      const n = x[part.key] ?? 0;
      if (n) group.append(s('rect', { x: left + i * w + Math.min(1, w / 8), y: y(under + n), width: Math.max(1, w - Math.min(2, w / 4)), height: Math.max(1.5, y(under) - y(under + n)), class: `bar ${part.class}`, rx: 1 }));
      under += n;
    }
    chart.append(group);
    if (i % Math.ceil(stretches.length / 8) === 0) chart.append(s('text', { x: left + i * w, y: height - 4, class: 'tick' }, x.tick));
  });
  chart.append(s('line', { x1: left, x2: width, y1: height - foot, y2: height - foot, class: 'axis' }));
  return h('div', {}, chart, h('ul', { class: 'legend' }, parts.map(p => h('li', {}, h('i', { class: `swatch ${p.class}` }), p.name))));
}

// JSON: folded below the second level, drawn only when opened.
export function json(value, name = 'value') {
  const text = () => JSON.stringify(value, null, 2);
  return h('div', { class: 'json' }, h('div', { class: 'json-tools' }, copy(text, name)), tree(value, null, 0));
}

const CHUNK = 200;

function tree(value, key, depth) {
  const name = key === null ? null : [h('span', { class: 'json-key' }, key), ': '];
  if (value === null || typeof value !== 'object' || value instanceof Exact) {
    const kind = value === null ? 'null' : value instanceof Exact ? 'number' : typeof value;
    const text = value instanceof Exact ? value.text : kind === 'string' ? value : String(value);
    return h('div', { class: 'json-line' }, name, h('span', { class: `json-${kind}` }, kind === 'string' && !text.includes('\n') ? JSON.stringify(text) : text));
  }
  const list = Array.isArray(value);
  const entries = list ? value.map((v, i) => [i, v]) : Object.entries(value);
  const [open, end] = list ? ['[', ']'] : ['{', '}'];
  if (!entries.length) return h('div', { class: 'json-line' }, name, `${open}${end}`);
  const body = h('div', { class: 'json-body' });
  const details = h('details', { open: depth < 2 && entries.length <= 50 },
    h('summary', {}, name, open, h('span', { class: 'json-more' }, list ? ` ${entries.length} ` : ` ${entries.slice(0, 4).map(e => e[0]).join(', ')}${entries.length > 4 ? ', …' : ''} `, end)), body);
  const draw = from => {
    for (const [k, v] of entries.slice(from, from + CHUNK)) body.append(tree(v, k, depth + 1));
    if (from + CHUNK < entries.length) {
      const more = h('button', { type: 'button', class: 'link-button', onclick: () => { more.remove(); draw(from + CHUNK); } }, `${entries.length - from - CHUNK} more`);
      body.append(more);
    }
  };
  const fillOnce = () => { if (details.open && !body.firstChild) draw(0); };
  details.addEventListener('toggle', fillOnce);
  fillOnce();
  return details;
}

// A form made from a JSON Schema, with the JSON itself as its other half. `read` gives the value, or throws.
export function schemaForm(schema, given) {
  const simple = schema?.properties && Object.values(schema.properties).every(p => scalar(p));
  const area = h('textarea', { rows: 8, spellcheck: 'false', class: 'code', 'aria-label': 'JSON' });
  const inputs = [];
  const root = h('div', { class: 'schema-form' });
  let raw = !simple;
  const start = given ?? {};
  area.value = JSON.stringify(start, null, 2);
  if (simple) {
    for (const [key, p] of Object.entries(schema.properties)) {
      const input = control(p, start[key] ?? p.default);
      inputs.push([key, p, input]);
    }
  }
  const collect = () => {
    const value = { ...start };
    for (const [key, p, input] of inputs) {
      const text = input.type === 'checkbox' ? input.checked : input.value;
      if (input.type === 'checkbox') { if (text || key in value || schema.required?.includes(key)) value[key] = text; continue; }
      if (text === '') { delete value[key]; continue; }
      value[key] = p.enum ? p.enum[input.selectedIndex - 1] : kinds(p).some(k => k === 'integer' || k === 'number') ? number(text, key) : text;
    }
    return value;
  };
  const parsed = () => {
    try { return JSON.parse(area.value || 'null'); } catch (error) { throw new Problem(400, { detail: `That is no JSON: ${error.message}` }); }
  };
  const draw = () => put(root,
    raw ? area : inputs.map(([key, p, input]) => field(key + (schema.required?.includes(key) ? ' *' : ''), input, p.description)),
    simple ? h('button', { type: 'button', class: 'link-button', onclick: () => {
      try {
        if (raw) { Object.assign(start, parsed()); for (const [key, , input] of inputs) setControl(input, start[key]); }
        else area.value = JSON.stringify(collect(), null, 2);
        raw = !raw;
        draw();
      } catch (error) { complain(error); }
    } }, raw ? 'As a form' : 'As JSON') : null);
  draw();
  return { root, read: () => (raw ? parsed() : collect()) };
}

const kinds = p => [p.type ?? 'string'].flat();
const scalar = p => typeof p === 'object' && (p.enum || kinds(p).every(k => ['string', 'integer', 'number', 'boolean', 'null'].includes(k)) && p.type) && !p.properties;
const number = (text, key) => {
  const value = Number(text);
  if (Number.isNaN(value)) throw new Problem(400, { detail: `${key}: ${text} is no number` });
  return value;
};
function control(p, value) {
  let input;
  if (p.enum) input = h('select', {}, h('option', { value: '' }, '–'), p.enum.map(v => h('option', { value: String(v) }, String(v))));
  else if (kinds(p).includes('boolean')) input = h('input', { type: 'checkbox' });
  else if (kinds(p).some(k => k === 'integer' || k === 'number')) input = h('input', { type: 'number', step: kinds(p).includes('integer') ? 1 : 'any', min: p.minimum, max: p.maximum });
  else input = p.maxLength > 200 ? h('textarea', { rows: 3 }) : h('input', { type: 'text', maxlength: p.maxLength });
  setControl(input, value);
  return input;
}
function setControl(input, value) {
  if (input.type === 'checkbox') input.checked = value === true;
  else input.value = value == null ? '' : String(value);
}

export const tabs = (items, chosen, choose) => h('div', { class: 'tabs', role: 'tablist' }, items.map(([id, name, n]) => h('button', {
  type: 'button', role: 'tab', id: `tab-${id}`, 'aria-selected': String(id === chosen), tabindex: id === chosen ? 0 : -1, 'data-tab': id,
  onclick: () => choose(id),
  onkeydown: event => {
    const at = items.findIndex(i => i[0] === id);
    const to = event.key === 'ArrowRight' ? items[(at + 1) % items.length] : event.key === 'ArrowLeft' ? items[(at + items.length - 1) % items.length] : null;
    if (to) { event.preventDefault(); choose(to[0]); document.querySelector(`#tab-${to[0]}`)?.focus(); }
  },
}, name, n != null ? h('span', { class: 'count' }, n) : null)));
