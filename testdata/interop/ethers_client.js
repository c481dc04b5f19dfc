// Runs ethers' WebSocketProvider, and its IpcSocketProvider, against examples/ethereum.
//
//     node ethers_client.js PROGRAM FOLDER
//
// PROGRAM is the example, and FOLDER is for a socket. ethers does not connect again when a
// connection is lost: the check "restart" does what a program with ethers has to do.
'use strict';

const assert = require('node:assert/strict');
const path = require('node:path');
const { Contract, IpcSocketProvider, WebSocketProvider } = require('ethers');
const { abi, accounts, chainId, collect, consecutive, run, start, token, transfer } = require('./ethereum_node');

const [program, folder] = process.argv.slice(2);
let node;
let provider;
let contract;

async function connect(listen, head) {
  node = await start(program, listen, head);
  provider = new WebSocketProvider(node.address);
  contract = new Contract(token, abi, provider);
}

// wantTransfers checks events of contract.on: the arguments and the payload.
function wantTransfers(events, ofBlock = () => true) {
  let last = 0;
  for (const [from, to, value, payload] of events) {
    const n = payload.log.blockNumber;
    assert.ok(n > last && ofBlock(n), `a transfer of block ${n} after one of ${last}`);
    assert.deepEqual([from.toLowerCase(), to.toLowerCase(), value], transfer(n));
    last = n;
  }
}

const codeOf = (promise) => promise.then(() => 'no error', (err) => err.error?.code ?? err.code);

const checks = {
  async calls() {
    await connect('ws://127.0.0.1:0', 30);
    assert.equal((await provider.getNetwork()).chainId, chainId);
    assert.equal(await provider.send('net_version', []), String(chainId));
    assert.ok((await provider.getBlockNumber()) >= 30);
    const block = await provider.getBlock(7);
    assert.equal(block.number, 7);
    assert.equal(block.parentHash, (await provider.getBlock(6)).hash);
    assert.equal((await provider.getBlock(block.hash)).number, 7);
    assert.equal(await provider.getBlock(1_000_000), null);
  },

  async contract() {
    assert.equal(await contract.totalSupply(), 3_000_000n);
    assert.equal(await contract.symbol(), 'RPX');
    assert.equal(await contract.decimals(), 0n);
    // Blocks 1 and 2 pay 2 from the second account, and then 3 from the third.
    assert.equal(await contract.balanceOf(accounts[1], { blockTag: 1 }), 999_998n);
    assert.equal(await contract.balanceOf(accounts[2], { blockTag: 2 }), 999_999n);
    assert.equal(await provider.call({ to: accounts[0], data: '0x' }), '0x');
  },

  async errors() {
    assert.equal(await codeOf(contract.mint(1)), 'CALL_EXCEPTION');
    assert.equal(await codeOf(provider.send('eth_nothing', [])), -32601);
    assert.equal(await codeOf(provider.send('eth_subscribe', ['nothing'])), -32601);
    assert.equal(await codeOf(provider.send('eth_unsubscribe', ['0x1'])), -32000);
    assert.equal(await codeOf(provider.send('eth_subscribe', ['logs', { address: '0x12' }])), -32602);
  },

  async logs_of_the_past() {
    const events = await contract.queryFilter('Transfer', 1, 9);
    wantTransfers(events.map((log) => [...log.args, { log }]));
    assert.equal(events.length, 9);
    const sent = await contract.queryFilter(contract.filters.Transfer(accounts[0]), 1, 9);
    assert.deepEqual(sent.map((log) => log.blockNumber), [3, 6, 9]);
  },

  async new_heads() {
    const numbers = await collect(50, (add) => provider.on('block', add));
    await provider.off('block');
    assert.deepEqual(numbers, consecutive(numbers[0], 50));
  },

  async logs() {
    const events = await collect(20, (add) => contract.on('Transfer', (...event) => add(event)));
    await contract.off('Transfer');
    wantTransfers(events);
    const first = events[0][3].log.blockNumber;
    assert.deepEqual(events.map((event) => event[3].log.blockNumber), consecutive(first, 20));
  },

  async logs_by_topic() {
    const received = contract.filters.Transfer(null, accounts.slice(0, 2));
    const events = await collect(10, (add) => contract.on(received, (payload) => add([...payload.args, payload])));
    await contract.off(received);
    wantTransfers(events, (n) => n % 3 !== 1);
  },

  async unsubscribe() {
    let late = 0;
    const onBlock = () => late++;
    await collect(3, (add) => provider.on('block', (n) => { onBlock(); add(n); }));
    await provider.off('block');
    const id = await provider.send('eth_subscribe', ['newHeads']); // by hand
    assert.equal(await provider.send('eth_unsubscribe', [id]), true);
    late = 0;
    await collect(5, (add) => contract.on('Transfer', add)); // of five more blocks
    await contract.off('Transfer');
    assert.equal(late, 0);
  },

  async many_subscriptions() {
    const ids = await Promise.all(consecutive(0, 300).map(() => provider.send('eth_subscribe', ['newHeads'])));
    assert.equal(new Set(ids).size, 300);
    const ended = await Promise.all(ids.map((id) => provider.send('eth_unsubscribe', [id])));
    assert.ok(ended.every((ok) => ok === true));
  },

  async restart() {
    const [head] = await collect(1, (add) => provider.on('block', add));
    const closed = new Promise((resolve) => { provider.websocket.onclose = (event) => resolve(event.code); });
    const { address } = node;
    await Promise.all([node.stop(), closed]);
    assert.equal(await closed, 1001); // going away
    provider.destroy().catch(() => {});
    await connect(address, head + 100);
    const numbers = await collect(10, (add) => provider.on('block', add));
    await provider.off('block');
    assert.ok(numbers[0] > head + 100, `block ${numbers[0]} after block ${head} and a restart`);
    assert.deepEqual(numbers, consecutive(numbers[0], 10));
    assert.equal(await contract.totalSupply(), 3_000_000n);
    provider.destroy();
    await node.stop();
  },

  async ipc() {
    const socket = path.join(folder, 'ethers.ipc');
    node = await start(program, `unix://${socket}`, 0);
    provider = new IpcSocketProvider(socket);
    contract = new Contract(token, abi, provider);
    const numbers = await collect(50, (add) => provider.on('block', add));
    await provider.off('block');
    assert.deepEqual(numbers, consecutive(numbers[0], 50));
    assert.equal(await contract.totalSupply(), 3_000_000n);
    provider.destroy(); // nothing is waiting to be sent any more
    await node.stop();
  },
};

run(checks);
