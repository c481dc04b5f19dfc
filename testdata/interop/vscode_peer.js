// Is Microsoft's vscode-jsonrpc at one end of a connection whose other end is an
// rpcx session.
//
//     node vscode_peer.js PORT       over a socket
//     node vscode_peer.js stdio      over standard input and output
//
// As a server it answers the methods below. At "run" it calls the other end, and
// answers with a line for each of its checks: {"check": name, "detail": why not}.
'use strict';

const assert = require('node:assert/strict');
const net = require('node:net');
const rpc = require('vscode-jsonrpc/node');

const checks = {
  async call(peer) {
    for (const value of ['Howdy', 'naïve ☃ 𝄞 \u2028', 0, -1.5, 2 ** 53, true, null, [1, [null]]]) {
      assert.deepEqual(await peer.sendRequest('echo', rpc.ParameterStructures.byPosition, value), value);
    }
    assert.equal(await peer.sendRequest('sum', 1, 2, 39), 42);
  },

  async named_arguments(peer) {
    assert.equal(await peer.sendRequest('subtract', { subtrahend: 23, minuend: 42 }), 19);
  },

  async errors(peer) {
    const codeOf = (call) => call.then(() => 0, (error) => error.code);
    assert.equal(await codeOf(peer.sendRequest('nothing')), -32601);
    assert.equal(await codeOf(peer.sendRequest('echo', 1, 2)), -32602);
    assert.equal(await codeOf(peer.sendRequest('fail')), -32603);
    const refused = await peer.sendRequest('refuse').then(() => null, (error) => error);
    assert.deepEqual([refused.code, refused.message, refused.data], [42, 'refused: naïve', { why: ['tired'] }]);
  },

  async notification(peer) {
    await peer.sendNotification('note', 'alone');
    assert.equal(await peer.sendRequest('await_note', 'alone'), 'alone');
  },

  async concurrent(peer) {
    const numbers = Array.from({ length: 500 }, (_, n) => n);
    assert.deepEqual(await Promise.all(numbers.map((n) => peer.sendRequest('echo', n))), numbers);
  },

  async large_message(peer) {
    const text = 'é0123456789'.repeat(900_000 / 12);
    assert.equal(await peer.sendRequest('echo', text), text);
  },

  async cancelled(peer) { // by $/cancelRequest
    const source = new rpc.CancellationTokenSource();
    const outcome = peer.sendRequest('hang', source.token).then(() => 0, (error) => error.code);
    source.cancel();
    assert.equal(await outcome, -32800);
    assert.equal(await peer.sendRequest('echo', 'still there'), 'still there');
  },

  async called_back(peer) {
    assert.equal(await peer.sendRequest('call_back', 'double', 21), 42);
  },
};

function serve(reader, writer) {
  const peer = rpc.createMessageConnection(reader, writer);
  peer.onRequest('echo', (value) => value);
  peer.onRequest('double', (n) => 2 * n);
  peer.onRequest('subtract', ({ minuend, subtrahend }) => minuend - subtrahend);
  peer.onRequest('refuse', () => { throw new rpc.ResponseError(42, 'refused: naïve', { why: ['tired'] }); });
  peer.onRequest('call_back', (method, ...args) => peer.sendRequest(method, ...args));
  const noted = [];
  const cancelled = new Promise((tell) => {
    peer.onRequest('hang', (token) => new Promise((resolve) => {
      token.onCancellationRequested(() => { tell('cancelled'); resolve(null); });
    }));
  });
  peer.onRequest('await_cancelled', () => cancelled);
  peer.onNotification('note', (token) => { noted.push(token); });
  peer.onRequest('notes', () => noted);
  peer.onRequest('run', async () => {
    const results = [];
    for (const [check, run] of Object.entries(checks)) {
      results.push({ check, detail: await run(peer).then(() => '', (error) => String(error.stack)) });
    }
    return results;
  });
  peer.onClose(() => process.exit());
  peer.listen();
}

if (process.argv[2] === 'stdio') {
  serve(new rpc.StreamMessageReader(process.stdin), new rpc.StreamMessageWriter(process.stdout));
} else {
  const socket = net.connect(Number(process.argv[2]), '127.0.0.1', () => {
    serve(new rpc.SocketMessageReader(socket), new rpc.SocketMessageWriter(socket));
  });
}
