// What every peer's program has in common: its words on stdout, its clock, and the jobs themselves.
//
// A job's payload is {kind, key}. `noop` counts; `stamp` says when it started; `hold` says so and then stays for a minute.
import { setTimeout as sleep } from "node:timers/promises";

// The wall clock in µs: Node's is cut to milliseconds, so its edge is found once and the monotonic clock carries it on.
let edge = Date.now();
while (Date.now() === edge);
const offset = Date.now() - performance.now();
export const micros = () => Math.round((offset + performance.now()) * 1000);

export const say = (...words) => process.stdout.write(words.join(" ") + "\n");

/** Calls `add(key)` for `n` single jobs, 20 to 50 ms apart, and says when each was seen to be committed; it may name the job anew. */
export const trickle = async (n, add) => {
  for (let i = 0; i < n; i++) {
    await sleep(20 + 30 * Math.random());
    const key = `${process.pid}-${i}`;
    const given = await add(key);
    say("added", given ?? key, micros());
  }
};

/** Calls `add(i)` `n` times, `width` at once. */
export const many = async (n, width, add) => {
  let next = 0;
  const lane = async () => {
    while (next < n) await add(next++);
  };
  await Promise.all(Array.from({ length: width }, lane));
};

const expected = Number(process.env.PEER_EXPECT ?? 0);
let first = 0;
let count = 0;

/** One no-op: the clock runs from the first to the last. */
export const began = () => {
  first ||= micros();
};
export const ended = () => {
  if (++count === expected) say("done", first, micros());
};

/** The handler of every queue. */
export const handle = async ({ kind, key }) => {
  if (kind === "noop") {
    began();
    ended();
    return;
  }
  say("start", key, micros());
  if (kind === "hold") await sleep(60_000);
};

/** Runs the command that the first argument names. */
export const main = async (commands) => {
  const [name, ...args] = process.argv.slice(2);
  await commands[name](...args);
};
