"""Who was rebuilt is set by the meter once more, when all is booked and the meter answers."""

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, cast

from kit.clock import SystemClock
from kit.errors import Unavailable
from services.quota.counters import Root
from services.quota.coverage import LimitIndex
from services.quota.epochs import Epoch
from services.quota.rebuilding import Usage
from services.quota.recovery import Recovery

ROOT = Root("t", "acme")


class Surroundings:
    """A tenant without limits, a Redis that obeys, and a meter that knows nothing."""

    current = Epoch("here", 2, "token", 1)

    async def load(self, tenant: str) -> None:
        """Know the limits of a tenant."""

    def index(self, tenant: str) -> LimitIndex:
        """Answer that there are none."""
        assert tenant == ROOT.tenant
        return LimitIndex([])

    def made_ms(self, tenant: str) -> Mapping[str, int]:
        """Answer when they were made."""
        assert tenant == ROOT.tenant
        return {}

    async def since(self, *asked: object) -> Mapping[int, Sequence[Usage]]:
        """Answer that nothing was used."""
        assert asked[:2] == ROOT
        return {}

    async def ask(self, commands: Sequence[bytes], keys: Sequence[str]) -> list[Any]:
        """Answer that counters were set."""
        assert len(commands) == len(keys)
        return [[1, 0]]

    def forget(self) -> None:
        """Forget whose holds are noted."""


async def test_it_waits_for_what_is_not_booked_and_tries_again() -> None:
    """The journal would be counted twice; what one attempt does not do another does."""
    around = cast("Any", Surroundings())
    recovery = Recovery(around, around, around, around, usage=around, clock=SystemClock())
    tried = Counter[str]()
    is_done = asyncio.Event()

    def owes(root: Root) -> bool:
        assert root == ROOT
        tried["owes"] += 1
        return tried["owes"] == 1

    async def reconcile(tenant: str, customer: str) -> None:
        assert (tenant, customer) == ROOT
        tried["reconcile"] += 1
        if tried["reconcile"] == 1:
            raise Unavailable("METER_UNAVAILABLE", "it does not answer")
        is_done.set()

    recovery.serve(reconcile, owes)
    recovery.lost(ROOT)
    async with asyncio.timeout(10):
        await is_done.wait()
    await recovery.close()

    assert tried == {"owes": 3, "reconcile": 2}
