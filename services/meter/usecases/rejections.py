"""Lists events that were rejected, and stores them once they are repaired."""

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from kit.errors import NotFound
from kit.idempotency import Answer, Once
from kit.paging import Page
from kit.postgres import Database
from kit.telemetry import traced
from services.meter.model import Fate, IncomingEvent, Outcome, Rejected
from services.meter.store.rejected import delete_rejected, list_rejected, load_rejected
from services.meter.usecases.ingestion import Ingestion
from services.meter.usecases.pages import page_of, read_page_token

Repairs = Callable[[Mapping[int, Rejected]], Sequence[IncomingEvent | Fate]]
"""Makes the events of replays, in their order, out of what was kept."""

_LISTING: Final = "rejected events"


class Rejections:
    """The use cases of rejected events."""

    def __init__(self, database: Database, ingestion: Ingestion) -> None:
        self._database = database
        self._ingestion = ingestion

    @traced("meter.list_rejected_events")
    async def list_rejected_events(self, tenant: str, size: int, page_token: str) -> Page[Rejected]:
        """List rejected events by their number.

        Raises:
            InvalidInput: INVALID_PAGE_TOKEN.
        """
        after = read_page_token(page_token, _LISTING, _number) or 0
        async with self._database.transaction(tenant) as transaction:
            found = await list_rejected(transaction, tenant, after=after, limit=size + 1)
        return page_of(found, size, _LISTING, lambda each: (str(each.number),))

    @traced("meter.replay_rejected_events")
    async def replay(
        self,
        tenant: str,
        numbers: Sequence[int],
        repair: Repairs,
        once: Once[Sequence[Fate], Answer],
    ) -> Answer:
        """Store rejected events; what is stored, or was before, leaves the list.

        They are stored by a transaction of their own, which their identities make repeatable.

        Raises:
            Conflict: REQUEST_ID_REUSED.
            Exhausted: OVERLOADED.
            NotFound: REJECTED_EVENT_NOT_FOUND.
        """
        async with self._database.transaction(tenant) as transaction:

            async def replay() -> Sequence[Fate]:
                kept = await load_rejected(transaction, tenant, numbers)
                for number in numbers:
                    if number not in kept:
                        raise _not_found(number)
                parsed = [
                    each._replace(payload=b"") if isinstance(each, Fate) else each
                    for each in repair(kept)
                ]
                fates = await self._ingestion.ingest_events(tenant, parsed)
                done = {Outcome.CREATED, Outcome.DUPLICATE}
                await delete_rejected(
                    transaction,
                    tenant,
                    [n for n, fate in zip(numbers, fates, strict=True) if fate.outcome in done],
                )
                return fates

            return await once.run(transaction, tenant, replay)


def _number(text: str) -> int:
    value = int(text)
    if not 0 <= value < 2**63:
        raise ValueError("not a number of a rejected event")
    return value


def _not_found(number: int) -> NotFound:
    return NotFound(
        "REJECTED_EVENT_NOT_FOUND",
        f"there is no rejected event {number}",
        metadata={"rejected_event_id": str(number)},
    )
