"""Callers that wait for each answer before they ask again, and what their calls cost.

Beside how many there were and how long each took, it says how much time of a processor each process
spent on one of them. That figure holds on a machine that is busy with other things as well. Refuses
to guess: the processes are named by who measures.
"""

import asyncio
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

Ask = Callable[[int], Awaitable[object]]
"""Makes a call on behalf of a caller, who has a number."""

ECHO = "/bench.Echo/Echo"

_WARM_UP_S = 1.0
_ROUNDS = 5


@dataclass(frozen=True, slots=True)
class Figures:
    """What callers that wait for each answer reached.

    Args:
        cpu_us: How many microseconds of a processor each process spent on one call.
    """

    per_s: int
    p50_ms: float
    p99_ms: float
    cpu_us: dict[str, float]

    @property
    def total_cpu_us(self) -> float:
        """What one call costs in all processes together."""
        return round(sum(self.cpu_us.values()), 1)


@dataclass(slots=True)
class Calls:
    """Calls of one kind, and what they cost so far.

    Args:
        processes: By name, the processes that work on them.
    """

    processes: Mapping[str, int]
    _latencies_s: list[float] = field(default_factory=list)
    _took_s: float = 0.0
    _cpu_s: dict[str, float] = field(default_factory=dict)

    @property
    def figures(self) -> Figures:
        """Answer what was reached."""
        latencies_s = sorted(self._latencies_s)
        count = len(latencies_s)
        return Figures(
            per_s=round(count / self._took_s),
            p50_ms=round(1000 * latencies_s[count // 2], 2),
            p99_ms=round(1000 * latencies_s[count * 99 // 100], 2),
            cpu_us={name: round(1e6 * spent_s / count, 1) for name, spent_s in self._cpu_s.items()},
        )

    async def make(self, ask: Ask, callers: int, seconds: float) -> None:
        """Let so many callers ask for a while, each as soon as it has its answer."""
        with self.measuring():
            started_s = time.perf_counter()
            add = self._latencies_s.append

            async def call_in_turn(caller: int) -> None:
                after_s = started_s
                while after_s - started_s < seconds:
                    before_s = time.perf_counter()
                    await ask(caller)
                    after_s = time.perf_counter()
                    add(after_s - before_s)

            await asyncio.gather(*map(call_in_turn, range(callers)))

    @contextmanager
    def measuring(self) -> Iterator[Callable[[float], None]]:
        """Count the time of everything within; who calls otherwise adds how long each call took."""
        before_s = {name: _cpu_s(process) for name, process in self.processes.items()}
        started_s = time.perf_counter()
        yield self._latencies_s.append
        self._took_s += time.perf_counter() - started_s
        for name, process in self.processes.items():
            spent_s = _cpu_s(process) - before_s[name]
            self._cpu_s[name] = self._cpu_s.get(name, 0.0) + spent_s


async def in_turns(kinds: Sequence[tuple[Calls, Ask]], callers: int, seconds: float) -> None:
    """Make calls of several kinds in turns, so that what else the machine does meets all."""
    for _, ask in kinds:
        await Calls({}).make(ask, callers, min(_WARM_UP_S, seconds))
    for _ in range(_ROUNDS):
        for calls, ask in kinds:
            await calls.make(ask, callers, seconds / _ROUNDS)


@contextmanager
def echoing() -> Iterator[tuple[str, int]]:
    """Run a bare gRPC server that answers what it gets; give its address and process."""
    command = (sys.executable, "-P", "-m", "bench.echo")
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None, "it was asked for"
    try:
        yield process.stdout.readline().strip(), process.pid
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


def _cpu_s(process: int) -> float:
    """Tell how long a process has used a processor, by the clock that Linux keeps of each."""
    return time.clock_gettime((~process << 3) | 2)
