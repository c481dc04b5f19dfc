// Runs node's own fetch against a server of JSON-RPC 2.0 over HTTP.
//
//     node fetch_client.js URL
//
// Each check prints a line: {"check": name, "ok": true or false, "detail": why}.
'use strict';

const assert = require('node:assert/strict');
const zlib = require('node:zlib');
const { run } = require('./ethereum_node');

const url = process.argv[2];
const request = (method, params, id = 1) => ({ jsonrpc: '2.0', method, params, id });
const post = (body, { headers = {}, ...init } = {}) => fetch(url, {
  method: 'POST',
  headers: { 'content-type': 'application/json', ...headers },
  body: typeof body === 'string' || body instanceof ReadableStream || ArrayBuffer.isView(body) ? body : JSON.stringify(body),
  ...init,
});
const call = async (method, params, init) => (await (await post(request(method, params), init)).json()).result;

const checks = {
  async call() {
    for (const value of ['Howdy', 'naïve ☃ 𝄞 \u2028', 0, -1.5, 2 ** 53, true, null, [], { a: [null] }]) {
      const response = await post(request('echo', [value], 'an id'));
      assert.equal(response.status, 200);
      assert.match(response.headers.get('content-type'), /^application\/json/);
      assert.deepEqual(await response.json(), { jsonrpc: '2.0', id: 'an id', result: value });
    }
  },

  async errors_are_answers() {
    for (const [message, code] of [[request('nothing', []), -32601], [request('refuse', []), 42], ['{', -32700], ['{}', -32600]]) {
      const response = await post(message);
      assert.equal(response.status, 200);
      assert.equal((await response.json()).error.code, code);
    }
  },

  async nothing_to_answer() {
    for (const message of [{ ...request('note', ['fetched']), id: undefined }, [{ ...request('echo', ['x']), id: undefined }]]) {
      const response = await post(message);
      assert.equal(response.status, 204);
      assert.equal(await response.text(), '');
    }
    assert.equal(await call('await_note', ['fetched']), 'fetched');
  },

  async batch() {
    const replies = await (await post(Array.from({ length: 1000 }, (_, n) => request('echo', [n], n)))).json();
    assert.deepEqual(replies.map(({ id, result }) => [id, result]), Array.from({ length: 1000 }, (_, n) => [n, n]));
  },

  async at_once() {
    const numbers = Array.from({ length: 200 }, (_, n) => n);
    assert.deepEqual(await Promise.all(numbers.map((n) => call('echo', [n]))), numbers);
  },

  async streamed_body() { // chunked
    const text = JSON.stringify(request('echo', ['in parts']));
    const body = new ReadableStream({
      start(controller) {
        for (const byte of Buffer.from(text)) controller.enqueue(new Uint8Array([byte]));
        controller.close();
      },
    });
    assert.deepEqual(await (await post(body, { duplex: 'half' })).json(), { jsonrpc: '2.0', id: 1, result: 'in parts' });
  },

  async gzip() {
    const text = 'rain '.repeat(10_000);
    const body = zlib.gzipSync(JSON.stringify(request('echo', [text])));
    const response = await post(body, { headers: { 'content-encoding': 'gzip' } }); // fetch accepts gzip by itself
    assert.equal(response.headers.get('content-encoding'), 'gzip');
    assert.equal((await response.json()).result, text);
  },

  async refused() {
    const message = request('echo', ['never']);
    assert.equal((await post(message, { headers: { 'content-type': 'text/plain' } })).status, 415);
    assert.equal((await post(message, { headers: { 'content-type': 'application/json; charset=latin1' } })).status, 415);
    assert.equal((await post(message, { headers: { 'content-encoding': 'br' } })).status, 415);
    assert.equal((await post(message, { headers: { origin: 'http://other.example' } })).status, 403);
    const get = await fetch(url);
    assert.equal(get.status, 405);
    assert.match(get.headers.get('allow'), /POST/);
  },

  async events() {
    const response = await post(request('count', [3]), { headers: { accept: 'application/json, text/event-stream' } });
    assert.match(response.headers.get('content-type'), /^text\/event-stream/);
    const events = (await response.text()).split('\n').filter((line) => line.startsWith('data:')).map((line) => JSON.parse(line.slice(5)));
    assert.deepEqual(events.map(({ method, params, result }) => [method ?? result, params?.[0]]),
      [['at', 1], ['at', 2], ['at', 3], [3, undefined]]);
  },

  async events_come_at_once() { // the handler waits for what the event causes
    const response = await post(request('ask_note', ['asked']), { headers: { accept: 'text/event-stream, application/json' } });
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let text = '';
    while (!text.includes('"asked"')) text += (await reader.read()).value;
    await call('note', ['asked']);
    for (let chunk; !(chunk = await reader.read()).done;) text += chunk.value;
    assert.match(text, /data: ?\{"jsonrpc":"2.0","result":"asked","id":1\}/);
  },

  async no_events_for_others() { // the notification fails in the handler
    const response = await post(request('count', [3]));
    assert.match(response.headers.get('content-type'), /^application\/json/);
    assert.equal((await response.json()).error.code, -32603);
  },

  async given_up() { // the context of the handler ends
    const abort = new AbortController();
    const hanging = post(request('hang_noting', ['given up']), { signal: abort.signal });
    assert.equal(await call('await_note', ['given up']), 'given up'); // it has begun
    abort.abort();
    await assert.rejects(hanging, { name: 'AbortError' });
    assert.equal(await call('await_note', ['given up']), 'given up');
  },
};

run(checks);
