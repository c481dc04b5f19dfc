// Runs the official client of the Model Context Protocol against a server over streamable
// HTTP: the example mcp with -http.
//
//     node mcp_http_client.js URL
//
// Each check prints a line: {"check": name, "ok": true or false, "detail": why}.
'use strict';

const assert = require('node:assert/strict');
const { Client } = require('@modelcontextprotocol/sdk/client/index.js');
const { StreamableHTTPClientTransport } = require('@modelcontextprotocol/sdk/client/streamableHttp.js');
const types = require('@modelcontextprotocol/sdk/types.js');

// connect returns a client with what it has sent, received and complained of. The client
// would connect its stream again after a millisecond.
async function connect() {
  const peer = { requests: [], wire: [], complaints: [], waiting: [] };
  const responded = {};
  peer.stream = new Promise((resolve) => { responded.GET = resolve; });
  const transport = new StreamableHTTPClientTransport(new URL(process.argv[2]), {
    reconnectionOptions: { initialReconnectionDelay: 1, maxReconnectionDelay: 1, reconnectionDelayGrowFactor: 1, maxRetries: 1000 },
    async fetch(url, init) {
      const response = await fetch(url, init);
      const { method, headers, body } = init;
      const type = response.headers.get('content-type');
      peer.requests.push({ method, version: new Headers(headers).get('mcp-protocol-version'), message: body && JSON.parse(body), status: response.status, type });
      peer.waiting.splice(0).forEach((look) => look());
      responded[method]?.(response);
      return response;
    },
  });
  transport.onmessage = (message) => peer.wire.push(message); // the client calls this before its own
  peer.client = new Client({ name: 'rpcx-interop', version: '1.0.0' }, { capabilities: { roots: { listChanged: true } } });
  peer.client.onerror = (error) => {
    // What is under way when a call is given up has no handler any more.
    if (!peer.givenUp || !String(error).includes('unknown token')) peer.complaints.push(String(error));
  };
  await peer.client.connect(transport);
  return peer;
}

const tool = (peer, name, args, options) => peer.client.callTool({ name, arguments: args }, undefined, options);
const text = (result) => result.content[0].text;
const upTo = (n) => Array.from({ length: n }, (_, i) => i + 1);
const failure = (call) => call.then(() => assert.fail('no error'), (error) => error);
const requestOf = (peer, method) => peer.requests.findLast(({ message }) => message?.method === method);

// count checks that all the progress of a call is here before the call returns, in order.
async function count(peer, to) {
  const seen = [];
  const result = await tool(peer, 'count', { to }, { onprogress: (progress) => seen.push(progress) });
  assert.deepEqual(seen, upTo(to).map((n) => ({ progress: n, total: to, message: `at ${n}` })));
  assert.equal(text(result), `counted to ${to}`);
}

const checks = {
  async initialized(peer) {
    assert.equal(peer.client.getServerVersion().name, 'rpcx-example');
    assert.deepEqual(peer.client.getServerCapabilities(), { tools: {}, resources: {} });
    const [initialize, initialized] = peer.requests;
    assert.equal(initialize.version, null);
    assert.equal(peer.wire[0].result.protocolVersion, '2025-11-25');
    assert.deepEqual([initialized.status, initialized.version], [202, '2025-11-25']);
  },

  async no_stream(peer) {
    assert.equal((await peer.stream).status, 405); // the client asks for one
  },

  async ping(peer) {
    assert.deepEqual(await peer.client.ping(), {});
  },

  async tools(peer) {
    const { tools } = await peer.client.listTools();
    assert.deepEqual(tools.map((tool) => tool.name), ['count', 'write']);
    assert.equal(text(await tool(peer, 'count', { to: 3 })), 'counted to 3');
    assert.match(requestOf(peer, 'tools/call').type, /^application\/json/); // nobody has asked for progress
    assert.equal((await tool(peer, 'count', { to: 'three' })).isError, true);
    assert.equal((await failure(tool(peer, 'nothing', {}))).code, types.ErrorCode.InvalidParams);
    assert.equal((await failure(peer.client.setLoggingLevel('info'))).code, types.ErrorCode.MethodNotFound);
    assert.equal(requestOf(peer, 'logging/setLevel').status, 200);
  },

  async progress(peer) {
    for (const to of [1, 2, 40, 2000]) await count(peer, to);
    assert.match(requestOf(peer, 'tools/call').type, /^text\/event-stream/);
    await count(peer, 0); // nothing to report
    assert.match(requestOf(peer, 'tools/call').type, /^application\/json/);
  },

  async progress_of_calls_at_once(peer) {
    await Promise.all(upTo(60).map((to) => count(peer, to % 7)));
  },

  async resources(peer) {
    assert.equal(text(await tool(peer, 'write', { name: 'shopping list', text: 'bread' })), 'created note:///shopping%20list');
    const { resources } = await peer.client.listResources();
    assert.deepEqual(resources.map(({ uri }) => uri), ['note:///shopping%20list', 'note:///welcome']);
    const other = await connect();
    const { contents } = await other.client.readResource({ uri: 'note:///shopping%20list' });
    assert.equal(contents[0].text, 'bread');
    const error = await failure(other.client.readResource({ uri: 'note:///nothing' }));
    assert.deepEqual([error.code, error.data], [-32002, { uri: 'note:///nothing' }]);
    await other.stream;
    await other.client.close();
    assert.deepEqual(other.complaints, []);
  },

  async notification(peer) {
    await peer.client.sendRootsListChanged();
    assert.equal(requestOf(peer, 'notifications/roots/list_changed').status, 202);
  },

  // A call that is given up gets no reply from the client's point of view, and the client
  // goes on. Each request but the first names the version.
  async given_up(peer) {
    const abort = new AbortController();
    peer.givenUp = true;
    const call = tool(peer, 'count', { to: 100_000 }, { signal: abort.signal, onprogress: () => abort.abort('seen enough') });
    assert.match(String(await failure(call)), /seen enough/);
    assert.deepEqual(await peer.client.ping(), {});
    while (!requestOf(peer, 'notifications/cancelled')) {
      await new Promise((look) => peer.waiting.push(look));
    }
    assert.equal(requestOf(peer, 'notifications/cancelled').status, 202);
  },

  // The last: everything had the time that it takes to connect again.
  async one_get(peer) {
    assert.equal(peer.requests.filter(({ method }) => method === 'GET').length, 1);
    assert.deepEqual([...new Set(peer.requests.map(({ method }) => method))].sort(), ['GET', 'POST']);
    assert.ok(peer.requests.slice(1).every(({ version }) => version === '2025-11-25'));
    await peer.client.close();
  },
};

function timeout() {
  return new Promise((_, reject) => {
    setTimeout(() => reject(new Error('no end within 60 s')), 60_000).unref();
  });
}

(async () => {
  const peer = await connect();
  for (const [check, f] of Object.entries(checks)) {
    const error = await Promise.race([f(peer), timeout()]).then(
      () => peer.complaints.length && new Error(peer.complaints.join('\n')), (error) => error ?? new Error('failed'));
    console.log(JSON.stringify({ check, ok: !error, detail: error ? String(error.stack) : '' }));
  }
  process.exit();
})();
