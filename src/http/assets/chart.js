// Charts, each with its twin as a table.

import { h, put, s } from './dom.js';
import { table } from './parts.js';

// A chart with its twin: the same as a table.
export function twin(title, chart, columns, rows, note) {
  const box = h('div', { class: 'twin-body' }, chart);
  let shown = false;
  const flip = h(
    'button',
    {
      type: 'button',
      class: 'link-button',
      'aria-pressed': 'false',
      onclick: () => {
        shown = !shown;
        flip.setAttribute('aria-pressed', String(shown));
        flip.textContent = shown ? 'Chart' : 'Table';
        put(box, shown ? table(columns, rows, { caption: title }) : chart);
      },
    },
    'Table',
  );
  return h(
    'section',
    { class: 'panel' },
    h('header', {}, h('h2', {}, title), note ? h('span', { class: 'dim' }, note) : null, flip),
    box,
  );
}

// A column for each stretch, its parts one above the other: counts, or what `words` makes a text of.
export function columns(stretches, parts, label, words = null) {
  const width = 720,
    height = 132,
    foot = 18,
    left = 34;
  const most = Math.max(words ? 1e-9 : 1, ...stretches.map(x => parts.reduce((sum, p) => sum + (x[p.key] ?? 0), 0)));
  const y = n => (height - foot) * (1 - n / most) + 6 * (n / most);
  const w = (width - left) / Math.max(1, stretches.length);
  const chart = s('svg', { class: 'chart', viewBox: `0 0 ${width} ${height}`, role: 'img', 'aria-label': label });
  for (const n of [most, words ? most / 2 : Math.round(most / 2)].filter((n, i, all) => n > 0 && all.indexOf(n) === i)) {
    chart.append(
      s('line', { x1: left, x2: width, y1: y(n), y2: y(n), class: 'grid' }),
      s('text', { x: left - 6, y: y(n) + 3.5, class: 'tick end' }, words ? words(n) : n),
    );
  }
  stretches.forEach((x, i) => {
    let under = 0;
    const group = s(
      'g',
      {},
      s('title', {}, `${x.name}: ${parts.map(p => `${words ? words(x[p.key] ?? 0) : (x[p.key] ?? 0)} ${p.name}`).join(', ')}`),
      s('rect', { x: left + i * w, y: 0, width: w, height: height - foot, class: 'hit' }),
    );
    for (const part of parts) {
      const n = x[part.key] ?? 0;
      if (n)
        group.append(
          s('rect', {
            x: left + i * w + Math.min(1, w / 8),
            y: y(under + n),
            width: Math.max(1, w - Math.min(2, w / 4)),
            height: Math.max(1.5, y(under) - y(under + n)),
            class: `bar ${part.class}`,
            rx: 1,
          }),
        );
      under += n;
    }
    chart.append(group);
    if (i % Math.ceil(stretches.length / 8) === 0)
      chart.append(s('text', { x: left + i * w, y: height - 4, class: 'tick' }, x.tick));
  });
  chart.append(s('line', { x1: left, x2: width, y1: height - foot, y2: height - foot, class: 'axis' }));
  return h(
    'div',
    {},
    chart,
    h(
      'ul',
      { class: 'legend' },
      parts.map(p => h('li', {}, h('i', { class: `swatch ${p.class}` }), p.name)),
    ),
  );
}
