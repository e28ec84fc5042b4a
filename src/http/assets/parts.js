// What the pages are made of.

import { h, icon, put } from './dom.js';
import { ago, exact, shortId, span, Exact } from './format.js';
import { may, Problem, session } from './api.js';

export const STATES = [
  'scheduled',
  'queued',
  'held',
  'running',
  'waiting',
  'paused',
  'resuming',
  'completed',
  'failed',
  'cancelled',
];
export const FINAL = new Set(['completed', 'failed', 'cancelled']);

export const badge = state => h('span', { class: `state is-${state}` }, icon(state), state);

export const when = (at, otherwise = '–') =>
  at ? h('time', { datetime: at, title: exact(at), 'data-at': at }, ago(at)) : h('span', { class: 'dim' }, otherwise);

setInterval(() => {
  if (document.hidden) return;
  for (const node of document.querySelectorAll('time[data-at]')) {
    const text = ago(node.dataset.at);
    if (node.textContent !== text) node.textContent = text;
  }
}, 1000);

export const took = (from, to) => h('span', { class: 'num' }, from ? span(new Date(to ?? Date.now()) - new Date(from)) : '–');

export const link = (to, ...children) => h('a', { href: to }, children);

export function copy(text, what) {
  const button = h(
    'button',
    { class: 'icon-button copy', type: 'button', title: `Copy ${what}`, 'aria-label': `Copy ${what}` },
    icon('copy'),
  );
  button.addEventListener('click', async event => {
    event.preventDefault();
    event.stopPropagation();
    const value = typeof text === 'function' ? text() : text;
    try {
      await navigator.clipboard.writeText(value);
    } catch {
      fallbackCopy(value);
    }
    say(`Copied ${what}`);
  });
  return button;
}

function fallbackCopy(text) {
  const area = h('textarea', { value: text, class: 'off-screen', 'aria-hidden': 'true' });
  document.body.append(area);
  area.select();
  document.execCommand('copy');
  area.remove();
}

export const runLink = id =>
  h('span', { class: 'id' }, h('a', { href: `/runs/${id}`, title: id, 'data-focus': id }, shortId(id)), copy(id, 'run id'));

export const labels = given =>
  Object.entries(given ?? {}).map(([key, value]) =>
    h(
      'a',
      { class: 'label', href: `/runs?label=${encodeURIComponent(`${key}=${plain(value)}`)}`, title: 'Runs with this label' },
      h('span', {}, key),
      plain(value),
    ),
  );

const plain = value => (value instanceof Exact ? value.text : typeof value === 'string' ? value : JSON.stringify(value));

// Messages: shown for a while, and read out.
let region;
export function say(text, kind = 'note') {
  region ??= document.querySelector('#messages');
  const node = h(
    'div',
    { class: `message ${kind}` },
    icon(kind === 'bad' ? 'warn' : 'completed'),
    h('span', {}, text),
    h('button', { type: 'button', class: 'icon-button', 'aria-label': 'Dismiss', onclick: () => node.remove() }, icon('failed')),
  );
  region.append(node);
  setTimeout(() => node.remove(), kind === 'bad' ? 12000 : 4000);
}

export function told(error) {
  return h(
    'div',
    { class: 'problem', role: 'alert' },
    icon('warn'),
    h(
      'div',
      {},
      h('p', {}, error.message),
      error.hint ? h('p', { class: 'dim' }, error.hint) : null,
      error.code ? h('p', {}, link(`/errors/${error.code}`, `What ${error.code} means`)) : null,
    ),
  );
}

export const complain = error => {
  if (error.name !== 'AbortError')
    say(error instanceof Problem ? [error.message, error.hint].filter(Boolean).join('. ') : String(error), 'bad');
};

export const button = (text, onclick, { name, kind = '', scope, title, disabled } = {}) => {
  const denied = scope && !may(scope);
  return h(
    'button',
    {
      type: 'button',
      class: `button ${kind}`,
      disabled: denied || disabled,
      onclick,
      title: denied ? needs(scope) : title,
    },
    name ? icon(name) : null,
    text,
  );
};

export const needs = scope =>
  session.name
    ? `The token ${session.name} is for ${session.scope}; this needs ${scope}.`
    : `Read-only: sign in with a token for ${scope} to do this.`;

export const field = (name, input, help) =>
  h('label', { class: 'field' }, h('span', {}, name), input, help ? h('small', {}, help) : null);

// Asks; resolves with what `read` gives, or null.
export function ask({ title, body, action, kind = 'primary', wide }, perform) {
  return new Promise(resolve => {
    const wrong = h('div', { 'aria-live': 'polite' });
    const go = h('button', { class: `button ${kind}`, type: 'submit' }, action);
    const dialog = h(
      'dialog',
      { class: wide ? 'wide' : '', 'aria-labelledby': 'dialog-title' },
      h(
        'form',
        { method: 'dialog' },
        h('h2', { id: 'dialog-title' }, title),
        h('div', { class: 'dialog-body' }, body),
        wrong,
        h('footer', {}, h('button', { class: 'button', type: 'button', onclick: () => dialog.close() }, 'Close'), go),
      ),
    );
    let result = null;
    dialog.querySelector('form').addEventListener('submit', async event => {
      event.preventDefault();
      go.disabled = true;
      put(wrong);
      try {
        result = (await perform()) ?? true;
        dialog.close();
      } catch (error) {
        put(wrong, told(error));
      }
      go.disabled = false;
    });
    dialog.addEventListener('close', () => {
      dialog.remove();
      resolve(result);
    });
    document.body.append(dialog);
    dialog.showModal();
    (dialog.querySelector('.dialog-body input, .dialog-body textarea, .dialog-body select') ?? go).focus();
  });
}

export function table(columns, rows, { empty = 'Nothing here.', caption } = {}) {
  const head = h(
    'tr',
    {},
    columns.map(c => h('th', { scope: 'col', class: c.class }, c.name)),
  );
  const line = row =>
    h(
      'tr',
      { class: row._class },
      columns.map(c => h('td', { class: c.class }, c.cell(row))),
    );
  return h(
    'div',
    {
      class: 'table-box',
      tabindex: rows.length > 8 ? 0 : null,
      role: rows.length > 8 ? 'region' : null,
      'aria-label': rows.length > 8 ? caption : null,
    },
    h(
      'table',
      {},
      caption ? h('caption', { class: 'off-screen' }, caption) : null,
      h('thead', {}, head),
      h('tbody', {}, rows.map(line)),
    ),
    rows.length ? null : h('p', { class: 'empty' }, empty),
  );
}

export const panel = (title, ...children) => h('section', { class: 'panel' }, h('header', {}, h('h2', {}, title)), children);

export const tabs = (items, chosen, choose) =>
  h(
    'div',
    { class: 'tabs', role: 'tablist' },
    items.map(([id, name, n]) =>
      h(
        'button',
        {
          type: 'button',
          role: 'tab',
          id: `tab-${id}`,
          'aria-selected': String(id === chosen),
          tabindex: id === chosen ? 0 : -1,
          'data-tab': id,
          onclick: () => choose(id),
          onkeydown: event => {
            const at = items.findIndex(i => i[0] === id);
            const to =
              event.key === 'ArrowRight'
                ? items[(at + 1) % items.length]
                : event.key === 'ArrowLeft'
                  ? items[(at + items.length - 1) % items.length]
                  : null;
            if (to) {
              event.preventDefault();
              choose(to[0]);
              document.querySelector(`#tab-${to[0]}`)?.focus();
            }
          },
        },
        name,
        n != null ? h('span', { class: 'count' }, n) : null,
      ),
    ),
  );
