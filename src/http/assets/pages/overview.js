// How it all stands: what is oldest in line, what fails, who works, and what came lately.

import { h, icon, keyed, put } from '../dom.js';
import { get } from '../api.js';
import { every, follow, isPaused } from '../live.js';
import { coarse, compact, count, now, percent, plural, span } from '../format.js';
import { badge, link, panel, runLink, table, when } from '../parts.js';
import { columns, twin } from '../chart.js';
import { stretches, PARTS } from './analytics.js';

export default {
  title: 'Overview',
  async render(into) {
    const tiles = h('div', { class: 'tiles' });
    const chart = h('div');
    const failing = h('div');
    const lately = h('tbody');
    const queues = h('div');
    put(
      into,
      h('div', { class: 'title' }, h('h1', {}, 'Overview')),
      tiles,
      h(
        'div',
        { class: 'two wide-left' },
        h('div', {}, chart, failing),
        h(
          'div',
          {},
          panel(
            'Latest runs',
            h(
              'div',
              { class: 'table-box' },
              h(
                'table',
                {},
                h('caption', { class: 'off-screen' }, 'Latest runs'),
                h(
                  'thead',
                  {},
                  h(
                    'tr',
                    {},
                    ['State', 'Workflow', 'Run', 'Enqueued'].map(n => h('th', { scope: 'col' }, n)),
                  ),
                ),
                lately,
              ),
            ),
            h('p', { class: 'foot' }, link('/runs', 'All runs')),
          ),
          queues,
        ),
      ),
    );
    const tile = (name, value, { to, note, tone } = {}) =>
      h(
        to ? 'a' : 'div',
        { class: `tile ${tone ?? ''}`, href: to ?? null },
        h('span', { class: 'tile-name' }, name),
        h('span', { class: 'tile-value' }, value),
        h('span', { class: 'tile-note' }, note ?? ' '),
      );

    let seen = '';
    async function refresh() {
      const [stats, q, w, waits, past, latest] = await Promise.all([
        get('/stats'),
        get('/queues'),
        get('/workers'),
        get('/waiting'),
        get('/analytics?span=1h'),
        get('/runs?limit=12'),
      ]);
      const n = Object.fromEntries(stats.states.map(s => [s.state, s.n]));
      const oldest = q.queues
        .map(x => x.oldest_ready_at)
        .filter(Boolean)
        .sort()[0];
      const age = oldest ? now() - Date.parse(oldest) : 0;
      const alive = w.workers.filter(x => x.alive);
      const slots = alive.reduce((sum, x) => sum + x.slots, 0),
        busy = alive.reduce((sum, x) => sum + x.running, 0);
      const all = past.went.find(x => !x.workflow && !x.stretch);
      const approvals = waits.waiting.filter(x => x.waits_for === 'approval').length;
      put(
        tiles,
        tile('Oldest ready', oldest ? coarse(age) : 'none', {
          to: '/runs?filter=state:queued',
          note: oldest ? `of ${plural(n.queued ?? 0, 'queued run')}` : 'nothing stands in line',
          tone: age > 60000 ? 'bad' : age > 10000 ? 'warn' : '',
        }),
        tile('Running', count(n.running ?? 0), {
          to: '/runs?filter=state:running',
          note: `${count(busy)} of ${plural(slots, 'slot')}, ${plural(alive.length, 'worker')}`,
          tone: alive.length ? '' : 'bad',
        }),
        tile('Failed', count(all?.failed ?? 0), {
          to: '/runs?filter=state:failed since:1h',
          note: `of ${plural(all?.runs ?? 0, 'run')} of the last hour`,
          tone: all?.failed ? 'bad' : '',
        }),
        tile('To approve', count(approvals), {
          to: '/waiting',
          note: `${count(n.waiting ?? 0)} waiting in all`,
          tone: approvals ? 'warn' : '',
        }),
        tile('Resuming', count(n.resuming ?? 0), {
          to: '/runs?filter=state:resuming',
          note: `${plural(all?.resumes ?? 0, 'resume')}, ${plural(all?.crashes ?? 0, 'crash', 'crashes')} in an hour`,
        }),
        tile('Held', count((n.held ?? 0) + (n.paused ?? 0)), {
          to: '/runs?filter=state:held state:paused',
          note: `by limits ${count(n.held ?? 0)}, by people ${count(n.paused ?? 0)}`,
        }),
        tile('Took, half of them', all?.p50 != null ? span(all.p50 * 1000) : '–', {
          to: '/analytics',
          note: all?.p95 != null ? `95 % within ${span(all.p95 * 1000)}` : 'nothing completed lately',
        }),
      );
      const stamp = JSON.stringify(past.went) + JSON.stringify(past.failures);
      if (stamp !== seen) {
        seen = stamp;
        const list = stretches(past, null);
        put(
          chart,
          twin(
            'Runs of the last hour',
            columns(
              list,
              PARTS,
              `Ended runs by the minute in which they were enqueued: ${all?.completed ?? 0} completed, ${all?.failed ?? 0} failed, ${all?.cancelled ?? 0} cancelled`,
            ),
            [
              { name: 'Enqueued', cell: r => r.name },
              ...PARTS.map(p => ({ name: p.name, class: 'num', cell: r => r[p.key] ?? 0 })),
            ],
            list.filter(r => r.runs),
            all ? `${count(all.runs)} ended, ${percent(all.completed / (all.completed + all.failed || 1))} of them well` : null,
          ),
        );
        put(failing, panel('Failing steps of the last hour', failures(past.failures.slice(0, 8))));
      }
      keyed(
        lately,
        latest.runs,
        r => r.id,
        r =>
          h(
            'tr',
            { 'data-row': true },
            h('td', {}, badge(r.state)),
            h('td', {}, r.workflow),
            h('td', {}, runLink(r.id)),
            h('td', {}, when(r.created_at)),
          ),
        r => r.state,
      );
      put(
        queues,
        panel(
          'Queues',
          table(
            [
              {
                name: 'Queue',
                cell: x =>
                  h(
                    'span',
                    {},
                    h('a', { href: '/queues', class: 'plain' }, x.name),
                    x.paused ? h('span', { class: 'state is-paused' }, icon('paused'), 'paused') : null,
                  ),
              },
              { name: 'Queued', class: 'num', cell: x => compact(x.queued) },
              { name: 'Held', class: 'num', cell: x => compact(x.held) },
              { name: 'Running', class: 'num', cell: x => compact(x.running) },
              { name: 'Oldest', class: 'num', cell: x => when(x.oldest_ready_at) },
            ],
            q.queues,
            { caption: 'Queues' },
          ),
        ),
      );
    }
    await refresh();
    let timer = null,
      busy = 0;
    const soon = () => {
      timer ??= setTimeout(
        async () => {
          timer = null;
          if (isPaused()) return;
          const began = performance.now();
          await refresh().catch(() => {});
          busy = performance.now() - began;
        },
        Math.max(700, busy * 5),
      );
    };
    follow('/stream', { run: soon }, soon);
    const stop = every(5000, refresh);
    return () => {
      stop();
      clearTimeout(timer);
    };
  },
};

export const failures = list =>
  table(
    [
      {
        name: 'Workflow',
        cell: f =>
          h(
            'a',
            { class: 'plain', href: `/runs?filter=${encodeURIComponent(`state:failed workflow:${f.workflow}`)}` },
            f.workflow,
          ),
      },
      { name: 'Step', class: 'mono', cell: f => f.step ?? '–' },
      { name: 'Code', cell: f => h('span', { class: 'err', title: f.message ?? '' }, f.code ?? '–') },
      { name: 'Runs', class: 'num', cell: f => count(f.runs) },
      { name: 'Last', cell: f => (f.last ? runLink(f.last) : '–') },
    ],
    list,
    { empty: 'Nothing has failed.', caption: 'Failing steps' },
  );
