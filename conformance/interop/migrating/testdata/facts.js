// Is a server of vscode-jsonrpc with the methods of facts_server_test.go.
'use strict';

const net = require('node:net');
const rpc = require('vscode-jsonrpc/node');

const server = net.createServer((socket) => {
  const peer = rpc.createMessageConnection(new rpc.SocketMessageReader(socket), new rpc.SocketMessageWriter(socket));
  peer.onRequest('sum', (a, b) => a + b);
  peer.onRequest('point', (p) => p.x + p.y);
  peer.onRequest('fail', () => { throw new Error('the password is 123'); });
  peer.listen();
});
server.listen(0, '127.0.0.1', () => console.log(`listening on 127.0.0.1:${server.address().port}`));
