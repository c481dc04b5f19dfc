'''Runs jsonrpclib-pelix over HTTP against rpcx.

    jsonrpclib_peer.py client URL VERSION
    jsonrpclib_peer.py server VERSION

The client makes calls, and prints a line for each check: {"check": name, "ok": true or
false, "detail": why}. The server prints its address, and serves until its standard input
ends. VERSION is 1.0 or 2.0.
'''

import json
import logging
import os
import sys
import threading
import traceback

import jsonrpclib
from jsonrpclib.config import Config
from jsonrpclib.SimpleJSONRPCServer import PooledJSONRPCServer


class Checks:

    def __init__(self, url, version):
        self.version = version
        self.config = Config(version=version)
        self.server = jsonrpclib.ServerProxy(url, config=self.config)

    def code(self, method, *args):
        '''Returns the code and the text of an error.'''
        try:
            return getattr(self.server, method)(*args)
        except jsonrpclib.jsonrpc.ProtocolError as e:
            return list(e.args[0][:2])

    def check_call(self):
        for value in ('Howdy', 'naïve ☃ 𝄞 \u2028', 0, -1.5, True, None, [], {'a': [None]}):
            assert self.server.echo(value) == value, value
        assert self.server.sum(1, 2, 39) == 42

    def check_version(self):
        # A server that detects the version takes messages without one for the loose mix.
        allowed = ('2.0',) if self.version == 2.0 else ('1.0', 'neither')
        assert self.server.protocol() in allowed, self.server.protocol()

    def check_errors(self):
        assert self.code('nothing') == [-32601, 'unknown method "nothing"'], self.code('nothing')
        assert self.code('echo')[0] == -32602
        assert self.code('refuse') == [42, 'refused: naïve']
        assert self.code('fail') == [-32603, 'internal server error']

    def check_notification(self):
        self.server._notify.note('noted')
        assert self.server.await_note('noted') == 'noted'

    def check_many(self):
        '''The calls are on one connection.'''
        for n in range(200):
            assert self.server.echo(n) == n

    def check_threads(self):
        failed = []

        def call(first):
            server = jsonrpclib.ServerProxy(url, config=self.config)
            try:
                for n in range(first, first + 20):
                    assert server.echo(n) == n
            except BaseException as e:
                failed.append(e)
            server('close')()

        url = sys.argv[2]
        threads = [threading.Thread(target=call, args=(20 * n,)) for n in range(10)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failed, failed

    def check_large_message(self):
        text = 'é0123456789' * (600_000 // 12)
        assert self.server.echo(text) == text


class ChecksV2(Checks):

    def check_named_arguments(self):
        assert self.server.subtract(minuend=42, subtrahend=23) == 19

    def check_batch(self):
        batch = jsonrpclib.MultiCall(self.server, config=self.config)
        batch.echo('first')
        batch._notify.note('in a batch')
        batch.sum(1, 2)
        batch.echo('last')
        assert list(batch()) == ['first', 3, 'last']
        assert self.server.await_note('in a batch') == 'in a batch'

    def check_batch_of_notifications(self):
        batch = jsonrpclib.MultiCall(self.server, config=self.config)
        batch._notify.note('alone in a batch')
        assert list(batch()) == []
        assert self.server.await_note('alone in a batch') == 'alone in a batch'


def client(url, version):
    checks = (ChecksV2 if version == 2.0 else Checks)(url, version)
    for name in dir(checks):
        if not name.startswith('check_'):
            continue
        detail = ''
        try:
            getattr(checks, name)()
        except BaseException:
            detail = traceback.format_exc()
        print(json.dumps({'check': name[len('check_'):], 'ok': not detail, 'detail': detail}), flush=True)


def refuse():
    raise ValueError('refused')


def server(version):
    notes = []
    config = Config(version=version, content_type='application/json' if version == 2.0 else 'application/json-rpc')
    web = PooledJSONRPCServer(('127.0.0.1', 0), logRequests=False, config=config)
    web.register_function(lambda message: message, 'echo')
    web.register_function(lambda minuend, subtrahend: minuend - subtrahend, 'subtract')
    web.register_function(lambda *values: sum(values), 'sum')
    web.register_function(lambda text: notes.append(text), 'note')
    web.register_function(lambda: notes, 'notes')
    web.register_function(refuse)
    print('http://127.0.0.1:%d/' % web.server_address[1], flush=True)
    threading.Thread(target=web.serve_forever, daemon=True).start()
    sys.stdin.read()
    os._exit(0)


logging.disable(logging.CRITICAL)
if sys.argv[1] == 'client':
    client(sys.argv[2], float(sys.argv[3]))
else:
    server(float(sys.argv[2]))
