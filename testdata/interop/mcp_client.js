// Runs the official client of the Model Context Protocol against a server over standard
// input and output: the example mcp.
//
//     node mcp_client.js PROGRAM
//
// Each check prints a line: {"check": name, "ok": true or false, "detail": why}.
'use strict';

const assert = require('node:assert/strict');
const { Client } = require('@modelcontextprotocol/sdk/client/index.js');
const { StdioClientTransport } = require('@modelcontextprotocol/sdk/client/stdio.js');
const types = require('@modelcontextprotocol/sdk/types.js');

// step is the time that the tool count takes for each number.
function newTransport(step) {
  return new StdioClientTransport({ command: process.argv[2], args: ['-step', step], stderr: 'inherit' });
}

// News collects what notifications bring, and hands it out in order.
class News {
  items = [];
  #waiting = [];
  add(item) {
    this.items.push(item);
    this.#waiting.splice(0).forEach((look) => look());
  }
  async until(enough) {
    while (!enough(this.items)) {
      await new Promise((look) => this.#waiting.push(look));
    }
    return this.items.splice(0);
  }
}

// connect returns a client, what the server has sent as it was on the wire, and what the
// client complains of.
async function connect(step) {
  const transport = newTransport(step);
  const peer = { wire: [], complaints: [], updates: new News(), logs: new News(), lists: new News() };
  transport.onmessage = (message) => peer.wire.push(message); // the client calls this before its own
  peer.client = new Client({ name: 'rpcx-interop', version: '1.0.0' }, { capabilities: { roots: { listChanged: true } } });
  peer.client.onerror = (error) => peer.complaints.push(String(error));
  const news = (schema, to, field) => peer.client.setNotificationHandler(schema, ({ params }) => to.add(field ? params[field] : params));
  news(types.ResourceUpdatedNotificationSchema, peer.updates, 'uri');
  news(types.LoggingMessageNotificationSchema, peer.logs);
  news(types.ResourceListChangedNotificationSchema, peer.lists);
  await peer.client.connect(transport);
  peer.child = transport._process;
  return peer;
}

const tool = (peer, name, args, options) => peer.client.callTool({ name, arguments: args }, undefined, options);
const text = (result) => result.content[0].text;
const upTo = (n) => Array.from({ length: n }, (_, i) => i + 1);
const failure = (call) => call.then(() => assert.fail('no error'), (error) => error);

// countWithProgress checks that all the progress of a call is here before the call returns,
// in order, on the wire as well.
async function countWithProgress(peer, to) {
  const seen = [];
  peer.wire.length = 0;
  const result = await tool(peer, 'count', { to }, { onprogress: (progress) => seen.push(progress) });
  const want = upTo(to).map((n) => ({ progress: n, total: to, message: `at ${n}` }));
  assert.deepEqual(seen, want);
  assert.equal(text(result), `counted to ${to}`);
  const sent = peer.wire.filter(({ method }) => method === 'notifications/progress');
  assert.deepEqual(sent.map(({ params: { progressToken, ...progress } }) => progress), want);
  assert.deepEqual(peer.wire.at(-1).result, result); // the reply is the last message
}

const checks = {
  async initialized(peer) {
    assert.equal(peer.client.getServerVersion().name, 'rpcx-example');
    assert.deepEqual(Object.keys(peer.client.getServerCapabilities()).sort(), ['logging', 'resources', 'tools']);
    assert.equal(peer.wire[0].result.protocolVersion, types.LATEST_PROTOCOL_VERSION);
  },

  async ping(peer) {
    assert.deepEqual(await peer.client.ping(), {});
  },

  async tools(peer) {
    const { tools } = await peer.client.listTools();
    assert.deepEqual(tools.map((tool) => tool.name), ['count', 'write']);
    const result = await tool(peer, 'count', { to: 3 });
    assert.equal(text(result), 'counted to 3');
    assert.equal(result.isError, false);
    assert.equal((await tool(peer, 'count', { to: 'three' })).isError, true);
    assert.equal((await failure(tool(peer, 'nothing', {}))).code, types.ErrorCode.InvalidParams);
    assert.equal((await failure(peer.client.listPrompts())).code, types.ErrorCode.MethodNotFound);
  },

  async progress(peer) {
    for (const to of [1, 2, 40]) await countWithProgress(peer, to);
  },

  async progress_in_a_burst() {
    const peer = await connect('0s');
    for (const to of [0, 1, 2, 3, 2000]) await countWithProgress(peer, to);
    assert.deepEqual(peer.complaints, []);
    await peer.client.close();
  },

  async progress_of_calls_at_once(peer) {
    await Promise.all(upTo(60).map(async (to) => {
      const seen = [];
      await tool(peer, 'count', { to: to % 7 }, { onprogress: ({ progress }) => seen.push(progress) });
      assert.deepEqual(seen, upTo(to % 7));
    }));
  },

  async cancelled(peer) {
    await peer.logs.until(() => true); // older ones
    const abort = new AbortController();
    let seen = 0;
    const call = tool(peer, 'count', { to: 100_000 }, {
      signal: abort.signal,
      onprogress: () => { if (++seen === 3) abort.abort('seen enough'); },
    });
    assert.match(String(await failure(call)), /seen enough/);
    await peer.logs.until((logs) => logs.some(({ data }) => data === 'count was cancelled'));
    const id = peer.wire.findLast(({ method }) => method === 'notifications/progress').params.progressToken;
    assert.deepEqual(await peer.client.ping(), {});
    assert.deepEqual(peer.wire.filter((message) => message.id === id && !message.method), []); // it is not answered
    // What was under way when the call was given up has no handler any more.
    peer.complaints = peer.complaints.filter((complaint) => !complaint.includes('unknown token'));
  },

  async resources(peer) {
    assert.equal(text(await tool(peer, 'write', { name: 'shopping list', text: 'bread' })), 'created note:///shopping%20list');
    await peer.lists.until((lists) => lists.length === 1);
    const { resources } = await peer.client.listResources();
    assert.deepEqual(resources.map(({ uri }) => uri), ['note:///shopping%20list', 'note:///welcome']);
    const { contents } = await peer.client.readResource({ uri: 'note:///shopping%20list' });
    assert.equal(contents[0].text, 'bread');
    const error = await failure(peer.client.readResource({ uri: 'note:///nothing' }));
    assert.deepEqual([error.code, error.data], [-32002, { uri: 'note:///nothing' }]);
  },

  async subscriptions(peer) {
    const [a, b] = ['note:///a', 'note:///b'];
    const write = (uri, text) => tool(peer, 'write', { name: uri.slice('note:///'.length), text });
    assert.equal((await failure(peer.client.subscribeResource({ uri: a }))).code, -32002);
    await write(a, '');
    await write(b, '');
    await write(a, 'not subscribed');
    assert.deepEqual(await peer.client.subscribeResource({ uri: a }), {});
    assert.deepEqual(await peer.client.subscribeResource({ uri: a }), {}); // once more changes nothing
    assert.deepEqual(await peer.client.subscribeResource({ uri: b }), {});
    for (const n of upTo(50)) {
      await write(n % 5 ? a : b, String(n));
    }
    const updates = await peer.updates.until((updates) => updates.length === 50);
    assert.deepEqual(updates, upTo(50).map((n) => (n % 5 ? a : b)));
    assert.deepEqual(await peer.client.unsubscribeResource({ uri: a }), {});
    await write(a, 'not subscribed');
    await write(b, 'the last');
    assert.deepEqual(await peer.updates.until((updates) => updates.includes(b)), [b]);
    await peer.client.unsubscribeResource({ uri: b });
    assert.deepEqual(await peer.client.unsubscribeResource({ uri: b }), {});
    await peer.client.subscribeResource({ uri: a });
    await write(a, 'subscribed again');
    assert.deepEqual(await peer.updates.until((updates) => updates.length > 0), [a]);
    await peer.client.unsubscribeResource({ uri: a });
    await peer.client.ping();
    assert.deepEqual(peer.updates.items, []);
  },

  async logging(peer) {
    await peer.client.ping();
    await peer.logs.until(() => true); // older ones
    assert.deepEqual(await peer.client.setLoggingLevel('error'), {});
    await tool(peer, 'count', { to: 0 });
    await tool(peer, 'count', {}); // fails
    assert.deepEqual(await peer.client.setLoggingLevel('warning'), {});
    await tool(peer, 'count', { to: 0 });
    await tool(peer, 'count', {});
    const logs = await peer.logs.until((logs) => logs.length > 0);
    assert.deepEqual(logs, [{ level: 'warning', logger: 'rpcx-example', data: 'count has failed' }]);
    assert.equal((await failure(peer.client.request({ method: 'logging/setLevel', params: { level: 'loud' } }, types.EmptyResultSchema))).code, -32602);
    await peer.client.setLoggingLevel('info');
  },

  // The last: the program ends by itself when its input is closed, also while a tool is running.
  async closed(peer) {
    const exit = new Promise((resolve) => peer.child.on('exit', (code, signal) => resolve({ code, signal })));
    const call = failure(tool(peer, 'count', { to: 100_000 }, { onprogress: () => peer.client.close() }));
    assert.equal((await call).code, types.ErrorCode.ConnectionClosed);
    assert.deepEqual(await exit, { code: 0, signal: null });
    peer.complaints.length = 0; // the progress that was under way
  },
};

// The client does not send what must not come first: here the transport does.
async function beforeInitialize() {
  for (const version of ['2025-06-18', '2025-11-25', '1999-01-01']) {
    const transport = newTransport('0s');
    const replies = new News();
    transport.onmessage = (message) => replies.add(message);
    await transport.start();
    const say = (id, method, params) => transport.send({ jsonrpc: '2.0', id, method, params });
    await say(0, 'ping');
    await say(1, 'tools/list');
    await say(2, 'initialize', { protocolVersion: version, capabilities: {}, clientInfo: { name: 'rpcx-interop', version: '1.0.0' } });
    await say(3, 'tools/list');
    const [ping, early, initialized, tools] = await replies.until((items) => items.length === 4);
    assert.deepEqual(ping, { jsonrpc: '2.0', id: 0, result: {} });
    assert.equal(early.error.code, types.ErrorCode.MethodNotFound);
    assert.equal(initialized.id, 2);
    assert.equal(initialized.result.protocolVersion, version === '1999-01-01' ? '2025-11-25' : version);
    assert.equal(tools.result.tools.length, 2);
    await transport.close();
  }
}

function timeout() {
  return new Promise((_, reject) => {
    setTimeout(() => reject(new Error('no end within 30 s')), 30_000).unref();
  });
}

async function run(check, f) {
  const error = await Promise.race([f(), timeout()]).then(() => null, (error) => error ?? new Error('failed'));
  console.log(JSON.stringify({ check, ok: !error, detail: error ? String(error.stack) : '' }));
}

(async () => {
  await run('before_initialize', beforeInitialize);
  const peer = await connect('5ms');
  for (const [check, f] of Object.entries(checks)) {
    await run(check, async () => {
      await f(peer);
      assert.deepEqual(peer.complaints, []);
    });
  }
  process.exit();
})();
