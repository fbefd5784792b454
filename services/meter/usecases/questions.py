"""Answers many questions about usage together, and one of them again and again."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Final

from kit.errors import DomainError
from kit.telemetry import traced
from services.meter.model import UsageQuery, UsageRow
from services.meter.usecases.usage import Usage

Answers = list[tuple[int, Sequence[UsageRow] | DomainError]]

_CUSTOMERS_AT_ONCE: Final = 500
_ROWS_PER_PAGE: Final = 10_000
_ROWS_WATCHED: Final = 1_000


class Questions:
    """The use cases of asking in bulk and of watching."""

    def __init__(self, usage: Usage) -> None:
        self._usage = usage
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """End what is watched."""
        self._stopping.set()

    async def answer_each(
        self, tenant: str, queries: Sequence[UsageQuery]
    ) -> AsyncGenerator[tuple[int, Sequence[UsageRow] | DomainError], None]:
        """Answer every query, by its position; what a query fails with is its answer."""
        for alike in _alike(queries):
            for answer in await self._answer_alike(tenant, alike):
                yield answer

    @traced("meter.batch_query_usage")
    async def _answer_alike(self, tenant: str, alike: Sequence[tuple[int, UsageQuery]]) -> Answers:
        customers = tuple({id_: None for _, query in alike for id_ in query.customer_ids})
        together = replace(alike[0][1], customer_ids=customers)
        try:
            rows = await self._all_rows(tenant, together)
        except DomainError as error:
            return [(index, error) for index, _ in alike]
        if len(alike) == 1:
            return [(alike[0][0], rows)]
        by_customer: dict[str, list[UsageRow]] = {}
        for row in rows:
            by_customer.setdefault(row.customer_id, []).append(row)
        return [(index, by_customer.get(query.customer_ids[0], [])) for index, query in alike]

    async def _all_rows(self, tenant: str, query: UsageQuery) -> list[UsageRow]:
        rows: list[UsageRow] = []
        token = ""
        while True:
            page = await self._usage.query_usage(tenant, query, _ROWS_PER_PAGE, token)
            rows += page.items
            token = page.next_page_token
            if not token:
                return rows

    async def watch(
        self, tenant: str, query: UsageQuery, min_interval: timedelta
    ) -> AsyncGenerator[Sequence[UsageRow], None]:
        """Answer usage, and again whenever it has changed, until the service stops.

        Raises:
            InvalidInput: UNKNOWN_DIMENSION.
            NotFound: METER_NOT_FOUND.
            Precondition: BACKFILL_RUNNING.
        """
        seen: Sequence[UsageRow] | None = None
        while not self._stopping.is_set():
            rows = (await self._usage.query_usage(tenant, query, _ROWS_WATCHED, "")).items
            if rows != seen:
                yield rows
                seen = rows
            try:
                async with asyncio.timeout(min_interval.total_seconds()):
                    await self._stopping.wait()
            except TimeoutError:
                continue


def _alike(queries: Sequence[UsageQuery]) -> list[list[tuple[int, UsageQuery]]]:
    """Gather those of one customer that differ in it only; its largest are not those of many."""
    gathered: dict[object, list[tuple[int, UsageQuery]]] = {}
    for index, query in enumerate(queries):
        alone = query.top or len(query.customer_ids) != 1
        key: object = index if alone else replace(query, customer_ids=())
        gathered.setdefault(key, []).append((index, query))
    return [
        alike[first : first + _CUSTOMERS_AT_ONCE]
        for alike in gathered.values()
        for first in range(0, len(alike), _CUSTOMERS_AT_ONCE)
    ]
