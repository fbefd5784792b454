"""The outage of each customer ends on their own."""

import asyncio
from dataclasses import replace

from kit.clock import SystemClock
from services.quota.counters import Answer, Root
from services.quota.coverage import NOTHING
from services.quota.model import Kind, OutagePolicy, Outcome
from services.quota.operations import Asked, Operation
from services.quota.refusals import unavailable
from services.quota.standby import Standby
from tests.quota_builders import a_limit, covering

LOST, BACK = Root("t", "lost"), Root("t", "back")
LEASED = covering(
    replace(a_limit("balance"), outage_policy=OutagePolicy.LEASED, outage_allowance=5)
)


class Counters:
    """Counters that are there again, except those of some customers."""

    def __init__(self) -> None:
        self.lost = {LOST}
        self.booked: list[tuple[Root, str]] = []

    async def decide(self, root: Root, asked: Asked) -> Answer:
        """Book."""
        if self.is_lost(root):
            raise unavailable()
        self.booked.append((root, asked.request_id))
        return Answer(asked.kind, Outcome.COMMITTED, 0, 0, "", NOTHING, ())

    async def probe(self) -> None:
        """Redis is there."""

    def is_lost(self, root: Root) -> bool:
        """Tell whose counters are lost."""
        return root in self.lost


def asked(kind: Kind, request_id: str, amount: int) -> Operation:
    """Ask for an amount, or book it."""
    return Operation(kind, LEASED, request_id, b"8 bytes.", "", 0, 0, (amount,))


async def test_who_is_back_does_not_wait_for_who_is_lost() -> None:
    """What was accepted is booked; the allowance of who is lost still is what it was."""
    counters = Counters()
    standby = Standby(SystemClock())
    standby.serve(counters.decide, counters.probe, counters.is_lost)
    for root in (LOST, BACK):
        standby.answer(root, asked(Kind.RECORD, "usage", 1), unavailable())
        standby.answer(root, asked(Kind.RESERVE, "call", 4), unavailable())
    await asyncio.sleep(0.2)
    before = list(counters.booked)
    owing = [standby.owes(root) for root in (LOST, BACK)]
    verdicts = [
        standby.answer(root, asked(Kind.RESERVE, "next", 4), unavailable()) for root in (LOST, BACK)
    ]
    counters.lost.clear()
    await asyncio.sleep(0.2)
    await standby.close()

    assert before == [(BACK, "usage")]
    assert owing == [True, False]
    assert [verdict.outcome for verdict in verdicts if isinstance(verdict, Answer)] == [
        Outcome.DEGRADED_DENIED,
        Outcome.DEGRADED_ALLOWED,
    ]
    assert (LOST, "usage") in counters.booked
    assert counters.booked.count((BACK, "usage")) == 1
    assert not standby.owes(LOST)
