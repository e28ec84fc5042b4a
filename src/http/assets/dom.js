// Elements, made by hand: what is text reaches the page as a text node, and nothing else can.

const SVG = 'http://www.w3.org/2000/svg';

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value == null || value === false) continue;
    if (name.startsWith('on')) node.addEventListener(name.slice(2), value);
    else if (name === 'vars') for (const [key, v] of Object.entries(value)) node.style.setProperty(key, v);
    else if (['value', 'checked', 'disabled', 'selected', 'indeterminate'].includes(name) && name in node) node[name] = value;
    else node.setAttribute(name, value === true ? '' : value);
  }
  append(node, children);
  return node;
}

export function append(node, children) {
  for (const child of children.flat(9)) {
    if (child == null || child === false || child === true) continue;
    node.append(child instanceof Node ? child : document.createTextNode(String(child)));
  }
  return node;
}

export const h = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);
export const s = (tag, attributes, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);

export function put(node, ...children) {
  node.replaceChildren();
  return append(node, children);
}

// Exchanges the rows of a list without touching those that are as they were: focus, selection and place stay.
export function keyed(parent, items, key, make, same) {
  const old = new Map([...parent.children].map(node => [node.dataset.key, node]));
  let at = parent.firstElementChild;
  for (const item of items) {
    const id = String(key(item));
    const stamp = same(item);
    let node = old.get(id);
    old.delete(id);
    if (!node || node._stamp !== stamp) {
      const fresh = make(item);
      fresh.dataset.key = id;
      fresh._stamp = stamp;
      if (node) {
        const focused = node.contains(document.activeElement) ? document.activeElement.dataset.focus : null;
        if (at === node) at = fresh;
        if (node.classList.contains('at')) fresh.classList.add('at');
        node.replaceWith(fresh);
        if (focused) fresh.querySelector(`[data-focus="${CSS.escape(focused)}"]`)?.focus();
      }
      node = fresh;
    }
    if (node === at) at = at.nextElementSibling;
    else parent.insertBefore(node, at);
  }
  for (const gone of old.values()) gone.remove();
}

export const icon = (name, label) => {
  const drawn = s('svg', {
    class: 'icon',
    viewBox: '0 0 16 16',
    'aria-hidden': label ? null : 'true',
    role: label ? 'img' : null,
    'aria-label': label,
  });
  for (const d of (ICONS[name] ?? ICONS.dot).split('|')) {
    drawn.append(s('path', { d: d.replace(/^!/, ''), class: d.startsWith('!') ? 'solid' : null }));
  }
  return drawn;
};

const ICONS = {
  dot: '!M8 5.2a2.8 2.8 0 1 0 0 5.6 2.8 2.8 0 0 0 0-5.6z',
  scheduled: 'M2.8 4.2h10.4v9H2.8z|M2.8 7h10.4|M5.5 2.6v2.8|M10.5 2.6v2.8',
  queued: 'M3 4.5h10|M3 8h10|M3 11.5h6',
  held: 'M4.5 7.5h7v5.5h-7z|M5.8 7.5v-2a2.2 2.2 0 0 1 4.4 0v2',
  running: '!M5.2 3.4l7.3 4.6-7.3 4.6z',
  waiting: 'M8 2.4a5.6 5.6 0 1 0 0 11.2A5.6 5.6 0 0 0 8 2.4z|M8 5v3.2l2.2 1.4',
  paused: '!M4.4 3.4h2.4v9.2H4.4z|!M9.2 3.4h2.4v9.2H9.2z',
  resuming: 'M12.6 6.2A5 5 0 1 0 13 8.6|M13 2.8v3.6H9.4',
  completed: 'M3.2 8.6l3.2 3.2 6.4-7.2',
  failed: 'M4 4l8 8|M12 4l-8 8',
  cancelled: 'M8 2.4a5.6 5.6 0 1 0 0 11.2A5.6 5.6 0 0 0 8 2.4z|M4.2 4.2l7.6 7.6',
  skipped: 'M3 4l5 4-5 4|M8.5 4l5 4-5 4',
  overview: 'M2.5 8.5l5.5-5 5.5 5|M4 7.5v5.7h8V7.5',
  runs: 'M2.6 4h2|M2.6 8h2|M2.6 12h2|M7 4h6.4|M7 8h6.4|M7 12h6.4',
  analytics: 'M3 13V8.5|M6.4 13V5|M9.8 13V7|M13.2 13V3',
  workflows: 'M3 2.8h3.4v3.4H3z|M9.6 9.8H13v3.4H9.6z|M4.7 6.2v5.3h4.9',
  schedules: 'M2.8 4.2h10.4v9H2.8z|M2.8 7h10.4|M5.5 2.6v2.8|M10.5 2.6v2.8',
  queues: 'M2.6 3.2h10.8v2.6H2.6z|M2.6 6.8h10.8v2.6H2.6z|M2.6 10.4h10.8V13H2.6z',
  workers:
    'M4.6 4.6h6.8v6.8H4.6z|M6.4 2v2.6|M9.6 2v2.6|M6.4 11.4V14|M9.6 11.4V14|M2 6.4h2.6|M2 9.6h2.6|M11.4 6.4H14|M11.4 9.6H14',
  health: 'M1.8 8.4h3L6.6 4l3 8 1.6-3.6h3',
  compare: 'M5 3v10|M11 3v10|M2.6 5.4L5 3l2.4 2.4|M8.6 10.6L11 13l2.4-2.4',
  copy: 'M5.6 5.6h7.2v7.2H5.6z|M10.4 5.4V3.2H3.2v7.2h2.2',
  down: 'M4 6.4l4 4 4-4',
  right: 'M6.4 4l4 4-4 4',
  theme: 'M8 2.4a5.6 5.6 0 1 0 0 11.2z|M8 2.4a5.6 5.6 0 0 1 0 11.2|!M8 2.4a5.6 5.6 0 0 1 0 11.2z',
  key: 'M10.3 2.8a2.9 2.9 0 1 0 0 5.8 2.9 2.9 0 0 0 0-5.8z|M8.2 7.8L3 13|M4.6 11.4l1.8 1.8',
  fork: 'M5 3v10|M5 9.5c0-2.6 6-1.4 6-5.5|M9 5.4L11 3.2l2 2.2',
  plus: 'M8 3v10|M3 8h10',
  search: 'M7 2.8a4.2 4.2 0 1 0 0 8.4 4.2 4.2 0 0 0 0-8.4z|M10.2 10.2l3.2 3.2',
  menu: 'M2.6 4.4h10.8|M2.6 8h10.8|M2.6 11.6h10.8',
  warn: 'M8 2.6L14 13H2z|M8 6.4v3|!M8 10.8a.7.7 0 1 0 0 1.4.7.7 0 0 0 0-1.4z',
};
