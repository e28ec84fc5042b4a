// One run: where it stands in a sentence, its timeline, and everything else that is known of it.

import { h, icon, put } from '../dom.js';
import { get } from '../api.js';
import { follow, isPaused, every } from '../live.js';
import { count, exact, money, now, plural, shortId, span } from '../format.js';
import { badge, button, complain, copy, FINAL, labels, link, table, tabs, told, when } from '../parts.js';
import { json } from '../json.js';
import { Levels } from '../levels.js';
import { written } from '../filter.js';
import { Timeline } from '../timeline.js';
import { graph } from '../graph.js';
import { answerForm } from './waiting.js';
import { acts } from './run-acts.js';
import { RunLogs } from './run-logs.js';
import { failure, historyTable, source } from './run-tabs.js';

const TABS = [
  ['timeline', 'Timeline'],
  ['graph', 'Graph'],
  ['history', 'History'],
  ['data', 'Input and output'],
  ['logs', 'Logs'],
  ['definition', 'Definition'],
];

export default {
  title: id => `Run ${shortId(id)}`,
  async render(into, { parts: [id], query, go, current }) {
    const levels = new Levels(id);
    let [run, read, workers] = await Promise.all([
      get(`/runs/${id}`),
      levels.load(),
      get('/workers')
        .then(r => r.workers)
        .catch(() => []),
    ]);
    let waits = [],
      definition = null,
      tab = TABS.some(t => t[0] === query.get('tab')) ? query.get('tab') : 'timeline',
      chosen = query.get('step'),
      asTable = false,
      logs = null;
    const head = h('div', { class: 'run-head' });
    const sentence = h('p', { class: 'why', 'aria-live': 'polite' });
    const asks = h('div');
    const facts = h('dl', { class: 'facts' });
    const bar = h('div');
    const view = h('div', { role: 'tabpanel', class: 'view' });
    const side = h('aside', { class: 'step-side', 'aria-label': 'Step', hidden: true });
    put(into, head, sentence, asks, facts, bar, h('div', { class: 'run-body' }, view, side));
    const called = worker => {
      const w = workers.find(x => x.id === worker);
      return w ? `${w.host}·${w.pid}` : null;
    };
    const timeline = new Timeline({
      choose: pick,
      workers: called,
      levels,
      changed: told => {
        read = told;
        if (tab === 'timeline') timeline.set(run, read, now());
      },
    });
    timeline.chosen = chosen;
    const { act, retry, signal, fork } = acts(id, { now: () => ({ run, steps: read.steps }), reload: () => reload(), go });

    function drawHead() {
      const ended = FINAL.has(run.state);
      put(
        head,
        h(
          'div',
          { class: 'title' },
          h('h1', {}, h('a', { href: `/workflows/${encodeURIComponent(run.workflow)}`, class: 'plain' }, run.workflow)),
          badge(run.state),
          h('span', { class: 'id mono' }, run.id, copy(run.id, 'run id')),
          h('span', { class: 'spacer' }),
          ended ? null : button('Cancel', () => act('cancel', true), { scope: 'operate', kind: 'danger' }),
          ended || run.state === 'paused'
            ? null
            : button('Pause', () => act('pause', true), { scope: 'operate', name: 'paused' }),
          run.state === 'paused'
            ? button('Unpause', () => act('unpause'), { scope: 'operate', kind: 'primary', name: 'running' })
            : null,
          ['failed', 'resuming'].includes(run.state)
            ? button('Retry', retry, { scope: 'operate', kind: 'primary', name: 'resuming' })
            : null,
          button('Fork', () => fork(chosen ?? read.steps[0]?.key), { scope: 'operate', name: 'fork', disabled: !read.all }),
          ended ? null : button('Signal', signal, { scope: 'enqueue' }),
          link(
            `/compare?a=${run.forked_from ?? run.id}${run.forked_from ? `&b=${run.id}` : ''}`,
            h('span', { class: 'button' }, icon('compare'), 'Compare'),
          ),
        ),
      );
      put(sentence, icon(run.state), run.why);
      sentence.className = `why is-${run.state}`;
      const fact = (name, ...value) =>
        value.some(v => v != null && v !== false && v !== '') ? h('div', {}, h('dt', {}, name), h('dd', {}, value)) : null;
      put(
        facts,
        fact('Enqueued', when(run.created_at)),
        fact('Queue', h('a', { href: '/queues', class: 'plain' }, run.queue)),
        fact('By', run.created_by),
        fact('Stood in line', run.started_at ? span(Math.max(0, Date.parse(run.started_at) - Date.parse(run.created_at))) : null),
        fact('Took', run.started_at ? h('span', { class: 'took' }) : null),
        fact('Due', run.due_at && !ended ? when(run.due_at) : null),
        fact('Resumes', run.resumes || null),
        fact('Crashes', run.crashes ? h('span', { class: 'crashes' }, run.crashes) : null),
        fact('Key', run.unique_key ? h('code', {}, run.unique_key) : null),
        fact(
          'Session',
          run.session_id ? link(`/runs?filter=${encodeURIComponent(written({ session: run.session_id }))}`, run.session_id) : null,
        ),
        fact('Tokens', run.tokens_in != null ? `${count(run.tokens_in)} in, ${count(run.tokens_out)} out` : null),
        fact('Cost', run.cost != null ? money(run.cost) : null),
        fact('Forked from', run.forked_from ? link(`/runs/${run.forked_from}`, shortId(run.forked_from)) : null),
        fact('Started by', run.parent ? link(`/runs/${run.parent}`, shortId(run.parent)) : null),
        fact('Labels', Object.keys(run.labels ?? {}).length ? labels(run.labels) : null),
      );
      tick();
    }
    function tick() {
      const node = facts.querySelector('.took');
      if (node)
        node.textContent = span(
          run.ended_at
            ? Date.parse(run.ended_at) - Date.parse(run.started_at)
            : Math.floor(Math.max(0, now() - Date.parse(run.started_at)) / 100) * 100,
        );
    }

    function drawAsks() {
      const mine = waits.filter(w => w.run === id && (w.waits_for === 'approval' || w.event));
      const stamp = JSON.stringify(mine.map(w => [w.key, w.prompt, w.event]));
      if (asks._stamp === stamp) return;
      asks._stamp = stamp;
      put(
        asks,
        mine.map(w => answerForm(w, () => reload())),
      );
    }

    function drawTabs() {
      put(
        bar,
        tabs(
          TABS.map(([key, name]) => [key, name, key === 'timeline' && read.all ? count(read.all) : null]),
          tab,
          choose,
        ),
      );
    }
    function choose(to, step) {
      tab = to;
      const of = step ? `&of=${encodeURIComponent(step)}` : '';
      history.replaceState({}, '', `${location.pathname}${to === 'timeline' ? '' : `?tab=${to}${of}`}`);
      if (logs && (to !== 'logs' || step)) {
        logs.destroy();
        logs = null;
      }
      if (step) query.set('of', step);
      drawTabs();
      drawView().catch(complain);
    }

    async function drawView() {
      const mine = tab;
      // What has to be read first leaves nothing of another tab standing.
      if (view._tab !== tab) put(view, h('p', { class: 'dim' }, 'Loading…'));
      view._tab = tab;
      if (tab === 'timeline') {
        timeline.set(run, read, now());
        if (asTable) put(view, switcher(), timeline.asTable());
        else if (!view.contains(timeline.root)) {
          put(
            view,
            switcher(),
            read.all || run.started_at ? null : h('p', { class: 'empty' }, 'No step has started yet.'),
            timeline.root,
          );
          timeline.layout();
        }
      } else if (tab === 'graph') {
        definition ??= await get(`/runs/${id}/definition`);
        if (mine === tab)
          put(
            view,
            graph(definition.parts, read, key => pick(key)),
          );
      } else if (tab === 'history') {
        const first = await get(`/runs/${id}/history`);
        // Of very many lines the first and the last.
        const last = first.next == null ? null : await get(`/runs/${id}/history?newest=true`);
        if (mine === tab) put(view, historyTable(first.history, last?.history.reverse(), called));
      } else if (tab === 'data') {
        put(
          view,
          h(
            'div',
            { class: 'two' },
            h('section', { class: 'panel' }, h('header', {}, h('h2', {}, 'Input')), json(run.input, 'input')),
            h(
              'section',
              { class: 'panel' },
              h('header', {}, h('h2', {}, run.error ? 'Failure' : 'Output')),
              run.error
                ? [failure(run.error), json(run.error, 'failure')]
                : run.output != null || run.state === 'completed'
                  ? json(run.output, 'output')
                  : h('p', { class: 'empty' }, 'There is no output yet.'),
            ),
          ),
        );
      } else if (tab === 'logs') {
        logs ??= new RunLogs(id, { over: () => FINAL.has(run.state), step: query.get('of') });
        if (!view.contains(logs.root)) put(view, logs.root);
      } else {
        definition ??= await get(`/runs/${id}/definition`);
        if (mine === tab) put(view, source(definition));
      }
    }
    const switcher = () =>
      h(
        'div',
        { class: 'view-tools' },
        h(
          'button',
          {
            type: 'button',
            class: 'link-button',
            onclick: () => {
              asTable = !asTable;
              put(view);
              drawView();
            },
          },
          asTable ? 'Timeline' : 'As a table',
        ),
      );

    async function pick(key, node) {
      if (!key) {
        if (node) closeSide();
        return;
      }
      chosen = key;
      timeline.chosen = key;
      side.hidden = false;
      into.querySelector('.run-body').classList.add('with-side');
      if (side._key !== key) put(side, h('p', { class: 'dim' }, 'Loading…'));
      side._key = key;
      try {
        const { step, attempts } = await get(`/runs/${id}/step?key=${encodeURIComponent(key)}`);
        if (chosen !== key) return;
        const stamp = JSON.stringify([step, attempts.length]);
        if (side._stamp === stamp && side.childElementCount > 1) return;
        side._stamp = stamp;
        drawSide(step, attempts);
      } catch (error) {
        put(side, closer(), told(error));
      }
    }
    const closer = () =>
      h(
        'button',
        { type: 'button', class: 'icon-button close', 'aria-label': 'Close the step', onclick: closeSide },
        icon('failed'),
      );
    function closeSide() {
      chosen = null;
      timeline.chosen = null;
      side.hidden = true;
      side._stamp = side._key = null;
      into.querySelector('.run-body').classList.remove('with-side');
      timeline.draw();
    }
    function drawSide(step, attempts) {
      put(
        side,
        closer(),
        h('h2', { class: 'mono' }, step.key),
        step.label ? h('p', { class: 'dim' }, step.label) : null,
        h(
          'p',
          { class: 'side-line' },
          badge(step.state),
          h('span', { class: 'kind' }, step.kind),
          span(Date.parse(step.ended_at ?? new Date(now()).toISOString()) - Date.parse(step.started_at)),
          step.chosen ? h('span', {}, `→ ${step.chosen}`) : null,
        ),
        step.error ? failure(step.error) : null,
        step.child ? h('p', {}, 'Its run: ', link(`/runs/${step.child}`, shortId(step.child))) : null,
        step.tokens_in != null
          ? h(
              'p',
              { class: 'dim' },
              `${count(step.tokens_in)} tokens in, ${count(step.tokens_out)} out${step.cost != null ? `, cost ${money(step.cost)}` : ''}`,
            )
          : null,
        attempts.length > 1 || attempts.some(a => a.state === 'failed')
          ? [
              h('h3', {}, plural(attempts.length, 'attempt')),
              table(
                [
                  { name: '#', class: 'num', cell: a => a.attempt },
                  { name: 'State', cell: a => badge(a.state) },
                  {
                    name: 'Took',
                    class: 'num',
                    cell: a => (a.started_at && a.ended_at ? span(Date.parse(a.ended_at) - Date.parse(a.started_at)) : '–'),
                  },
                  { name: 'Failure', cell: a => (a.error_code ? h('span', { title: a.error_message }, a.error_code) : '') },
                  { name: 'Next in', class: 'num', cell: a => (a.retry_in_ms != null ? span(a.retry_in_ms) : '') },
                ],
                attempts,
              ),
            ]
          : null,
        h('h3', {}, 'Output'),
        step.output != null
          ? json(step.output, 'output')
          : h('p', { class: 'dim' }, step.state === 'completed' ? 'null' : 'none'),
        h('p', { class: 'dim' }, 'Started ', exact(step.started_at)),
        h(
          'div',
          { class: 'side-actions' },
          button('Logs', () => choose('logs', step.key), { name: 'runs' }),
          button('Fork from here', () => fork(step.key), { scope: 'operate', name: 'fork' }),
        ),
      );
    }

    // Live: whatever happens is read anew, at most as often as that is cheap.
    let timer = null,
      dear = 0,
      gone = false;
    async function reload() {
      const began = performance.now();
      const [r, t, w] = await Promise.all([
        get(`/runs/${id}`),
        levels.load(),
        get('/waiting').catch(() => null),
      ]);
      dear = performance.now() - began;
      if (gone) return;
      run = r;
      read = t;
      waits = w?.waiting ?? waits;
      if (read.events.some(x => x.event === 'resumed' && x.data?.worker && !called(x.data.worker)))
        workers = await get('/workers')
          .then(x => x.workers)
          .catch(() => workers);
      drawHead();
      drawAsks();
      drawTabs();
      await drawView();
      if (chosen) pick(chosen);
    }
    const soon = () => {
      timer ??= setTimeout(
        () => {
          timer = null;
          if (!isPaused()) reload().catch(() => {});
        },
        Math.max(120, dear * 4),
      );
    };
    drawHead();
    drawTabs();
    await drawView();
    if (chosen) pick(chosen);
    get('/waiting')
      .then(w => {
        waits = w.waiting;
        drawAsks();
      })
      .catch(() => {});
    if (!FINAL.has(run.state) && current())
      follow(
        `/runs/${id}/stream`,
        {
          history: soon,
          state: told => {
            soon();
            if (FINAL.has(told.state)) setTimeout(soon, 300);
          },
        },
        soon,
      );
    // What is under way grows.
    const clock = setInterval(() => {
      if (isPaused() || document.hidden || FINAL.has(run.state)) return;
      tick();
      if (tab === 'timeline' && !asTable && read.steps.length < 500) timeline.set(run, read, now());
    }, 1000);
    const stop = every(15000, async () => {
      if (!FINAL.has(run.state)) await reload();
    });
    return () => {
      gone = true;
      clearTimeout(timer);
      clearInterval(clock);
      stop();
      timeline.destroy();
      logs?.destroy();
    };
  },
};
