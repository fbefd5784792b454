"""What Redis does by itself: the script with one reserve a call, unpipelined.

50 connections of a loop of sockets that does nothing else, as redis-benchmark would; a Redis that
comes in a wheel comes without that program, and it cannot give each call a request id of its own.
The commands are made beforehand.
"""

import hashlib
import itertools
import selectors
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from urllib.parse import urlsplit

import hiredis

from bench.calling import Calls
from services.quota.arguments import encode
from services.quota.counters import SCRIPT, Root, keys_of
from services.quota.coverage import Coverage, LimitIndex
from services.quota.model import Kind, Limit, Subject
from services.quota.operations import Operation
from services.quota.redis_link import packed

_CONNECTIONS = 50
_TTL_MS = 60_000
_numbers = itertools.count()


class Evalsha:
    """Reserves under some limits, asked of Redis alone."""

    def __init__(
        self,
        redis_url: str,
        tenant: str,
        limits: Sequence[Limit],
        subject: Callable[[int], Subject],
        amounts: Callable[[int], dict[str, int]],
    ) -> None:
        self._redis_url = redis_url
        self._tenant = tenant
        self._index = LimitIndex(limits)
        self._subject = subject
        self._amounts = amounts
        self._sha = hashlib.sha1(SCRIPT, usedforsecurity=False).hexdigest()

    def call(self, calls: Calls, count: int) -> None:
        """Ask so many times."""
        commands = iter([self._command(number) for number in itertools.islice(_numbers, count)])
        connections = [_connected(self._redis_url) for _ in range(_CONNECTIONS)]
        with calls.measuring() as add, selectors.DefaultSelector() as selector:
            for connection in connections:
                selector.register(connection, selectors.EVENT_READ, _Asked())
                connection.sendall(next(commands))
            answered = 0
            while answered < count:
                for key, _ in selector.select():
                    answered += _go_on(key.fileobj, key.data, commands, add)
        for connection in connections:
            connection.close()

    def _command(self, number: int) -> bytes:
        subject = self._subject(number)
        coverage: Coverage = self._index.coverage(subject, ())
        sums = coverage.sums(self._amounts(number))
        request_id = hold = f"raw-{number}"
        operation = Operation(Kind.RESERVE, coverage, request_id, bytes(8), hold, _TTL_MS, 0, sums)
        keys = keys_of(Root(self._tenant, subject.customer))
        argument = encode([operation], time.time_ns() // 1_000_000)
        return packed("EVALSHA", self._sha, len(keys), *keys, argument)


class _Asked:
    """One connection's replies, and when its last command was sent."""

    def __init__(self) -> None:
        self.reader = hiredis.Reader()
        self.asked_s = time.perf_counter()


def _go_on(
    connection: Any,  # noqa: ANN401 - whatever a selector was given.
    asked: _Asked,
    commands: Iterator[bytes],
    add: Callable[[float], None],
) -> int:
    """Take a reply and send the next command; answer how many replies there were, 0 or 1."""
    asked.reader.feed(connection.recv(65_536))
    reply = asked.reader.gets()
    if reply is False:
        return 0
    if isinstance(reply, Exception):
        raise reply
    add(time.perf_counter() - asked.asked_s)
    command = next(commands, None)
    if command is not None:
        asked.asked_s = time.perf_counter()
        connection.sendall(command)
    return 1


def _connected(url: str) -> socket.socket:
    parts = urlsplit(url)
    connection = socket.create_connection((parts.hostname, parts.port))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.sendall(packed("AUTH", parts.password or ""))
    assert connection.recv(64) == b"+OK\r\n", "the rig's Redis takes its own password"
    return connection
