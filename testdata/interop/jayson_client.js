// Runs jayson's client against an rpcx server, over TCP or HTTP.
//
//     node jayson_client.js PORT|URL [VERSION]
//
// Over TCP, jayson makes a connection for each request. Each check prints a line:
// {"check": name, "ok": true or false, "detail": why}.
'use strict';

const assert = require('node:assert/strict');
const { urlToHttpOptions } = require('node:url');
const jayson = require('jayson');

const version = Number(process.argv[3] ?? 2);
const web = process.argv[2].startsWith('http://');
const client = web
  ? jayson.Client.http({ ...urlToHttpOptions(new URL(process.argv[2])), version })
  : jayson.Client.tcp({ host: '127.0.0.1', port: Number(process.argv[2]), version });

// send sends a request, or a batch of them, and promises the whole response.
function send(request) {
  return new Promise((resolve, reject) => {
    client.request(request, (err, response) => (err ? reject(err) : resolve(response)));
  });
}

// request makes a request; without an id jayson gives it a UUID, with null it is
// a notification.
const request = (method, params, id) => client.request(method, params, id);

async function call(method, params) {
  const response = await send(request(method, params));
  assert.equal(response.error ?? null, null);
  return response.result;
}

async function errorOf(method, params) {
  return (await send(request(method, params))).error;
}

const checks = {
  async call() {
    for (const value of ['Howdy', 'naïve ☃ 𝄞 \u2028', 0, -1.5, 2 ** 53, true, null, [], { a: [null] }]) {
      assert.deepEqual(await call('echo', [value]), value);
    }
    assert.equal(await call('sum', [1, 2, 39]), 42);
  },

  async named_arguments() {
    assert.equal(await call('subtract', { subtrahend: 23, minuend: 42 }), 19);
  },

  async ids() {
    for (const id of ['', 'é"\\', 0, -7, 1.5, 2 ** 53]) {
      assert.deepEqual(await send(request('echo', ['id'], id)), { jsonrpc: '2.0', id, result: 'id' });
    }
  },

  async errors() {
    assert.deepEqual(await errorOf('nothing', []), { code: -32601, message: 'unknown method "nothing"' });
    assert.equal((await errorOf('echo', [])).code, -32602);
    assert.deepEqual(await errorOf('refuse', []), { code: 42, message: 'refused: naïve', data: { why: ['tired'] } });
    assert.deepEqual(await errorOf('fail', []), { code: -32603, message: 'internal server error' });
  },

  async invalid_requests() { // which jayson would not make
    assert.equal((await send({ jsonrpc: '3.0', id: 1, method: 'echo' })).error.code, -32600);
    assert.equal((await send([])).error.code, -32600);
  },

  async notification() {
    await send(request('note', ['alone'], null));
    assert.equal(await call('await_note', ['alone']), 'alone');
  },

  async concurrent() {
    const numbers = Array.from({ length: 200 }, (_, n) => n);
    assert.deepEqual(await Promise.all(numbers.map((n) => call('echo', [n]))), numbers);
  },

  async batch() {
    const responses = await send([
      request('echo', ['first'], 1),
      request('note', ['in a batch'], null),
      request('nothing', [], 2),
      request('refuse', [], 'three'),
      request('subtract', { minuend: 3, subtrahend: 1 }, 4),
      request('echo', ['last'], 5),
    ]);
    const outcomes = responses.map(({ id, result, error }) => [id, error?.code ?? result]);
    assert.deepEqual(outcomes, [[1, 'first'], [2, -32601], ['three', 42], [4, 2], [5, 'last']]);
    assert.equal(await call('await_note', ['in a batch']), 'in a batch');
  },

  async large_message() {
    const text = 'é0123456789'.repeat(900_000 / 12);
    assert.equal(await call('echo', [text]), text);
  },

  async connection_lost() {
    assert.equal(await send(request('hangup', [])), undefined);
  },
};

// What is not so in version 1.0, or not there.
if (version === 1) {
  for (const check of ['named_arguments', 'ids', 'invalid_requests', 'batch']) {
    delete checks[check];
  }
}
if (web) {
  delete checks.connection_lost; // a request gets an answer in any case
}

function timeout() {
  return new Promise((_, reject) => {
    setTimeout(() => reject(new Error('no answer for 30 s')), 30_000).unref();
  });
}

(async () => {
  for (const [check, run] of Object.entries(checks)) {
    const err = await Promise.race([run(), timeout()]).then(() => null, (err) => err);
    console.log(JSON.stringify({ check, ok: !err, detail: err ? String(err.stack) : '' }));
  }
  process.exit(); // jayson leaves the connections of unanswered requests open
})();
