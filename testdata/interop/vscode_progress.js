// Is Microsoft's vscode-jsonrpc at one end of standard input and output, whose other end is
// an rpcx session. Both ends send each other progress.
//
//     node vscode_progress.js
//
// As a server it answers the methods below. At "run" it calls the other end, and answers
// with a line for each of its checks: {"check": name, "detail": why not}.
'use strict';

const assert = require('node:assert/strict');
const rpc = require('vscode-jsonrpc/node');

const progress = new rpc.ProgressType();
const upTo = (n) => Array.from({ length: n }, (_, i) => i + 1);
const unhandled = []; // progress that nobody has asked for

// collect registers for a token, and returns what comes for it.
function collect(peer, token) {
  const values = [];
  return { values, dispose: peer.onProgress(progress, token, (value) => values.push(value)).dispose };
}

const workDone = (count) => [
  { kind: 'begin', title: 'search' },
  ...upTo(count).map((n) => ({ kind: 'report', message: `at ${n}` })),
  { kind: 'end' },
];

const checks = {
  async two_tokens_in_one_call(peer) {
    for (const [work, part, count] of [['work', 'part', 1], ['w', 7, 300], [0, 'p', 3]]) {
      const [works, parts] = [collect(peer, work), collect(peer, part)];
      assert.equal(await peer.sendRequest('find', { count, workDoneToken: work, partialResultToken: part }), count);
      assert.deepEqual(works.values, workDone(count)); // all of it is here with the reply
      assert.deepEqual(parts.values, upTo(count));
      works.dispose();
      parts.dispose();
    }
  },

  async one_token(peer) {
    const works = collect(peer, 'work');
    assert.equal(await peer.sendRequest('find', { count: 5, workDoneToken: 'work' }), 5);
    assert.deepEqual(works.values, workDone(5));
    const parts = collect(peer, 'part');
    assert.equal(await peer.sendRequest('find', { count: 5, partialResultToken: 'part' }), 5);
    assert.deepEqual(parts.values, upTo(5));
    works.dispose();
    parts.dispose();
  },

  async no_token(peer) {
    assert.equal(await peer.sendRequest('find', { count: 5 }), 5);
  },

  async many_calls(peer) {
    await Promise.all(upTo(50).map(async (n) => {
      const works = collect(peer, `work ${n}`);
      const parts = collect(peer, n);
      await peer.sendRequest('find', { count: n, workDoneToken: `work ${n}`, partialResultToken: n });
      assert.deepEqual(works.values, workDone(n));
      assert.deepEqual(parts.values, upTo(n));
      works.dispose();
      parts.dispose();
    }));
  },

  async cancelled(peer) { // by $/cancelRequest
    const source = new rpc.CancellationTokenSource();
    const seen = [];
    const { dispose } = peer.onProgress(progress, 'endless', (value) => {
      seen.push(value);
      if (seen.length === 3) source.cancel();
    });
    const code = await peer.sendRequest('endless', { workDoneToken: 'endless' }, source.token).then(() => 0, (error) => error.code);
    assert.equal(code, -32800);
    const all = seen.length;
    assert.deepEqual(seen, upTo(all));
    assert.equal(await peer.sendRequest('find', { count: 1 }), 1);
    assert.equal(seen.length, all); // none after the reply
    dispose();
  },

  async nothing_unasked() {
    assert.deepEqual(unhandled, []);
  },
};

const peer = rpc.createMessageConnection(new rpc.StreamMessageReader(process.stdin), new rpc.StreamMessageWriter(process.stdout));

// find sends progress for the tokens that it is given, and waits for nothing.
peer.onRequest('find', ({ count, workDoneToken, partialResultToken }) => {
  const send = (token, value) => { if (token !== undefined) peer.sendProgress(progress, token, value); };
  send(workDoneToken, { kind: 'begin', title: 'search' });
  for (const n of upTo(count)) {
    send(workDoneToken, { kind: 'report', message: `at ${n}` });
    send(partialResultToken, n);
  }
  send(workDoneToken, { kind: 'end' });
  return count;
});

// hang sends three values, and is answered when it is cancelled.
let cancelled = 0;
peer.onRequest('hang', ({ workDoneToken }, token) => new Promise((resolve) => {
  for (const n of upTo(3)) peer.sendProgress(progress, workDoneToken, n);
  token.onCancellationRequested(() => { cancelled++; resolve(null); });
}));
peer.onRequest('cancelled', () => cancelled);

// work makes a token of its own, as language servers do.
peer.onRequest('work', async (count) => {
  const token = `made here ${count}`;
  await peer.sendRequest('window/workDoneProgress/create', { token });
  for (const value of workDone(count)) peer.sendProgress(progress, token, value);
  return token;
});

peer.onRequest('run', async () => {
  peer.onUnhandledProgress((params) => unhandled.push(params));
  const results = [];
  for (const [check, run] of Object.entries(checks)) {
    results.push({ check, detail: await run(peer).then(() => '', (error) => String(error.stack)) });
  }
  return results;
});
peer.onClose(() => process.exit());
peer.listen();
