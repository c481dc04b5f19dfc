'''Calls a server that closes the connection, and prints what becomes of the call.'''

import asyncio

from aiorpcx import connect_rs


async def main():
    async def serve(reader, writer):
        await reader.readline()
        writer.close()

    server = await asyncio.start_server(serve, '127.0.0.1', 0)
    host, port = server.sockets[0].getsockname()
    async with connect_rs(host, port) as session:
        try:
            await session.send_request('sum', (1, 2))
        except asyncio.CancelledError as e:
            print(type(e).__name__)
    server.close()


asyncio.run(main())
