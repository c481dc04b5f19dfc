'''Is a server of aiorpcX with the methods of facts_server_test.go.'''

import asyncio

from aiorpcx import RPCSession, handler_invocation, serve_rs


class Session(RPCSession):
    async def handle_request(self, request):
        handler = getattr(self, 'on_' + request.method, None)
        return await handler_invocation(handler, request)()

    async def on_sum(self, a, b):
        return a + b

    async def on_point(self, x, y):
        return x + y

    async def on_fail(self):
        raise ValueError('the password is 123')


async def main():
    server = await serve_rs(Session, '127.0.0.1', 0)
    print('listening on %s:%d' % server.sockets[0].getsockname(), flush=True)
    await server.serve_forever()


asyncio.run(main())
