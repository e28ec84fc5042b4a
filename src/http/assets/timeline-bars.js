// What stands in the rows of a timeline: stretches, heights, marks; and what they mean.

import { h, s, put } from './dom.js';
import { exact, span } from './format.js';

export const ROW = 28;

export function patterns() {
  const hatch = (id, size, ...paths) =>
    s('pattern', { id, width: size, height: size, patternUnits: 'userSpaceOnUse', patternTransform: 'rotate(45)' }, ...paths);
  return s(
    'svg',
    { class: 'off-screen', 'aria-hidden': 'true', width: 0, height: 0 },
    s(
      'defs',
      {},
      hatch(
        'hatch-queue',
        6,
        s('rect', { width: 6, height: 6, class: 'hatch-ground' }),
        s('rect', { width: 2.4, height: 6, class: 'hatch-queue' }),
      ),
      hatch(
        'hatch-wait',
        6,
        s('rect', { width: 6, height: 6, class: 'hatch-ground-wait' }),
        s('rect', { width: 2.4, height: 6, class: 'hatch-wait' }),
      ),
      hatch(
        'hatch-lost',
        5,
        s('rect', { width: 5, height: 5, class: 'hatch-ground-lost' }),
        s('rect', { width: 2, height: 5, class: 'hatch-lost' }),
      ),
    ),
  );
}

export function drawMark(tl, mark, y) {
  const x = Math.min(tl.width - 7, Math.max(7, tl.x(mark.at)));
  const text =
    mark.kind === 'crash'
      ? `${tl.worker(mark.death)} died here${mark.death.resumed ? '' : '; not taken up again yet'}`
      : mark.death
        ? `resumed on ${tl.worker(mark.resume)}, ${span(mark.resume.at - mark.death.at)} after ${tl.worker(mark.death)} died`
        : `resumed on ${tl.worker(mark.resume)}`;
  const close = mark.kind === 'resume' && mark.death && tl.x(mark.at) - tl.x(mark.death.at) < 15;
  const at = close ? Math.max(x, Math.max(7, tl.x(mark.death.at)) + 15) : x;
  const group = s(
    'g',
    { class: `mark mark-${mark.kind}`, transform: `translate(${Math.min(at, tl.width - 7)} ${y})` },
    s('title', {}, text),
    s('circle', { r: 7 }),
  );
  group.append(
    mark.kind === 'crash'
      ? s('path', { d: 'M-2.8 -2.8L2.8 2.8M2.8 -2.8L-2.8 2.8' })
      : s('path', { d: 'M3 -1.4A3.2 3.2 0 1 0 3.2 1M3.4 -3.6V-1.2H1' }),
  );
  return group;
}

// One stretch of a row.
function stretch(tl, f) {
  const [a, b] = [tl.x(f.from), tl.x(f.to)];
  const thin = f.fill === 'gap' || f.fill === 'pause';
  const w = Math.max(thin ? 0 : 2.5, b - a);
  const said = `${f.text ?? f.fill}${f.n ? ` (attempt ${f.n})` : ''}, ${span(f.to - f.from)}, from ${exact(tl.story.zero + f.from)}`;
  const group = s('g', {}, s('title', {}, said));
  if (thin) {
    group.append(
      s('line', { x1: a, x2: b, y1: ROW / 2, y2: ROW / 2, class: `fill-${f.fill}` }),
      s('rect', { x: a, y: 8, width: w, height: ROW - 16, class: 'hit' }),
    );
  } else if (f.fill === 'span') {
    group.append(s('path', { d: `M${a} ${ROW / 2 + 4}V${ROW / 2 - 3}H${a + w}V${ROW / 2 + 4}`, class: 'fill-span' }));
  } else {
    const shape = { x: a, y: 6, width: w, height: ROW - 12, rx: Math.min(3, w / 2) };
    group.append(s('rect', { ...shape, class: `fill-${f.fill} ${f.live ? 'live' : ''}` }));
  }
  if (f.n && b - a > 22) group.append(s('text', { x: a + 6, y: ROW / 2 + 4, class: 'attempt-n' }, f.n));
  return group;
}

export function bars(tl, node, row, folded) {
  const drawn = s('svg', { width: tl.width, height: ROW, 'aria-hidden': 'true' });
  const whole = folded || !row;
  for (const f of row?.fills ?? []) {
    if (!(whole && f.fill === 'span' && node.sum.load.length)) drawn.append(stretch(tl, f));
  }
  if ((node.children.length || node.many) && whole) {
    // The steps of one item come one after the other; those of many items at the same time.
    if (node.item && !node.many) for (const f of inside(node)) drawn.append(stretch(tl, f));
    else density(tl, drawn, node);
  }
  const own = row?.marks ?? [];
  const theirs = whole ? node.sum.marks.filter(m => !own.some(o => o.at === m.at && o.kind === m.kind)) : [];
  for (const mark of [...own, ...theirs]) drawn.append(drawMark(tl, mark, ROW / 2));
  return drawn;
}

const inside = node =>
  node.children.flatMap(child => [...(child.row?.fills.filter(f => f.fill !== 'span') ?? []), ...inside(child)]);

// How many of the steps inside worked at a time, on average in each cell, as a height.
function density(tl, drawn, node) {
  const cells = Math.max(20, Math.floor(tl.width / 4));
  const work = new Float64Array(cells + 1),
    part = new Float64Array(cells),
    many = new Float64Array(cells),
    bad = new Uint8Array(cells + 1);
  for (const f of node.sum.load) {
    const from = tl.scale.place(f.from) * cells,
      to = tl.scale.place(f.to) * cells,
      a = Math.min(cells - 1, Math.floor(from)),
      b = Math.min(cells - 1, Math.floor(to));
    if (f.many != null) for (let i = a; i <= b; i++) many[i] = Math.max(many[i], f.many);
    else if (a === b) part[a] += Math.max(to - from, 0.05);
    else {
      part[a] += a + 1 - from;
      part[b] += to - b;
      work[a + 1] += 1;
      work[b] -= 1;
    }
    if (f.fill === 'failed' || f.fill === 'lost') for (let i = a; i <= b; i++) bad[i] = 1;
  }
  let n = 0,
    most = 1;
  const heights = [];
  for (let i = 0; i < cells; i++) {
    n += work[i];
    heights.push(n + part[i] + many[i]);
    most = Math.max(most, heights[i]);
  }
  const w = tl.width / cells;
  let good = '',
    failed = '';
  heights.forEach((n, i) => {
    if (n < 1e-9 && !bad[i]) return;
    const tall = 4 + ((ROW - 12) * n) / most;
    const d = `M${i * w} ${ROW - 4}v${-tall}h${w}v${tall}z`;
    if (bad[i]) failed += d;
    else good += d;
  });
  if (good) drawn.append(s('path', { d: good, class: 'fill-work' }, s('title', {}, `steps at work inside, ${Math.round(most * 10) / 10} at a time at most`)));
  if (failed) drawn.append(s('path', { d: failed, class: 'fill-failed' }, s('title', {}, 'with failed attempts')));
}

export function drawLegend(tl) {
  const has = new Set();
  for (const row of [...tl.story.rows, ...tl.story.folds]) for (const f of row.fills) has.add(f.fill);
  for (const f of tl.story.run.fills) if (f.to > f.from) has.add(f.fill);
  const words = [
    ['work', 'at work'],
    ['failed', 'failed attempt'],
    ['lost', 'lost with its worker'],
    ['pause', 'pause'],
    ['queue', 'in the queue'],
    ['wait', 'waiting'],
  ];
  const items = words
    .filter(([k]) => has.has(k))
    .map(([k, word]) =>
      h(
        'li',
        {},
        s(
          'svg',
          { width: 18, height: 10, class: 'swatch-svg' },
          k === 'pause'
            ? s('line', { x1: 0, x2: 18, y1: 5, y2: 5, class: 'fill-pause' })
            : s('rect', { width: 18, height: 10, rx: 2, class: `fill-${k}` }),
        ),
        word,
      ),
    );
  if (tl.story.deaths.length)
    items.push(
      h(
        'li',
        {},
        s(
          'svg',
          { width: 16, height: 16, class: 'swatch-svg' },
          s(
            'g',
            { class: 'mark mark-crash', transform: 'translate(8 8)' },
            s('circle', { r: 7 }),
            s('path', { d: 'M-2.8 -2.8L2.8 2.8M2.8 -2.8L-2.8 2.8' }),
          ),
        ),
        'a worker died',
      ),
    );
  if (tl.story.resumes.some(r => !r.woken))
    items.push(
      h(
        'li',
        {},
        s(
          'svg',
          { width: 16, height: 16, class: 'swatch-svg' },
          s(
            'g',
            { class: 'mark mark-resume', transform: 'translate(8 8)' },
            s('circle', { r: 7 }),
            s('path', { d: 'M3 -1.4A3.2 3.2 0 1 0 3.2 1M3.4 -3.6V-1.2H1' }),
          ),
        ),
        'resumed',
      ),
    );
  if (tl.scale.breaks.length) items.push(h('li', { class: 'dim' }, 'long idle stretches are drawn short (┊)'));
  put(tl.legend, items);
}
