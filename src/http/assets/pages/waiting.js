// What waits: questions to people as forms, events and signals, sleeps and children.

import { h, icon, keyed, put } from '../dom.js';
import { get, may, post } from '../api.js';
import { every, follow, isPaused } from '../live.js';
import { button, complain, field, needs, runLink, say, table, told, when } from '../parts.js';
import { schemaForm } from '../form.js';
import { parse, plural } from '../format.js';

// A question as a form; what a tool asks for has a schema, and so a field for each part of it.
export function answerForm(wait, done) {
  const note = h('input', { type: 'text', maxlength: 1000, placeholder: 'Note', 'aria-label': `Note for ${wait.key}` });
  const form = wait.schema ? schemaForm(wait.schema) : null;
  const wrong = h('div', { 'aria-live': 'polite' });
  const box = h('section', { class: 'ask', 'aria-label': `Question of ${wait.key}` });
  const answer = async approved => {
    put(wrong);
    try {
      const body = { approved, step: wait.key };
      if (note.value) body.note = note.value;
      if (approved && form) body.answer = form.read();
      await post(`/runs/${wait.run}/answer`, body);
      say(approved ? 'Approved.' : 'Rejected.');
      done();
    } catch (error) {
      put(wrong, told(error));
    }
  };
  if (wait.waits_for === 'approval') {
    put(
      box,
      h('header', {}, icon('waiting'), h('strong', {}, wait.prompt ?? `Approve ${wait.key}?`)),
      h(
        'p',
        { class: 'dim' },
        `${wait.workflow ?? ''} `,
        h('span', { class: 'mono' }, wait.key),
        ' asked ',
        when(wait.since),
        wait.due_at ? [', times out ', when(wait.due_at)] : null,
        ' · ',
        runLink(wait.run),
      ),
      form?.root,
      h(
        'div',
        { class: 'ask-actions' },
        note,
        button('Approve', () => answer(true), { scope: 'operate', kind: 'primary', name: 'completed' }),
        button('Reject', () => answer(false), { scope: 'operate', kind: 'danger', name: 'failed' }),
      ),
      may('operate') ? null : h('p', { class: 'dim' }, needs('operate')),
      wrong,
    );
  } else {
    const payload = h('textarea', {
      rows: 3,
      class: 'code',
      value: JSON.stringify(wait.match ?? {}, null, 2),
      spellcheck: 'false',
      'aria-label': `Payload of ${wait.event}`,
    });
    put(
      box,
      h('header', {}, icon('waiting'), h('strong', {}, 'Waits for ', h('code', {}, wait.event))),
      h(
        'p',
        { class: 'dim' },
        `${wait.workflow ?? ''} `,
        h('span', { class: 'mono' }, wait.key),
        ' waits since ',
        when(wait.since),
        wait.due_at ? [', times out ', when(wait.due_at)] : null,
        wait.match ? [', with ', h('code', {}, JSON.stringify(wait.match))] : null,
        ' · ',
        runLink(wait.run),
      ),
      h(
        'details',
        { class: 'inline' },
        h('summary', {}, 'Send it'),
        field('Payload (JSON)', payload),
        h(
          'div',
          { class: 'ask-actions' },
          button(
            'Send to this run',
            async () => {
              put(wrong);
              try {
                await post(`/runs/${wait.run}/signal`, { name: wait.event, payload: parse(payload.value || 'null') });
                say('Sent.');
                done();
              } catch (error) {
                put(wrong, told(error));
              }
            },
            { scope: 'enqueue', kind: 'primary' },
          ),
        ),
        wrong,
      ),
    );
  }
  return box;
}

export default {
  title: 'Waiting',
  async render(into) {
    const asks = h('div', { class: 'asks' });
    const events = h('div', { class: 'asks' });
    const others = h('div');
    const title = h('span', { class: 'dim' });
    put(into, h('div', { class: 'title' }, h('h1', {}, 'Waiting'), title), asks, events, others);
    async function refresh() {
      const { waiting } = await get('/waiting');
      const people = waiting.filter(w => w.waits_for === 'approval'),
        calls = waiting.filter(w => w.waits_for === 'event'),
        rest = waiting.filter(w => !['approval', 'event'].includes(w.waits_for));
      put(
        title,
        `${plural(people.length, 'question')}, ${plural(calls.length, 'event')}, ${plural(rest.length, 'other', 'others')}${waiting.length >= 1000 ? ' (the thousand that wait longest)' : ''}`,
      );
      const key = w => `${w.run} ${w.key}`;
      keyed(
        asks,
        people,
        key,
        w => answerForm(w, refresh),
        w => `${w.prompt}${w.since}`,
      );
      keyed(
        events,
        calls,
        key,
        w => answerForm(w, refresh),
        w => `${w.event}${w.since}`,
      );
      put(
        others,
        rest.length
          ? table(
              [
                { name: 'For', cell: w => w.waits_for },
                { name: 'Workflow', cell: w => w.workflow },
                { name: 'Run', cell: w => runLink(w.run) },
                { name: 'Step', class: 'mono', cell: w => w.key },
                { name: 'Since', cell: w => when(w.since) },
                { name: 'Until', cell: w => when(w.due_at) },
              ],
              rest,
              { caption: 'Sleeps and children' },
            )
          : null,
        waiting.length ? null : h('p', { class: 'empty' }, 'Nothing waits: no question, no event, no sleep.'),
      );
    }
    await refresh();
    let timer = null;
    const soon = () => {
      timer ??= setTimeout(() => {
        timer = null;
        if (!isPaused()) refresh().catch(complain);
      }, 600);
    };
    follow('/stream', { run: soon }, soon);
    const stop = every(8000, refresh);
    return () => {
      stop();
      clearTimeout(timer);
    };
  },
};
