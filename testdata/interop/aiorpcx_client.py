'''Runs aiorpcX's client, the original, against an rpcx server.

    aiorpcx_client.py ADDRESS SUITE [CERTIFICATE]

ADDRESS is tcp://host:port, tls://host:port (CERTIFICATE is the file of the
certificate to trust), unix:///path or ws://host:port. Each check of the suite has a session of
its own, and prints a line: {"check": name, "ok": true or false, "detail": why}.
'''

import asyncio
import json
import ssl
import sys
import traceback
from urllib.parse import urlsplit

from aiorpcx import (
    BatchError, Concurrency, JSONRPC, JSONRPCAutoDetect, JSONRPCConnection, JSONRPCv1,
    JSONRPCv2, ProtocolError, RPCError, RPCSession, connect_rs,
    connect_ws, handler_invocation, timeout_after,
)


class Connection(JSONRPCConnection):
    '''Keeps what aiorpcX makes of messages that answer no request of ours.'''

    def __init__(self, protocol):
        super().__init__(protocol)
        self.diagnostics = asyncio.Queue()

    def receive_message(self, message):
        try:
            return super().receive_message(message)
        except ProtocolError as error:
            self.diagnostics.put_nowait(error.message)
            raise


class Session(RPCSession):
    '''A client that can be called, too.'''

    protocol = JSONRPCv2

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.ready = asyncio.Event()

    def default_connection(self):
        return Connection(self.protocol)

    async def handle_request(self, request):
        handler = getattr(self, 'on_' + request.method, None)
        return await handler_invocation(handler, request)()

    async def on_double(self, number):
        return 2 * number

    async def on_refuse(self):
        raise RPCError(7, 'no')

    async def on_hello(self, name):
        return f'hello {name}'

    async def on_ready(self):
        self.ready.set()


def expect(actual, wanted):
    assert actual == wanted, f'got {actual!r}, want {wanted!r}'


async def error_of(call):
    '''The error that the server answers a call with, as its code and message.'''
    try:
        result = await call
    except RPCError as error:
        return error.code, error.message
    raise AssertionError(f'no error but {result!r}')


# The checks

async def call(session):
    for value in ('Howdy', '', 'naïve ☃ 𝄞 </script> \u2028', 'tab\tquote"\\\x00\x7f', 0, -1.5,
                  2**53 + 1, 10**40, True, None, [], {}, [1, [2, {'a': None}]], {'é': [1e300]}):
        expect(await session.send_request('echo', [value]), value)
    expect(await session.send_request('sum'), 0)
    expect(await session.send_request('sum', (1, 2, 39)), 42)


async def named_arguments(session):
    expect(await session.send_request('subtract', {'subtrahend': 23, 'minuend': 42}), 19)
    expect(await session.send_request('subtract', {'minuend': 42}), 42)  # it is optional


async def errors(session):
    send = session.send_request
    await refusals(session)
    for args in ({}, {'message': 1, 'other': 2}, {'Message': 1}):
        code, _ = await error_of(send('echo', args))
        expect(code, JSONRPC.INVALID_ARGS)


async def refusals(session):
    send = session.send_request
    expect(await error_of(send('nothing')), (JSONRPC.METHOD_NOT_FOUND, 'unknown method "nothing"'))
    for method, args in (('echo', []), ('echo', [1, 2]), ('subtract', ['1', 2])):
        code, _ = await error_of(send(method, args))
        expect(code, JSONRPC.INVALID_ARGS)
    expect(await error_of(send('refuse')), (42, 'refused: naïve'))
    # What went wrong inside is the server's business.
    internal = (JSONRPC.INTERNAL_ERROR, 'internal server error')
    expect(await error_of(send('fail')), internal)
    expect(await error_of(send('panic')), internal)
    expect(await send('echo', ['still there']), 'still there')


async def protocol_violations(session):
    async def diagnostic(message):
        await session._send_message(message)
        return await session.connection.diagnostics.get()

    # They are answered with id null, which aiorpcX takes for a diagnostic.
    for message, code in (
            (b'{"jsonrpc":"2.0","method":"echo"', JSONRPC.PARSE_ERROR),
            (b'{"jsonrpc":"2.0","method":"\xff"}', JSONRPC.PARSE_ERROR),
            (b'[]', JSONRPC.INVALID_REQUEST),
            (b'17', JSONRPC.INVALID_REQUEST),
            (b'{"jsonrpc":"3.0","method":"echo"}', JSONRPC.INVALID_REQUEST),
            (b'{"jsonrpc":"2.0","method":1,"id":null}', JSONRPC.INVALID_REQUEST)):
        text = await diagnostic(message)
        assert text.startswith(f'diagnostic error received: ({code},'), f'{message}: {text}'
    # An id that is good is answered.
    future = session.connection._future(None, 'seventeen')
    await session._send_message(b'{"jsonrpc":"2.0","method":"echo","params":1,"id":"seventeen"}')
    expect((await error_of(future))[0], JSONRPC.INVALID_ARGS)
    expect(await session.send_request('echo', ['still there']), 'still there')


async def notification(session):
    await session.send_notification('note', ['alone'])
    expect(await session.send_request('await_note', ['alone']), 'alone')
    # Nobody is told that it fails.
    await session.send_notification('nothing')
    await session.send_notification('refuse')
    expect(await session.send_request('echo', [1]), 1)
    expect(session.errors, 0)


async def pipelined(session):
    count = 2000
    session._outgoing_concurrency = Concurrency(count)  # all at once
    calls = [session.send_request('echo', [n]) for n in range(count)]
    expect(await asyncio.gather(*calls), list(range(count)))


async def batch(session):
    async with session.send_batch() as batch:
        batch.add_request('echo', ['first'])
        batch.add_notification('note', ['in a batch'])
        batch.add_request('nothing')
        batch.add_request('subtract', {'minuend': 3, 'subtrahend': 1})
        batch.add_request('refuse')
        batch.add_notification('nothing')
        batch.add_request('echo')
        batch.add_request('fail')
        batch.add_request('echo', ['last'])
    codes = [r.code if isinstance(r, RPCError) else r for r in batch.results]
    expect(codes, ['first', JSONRPC.METHOD_NOT_FOUND, 2, 42, JSONRPC.INVALID_ARGS,
                   JSONRPC.INTERNAL_ERROR, 'last'])
    expect(await session.send_request('await_note', ['in a batch']), 'in a batch')
    try:
        async with session.send_batch(raise_errors=True) as batch:
            batch.add_request('echo', [1])
            batch.add_request('refuse')
    except BatchError as error:
        expect(error.request.results, (1, RPCError(42, 'refused: naïve')))
    else:
        raise AssertionError('no BatchError')


async def large_batch(session):
    async with session.send_batch(raise_errors=True) as batch:
        for n in range(2000):
            batch.add_request('echo', [n])
    expect(batch.results, tuple(range(2000)))


async def large_message(session):
    text = 'é0123456789' * (900_000 // 16)  # é is six bytes as aiorpcX writes it
    expect(await session.send_request('echo', [text]), text)


async def request_over_the_limit(session):
    refused = asyncio.create_task(session.send_request('echo', ['x' * 1_100_000]))
    after = asyncio.create_task(session.send_request('echo', ['after']))
    expect(await error_of(refused), (-32600, 'message too large (over 1,000,000 bytes)'))
    expect(await after, 'after')
    expect(await session.send_request('errors'), 1)


async def reply_over_the_limit(session):
    expect(await error_of(session.send_request('text', [1_500_000])),
           (-32600, 'response too large (over 1,000,000 bytes)'))
    expect(await session.send_request('echo', ['after']), 'after')


async def called_back(session):
    expect(await session.send_request('call_back', ['double', 21]), 42)
    code, message = await error_of(session.send_request('call_back', ['refuse']))
    expect((code, message), (7, 'no'))  # the server hands our error back to us


async def reply_and_disconnect(session):
    expect(await session.send_request('bye'), 'bye')
    if hasattr(session.transport, 'websocket'):
        await session.transport.websocket.wait_closed()
    else:
        await session.transport._closed_event.wait()


async def meet(session):
    '''Waits for others to be there at the same time.'''
    assert 'python' in await session.send_request('meet', ['python'])


async def connection_lost(session):
    calls = [asyncio.create_task(session.send_request('hang')) for _ in range(10)]
    calls.append(asyncio.create_task(session.send_request('hangup')))
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    # Cancelling them is how aiorpcX tells.
    expect([type(outcome) for outcome in outcomes], [asyncio.CancelledError] * 11)


async def timeout(session):
    expect(await error_of(session.send_request('hang')),
           (JSONRPC.SERVER_BUSY, 'server busy - request timed out'))


async def reply_too_large(session):
    expect(await error_of(session.send_request('text', [2000])),
           (JSONRPC.INVALID_REQUEST, 'response too large (over 1,000 bytes)'))
    expect(await session.send_request('text', [3]), 'xxx')


async def batch_refused(session):
    await session._send_message(b'[{"method":"echo","params":[1],"id":1}]')
    text = await session.connection.diagnostics.get()
    assert text.startswith(f'diagnostic error received: ({JSONRPC.INVALID_REQUEST},'), text


async def version_1(session):
    expect(await session.send_request('protocol'), '1.0')
    assert issubclass(session.connection._protocol, JSONRPCv1), session.connection._protocol


async def unmarked(session):
    '''Nothing in a 1.0 request shows its version, so the reply is 2.0: an
    auto-detecting aiorpcX does the same.'''
    try:
        await session.send_request('echo', [1])
    except ProtocolError as error:
        expect(error.message, 'response must contain both "result" and "error"')
    else:
        raise AssertionError('answered in 1.0')


class MarkedJSONRPCv1(JSONRPCv1):
    '''Says its version, as 1.0 does not, but as auto-detection understands.'''

    @classmethod
    def request_payload(cls, request, request_id):
        return {'jsonrpc': '1.0', **super().request_payload(request, request_id)}


# How a session begins, so that both ends know what is spoken

async def at_once(session):
    pass


async def greeted(session):
    '''The server calls first: our answer shows it our version.'''
    await session.ready.wait()


async def by_a_call(session):
    '''The call shows the server our version, or its answer shows us the server's.
    There have to be arguments: 2.0 leaves params out if there are none, which 1.0
    does not allow.'''
    await session.send_request('echo', [1])


ALL = [call, named_arguments, errors, protocol_violations, notification, pipelined, batch,
       large_batch, large_message, request_over_the_limit, reply_over_the_limit, called_back,
       reply_and_disconnect, connection_lost]
VERSION_1 = [version_1, call, refusals, notification, pipelined, batch_refused, called_back,
             connection_lost]

SUITES = {  # name: protocol, beginning, checks
    'all': (JSONRPCv2, at_once, ALL),
    'websocket': (JSONRPCv2, at_once, ALL),
    'meet': (JSONRPCv2, at_once, [call, meet]),
    'timeout': (JSONRPCv2, at_once, [timeout]),
    'response': (JSONRPCv2, at_once, [reply_too_large]),
    'v1': (JSONRPCv1, at_once, VERSION_1),
    'v1-greeted': (JSONRPCv1, greeted, VERSION_1),
    'v1-marked': (MarkedJSONRPCv1, by_a_call, VERSION_1),
    'v1-unmarked': (JSONRPCv1, at_once, [unmarked]),
    'auto': (JSONRPCAutoDetect, by_a_call, VERSION_1),
}


class UnixConnector:
    '''Takes the place of a proxy, for connect_rs knows only hosts and ports by
    itself, and takes the name of a peer without proxy to be such a pair.'''

    def __init__(self, path):
        self.path = path

    async def create_connection(self, protocol_factory, _host, _port, **kwargs):
        def factory():
            protocol = protocol_factory()
            protocol._proxy = self
            return protocol
        return await asyncio.get_running_loop().create_unix_connection(
            factory, self.path, **kwargs)


def connector(address, certificate):
    url = urlsplit(address)
    if url.scheme == 'unix':
        return connect_rs(proxy=UnixConnector(url.path), session_factory=Session)
    if url.scheme == 'ws':
        client = connect_ws(address)
        client.kwargs['session_factory'] = Session  # where aiorpcX 0.22.1 looks for it
        return client
    options = {}
    if url.scheme == 'tls':
        options['ssl'] = ssl.create_default_context(cafile=certificate)
    return connect_rs(url.hostname, url.port, session_factory=Session, **options)


async def run(check, begin, connect):
    try:
        async with connect as session:
            async with timeout_after(30):
                await begin(session)
                await check(session)
        return True, ''
    except (Exception, asyncio.CancelledError):
        return False, traceback.format_exc()


async def main(address, suite, certificate=None):
    Session.protocol, begin, checks = SUITES[suite]
    for check in checks:
        ok, detail = await run(check, begin, connector(address, certificate))
        print(json.dumps({'check': check.__name__, 'ok': ok, 'detail': detail}), flush=True)


asyncio.run(main(*sys.argv[1:]))
