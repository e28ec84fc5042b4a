// Queues: what stands in them, whether they are stopped, and how much of each may be under way.

import { h, icon, put } from '../dom.js';
import { get, post, put as send } from '../api.js';
import { every } from '../live.js';
import { compact, count } from '../format.js';
import { ask, button, complain, field, say, table, when } from '../parts.js';

export default {
  title: 'Queues',
  async render(into) {
    const body = h('div');
    put(into, h('div', { class: 'title' }, h('h1', {}, 'Queues')), body);
    const act = async (q, verb) => {
      try {
        await post(`/queues/${encodeURIComponent(q.name)}/${verb}`);
        say(verb === 'pause' ? 'Paused: nothing of it is claimed.' : 'It goes on.');
        await refresh();
      } catch (error) {
        complain(error);
      }
    };
    const limit = async q => {
      const input = h('input', { type: 'number', min: 1, value: q.max_running ?? '' });
      const done = await ask(
        {
          title: `Limit of ${q.name}`,
          action: 'Set',
          body: field('Runs under way at once', input, 'Over all workers; empty: any number.'),
        },
        () =>
          send(`/queues/${encodeURIComponent(q.name)}/limit`, { max_running: input.value === '' ? null : Number(input.value) }),
      );
      if (done) {
        say('The limit is set.');
        refresh();
      }
    };
    const n = (q, state, v) =>
      v
        ? h('a', { class: 'plain', href: `/runs?filter=${encodeURIComponent(`state:${state} queue:${q.name}`)}` }, compact(v))
        : h('span', { class: 'dim' }, '0');
    async function refresh() {
      const { queues } = await get('/queues');
      put(
        body,
        table(
          [
            {
              name: 'Queue',
              cell: q =>
                h(
                  'span',
                  {},
                  h('strong', {}, q.name),
                  q.exclusive ? h('span', { class: 'dim' }, ' only for workers that name it') : null,
                ),
            },
            {
              name: 'State',
              cell: q =>
                q.paused
                  ? h(
                      'span',
                      { class: 'state is-paused', title: q.paused_by ? `by ${q.paused_by}` : null },
                      icon('paused'),
                      'paused',
                    )
                  : h('span', { class: 'state is-completed' }, icon('completed'), 'open'),
            },
            { name: 'Queued', class: 'num', cell: q => n(q, 'queued', q.queued) },
            { name: 'Oldest', class: 'num', cell: q => when(q.oldest_ready_at) },
            { name: 'Held', class: 'num', cell: q => n(q, 'held', q.held) },
            { name: 'Running', class: 'num', cell: q => n(q, 'running', q.running) },
            { name: 'Waiting', class: 'num', cell: q => n(q, 'waiting', q.waiting) },
            { name: 'Resuming', class: 'num wider-only', cell: q => n(q, 'resuming', q.resuming) },
            { name: 'Scheduled', class: 'num wider-only', cell: q => n(q, 'scheduled', q.scheduled) },
            { name: 'Paused', class: 'num wider-only', cell: q => n(q, 'paused', q.runs_paused) },
            {
              name: 'Limit',
              class: 'num',
              cell: q => (q.max_running == null ? h('span', { class: 'dim' }, 'none') : count(q.max_running)),
            },
            {
              name: '',
              cell: q =>
                h(
                  'span',
                  { class: 'row-actions' },
                  button('Limit', () => limit(q), { scope: 'operate', kind: 'small' }),
                  q.paused
                    ? button('Unpause', () => act(q, 'unpause'), { scope: 'operate', kind: 'small primary' })
                    : button('Pause', () => act(q, 'pause'), { scope: 'operate', kind: 'small' }),
                ),
            },
          ],
          queues,
          { caption: 'Queues' },
        ),
      );
    }
    await refresh();
    return every(4000, refresh);
  },
};
