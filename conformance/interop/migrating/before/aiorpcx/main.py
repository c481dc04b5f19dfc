import asyncio
import sys

from aiorpcx import RPCError, RPCSession, connect_rs, handler_invocation, serve_rs


class Session(RPCSession):
    async def handle_request(self, request):
        handler = getattr(self, 'on_' + request.method, None)
        return await handler_invocation(handler, request)()


class Server(Session):
    async def on_sum(self, a, b):
        return a + b

    async def on_divide(self, a, b):
        if b == 0:
            raise RPCError(1, 'division by zero')
        return a // b

    async def on_log(self, text):
        print('log:', text, flush=True)

    async def on_greet(self):
        return 'hello, ' + await self.send_request('name')


class Client(Session):
    async def on_name(self):
        return 'gopher'


async def serve(host, port):
    server = await serve_rs(Server, host, port)
    print('listening on %s:%d' % server.sockets[0].getsockname(), flush=True)
    await server.serve_forever()


async def call(host, port):
    async with connect_rs(host, port, session_factory=Client) as session:
        print('sum:', await session.send_request('sum', (40, 2)))
        try:
            await session.send_request('divide', (1, 0))
        except RPCError as e:
            print(f'divide: {e.code}, {e.message}')
        await session.send_notification('log', ('it rains',))
        print('greet:', await session.send_request('greet'))


role, host, port = sys.argv[1:]
asyncio.run({'serve': serve, 'call': call}[role](host, int(port)))
