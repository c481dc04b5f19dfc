// Runs viem's webSocket transport against examples/ethereum.
//
//     node viem_client.js PROGRAM
//
// PROGRAM is the example. viem connects and subscribes again by itself, two seconds after a
// connection is lost.
'use strict';

const assert = require('node:assert/strict');
const { createPublicClient, parseAbi, webSocket } = require('viem');
const { abi, accounts, chainId, collect, consecutive, run, start, token, transfer } = require('./ethereum_node');

const [program] = process.argv.slice(2);
const contract = { address: token, abi: parseAbi(abi) };
let node;
let client;

// numbersOf promises the numbers of the next blocks, as watchBlocks has them: viem asks for
// each block by its number, and may have the replies in any order.
async function numbersOf(count) {
  let unwatch;
  const blocks = await collect(count, (onBlock, onError) => {
    unwatch = client.watchBlocks({ onBlock, onError });
  });
  unwatch();
  return blocks.map((block) => Number(block.number)).sort((a, b) => a - b);
}

function wantTransfers(logs) {
  for (const { args, blockNumber } of logs) {
    assert.deepEqual([args.from, args.to, args.value], transfer(Number(blockNumber)));
  }
}

const checks = {
  async calls() {
    node = await start(program, 'ws://127.0.0.1:0', 30);
    client = createPublicClient({ transport: webSocket(node.address, { retryCount: 0 }) });
    assert.equal(BigInt(await client.getChainId()), chainId);
    assert.ok((await client.getBlockNumber()) >= 30n);
    const block = await client.getBlock({ blockNumber: 7n });
    assert.equal(block.number, 7n);
    assert.equal((await client.getBlock({ blockHash: block.hash })).number, 7n);
    assert.equal((await client.getBlock({ blockNumber: 6n })).hash, block.parentHash);
    await assert.rejects(client.getBlock({ blockNumber: 1_000_000n }), { name: 'BlockNotFoundError' });
  },

  async contract() {
    const read = (functionName, args, more) => client.readContract({ ...contract, functionName, args, ...more });
    assert.equal(await read('totalSupply'), 3_000_000n);
    assert.equal(await read('symbol'), 'RPX');
    assert.equal(await read('balanceOf', [accounts[1]], { blockNumber: 1n }), 999_998n);
    await assert.rejects(read('mint', [1n]), { name: 'ContractFunctionExecutionError' });
    await assert.rejects(client.request({ method: 'eth_nothing' }), { code: -32601 });
  },

  async logs_of_the_past() {
    const logs = await client.getContractEvents({
      ...contract, eventName: 'Transfer', args: { from: accounts[0] }, fromBlock: 1n, toBlock: 9n,
    });
    wantTransfers(logs);
    assert.deepEqual(logs.map((log) => log.blockNumber), [3n, 6n, 9n]);
  },

  async new_heads() {
    const heads = await collect(50, (add, onError) => client.transport.subscribe({
      params: ['newHeads'], onData: ({ result }) => add(Number(result.number)), onError,
    }));
    assert.deepEqual(heads, consecutive(heads[0], 50));
    const numbers = await numbersOf(10);
    assert.deepEqual(numbers, consecutive(numbers[0], 10));
  },

  async logs() {
    let unwatch;
    const logs = await collect(20, (add, onError) => {
      unwatch = client.watchContractEvent({
        ...contract, eventName: 'Transfer', args: { from: accounts.slice(0, 2) }, onError,
        onLogs: (logs) => logs.forEach(add),
      });
    });
    unwatch();
    wantTransfers(logs);
    assert.ok(logs.every((log) => log.blockNumber % 3n !== 2n));
  },

  async unsubscribe() {
    let news = 0;
    const { unsubscribe } = await client.transport.subscribe({ params: ['newHeads'], onData: () => news++ });
    assert.equal((await unsubscribe()).result, true);
    news = 0;
    await numbersOf(5);
    assert.equal(news, 0);
  },

  // The pings of viem are requests for net_version whose id is null. (In viem 2.57.20, a ping
  // between the loss of a connection and the next one fails all later calls. So the client
  // of the restart has the default, a ping each 30 s.)
  async keep_alive() {
    const pinging = createPublicClient({ transport: webSocket(node.address, { keepAlive: { interval: 5 }, retryCount: 0 }) });
    const heads = await collect(20, (add, onError) => pinging.transport.subscribe({
      params: ['newHeads'], onData: ({ result }) => add(Number(result.number)), onError,
    }));
    assert.deepEqual(heads, consecutive(heads[0], 20));
    assert.equal(BigInt(await pinging.getChainId()), chainId);
    (await pinging.transport.getRpcClient()).close();
  },

  async restart() {
    const errors = [];
    const before = [];
    const after = []; // the last ones of the first node, and those of the second
    let restarted = 0;
    const { address } = node;
    await new Promise((resolve, reject) => {
      let list = before;
      const stopWatching = client.watchBlocks({
        onError: (error) => errors.push(error.name),
        onBlock(block) {
          if (!block) return; // viem was told of the block, and the connection was lost before the reply
          list.push(Number(block.number));
          if (before.length === 10 && list === before) {
            list = after;
            node.stop().then(async () => {
              node = await start(program, address, before[9] + 100);
            }).catch(reject);
          }
          if (after.at(-1) > before[9] + 100 && ++restarted === 10) {
            stopWatching();
            resolve();
          }
        },
      });
    });
    const again = after.filter((n) => n > before[9] + 100).sort((a, b) => a - b);
    assert.deepEqual(again, consecutive(again[0], again.length));
    assert.ok(errors.includes('SocketClosedError'), `onError was called with ${errors}`);
    assert.equal(BigInt(await client.getChainId()), chainId);
    assert.equal(await client.readContract({ ...contract, functionName: 'totalSupply' }), 3_000_000n);
    (await client.transport.getRpcClient()).close();
    await node.stop();
  },
};

run(checks);
