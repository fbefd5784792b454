"""Bodies of HTTP requests, as they are or compressed by gzip, as exporters of OpenTelemetry send.

Refuses to hold more bytes of bodies than a bound, whoever sends them, and to unpack or receive more
than one body may have: a few kilobytes of gzip can stand for gigabytes.
"""

import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from starlette.requests import Request

from kit.errors import InvalidInput
from services.meter.convert.exact_json import NotJson, read_json
from services.meter.group_commit import overloaded

_HELD_BYTES_MAX = 64 * 2**20
# The second name is as good as the first (RFC 9110, 8.4.1.3).
_GZIP = frozenset({"gzip", "x-gzip"})
# What zlib calls a window of 32 kB with the header of gzip.
_GZIP_WINDOW = zlib.MAX_WBITS + 16


class UnsupportedFormat(InvalidInput):
    """The request is in a format that is not read here."""


class Bodies:
    """Reads bodies of at most `bytes_max` bytes, packed and unpacked."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._held_bytes = 0

    @asynccontextmanager
    async def read(self, request: Request) -> AsyncIterator[bytes]:
        """Give the body of a request, which counts as held until the block ends.

        Raises:
            InvalidInput: PAYLOAD_TOO_LARGE; what says to be gzip is none.
            UnsupportedFormat: it is encoded otherwise.
            Exhausted: OVERLOADED, too much is held already.
        """
        unpacking = _unpacking(request)
        parts: list[bytes] = []
        size = received = 0
        try:
            async for sent in request.stream():
                received += len(sent)
                # One more than there may be, by which too much is known.
                room = self._bytes_max - size + 1
                part = unpacking.unpack(sent, room) if unpacking else sent
                parts.append(part)
                size += len(part)
                self._held_bytes += len(part)
                self._check(max(size, received))
            if unpacking:
                unpacking.check_complete()
            yield b"".join(parts)
        finally:
            self._held_bytes -= size

    def _check(self, size: int) -> None:
        if size > self._bytes_max:
            raise InvalidInput(
                "PAYLOAD_TOO_LARGE",
                f"the body has more than {self._bytes_max:,} bytes",
                metadata={"maximum": str(self._bytes_max)},
            )
        if self._held_bytes > _HELD_BYTES_MAX:
            raise overloaded()


def read_object(body: bytes) -> dict[str, Any]:
    """Read a body that is a JSON object.

    Raises:
        InvalidInput: it is none.
    """
    try:
        given = read_json(body)
    except NotJson as error:
        raise InvalidInput.of("body", str(error)) from error
    if not isinstance(given, dict):
        raise InvalidInput.of("body", "must be a JSON object")
    return given


def _unpacking(request: Request) -> "_Unpacking | None":
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding in _GZIP:
        return _Unpacking()
    if encoding != "identity":
        raise UnsupportedFormat.of("content-encoding", "must be gzip or absent")
    return None


class _Unpacking:
    """Unpacks one body, as it comes."""

    def __init__(self) -> None:
        self._member = zlib.decompressobj(_GZIP_WINDOW)

    def unpack(self, data: bytes, most: int) -> bytes:
        """Unpack what came next, up to `most` bytes; what is beyond them is lost."""
        unpacked = b""
        while data and len(unpacked) < most:
            if self._member.eof:
                # One member may follow another (RFC 1952, 2.2).
                self._member = zlib.decompressobj(_GZIP_WINDOW)
            try:
                unpacked += self._member.decompress(data, most - len(unpacked))
            except zlib.error as error:
                raise InvalidInput.of("body", "is not gzip, as content-encoding says") from error
            data = self._member.unused_data
        return unpacked

    def check_complete(self) -> None:
        """Make sure that the end has come."""
        if not self._member.eof:
            raise InvalidInput.of("body", "ends before the gzip in it does")
