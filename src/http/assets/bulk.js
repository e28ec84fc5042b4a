// The same to many runs: asked about first, with their number.

import { h } from './dom.js';
import { post } from './api.js';
import { count, plural } from './format.js';
import { ask, field, say } from './parts.js';

const PAST = { cancel: 'cancelled', pause: 'paused', unpause: 'unpaused', retry: 'retried' };
const big = verb => verb[0].toUpperCase() + verb.slice(1);
const kind = verb => (verb === 'cancel' ? 'danger' : 'primary');
const reasoned = (verb, input) => (['cancel', 'pause'].includes(verb) ? field('Reason', input) : null);

// All that a filter leaves: counted by the server, which does nothing where their number is another by then.
export async function toAll(verb, filter, text) {
  const { matching } = await post('/actions', { verb, filter });
  if (!matching) {
    say(`None of the runs that match can be ${PAST[verb]}.`);
    return null;
  }
  const reason = h('input', { type: 'text', maxlength: 500 });
  const said = [
    h(
      'p',
      {},
      'All that match ',
      h('code', {}, text),
      ` and can be ${PAST[verb]}. Where their number differs by then, nothing is done.`,
    ),
    reasoned(verb, reason),
  ];
  const done = await ask(
    {
      title: `${big(verb)} ${plural(matching, 'run')}?`,
      kind: kind(verb),
      action: `${big(verb)} ${count(matching)}`,
      body: said,
    },
    () => post('/actions', { verb, filter, expect: matching, how: reason.value ? { reason: reason.value } : {} }),
  );
  if (done) {
    const refused = done.refused.length ? `; ${done.refused.length} refused: ${done.refused[0].why}` : '';
    say(`${plural(done.done, 'run')} of ${done.matching} ${PAST[verb]}${refused}.`);
  }
  return done;
}

// Some runs, one after the other.
export async function toEach(verb, ids) {
  const reason = h('input', { type: 'text', maxlength: 500 });
  let good = 0;
  const bad = [];
  const done = await ask(
    {
      title: `${big(verb)} ${plural(ids.length, 'run')}?`,
      kind: kind(verb),
      action: `${big(verb)} ${ids.length}`,
      body: reasoned(verb, reason) ?? h('p', {}, 'One after the other.'),
    },
    async () => {
      for (const id of ids) {
        try {
          await post(`/runs/${id}/${verb}`, reason.value ? { reason: reason.value } : {});
          good++;
        } catch (error) {
          // What the run's state does not allow has a code; anything else ends it.
          if (!error.code) throw error;
          bad.push(error.message);
        }
      }
    },
  );
  if (done)
    say(`${plural(good, 'run')} ${PAST[verb]}${bad.length ? `; ${bad.length} refused: ${bad[0]}` : ''}.`, good ? 'note' : 'bad');
  return done;
}
