"""The usage of many customers, read together: some customers at a time, in their order.

Each query runs once for these customers instead of once for each, whichever plans ask for it. While
they are rated, the usage of the next is on its way; how many are read together follows from how
much they use, so that what is held is bounded. Refuses usage that has to be read event by event, or
from where a customer's own contract began: that is read customer by customer.
"""

import asyncio
from collections import defaultdict, deque
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Generic, NamedTuple, Protocol, TypeVar

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
    """Queries over customers of the same periods; `read_blocks` reads some of them at a time."""

    def __init__(self, meters: MeterClient, tenant: str, customer_ids: Sequence[str]) -> None:
        self.customer_ids = customer_ids
        self._meters = meters
        self._tenant = tenant
        self._queries: dict[_Query, int] = {}
        self._shared: dict[tuple[Reading, Spans], SharedUsage] = {}
        self._rows: Sequence[_Rows] = ()

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

    def shared(self, reading: Reading, spans: Spans) -> SharedUsage | None:
        """Answer a reading that was taken in, if it was."""
        return self._shared.get((reading, spans))

    async def read(self, block: slice) -> Sequence[_Rows]:
        """Read what every query says of some customers.

        Raises:
            Unavailable: METER_UNAVAILABLE.
        """
        ids = self.customer_ids[block]
        return await asyncio.gather(*(self._query(query, ids) for query in self._queries))

    def hold(self, rows: Sequence[_Rows]) -> None:
        """Take what was read of some customers, from which `usage_of` answers."""
        self._rows = rows

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
        """Answer what a price counts of a customer of the block that is held."""
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


class HasStreams(Protocol):
    """Whoever rates the customers of some streams."""

    @property
    def streams(self) -> UsageStreams:
        """Answer the streams."""


Reader = TypeVar("Reader", bound=HasStreams)


async def read_blocks(readers: Iterable[Reader]) -> AsyncGenerator[tuple[Reader, slice], None]:
    """Go through the customers of all readers; the streams of each hold the block that it gets.

    Raises:
        Unavailable: METER_UNAVAILABLE.
    """
    sizes = _Sizes()
    following = _blocks_of(readers, sizes)
    reading: deque[_Block[Reader]] = deque()
    try:
        while True:
            reading.extend(islice(following, _BLOCKS_AHEAD + 1 - len(reading)))
            if not reading:
                return
            first = reading[0]
            rows = await first.rows
            reading.popleft()
            sizes.learn(rows, first.block)
            first.reader.streams.hold(rows)
            yield first.reader, first.block
    finally:
        for each in reading:
            each.rows.cancel()
        await asyncio.gather(*(each.rows for each in reading), return_exceptions=True)


class _Block(NamedTuple, Generic[Reader]):
    """Customers of a reader whose usage is on its way."""

    reader: Reader
    block: slice
    rows: asyncio.Task[Sequence[_Rows]]


def _blocks_of(readers: Iterable[Reader], sizes: "_Sizes") -> Iterator[_Block[Reader]]:
    """Begin to read a block whenever one is asked for."""
    for reader in readers:
        end, customers = 0, len(reader.streams.customer_ids)
        while end < customers:
            block = slice(end, min(end + sizes.next(), customers))
            yield _Block(reader, block, asyncio.create_task(reader.streams.read(block)))
            end = block.stop


class _Sizes:
    """How many customers to read together; few before it is known what they use."""

    def __init__(self) -> None:
        self._rows_per_customer: int | None = None

    def learn(self, rows: Sequence[_Rows], block: slice) -> None:
        """Take how much some customers used; the largest mean counts."""
        held = sum(len(entries) for each in rows for entries in each.values())
        mean = -(-held // (block.stop - block.start))
        self._rows_per_customer = max(self._rows_per_customer or 0, mean)

    def next(self) -> int:
        """Choose how many come next."""
        if self._rows_per_customer is None:
            return _CUSTOMERS_FIRST
        fitting = _ROWS_PER_BLOCK // max(self._rows_per_customer, 1)
        return max(1, min(fitting, _CUSTOMERS_MAX))
