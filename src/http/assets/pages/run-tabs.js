// What the pages of a run show beside its timeline.

import { h } from '../dom.js';
import { count, exact, span } from '../format.js';
import { json } from '../json.js';
import { copy, table } from '../parts.js';

export function failure(error) {
  return h(
    'div',
    { class: 'failure' },
    h('p', {}, h('code', {}, error.code), ' ', error.message),
    ['stderr', 'stdout'].map(stream =>
      error.details?.[stream] ? [h('h3', {}, stream), h('pre', { class: 'output' }, error.details[stream])] : null,
    ),
  );
}

// `last`: the last lines, where there are more than the first ones.
export function historyTable(first, last, called) {
  const zero = first.length ? Date.parse(first[0].at) : 0;
  const known = new Set(first.map(line => JSON.stringify(line)));
  const shown = [...first, ...(last ?? []).filter(line => !known.has(JSON.stringify(line)))];
  return h(
    'div',
    {},
    last
      ? h(
          'p',
          { class: 'hint' },
          `There are very many lines: the first and the last ${count(last.length)} are shown. stepd logs has all of them.`,
        )
      : null,
    table(
      [
        {
          name: 'At',
          cell: l => h('time', { datetime: l.at, title: exact(l.at), class: 'num' }, `+${span(Date.parse(l.at) - zero)}`),
        },
        { name: 'What', cell: l => h('span', { class: `event ${kind(l.event)}` }, l.event) },
        { name: 'Step', class: 'mono', cell: l => l.key ?? '' },
        { name: 'Try', class: 'num', cell: l => l.attempt ?? '' },
        { name: 'By', cell: l => l.by_whom ?? '' },
        { name: 'More', cell: l => more(l, called) },
      ],
      shown,
      { caption: 'History' },
    ),
  );
}
const kind = event =>
  /crashed|failed|taken over/.test(event)
    ? 'bad'
    : /completed|approved/.test(event)
      ? 'good'
      : /resumed|retried|forked/.test(event)
        ? 'again'
        : '';
function more(line, called) {
  const d = line.data;
  if (!d) return '';
  const words =
    line.event === 'crashed'
      ? `${d.host}·${d.pid} died${d.steps?.length ? ` in ${d.steps.join(', ')}` : ''}`
      : line.event === 'resumed'
        ? `on ${called(d.worker) ?? d.worker?.slice(0, 8) ?? 'a worker'}`
        : (d.failure?.message ?? d.message ?? d.reason ?? d.note ?? null);
  return h('details', { class: 'inline' }, h('summary', {}, words ?? 'data'), json(d, 'data'));
}

export function source(definition) {
  if (!definition.text) return h('p', { class: 'empty' }, 'This workflow is Rust code: there is no file to show.');
  return h(
    'section',
    { class: 'panel' },
    h(
      'header',
      {},
      h('h2', {}, definition.workflow),
      h('span', { class: 'dim mono' }, definition.hash.slice(0, 12)),
      copy(definition.text, 'definition'),
    ),
    h(
      'pre',
      { class: 'source' },
      definition.text
        .replace(/\n$/, '')
        .split('\n')
        .map(line => h('span', { class: 'line' }, line, '\n')),
    ),
  );
}
