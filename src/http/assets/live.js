// What happens, as it happens. One stream at a time, and none while nobody looks: a browser has six connections to a server, and tabs share them.

import { BASE, isReachable, link, reachable, get } from './api.js';

let source = null;
let wanted = null;
let retry = null;
let paused = false;
let connected = false;
export const state = new EventTarget();
const changed = () => state.dispatchEvent(new Event('change'));
export const isPaused = () => paused;
// A page without a stream asks again and again.
export const isLive = () => (connected || !wanted) && isReachable() && !paused;

function open() {
  close();
  if (!wanted || paused || document.hidden) return;
  const { path, events, again } = wanted;
  source = new EventSource(BASE + path);
  source.onopen = () => {
    const was = connected;
    connected = true;
    reachable(true);
    if (!was) {
      changed();
      again?.();
    }
  };
  source.onerror = () => {
    connected = false;
    changed();
    // A browser gives up on an answer that is an error; a stream that has ended is opened anew by it.
    if (source?.readyState === EventSource.CLOSED) later();
    probe();
  };
  // More has happened than the stream can tell: what is shown is read anew, as after a cut.
  source.addEventListener('reset', () => again?.());
  for (const [name, tell] of Object.entries(events)) {
    source.addEventListener(name, event => {
      try {
        tell(JSON.parse(event.data));
      } catch (error) {
        console.error(error);
      }
    });
  }
}

function close() {
  clearTimeout(retry);
  source?.close();
  source = null;
  if (connected) {
    connected = false;
    changed();
  }
}

function later() {
  clearTimeout(retry);
  retry = setTimeout(open, 1500);
}

let probing = false;
async function probe() {
  if (probing) return;
  probing = true;
  try {
    await get('/healthz');
  } catch {
    /* told by the link */
  }
  probing = false;
}

// Follows a stream until the next call; `again` is called whenever it begins anew or says `reset`, to fetch what may have been missed.
export function follow(path, events, again) {
  wanted = path ? { path, events, again } : null;
  connected = false;
  open();
  changed();
}

export function pause(is) {
  paused = is;
  if (paused) close();
  else open();
  changed();
}

document.addEventListener('visibilitychange', () => (document.hidden ? close() : open()));
link.addEventListener('change', event => {
  if (event.detail && wanted && !source) open();
});

// Calls again and again while somebody looks, and at once when the server is back; a slow answer makes the pauses longer.
export function every(ms, tick) {
  let timer;
  let stopped = false;
  const turn = async () => {
    clearTimeout(timer);
    const began = performance.now();
    if (!paused && !document.hidden) {
      try {
        await tick();
      } catch (error) {
        if (error.name !== 'AbortError' && error.status !== 0) console.error(error);
      }
    }
    if (!stopped) timer = setTimeout(turn, Math.max(isReachable() ? ms : 1500, (performance.now() - began) * 5));
  };
  const shown = () => {
    if (!document.hidden) turn();
  };
  const back = event => {
    if (event.detail) turn();
  };
  document.addEventListener('visibilitychange', shown);
  link.addEventListener('change', back);
  timer = setTimeout(turn, ms);
  return () => {
    stopped = true;
    clearTimeout(timer);
    document.removeEventListener('visibilitychange', shown);
    link.removeEventListener('change', back);
  };
}
