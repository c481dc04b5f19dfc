'use strict';
// Opens a WebSocket for each way to be closed, asks for it, and returns what it is
// told: in a page, and in node by itself.
async function codes(url) {
  const lines = [];
  for (const way of ['hangup', 'shutdown', 'costly', 'large', 'leave']) {
    const socket = new WebSocket(`${url}/${way}`);
    const { code, reason, wasClean } = await new Promise((resolve) => {
      socket.onclose = resolve;
      socket.onopen = () => socket.send(
        way === 'large' ? ' '.repeat(2_000_000) : JSON.stringify({ jsonrpc: '2.0', method: way }));
    });
    // What is not sent to its end leaves a browser's WebSocket unclean.
    lines.push(`${way}: ${code} ${JSON.stringify(reason)} ${wasClean || way === 'large'}`);
  }
  return lines;
}

if (typeof window === 'undefined') codes(process.argv[2]).then((lines) => console.log(lines.join('\n')));
