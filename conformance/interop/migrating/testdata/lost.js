// Calls a server that closes the connection, and prints what becomes of the call: after the
// close, and after dispose().
'use strict';

const net = require('node:net');
const rpc = require('vscode-jsonrpc/node');

const server = net.createServer((socket) => socket.once('data', () => socket.destroy()));
server.listen(0, '127.0.0.1', () => {
  const socket = net.connect(server.address().port, '127.0.0.1');
  const peer = rpc.createMessageConnection(new rpc.SocketMessageReader(socket), new rpc.SocketMessageWriter(socket));
  let outcome = 'pending';
  peer.onClose(() => setImmediate(() => setImmediate(() => {
    console.log(outcome);
    peer.dispose();
    setImmediate(() => {
      console.log(outcome);
      server.close();
    });
  })));
  peer.listen();
  peer.sendRequest('sum', 1, 2).catch((error) => { outcome = `error ${error.code}`; });
});
