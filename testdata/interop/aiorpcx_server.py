'''Runs aiorpcX's server, the original, for an rpcx client.

    aiorpcx_server.py ADDRESS PROTOCOL [CERTIFICATE KEY]

ADDRESS is tcp://host, tls://host (CERTIFICATE and KEY are files), ws://host or
unix:///path; PROTOCOL is v1, v2 or auto. The address to connect to is printed
once it listens. It serves until its standard input ends.
'''

import asyncio
import ssl
import sys
from collections import defaultdict
from functools import partial
from urllib.parse import urlsplit

from aiorpcx import (
    JSONRPCAutoDetect, JSONRPCConnection, JSONRPCv1, JSONRPCv2, NewlineFramer,
    ReplyAndDisconnect, RPCError, RPCSession, SessionKind, handler_invocation, serve_rs, serve_ws,
)
from aiorpcx.rawsocket import RSTransport

PROTOCOLS = {'v1': JSONRPCv1, 'v2': JSONRPCv2, 'auto': JSONRPCAutoDetect}


class Framer(NewlineFramer):
    '''Counts the messages that it drops.'''

    dropped = 0

    async def receive_message(self):
        try:
            return await super().receive_message()
        except MemoryError:
            self.dropped += 1
            raise


class Session(RPCSession):

    protocol = None

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.notes = defaultdict(asyncio.Event)
        if self.protocol is JSONRPCAutoDetect:
            self.greeting = self.loop.create_task(self.greet())

    def default_connection(self):
        return JSONRPCConnection(self.protocol)

    def default_framer(self):
        self.framer = Framer()
        return self.framer

    async def greet(self):
        '''Calls first, so that the answer shows what the client speaks.'''
        # 2.0, which this is in, leaves params out if there are none; 1.0 does not
        # allow that.
        await self.send_request('hello', ['client'])
        await self.send_notification('ready')

    async def handle_request(self, request):
        handler = getattr(self, 'on_' + request.method, None)
        return await handler_invocation(handler, request)()

    # Calls and errors

    async def on_echo(self, message):
        return message

    async def on_sum(self, *values):
        return sum(values)

    async def on_subtract(self, minuend, subtrahend=0):
        return minuend - subtrahend

    async def on_text(self, length):
        return 'x' * length

    async def on_refuse(self):
        raise RPCError(42, 'refused: naïve')

    async def on_fail(self):
        raise ValueError('nobody else is to know')

    async def on_note(self, token):
        self.notes[token].set()

    async def on_await_note(self, token):
        await self.notes[token].wait()
        return token

    async def on_call_back(self, method, *args):
        return await self.send_request(method, args)

    async def on_protocol(self):
        return self.connection._protocol.__name__

    # Limits

    async def on_dropped(self):
        return self.framer.dropped

    async def on_be_impatient(self):
        self.processing_timeout = 0.01

    async def on_limit_response(self, size):
        self.connection.max_response_size = size

    async def on_overspend(self):
        '''The next request finds that this one has cost too much.'''
        self.bump_cost(2 * self.cost_hard_limit)

    # Ends

    async def on_hang(self):
        await asyncio.get_running_loop().create_future()

    async def on_hangup(self):
        await self.abort()

    async def on_bye(self):
        raise ReplyAndDisconnect('bye')


async def listen(address, certificate=None, key=None):
    '''Starts the server and returns it with the address to connect to.'''
    url = urlsplit(address)
    if url.scheme == 'unix':
        # serve_rs knows only hosts and ports.
        protocol_factory = partial(RSTransport, Session, None, SessionKind.SERVER)
        loop = asyncio.get_running_loop()
        return await loop.create_unix_server(protocol_factory, url.path), address
    options = {}
    if url.scheme == 'tls':
        options['ssl'] = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        options['ssl'].load_cert_chain(certificate, key)
    serve = serve_ws if url.scheme == 'ws' else serve_rs
    server = await serve(Session, url.hostname, 0, **options)
    host, port = server.sockets[0].getsockname()[:2]
    return server, f'{url.scheme}://{host}:{port}'


async def main(address, protocol, *certificate):
    Session.protocol = PROTOCOLS[protocol]
    server, address = await listen(address, *certificate)
    print(address, flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    server.close()


asyncio.run(main(*sys.argv[1:]))
