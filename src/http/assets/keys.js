// The keys, and the page that says which there are.

import { h } from './dom.js';
import { isPaused, pause } from './live.js';
import { ask } from './parts.js';
import { switchTheme } from './theme.js';

const KEYS = [
  ['?', 'These keys'],
  ['/', 'Filter, or find a run'],
  ['p', 'Hold everything as it is, and go on'],
  ['j / k', 'Next and previous row'],
  ['Enter', 'Open the row'],
  ['x', 'Select the row'],
  ['Esc', 'Close, or leave the field'],
  ['t', 'Dark, light, or as the system has it'],
];

// How long the second key of two is waited for.
const SECOND_KEY_MS = 1200;

let shown = false;
let pages = [];

export async function showKeys() {
  if (shown) return;
  shown = true;
  const caps = key => key.split(' ').map(k => (k === '/' && key !== '/' ? ' or ' : h('kbd', {}, k)));
  const all = [...KEYS, ...pages.map(([, name, , key]) => [`g ${key}`, name])];
  const body = h(
    'dl',
    { class: 'keys' },
    all.map(([key, what]) => h('div', {}, h('dt', {}, caps(key)), h('dd', {}, what))),
  );
  await ask({ title: 'Keys', action: 'Good', body }, () => true);
  shown = false;
}

// `nav` has the pages with their letters: [path, name, icon, letter].
export function listen({ nav, main, go }) {
  pages = nav;
  let first = null;
  const target = row => row?.querySelector('a[href^="/runs/"]') ?? row?.querySelector('a[href]');
  const move = by => {
    const all = [...main.querySelectorAll('[data-row]')].filter(row => row.offsetParent);
    const at = all.findIndex(row => row.classList.contains('at'));
    const start = by > 0 ? 0 : all.length - 1;
    const next = all[at < 0 ? start : Math.max(0, Math.min(all.length - 1, at + by))];
    if (!next) return;
    all.forEach(row => row.classList.toggle('at', row === next));
    next.scrollIntoView({ block: 'nearest' });
    target(next)?.focus({ preventScroll: true });
  };
  const acts = {
    '?': () => void showKeys(),
    '/': () => (main.querySelector('[data-filter]') ?? document.querySelector('#jump')).focus(),
    g: () => {
      first = setTimeout(() => {
        first = null;
      }, SECOND_KEY_MS);
    },
    p: () => pause(!isPaused()),
    t: switchTheme,
    j: () => move(1),
    k: () => move(-1),
    x: () => main.querySelector('.at [data-select]')?.click(),
  };
  document.addEventListener('keydown', event => {
    const typing = event.target.closest('input:not([type=checkbox]), textarea, select');
    const inDialog = event.target.closest('dialog');
    if (event.key === 'Escape' && typing && !inDialog) {
      main.focus({ preventScroll: true });
      return;
    }
    if (typing || inDialog || event.ctrlKey || event.metaKey || event.altKey) return;
    const page = first && nav.find(n => n[3] === event.key);
    clearTimeout(first);
    first = null;
    if (page) go(page[0]);
    else if (Object.hasOwn(acts, event.key)) acts[event.key]();
    // Nothing has the focus but a row is marked: it is opened.
    else if (event.key === 'Enter' && event.target === main) target(main.querySelector('.at'))?.click();
    else return;
    event.preventDefault();
  });
}
