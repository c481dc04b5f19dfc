#!/usr/bin/python3
'''Opens a WebSocket for each way to be closed, asks for it, and prints what it is told.'''

import asyncio
import json
import sys

import websockets
from websockets.legacy.client import connect


async def main(url):
    for way in ['hangup', 'shutdown', 'costly', 'large', 'leave', 'invalid']:
        socket = await connect(f'{url}/{way}')
        try:
            if way == 'large':
                await socket.send(' ' * 2_000_000)
            elif way == 'invalid':
                await socket.write_frame(True, 1, b'"\xff"')  # send would not
            else:
                await socket.send(json.dumps({'jsonrpc': '2.0', 'method': way}))
            await socket.recv()
        except websockets.ConnectionClosed:
            pass
        await socket.wait_closed()
        print(f'{way}: {socket.close_code} {json.dumps(socket.close_reason, ensure_ascii=False)} true')


asyncio.run(main(sys.argv[1]))
