// Is a server of the Model Context Protocol, made with the official library, over standard
// input and output.
//
//     node mcp_server.js
'use strict';

const { McpServer } = require('@modelcontextprotocol/sdk/server/mcp.js');
const { StdioServerTransport } = require('@modelcontextprotocol/sdk/server/stdio.js');
const types = require('@modelcontextprotocol/sdk/types.js');
const { z } = require('zod');

const server = new McpServer({ name: 'peer', version: '1.0.0' }, {
  capabilities: { logging: {}, resources: { subscribe: true }, tools: {} },
});
const answer = (value) => ({ content: [{ type: 'text', text: JSON.stringify(value) }] });
const progress = (extra, n, total) => extra.sendNotification({
  method: 'notifications/progress',
  params: { progressToken: extra._meta.progressToken, progress: n, total, message: `at ${n}` },
});

// count reports every number up to the argument, and waits for nothing between them.
server.registerTool('count', { inputSchema: { to: z.number() } }, async ({ to }, extra) => {
  for (let n = 1; n <= to; n++) {
    await progress(extra, n, to);
  }
  return answer(to);
});

// late reports once, and three times more when it has been answered, which the protocol forbids.
server.registerTool('late', { inputSchema: {} }, async (_, extra) => {
  await progress(extra, 1, 1);
  setTimeout(async () => {
    for (const n of [2, 3, 4]) {
      await server.server.notification({
        method: 'notifications/progress', params: { progressToken: extra._meta.progressToken, progress: n },
      });
    }
    await server.server.sendLoggingMessage({ level: 'info', data: 'late has ended' });
  });
  return answer('answered');
});

// hang reports once, and goes on until it is cancelled.
let cancellations = 0;
server.registerTool('hang', { inputSchema: {} }, (_, extra) => new Promise((resolve) => {
  extra.signal.addEventListener('abort', async () => {
    cancellations++;
    await server.server.sendLoggingMessage({ level: 'info', data: 'hang was cancelled' });
    resolve(answer('too late'));
  });
  progress(extra, 1);
}));
server.registerTool('cancellations', {}, () => answer(cancellations));

server.registerTool('fail', {}, () => { throw new Error('it failed'); });

// ask calls the client within a call.
server.registerTool('ask', {}, async (extra) => {
  await extra.sendRequest({ method: 'ping' }, types.EmptyResultSchema);
  return answer('the client is there');
});

// The resources, their subscriptions, and the tool that changes them. The changes are numbered.
let changes = 0;
const subscribed = new Set();
for (const name of ['a', 'b']) {
  server.registerResource(name, `note:///${name}`, {}, (uri) => ({ contents: [{ uri: uri.href, text: name }] }));
}
server.server.setRequestHandler(types.SubscribeRequestSchema, ({ params }) => { subscribed.add(params.uri); return {}; });
server.server.setRequestHandler(types.UnsubscribeRequestSchema, ({ params }) => { subscribed.delete(params.uri); return {}; });
server.registerTool('change', { inputSchema: { uri: z.string(), times: z.number() } }, async ({ uri, times }) => {
  const first = changes + 1;
  for (let n = 0; n < times; n++) {
    changes++;
    if (subscribed.has(uri)) {
      await server.server.notification({ method: 'notifications/resources/updated', params: { uri, _meta: { change: changes } } });
    }
  }
  return answer(first);
});
server.registerTool('subscriptions', {}, () => answer([...subscribed].sort()));

server.connect(new StdioServerTransport());
