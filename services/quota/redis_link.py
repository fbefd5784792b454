"""One connection to Redis on which commands follow each other without waiting for replies.

redis-py gives a connection to one caller at a time and spends more on a call than Redis does. Here
what is asked is written at once, and replies are handed out in the order in which they come, which
is the order of the commands. Refuses to repeat anything: when the connection breaks, whoever waits
is told, and the next one who asks opens it anew. While a circuit breaker is open, who asks is told
at once.
"""

import asyncio
import ssl
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol, cast

import hiredis
from redis.asyncio.connection import SSLConnection, parse_url

from kit.errors import CannotStart
from services.quota.breaker import CLOSED

Reply = Any
"""Whatever a command answers: bytes, a number, nothing, a list of these, or its `ReplyError`."""

ReplyError = hiredis.ReplyError


class NotAsked(ConnectionError):
    """Nothing was sent, so nothing took effect."""


_PORT = 6379
_LOOKS_PER_TIMEOUT = 4
_READING_S = 0.001
_NOT_COMPLETE = object()


def packed(*parts: str | bytes | int) -> bytes:
    """Write a command as Redis reads it."""
    # hiredis types the parts as a tuple of one.
    command: bytes = hiredis.pack_command(cast("Any", parts))
    return command


def check_replies(replies: list[Reply]) -> list[Reply]:
    """Answer replies of which none is an error.

    Raises:
        ConnectionError: one is.
    """
    for reply in replies:
        if isinstance(reply, Exception):
            raise ConnectionError(str(reply)) from reply
    return replies


class Link(Protocol):
    """What the counters need of Redis, be it one server or a cluster."""

    async def ask(self, commands: Sequence[bytes], keys: Sequence[str]) -> list[Reply]:
        """Send commands, each `packed` and with one of its keys, and answer their replies.

        The reply of a command that a node of a cluster did not answer is an `OSError`.

        Raises:
            OSError: none of them was answered.
        """

    async def nodes(self) -> "Sequence[RedisLink]":
        """Answer a link to every server that holds a part of the keys."""

    def drop(self) -> None:
        """Close what leads to a server that is not in charge any more."""

    async def close(self) -> None:
        """Close every connection."""


class RedisLink:
    """The connection; it is opened when it is first needed, and again after it broke.

    Args:
        timeout_s: How long commands wait for the connection, and while no reply comes at all:
            as long as Redis answers what was asked before, it is not away.
        overdue_s: After how long without a reply the connection is taken to be broken.

    Raises:
        CannotStart: the URL cannot be read.
    """

    def __init__(self, url: str, *, timeout_s: float = 2.0, overdue_s: float = 5.0) -> None:
        try:
            self._options: Mapping[str, Any] = parse_url(url)
        except ValueError:
            # The text of the fault may hold a piece of the URL, and so of the password.
            raise CannotStart("the URL of Redis cannot be read: see its port and options") from None
        self.host = str(self._options.get("host", "localhost"))
        self.name = f"{self.host}:{self._options.get('port', _PORT)}"
        self._timeout_s = timeout_s
        self._overdue_s = overdue_s
        self._breaker = CLOSED
        self._stream: _Stream | None = None
        self._opening: asyncio.Task[_Stream] | None = None

    async def ask(self, commands: Sequence[bytes], keys: Sequence[str] = ()) -> list[Reply]:  # noqa: ARG002 - all keys are here.
        """Send commands, each `packed`, and answer their replies; an error is a reply as well.

        Raises:
            OSError: no reply came in time, or the connection cannot be opened or broke; what took
                effect is not known.
        """
        breaker = self._breaker
        if breaker is not CLOSED:
            now_ms = _now_ms()
            if not breaker.admits(now_ms):
                raise NotAsked("Redis has not answered of late")
            self._breaker = breaker.asking(now_ms)
        try:
            stream = self._stream
            if stream is None or stream.is_closed:
                stream = await self._opened()
            replies = await stream.ask(commands)
        except OSError:
            self._breaker = self._breaker.failed(_now_ms())
            raise
        self._breaker = CLOSED
        return replies

    async def nodes(self) -> "Sequence[RedisLink]":
        """Answer this one."""
        return (self,)

    def drop(self) -> None:
        """Close the connection, so that the next one leads to whoever is in charge by then."""
        if self._stream is not None:
            self._stream.close()

    async def close(self) -> None:
        """Close the connection."""
        self.drop()

    async def _opened(self) -> "_Stream":
        try:
            return await self._open()
        except OSError as error:
            raise NotAsked(str(error)) from error

    async def _open(self) -> "_Stream":
        opening = self._opening
        if opening is None or opening.done():
            opening = self._opening = asyncio.create_task(self._connected())
            # Who waited may have gone when it fails.
            opening.add_done_callback(lambda task: task.cancelled() or task.exception())
        try:
            async with asyncio.timeout(self._timeout_s):
                self._stream = await asyncio.shield(opening)
        except TimeoutError as error:
            raise ConnectionError("Redis did not answer in time") from error
        return self._stream

    async def _connected(self) -> "_Stream":
        loop = asyncio.get_running_loop()
        options = self._options

        def stream_of() -> _Stream:
            return _Stream(self._timeout_s, self._overdue_s)

        if "path" in options:
            _, stream = await loop.create_unix_connection(stream_of, options["path"])
        else:
            host, port = options.get("host", "localhost"), options.get("port", _PORT)
            context = _tls(options) if options.get("connection_class") is SSLConnection else None
            _, stream = await loop.create_connection(stream_of, host, port, ssl=context)
        for reply in await stream.ask(_greeting(options)):
            if isinstance(reply, ReplyError):
                stream.close()
                raise ConnectionError(str(reply))
        return stream


def _now_ms() -> int:
    return int(asyncio.get_running_loop().time() * 1000)


class _Asked(NamedTuple):
    """When this was asked, how many replies it gets, which have come, and who waits for them."""

    asked_s: float
    replies_count: int
    replies: list[Reply]
    future: "asyncio.Future[list[Reply]]"


class _Stream(asyncio.Protocol):
    """The bytes of one connection."""

    def __init__(self, timeout_s: float, overdue_s: float) -> None:
        self.is_closed = False
        self._timeout_s = timeout_s
        self._overdue_s = overdue_s
        self._reader = hiredis.Reader(notEnoughData=_NOT_COMPLETE)
        self._asked: deque[_Asked] = deque()
        self._transport: asyncio.Transport | None = None
        self._loop = asyncio.get_running_loop()
        self._watch: asyncio.TimerHandle | None = None
        self._watch_s = 0.0
        self._is_late = False
        self._heard_s = 0.0

    def ask(self, commands: Sequence[bytes]) -> "asyncio.Future[list[Reply]]":
        """Write commands, and promise their replies."""
        future: asyncio.Future[list[Reply]] = self._loop.create_future()
        if not commands:
            future.set_result([])
            return future
        assert self._transport is not None, "a stream is handed out once it is connected"
        self._asked.append(_Asked(self._loop.time(), len(commands), [], future))
        self._transport.write(b"".join(commands))
        if self._watch is None:
            self._look_later()
        return future

    def _look_later(self) -> None:
        self._watch_s = self._loop.time() + self._timeout_s / _LOOKS_PER_TIMEOUT
        self._watch = self._loop.call_at(self._watch_s, self._look)

    def _look(self) -> None:
        """Tell those who have waited long enough; one look for all instead of a timer for each."""
        self._watch = None
        now_s = self._loop.time()
        if now_s - self._watch_s >= self._timeout_s / _LOOKS_PER_TIMEOUT and not self._is_late:
            # This process was kept from running; replies may be there already, but unread.
            self._is_late = True
            self._watch_s = now_s + _READING_S
            self._watch = self._loop.call_at(self._watch_s, self._look)
            return
        self._is_late = False
        for asked in self._asked:
            if now_s - max(asked.asked_s, self._heard_s) < self._timeout_s:
                break
            if not asked.future.done():
                asked.future.set_exception(TimeoutError("Redis did not answer in time"))
        if self._asked and now_s - self._asked[0].asked_s > self._overdue_s:
            self.close()
        if self._asked:
            self._look_later()

    def close(self) -> None:
        """Close the connection; whoever waits is told."""
        if self._transport is not None:
            self._transport.abort()
        self._end(ConnectionError("the connection to Redis was closed"))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to write."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Hand out the replies that are complete."""
        self._heard_s = self._loop.time()
        reader = self._reader
        reader.feed(data)
        try:
            while (reply := reader.gets()) is not _NOT_COMPLETE:
                _, replies_count, replies, future = self._asked[0]
                replies.append(reply)
                if len(replies) == replies_count:
                    self._asked.popleft()
                    if not future.done():
                        future.set_result(replies)
        except (hiredis.ProtocolError, IndexError):
            # Not what Redis says, or more than was asked for: nobody knows whose replies follow.
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell whoever waits."""
        self._end(exc or ConnectionError("Redis closed the connection"))

    def _end(self, error: Exception) -> None:
        self.is_closed = True
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        while self._asked:
            future = self._asked.popleft().future
            if not future.done():
                future.set_exception(error)


def _greeting(options: Mapping[str, Any]) -> list[bytes]:
    """Write what comes before the first command: who we are, and which database."""
    commands = []
    if "password" in options:
        user = [options["username"]] if "username" in options else []
        commands.append(packed("AUTH", *user, options["password"]))
    if options.get("db"):
        commands.append(packed("SELECT", options["db"]))
    return commands


def _tls(options: Mapping[str, Any]) -> ssl.SSLContext:
    context = ssl.create_default_context(
        cafile=options.get("ssl_ca_certs"), capath=options.get("ssl_ca_path")
    )
    if options.get("ssl_cert_reqs") == "none":
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if "ssl_certfile" in options:
        context.load_cert_chain(options["ssl_certfile"], options.get("ssl_keyfile"))
    return context
