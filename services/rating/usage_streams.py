"""The usage of many customers, read together: some customers at a time, in their order.

Each query runs once for these customers instead of once for each, whichever plans ask for it. While
they are rated, the usage of the next is on its way; how many are read together follows from how
much they use, so that what is held is bounded. Refuses usage that has to be read event by event, or
from where a customer's own contract began: that is read customer by customer.
"""

import asyncio
from collections import defaultdict, deque
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

from kit.interval import Interval
from services.rating.clients import MeterClient
from services.rating.metering import parts_of
from services.rating.model import Usage, UsageEntry
from services.rating.selection import Grain, History, Reading, Spans, count

_BLOCKS_AHEAD = 2
_CUSTOMERS_FIRST = 50
_CUSTOMERS_MAX = 250
_ROWS_PER_BLOCK = 20_000
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
    """Reads queries over many customers, a block of them after the other."""

    def __init__(self, meters: MeterClient, tenant: str) -> None:
        self._meters = meters
        self._tenant = tenant
        self._queries: dict[_Query, int] = {}
        self._shared: dict[tuple[Reading, Spans], SharedUsage] = {}
        self._rows: Sequence[_Rows] = ()
        self._rows_per_customer = 0

    def share(self, reading: Reading, spans: Spans, unit: str) -> SharedUsage:
        """Take in a reading, before the first customers are read; alike ones are one."""
        assert is_shared(reading), "this usage is read customer by customer"
        assert not self._rows, "customers are read already"
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

    async def blocks(self, customer_ids: Sequence[str]) -> AsyncGenerator[slice, None]:
        """Go through customers; each slice of them is the one whose usage `usage_of` answers.

        Raises:
            Unavailable: METER_UNAVAILABLE.
        """
        reading: deque[tuple[slice, asyncio.Task[Sequence[_Rows]]]] = deque()
        end = 0
        try:
            while reading or end < len(customer_ids):
                while end < len(customer_ids) and len(reading) <= _BLOCKS_AHEAD:
                    block = slice(end, min(end + self._block_size(), len(customer_ids)))
                    read = self._read(customer_ids[block])
                    reading.append((block, asyncio.create_task(read)))
                    end = block.stop
                block, task = reading[0]
                self._rows = await task
                reading.popleft()
                held = sum(len(entries) for rows in self._rows for entries in rows.values())
                mean = -(-held // (block.stop - block.start))
                self._rows_per_customer = max(self._rows_per_customer, mean)
                yield block
        finally:
            for _, task in reading:
                task.cancel()
            await asyncio.gather(*(task for _, task in reading), return_exceptions=True)

    def _block_size(self) -> int:
        """Choose how many customers to read together; few before it is known what they use."""
        if not self._rows:
            return _CUSTOMERS_FIRST
        fitting = _ROWS_PER_BLOCK // max(self._rows_per_customer, 1)
        return max(1, min(fitting, _CUSTOMERS_MAX))

    async def _read(self, customer_ids: Sequence[str]) -> Sequence[_Rows]:
        return await asyncio.gather(*(self._query(query, customer_ids) for query in self._queries))

    async def _query(self, query: _Query, customer_ids: Sequence[str]) -> _Rows:
        meter_id, interval, reading = query
        rows = defaultdict[str, list[UsageEntry]](list)
        token: str | None = ""
        while token is not None:
            page = await self._meters.get_usage_page(
                self._tenant,
                meter_id,
                interval,
                reading,
                page_token=token,
                customer_ids=customer_ids,
            )
            for customer_id, entry in page.rows:
                rows[customer_id].append(entry)
            token = page.next_token or None
        return rows

    def usage_of(self, shared: SharedUsage, customer_id: str) -> Usage:
        """Answer what a price counts of a customer of the block that was read last."""
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
