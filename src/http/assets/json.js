// JSON, shown as a tree.

import { h } from './dom.js';
import { Exact } from './format.js';
import { copy } from './parts.js';

// JSON: folded below the second level, drawn only when opened.
export function json(value, name = 'value') {
  const text = () => JSON.stringify(value, null, 2);
  return h('div', { class: 'json' }, h('div', { class: 'json-tools' }, copy(text, name)), tree(value, null, 0));
}

const CHUNK = 200;

function tree(value, key, depth) {
  const name = key === null ? null : [h('span', { class: 'json-key' }, key), ': '];
  if (value === null || typeof value !== 'object' || value instanceof Exact) {
    const kind = value === null ? 'null' : value instanceof Exact ? 'number' : typeof value;
    const text = value instanceof Exact ? value.text : kind === 'string' ? value : String(value);
    return h(
      'div',
      { class: 'json-line' },
      name,
      h('span', { class: `json-${kind}` }, kind === 'string' && !text.includes('\n') ? JSON.stringify(text) : text),
    );
  }
  const list = Array.isArray(value);
  const entries = list ? value.map((v, i) => [i, v]) : Object.entries(value);
  const [open, end] = list ? ['[', ']'] : ['{', '}'];
  if (!entries.length) return h('div', { class: 'json-line' }, name, `${open}${end}`);
  const body = h('div', { class: 'json-body' });
  const details = h(
    'details',
    { open: depth < 2 && entries.length <= 50 },
    h(
      'summary',
      {},
      name,
      open,
      h(
        'span',
        { class: 'json-more' },
        list
          ? ` ${entries.length} `
          : ` ${entries
              .slice(0, 4)
              .map(e => e[0])
              .join(', ')}${entries.length > 4 ? ', …' : ''} `,
        end,
      ),
    ),
    body,
  );
  const draw = from => {
    for (const [k, v] of entries.slice(from, from + CHUNK)) body.append(tree(v, k, depth + 1));
    if (from + CHUNK < entries.length) {
      const more = h(
        'button',
        {
          type: 'button',
          class: 'link-button',
          onclick: () => {
            more.remove();
            draw(from + CHUNK);
          },
        },
        `${entries.length - from - CHUNK} more`,
      );
      body.append(more);
    }
  };
  const fillOnce = () => {
    if (details.open && !body.firstChild) draw(0);
  };
  details.addEventListener('toggle', fillOnce);
  fillOnce();
  return details;
}
