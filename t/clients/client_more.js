// client_more.js PACKAGE PORT [store|read]: memcache-plus, memcache-client or memcache of npm against the server on
// 127.0.0.1:PORT; exits 1 at the first wrong answer.
'use strict';
const assert = require('assert');

const [name, port, phase] = process.argv.slice(2);
const server = `127.0.0.1:${port}`;
// A client's refusal is false, null or an error: all of them are false here.
const may = (promise) => promise.then((got) => got !== false && got !== null, () => false);
const missing = (got) => got === undefined || got === null;

// What the three call by different names or give in different forms.
const open = {
  'memcache-plus': async () => {
    const m = new (require('memcache-plus'))({ hosts: [server], netTimeout: 120000, maxValueSize: 4 << 20 });
    return {
      m, get: (k) => m.get(k), cas: async (k) => (await m.gets(k))[1],
      many: (keys) => m.getMulti(keys), store: (k, v, ttl) => m.set(k, v, ttl || 0),
      swap: (k, v, cas) => m.cas(k, v, cas, 0), end: () => m.disconnect(),
    };
  },
  'memcache-client': async () => {
    const { MemcacheClient } = require('memcache-client');
    const m = new MemcacheClient({ server, cmdTimeout: 120000 });
    const value = (got) => got && got.value;
    return {
      m, get: async (k) => value(await m.get(k)), cas: async (k) => (await m.gets(k)).casUniq,
      many: async (keys) => Object.fromEntries(Object.entries(await m.get(keys)).map(([k, v]) => [k, v.value])),
      store: (k, v, ttl) => m.set(k, v, { lifetime: ttl || 0 }),
      swap: (k, v, cas) => m.cas(k, v, { casUniq: cas }), end: () => m.shutdown(),
    };
  },
  memcache: async () => {
    const m = new (await import('memcache')).Memcache({ nodes: [server], timeout: 120000 });
    await m.connect();
    return {
      m, get: (k) => m.get(k), many: async (keys) => Object.fromEntries(await m.gets(keys)),
      store: (k, v, ttl) => m.set(k, v, ttl || 0), end: () => m.disconnect(),
    };
  },
};

const flashValue = (i) => String.fromCharCode(33 + (i * 7) % 90).repeat(300 + (i * 37) % 4000) + i;

async function flash(c) {
  for (let i = 0; i < 500; i++) {
    if (phase === 'store') await c.store(`flash-${i}`, flashValue(i));
    else assert.strictEqual(await c.get(`flash-${i}`), flashValue(i), `flash-${i}`);
  }
}

async function all(c) {
  await c.store('a', 'one');
  assert.strictEqual(await c.get('a'), 'one');
  assert.ok(missing(await c.get('missing')));
  if (name !== 'memcache-plus') { // its add, replace and append don't tell what came of them
    assert.strictEqual(await may(c.m.add('a', 'x')), false);
    assert.strictEqual(await may(c.m.add('b', 'two')), true);
    assert.strictEqual(await may(c.m.replace('missing', 'x')), false);
    assert.strictEqual(await may(c.m.replace('b', 'three')), true);
    assert.strictEqual(await may(c.m.append('b', '!')) && await may(c.m.prepend('b', '>')), true);
    assert.strictEqual(await c.get('b'), '>three!');
    assert.strictEqual(await may(c.m.touch('b', 1000)), true);
  } else {
    await c.store('b', 'two');
  }
  assert.strictEqual(await may(c.m.delete('b')), true);
  assert.strictEqual(await may(c.m.delete('b')), false);
  await c.store('n', '10');
  assert.strictEqual(Number(await c.m.incr('n', 5)), 15);
  assert.strictEqual(Number(await c.m.decr('n', 20)), 0);
  if (c.cas) {
    const cas = await c.cas('a');
    assert.strictEqual(await may(c.swap('a', 'two', cas)), true);
    assert.strictEqual(await may(c.swap('a', 'three', cas)), false);
    assert.strictEqual(await c.get('a'), 'two');
  }
  await c.store('brief', 'x', 1);
  for (const end = Date.now() + 120000; !missing(await c.get('brief'));) {
    assert.ok(Date.now() < end, 'waited in vain');
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  const keys = Array.from({ length: 200 }, (_, i) => `many-${i}`);
  await Promise.all(keys.map((k, i) => c.store(k, flashValue(i))));
  const got = await c.many([...keys, 'never-1', 'never-2']);
  keys.forEach((k, i) => assert.strictEqual(got[k], flashValue(i), k));
  for (const size of [500000, 1000000]) {
    await c.store('big', 'x'.repeat(size));
    assert.strictEqual(await c.get('big'), 'x'.repeat(size));
  }
}

(async () => {
  const c = await open[name]();
  await (phase ? flash(c) : all(c));
  if (!phase) console.log(`npm ${name}: all answers as from memcached`);
  await c.end();
})().catch((error) => {
  console.error(error);
  process.exit(1);
});
