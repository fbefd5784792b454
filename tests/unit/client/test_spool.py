"""Usage events on disk: in order, once, and there after a crash."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tollkeeper import spool as spool_module
from tollkeeper.spool import Spool, SpoolFull, SpoolUnusable


def events(*numbers: int) -> list[bytes]:
    """Return distinguishable events."""
    return [b"event %d" % number for number in numbers]


def fill(spool: Spool, *numbers: int) -> None:
    """Append events."""
    for event in events(*numbers):
        spool.append(event)


def test_events_come_out_in_order_until_they_are_acknowledged(tmp_path: Path) -> None:
    """Peeking removes nothing; acknowledging removes the oldest."""
    with Spool(tmp_path) as spool:
        fill(spool, 1, 2, 3)

        first = spool.peek(2)
        same = spool.peek(2)
        spool.acknowledge(2)

        left = spool.peek(9), len(spool)

    assert (first, same, left) == (events(1, 2), events(1, 2), (events(3), 1))


def test_what_waits_is_there_at_the_next_start(tmp_path: Path) -> None:
    """What was acknowledged is gone, the rest comes first, what is new comes after it."""
    with Spool(tmp_path) as spool:
        fill(spool, 1, 2, 3)
        spool.peek(1)
        spool.acknowledge(1)

    with Spool(tmp_path) as again:
        fill(again, 4)
        found = len(again), again.peek(9)

    assert found == (3, events(2, 3, 4))


def test_events_survive_a_kill_of_their_process(tmp_path: Path) -> None:
    """A gateway that is killed has lost nothing that it appended."""
    program = (
        "import sys, time; from pathlib import Path; from tollkeeper.spool import Spool\n"
        "spool = Spool(Path(sys.argv[1]))\n"
        "for number in range(1000): spool.append(b'event %d' % number)\n"
        "print('appended', flush=True); time.sleep(60)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "appended\n"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()

    with Spool(tmp_path) as spool:
        assert spool.peek(2000) == events(*range(1000))


def test_a_record_that_was_cut_off_is_left_out(tmp_path: Path) -> None:
    """A crash in the middle of a write costs the event that was never taken, and no other."""
    with Spool(tmp_path) as spool:
        fill(spool, 1, 2)
    [segment] = tmp_path.glob("*.events")
    segment.write_bytes(segment.read_bytes()[:-3])

    with Spool(tmp_path) as again:
        fill(again, 3)
        found = again.peek(9)

    assert found == events(1, 3)


def test_a_damaged_record_ends_its_segment_and_not_the_spool(tmp_path: Path) -> None:
    """A spool never hands out what it did not take."""
    with Spool(tmp_path) as spool:
        fill(spool, 1)
    [segment] = tmp_path.glob("*.events")
    segment.write_bytes(segment.read_bytes().replace(b"event 1", b"event 9"))

    with Spool(tmp_path) as again:
        fill(again, 2)
        found = again.peek(9)

    assert found == events(2)


def test_segments_go_when_all_of_them_is_acknowledged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk holds what waits, not what ever was."""
    monkeypatch.setattr(spool_module, "SEGMENT_BYTES_MAX", 30)
    with Spool(tmp_path) as spool:
        fill(spool, *range(10))
        before = len(list(tmp_path.glob("*.events")))

        spool.peek(9)
        spool.acknowledge(9)

        after = len(list(tmp_path.glob("*.events")))
        left = spool.peek(9)

    assert (before, after, left) == (5, 1, events(9))


def test_a_full_spool_refuses_and_has_room_again_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bound is a bound on the disk, and the refusal says so."""
    monkeypatch.setattr(spool_module, "SEGMENT_BYTES_MAX", 30)
    with Spool(tmp_path, bytes_max=60) as spool:
        fill(spool, 1, 2, 3, 4)

        with pytest.raises(SpoolFull, match="holds 60 bytes, its bound"):
            fill(spool, 5)
        spool.peek(4)
        spool.acknowledge(4)
        fill(spool, 6)

        left = spool.peek(9)

    assert left == events(6)


def test_a_spool_has_one_owner(tmp_path: Path) -> None:
    """Two gateways on one folder would send each other's events."""
    with Spool(tmp_path), pytest.raises(SpoolUnusable, match="in use by another process"):
        Spool(tmp_path)

    Spool(tmp_path).close()


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    """The error says which folder and why."""
    (tmp_path / "file").touch()

    with pytest.raises(SpoolUnusable, match=r"file/spool: Not a directory"):
        Spool(tmp_path / "file" / "spool")
