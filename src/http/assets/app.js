// The frame: where one is, how one gets elsewhere, who is signed in, whether it is live.

import { h, icon, put } from './dom.js';
import { isReachable, link, session, signIn, signOut, whoAmI } from './api.js';
import { follow, isLive, isPaused, pause, state as liveState } from './live.js';
import { ask, complain, field, say, told } from './parts.js';
import { listen, showKeys } from './keys.js';
import { switchTheme, themed } from './theme.js';
import { patterns } from './timeline-bars.js';
import overview from './pages/overview.js';
import runs from './pages/runs.js';
import run from './pages/run.js';
import compare from './pages/compare.js';
import analytics from './pages/analytics.js';
import waiting from './pages/waiting.js';
import { workflows, workflow } from './pages/workflows.js';
import schedules from './pages/schedules.js';
import queues from './pages/queues.js';
import { workers, health } from './pages/workers.js';

const NAV = [
  ['/', 'Overview', 'overview', 'o'],
  ['/runs', 'Runs', 'runs', 'r'],
  ['/waiting', 'Waiting', 'waiting', 'w'],
  ['/analytics', 'Analytics', 'analytics', 'a'],
  ['/workflows', 'Workflows', 'workflows', 'f'],
  ['/schedules', 'Schedules', 'schedules', 's'],
  ['/queues', 'Queues', 'queues', 'q'],
  ['/workers', 'Workers', 'workers', 'k'],
  ['/health', 'Health', 'health', 'h'],
  ['/compare', 'Compare', 'compare', 'c'],
];
const ROUTES = [
  [/^\/$/, overview],
  [/^\/runs$/, runs],
  [/^\/runs\/([0-9a-f-]{36})$/, run],
  [/^\/compare$/, compare],
  [/^\/analytics$/, analytics],
  [/^\/waiting$/, waiting],
  [/^\/workflows$/, workflows],
  [/^\/workflows\/(.+)$/, workflow],
  [/^\/schedules$/, schedules],
  [/^\/queues$/, queues],
  [/^\/workers$/, workers],
  [/^\/health$/, health],
];

const main = h('main', { id: 'main', tabindex: -1 });
const banner = h('div', { class: 'banner', role: 'status', 'aria-live': 'polite' });
const who = h('div', { class: 'who' });
const live = h('button', { type: 'button', class: 'live', onclick: () => pause(!isPaused()) });
const nav = h(
  'nav',
  { 'aria-label': 'Pages', id: 'nav' },
  NAV.map(([to, name, image]) => h('a', { href: to }, icon(image), h('span', {}, name))),
);
const menu = h(
  'button',
  {
    type: 'button',
    class: 'icon-button menu',
    'aria-label': 'Menu',
    'aria-expanded': 'false',
    'aria-controls': 'nav',
    onclick: () => {
      const open = document.body.classList.toggle('nav-open');
      menu.setAttribute('aria-expanded', String(open));
    },
  },
  icon('menu'),
);
const announcer = h('div', { class: 'off-screen', 'aria-live': 'polite' });

document.body.append(
  h(
    'a',
    {
      class: 'skip',
      href: '#main',
      onclick: event => {
        event.preventDefault();
        main.focus();
      },
    },
    'To the content',
  ),
  patterns(),
  h(
    'header',
    { class: 'top' },
    menu,
    h(
      'a',
      { href: '/', class: 'brand', 'aria-label': 'stepd, overview' },
      h('img', { src: new URL('icon.svg', import.meta.url).pathname, alt: '', width: 22, height: 22 }),
      'stepd',
    ),
    h(
      'form',
      { class: 'jump', role: 'search', onsubmit: jump },
      icon('search'),
      h('input', {
        type: 'search',
        id: 'jump',
        placeholder: 'Run id, or a filter',
        'aria-label': 'Find a run by id, or runs by a filter',
        autocomplete: 'off',
        spellcheck: 'false',
      }),
    ),
    live,
    h('button', { type: 'button', class: 'icon-button', id: 'theme', onclick: switchTheme }, icon('theme')),
    h('button', { type: 'button', class: 'icon-button', 'aria-label': 'Keys', title: 'Keys (?)', onclick: showKeys }, '?'),
    who,
  ),
  nav,
  h('div', { class: 'content' }, banner, main),
  h('div', { id: 'messages', role: 'status', 'aria-live': 'polite' }),
  announcer,
);

themed();

let leave = null;
let turn = 0;
export async function show() {
  const mine = ++turn;
  leave?.();
  leave = null;
  follow(null);
  const path = location.pathname;
  const [pattern, page] = ROUTES.find(([p]) => p.test(path)) ?? [
    /.*/,
    {
      title: 'Not found',
      render: into => put(into, h('h1', {}, 'There is nothing here'), h('p', {}, h('a', { href: '/' }, 'To the overview'))),
    },
  ];
  const parts = pattern.exec(path)?.slice(1).map(decodeURIComponent) ?? [];
  for (const a of nav.children) {
    const to = a.getAttribute('href');
    if (to === '/' ? path === '/' : path === to || path.startsWith(`${to}/`)) a.setAttribute('aria-current', 'page');
    else a.removeAttribute('aria-current');
  }
  document.body.classList.remove('nav-open');
  menu.setAttribute('aria-expanded', 'false');
  const title = typeof page.title === 'function' ? page.title(...parts) : page.title;
  document.title = title ? `${title} · stepd` : 'stepd';
  const into = h('div', { class: 'page' });
  put(main, into);
  try {
    const done = await page.render(into, {
      parts,
      query: new URLSearchParams(location.search),
      go,
      reload: show,
      current: () => mine === turn,
    });
    if (mine === turn) leave = done ?? null;
    else done?.();
  } catch (error) {
    if (mine !== turn) return;
    put(into, h('h1', {}, title ?? 'stepd'), told(error));
    if (error.status === 401) openSignIn();
    if (error.status === 0) {
      const again = event => {
        if (event.detail && mine === turn) {
          link.removeEventListener('change', again);
          show();
        }
      };
      link.addEventListener('change', again);
      const beat = setInterval(async () => {
        if (mine !== turn || isReachable()) clearInterval(beat);
        else
          fetch('/healthz')
            .then(() => whoAmI())
            .catch(() => {});
      }, 1500);
    }
  }
  if (!main.contains(document.activeElement)) main.focus({ preventScroll: true });
  announcer.textContent = title ?? '';
}

export function go(to, { replace = false } = {}) {
  history[replace ? 'replaceState' : 'pushState']({}, '', to);
  scrollTo(0, 0);
  show();
}

document.addEventListener('click', event => {
  const a = event.target.closest('a[href]');
  if (
    !a ||
    event.defaultPrevented ||
    event.button ||
    event.metaKey ||
    event.ctrlKey ||
    event.shiftKey ||
    a.target ||
    a.hasAttribute('download')
  )
    return;
  const to = new URL(a.href);
  if (to.origin !== location.origin || /^\/(api|errors)\b/.test(to.pathname) || to.hash) return;
  event.preventDefault();
  go(to.pathname + to.search);
});
addEventListener('popstate', show);

function jump(event) {
  event.preventDefault();
  const input = document.querySelector('#jump');
  const text = input.value.trim();
  input.value = '';
  if (/^[0-9a-f]{8}-[0-9a-f-]{27}$/i.test(text)) go(`/runs/${text.toLowerCase()}`);
  else go(`/runs?filter=${encodeURIComponent(text)}`);
}

// Is it live?
function drawLive() {
  const word = isPaused() ? 'Paused' : isLive() ? 'Live' : isReachable() ? 'Connecting' : 'Cut off';
  live.className = `live ${word.toLowerCase().replace(' ', '-')}`;
  live.title = isPaused() ? 'Nothing moves until you go on (p)' : 'Press to hold everything as it is (p)';
  live.setAttribute('aria-pressed', String(isPaused()));
  put(live, h('i', { class: 'pulse' }), word);
}
liveState.addEventListener('change', drawLive);
link.addEventListener('change', event => {
  drawLive();
  put(
    banner,
    event.detail
      ? null
      : h(
          'div',
          { class: 'cut' },
          icon('warn'),
          'The server does not answer. What you see is as it was; it goes on by itself when the server is back.',
        ),
  );
  if (event.detail) {
    say('The server is back.');
    identify();
  }
});
drawLive();

// Who is signed in?
async function identify() {
  await whoAmI();
  drawWho();
}
function drawWho() {
  if (session.name) {
    put(
      who,
      h(
        'span',
        { class: 'dim', title: `This token is for: ${session.scope}` },
        h('strong', {}, session.name),
        ` · ${session.scope}`,
      ),
      h('button', { type: 'button', class: 'button small', onclick: leaveSession }, 'Sign out'),
    );
  } else {
    put(
      who,
      h(
        'span',
        { class: 'readonly', title: 'Without a token you may look, on this machine. Signed in, you may act.' },
        icon('held'),
        session.scope === 'none' ? 'Signed out' : 'Read-only',
      ),
      h('button', { type: 'button', class: 'button small primary', onclick: openSignIn }, 'Sign in'),
    );
  }
}
async function leaveSession() {
  try {
    await signOut();
    await identify();
    say('Signed out.');
    show();
  } catch (error) {
    complain(error);
  }
}
let asking = false;
export async function openSignIn() {
  if (asking) return;
  asking = true;
  const token = h('input', { type: 'password', autocomplete: 'current-password', required: true, spellcheck: 'false' });
  const done = await ask(
    {
      title: 'Sign in',
      action: 'Sign in',
      body: [
        h(
          'p',
          {},
          'A token says who acts: the audit trail names it. It is kept by this browser as a session that scripts cannot read.',
        ),
        field('Token', token),
        h(
          'p',
          { class: 'dim' },
          h('code', {}, 'stepd token'),
          ' makes one; its hash goes under [http_tokens] in the configuration, with the scope read, enqueue or operate.',
        ),
      ],
    },
    async () => {
      await signIn(token.value.trim());
    },
  );
  asking = false;
  if (done) {
    await identify();
    say(`Signed in as ${session.name ?? 'you'}.`);
    show();
  }
}

listen({ nav: NAV, main, go });

identify().then(show);
