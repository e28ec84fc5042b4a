// Forms for values that a JSON Schema describes.

import { h, put } from './dom.js';
import { parse } from './format.js';
import { Problem } from './api.js';
import { complain, field } from './parts.js';

// A form made from a JSON Schema, with the JSON itself as its other half. `read` gives the value, or throws.
export function schemaForm(schema, given) {
  const simple = schema?.properties && Object.values(schema.properties).every(p => scalar(p));
  const area = h('textarea', { rows: 8, spellcheck: 'false', class: 'code', 'aria-label': 'JSON' });
  const inputs = [];
  const root = h('div', { class: 'schema-form' });
  let raw = !simple;
  const start = given ?? {};
  area.value = JSON.stringify(start, null, 2);
  if (simple) {
    for (const [key, p] of Object.entries(schema.properties)) {
      const input = control(p, start[key] ?? p.default);
      inputs.push([key, p, input]);
    }
  }
  const collect = () => {
    const value = { ...start };
    for (const [key, p, input] of inputs) {
      const text = input.type === 'checkbox' ? input.checked : input.value;
      if (input.type === 'checkbox') {
        if (text || key in value || schema.required?.includes(key)) value[key] = text;
        continue;
      }
      if (text === '') {
        delete value[key];
        continue;
      }
      value[key] = p.enum
        ? p.enum[input.selectedIndex - 1]
        : kinds(p).some(k => k === 'integer' || k === 'number')
          ? number(text, key)
          : text;
    }
    return value;
  };
  const parsed = () => {
    try {
      return parse(area.value || 'null');
    } catch (error) {
      throw new Problem(400, { detail: `That is no JSON: ${error.message}` });
    }
  };
  const draw = () =>
    put(
      root,
      raw
        ? area
        : inputs.map(([key, p, input]) => field(key + (schema.required?.includes(key) ? ' *' : ''), input, p.description)),
      simple
        ? h(
            'button',
            {
              type: 'button',
              class: 'link-button',
              onclick: () => {
                try {
                  if (raw) {
                    Object.assign(start, parsed());
                    for (const [key, , input] of inputs) setControl(input, start[key]);
                  } else area.value = JSON.stringify(collect(), null, 2);
                  raw = !raw;
                  draw();
                } catch (error) {
                  complain(error);
                }
              },
            },
            raw ? 'As a form' : 'As JSON',
          )
        : null,
    );
  draw();
  return { root, read: () => (raw ? parsed() : collect()) };
}

const kinds = p => [p.type ?? 'string'].flat();
const scalar = p =>
  typeof p === 'object' &&
  (p.enum || (kinds(p).every(k => ['string', 'integer', 'number', 'boolean', 'null'].includes(k)) && p.type)) &&
  !p.properties;
const number = (text, key) => {
  const value = Number(text);
  if (Number.isNaN(value)) throw new Problem(400, { detail: `${key}: ${text} is no number` });
  return value;
};
function control(p, value) {
  let input;
  if (p.enum)
    input = h(
      'select',
      {},
      h('option', { value: '' }, '–'),
      p.enum.map(v => h('option', { value: String(v) }, String(v))),
    );
  else if (kinds(p).includes('boolean')) input = h('input', { type: 'checkbox' });
  else if (kinds(p).some(k => k === 'integer' || k === 'number'))
    input = h('input', { type: 'number', step: kinds(p).includes('integer') ? 1 : 'any', min: p.minimum, max: p.maximum });
  else input = p.maxLength > 200 ? h('textarea', { rows: 3 }) : h('input', { type: 'text', maxlength: p.maxLength });
  setControl(input, value);
  return input;
}
function setControl(input, value) {
  if (input.type === 'checkbox') input.checked = value === true;
  else input.value = value == null ? '' : String(value);
}
