// Workflows: how their runs went, what they are made of, and a form that enqueues one.

import { h, icon, put } from '../dom.js';
import { get, post } from '../api.js';
import { every } from '../live.js';
import { count, percent, span } from '../format.js';
import { button, field, panel, say, table, told, when } from '../parts.js';
import { json } from '../json.js';
import { schemaForm } from '../form.js';
import { graph } from '../graph.js';
import { source } from './run-tabs.js';

const seconds = v => (v == null ? '–' : span(v * 1000));

export const workflows = {
  title: 'Workflows',
  async render(into) {
    const body = h('div');
    put(into, h('div', { class: 'title' }, h('h1', {}, 'Workflows')), body);
    async function refresh() {
      const { workflows: list } = await get('/workflows');
      put(
        body,
        table(
          [
            {
              name: 'Workflow',
              cell: w => h('a', { href: `/workflows/${encodeURIComponent(w.name)}`, class: w.active ? '' : 'dim' }, w.name),
            },
            {
              name: 'State',
              cell: w =>
                w.active
                  ? h('span', { class: 'state is-completed' }, icon('completed'), 'active')
                  : h('span', { class: 'state is-cancelled' }, icon('cancelled'), 'retired'),
            },
            { name: 'Queue', cell: w => w.queue },
            { name: 'Unfinished', class: 'num', cell: w => count(w.in_flight) },
            { name: 'Last day', class: 'num', cell: w => count(w.runs) },
            {
              name: 'Failed',
              class: 'num',
              cell: w =>
                w.failed
                  ? h(
                      'a',
                      { class: 'err', href: `/runs?filter=${encodeURIComponent(`state:failed workflow:${w.name} since:1d`)}` },
                      `${count(w.failed)} (${percent(w.failed / w.runs)})`,
                    )
                  : '0',
            },
            { name: 'Half took', class: 'num wider-only', cell: w => seconds(w.p50) },
            { name: '95 % took', class: 'num wider-only', cell: w => seconds(w.p95) },
            { name: 'Loaded', class: 'wider-only', cell: w => when(w.loaded_at) },
            {
              name: '',
              cell: w =>
                w.active ? h('a', { class: 'button small', href: `/workflows/${encodeURIComponent(w.name)}` }, 'Enqueue') : null,
            },
          ].map(c => c),
          list.map(w => ({ ...w, _class: '' })),
          {
            caption: 'Workflows',
            empty: 'No workflow is loaded: start a daemon with the folder of your files (stepd serve --workflows DIR).',
          },
        ),
      );
    }
    await refresh();
    return every(15000, refresh);
  },
};

export const workflow = {
  title: name => name,
  async render(into, { parts: [name], go }) {
    const at = encodeURIComponent(name);
    const [w, definition] = await Promise.all([get(`/workflows/${at}`), get(`/workflows/${at}/definition`)]);
    const form = schemaForm(definition.input, {});
    const queue = h('input', { type: 'text', placeholder: w.queue });
    const priority = h('input', { type: 'number', min: 0, max: 9, placeholder: String(w.priority) });
    const key = h('input', { type: 'text' });
    const later = h('input', { type: 'datetime-local' });
    const tags = h('input', { type: 'text', placeholder: 'tier=gold customer=acme' });
    const wrong = h('div', { 'aria-live': 'polite' });
    const enqueue = async () => {
      put(wrong);
      try {
        const body = { workflow: name, input: form.read() };
        if (queue.value) body.queue = queue.value;
        if (priority.value !== '') body.priority = Number(priority.value);
        if (key.value) body.unique_key = key.value;
        if (later.value) body.run_at = new Date(later.value).toISOString();
        if (tags.value.trim())
          body.labels = Object.fromEntries(
            tags.value
              .trim()
              .split(/\s+/)
              .map(t => [t.split('=')[0], t.split('=').slice(1).join('=')]),
          );
        const done = await post('/runs', body);
        say(done.created ? 'Enqueued.' : 'A run with this key was there already.');
        go(`/runs/${done.id}`);
      } catch (error) {
        put(wrong, told(error));
      }
    };
    put(
      into,
      h(
        'div',
        { class: 'title' },
        h('h1', {}, name),
        w.active
          ? h('span', { class: 'state is-completed' }, icon('completed'), 'active')
          : h('span', { class: 'state is-cancelled' }, icon('cancelled'), 'retired'),
        h('span', { class: 'spacer' }),
        h('a', { class: 'button', href: `/runs?filter=${encodeURIComponent(`workflow:${name}`)}` }, icon('runs'), 'Its runs'),
        h('a', { class: 'button', href: `/analytics?span=24h&workflow=${at}` }, icon('analytics'), 'Analytics'),
      ),
      h(
        'dl',
        { class: 'facts' },
        [
          ['Queue', w.queue],
          ['Priority', w.priority],
          ['Unfinished', count(w.in_flight)],
          ['Last day', count(w.runs)],
          ['Failed', count(w.failed)],
          ['Half took', seconds(w.p50)],
          ['95 % took', seconds(w.p95)],
          ['From', w.source ?? '–'],
          ['Loaded', when(w.loaded_at)],
          ['Hash', h('code', { title: w.hash }, w.hash.slice(0, 12))],
        ].map(([k, v]) => h('div', {}, h('dt', {}, k), h('dd', {}, v))),
      ),
      h(
        'div',
        { class: 'two' },
        panel(
          'Enqueue',
          h(
            'form',
            {
              class: 'enqueue',
              onsubmit: event => {
                event.preventDefault();
                enqueue();
              },
            },
            form.root,
            h(
              'details',
              { class: 'inline' },
              h('summary', {}, 'More'),
              field('Queue', queue),
              field('Priority', priority, '0 to 9, lower first'),
              field('Unique key', key, 'At most one unfinished run has it'),
              field('Not before', later),
              field('Labels', tags),
            ),
            wrong,
            h(
              'div',
              { class: 'ask-actions' },
              button('Enqueue', enqueue, { scope: 'enqueue', kind: 'primary', name: 'plus', disabled: !w.active }),
            ),
          ),
        ),
        definition.input
          ? panel('Input schema', json(definition.input, 'schema'))
          : panel('Input schema', h('p', { class: 'empty' }, 'It takes any input.')),
      ),
      definition.parts.length ? graph(definition.parts, { steps: [], folds: [] }, () => {}) : null,
      source(definition),
    );
  },
};
