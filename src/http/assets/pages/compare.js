// Two runs side by side: on one axis, and what differs in input, definition, outputs and durations.

import { h, icon, put } from '../dom.js';
import { get } from '../api.js';
import { count, money, now, shortId, span } from '../format.js';
import { Levels } from '../levels.js';
import { badge, FINAL, panel, runLink, table, when } from '../parts.js';
import { Timeline } from '../timeline.js';
import { scale, story } from '../timeline-model.js';

export default {
  title: 'Compare',
  async render(into, { query: given, go }) {
    const ids = ['a', 'b'].map(k => given.get(k) ?? '');
    const inputs = ids.map((id, i) =>
      h('input', {
        type: 'text',
        value: id,
        'aria-label': `Run ${'AB'[i]}`,
        placeholder: 'Run id',
        spellcheck: 'false',
        'data-filter': i === 0,
      }),
    );
    const form = h(
      'form',
      {
        class: 'filter compare-form',
        onsubmit: event => {
          event.preventDefault();
          go(`/compare?a=${encodeURIComponent(inputs[0].value.trim())}&b=${encodeURIComponent(inputs[1].value.trim())}`);
        },
      },
      h('b', {}, 'A'),
      inputs[0],
      h('b', {}, 'B'),
      inputs[1],
      h('button', { class: 'button primary', type: 'submit' }, 'Compare'),
    );
    const body = h('div');
    put(into, h('div', { class: 'title' }, h('h1', {}, 'Compare')), form, body);
    if (!ids[0] || !ids[1]) {
      const [list, one] = await Promise.all([get('/runs?limit=30'), ids[0] ? get(`/runs/${ids[0]}`) : null]);
      const like = one
        ? list.runs.filter(r => r.id !== one.id).sort((x, y) => (y.workflow === one.workflow) - (x.workflow === one.workflow))
        : list.runs;
      put(
        body,
        h(
          'p',
          { class: 'dim' },
          one
            ? `Pick a run to compare ${one.workflow} ${shortId(one.id)} with.`
            : 'Pick two runs here, or select two in the list of runs.',
        ),
        table(
          [
            { name: 'State', cell: r => badge(r.state) },
            { name: 'Workflow', cell: r => r.workflow },
            { name: 'Run', cell: r => runLink(r.id) },
            { name: 'Enqueued', cell: r => when(r.created_at) },
            {
              name: '',
              cell: r =>
                h(
                  'a',
                  { class: 'button small', href: ids[0] ? `/compare?a=${ids[0]}&b=${r.id}` : `/compare?a=${r.id}` },
                  ids[0] ? 'Compare' : 'This one',
                ),
            },
          ],
          like,
          { caption: 'Runs' },
        ),
      );
      return null;
    }
    const [told, { workers }, ...sides] = await Promise.all([
      get(`/compare?a=${ids[0]}&b=${ids[1]}`),
      get('/workers').catch(() => ({ workers: [] })),
      ...ids.map(async id => {
        const levels = new Levels(id);
        const [run, read, definition] = await Promise.all([
          get(`/runs/${id}`),
          levels.load(),
          get(`/runs/${id}/definition`).catch(() => null),
        ]);
        return { run, read, levels, definition };
      }),
    ]);
    const at = now();
    const timelines = sides.map(
      (side, i) =>
        new Timeline({
          choose: () => {},
          workers: id => {
            const worker = workers.find(w => w.id === id);
            return worker ? `${worker.host}·${worker.pid}` : null;
          },
          levels: side.levels,
          changed: read => {
            sides[i].read = read;
            draw();
          },
        }),
    );
    // One axis for both.
    const draw = () => {
      const shared = scale(sides.map(x => story(x.run, x.read, at)));
      timelines.forEach((t, i) => t.set(sides[i].run, sides[i].read, at, shared));
    };
    const [a, b] = sides;
    put(
      body,
      sentence(told),
      h(
        'div',
        { class: 'compare' },
        sides.map((x, i) =>
          h(
            'section',
            { class: 'panel' },
            h(
              'header',
              {},
              h('b', { class: 'side-name' }, 'AB'[i]),
              h('h2', {}, x.run.workflow),
              badge(x.run.state),
              runLink(x.run.id),
              h('span', { class: 'dim' }, when(x.run.created_at)),
              x.run.forked_from ? h('span', { class: 'dim' }, icon('fork'), ' of ', shortId(x.run.forked_from)) : null,
            ),
            h('p', { class: 'why-small' }, x.run.why),
            timelines[i].root,
          ),
        ),
      ),
      stepsOf(told),
      h('div', { class: 'two' }, panel('Input', differences(told.input)), panel('Output', differences(told.output))),
      panel(
        'Definition',
        !a.definition || !b.definition
          ? h('p', { class: 'empty' }, 'A definition is not there any more.')
          : a.definition.hash === b.definition.hash
            ? h('p', { class: 'dim' }, `The same: ${a.definition.hash.slice(0, 12)}`)
            : lines(a.definition.text ?? '', b.definition.text ?? ''),
      ),
    );
    draw();
    return () => timelines.forEach(t => t.destroy());
  },
};

// What differs, in one sentence.
function sentence({ a, b, first, differing }) {
  const more = (x, y, words) => (x == null || y == null || x === y ? null : words(y > x, Math.abs(y - x)));
  const parts = [
    FINAL.has(a.state) && FINAL.has(b.state) && more(a.took_ms, b.took_ms, (slower, ms) => `B took ${span(ms)} ${slower ? 'longer' : 'less'} than A`),
    more(a.cost, b.cost, (dearer, cost) => `it cost ${money(cost)} ${dearer ? 'more' : 'less'}`),
  ].filter(Boolean);
  return h(
    'p',
    { class: 'why' },
    icon('compare'),
    h(
      'span',
      {},
      first
        ? [
            'The first step that differs is ',
            h('strong', { class: 'mono' }, first),
            differing === 1 ? '; no other does. ' : `, of ${count(differing)} that differ. `,
          ]
        : 'Every step went alike. ',
      parts.length ? `${parts.join('; ')}.` : null,
    ),
  );
}

const time = went => (went?.took_ms == null ? '–' : span(went.took_ms));
function delta({ a, b }, of, words) {
  if (a?.[of] == null || b?.[of] == null) return '';
  const d = b[of] - a[of];
  if (!d || (of === 'took_ms' && Math.abs(d) < 1)) return h('span', { class: 'dim' }, '0');
  return h('span', { class: d > 0 ? 'slower' : 'faster' }, `${d > 0 ? '+' : '−'}${words(Math.abs(d))}`);
}

// Of many steps those that differ, until all are asked for.
const FEW = 40;
function stepsOf(told) {
  const box = h('div');
  let all = told.steps.length <= FEW;
  const button = h('button', {
    type: 'button',
    class: 'link-button',
    onclick: () => {
      all = !all;
      draw();
    },
  });
  const draw = () => {
    button.textContent = all ? 'Those that differ' : `All ${count(told.steps.length)}`;
    put(
      box,
      all && told.left_out ? h('p', { class: 'hint' }, `${count(told.left_out)} steps are left out: those that differ come first.`) : null,
      table(
        columns(told),
        told.steps.filter(r => all || r.differs.length),
        { caption: 'Steps', empty: told.steps.length ? 'No step differs.' : 'No step has started in either.' },
      ),
    );
  };
  draw();
  return h(
    'section',
    { class: 'panel' },
    h('header', {}, h('h2', {}, 'Steps'), told.steps.length > FEW ? button : null),
    box,
  );
}

function columns(told) {
  const state = went => (went ? badge(went.state) : h('span', { class: 'dim' }, 'absent'));
  const list = [
    {
      name: 'Step',
      class: 'mono',
      cell: r => [
        r.key,
        r.key === told.first ? h('span', { class: 'first-differs', title: 'The first step that differs' }, ' ◂ first') : null,
      ],
    },
    { name: 'A', cell: r => state(r.a) },
    { name: 'B', cell: r => state(r.b) },
    {
      name: 'What differs',
      cell: r =>
        !r.differs.length
          ? h('span', { class: 'dim' }, 'nothing')
          : r.changes.length
            ? h('details', { class: 'inline' }, h('summary', { class: 'err' }, r.differs.join(', ')), differences(r.changes))
            : h('span', { class: 'err' }, r.differs.join(', ')),
    },
    { name: 'A took', class: 'num', cell: r => time(r.a) },
    { name: 'B took', class: 'num', cell: r => time(r.b) },
    { name: 'Difference', class: 'num', cell: r => delta(r, 'took_ms', span) },
  ];
  if (told.steps.some(r => r.a?.cost != null || r.b?.cost != null))
    list.push(
      { name: 'A cost', class: 'num', cell: r => (r.a?.cost == null ? '' : money(r.a.cost)) },
      { name: 'B cost', class: 'num', cell: r => (r.b?.cost == null ? '' : money(r.b.cost)) },
      { name: 'Difference', class: 'num', cell: r => delta(r, 'cost', money) },
    );
  return list;
}

// Where two values differ.
function differences(changes) {
  if (!changes.length) return h('p', { class: 'dim' }, 'The same.');
  const side = (v, kind) =>
    v == null
      ? h('span', { class: 'dim' }, 'absent')
      : h('code', { class: `diff-${kind}` }, v.length > 400 ? `${v.slice(0, 400)}…` : v);
  return table(
    [
      { name: 'Where', class: 'mono', cell: r => r.path || '(all)' },
      { name: 'A', cell: r => side(r.a, 'a') },
      { name: 'B', cell: r => side(r.b, 'b') },
    ],
    changes,
    { caption: 'Differences' },
  );
}

// Two texts, line by line.
function lines(a, b) {
  const [x, y] = [a.split('\n'), b.split('\n')];
  const longest = Array.from({ length: x.length + 1 }, () => new Uint16Array(y.length + 1));
  for (let i = x.length - 1; i >= 0; i--)
    for (let j = y.length - 1; j >= 0; j--)
      longest[i][j] = x[i] === y[j] ? longest[i + 1][j + 1] + 1 : Math.max(longest[i + 1][j], longest[i][j + 1]);
  const out = [];
  let i = 0,
    j = 0;
  while (i < x.length || j < y.length) {
    if (i < x.length && j < y.length && x[i] === y[j]) {
      out.push(h('span', { class: 'line' }, `  ${x[i]}\n`));
      i++;
      j++;
    } else if (j >= y.length || (i < x.length && longest[i + 1][j] >= longest[i][j + 1]))
      out.push(h('span', { class: 'line diff-a' }, `− ${x[i++]}\n`));
    else out.push(h('span', { class: 'line diff-b' }, `+ ${y[j++]}\n`));
  }
  return h('pre', { class: 'source diff' }, out);
}
