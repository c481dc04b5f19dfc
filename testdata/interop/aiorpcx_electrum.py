'''Runs a server of the Electrum protocol with aiorpcX, for a client of examples/electrum.

    aiorpcx_electrum.py PORT HEIGHT STATUS

PORT may be 0. The address to connect to is printed once it listens. Each script has
the same status. Commands on standard input change the newest header, or the status,
and notify the subscribers; a line is printed for each:

    header HEIGHT
    status STATUS

It serves until its standard input ends.
'''

import asyncio
import sys

from aiorpcx import ReplyAndDisconnect, RPCError, RPCSession, handler_invocation, serve_rs


class Chain:
    '''What the server knows.'''

    def __init__(self, height, status):
        self.height = int(height)
        self.status = status

    def tip(self):
        return {'height': self.height, 'hex': f'{self.height:0160x}'}


class Session(RPCSession):

    chain = None
    sessions = set()

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.handlers = {'server.version': self.version}
        self.follows_headers = False
        self.scripts = set()
        self.sessions.add(self)

    async def connection_lost(self):
        self.sessions.discard(self)
        await super().connection_lost()

    async def handle_request(self, request):
        if request.method != 'server.version' and len(self.handlers) == 1:
            raise ReplyAndDisconnect(RPCError(1, 'use server.version to identify client'))
        return await handler_invocation(self.handlers.get(request.method), request)()

    async def version(self, client_name, protocol_version):
        self.handlers = {
            'server.ping': self.ping,
            'blockchain.headers.subscribe': self.subscribe_headers,
            'blockchain.scripthash.subscribe': self.subscribe_script,
            'blockchain.scripthash.unsubscribe': self.unsubscribe_script,
        }
        return ['aiorpcX', protocol_version[1]]

    async def ping(self):
        return None

    async def subscribe_headers(self):
        self.follows_headers = True
        return self.chain.tip()

    async def subscribe_script(self, script):
        self.scripts.add(script)
        return self.chain.status

    async def unsubscribe_script(self, script):
        found = script in self.scripts
        self.scripts.discard(script)
        return found

    async def notify_header(self):
        if self.follows_headers:
            await self.send_notification('blockchain.headers.subscribe', (self.chain.tip(), ))

    async def notify_status(self):
        for script in self.scripts:
            await self.send_notification('blockchain.scripthash.subscribe', (script, self.chain.status))


async def run_commands(chain):
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        command, value = line.split()
        if command == 'header':
            chain.height = int(value)
            notify = Session.notify_header
        else:
            chain.status = value
            notify = Session.notify_status
        for session in list(Session.sessions):
            await notify(session)
        print(line.strip(), flush=True)


async def main(port, height, status):
    Session.chain = Chain(height, status)
    server = await serve_rs(Session, '127.0.0.1', int(port))
    host, port = server.sockets[0].getsockname()[:2]
    print(f'tcp://{host}:{port}', flush=True)
    await run_commands(Session.chain)
    server.close()


asyncio.run(main(*sys.argv[1:]))
