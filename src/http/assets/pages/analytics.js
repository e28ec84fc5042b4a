// How runs went over a span: how many, how well, how long, and where they failed.

import { h, put, s } from '../dom.js';
import { get } from '../api.js';
import { every } from '../live.js';
import { clock, count, day, money, percent, plural, span } from '../format.js';
import { panel, table } from '../parts.js';
import { columns, twin } from '../chart.js';
import { failures } from './overview.js';

export const PARTS = [
  { key: 'completed', name: 'completed', class: 'is-completed' },
  { key: 'failed', name: 'failed', class: 'is-failed' },
  { key: 'cancelled', name: 'cancelled', class: 'is-cancelled' },
];
const SPANS = [
  ['1h', 'Hour'],
  ['24h', 'Day'],
  ['7d', 'Week'],
  ['30d', 'Month'],
];

// Every stretch of the span, also those in which nothing came.
export function stretches(told, workflow) {
  const size = told.stretch_seconds * 1000;
  const found = new Map(
    told.went.filter(w => w.stretch && (w.workflow ?? null) === workflow).map(w => [Math.round(Date.parse(w.stretch) / size), w]),
  );
  const list = [];
  for (let i = Math.floor(Date.parse(told.from) / size); i <= Math.floor(Date.parse(told.to) / size); i++) {
    const at = new Date(i * size);
    const name = size < 864e5 / 8 ? clock(at).slice(0, 5) : day(at);
    list.push({
      runs: 0,
      ...found.get(i),
      name: size < 36e5 ? clock(at).slice(0, 5) : day(at),
      tick: size >= 864e5 ? day(at).replace(/, .*/, '') : name,
    });
  }
  return list;
}

export default {
  title: 'Analytics',
  async render(into, { query: given, go }) {
    const over = SPANS.some(([k]) => k === given.get('span')) ? given.get('span') : '24h';
    const workflow = given.get('workflow') || null;
    const body = h('div');
    const to = (k, w) => `/analytics?span=${k}${w ? `&workflow=${encodeURIComponent(w)}` : ''}`;
    put(
      into,
      h(
        'div',
        { class: 'title' },
        h('h1', {}, 'Analytics'),
        workflow ? h('span', { class: 'label' }, h('span', {}, 'workflow'), workflow) : null,
        workflow ? h('a', { href: to(over) }, 'all workflows') : null,
        h('span', { class: 'spacer' }),
        h(
          'div',
          { class: 'segments', role: 'group', 'aria-label': 'Span' },
          SPANS.map(([k, name]) =>
            h('button', { type: 'button', 'aria-pressed': String(k === over), onclick: () => go(to(k, workflow)) }, name),
          ),
        ),
      ),
      body,
    );
    const days = over === '7d' || over === '30d';
    const when = days ? 'Ended' : 'Enqueued';
    let seen = '';
    async function refresh() {
      const told = await get(`/analytics?span=${over}`);
      const stamp = JSON.stringify([told.went, told.failures]);
      if (stamp === seen) return;
      seen = stamp;
      const all = told.went.find(w => !w.stretch && (w.workflow ?? null) === workflow) ?? {
        runs: 0,
        completed: 0,
        failed: 0,
        cancelled: 0,
      };
      const list = stretches(told, workflow);
      const each = told.went
        .filter(w => w.workflow && !w.stretch && (!workflow || w.workflow === workflow))
        .sort((a, b) => b.runs - a.runs);
      const rate = w => (w.completed + w.failed ? w.completed / (w.completed + w.failed) : null);
      const tile = (name, value, note) =>
        h(
          'div',
          { class: 'tile' },
          h('span', { class: 'tile-name' }, name),
          h('span', { class: 'tile-value' }, value),
          h('span', { class: 'tile-note' }, note ?? ' '),
        );
      const seconds = v => (v == null ? '–' : span(v * 1000));
      put(
        body,
        told.whole
          ? null
          : h(
              'p',
              { class: 'hint' },
              `There are very many runs: the newest ${count(told.went.find(w => !w.stretch && !w.workflow)?.runs)} are counted, back to ${day(told.from)}.`,
            ),
        h(
          'div',
          { class: 'tiles' },
          tile('Ended', count(all.runs), days ? 'runs that ended in this span' : 'runs enqueued in this span'),
          tile('Success', percent(rate(all)), `${count(all.failed)} failed, ${count(all.cancelled)} cancelled`),
          tile('Half took', seconds(all.p50), 'at the most, from the first claim'),
          tile('95 % took', seconds(all.p95), 'at the most'),
          days ? null : tile('95 % stood in line', seconds(all.wait_p95), 'at the most'),
          tile('Resumes', count(all.resumes ?? 0), plural(all.crashes ?? 0, 'crash', 'crashes')),
          all.cost != null || all.tokens_in != null
            ? tile('Cost', money(all.cost), `${count(all.tokens_in ?? 0)} tokens in, ${count(all.tokens_out ?? 0)} out`)
            : null,
        ),
        h(
          'div',
          { class: 'two' },
          twin(
            'Ended runs',
            columns(list, PARTS, `Ended runs over time: ${all.completed} completed, ${all.failed} failed`),
            [
              { name: when, cell: r => r.name },
              ...PARTS.map(p => ({ name: p.name, class: 'num', cell: r => r[p.key] ?? 0 })),
            ],
            list.filter(r => r.runs),
          ),
          twin(
            'How long they took',
            times(list),
            [
              { name: when, cell: r => r.name },
              { name: 'Half', class: 'num', cell: r => seconds(r.p50) },
              { name: '95 %', class: 'num', cell: r => seconds(r.p95) },
            ],
            list.filter(r => r.p50 != null),
          ),
        ),
        list.some(r => r.cost)
          ? twin(
              'What their models cost',
              columns(list, [{ key: 'cost', name: 'cost', class: 'is-running' }], `Cost over time: ${money(all.cost)}`, money),
              [
                { name: when, cell: r => r.name },
                { name: 'Cost', class: 'num', cell: r => money(r.cost) },
                { name: 'Tokens in', class: 'num', cell: r => count(r.tokens_in) },
                { name: 'Tokens out', class: 'num', cell: r => count(r.tokens_out) },
              ],
              list.filter(r => r.cost != null),
            )
          : null,
        panel(
          'Workflows',
          table(
            [
              { name: 'Workflow', cell: w => h('a', { href: to(over, w.workflow), class: 'plain' }, w.workflow) },
              { name: 'Ended', class: 'num', cell: w => count(w.runs) },
              {
                name: 'Success',
                class: 'num',
                cell: w => h('span', { class: rate(w) != null && rate(w) < 0.9 ? 'low' : '' }, percent(rate(w))),
              },
              { name: 'Failed', class: 'num', cell: w => count(w.failed) },
              { name: 'Half took', class: 'num', cell: w => seconds(w.p50) },
              { name: '95 % took', class: 'num', cell: w => seconds(w.p95) },
              { name: 'In line, 95 %', class: 'num wider-only', cell: w => seconds(w.wait_p95) },
              { name: 'Resumes', class: 'num wider-only', cell: w => count(w.resumes) },
              { name: 'Crashes', class: 'num wider-only', cell: w => count(w.crashes) },
              ...(each.some(w => w.cost != null)
                ? [
                    { name: 'Cost', class: 'num', cell: w => money(w.cost) },
                    { name: 'A run', class: 'num wider-only', cell: w => money(w.cost == null ? null : w.cost / w.runs) },
                  ]
                : []),
            ],
            each,
            { empty: 'No run has ended in this span.', caption: 'Workflows' },
          ),
        ),
        panel('Failures by step and code', failures(told.failures.filter(f => !workflow || f.workflow === workflow))),
      );
    }
    await refresh();
    return every(10000, refresh);
  },
};

// Half and 95 of a hundred, on a scale by powers of ten.
function times(list) {
  const width = 720,
    height = 132,
    foot = 18,
    left = 44;
  const given = list
    .flatMap(x => [x.p50, x.p95])
    .filter(v => v != null)
    .map(v => Math.max(v, 0.001));
  const low = Math.floor(Math.log10(Math.min(...given, 1))),
    high = Math.max(low + 1, Math.ceil(Math.log10(Math.max(...given, 0.01))));
  const y = v => 8 + (height - foot - 12) * (1 - (Math.log10(Math.max(v, 0.001)) - low) / (high - low));
  const w = (width - left) / Math.max(1, list.length);
  const chart = s('svg', {
    class: 'chart',
    viewBox: `0 0 ${width} ${height}`,
    role: 'img',
    'aria-label': 'How long completed runs took, over time',
  });
  for (let p = low; p <= high; p++)
    chart.append(
      s('line', { x1: left, x2: width, y1: y(10 ** p), y2: y(10 ** p), class: 'grid' }),
      s(
        'text',
        { x: left - 6, y: y(10 ** p) + 3.5, class: 'tick end' },
        span(10 ** p * 1000)
          .replace('.00', '')
          .replace('.0', ''),
      ),
    );
  list.forEach((x, i) => {
    if (x.p50 != null) {
      const at = left + (i + 0.5) * w;
      chart.append(
        s(
          'g',
          {},
          s('title', {}, `${x.name}: half within ${span(x.p50 * 1000)}, 95 % within ${span(x.p95 * 1000)}`),
          s('rect', { x: left + i * w, y: 0, width: w, height: height - foot, class: 'hit' }),
          s('line', { x1: at, x2: at, y1: y(x.p50), y2: y(x.p95), class: 'whisker' }),
          s('circle', { cx: at, cy: y(x.p95), r: 2.6, class: 'p95' }),
          s('circle', { cx: at, cy: y(x.p50), r: 3, class: 'p50' }),
        ),
      );
    }
    if (i % Math.ceil(list.length / 8) === 0) chart.append(s('text', { x: left + i * w, y: height - 4, class: 'tick' }, x.tick));
  });
  chart.append(s('line', { x1: left, x2: width, y1: height - foot, y2: height - foot, class: 'axis' }));
  return h(
    'div',
    {},
    chart,
    h(
      'ul',
      { class: 'legend' },
      h('li', {}, h('i', { class: 'swatch p50' }), 'half'),
      h('li', {}, h('i', { class: 'swatch p95' }), '95 %'),
    ),
  );
}
