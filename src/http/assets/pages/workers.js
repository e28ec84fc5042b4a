// Who works, and whether it is well.

import { h, icon, put } from '../dom.js';
import { get } from '../api.js';
import { every } from '../live.js';
import { bytes, coarse, count, now, plural } from '../format.js';
import { copy, panel, runLink, table, when } from '../parts.js';

const sign = (good, word, title) =>
  h(
    'span',
    { class: `state is-${good === true ? 'completed' : good === null ? 'waiting' : 'failed'}`, title },
    icon(good === true ? 'completed' : good === null ? 'warn' : 'failed'),
    word,
  );

export const workers = {
  title: 'Workers',
  async render(into) {
    const body = h('div');
    put(into, h('div', { class: 'title' }, h('h1', {}, 'Workers')), body);
    async function refresh() {
      const { workers: list } = await get('/workers');
      put(
        body,
        table(
          [
            {
              name: 'State',
              cell: w =>
                w.alive
                  ? w.stopping
                    ? sign(null, 'stopping', 'Ends its steps and claims no more')
                    : sign(true, 'alive')
                  : sign(false, 'silent', 'No heartbeat within its lease: a take-over is due'),
            },
            { name: 'Worker', cell: w => h('span', {}, h('strong', {}, w.host), h('span', { class: 'dim' }, `·${w.pid}`)) },
            { name: 'Id', cell: w => h('span', { class: 'id mono', title: w.id }, w.id.slice(0, 8), copy(w.id, 'worker id')) },
            {
              name: 'Busy',
              cell: w =>
                h(
                  'span',
                  { class: 'meter-cell' },
                  h('meter', { min: 0, max: w.slots, value: w.running, 'aria-label': `${w.running} of ${w.slots} slots` }),
                  `${count(w.running)} / ${count(w.slots)}`,
                ),
            },
            {
              name: 'Runs',
              class: 'wide-only',
              cell: w => [w.runs.slice(0, 3).map(runLink), w.runs.length > 3 ? ` +${w.running - 3}` : null],
            },
            { name: 'Queues', cell: w => w.queues?.join(', ') ?? 'all' },
            { name: 'Heartbeat', cell: w => when(w.beat_at) },
            { name: 'Up', class: 'num', cell: w => coarse(now() - Date.parse(w.started_at)) },
            { name: 'Memory', class: 'num wide-only', cell: w => bytes(w.facts?.rss_bytes) },
            { name: 'Version', class: 'wide-only', cell: w => w.version },
          ],
          list,
          { empty: 'No worker is registered: start one with stepd serve.', caption: 'Workers' },
        ),
      );
    }
    await refresh();
    return every(3000, refresh);
  },
};

export const health = {
  title: 'Health',
  async render(into) {
    const body = h('div');
    put(into, h('div', { class: 'title' }, h('h1', {}, 'Health')), body);
    async function refresh() {
      const began = performance.now();
      const [alive, ready, w, q, stats] = await Promise.all([
        get('/healthz'),
        get('/readyz').catch(error => ({ status: 'unready', error })),
        get('/workers'),
        get('/queues'),
        get('/stats'),
      ]);
      const took = performance.now() - began;
      const living = w.workers.filter(x => x.alive);
      const serves = queue => living.some(x => (x.queues ? x.queues.includes(queue.name) : !queue.exclusive));
      const n = Object.fromEntries(stats.states.map(s => [s.state, s.n]));
      const versions = [...new Set(living.map(x => x.version))];
      const oldest = q.queues
        .map(x => x.oldest_ready_at)
        .filter(Boolean)
        .sort()[0];
      const age = oldest ? now() - Date.parse(oldest) : 0;
      const lost = q.queues.filter(x => (x.queued || x.resuming) && !serves(x));
      const silent = w.workers.filter(x => !x.alive);
      const rows = [
        [true, 'This daemon turns', `version ${alive.version}`, null],
        [
          ready.status === 'ready',
          'It can work',
          ready.status === 'ready' ? 'the database answers, it is registered' : (ready.error?.message ?? 'it says no'),
          'stepd doctor says what is wrong around it',
        ],
        [
          took < 1000 ? true : null,
          'The database answers',
          `five questions took ${Math.round(took)} ms`,
          'stepd doctor: long transactions, autovacuum, connections',
        ],
        [living.length > 0, 'Somebody works', plural(living.length, 'living worker'), 'start one: stepd serve'],
        [
          silent.length ? null : true,
          'All registered workers are heard',
          silent.length
            ? `${plural(silent.length, 'worker')} silent: ${silent.map(x => `${x.host}·${x.pid}`).join(', ')}`
            : 'every heartbeat is within its lease',
          'their runs are taken over by themselves',
        ],
        [
          lost.length === 0,
          'Every queue with work is served',
          lost.length ? `nobody serves ${lost.map(x => x.name).join(', ')}` : 'yes',
          'start a worker with these queues',
        ],
        [
          age > 60000 ? false : age > 10000 ? null : true,
          'Nothing stands in line for long',
          oldest ? `the oldest since ${coarse(age)}` : 'nothing stands in line',
          'more slots (concurrency), more workers',
        ],
        [
          q.queues.some(x => x.paused) ? null : true,
          'No queue is stopped',
          q.queues
            .filter(x => x.paused)
            .map(x => x.name)
            .join(', ') || 'none',
          'unpause it on the page of queues',
        ],
        [versions.length > 1 ? null : true, 'One version', versions.join(', ') || '–', 'finish the upgrade'],
        [n.held > 1000 ? null : true, 'Held runs', count(n.held ?? 0), 'limits and concurrency keys hold them'],
      ];
      put(
        body,
        panel(
          'Checks',
          table(
            [
              { name: '', cell: r => sign(r[0], r[0] === true ? 'well' : r[0] === null ? 'look' : 'bad') },
              { name: 'What', cell: r => r[1] },
              { name: 'It is so', cell: r => r[2] },
              { name: 'What to do', cell: r => (r[0] === true ? '' : r[3]) },
            ],
            rows,
            { caption: 'Checks' },
          ),
        ),
        h(
          'p',
          { class: 'dim' },
          h('code', {}, 'stepd doctor'),
          ' looks further: transactions, autovacuum, statistics, poolers, clocks, disk. Load balancers ask ',
          h('code', {}, '/healthz'),
          ' and ',
          h('code', {}, '/readyz'),
          '.',
        ),
      );
    }
    await refresh();
    return every(4000, refresh);
  },
};
