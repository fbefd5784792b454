"""Answers how much was used: from days and quarters of an hour, and at the edges from events.

Everything but weighted sums is joined and paged in SQL. What events at the edges add is counted by
the core, as when they came in, and handed to the statement as rows beside the rollups.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection

from kit.interval import Interval
from kit.postgres import raw_connection
from services.meter.aggregation import MeterSet
from services.meter.model import (
    KEEPING_VALUES,
    Aggregation,
    Definition,
    Meter,
    Moment,
    Span,
    Tally,
    UsageQuery,
)
from services.meter.store.edges import EdgeTally, tally_edges
from services.meter.store.parameters import Parameters
from services.meter.windows import Plan

UsageKey = tuple[int, str, int, tuple[str, ...]]
"""The order of usage: rank (0 without top), customer, number of the window from 1, group."""

_QUANTITIES: Final = {
    Aggregation.MIN: "min(quantity)",
    Aggregation.MAX: "max(quantity)",
    Aggregation.LATEST: "(array_agg(quantity ORDER BY last_us DESC, last_source DESC,"
    " last_event_id DESC))[1]",
    Aggregation.UNIQUE_COUNT: "count(DISTINCT value)::numeric",
}
_SUM: Final = "sum(quantity)"
_COLUMNS: Final = ("quantity", "event_count", "last_us", "last_source", "last_event_id")
_VALUE_COLUMNS: Final = ("value", "event_count")


@dataclass(frozen=True, slots=True)
class Question:
    """A query with everything that it was found to need.

    `windows` begins with the one that is only compared with, where the query compares. `meters` are
    the versions that count within.
    """

    query: UsageQuery
    meters: tuple[Meter, ...]
    windows: tuple[Interval, ...]
    plan: Plan

    @property
    def definition(self) -> Definition:
        """Say how the newest version aggregates and rounds."""
        return self.meters[-1].definition


@dataclass(frozen=True, slots=True)
class Found:
    """A row before it is rounded; `window` counts from 1 among the question's windows."""

    rank: int
    customer_id: str
    window: int
    group: tuple[str, ...]
    quantity: Decimal
    event_count: int
    previous_quantity: Decimal | None
    previous_event_count: int

    @property
    def key(self) -> UsageKey:
        """Where the row stands in the order."""
        return self.rank, self.customer_id, self.window, self.group


async def add_up_usage(
    transaction: AsyncConnection,
    tenant: str,
    question: Question,
    *,
    after: UsageKey | None,
    limit: int,
) -> list[Found]:
    """Add up usage by customer, window and group, in that order, beginning after a key."""
    edges = await tally_edges(
        transaction,
        tenant,
        question.query,
        meters=MeterSet(question.meters),
        windows=question.windows,
        edges=question.plan.edges,
    )
    parameters = Parameters()
    statement = _Statement(tenant, question, edges, parameters).written(after, limit)
    raw = await raw_connection(transaction)
    width = len(question.query.group_by)
    return [
        Found(row[0], row[1], row[2], tuple(row[3 : 3 + width]), *row[3 + width :])
        for row in await raw.fetch(statement, *parameters.values)
    ]


class _Statement:
    """Writes the statement of one question."""

    def __init__(
        self,
        tenant: str,
        question: Question,
        edges: Sequence[EdgeTally],
        parameters: Parameters,
    ) -> None:
        self._question = question
        self._query = question.query
        self._edges = edges
        self._parameters = parameters
        self._aggregation = question.definition.aggregation
        # Added where they are used: PostgreSQL refuses arguments that a statement does not name.
        self._tenant_id = tenant
        self._first_customer_id = ""
        self._columns = _VALUE_COLUMNS if self._aggregation in KEEPING_VALUES else _COLUMNS
        self._groups = [f"group_{at}" for at in range(len(self._query.group_by))]
        self._keys = ", ".join(['customer_id COLLATE "C"', "win", *self._groups_in_order()])

    def written(self, after: UsageKey | None, limit: int) -> str:
        """Answer the statement, for the rows after a key."""
        if after and not self._query.top:
            # Lest every page adds up anew what the pages before it held.
            self._first_customer_id = after[1]
        figures = f"WITH parts AS ({' UNION ALL '.join(self._parts())}), figures AS ("
        figures += f"{self._figures()})"
        source, first = "figures", 1
        if self._query.compares:
            figures += f", compared AS ({self._compared()})"
            source, first = "compared", 2
        groups = "".join(f", {group}" for group in self._groups)
        previous = (
            "previous_quantity, previous_event_count"
            if self._query.compares
            else "NULL::numeric AS previous_quantity, 0::bigint AS previous_event_count"
        )
        figures += (
            f", ranked AS (SELECT {self._rank()} AS place, customer_id, win{groups}, quantity,"
            f" event_count, {previous} FROM {source} WHERE win >= {first})"
        )
        conditions = []
        if self._query.top:
            conditions.append(f"place <= {self._parameters.add(self._query.top, 'bigint')}")
        order = f"win, place, {self._keys}" if self._query.top else f"place, {self._keys}"
        if after:
            conditions.append(self._after(after))
        where = f"WHERE {' AND '.join(conditions)}" if conditions else ""
        return (
            f"{figures} SELECT place, customer_id, win{groups}, quantity, event_count,"
            f" previous_quantity, previous_event_count FROM ranked {where}"
            f" ORDER BY {order} LIMIT {self._parameters.add(limit, 'bigint')}"
        )

    def _after(self, after: UsageKey) -> str:
        rank, customer_id, window, group = after
        add = self._parameters.add
        if self._query.top:
            return f"(win, place) > ({add(window, 'int')}, {add(rank, 'bigint')})"
        texts = [add(value, "text") for value in group]
        values = [add(customer_id, "text"), add(window, "int"), *texts]
        return f"({self._keys}) > ({', '.join(values)})"

    def _groups_in_order(self) -> list[str]:
        return [f'{group} COLLATE "C"' for group in self._groups]

    def _rank(self) -> str:
        if not self._query.top:
            return "0::bigint"
        size = "quantity"
        if self._aggregation is Aggregation.AVERAGE:
            size = "quantity / nullif(event_count, 0)"
        return f"row_number() OVER (PARTITION BY win ORDER BY {size} DESC NULLS LAST, {self._keys})"

    def _figures(self) -> str:
        groups = "".join(f", {group}" for group in self._groups)
        keys = f"customer_id, win{groups}"
        if self._aggregation is Aggregation.PERCENTILE:
            return self._percentiles(keys)
        quantity = _QUANTITIES.get(self._aggregation, _SUM)
        return (
            f"SELECT {keys}, {quantity} AS quantity, sum(event_count)::bigint AS event_count"
            f" FROM parts GROUP BY {keys}"
        )

    def _percentiles(self, keys: str) -> str:
        """Take the smallest value that as many percent of the events do not exceed."""
        percentile = self._parameters.add(self._question.definition.percentile, "numeric")
        return (
            f"SELECT {keys}, min(number) FILTER (WHERE reached * 100 >= {percentile} * total)"
            " AS quantity, min(total)::bigint AS event_count FROM ("
            f"SELECT {keys}, value::numeric AS number,"
            f" sum(event_count) OVER (PARTITION BY {keys} ORDER BY value::numeric) AS reached,"
            f" sum(event_count) OVER (PARTITION BY {keys}) AS total FROM parts"
            f") AS ordered GROUP BY {keys}"
        )

    def _compared(self) -> str:
        """Put the figure of the window before beside each; also where nothing follows."""
        same = "".join(f" AND this.{group} = earlier.{group}" for group in self._groups)
        groups = "".join(f", coalesce(this.{g}, earlier.{g}) AS {g}" for g in self._groups)
        return (
            "SELECT coalesce(this.customer_id, earlier.customer_id) AS customer_id,"
            f" coalesce(this.win, earlier.win + 1) AS win{groups},"
            " coalesce(this.quantity, 0) AS quantity,"
            " coalesce(this.event_count, 0) AS event_count,"
            " coalesce(earlier.quantity, 0) AS previous_quantity,"
            " coalesce(earlier.event_count, 0) AS previous_event_count"
            " FROM (SELECT * FROM figures WHERE win > 1) AS this"
            " FULL JOIN (SELECT * FROM figures WHERE win < "
            f"{len(self._question.windows)}) AS earlier"
            f" ON this.win = earlier.win + 1 AND this.customer_id = earlier.customer_id{same}"
        )

    def _parts(self) -> Iterator[str]:
        for meter in self._question.meters:
            spans = (
                (Span.DAY, self._question.plan.days),
                (Span.QUARTER, self._question.plan.quarters),
            )
            for span, intervals in spans:
                if intervals:
                    yield self._rollups(meter, span, intervals)
        if self._edges or not (self._question.plan.days or self._question.plan.quarters):
            yield self._given()

    @cached_property
    def _tenant(self) -> str:
        return self._parameters.add(self._tenant_id, "text")

    @cached_property
    def _starts(self) -> str:
        starts = [window.start for window in self._question.windows]
        return self._parameters.add(starts, "timestamptz[]")

    def _rollups(self, meter: Meter, span: Span, intervals: Sequence[Interval]) -> str:
        parameters = self._parameters
        keys = meter.definition.group_by
        place = {key: f"series.group_values[{at}]" for at, key in enumerate(keys, start=1)}
        groups = "".join(
            f", {place[key]} AS {group}"
            for key, group in zip(self._query.group_by, self._groups, strict=True)
        )
        keeps_values = self._aggregation in KEEPING_VALUES
        table = "rollup_values" if keeps_values else "rollups"
        columns = ", ".join(f"kept.{column}" for column in self._columns)
        conditions = [
            f"series.tenant_id = {self._tenant}",
            f"series.meter_id = {parameters.add(meter.meter_id, 'text')}",
            f"series.version = {parameters.add(meter.version, 'int')}",
            f"kept.span = {span.value}",
            self._within(intervals),
        ]
        if not self._query.includes_billed:
            conditions.append("NOT series.billed")
        if self._first_customer_id:
            first = parameters.add(self._first_customer_id, "text")
            conditions.append(f"series.customer_id >= {first}")
        if self._query.customer_ids:
            conditions.append(f"series.customer_id {self._customers()}")
        conditions += [
            f"{place[key]} = {parameters.add(value, 'text')}" for key, value in self._query.filters
        ]
        return (
            f"SELECT series.customer_id, {self._window()} AS win{groups},"
            f" {columns} FROM meter.series JOIN meter.{table} AS kept"
            " ON kept.tenant_id = series.tenant_id AND kept.series_id = series.series_id"
            f" WHERE {' AND '.join(conditions)}"
        )

    def _customers(self) -> str:
        """Say whose usage it is; of one, so that PostgreSQL makes its plan once."""
        if len(self._query.customer_ids) == 1:
            return f"= {self._parameters.add(self._query.customer_ids[0], 'text')}"
        return f"= ANY({self._parameters.texts(self._query.customer_ids)})"

    def _window(self) -> str:
        if len(self._question.windows) == 1:
            return "1"
        return f"width_bucket(kept.start, {self._starts})"

    def _within(self, intervals: Sequence[Interval]) -> str:
        """Say which starts lie within intervals that are in order and apart."""
        first, last = intervals[0].start, intervals[-1].end
        bounds = (
            f"kept.start >= {self._parameters.add(first, 'timestamptz')}"
            f" AND kept.start < {self._parameters.add(last, 'timestamptz')}"
        )
        if len(intervals) == 1:
            return bounds
        edges = [edge for interval in intervals for edge in (interval.start, interval.end)]
        # Inside an interval an odd number of edges lies at or before the instant.
        written = self._parameters.add(edges, "timestamptz[]")
        return f"{bounds} AND width_bucket(kept.start, {written}) % 2 = 1"

    def _given(self) -> str:
        """Write what the events at the edges add as rows like those of the rollups."""
        rows = [_as_row(edge) for edge in self._edges]
        if self._aggregation in KEEPING_VALUES:
            rows = [
                {**row, "value": value, "event_count": count}
                for row, edge in zip(rows, self._edges, strict=True)
                for value, count in (edge.tally.values or {}).items()
            ]
        written = self._parameters.add(json.dumps(rows), "json")
        groups = "".join(f", groups ->> {at} AS {group}" for at, group in enumerate(self._groups))
        return (
            f"SELECT customer_id, win{groups}, {', '.join(self._columns)}"
            f" FROM json_to_recordset({written}) AS given ("
            "customer_id text, win int, groups json, quantity numeric, event_count bigint,"
            " last_us bigint, last_source text, last_event_id text, value text)"
        )


def _as_row(edge: EdgeTally) -> dict[str, object]:
    tally: Tally = edge.tally
    last = tally.last or Moment(0, "", "")
    return {
        "customer_id": edge.customer_id,
        "win": edge.window,
        "groups": edge.group,
        "quantity": str(tally.quantity),
        "event_count": tally.event_count,
        "last_us": last.time_us,
        "last_source": last.source,
        "last_event_id": last.event_id,
    }
