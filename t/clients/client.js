// npm's memcached against the server on 127.0.0.1:PORT; exits 1 at the first wrong answer.
'use strict';
const assert = require('assert');
const crypto = require('crypto');
const Memcached = require('memcached');

const m = new Memcached(`127.0.0.1:${process.argv[2]}`,
  { timeout: 120000, maxValue: 16 << 20, poolSize: 4, retries: 0 });

// ask('get', 'a') resolves to what the client's callback gets.
const ask = (verb, ...args) => new Promise((resolve, reject) =>
  m[verb](...args, (error, data) => (error ? reject(error) : resolve(data))));
const refused = async (verb, ...args) => {
  try {
    assert.ok(!(await ask(verb, ...args)), `${verb} ${args[0]}`);
  } catch (error) {
    if (error instanceof assert.AssertionError) throw error; // else: the client calls it an error
  }
};
async function waitUntil(condition) {
  const end = Date.now() + 120000;
  while (!(await condition())) {
    assert.ok(Date.now() < end, 'waited in vain');
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

async function basics() {
  assert.ok(await ask('set', 'a', 'one', 0));
  assert.strictEqual(await ask('get', 'a'), 'one');
  assert.strictEqual(await ask('get', 'missing'), undefined);
  await refused('add', 'a', 'x', 0);
  assert.ok(await ask('add', 'b', 'two', 0));
  await refused('replace', 'missing', 'x', 0);
  assert.ok(await ask('replace', 'b', 'three', 0));
  assert.ok(await ask('append', 'b', '!'));
  assert.ok(await ask('prepend', 'b', '>'));
  assert.strictEqual(await ask('get', 'b'), '>three!');
  assert.strictEqual(await ask('del', 'b'), true);
  assert.strictEqual(await ask('del', 'b'), false);
  const noise = Buffer.from(Array.from({ length: 768 }, (_, i) => i % 256));
  assert.ok(await ask('set', 'noise', noise, 0));
  assert.ok(noise.equals(await ask('get', 'noise')));
  assert.ok(await ask('set', 'object', { x: [1, null, 'y'] }, 0));
  assert.deepStrictEqual(await ask('get', 'object'), { x: [1, null, 'y'] });
}

async function numbersAndCas() {
  assert.ok(await ask('set', 'n', '10', 0));
  assert.strictEqual(await ask('incr', 'n', 5), 15);
  assert.strictEqual(Number(await ask('decr', 'n', 20)), 0);
  assert.strictEqual(await ask('incr', 'missing', 1), false);
  assert.ok(await ask('set', 'c', 'one', 0));
  const got = await ask('gets', 'c');
  assert.strictEqual(got.c, 'one');
  assert.strictEqual(await ask('cas', 'c', 'two', got.cas, 0), true);
  assert.strictEqual(await ask('cas', 'c', 'three', got.cas, 0), false);
  assert.strictEqual(await ask('get', 'c'), 'two');
}

async function expiry() {
  await waitUntil(async () => { // again, if a second has passed in between
    assert.ok(await ask('set', 'later', 'x', 1));
    return ask('touch', 'later', 1000).catch(() => false);
  });
  assert.ok(await ask('set', 'brief', 'x', 1));
  await waitUntil(async () => (await ask('get', 'brief')) === undefined);
  assert.ok(await ask('set', 'gone', 'x', 1));
  await waitUntil(async () => (await ask('get', 'gone')) === undefined);
  assert.strictEqual(await ask('get', 'later'), 'x');
  await refused('touch', 'missing', 5);
}

async function many() {
  const values = {};
  for (let i = 0; i < 1000; i++)
    values[`many-${i}`] = crypto.randomBytes(1 + (i * 37) % 1500).toString('hex');
  await Promise.all(Object.entries(values).map(([k, v]) => ask('set', k, v, 0)));
  const asked = Object.keys(values).concat(Array.from({ length: 50 }, (_, i) => `never-${i}`));
  const got = await ask('getMulti', asked);
  assert.strictEqual(Object.keys(got).length, 1000);
  for (const k of Object.keys(values)) assert.strictEqual(got[k], values[k], k);
}

// The client sends a Buffer as UTF-8 of its bytes: 2 MB of noise are 3 MB on the wire.
async function big() {
  for (const size of [500000, 1 << 20, 2000000]) {
    const value = crypto.randomBytes(size);
    assert.ok(await ask('set', 'big', value, 0));
    assert.ok(value.equals(await ask('get', 'big')), `big value of ${size}`);
  }
}

async function admin() {
  const stats = await ask('stats');
  assert.ok(Number(stats[0].curr_items) > 0 && Number(stats[0].cmd_set) > 0);
  const version = await ask('version');
  assert.match(version[0].version, /^\d+\.\d+\.\d+$/);
  assert.ok(await ask('settings'));
  assert.ok(await ask('slabs'));
  assert.ok(await ask('items'));
  assert.ok(await ask('flush'));
  assert.strictEqual(await ask('get', 'a'), undefined);
  assert.ok(await ask('set', 'a', 'x', 0));
  assert.strictEqual(await ask('get', 'a'), 'x');
}

(async () => {
  for (const part of [basics, numbersAndCas, expiry, many, big, admin]) await part();
  console.log('npm memcached: all answers as from memcached');
  m.end();
})().catch((error) => {
  console.error(error);
  process.exit(1);
});
