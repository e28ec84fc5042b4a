// The steps of a run as they are read: a level of their tree at a time, of what was unfolded also what stands under it.

import { get } from './api.js';

const PAGE = 200;
const FAILED = 50;

export class Levels {
  constructor(run) {
    this.run = run;
    // By the node that they stand under: the pages that were read, those with failures first.
    this.read = new Map();
  }

  ask(under, more = {}) {
    const asked = new URLSearchParams({ ...(under ? { under } : {}), limit: PAGE, ...more });
    return get(`/runs/${this.run}/timeline?${asked}`);
  }

  // Everything that is shown, as it is now.
  async load() {
    const read = new Map();
    for (const under of new Set(['', ...this.read.keys()])) {
      const before = this.read.get(under) ?? [{ asked: {} }];
      const pages = [];
      for (const { asked } of before) pages.push({ asked, told: await this.ask(under, asked) });
      read.set(under, pages);
    }
    this.read = read;
    return this.told();
  }

  // What stands under a folded node: first what has failed, then from the beginning.
  async unfold(fold) {
    const failed = fold.states.failed ? { state: 'failed', limit: FAILED } : null;
    const pages = [];
    for (const asked of failed ? [failed, {}] : [{}]) pages.push({ asked, told: await this.ask(fold.path, asked) });
    this.read.set(fold.path, pages);
    return this.told();
  }

  async more(under) {
    const pages = this.read.get(under);
    const asked = { cursor: pages.at(-1).told.next };
    pages.push({ asked, told: await this.ask(under, asked) });
    return this.told();
  }

  has(path) {
    return this.read.has(path);
  }

  told() {
    const top = this.read.get('')[0].told;
    const steps = new Map(),
      folds = new Map(),
      events = new Map(),
      left = new Map(),
      order = new Set();
    for (const [under, pages] of this.read) {
      for (const { told } of pages) {
        for (const step of told.steps) if (!steps.has(step.key)) steps.set(step.key, step);
        for (const fold of told.folds) if (!folds.has(fold.path)) folds.set(fold.path, fold);
        const nodes = [...told.steps.map(s => [s.seq, s.key]), ...told.folds.map(f => [f.seq, f.path])];
        for (const [, path] of nodes.sort((a, b) => a[0] - b[0])) order.add(path);
        for (const e of told.events) events.set(`${e.at} ${e.event} ${e.key} ${e.attempt}`, e);
      }
      if (pages.at(-1).told.left) left.set(under, pages.at(-1).told.left);
    }
    return {
      all: top.all,
      sums: top.sums,
      // As they stand one below the other: by their start, under a fold those that failed first.
      order: [...order],
      steps: [...steps.values()],
      folds: [...folds.values()],
      events: [...events.values()].sort((a, b) => (a.at < b.at ? -1 : a.at > b.at ? 1 : 0)),
      left,
    };
  }
}
