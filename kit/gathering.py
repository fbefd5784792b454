"""Waiting for others who are about to share a piece of work, without a timer.

A call takes several turns of the event loop from its first byte until it says what it wants. So
whoever begins at once works for one call, and whoever waits as long as turns bring more works for
all that have come. Those who shared work come back one after the other, so it is for them that the
next one waits; a lone caller would wait in vain. Refuses to wait longer than for a number of quiet
turns, which take a fraction of a millisecond.
"""

import os


class Gathering:
    """One for each stream of work that callers share.

    Args:
        enough: With how many work begins without waiting for more.
        quiet_turns: How many turns of the event loop may bring nobody before work begins.
        quiet_turns_alone: The same after work for one caller.
    """

    __slots__ = ("_count", "_enough", "_quiet", "_quiet_max", "_turns", "_turns_alone")

    def __init__(self, *, enough: int, quiet_turns: int, quiet_turns_alone: int = 0) -> None:
        self._enough = enough
        self._turns = quiet_turns
        self._turns_alone = self._quiet_max = quiet_turns_alone
        self._quiet = self._count = 0

    def may_grow(self, count: int) -> bool:
        """Tell, once in each turn, whether to wait for another one; `count` have come so far."""
        if count >= self._enough:
            return False
        if count == self._count:
            # For the threads of gRPC, which bring the calls.
            os.sched_yield()
            self._quiet += 1
        else:
            self._quiet, self._count = 0, count
        return self._quiet < self._quiet_max

    def begin(self, count: int) -> None:
        """Note that work begins for so many."""
        self._quiet_max = self._turns if count > 1 else self._turns_alone
        self._quiet = self._count = 0
