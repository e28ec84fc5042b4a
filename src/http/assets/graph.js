// The graph of a definition: what needs what, and how far a run has come in it.

import { h, s, icon } from './dom.js';
import { count } from './format.js';

const W = 168,
  H = 38,
  GX = 46,
  GY = 14;

// `read`: the steps of a run as far as they were read, and the folds that stand for the rest.
export function graph(parts, read, choose) {
  const steps = new Map(read.steps.map(step => [step.key, step]));
  for (const fold of read.folds)
    for (const [shape, states] of Object.entries(fold.shapes)) if (!steps.has(shape)) steps.set(shape, { key: shape, states });
  if (!parts.length)
    return h(
      'p',
      { class: 'empty' },
      'This definition has no graph: it is Rust code, or of a kind that this process does not know.',
    );
  return h(
    'div',
    { class: 'graphs' },
    parts.map(part =>
      h(
        'section',
        { class: 'panel' },
        h('header', {}, h('h2', {}, part.name === 'steps' ? 'Steps' : part.name)),
        h(
          'div',
          { class: 'graph-box', tabindex: 0, role: 'group', 'aria-label': `Graph of ${part.name}` },
          block(part, steps, choose),
        ),
      ),
    ),
  );
}

function block(part, steps, choose) {
  const place = new Map();
  const columns = [];
  for (const step of part.steps) {
    const level = Math.max(0, ...step.needs.map(n => (place.get(n)?.level ?? -1) + 1));
    const column = (columns[level] ??= { nodes: [], y: 0 });
    const tall = height(step);
    place.set(step.id, { level, y: column.y, tall, step });
    column.nodes.push(step.id);
    column.y += tall + GY;
  }
  const widths = columns.map(c => Math.max(...c.nodes.map(id => width(place.get(id).step))));
  const xs = widths.map((_, i) => widths.slice(0, i).reduce((sum, w) => sum + w + GX, 0));
  const total = { w: (xs.at(-1) ?? 0) + (widths.at(-1) ?? 0) + 4, h: Math.max(...columns.map(c => c.y)) + 4 };
  const most = Math.max(...columns.map(c => c.y));
  for (const p of place.values()) p.y += (most - columns[p.level].y) / 2 + 2;
  const drawn = s('svg', { width: total.w, height: total.h, viewBox: `0 0 ${total.w} ${total.h}`, class: 'graph' });
  for (const [id, p] of place) {
    for (const need of p.step.needs) {
      const from = place.get(need);
      if (!from) continue;
      const [x1, y1, x2, y2] = [xs[from.level] + width(from.step), from.y + H / 2, xs[p.level], p.y + H / 2];
      const mid = Math.min(GX / 2, (x2 - x1) / 2);
      drawn.append(s('path', { d: `M${x1} ${y1}C${x1 + mid} ${y1} ${x2 - mid} ${y2} ${x2} ${y2}`, class: 'edge' }));
    }
    drawn.append(nodeAt(p.step, xs[p.level] + 1, p.y, steps, choose, id));
  }
  return drawn;
}

const inner = step => step.parts.filter(p => p.name !== 'undo');
const height = step => H + inner(step).reduce((sum, p) => sum + 20 + p.steps.reduce((n, child) => n + height(child) + 6, 0), 0);
const width = step => Math.max(W, ...inner(step).flatMap(p => p.steps.map(child => width(child) + 20)));

function states(rows) {
  const sum = new Map();
  for (const row of rows)
    for (const [state, n] of Object.entries(row.states ?? { [row.state]: 1 })) sum.set(state, (sum.get(state) ?? 0) + n);
  return sum;
}

function nodeAt(step, x, y, steps, choose) {
  const ran = steps.get(step.id) ?? [...steps.values()].find(r => !r.states && r.key.replace(/.*\]\./, '') === step.id);
  const many = [...steps.values()].filter(r => r.key.includes('[') && r.key.replace(/.*\]\./, '') === step.id);
  // A fold tells of all its steps, also of those that were read one by one.
  const folded = many.filter(r => r.states);
  const alike = states(folded.length ? folded : many);
  const times = [...alike.values()].reduce((sum, n) => sum + n, 0);
  const state = ['failed', 'running', 'waiting'].find(word => alike.has(word)) ?? [...alike.keys()][0] ?? ran?.state;
  const w = width(step),
    tall = height(step);
  const group = s('g', {
    transform: `translate(${x} ${y})`,
    class: `node ${state ? `is-${state}` : 'is-none'}`,
    tabindex: ran ? 0 : null,
    role: ran ? 'button' : null,
    'aria-label': `${step.id}, ${step.kind}, ${state ?? 'not started'}`,
    onclick: event => {
      event.stopPropagation();
      if (ran) choose(ran.key);
    },
    onkeydown: event => {
      if (ran && event.key === 'Enter') choose(ran.key);
    },
  });
  group.append(
    s(
      'title',
      {},
      `${step.id} (${step.kind})${step.conditional ? ', has an if' : ''}: ${state ?? 'not started'}${times ? `, ${count(times)} times` : ''}`,
    ),
    s('rect', { width: w, height: tall, rx: 6, class: 'node-box' }),
    s('rect', { width: 4, height: tall, rx: 2, class: 'node-edge' }),
    s('text', { x: 13, y: 16, class: 'node-name' }, step.id.length > 20 ? `${step.id.slice(0, 19)}…` : step.id),
    s(
      'text',
      { x: 13, y: 30, class: 'node-kind' },
      [
        step.kind,
        step.conditional ? 'if' : null,
        step.parts.some(p => p.name === 'undo') ? 'undo' : null,
        times ? `× ${count(times)}` : null,
      ]
        .filter(Boolean)
        .join(' · '),
    ),
  );
  if (state) {
    const sign = icon(state);
    sign.setAttribute('x', w - 22);
    sign.setAttribute('y', 8);
    sign.setAttribute('width', 14);
    sign.setAttribute('height', 14);
    group.append(sign);
  }
  let at = H;
  for (const part of inner(step)) {
    group.append(
      s('text', { x: 13, y: at + 12, class: 'node-part' }, part.name.length > 26 ? `${part.name.slice(0, 25)}…` : part.name),
    );
    at += 20;
    for (const child of part.steps) {
      group.append(nodeAt(child, 12, at, steps, choose));
      at += height(child) + 6;
    }
  }
  return group;
}
