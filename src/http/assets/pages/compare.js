// Two runs side by side: on one axis, and what differs in input, definition, outputs and durations.

import { h, icon, put } from '../dom.js';
import { get } from '../api.js';
import { now, shortId, span } from '../format.js';
import { badge, panel, runLink, table, when } from '../parts.js';
import { Timeline } from '../timeline.js';
import { scale, story } from '../timeline-model.js';
import { Exact } from '../format.js';

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
    const sides = await Promise.all(
      ids.map(async id => {
        const [run, steps, events, definition] = await Promise.all([
          get(`/runs/${id}`),
          get(`/runs/${id}/steps?outputs=true`),
          get(`/runs/${id}/events`),
          get(`/runs/${id}/definition`).catch(() => null),
        ]);
        return { run, steps: steps.steps, events: events.events, definition };
      }),
    );
    const at = now();
    const shared = scale(sides.map(x => story(x.run, x.steps, x.events, at)));
    const timelines = sides.map(() => new Timeline({ choose: () => {} }));
    const [a, b] = sides;
    put(
      body,
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
      panel(
        'Steps',
        table(
          [
            { name: 'Step', class: 'mono', cell: r => r.key },
            { name: 'A', cell: r => (r.a ? badge(r.a.state) : h('span', { class: 'dim' }, 'absent')) },
            { name: 'B', cell: r => (r.b ? badge(r.b.state) : h('span', { class: 'dim' }, 'absent')) },
            { name: 'A took', class: 'num', cell: r => time(r.a, at) },
            { name: 'B took', class: 'num', cell: r => time(r.b, at) },
            { name: 'Difference', class: 'num', cell: r => delta(r, at) },
            {
              name: 'Output',
              cell: r =>
                r.a?.output === undefined || !r.a || !r.b
                  ? ''
                  : same(r.a.output, r.b.output)
                    ? h('span', { class: 'dim' }, 'the same')
                    : h(
                        'details',
                        { class: 'inline' },
                        h('summary', { class: 'err' }, 'differs'),
                        differences(r.a.output, r.b.output),
                      ),
            },
          ],
          aligned(a.steps, b.steps)
            .filter(r => (r.a ?? r.b).kind !== 'end')
            .slice(0, 1000),
          { caption: 'Steps', empty: 'No step has started in either.' },
        ),
      ),
      h(
        'div',
        { class: 'two' },
        panel('Input', differences(a.run.input, b.run.input)),
        panel('Output', differences(a.run.output ?? a.run.error, b.run.output ?? b.run.error)),
      ),
      panel(
        'Definition',
        !a.definition || !b.definition
          ? h('p', { class: 'empty' }, 'A definition is not there any more.')
          : a.definition.hash === b.definition.hash
            ? h('p', { class: 'dim' }, `The same: ${a.definition.hash.slice(0, 12)}`)
            : lines(a.definition.text ?? '', b.definition.text ?? ''),
      ),
    );
    timelines.forEach((t, i) => t.set(sides[i].run, sides[i].steps, sides[i].events, at, shared));
    return () => timelines.forEach(t => t.destroy());
  },
};

const length = (step, at) => (step ? (step.ended_at ? Date.parse(step.ended_at) : at) - Date.parse(step.started_at) : null);
const time = (step, at) => (step && step.state !== 'skipped' ? span(length(step, at)) : '–');
function delta(row, at) {
  if (!row.a || !row.b) return '';
  const d = length(row.b, at) - length(row.a, at);
  if (Math.abs(d) < 1) return h('span', { class: 'dim' }, '0');
  return h('span', { class: d > 0 ? 'slower' : 'faster' }, `${d > 0 ? '+' : '−'}${span(Math.abs(d))}`);
}

function aligned(a, b) {
  const other = new Map(b.map(s => [s.key, s]));
  const rows = a.map(s => ({ key: s.key, a: s, b: other.get(s.key) }));
  const known = new Set(a.map(s => s.key));
  return [...rows, ...b.filter(s => !known.has(s.key)).map(s => ({ key: s.key, a: null, b: s }))];
}

const text = v => (v === undefined ? undefined : JSON.stringify(v));
const same = (a, b) => text(a) === text(b);

// What differs between two values, by path.
export function differences(a, b) {
  const rows = [];
  const walk = (x, y, path) => {
    if (rows.length > 300 || same(x, y)) return;
    const both = v => v && typeof v === 'object' && !(v instanceof Exact);
    if (both(x) && both(y) && Array.isArray(x) === Array.isArray(y)) {
      for (const key of new Set([...Object.keys(x), ...Object.keys(y)]))
        walk(x[key], y[key], Array.isArray(x) ? `${path}[${key}]` : path ? `${path}.${key}` : key);
    } else rows.push({ path: path || '(all)', a: text(x), b: text(y) });
  };
  walk(a, b, '');
  if (!rows.length) return h('p', { class: 'dim' }, 'The same.');
  const side = (v, kind) =>
    v === undefined
      ? h('span', { class: 'dim' }, 'absent')
      : h('code', { class: `diff-${kind}` }, v.length > 400 ? `${v.slice(0, 400)}…` : v);
  return table(
    [
      { name: 'Where', class: 'mono', cell: r => r.path },
      { name: 'A', cell: r => side(r.a, 'a') },
      { name: 'B', cell: r => side(r.b, 'b') },
    ],
    rows,
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
