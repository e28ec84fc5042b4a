// Schedules: when they start the next run, and how the last one stands.

import { h, icon, put } from '../dom.js';
import { get, post } from '../api.js';
import { every } from '../live.js';
import { badge, button, complain, runLink, say, table, when } from '../parts.js';

export default {
  title: 'Schedules',
  async render(into, { go }) {
    const body = h('div');
    put(into, h('div', { class: 'title' }, h('h1', {}, 'Schedules')), body);
    const act = async (s, verb) => {
      try {
        const done = await post(`/schedules/${encodeURIComponent(s.workflow)}/${verb}`);
        if (done.run) {
          say('Started.');
          go(`/runs/${done.run}`);
        } else {
          say(verb === 'pause' ? 'Paused.' : 'It goes on.');
          await refresh();
        }
      } catch (error) {
        complain(error);
      }
    };
    async function refresh() {
      const { schedules } = await get('/schedules');
      put(
        body,
        table(
          [
            {
              name: 'Workflow',
              cell: s => h('a', { class: 'plain', href: `/workflows/${encodeURIComponent(s.workflow)}` }, s.workflow),
            },
            {
              name: 'State',
              cell: s =>
                s.active
                  ? h('span', { class: 'state is-completed' }, icon('completed'), 'active')
                  : h(
                      'span',
                      { class: 'state is-paused', title: s.paused_by ? `by ${s.paused_by}` : null },
                      icon('paused'),
                      'paused',
                    ),
            },
            { name: 'When', cell: s => h('span', {}, h('code', {}, s.cron), h('span', { class: 'dim' }, ` ${s.timezone}`)) },
            { name: 'Next', cell: s => when(s.next_at) },
            { name: 'Last', cell: s => when(s.fired_at) },
            {
              name: 'Its run',
              cell: s => (s.run ? h('span', { class: 'pair' }, runLink(s.run), s.run_state ? badge(s.run_state) : null) : '–'),
            },
            { name: 'Overlap', class: 'wider-only', cell: s => s.overlap },
            { name: 'Catch up', class: 'wider-only', cell: s => s.catch_up },
            {
              name: '',
              cell: s =>
                h(
                  'span',
                  { class: 'row-actions' },
                  button('Run now', () => act(s, 'run'), { scope: 'operate', kind: 'small' }),
                  s.active
                    ? button('Pause', () => act(s, 'pause'), { scope: 'operate', kind: 'small' })
                    : button('Unpause', () => act(s, 'unpause'), { scope: 'operate', kind: 'small primary' }),
                ),
            },
          ],
          schedules,
          { empty: 'No workflow has a schedule: a file says it with schedule: {cron: "0 3 * * *"}.', caption: 'Schedules' },
        ),
      );
    }
    await refresh();
    return every(5000, refresh);
  },
};
