import sys

import aiomas


class Server:
    router = aiomas.rpc.Service()

    @aiomas.expose
    def sum(self, a, b):
        return a + b

    @aiomas.expose
    def divide(self, a, b):
        return a // b

    @aiomas.expose
    async def greet(self, client):
        return 'hello, ' + await client.name()


class Client:
    router = aiomas.rpc.Service()

    @aiomas.expose
    def name(self):
        return 'gopher'


def serve(addr):
    server = aiomas.run(aiomas.rpc.start_server(addr, Server()))
    print('listening on %s:%d' % server.sockets[0].getsockname(), flush=True)
    aiomas.run(server.wait_closed())


async def calls(addr):
    client = Client()
    conn = await aiomas.rpc.open_connection(addr, rpc_service=client)
    print('sum:', await conn.remote.sum(40, b=2))
    try:
        await conn.remote.divide(1, 0)
    except aiomas.RemoteException as e:
        print('divide:', e.remote_traceback.splitlines()[-1])
    print('greet:', await conn.remote.greet(client))
    await conn.close()


role, host, port = sys.argv[1:]
if role == 'serve':
    serve((host, int(port)))
else:
    aiomas.run(calls((host, int(port))))
