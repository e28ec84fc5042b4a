// One run: where it stands in a sentence, its timeline, and everything else that is known of it.

import { h, icon, put } from '../dom.js';
import { get, post } from '../api.js';
import { follow, isPaused, every } from '../live.js';
import { count, exact, now, plural, shortId, span } from '../format.js';
import { ask, badge, button, complain, copy, FINAL, json, labels, link, say, table, tabs, told, when } from '../parts.js';
import { Timeline } from '../timeline.js';
import { graph } from '../graph.js';
import { answerForm } from './waiting.js';

const TABS = [['timeline', 'Timeline'], ['graph', 'Graph'], ['history', 'History'], ['data', 'Input and output'], ['logs', 'Logs'], ['definition', 'Definition']];

export default {
  title: id => `Run ${shortId(id)}`,
  async render(into, { parts: [id], query, go, current }) {
    let [run, steps, events, workers] = await Promise.all([get(`/runs/${id}`), get(`/runs/${id}/steps`).then(r => r.steps), get(`/runs/${id}/events`).then(r => r.events), get('/workers').then(r => r.workers).catch(() => [])]);
    let waits = [], definition = null, tab = TABS.some(t => t[0] === query.get('tab')) ? query.get('tab') : 'timeline', chosen = query.get('step'), asTable = false;
    const head = h('div', { class: 'run-head' });
    const sentence = h('p', { class: 'why', 'aria-live': 'polite' });
    const asks = h('div');
    const facts = h('dl', { class: 'facts' });
    const bar = h('div');
    const view = h('div', { role: 'tabpanel', class: 'view' });
    const side = h('aside', { class: 'step-side', 'aria-label': 'Step', hidden: true });
    put(into, head, sentence, asks, facts, bar, h('div', { class: 'run-body' }, view, side));
    const called = worker => { const w = workers.find(x => x.id === worker); return w ? `${w.host}·${w.pid}` : null; };
    const timeline = new Timeline({ choose: pick, workers: called });
    timeline.chosen = chosen;

    function drawHead() {
      const ended = FINAL.has(run.state);
      put(head, h('div', { class: 'title' }, h('h1', {}, h('a', { href: `/workflows/${encodeURIComponent(run.workflow)}`, class: 'plain' }, run.workflow)), badge(run.state),
        h('span', { class: 'id mono' }, run.id, copy(run.id, 'run id')), h('span', { class: 'spacer' }),
        ended ? null : button('Cancel', () => act('cancel', true), { scope: 'operate', kind: 'danger' }),
        ended || run.state === 'paused' ? null : button('Pause', () => act('pause', true), { scope: 'operate', name: 'paused' }),
        run.state === 'paused' ? button('Unpause', () => act('unpause'), { scope: 'operate', kind: 'primary', name: 'running' }) : null,
        ['failed', 'resuming'].includes(run.state) ? button('Retry', retry, { scope: 'operate', kind: 'primary', name: 'resuming' }) : null,
        button('Fork', () => fork(chosen ?? steps[0]?.key), { scope: 'operate', name: 'fork', disabled: !steps.length }),
        ended ? null : button('Signal', signal, { scope: 'enqueue' }),
        link(`/compare?a=${run.forked_from ?? run.id}${run.forked_from ? `&b=${run.id}` : ''}`, h('span', { class: 'button' }, icon('compare'), 'Compare'))));
      put(sentence, icon(run.state), run.why);
      sentence.className = `why is-${run.state}`;
      const fact = (name, ...value) => value.some(v => v != null && v !== false && v !== '') ? h('div', {}, h('dt', {}, name), h('dd', {}, value)) : null;
      put(facts, fact('Enqueued', when(run.created_at)), fact('Queue', h('a', { href: '/queues', class: 'plain' }, run.queue)), fact('By', run.created_by),
        fact('Stood in line', run.started_at ? span(Math.max(0, Date.parse(run.started_at) - Date.parse(run.created_at))) : null),
        fact('Took', run.started_at ? h('span', { class: 'took' }) : null), fact('Due', run.due_at && !ended ? when(run.due_at) : null),
        fact('Resumes', run.resumes || null), fact('Crashes', run.crashes ? h('span', { class: 'crashes' }, run.crashes) : null), fact('Key', run.unique_key ? h('code', {}, run.unique_key) : null),
        fact('Tokens', run.tokens_in != null ? `${count(run.tokens_in)} in, ${count(run.tokens_out)} out` : null), fact('Cost', run.cost != null ? run.cost.toFixed(4) : null),
        fact('Forked from', run.forked_from ? link(`/runs/${run.forked_from}`, shortId(run.forked_from)) : null), fact('Started by', run.parent ? link(`/runs/${run.parent}`, shortId(run.parent)) : null),
        fact('Labels', Object.keys(run.labels ?? {}).length ? labels(run.labels) : null));
      tick();
    }
    function tick() {
      const node = facts.querySelector('.took');
      if (node) node.textContent = span(run.ended_at ? Date.parse(run.ended_at) - Date.parse(run.started_at) : Math.floor(Math.max(0, now() - Date.parse(run.started_at)) / 100) * 100);
    }

    function drawAsks() {
      const mine = waits.filter(w => w.run === id && (w.waits_for === 'approval' || w.event));
      const stamp = JSON.stringify(mine.map(w => [w.key, w.prompt, w.event]));
      if (asks._stamp === stamp) return;
      asks._stamp = stamp;
      put(asks, mine.map(w => answerForm(w, () => reload())));
    }

    function drawTabs() {
      put(bar, tabs(TABS.map(([key, name]) => [key, name, key === 'timeline' ? steps.length || null : null]), tab, choose));
    }
    function choose(to) {
      tab = to;
      history.replaceState({}, '', `${location.pathname}${to === 'timeline' ? '' : `?tab=${to}`}`);
      drawTabs();
      drawView().catch(complain);
    }

    async function drawView() {
      const mine = tab;
      if (tab === 'timeline') {
        timeline.set(run, steps, events, now());
        if (asTable) put(view, switcher(), timeline.asTable());
        else if (!view.contains(timeline.root)) { put(view, switcher(), steps.length || run.started_at ? null : h('p', { class: 'empty' }, 'No step has started yet.'), timeline.root); timeline.layout(); }
      } else if (tab === 'graph') {
        definition ??= await get(`/runs/${id}/definition`);
        if (mine === tab) put(view, graph(definition.parts, new Map(steps.map(s => [s.key, s])), key => pick(key)));
      } else if (tab === 'history') {
        const trail = (await get(`/runs/${id}/history`)).history;
        if (mine === tab) put(view, historyTable(trail, called));
      } else if (tab === 'data') {
        put(view, h('div', { class: 'two' }, h('section', { class: 'panel' }, h('header', {}, h('h2', {}, 'Input')), json(run.input, 'input')),
          h('section', { class: 'panel' }, h('header', {}, h('h2', {}, run.error ? 'Failure' : 'Output')), run.error ? [failure(run.error), json(run.error, 'failure')] : run.output != null || run.state === 'completed' ? json(run.output, 'output') : h('p', { class: 'empty' }, 'There is no output yet.'))));
      } else if (tab === 'logs') {
        put(view, logs(events, steps));
      } else {
        definition ??= await get(`/runs/${id}/definition`);
        if (mine === tab) put(view, source(definition));
      }
    }
    const switcher = () => h('div', { class: 'view-tools' }, h('button', { type: 'button', class: 'link-button', onclick: () => { asTable = !asTable; put(view); drawView(); } }, asTable ? 'Timeline' : 'As a table'));

    async function pick(key, node) {
      if (!key) { if (node) closeSide(); return; }
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
      } catch (error) { put(side, closer(), told(error)); }
    }
    const closer = () => h('button', { type: 'button', class: 'icon-button close', 'aria-label': 'Close the step', onclick: closeSide }, icon('failed'));
    function closeSide() {
      chosen = null;
      timeline.chosen = null;
      side.hidden = true;
      side._stamp = side._key = null;
      into.querySelector('.run-body').classList.remove('with-side');
      timeline.draw();
    }
    function drawSide(step, attempts) {
      put(side, closer(), h('h2', { class: 'mono' }, step.key), step.label ? h('p', { class: 'dim' }, step.label) : null,
        h('p', { class: 'side-line' }, badge(step.state), h('span', { class: 'kind' }, step.kind), span(Date.parse(step.ended_at ?? new Date(now()).toISOString()) - Date.parse(step.started_at)), step.chosen ? h('span', {}, `→ ${step.chosen}`) : null),
        step.error ? failure(step.error) : null,
        step.child ? h('p', {}, 'Its run: ', link(`/runs/${step.child}`, shortId(step.child))) : null,
        step.tokens_in != null ? h('p', { class: 'dim' }, `${count(step.tokens_in)} tokens in, ${count(step.tokens_out)} out${step.cost != null ? `, cost ${step.cost.toFixed(5)}` : ''}`) : null,
        attempts.length > 1 || attempts.some(a => a.state === 'failed') ? [h('h3', {}, plural(attempts.length, 'attempt')), table([
          { name: '#', class: 'num', cell: a => a.attempt }, { name: 'State', cell: a => badge(a.state) }, { name: 'Took', class: 'num', cell: a => a.started_at && a.ended_at ? span(Date.parse(a.ended_at) - Date.parse(a.started_at)) : '–' },
          { name: 'Failure', cell: a => a.error_code ? h('span', { title: a.error_message }, a.error_code) : '' }, { name: 'Next in', class: 'num', cell: a => a.retry_in_ms != null ? span(a.retry_in_ms) : '' }], attempts)] : null,
        h('h3', {}, 'Output'), step.output != null ? json(step.output, 'output') : h('p', { class: 'dim' }, step.state === 'completed' ? 'null' : 'none'),
        h('p', { class: 'dim' }, 'Started ', exact(step.started_at)),
        h('div', { class: 'side-actions' }, button('Fork from here', () => fork(step.key), { scope: 'operate', name: 'fork' })));
    }

    // What is done to it.
    async function act(verb, reasoned) {
      const reason = h('input', { type: 'text', maxlength: 500 });
      try {
        const done = reasoned ? await ask({ title: `${verb === 'cancel' ? 'Cancel' : 'Pause'} this run?`, kind: verb === 'cancel' ? 'danger' : 'primary', action: verb === 'cancel' ? 'Cancel the run' : 'Pause it',
          body: [h('p', {}, verb === 'cancel' ? 'Steps under way are stopped; what has an undo is undone.' : 'The step under way ends; the next one waits until it is unpaused.'), h('label', { class: 'field' }, h('span', {}, 'Reason'), reason)] },
        () => post(`/runs/${id}/${verb}`, reason.value ? { reason: reason.value } : {})) : await post(`/runs/${id}/${verb}`, {});
        if (done) { say(`${verb}: ${done.result}.`); reload(); }
      } catch (error) { complain(error); }
    }
    async function retry() {
      const latest = h('input', { type: 'checkbox' });
      const done = await ask({ title: 'Retry this run?', action: 'Retry', body: [h('p', {}, 'Finished steps keep their results; the failed one runs again.'), h('label', { class: 'check' }, latest, 'with the workflow\'s present definition')] }, () => post(`/runs/${id}/retry`, latest.checked ? { latest: true } : {}));
      if (done) { say('Taken up again.'); reload(); }
    }
    async function signal() {
      const name = h('input', { type: 'text', required: true });
      const payload = h('textarea', { rows: 4, class: 'code', value: '{}', spellcheck: 'false' });
      const done = await ask({ title: 'Send a signal', action: 'Send', body: [h('label', { class: 'field' }, h('span', {}, 'Name'), name), h('label', { class: 'field' }, h('span', {}, 'Payload (JSON)'), payload)] }, () => post(`/runs/${id}/signal`, { name: name.value, payload: JSON.parse(payload.value || 'null') }));
      if (done) { say(`Signal: ${done.result}.`); reload(); }
    }
    async function fork(from) {
      const tops = [...new Set(steps.filter(s => !s.key.includes('[') && s.kind !== 'end').map(s => s.key))];
      const step = h('select', {}, tops.map(k => h('option', { value: k, selected: k === from || from?.startsWith(`${k}[`) }, k)));
      const area = h('textarea', { rows: 8, class: 'code', value: JSON.stringify(run.input, null, 2), spellcheck: 'false' });
      const latest = h('select', {}, h('option', { value: '' }, 'the one this run is pinned to'), h('option', { value: '1' }, 'the workflow\'s present one'));
      const before = area.value;
      const done = await ask({ title: 'Fork this run', action: 'Fork', wide: true, body: [h('p', {}, 'A new run, which keeps what had ended before this step began. This one stays as it is.'),
        h('label', { class: 'field' }, h('span', {}, 'From step'), step), h('label', { class: 'field' }, h('span', {}, 'Input'), area), h('label', { class: 'field' }, h('span', {}, 'Definition'), latest)] }, () => {
        let input;
        if (area.value !== before) input = JSON.parse(area.value);
        return post(`/runs/${id}/fork`, { from_step: step.value, latest: latest.value === '1', ...(input === undefined ? {} : { input }) });
      });
      if (done) { say('Forked.'); go(`/runs/${done.id}`); }
    }

    // Live: whatever happens is read anew, at most as often as that is cheap.
    let timer = null, dear = 0, gone = false;
    async function reload() {
      const began = performance.now();
      const [r, s, e, w] = await Promise.all([get(`/runs/${id}`), get(`/runs/${id}/steps`), get(`/runs/${id}/events`), get('/waiting').catch(() => null)]);
      dear = performance.now() - began;
      if (gone) return;
      run = r; steps = s.steps; events = e.events; waits = w?.waiting ?? waits;
      if (events.some(x => x.event === 'resumed' && x.data?.worker && !called(x.data.worker))) workers = await get('/workers').then(x => x.workers).catch(() => workers);
      drawHead();
      drawAsks();
      drawTabs();
      await drawView();
      if (chosen) pick(chosen);
    }
    const soon = () => { timer ??= setTimeout(() => { timer = null; if (!isPaused()) reload().catch(() => {}); }, Math.max(120, dear * 4)); };
    drawHead();
    drawTabs();
    await drawView();
    if (chosen) pick(chosen);
    get('/waiting').then(w => { waits = w.waiting; drawAsks(); }).catch(() => {});
    if (!FINAL.has(run.state) && current()) follow(`/runs/${id}/stream`, { history: soon, state: told => { soon(); if (FINAL.has(told.state)) setTimeout(soon, 300); } }, soon);
    // What is under way grows.
    const clock = setInterval(() => {
      if (isPaused() || document.hidden || FINAL.has(run.state)) return;
      tick();
      if (tab === 'timeline' && !asTable && steps.length < 500) timeline.set(run, steps, events, now());
    }, 1000);
    const stop = every(15000, async () => { if (!FINAL.has(run.state)) await reload(); });
    return () => { gone = true; clearTimeout(timer); clearInterval(clock); stop(); timeline.destroy(); };
  },
};

function failure(error) {
  return h('div', { class: 'failure' }, h('p', {}, h('code', {}, error.code), ' ', error.message), ['stderr', 'stdout'].map(stream => error.details?.[stream] ? [h('h3', {}, stream), h('pre', { class: 'output' }, error.details[stream])] : null));
}

const TOLD = 2000;

function historyTable(trail, called) {
  const zero = trail.length ? Date.parse(trail[0].at) : 0;
  const shown = trail.length > TOLD ? [...trail.slice(0, TOLD / 2), ...trail.slice(-TOLD / 2)] : trail;
  return h('div', {}, shown === trail ? null : h('p', { class: 'hint' }, `${count(trail.length)} lines: the first and the last thousand are shown. stepd history has all of them.`), table([
    { name: 'At', cell: l => h('time', { datetime: l.at, title: exact(l.at), class: 'num' }, `+${span(Date.parse(l.at) - zero)}`) }, { name: 'What', cell: l => h('span', { class: `event ${kind(l.event)}` }, l.event) },
    { name: 'Step', class: 'mono', cell: l => l.key ?? '' }, { name: 'Try', class: 'num', cell: l => l.attempt ?? '' }, { name: 'By', cell: l => l.by_whom ?? '' },
    { name: 'More', cell: l => more(l, called) },
  ], shown, { caption: 'History' }));
}
const kind = event => (/crashed|failed|taken over/.test(event) ? 'bad' : /completed|approved/.test(event) ? 'good' : /resumed|retried|forked/.test(event) ? 'again' : '');
function more(line, called) {
  const d = line.data;
  if (!d) return '';
  const words = line.event === 'crashed' ? `${d.host}·${d.pid} died${d.steps?.length ? ` in ${d.steps.join(', ')}` : ''}` : line.event === 'resumed' ? `on ${called(d.worker) ?? d.worker?.slice(0, 8) ?? 'a worker'}` : d.failure?.message ?? d.message ?? d.reason ?? d.note ?? null;
  return h('details', { class: 'inline' }, h('summary', {}, words ?? 'data'), json(d, 'data'));
}

function logs(events, steps) {
  const said = [];
  const from = (key, attempt, at, details) => ['stdout', 'stderr'].forEach(stream => { if (details?.[stream]) said.push({ key, attempt, at, stream, text: details[stream] }); });
  for (const e of events) if (e.event === 'attempt failed') from(e.key, e.attempt, e.at, e.data?.failure?.details);
  for (const s of steps) if (s.error && !said.some(x => x.key === s.key && x.attempt === s.attempts)) from(s.key, s.attempts, s.ended_at, s.error.details);
  return h('div', {}, h('p', { class: 'dim' }, 'What failed attempts have left behind. All lines of the run\'s programs are in the daemon\'s log: ', h('code', {}, 'journalctl -u stepd RUN_ID=…')),
    said.length ? said.map(x => h('section', { class: 'panel' }, h('header', {}, h('h2', { class: 'mono' }, x.key), h('span', { class: 'dim' }, `attempt ${x.attempt}, ${x.stream}, `, when(x.at)), copy(x.text, 'log')), h('pre', { class: 'output' }, x.text))) : h('p', { class: 'empty' }, 'No attempt has left anything.'));
}

export function source(definition) {
  if (!definition.text) return h('p', { class: 'empty' }, 'This workflow is Rust code: there is no file to show.');
  return h('section', { class: 'panel' }, h('header', {}, h('h2', {}, definition.workflow), h('span', { class: 'dim mono' }, definition.hash.slice(0, 12)), copy(definition.text, 'definition')),
    h('pre', { class: 'source' }, definition.text.replace(/\n$/, '').split('\n').map(line => h('span', { class: 'line' }, line, '\n'))));
}
