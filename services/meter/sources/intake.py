"""The one way from what others send into the store: as the usage event that it stands for.

Every format is turned into the contract's own event, which is then checked as if it had been sent
as one. What is wrong is told by the names that its sender knows.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from typing import Final, NamedTuple, TypeVar

from kit.clock import Clock
from kit.errors import Violation
from services.meter.convert.events import parse_event
from services.meter.model import EPOCH, LATEST_TIME_AHEAD, Fate, IncomingEvent, Outcome
from services.meter.usecases.ingestion import Ingestion
from tollkeeper.api.meter.v1.meter_pb2 import UsageEvent

Given = TypeVar("Given")

_DRAFTS_PER_TURN: Final = 250


class Draft(NamedTuple):
    """An event made of something else.

    `name_of` tells where a field of the event stands in what was sent; `violations` are what is
    wrong beyond the fields of the event, by the sender's names.
    """

    event: UsageEvent
    name_of: Callable[[str], str]
    violations: tuple[Violation, ...] = ()


async def draft_all(given: Iterable[Given], draft: Callable[[Given], Draft]) -> list[Draft]:
    """Make drafts, and let others be served meanwhile: ten thousand take a third of a second."""
    drafts: list[Draft] = []
    for each in given:
        drafts.append(draft(each))
        if len(drafts) % _DRAFTS_PER_TURN == 0:
            await asyncio.sleep(0)
    return drafts


class Intake:
    """Checks drafts and stores the good ones."""

    def __init__(self, ingestion: Ingestion, clock: Clock) -> None:
        self._ingestion = ingestion
        self._clock = clock

    async def store(
        self, tenant: str, drafts: Sequence[Draft], *, waits: bool = False
    ) -> list[Fate]:
        """Store what can be stored, and answer what became of each, by the sender's names.

        Raises:
            Exhausted: OVERLOADED; never for a caller that `waits` until there is room.
        """
        latest = self._clock.now() + LATEST_TIME_AHEAD
        latest_us = (latest - EPOCH) // timedelta(microseconds=1)
        parsed = [_parse(draft, latest_us) for draft in drafts]
        fates = await self._ingestion.ingest_events(tenant, parsed, waits=waits)
        return [
            _by_the_names_of(draft, fate) if draft.violations or fate.violations else fate
            for draft, fate in zip(drafts, fates, strict=True)
        ]


def _parse(draft: Draft, latest_us: int) -> IncomingEvent | Fate:
    parsed = parse_event(draft.event, latest_us)
    if not draft.violations:
        return parsed
    found = parsed.violations if isinstance(parsed, Fate) else ()
    return Fate(Outcome.REJECTED, found)


def _by_the_names_of(draft: Draft, fate: Fate) -> Fate:
    named = (Violation(draft.name_of(each.field), each.description) for each in fate.violations)
    return Fate(fate.outcome, (*draft.violations, *named))
