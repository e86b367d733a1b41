// client_memjs.js PORT [store|read]: npm's memjs (binary protocol) against the server on 127.0.0.1:PORT; exits 1
// at the first wrong answer. With SASL_USER and SASL_PASSWORD it logs in first.
'use strict';
const assert = require('assert');
const memjs = require('memjs');

const options = { timeout: 120, conntimeout: 120, retries: 1, expires: 0 };
if (process.env.SASL_USER) {
  options.username = process.env.SASL_USER;
  options.password = process.env.SASL_PASSWORD;
}
const m = memjs.Client.create(`127.0.0.1:${process.argv[2]}`, options);

// Bytes that a seed decides.
function noise(seed, size) {
  const bytes = Buffer.alloc(size);
  let x = seed + 1;
  for (let i = 0; i < size; i++) {
    x = (Math.imul(x, 1103515245) + 12345) >>> 0;
    bytes[i] = x >>> 16;
  }
  return bytes;
}
const value = async (key) => (await m.get(key)).value;
async function waitUntil(condition) {
  const end = Date.now() + 120000;
  while (!(await condition())) {
    assert.ok(Date.now() < end, 'waited in vain');
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

async function throughFlash(phase) {
  for (let i = 0; i < 500; i++) {
    const bytes = noise(i, 300 + (i * 37) % 5000);
    if (phase === 'store') assert.ok(await m.set(`flash-${i}`, bytes, {}));
    else assert.ok(bytes.equals(await value(`flash-${i}`)), `flash-${i}`);
  }
}

async function all() {
  assert.ok(await m.set('a', 'one', {}));
  assert.strictEqual(String(await value('a')), 'one');
  assert.strictEqual(await value('missing'), null);
  assert.strictEqual(await m.add('a', 'x', {}), false);
  assert.strictEqual(await m.add('b', 'two', {}), true);
  assert.strictEqual(await m.replace('missing', 'x', {}), false);
  assert.strictEqual(await m.replace('b', 'three', {}), true);
  assert.strictEqual(await m.append('b', '!'), true);
  assert.strictEqual(String(await value('b')), 'three!');
  await assert.rejects(m.append('missing', '!'));
  assert.strictEqual(await m.delete('b'), true);
  assert.strictEqual(await m.delete('b'), false);
  const number = await m.increment('n', 5, { initial: 10 });
  assert.deepStrictEqual([number.success, number.value], [true, 10]);
  assert.strictEqual((await m.increment('n', 5, {})).value, 15);
  assert.strictEqual((await m.decrement('n', 20, {})).value, 0);
  await waitUntil(async () => { // again, if a second has passed in between
    assert.ok(await m.set('later', 'x', { expires: 1 }));
    return m.touch('later', 1000);
  });
  assert.strictEqual(await m.touch('missing', 1000), false);
  assert.ok(await m.set('gone', 'x', { expires: 1 }));
  await waitUntil(async () => (await value('gone')) === null);
  assert.strictEqual(String(await value('later')), 'x');
  for (const size of [0, 1, 500000, 1 << 20, 3000000]) {
    assert.ok(await m.set('big', noise(size, size), {}));
    const got = await value('big');
    assert.ok(noise(size, size).equals(got || Buffer.alloc(0)), `${size}`);
  }
  await Promise.all(Array.from({ length: 1000 }, (_, i) => m.set(`many-${i}`, noise(i, 1 + (i * 37) % 1500), {})));
  const got = await Promise.all(Array.from({ length: 1000 }, (_, i) => value(`many-${i}`)));
  got.forEach((v, i) => assert.ok(noise(i, 1 + (i * 37) % 1500).equals(v), `many-${i}`));
  const stats = await new Promise((resolve, reject) =>
    m.stats((error, server, s) => (error ? reject(error) : resolve(s))));
  assert.ok(Number(stats.curr_items) > 0 && Number(stats.cmd_set) > 0);
  await new Promise((resolve, reject) => m.flush((error) => (error ? reject(error) : resolve())));
  assert.strictEqual(await value('a'), null);
  assert.ok(await m.set('a', 'x', {}));
  assert.strictEqual(String(await value('a')), 'x');
  console.log('memjs: all answers as from memcached');
}

(process.argv[3] ? throughFlash(process.argv[3]) : all()).then(() => m.close(), (error) => {
  console.error(error);
  process.exit(1);
});
