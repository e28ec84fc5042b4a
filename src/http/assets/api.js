// The API, asked: JSON in, JSON out, and what went wrong as an error with the server's own words.

import { parse, setServerTime } from './format.js';

export const BASE = '/api/v1';

const ROOTED = new Set(['/healthz', '/readyz']);

export class Problem extends Error {
  constructor(status, body) {
    super(body?.detail ?? (status ? `the server answered ${status}` : 'the server does not answer'));
    this.status = status;
    this.hint = body?.hint;
    this.code = body?.code;
  }
}

// Tells the page whether the server answers.
export const link = new EventTarget();
let reached = true;
export function reachable(is) {
  if (is === reached) return;
  reached = is;
  link.dispatchEvent(new CustomEvent('change', { detail: is }));
}
export const isReachable = () => reached;

async function ask(method, path, body, signal) {
  const began = Date.now();
  let response;
  try {
    response = await fetch(ROOTED.has(path) ? path : BASE + path, {
      method,
      signal,
      credentials: 'same-origin',
      cache: 'no-store',
      headers: body === undefined ? {} : { 'Content-Type': 'application/json' },
      body: body === undefined ? undefined : JSON.stringify(body),
    });
  } catch (error) {
    if (error.name === 'AbortError') throw error;
    reachable(false);
    throw new Problem(0);
  }
  reachable(true);
  const date = response.headers.get('date');
  if (date) setServerTime(date, Date.now() - began);
  const text = await response.text();
  let value = null;
  try {
    value = text ? parse(text) : null;
  } catch {
    /* said by the status */
  }
  if (!response.ok) throw new Problem(response.status, value);
  return value;
}

export const get = (path, signal) => ask('GET', path, undefined, signal);
export const post = (path, body = {}) => ask('POST', path, body);
export const put = (path, body) => ask('PUT', path, body);
export const drop = path => ask('DELETE', path);

export function query(parts) {
  const text = new URLSearchParams(Object.entries(parts).filter(([, v]) => v != null && v !== '')).toString();
  return text ? `?${text}` : '';
}

// Who is signed in, and for what.
export const session = { scope: 'read', name: null, known: false };
const RANK = { read: 1, enqueue: 2, operate: 3 };
export const may = scope => session.name != null && (RANK[session.scope] ?? 0) >= RANK[scope];

export async function whoAmI() {
  try {
    const told = await get('/session');
    session.name = told?.name ?? null;
    session.scope = told?.scope ?? 'none';
    session.known = true;
  } catch (error) {
    session.name = null;
    session.scope = error.status === 401 ? 'none' : 'read';
    session.known = error.status !== 0;
  }
  return session;
}

export const signIn = token => post('/session', { token });
export const signOut = () => drop('/session');
