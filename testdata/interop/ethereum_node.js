// Runs examples/ethereum as the node of a test's client, and the client's checks.
'use strict';

const { spawn } = require('node:child_process');
const { once } = require('node:events');
const readline = require('node:readline');

// What examples/ethereum has: a token with one transfer in each block, from the account
// number n % 3 to the next one, of 1 + n % 7.
exports.chainId = 1337n;
exports.token = '0x' + '70'.repeat(20);
exports.accounts = ['11', '22', '33'].map((byte) => '0x' + byte.repeat(20));
exports.transfer = (n) => [exports.accounts[n % 3], exports.accounts[(n + 1) % 3], BigInt(1 + (n % 7))];
exports.abi = [
  'function balanceOf(address account) view returns (uint256)',
  'function totalSupply() view returns (uint256)',
  'function symbol() view returns (string)',
  'function decimals() view returns (uint8)',
  'function mint(uint256 amount) view returns (bool)', // which the contract does not have
  'event Transfer(address indexed from, address indexed to, uint256 value)',
];

// start starts the program at an address, with a block every 20 ms after block number
// head. It promises the address that the node listens on, and what stops the node.
exports.start = async function start(program, listen, head) {
  const child = spawn(program, ['-listen', listen, '-block', '20ms', '-head', String(head)], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const kill = () => child.kill('SIGKILL');
  process.once('exit', kill);
  const ended = once(child, 'exit');
  const lines = readline.createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  const { value } = await lines.next();
  const address = /^listening on (.*)$/.exec(value)?.[1];
  if (!address) throw new Error(`the node printed ${value}`);
  return {
    address,
    async stop() {
      child.kill('SIGTERM');
      const [code, signal] = await ended;
      process.removeListener('exit', kill);
      if (code !== 0) throw new Error(`the node ended with ${code ?? signal}`);
    },
  };
};

// collect promises the first count values that subscribe passes to its argument.
exports.collect = function collect(count, subscribe) {
  return new Promise((resolve, reject) => {
    const values = [];
    const add = (value) => {
      if (values.length < count) values.push(value);
      if (values.length === count) resolve(values);
    };
    Promise.resolve(subscribe(add, reject)).catch(reject);
  });
};

// consecutive returns the numbers that follow a number.
exports.consecutive = (first, count) => Array.from({ length: count }, (_, i) => first + i);

// run runs checks in their order, and prints a line for each:
// {"check": name, "ok": true or false, "detail": why}.
exports.run = async function run(checks) {
  for (const [check, f] of Object.entries(checks)) {
    let timer;
    const timeout = new Promise((_, reject) => {
      timer = setTimeout(() => reject(new Error('not finished after 30 s')), 30_000);
    });
    const err = await Promise.race([f(), timeout]).then(() => null, (err) => err);
    clearTimeout(timer);
    console.log(JSON.stringify({ check, ok: !err, detail: err ? String(err.stack) : '' }));
  }
  process.exit();
};
