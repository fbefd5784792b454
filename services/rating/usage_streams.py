"""The usage of many customers, read side by side in the order of the customers.

Each query runs once over all customers instead of once for each, whichever plans ask for it, and a
page of it is in memory while the next is on its way. Refuses usage that has to be read event by
event, or from where a customer's own contract began: that is read customer by customer.
"""

import asyncio
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

from kit.interval import Interval
from services.rating.clients import MeterClient, UsagePage
from services.rating.metering import parts_of
from services.rating.model import Usage, UsageEntry
from services.rating.selection import Grain, History, Reading, Spans, count

_ROWS_MAX = 100_000
_PAGE_ROWS_MIN = 500
_PAGE_ROWS_MAX = 10_000
_OWN_HISTORIES = frozenset({History.CONTRACT, History.CHANGES})

_Query = tuple[str, Interval, Reading]
_Rows = Mapping[str, list[UsageEntry]]


def is_shared(reading: Reading) -> bool:
    """Tell whether one query can read this usage for all customers of a period."""
    return reading.grain is not Grain.EVENT and reading.history not in _OWN_HISTORIES


@dataclass(frozen=True, slots=True)
class SharedUsage:
    """A reading of a period that is the same for all customers, by the numbers of its queries."""

    number: int
    reading: Reading
    unit: str
    entries: tuple[int, ...]
    amounts: tuple[int, ...]
    before: tuple[int, ...]
    earlier: tuple[tuple[int, ...], ...]


class UsageStreams:
    """Reads queries over all customers; customers are asked for in ascending order."""

    def __init__(self, meters: MeterClient, tenant: str) -> None:
        self._meters = meters
        self._tenant = tenant
        self._queries: dict[_Query, int] = {}
        self._shared: dict[tuple[Reading, Spans], SharedUsage] = {}
        self._streams: list[_Stream] = []
        self._rows: Sequence[_Rows] = ()

    def share(self, reading: Reading, spans: Spans, unit: str) -> SharedUsage:
        """Take in a reading, before the first customers are read; alike ones are one."""
        assert is_shared(reading), "this usage is read customer by customer"
        assert not self._streams, "customers are read already"
        known = self._shared.get((reading, spans))
        if known is None:
            amounts = reading.amount_meter_id
            previous = spans.previous if reading.history is History.PERIODS else ()
            known = self._shared[reading, spans] = SharedUsage(
                number=len(self._shared),
                reading=reading,
                unit=unit,
                entries=self._numbers(reading.meter_id, spans.period, reading),
                amounts=() if amounts is None else self._numbers(amounts, spans.period, reading),
                before=self._numbers(reading.meter_id, spans.before(reading.history), reading),
                earlier=tuple(self._numbers(reading.meter_id, each, reading) for each in previous),
            )
        return known

    async def advance(self, last_customer_id: str) -> None:
        """Read the usage of all further customers up to and including one."""
        if not self._streams:
            self._streams = list(self._open())
        self._rows = await asyncio.gather(
            *(stream.read(last_customer_id) for stream in self._streams)
        )

    def usage_of(self, shared: SharedUsage, customer_id: str) -> Usage:
        """Answer what a price counts of a customer among those that were read last."""
        return Usage(
            self._entries(shared.reading, shared.entries, customer_id),
            shared.unit,
            self._entries(shared.reading, shared.amounts, customer_id),
            shared.reading.excluded,
            self._entries(shared.reading, shared.before, customer_id),
            tuple(
                self._entries(shared.reading, queries, customer_id) for queries in shared.earlier
            ),
        )

    async def close(self) -> None:
        """End the queries that are on their way."""
        await asyncio.gather(*(stream.close() for stream in self._streams))

    def _entries(
        self, reading: Reading, queries: tuple[int, ...], customer_id: str
    ) -> tuple[UsageEntry, ...]:
        found = [self._rows[query].get(customer_id, ()) for query in queries]
        return count(reading, chain.from_iterable(found)) if found else ()

    def _numbers(self, meter_id: str, span: Interval | None, reading: Reading) -> tuple[int, ...]:
        return tuple(
            self._queries.setdefault((meter_id, part, reading), len(self._queries))
            for part in parts_of(span)
        )

    def _open(self) -> "Iterator[_Stream]":
        rows = _ROWS_MAX // max(len(self._queries), 1)
        page_size = min(max(rows, _PAGE_ROWS_MIN), _PAGE_ROWS_MAX)
        for query in self._queries:
            yield _Stream(self._meters, self._tenant, query, page_size)


class _Stream:
    """One query over all customers, a page ahead of its reader."""

    def __init__(self, meters: MeterClient, tenant: str, query: _Query, page_size: int) -> None:
        self._meters, self._tenant, self._query, self._page_size = meters, tenant, query, page_size
        self._page: Sequence[tuple[str, UsageEntry]] = ()
        self._position = 0
        self._next: asyncio.Task[UsagePage] | None = self._fetch("")

    async def read(self, last_customer_id: str) -> _Rows:
        rows = defaultdict[str, list[UsageEntry]](list)
        while True:
            page = self._page
            for position in range(self._position, len(page)):
                customer_id, entry = page[position]
                if customer_id > last_customer_id:
                    self._position = position
                    return rows
                rows[customer_id].append(entry)
            self._page, self._position = (), 0
            if self._next is None:
                return rows
            fetched = await self._next
            self._page = fetched.rows
            self._next = self._fetch(fetched.next_token) if fetched.next_token else None

    async def close(self) -> None:
        if self._next is not None:
            self._next.cancel()
            await asyncio.gather(self._next, return_exceptions=True)

    def _fetch(self, token: str) -> "asyncio.Task[UsagePage]":
        meter_id, interval, reading = self._query
        return asyncio.create_task(
            self._meters.get_usage_page(
                self._tenant,
                meter_id,
                interval,
                reading,
                page_token=token,
                page_size=self._page_size,
            )
        )
