'use strict';

const assert = require('node:assert');
const test = require('node:test');
const { handle } = require('..');

const context = { log: { info: () => {} }, method: 'GET', query: { name: 'tiger' } };

test('answers a GET', async () => {
  assert.deepStrictEqual(await handle(context), { body: 'OK', headers: { 'content-type': 'text/plain' } });
});

test('answers a POST', async () => {
  const result = await handle({ ...context, method: 'POST' }, { name: 'tiger' });
  assert.strictEqual(result.body, 'OK');
});
