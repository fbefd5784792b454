"""Usage events on disk until the meter has taken them, so that they survive the gateway.

A spool is a folder of segments. A segment is a file of records, each a length, a CRC-32 and the
bytes of one event; its name is the number of its first record. `acknowledged` holds the number of
the first record that the meter has not taken yet. One process owns a spool.

What was appended has reached the operating system and survives a kill of the process; with
`sync=True` it has reached the disk and survives a power failure too, at the price of a disk write
for each event.
"""

from __future__ import annotations

import fcntl
import logging
import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Self

from tollkeeper.errors import TollkeeperError

SEGMENT_BYTES_MAX = 8 * 1024 * 1024
SPOOL_BYTES_MAX = 256 * 1024 * 1024
SUFFIX = ".events"

logger = logging.getLogger("tollkeeper")

_HEADER = struct.Struct("<II")
_POSITION = struct.Struct("<Q")


@dataclass(frozen=True, slots=True)
class _Place:
    """A position between two records."""

    segment: Path
    offset: int


class SpoolFull(TollkeeperError):
    """The spool has reached its bound, and the event was not taken."""


class SpoolUnusable(TollkeeperError):
    """The folder cannot be used: another process owns it, or it cannot be written."""


class Spool:
    """A queue of events on disk.

    Args:
        folder: where the spool lives; it is made if it is missing.
        bytes_max: the bound on what is kept on disk.
        sync: whether each event is forced to the disk itself.

    Raises:
        SpoolUnusable: another process owns the folder, or it cannot be written.
    """

    def __init__(
        self, folder: Path, *, bytes_max: int = SPOOL_BYTES_MAX, sync: bool = False
    ) -> None:
        self._folder = folder
        self._bytes_max = bytes_max
        self._sync = sync
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = _own(folder / "lock")
            self._position_file = _open_to_update(folder / "acknowledged")
        except OSError as error:
            raise SpoolUnusable(f"spool {folder}: {error.strerror}") from None
        self._acknowledged = self._load_position()
        self._next_number = self._recover()
        self._head = self._find(self._acknowledged)
        self._peeked: list[_Place] = []
        self._bytes = sum(path.stat().st_size for path in self._segments())
        self._writer: BinaryIO | None = None
        self._writer_bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __len__(self) -> int:
        """Return how many events wait for the meter."""
        return self._next_number - self._acknowledged

    def has_room(self) -> bool:
        """Say whether an event can be appended."""
        return self._bytes < self._bytes_max

    def append(self, event: bytes) -> None:
        """Keep an event.

        Raises:
            SpoolFull: there is no room; nothing was kept.
        """
        if not self.has_room():
            raise SpoolFull(f"spool {self._folder} holds {self._bytes} bytes, its bound")
        record = _HEADER.pack(len(event), zlib.crc32(event)) + event
        writer = self._segment_to_write()
        writer.write(record)
        if self._sync:
            os.fsync(writer.fileno())
        self._writer_bytes += len(record)
        self._bytes += len(record)
        self._next_number += 1

    def peek(self, count: int) -> list[bytes]:
        """Return the oldest events that were not acknowledged, at most `count`; they stay."""
        records = [record for _, record in zip(range(count), self._read(self._head), strict=False)]
        if not records:
            # What was counted here cannot be read any more; the log says which segment is damaged.
            self._acknowledged = self._next_number
        self._peeked = [place for place, _ in records]
        return [event for _, event in records]

    def acknowledge(self, count: int) -> None:
        """Forget the first `count` of the events that were peeked: the meter has taken them."""
        if count == 0:
            return
        self._head = self._peeked[count - 1]
        del self._peeked[:count]
        self._acknowledged += count
        os.pwrite(self._position_file, _POSITION.pack(self._acknowledged), 0)
        for path in self._segments():
            if path == self._head.segment:
                break
            self._bytes -= path.stat().st_size
            path.unlink()

    def close(self) -> None:
        """Give the folder back; what waits is there at the next start."""
        if self._writer is not None:
            self._writer.close()
        os.close(self._position_file)
        os.close(self._lock)

    def _segment_to_write(self) -> BinaryIO:
        if self._writer is None or self._writer_bytes >= SEGMENT_BYTES_MAX:
            if self._writer is not None:
                self._writer.close()
            path = self._folder / f"{self._next_number:020d}{SUFFIX}"
            self._writer = path.open("ab", buffering=0)
            self._writer_bytes = 0
        return self._writer

    def _segments(self) -> list[Path]:
        return sorted(self._folder.glob(f"*{SUFFIX}"))

    def _read(self, head: _Place | None) -> Iterator[tuple[_Place, bytes]]:
        """Yield each event from a place on, with the place behind it."""
        for path in self._segments():
            if head is None or path > head.segment:
                yield from _records(path, 0)
            elif path == head.segment:
                yield from _records(path, head.offset)

    def _find(self, number: int) -> _Place | None:
        """Return the place of a record; None stands for the beginning of what there is."""
        for path in reversed(self._segments()):
            first = _first_number(path)
            if first <= number:
                passed = [place for place, _ in _records(path, 0)][: number - first]
                return passed[-1] if passed else _Place(path, 0)
        return None

    def _load_position(self) -> int:
        stored = os.pread(self._position_file, _POSITION.size, 0)
        return _POSITION.unpack(stored)[0] if len(stored) == _POSITION.size else 0

    def _recover(self) -> int:
        """Cut off a record that a crash left unfinished; return the number of the next one."""
        segments = self._segments()
        if not segments:
            return self._acknowledged
        places = [place for place, _ in _records(segments[-1], 0)]
        os.truncate(segments[-1], places[-1].offset if places else 0)
        return max(_first_number(segments[-1]) + len(places), self._acknowledged)


def _own(path: Path) -> int:
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise SpoolUnusable(f"spool {path.parent} is in use by another process") from None
    return lock


def _open_to_update(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _first_number(path: Path) -> int:
    return int(path.name.removesuffix(SUFFIX))


def _records(path: Path, offset: int) -> Iterator[tuple[_Place, bytes]]:
    """Yield the whole records of a segment, up to the first that is cut off or damaged."""
    with path.open("rb") as segment:
        segment.seek(offset)
        while len(header := segment.read(_HEADER.size)) == _HEADER.size:
            length, checksum = _HEADER.unpack(header)
            event = segment.read(length)
            if len(event) != length or zlib.crc32(event) != checksum:
                logger.error("spool %s is damaged or cut off at byte %d", path, offset)
                return
            offset += _HEADER.size + length
            yield _Place(path, offset), event
