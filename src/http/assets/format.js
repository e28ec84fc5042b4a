// Times, spans, sizes and ids, as people read them.

export function span(ms) {
  if (ms == null || Number.isNaN(ms)) return '–';
  if (ms < 0) ms = 0;
  if (ms < 1) return ms === 0 ? '0 ms' : '<1 ms';
  if (ms < 1000) return `${Math.round(ms)} ms`;
  if (ms < 9995) return `${(ms / 1000).toFixed(2)} s`;
  if (ms < 59950) return `${(ms / 1000).toFixed(1)} s`;
  const parts = [
    [86400000, 'd'],
    [3600000, 'h'],
    [60000, 'm'],
    [1000, 's'],
  ];
  for (let i = 0; i < parts.length; i++) {
    const [size, unit] = parts[i];
    if (ms < size) continue;
    const whole = Math.floor(ms / size);
    const next = parts[i + 1];
    const rest = next ? Math.floor((ms - whole * size) / next[0]) : 0;
    return rest ? `${whole}${unit} ${rest}${next[1]}` : `${whole}${unit}`;
  }
  return '0 ms';
}

const exactForm = new Intl.DateTimeFormat('en-GB', {
  year: 'numeric',
  month: 'short',
  day: '2-digit',
  hour: '2-digit',
  minute: '2-digit',
  second: '2-digit',
  fractionalSecondDigits: 3,
  timeZoneName: 'short',
});
const clockForm = new Intl.DateTimeFormat('en-GB', { hour: '2-digit', minute: '2-digit', second: '2-digit' });
const dayForm = new Intl.DateTimeFormat('en-GB', { month: 'short', day: 'numeric', hour: '2-digit', minute: '2-digit' });

export const exact = at => exactForm.format(new Date(at));
export const clock = at => clockForm.format(new Date(at));
export const day = at => dayForm.format(new Date(at));

// The server's clock: ages are by it, not by this machine's.
let ahead = 0;
export function setServerTime(text, took) {
  const at = Date.parse(text);
  // The header has whole seconds: half of one is the best guess, and a smaller difference is none.
  const off = at + 500 - (Date.now() - took / 2);
  ahead = Math.abs(off) > 1500 ? off : 0;
}
export const now = () => Date.now() + ahead;

export function ago(at) {
  const ms = now() - new Date(at).getTime();
  if (ms >= 0) return ms < 1500 ? 'now' : `${coarse(ms)} ago`;
  return ms > -1500 ? 'now' : `in ${coarse(-ms)}`;
}

export function coarse(ms) {
  if (ms < 60000) return `${Math.floor(ms / 1000)}s`;
  if (ms < 3600000) return `${Math.floor(ms / 60000)}m`;
  if (ms < 86400000) return `${Math.floor(ms / 3600000)}h ${Math.floor((ms % 3600000) / 60000)}m`;
  if (ms < 864e6) return `${Math.floor(ms / 86400000)}d ${Math.floor((ms % 86400000) / 3600000)}h`;
  return `${Math.floor(ms / 86400000)}d`;
}

export const shortId = id => `…${id.slice(-8)}`;

export const count = n => (n == null ? '–' : Number(n).toLocaleString('en-GB'));

// As many digits as say something: 12.30, 0.0042.
export function money(n) {
  if (n == null) return '–';
  const small = n !== 0 && Math.abs(n) < 1;
  return n.toFixed(small ? Math.min(8, 1 - Math.floor(Math.log10(Math.abs(n)))) : 2);
}

export function compact(n) {
  if (n < 10000) return count(n);
  if (n < 1e6) return `${(n / 1e3).toFixed(n < 1e5 ? 1 : 0)}k`;
  return `${(n / 1e6).toFixed(1)}M`;
}

export function bytes(n) {
  if (n == null) return '–';
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  let i = 0;
  while (n >= 1024 && i < 4) {
    n /= 1024;
    i++;
  }
  return `${n < 10 && i ? n.toFixed(1) : Math.round(n)} ${units[i]}`;
}

export const percent = part =>
  part == null || Number.isNaN(part) ? '–' : `${(100 * part).toFixed(part > 0.9995 || part < 0.0005 ? 0 : 1)} %`;

export const plural = (n, one, many = `${one}s`) => `${count(n)} ${n === 1 ? one : many}`;

// Numbers that this language would change are kept as they were written.
export class Exact {
  constructor(text) {
    this.text = text;
  }
  toJSON() {
    return JSON.rawJSON ? JSON.rawJSON(this.text) : Number(this.text);
  }
}

export function parse(text) {
  if (!/\d{16}|\d[eE][+-]?\d{2}/.test(text)) return JSON.parse(text);
  return JSON.parse(text, (_, value, context) =>
    typeof value === 'number' &&
    context?.source &&
    String(value) !== context.source &&
    (!Number.isSafeInteger(value) || /[eE]/.test(context.source)) &&
    context.source.replace(/[-.+eE]/g, '').length > 15
      ? new Exact(context.source)
      : value,
  );
}
