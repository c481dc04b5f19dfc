// Runs jayson's server over HTTP for an rpcx client.
//
//     node jayson_server.js [VERSION]
//
// The program prints the address, and serves until its standard input ends.
'use strict';

const jayson = require('jayson');

const version = Number(process.argv[2] ?? 2);
let connections = 0;
const notes = [];
const methods = {
  echo: ([message], callback) => callback(null, message),
  subtract: ({ minuend, subtrahend }, callback) => callback(null, minuend - subtrahend),
  sum: (values, callback) => callback(null, values.reduce((a, b) => a + b, 0)),
  note: ([text], callback) => { notes.push(text); callback(null, true); },
  notes: (_, callback) => callback(null, notes),
  refuse: (_, callback) => callback({ code: 42, message: 'refused: naïve', data: { why: ['tired'] } }),
  fail: (_, callback) => callback(new Error('it failed')),
  connections: (_, callback) => callback(null, connections),
};
const server = new jayson.Server(methods, { version }).http();
server.on('connection', () => { connections++; });
server.listen(0, '127.0.0.1', () => console.log(`http://127.0.0.1:${server.address().port}/`));
process.stdin.resume().on('end', () => process.exit());
