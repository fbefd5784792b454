"""Starting again what dies: at once at first, then after growing pauses, then at once again."""

import time
from dataclasses import dataclass, field

import pytest

from cli.errors import CommandError
from cli.watch import Watch


@dataclass
class AService:
    """A process that the test kills and revives."""

    name: str = "meter"
    ended: str | None = None
    refusal: str | None = None
    starts: int = 0

    def start(self) -> None:
        """Live again, unless the test forbids it."""
        if self.refusal:
            raise CommandError(self.refusal)
        self.ended = None
        self.starts += 1

    def how_it_ended(self) -> str | None:
        """Tell what the test decided."""
        return self.ended

    def is_serving(self) -> bool:
        """Serve whenever alive."""
        return self.ended is None


@dataclass
class Watched:
    """A watch over one service, and a clock that only the test moves."""

    service: AService = field(default_factory=AService)
    lines: list[str] = field(default_factory=list)
    now: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.watch = Watch(self.lines.append)
        self.watch.add(self.service)

    def look_after(self, wait_s: float) -> None:
        """Let time pass, then look once."""
        self.now += wait_s
        self.watch.look(self.now)

    def die_and_return(self) -> None:
        """Die, stay away for the longest pause, come back and be seen serving."""
        self.service.ended = "exit status 1"
        for wait_s in (0.1, 30.1, 0.1):
            self.look_after(wait_s)


@pytest.fixture
def watched() -> Watched:
    """A service that was just started."""
    return Watched()


def test_a_living_service_is_left_alone(watched: Watched) -> None:
    """Nothing is started and nothing is said."""
    watched.look_after(1.0)

    assert (watched.service.starts, watched.lines) == (0, [])


def test_a_dead_service_is_started_after_its_pause_and_not_before(watched: Watched) -> None:
    """What keeps dying must not keep the machine busy."""
    watched.service.ended = "killed by SIGKILL"
    watched.look_after(0.1)
    watched.look_after(0.1)
    before_pause = watched.service.starts
    watched.look_after(0.15)
    watched.look_after(0.1)

    assert before_pause == 0
    assert watched.service.starts == 1
    assert watched.lines == [
        "meter ended unexpectedly (killed by SIGKILL); starting it again in 0.2 s",
        "meter serves again",
    ]


def test_pauses_grow_to_half_a_minute(watched: Watched) -> None:
    """The eighth death in a row waits no longer than the seventh."""
    for _ in range(8):
        watched.service.ended = "exit status 1"
        watched.look_after(0.1)
        watched.look_after(30.1)

    pauses = [line.rpartition(" in ")[2] for line in watched.lines if "ended" in line]
    assert pauses == ["0.2 s", "0.5 s", "1 s", "2 s", "5 s", "10 s", "30 s", "30 s"]


def test_after_a_stable_minute_the_next_death_counts_as_the_first(watched: Watched) -> None:
    """An incident a day ago is no reason to wait today."""
    watched.die_and_return()
    watched.die_and_return()
    watched.look_after(61.0)
    watched.die_and_return()

    pauses = [line.rpartition(" in ")[2] for line in watched.lines if "ended" in line]
    assert pauses == ["0.2 s", "0.5 s", "0.2 s"]


def test_a_start_that_fails_is_told_and_tried_again(watched: Watched) -> None:
    """A server that cannot start now may start when the disk has room again."""
    watched.service.ended = "exit status 1"
    watched.service.refusal = "no space left"
    watched.look_after(0.1)
    watched.look_after(0.3)
    watched.service.refusal = None
    watched.look_after(0.6)
    watched.look_after(0.1)

    assert watched.lines == [
        "meter ended unexpectedly (exit status 1); starting it again in 0.2 s",
        "meter does not start: no space left; starting it again in 0.5 s",
        "meter serves again",
    ]
