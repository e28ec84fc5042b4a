// The list of runs: a filter, pages of them newest first, and what is done to many at once.

import { asked, parseFilter, WORDS, written } from '../filter.js';
import { toAll, toEach } from '../bulk.js';
import { h, icon, keyed, put } from '../dom.js';
import { get, query } from '../api.js';
import { every, follow, isPaused } from '../live.js';
import { compact, now, plural, span } from '../format.js';
import { badge, button, complain, FINAL, labels, runLink, STATES, when } from '../parts.js';

export default {
  title: 'Runs',
  async render(into, { query: given, go }) {
    let filter = {};
    let wrong = null;
    try {
      filter =
        given.get('filter') != null
          ? parseFilter(given.get('filter'))
          : Object.fromEntries(WORDS.filter(k => given.get(k)).map(k => [k, given.get(k)]));
    } catch (error) {
      wrong = error.message;
    }
    const api = () => asked(filter);
    let list = [],
      next = null,
      fresh = [],
      picked = new Set(),
      whole = false,
      loading = false;
    const changes = new Map();

    const input = h('input', {
      type: 'search',
      'data-filter': true,
      value: given.get('filter') ?? written(filter),
      placeholder: 'state:failed workflow:ship_orders label:tier=gold since:1h',
      'aria-label': 'Filter runs',
      spellcheck: 'false',
      autocomplete: 'off',
      list: 'filters',
    });
    const hints = h(
      'datalist',
      { id: 'filters' },
      STATES.map(s => h('option', { value: `state:${s}` })),
    );
    const form = h(
      'form',
      {
        class: 'filter',
        role: 'search',
        onsubmit: event => {
          event.preventDefault();
          go(`/runs${query({ filter: input.value.trim() })}`);
        },
      },
      icon('search'),
      input,
      hints,
      h('button', { class: 'button', type: 'submit' }, 'Filter'),
      given.size ? h('a', { class: 'button', href: '/runs' }, 'Clear') : null,
    );
    const chips = h('div', { class: 'chips', role: 'group', 'aria-label': 'States' });
    const error = h('div', { role: 'alert' });
    const bar = h('div', { class: 'new-bar', 'aria-live': 'polite' });
    const bulk = h('div', { class: 'bulk' });
    const all = h('input', {
      type: 'checkbox',
      'aria-label': 'Select all runs that are shown',
      onchange: () => {
        picked = new Set(all.checked ? list.map(r => r.id) : []);
        whole = false;
        draw();
      },
    });
    const body = h('tbody');
    const more = h('div', { class: 'more' });
    const empty = h('p', { class: 'empty' });
    const grid = h(
      'div',
      { class: 'table-box' },
      h(
        'table',
        { class: 'runs' },
        h('caption', { class: 'off-screen' }, 'Runs, newest first'),
        h(
          'thead',
          {},
          h(
            'tr',
            {},
            h('th', { class: 'pick' }, all),
            ['State', 'Workflow', 'Run', 'Step', 'Enqueued', 'Took', 'Labels'].map((name, i) =>
              h('th', { scope: 'col', class: ['', '', '', 'wide-only', '', 'num', 'wide-only'][i] }, name),
            ),
          ),
        ),
        body,
      ),
    );
    put(
      into,
      h(
        'div',
        { class: 'title' },
        h('h1', {}, 'Runs'),
        h('span', { class: 'spacer' }),
        h('a', { class: 'button primary', href: '/workflows' }, icon('plus'), 'Enqueue'),
      ),
      form,
      chips,
      error,
      bulk,
      bar,
      grid,
      empty,
      more,
    );

    const toggle = state => {
      const set = new Set((filter.state ?? '').split(',').filter(Boolean));
      if (!set.delete(state)) set.add(state);
      go(`/runs${query({ filter: written({ ...filter, state: [...set].join(',') }) })}`);
    };
    const drawChips = states =>
      put(
        chips,
        STATES.map(state => {
          const n = states?.find(x => x.state === state);
          const on = (filter.state ?? '').split(',').includes(state);
          return h(
            'button',
            { type: 'button', class: `chip is-${state}`, 'aria-pressed': String(on), onclick: () => toggle(state) },
            icon(state),
            state,
            h('span', { class: 'count' }, n ? `${n.estimated ? '~' : ''}${compact(n.n)}` : states ? 0 : ''),
          );
        }),
      );
    drawChips(null);

    const line = run =>
      h(
        'tr',
        { 'data-row': true, class: picked.has(run.id) ? 'picked' : '' },
        h(
          'td',
          { class: 'pick' },
          h('input', {
            type: 'checkbox',
            checked: picked.has(run.id),
            'data-select': true,
            'data-focus': `pick-${run.id}`,
            'aria-label': `Select run ${run.id}`,
            onchange: () => {
              if (!picked.delete(run.id)) picked.add(run.id);
              whole = false;
              draw();
            },
          }),
        ),
        h('td', {}, badge(run.state)),
        h(
          'td',
          {},
          h('a', { href: `/workflows/${encodeURIComponent(run.workflow)}`, class: 'plain' }, run.workflow),
          run.queue !== 'default' ? h('span', { class: 'dim' }, ` · ${run.queue}`) : null,
        ),
        h('td', {}, runLink(run.id)),
        h(
          'td',
          { class: 'wide-only step-cell' },
          run.step ? h('span', { class: 'mono' }, run.step) : null,
          run.error_code ? h('span', { class: 'err', title: run.error_message }, run.error_code) : null,
          run.crashes
            ? h('span', { class: 'crashes', title: `${plural(run.crashes, 'worker')} died with it` }, `× ${run.crashes}`)
            : null,
          run.resumes
            ? h('span', { class: 'resumes', title: `resumed ${run.resumes} times after a failure` }, `↻ ${run.resumes}`)
            : null,
        ),
        h('td', {}, when(run.created_at)),
        h(
          'td',
          { class: 'num' },
          run.started_at
            ? run.ended_at
              ? span(Date.parse(run.ended_at) - Date.parse(run.started_at))
              : run.state === 'running'
                ? h('span', { class: 'dim' }, span(Math.floor((now() - Date.parse(run.started_at)) / 1000) * 1000))
                : h('span', { class: 'dim' }, '–')
            : h('span', { class: 'dim' }, '–'),
        ),
        h('td', { class: 'wide-only' }, labels(run.labels)),
      );

    function draw() {
      keyed(
        body,
        list,
        r => r.id,
        line,
        r => `${r.state}|${r.step}|${r.error_code}|${r.ended_at}|${r.resumes}|${r.crashes}|${picked.has(r.id)}`,
      );
      put(
        empty,
        list.length || loading
          ? null
          : wrong
            ? null
            : written(filter)
              ? 'No run matches.'
              : 'No run yet. INSERT INTO stepd.jobs, or enqueue one here.',
      );
      all.checked = list.length > 0 && list.every(r => picked.has(r.id));
      all.indeterminate = !all.checked && picked.size > 0;
      put(
        bar,
        fresh.length
          ? h(
              'button',
              {
                type: 'button',
                class: 'button',
                onclick: () => {
                  list = [...fresh, ...list];
                  fresh = [];
                  draw();
                  scrollTo({ top: 0 });
                },
              },
              `${plural(fresh.length, 'new run')} – show`,
            )
          : null,
      );
      put(more, next ? h('button', { type: 'button', class: 'button', onclick: older }, 'Older runs') : null);
      drawBulk();
    }

    function drawBulk() {
      if (!picked.size && !whole) {
        put(bulk);
        return;
      }
      const all = list.length && list.every(r => picked.has(r.id)) && next && !whole;
      put(
        bulk,
        h('span', {}, h('strong', {}, whole ? 'All runs that match' : plural(picked.size, 'run')), ' selected'),
        all && written(filter)
          ? h(
              'button',
              {
                type: 'button',
                class: 'link-button',
                onclick: () => {
                  whole = true;
                  draw();
                },
              },
              'Select all that match the filter',
            )
          : null,
        h('span', { class: 'spacer' }),
        ['cancel', 'pause', 'unpause', 'retry'].map(verb =>
          button(verb[0].toUpperCase() + verb.slice(1), () => many(verb), {
            scope: 'operate',
            kind: verb === 'cancel' ? 'danger small' : 'small',
          }),
        ),
        picked.size === 2
          ? h('a', { class: 'button small', href: `/compare?a=${[...picked].sort()[0]}&b=${[...picked].sort()[1]}` }, 'Compare')
          : null,
        h(
          'button',
          {
            type: 'button',
            class: 'link-button',
            onclick: () => {
              picked.clear();
              whole = false;
              draw();
            },
          },
          'Clear',
        ),
      );
    }

    const many = async verb => {
      try {
        const done = whole ? await toAll(verb, api(), written(filter)) : await toEach(verb, [...picked]);
        if (!done) return;
        picked.clear();
        whole = false;
        await refresh();
      } catch (e) {
        complain(e);
      }
    };

    async function older() {
      const page = await get(`/runs${query({ ...api(), cursor: next, limit: 50 })}`).catch(complain);
      if (!page) return;
      list.push(...page.runs);
      next = page.next;
      draw();
    }

    async function refresh() {
      if (wrong) return;
      const page = await get(`/runs${query({ ...api(), limit: 50 })}`);
      const known = new Map(list.map(r => [r.id, r]));
      if (!list.length) {
        list = page.runs;
        next = page.next;
      } else {
        const top = list[0].id;
        // New ones wait behind the bar; those that are shown are brought up to date where they stand.
        fresh = page.runs.filter(r => r.id > top && !known.has(r.id));
        const now = new Map(page.runs.map(r => [r.id, r]));
        list = list.map(r => now.get(r.id) ?? (changes.has(r.id) && !FINAL.has(r.state) ? { ...r, ...changes.get(r.id) } : r));
      }
      changes.clear();
      draw();
    }

    if (wrong) put(error, h('div', { class: 'problem' }, icon('warn'), wrong));
    loading = true;
    put(empty, 'Loading…');
    try {
      await refresh();
    } catch (e) {
      if (e.status === 400 || e.message?.startsWith('since')) {
        wrong = e.message;
        put(error, h('div', { class: 'problem' }, icon('warn'), e.message));
      } else throw e;
    }
    loading = false;
    draw();

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
        Math.max(300, busy * 5),
      );
    };
    const stream = { ...(wrong ? {} : api()), state: null };
    if (!wrong)
      follow(
        `/stream${query(stream)}`,
        {
          run: change => {
            const shown = list.find(r => r.id === change.id);
            if (shown && shown.state === change.state && shown.step === change.step) return;
            if (shown)
              changes.set(change.id, {
                state: change.state,
                step: change.step,
                error_code: change.error_code,
                error_message: change.error_message,
                ended_at: FINAL.has(change.state) ? change.at : null,
              });
            if (shown || !list.length || change.id > list[0].id) soon();
          },
        },
        () => refresh().catch(() => {}),
      );
    const counts = async () => {
      if (into.isConnected) drawChips((await get('/stats')).states);
    };
    counts().catch(() => {});
    const stop = every(4000, counts);
    return () => {
      stop();
      clearTimeout(timer);
    };
  },
};
