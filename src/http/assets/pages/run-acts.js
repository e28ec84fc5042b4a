// What is done to a run.

import { h } from '../dom.js';
import { post } from '../api.js';
import { parse } from '../format.js';
import { ask, complain, say } from '../parts.js';

// `now` gives the run and its steps as they are; `reload` reads them anew.
export function acts(id, { now, reload, go }) {
  async function act(verb, reasoned) {
    const reason = h('input', { type: 'text', maxlength: 500 });
    try {
      const done = reasoned
        ? await ask(
            {
              title: `${verb === 'cancel' ? 'Cancel' : 'Pause'} this run?`,
              kind: verb === 'cancel' ? 'danger' : 'primary',
              action: verb === 'cancel' ? 'Cancel the run' : 'Pause it',
              body: [
                h(
                  'p',
                  {},
                  verb === 'cancel'
                    ? 'Steps under way are stopped; what has an undo is undone.'
                    : 'The step under way ends; the next one waits until it is unpaused.',
                ),
                h('label', { class: 'field' }, h('span', {}, 'Reason'), reason),
              ],
            },
            () => post(`/runs/${id}/${verb}`, reason.value ? { reason: reason.value } : {}),
          )
        : await post(`/runs/${id}/${verb}`, {});
      if (done) {
        say(`${verb}: ${done.result}.`);
        reload();
      }
    } catch (error) {
      complain(error);
    }
  }
  async function retry() {
    const latest = h('input', { type: 'checkbox' });
    const done = await ask(
      {
        title: 'Retry this run?',
        action: 'Retry',
        body: [
          h('p', {}, 'Finished steps keep their results; the failed one runs again.'),
          h('label', { class: 'check' }, latest, "with the workflow's present definition"),
        ],
      },
      () => post(`/runs/${id}/retry`, latest.checked ? { latest: true } : {}),
    );
    if (done) {
      say('Taken up again.');
      reload();
    }
  }
  async function signal() {
    const name = h('input', { type: 'text', required: true });
    const payload = h('textarea', { rows: 4, class: 'code', value: '{}', spellcheck: 'false' });
    const done = await ask(
      {
        title: 'Send a signal',
        action: 'Send',
        body: [
          h('label', { class: 'field' }, h('span', {}, 'Name'), name),
          h('label', { class: 'field' }, h('span', {}, 'Payload (JSON)'), payload),
        ],
      },
      () => post(`/runs/${id}/signal`, { name: name.value, payload: parse(payload.value || 'null') }),
    );
    if (done) {
      say(`Signal: ${done.result}.`);
      reload();
    }
  }
  async function fork(from) {
    const { run, steps } = now();
    const tops = [...new Set(steps.filter(s => !s.key.includes('[') && s.kind !== 'end').map(s => s.key))];
    const step = h(
      'select',
      {},
      tops.map(k => h('option', { value: k, selected: k === from || from?.startsWith(`${k}[`) }, k)),
    );
    const area = h('textarea', { rows: 8, class: 'code', value: JSON.stringify(run.input, null, 2), spellcheck: 'false' });
    const latest = h(
      'select',
      {},
      h('option', { value: '' }, 'the one this run is pinned to'),
      h('option', { value: '1' }, "the workflow's present one"),
    );
    const alone = h('input', { type: 'checkbox' });
    const before = area.value;
    const done = await ask(
      {
        title: 'Fork this run',
        action: 'Fork',
        wide: true,
        body: [
          h('p', {}, 'A new run, which keeps what had ended before this step began. This one stays as it is.'),
          h('label', { class: 'field' }, h('span', {}, 'From step'), step),
          h('label', { class: 'check' }, alone, 'this step alone: what came after it keeps its result, too'),
          h('label', { class: 'field' }, h('span', {}, 'Input'), area),
          h('label', { class: 'field' }, h('span', {}, 'Definition'), latest),
        ],
      },
      () => {
        let input;
        if (area.value !== before) input = parse(area.value);
        return post(`/runs/${id}/fork`, {
          from_step: step.value,
          latest: latest.value === '1',
          alone: alone.checked,
          ...(input === undefined ? {} : { input }),
        });
      },
    );
    if (done) {
      say('Forked.');
      go(`/runs/${done.id}`);
    }
  }
  return { act, retry, signal, fork };
}
