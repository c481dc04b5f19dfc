// Runs ethers' JsonRpcProvider, which sends calls of one moment as a batch, against a
// server over HTTP.
//
//     node ethers_http.js URL
//
// The server has block number 7, and the methods batches() and requests(), which return how
// many of them it has received.
'use strict';

const assert = require('node:assert/strict');
const { JsonRpcProvider, Network } = require('ethers');
const { consecutive, run } = require('./ethereum_node');

const network = Network.from(1337);
const connect = (options) => new JsonRpcProvider(process.argv[2], network, { staticNetwork: network, cacheTimeout: -1, ...options });
const provider = connect();

const checks = {
  async one_call() {
    const batches = await provider.send('batches', []);
    assert.equal(await provider.getBlockNumber(), 7);
    assert.equal(await provider.send('batches', []), batches);
  },

  async network() {
    const detecting = new JsonRpcProvider(process.argv[2]);
    assert.equal((await detecting.getNetwork()).chainId, 1337n);
    detecting.destroy();
  },

  async batch() {
    const batches = await provider.send('batches', []);
    const balances = await Promise.all(consecutive(1, 90).map((n) => provider.getBalance('0x' + String(n).padStart(40, '0'))));
    assert.deepEqual(balances, consecutive(1, 90).map(BigInt));
    assert.equal(await provider.send('batches', []), batches + 1);
  },

  async several_batches() { // at most 100 calls in each
    const batches = await provider.send('batches', []);
    const numbers = await Promise.all(consecutive(1, 250).map(() => provider.getBlockNumber()));
    assert.ok(numbers.every((n) => n === 7));
    assert.ok(await provider.send('batches', []) >= batches + 3);
  },

  async without_batches() {
    const single = connect({ batchMaxCount: 1 });
    const batches = await single.send('batches', []);
    await Promise.all(consecutive(1, 20).map(() => single.getBlockNumber()));
    assert.equal(await single.send('batches', []), batches);
    single.destroy();
  },

  async errors_in_a_batch() {
    const code = (promise) => promise.then(() => 'no error', (err) => err.error?.code ?? err.code);
    assert.deepEqual(await Promise.all([
      code(provider.send('eth_nothing', [])), provider.getBlockNumber(), code(provider.send('refuse', [])),
    ]), [-32601, 7, 42]);
  },

  async error_alone() {
    await assert.rejects(provider.send('eth_nothing', []), (err) => err.error.code === -32601);
  },
};

run(checks);
