// A run over time, as data: rows with stretches and marks, in milliseconds since the run was enqueued.

const ms = text => (text ? Date.parse(text) + fraction(text) : null);
// Dates hold whole milliseconds; the server's times have microseconds.
function fraction(text) {
  const digits = /\.(\d+)/.exec(text)?.[1] ?? '';
  return digits.length > 3 ? Number(`0.${digits.slice(3)}`) : 0;
}

const WAITS = new Set(['sleep', 'wait', 'approve', 'workflow']);

// `told`: steps one by one, folds that stand for many, and what happened beside them.
export function story(run, { order, steps, folds, events }, now) {
  const zero = ms(run.created_at);
  const at = text => (text ? Math.max(0, ms(text) - zero) : null);
  const end = at(run.ended_at) ?? Math.max(0, now - zero);
  const deaths = [],
    resumes = [],
    tries = new Map(),
    pauses = [];
  for (const line of events) {
    const t = at(line.at);
    if (line.event === 'resumed' || line.event === 'retried')
      resumes.push({ at: t, worker: line.data?.worker ?? null, epoch: line.epoch, retried: line.event === 'retried' });
    if (line.event === 'crashed' || line.event === 'taken over')
      deaths.push({
        at: t,
        steps: line.data?.steps ?? [],
        worker: line.data?.worker,
        host: line.data?.host,
        pid: line.data?.pid,
        epoch: line.epoch,
      });
    if (line.event === 'resume scheduled') pauses.push({ at: t, resume: line.data?.resume, of: line.data?.of });
    if (line.event === 'attempt failed' && line.key) {
      const to = at(line.data?.ended_at) ?? t;
      const from = at(line.data?.started_at) ?? to;
      if (!tries.has(line.key)) tries.set(line.key, []);
      tries.get(line.key).push({
        n: line.attempt,
        from,
        to,
        next: line.data?.retry_in_ms == null ? null : to + line.data.retry_in_ms,
        failure: line.data?.failure,
        usage: line.data?.usage,
      });
    }
  }
  for (const death of deaths) death.resumed = resumes.find(r => r.at >= death.at);
  const rows = steps.map(step => stepRow(step, tries.get(step.key) ?? [], deaths, at, end));
  const many = folds.map(fold => foldRow(fold, deaths, at, end));
  // What comes back after a death or a failure is a resume; what comes back from a wait has only been woken.
  for (const one of resumes)
    one.woken =
      !deaths.some(d => d.resumed === one) &&
      !pauses.some(p => p.at <= one.at && !resumes.some(r => r !== one && r.at >= p.at && r.at < one.at)) &&
      !one.retried;
  return {
    zero,
    end,
    deaths,
    resumes,
    pauses,
    run: runRow(run, [...rows, ...many], deaths, resumes, pauses, at, end),
    rows,
    folds: many,
    root: grown(order, rows, many),
  };
}

function runRow(run, rows, deaths, resumes, pauses, at, end) {
  const start = at(run.started_at) ?? end;
  const fills = [{ from: 0, to: start, fill: 'queue', text: run.started_at ? 'in the queue' : 'not claimed yet' }];
  // Who had the run when: from the first claim, and from each resume, to the death or the pause that ended it.
  const starts = [{ at: start, worker: null }, ...resumes].filter(x => x.at != null && run.started_at);
  starts.forEach((begin, i) => {
    const until = Math.min(starts[i + 1]?.at ?? end, end);
    const death = deaths.find(d => d.at >= begin.at && d.at <= until);
    const pause = pauses.find(p => p.at >= begin.at && p.at <= until);
    const worker = begin.worker ?? (death ? death.worker : i === starts.length - 1 ? run.worker : null);
    const to = death?.at ?? pause?.at ?? rested(rows, begin.at, until) ?? until;
    fills.push({ from: begin.at, to, fill: 'own', worker, host: death?.host, pid: death?.pid, lane: i });
    if (to < until)
      fills.push({
        from: to,
        to: until,
        fill: death ? 'gap' : pause ? 'pause' : 'rest',
        text: death ? 'until another worker had it' : pause ? 'until the next resume' : 'waits; no worker has it',
      });
  });
  const marks = deaths.map(d => ({ at: d.at, kind: 'crash', death: d }));
  for (const r of resumes)
    if (!r.woken) marks.push({ at: r.at, kind: 'resume', resume: r, death: deaths.find(d => d.resumed === r) });
  return { key: 'run', fills, marks, from: 0, to: end };
}

// A run that waits, and does nothing else, has no worker: since when?
function rested(rows, from, until) {
  let busy = from,
    waits = null;
  for (const row of rows)
    for (const f of row.fills) {
      if (f.from > until || f.to < from) continue;
      if (['work', 'failed', 'lost'].includes(f.fill)) busy = Math.max(busy, Math.min(f.to, until));
      if (f.fill === 'wait' && f.to >= until - 100) waits = Math.max(waits ?? 0, f.from);
    }
  if (waits == null) return null;
  const since = Math.max(busy, waits);
  return since < until - 20 ? since : null;
}

function stepRow(step, tries, deaths, at, end) {
  const began = at(step.started_at) ?? 0;
  const from = Math.min(began, ...tries.map(t => t.from));
  const to = at(step.ended_at) ?? Math.max(end, began);
  const fills = [];
  const over = tries.length ? tries[tries.length - 1] : null;
  let cursor = from;
  for (const one of tries) {
    if (one.from > cursor + 0.5) fills.push({ from: cursor, to: one.from, fill: 'pause', text: 'pause before the next attempt' });
    fills.push({
      from: one.from,
      to: one.to,
      fill: 'failed',
      n: one.n,
      text: `attempt ${one.n} failed: ${one.failure?.message ?? ''}`,
    });
    cursor = one.to;
  }
  const settled = step.state === 'failed' && over && Math.abs(over.to - to) < 50;
  if (!settled && step.state !== 'skipped') {
    const waiting = step.state === 'waiting';
    if (over && !waiting) {
      const next = Math.max(cursor, Math.min(began > over.to ? began : (over.next ?? over.to), to));
      if (next > cursor) fills.push({ from: cursor, to: next, fill: 'pause', text: 'pause before the next attempt' });
      cursor = next;
    }
    const fill = WAITS.has(step.kind)
      ? 'wait'
      : waiting
        ? 'pause'
        : step.state === 'failed'
          ? 'failed'
          : step.state === 'cancelled'
            ? 'lost'
            : ['map', 'repeat', 'switch'].includes(step.kind)
              ? 'span'
              : 'work';
    if (to > cursor || !fills.length)
      fills.push({
        from: cursor,
        to,
        fill,
        live: !step.ended_at,
        n: step.attempts > 1 ? step.attempts : null,
        text: waitText(step),
      });
  }
  const marks = [];
  for (const death of deaths) {
    if (!death.steps.includes(step.key)) continue;
    const again = death.resumed?.at;
    const until = Math.min(again ?? to, Math.max(to, death.at));
    splitAt(fills, death.at, until);
    marks.push({ at: death.at, kind: 'crash', death });
    if (again != null && again <= to) marks.push({ at: again, kind: 'resume', resume: death.resumed, death });
  }
  return { key: step.key, step, tries, fills, marks, from, to };
}

// Of many steps: how many were at work, cell by cell.
function foldRow(fold, deaths, at, end) {
  const from = at(fold.from),
    to = at(fold.to) ?? Math.max(end, from);
  const wide = Math.max(to - from, 0.001) / fold.at_work.length;
  const bad = new Set(fold.failed);
  const fills = [];
  fold.at_work.forEach((n, i) => {
    const failed = bad.has(i);
    if (n || failed) fills.push({ from: from + i * wide, to: from + (i + 1) * wide, fill: failed ? 'failed' : 'work', many: n });
  });
  const inside = key => key.startsWith(fold.path) && '[.'.includes(key[fold.path.length] ?? '-');
  const marks = [];
  for (const death of deaths) {
    if (!death.steps.some(inside)) continue;
    marks.push({ at: death.at, kind: 'crash', death });
    if (death.resumed) marks.push({ at: death.resumed.at, kind: 'resume', resume: death.resumed, death });
  }
  return { key: fold.path, fold, fills, marks, from, to };
}

function waitText(step) {
  if (step.kind === 'approve') return step.state === 'waiting' ? 'waits for a person' : 'waited for a person';
  if (step.kind === 'wait') return `waits for ${step.event ?? 'an event'}`;
  if (step.kind === 'sleep') return 'sleeps';
  if (step.kind === 'workflow') return 'its run works';
  return null;
}

// What was under way when the worker died is lost up to there; then nothing, until another worker has it.
function splitAt(fills, death, again) {
  const i = fills.findIndex(f => f.from <= death && f.to >= death && !['failed', 'gap', 'span'].includes(f.fill));
  if (i < 0) return;
  const whole = fills[i];
  const parts = [
    { ...whole, to: death, fill: 'lost', live: false, text: 'lost: the worker died' },
    { from: death, to: again, fill: 'gap', text: 'until another worker had it' },
  ];
  if (whole.to > again) parts.push({ ...whole, from: again });
  fills.splice(i, 1, ...parts);
}

// Keys as a tree: docs[12].text stands under docs[12], which stands under docs.
function grown(order, rows, folds) {
  const root = { children: [], byPath: new Map() };
  const node = (path, parent, name, item) => {
    let found = root.byPath.get(path);
    if (!found) {
      found = { path, name, item, children: [], row: null, parent };
      root.byPath.set(path, found);
      parent.children.push(found);
    }
    return found;
  };
  const planted = key => {
    let parent = root,
      path = '';
    for (const part of key.match(/\[[^\]]*\]|[^.[]+|\.(?=\[)|\./g) ?? [key]) {
      if (part === '.') {
        path += '.';
        continue;
      }
      path += part;
      parent = node(path, parent, part, part.startsWith('['));
    }
    return parent;
  };
  for (const path of order) planted(path);
  for (const row of rows) planted(row.key).row = row;
  for (const many of folds) planted(many.key).many = many;
  for (const top of root.children) summed(top);
  return root;
}

function summed(node) {
  const all = { from: Infinity, to: -Infinity, states: new Map(), steps: 0, load: [], marks: [] };
  if (node.row) {
    all.from = node.row.from;
    all.to = node.row.to;
  }
  for (const child of node.children) {
    const sum = summed(child);
    all.from = Math.min(all.from, sum.from);
    all.to = Math.max(all.to, sum.to);
    all.steps += sum.steps;
    for (const [state, n] of sum.states) all.states.set(state, (all.states.get(state) ?? 0) + n);
    for (const stretch of sum.load) all.load.push(stretch);
    for (const mark of sum.marks) if (!all.marks.some(m => m.kind === mark.kind && m.at === mark.at)) all.marks.push(mark);
  }
  // What was read of a folded node is a part of it.
  if (node.many)
    Object.assign(all, {
      from: Math.min(node.row?.from ?? Infinity, node.many.from),
      to: Math.max(node.row?.to ?? -Infinity, node.many.to),
      states: new Map(Object.entries(node.many.fold.states)),
      steps: node.many.fold.steps,
      load: node.many.fills,
      marks: node.many.marks,
    });
  node.sum = { ...all, states: new Map(all.states), load: all.load, marks: all.marks };
  const own = { ...node.sum, states: new Map(all.states), load: [...all.load], marks: [...all.marks] };
  if (node.row) {
    own.steps += 1;
    own.states.set(node.row.step.state, (own.states.get(node.row.step.state) ?? 0) + 1);
    if (!node.children.length)
      for (const f of node.row.fills) if (['work', 'failed', 'lost', 'wait'].includes(f.fill)) own.load.push(f);
    for (const mark of node.row.marks) if (!own.marks.some(m => m.kind === mark.kind && m.at === mark.at)) own.marks.push(mark);
  }
  return own;
}

// Where an instant is drawn, 0 to 1. Long stretches in which nothing worked are drawn short.
export function scale(stories) {
  const list = [].concat(stories);
  const end = Math.max(1, ...list.map(one => one.end));
  const busy = [];
  for (const one of list) {
    for (const row of [...one.rows, ...one.folds])
      for (const f of row.fills)
        if (['work', 'failed', 'lost', 'gap'].includes(f.fill)) busy.push([f.from, Math.max(f.to, f.from)]);
    for (const mark of one.run.marks) busy.push([mark.at, mark.at]);
    busy.push([0, 0], [one.end, one.end]);
  }
  busy.sort((a, b) => a[0] - b[0]);
  const united = [];
  for (const [a, b] of busy) {
    const last = united[united.length - 1];
    if (last && a <= last[1]) last[1] = Math.max(last[1], b);
    else united.push([a, b]);
  }
  const total = united.reduce((sum, [a, b]) => sum + b - a, 0);
  const longest = Math.max(total * 0.6, 1000);
  const knots = [[0, 0]];
  const breaks = [];
  let drawn = 0,
    last = 0;
  const go = (to, length) => {
    drawn += length;
    last = to;
    knots.push([to, drawn]);
  };
  for (const [a, b] of [...united, [end, end]]) {
    if (a > last) {
      const gap = a - last;
      if (total && gap > longest * 2) {
        breaks.push({ from: last, to: a });
        go(a, longest * 0.5);
      } else go(a, gap);
    }
    if (b > last) go(b, b - last);
  }
  const whole = drawn || 1;
  const place = t => {
    let low = 0,
      high = knots.length - 1;
    while (high - low > 1) {
      const mid = (low + high) >> 1;
      if (knots[mid][0] <= t) low = mid;
      else high = mid;
    }
    const [t0, d0] = knots[low],
      [t1, d1] = knots[high] ?? knots[low];
    if (t <= t0) return d0 / whole;
    if (t >= t1) return d1 / whole;
    return (d0 + ((d1 - d0) * (t - t0)) / (t1 - t0)) / whole;
  };
  const time = p => {
    const d = p * whole;
    const i = Math.max(
      1,
      knots.findIndex(k => k[1] >= d),
    );
    const [t0, d0] = knots[i - 1],
      [t1, d1] = knots[i] ?? knots[i - 1];
    return d1 === d0 ? t0 : t0 + ((t1 - t0) * (d - d0)) / (d1 - d0);
  };
  return { place, time, end, breaks };
}
