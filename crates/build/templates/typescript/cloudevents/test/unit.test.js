'use strict';

const assert = require('node:assert');
const test = require('node:test');
const { handle } = require('../build');

// Stands in for the platform: it collects what the function puts into its answer.
const cloudEventResponse = data => {
  const event = { data };
  const builder = { response: () => event };
  for (const name of ['id', 'source', 'type', 'version']) {
    builder[name] = value => {
      event[name] = value;
      return builder;
    };
  }
  return builder;
};

test('answers with an event', async () => {
  const context = { log: { info: () => {} }, cloudEventResponse };
  const event = await handle(context, { id: '1', source: '/test', type: 'test', data: { name: 'tiger' } });
  assert.deepStrictEqual(event.data, { message: 'OK' });
  assert.strictEqual(event.type, 'function.response');
  assert.strictEqual(event.source, 'function');
  assert.strictEqual(event.id, 'response-1');
});
