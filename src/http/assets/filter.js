// The language of the filter box, and what the API is asked with it.

import { now } from './format.js';
import { STATES } from './parts.js';

export const WORDS = ['state', 'workflow', 'queue', 'label', 'session', 'since'];

// "state:failed workflow:ship label:tier=gold since:1h": what is left is a workflow.
export function parseFilter(text) {
  const filter = {};
  const add = (key, value) => {
    filter[key] = filter[key] ? `${filter[key]},${value}` : value;
  };
  for (const [, key, quoted, plain] of text.matchAll(/(?:(\w+):)?(?:"([^"]*)"|(\S+))/g)) {
    const value = quoted ?? plain;
    if (!value) continue;
    if (key === 'since' || key === 'session') filter[key] = value;
    else if (key && WORDS.includes(key)) add(key, value);
    else if (!key && STATES.includes(value)) add('state', value);
    else if (!key && value.includes('=')) add('label', value);
    else if (!key) add('workflow', value);
    else throw new Error(`There is no filter ${key}: write ${WORDS.join(', ')}.`);
  }
  return filter;
}

const quote = value => (/\s/.test(value) ? `"${value}"` : value);
export const written = filter =>
  WORDS.flatMap(key =>
    filter[key] ? (['since', 'session'].includes(key) ? [filter[key]] : filter[key].split(',')).map(v => `${key}:${quote(v)}`) : [],
  ).join(' ');

const UNITS = { s: 1e3, m: 6e4, h: 36e5, d: 864e5, w: 6048e5 };
export function asked(filter) {
  const { since, ...rest } = filter;
  if (!since) return rest;
  const back = /^(\d+)([smhdw])$/.exec(since);
  const at = back ? now() - back[1] * UNITS[back[2]] : Date.parse(since);
  if (Number.isNaN(at)) throw new Error(`since:${since} is no time: write 30m, 1h, 7d, or a date.`);
  return { ...rest, since: new Date(at).toISOString() };
}
