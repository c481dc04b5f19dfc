const net = require('node:net');
const rpc = require('vscode-jsonrpc/node');

const [role, host, port] = process.argv.slice(2);

function connect(socket) {
  return rpc.createMessageConnection(new rpc.SocketMessageReader(socket), new rpc.SocketMessageWriter(socket));
}

function serve() {
  const server = net.createServer((socket) => {
    const peer = connect(socket);
    peer.onRequest('sum', (a, b) => a + b);
    peer.onRequest('divide', (a, b) => {
      if (b === 0) {
        throw new rpc.ResponseError(1, 'division by zero', { dividend: a });
      }
      return Math.trunc(a / b);
    });
    peer.onNotification('log', (text) => console.log('log:', text));
    peer.onRequest('greet', async () => 'hello, ' + await peer.sendRequest('name'));
    peer.listen();
  });
  server.listen(port, host, () => console.log(`listening on ${host}:${server.address().port}`));
}

async function call() {
  const socket = net.connect(port, host);
  const peer = connect(socket);
  peer.onRequest('name', () => 'gopher');
  peer.listen();

  console.log('sum:', await peer.sendRequest('sum', 40, 2));
  await peer.sendRequest('divide', 1, 0).catch((e) => {
    console.log(`divide: ${e.code}, ${e.message}, ${JSON.stringify(e.data)}`);
  });
  await peer.sendNotification('log', 'it rains');
  console.log('greet:', await peer.sendRequest('greet'));
  peer.dispose();
  socket.end();
}

({ serve, call })[role]();
