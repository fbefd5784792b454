"""Queries: how long a month of usage takes, however many events there are.

The meter runs as its own process on a durable PostgreSQL of its own. Each size is a tenant with so
many events of a month, of 1,000 customers and four models, and their rollups. They are loaded by
SQL, day by day as the service would have stored them, without identities, which no query reads, and
indexed afterwards. Asked is, one
question after the other and in turn for each size, the month of a customer: its total, and apart by
model. What is answered is compared with the events.

`p99_ms_small` and `p99_ms_large` are of the smallest and the largest size, `flatness` is large
divided by small. 10 million take 2 to 5 minutes to load, and 5 GB:
`--sizes 100000,1000000,10000000`.
"""

import argparse
import asyncio
import random
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import asyncpg
import uvloop

from bench.rig import Rig, running
from kit.interval import Interval
from kit.rpc.channel import open_channel
from kit.rpc.wire import render_interval
from tollkeeper.api.meter.v1 import meter_pb2
from tollkeeper.api.meter.v1 import meter_service_pb2 as messages
from tollkeeper.api.meter.v1.meter_service_pb2_grpc import MeterServiceStub

SIZES = (100_000, 1_000_000)
_QUESTIONS = 400
_WARM_UP = 50
_CUSTOMERS = 1_000
_DAYS = 30
_DAY = timedelta(days=1)
_MONTH = Interval(datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 31, tzinfo=UTC))
_METER = meter_pb2.Meter(
    meter_id="tokens",
    event_type="llm.call",
    aggregation=meter_pb2.AGGREGATION_SUM,
    quantity="tokens",
    group_by=["model"],
)
_PART = """
CREATE TEMPORARY TABLE part AS SELECT * FROM meter.events LIMIT 0
"""
_EVENTS = """
INSERT INTO part (
    tenant_id, time, source, event_id, type, customer_id, project_id, user_id, key_id, run_id,
    dimensions, quantities, ingest_time, billed
)
SELECT
    $1, $2::timestamptz + number * $3::interval, 'bench', number::text, 'llm.call',
    'customer-' || number * 7919 % $4, '', '', '', '',
    json_build_object('model', ('{large,medium,small,tiny}'::text[])[1 + number / $4 % 4]),
    json_build_object('tokens', (1 + number % 5000)::text), now(), false
FROM generate_series($5::bigint, $6::bigint - 1) AS number
"""
_STORE = "INSERT INTO meter.events SELECT * FROM part"
_SERIES = """
INSERT INTO meter.series (tenant_id, meter_id, version, customer_id, group_digest, group_values)
SELECT DISTINCT
    tenant_id, 'tokens', 1, customer_id, sha256((dimensions ->> 'model')::bytea),
    ARRAY[dimensions ->> 'model']
FROM part
ON CONFLICT DO NOTHING
"""
_ROLLUPS = """
INSERT INTO meter.rollups (tenant_id, series_id, span, start, quantity, event_count)
SELECT tenant_id, series_id, $1::int, start, quantity, event_count
FROM (
    SELECT
        tenant_id, customer_id, dimensions ->> 'model' AS model,
        date_bin($1::int * INTERVAL '1 minute', time, '2000-01-01 00:00Z') AS start,
        sum((quantities ->> 'tokens')::numeric) AS quantity, count(*) AS event_count
    FROM part
    GROUP BY 1, 2, 3, 4
) AS added
JOIN meter.series USING (tenant_id, customer_id)
WHERE group_values[1] = model
"""
# What is loaded at once is indexed at once; PostgreSQL then says of each index how it was made.
_INDEXES = """
SELECT
    index.indexrelid::regclass::text, index.indrelid::regclass::text, constraint_of.conname,
    pg_get_constraintdef(constraint_of.oid), pg_get_indexdef(index.indexrelid)
FROM pg_index AS index
LEFT JOIN pg_constraint AS constraint_of
    ON constraint_of.conindid = index.indexrelid AND constraint_of.contype = 'p'
WHERE index.indrelid IN ('meter.events'::regclass, 'meter.rollups'::regclass)
"""
_SETTINGS = """
SET synchronous_commit = off;
SET work_mem = '256MB';
SET temp_buffers = '256MB';
SET maintenance_work_mem = '512MB'
"""
_EXPECTED = """
SELECT sum((quantities ->> 'tokens')::numeric)::text, count(*) FROM meter.events
WHERE tenant_id = $1 AND customer_id = $2
"""


@dataclass(frozen=True, slots=True)
class Figures:
    """What a size reached, over both questions."""

    events: int
    p50_ms: float
    p99_ms: float
    p99_ms_by_customer: float
    p99_ms_by_model: float


def run(arguments: Sequence[str]) -> dict[str, Any]:
    """Measure, and answer the figures."""
    parser = argparse.ArgumentParser(prog="python -m bench query", description=__doc__)
    parser.add_argument(
        "--sizes",
        type=lambda text: tuple(sorted(int(size) for size in text.split(","))),
        default=SIZES,
        help="how many events, separated by commas",
    )
    sizes = parser.parse_args(arguments).sizes
    with running("meter") as rig, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_measure(rig, sizes))


async def _measure(rig: Rig, sizes: Sequence[int]) -> dict[str, Any]:
    database = await asyncpg.connect(rig.database_url)
    async with open_channel(rig.address) as channel:
        stub = MeterServiceStub(channel)
        await _load(database, rig, stub, sizes)
        await database.execute("VACUUM ANALYZE")
        await database.execute("CHECKPOINT")
        asking = _Asking(stub, rig, sizes)
        for size in sizes:
            await asking.check(database, size)
        figures = await asking.run()
    await database.close()
    small, large = figures[0], figures[-1]
    return {
        "p99_ms_small": small.p99_ms,
        "p99_ms_large": large.p99_ms,
        "flatness": round(large.p99_ms / small.p99_ms, 2),
        "service_peak_mb": rig.peak_memory_mb(),
        "sizes": [asdict(each) for each in figures],
    }


async def _load(database: asyncpg.Connection, rig: Rig, stub: Any, sizes: Sequence[int]) -> None:  # noqa: ANN401 - gRPC's.
    """Store events and rollups of every size, day by day, and index them afterwards."""
    for size in sizes:
        request = messages.PutMeterRequest(request_id="tokens", meter=_METER)
        await stub.PutMeter(request, metadata=rig.metadata(_tenant(size), "meter.write"))
    await database.execute(_SETTINGS)
    indexes = await database.fetch(_INDEXES)
    for index, table, constraint, *_ in indexes:
        await database.execute(
            f"ALTER TABLE {table} DROP CONSTRAINT {constraint}"
            if constraint
            else f"DROP INDEX {index}"
        )
    await database.execute(_PART)
    for size in sizes:
        step = (_MONTH.end - _MONTH.start) // size
        firsts = [min(-(day * _DAY // -step), size) for day in range(_DAYS + 1)]
        for first, end in pairwise(firsts):
            await database.execute("TRUNCATE part")
            await database.execute(
                _EVENTS, _tenant(size), _MONTH.start, step, _CUSTOMERS, first, end
            )
            await database.execute("ANALYZE part")
            for statement in (_STORE, _SERIES):
                await database.execute(statement)
            for minutes in (15, 24 * 60):
                await database.execute(_ROLLUPS, minutes)
    for _, table, constraint, key, definition in indexes:
        await database.execute(
            f"ALTER TABLE {table} ADD CONSTRAINT {constraint} {key}" if constraint else definition
        )


def _tenant(size: int) -> str:
    return f"bench-{size}"


class _Asking:
    """Asks for months, each size in turn, so that what disturbs one disturbs all."""

    def __init__(self, stub: Any, rig: Rig, sizes: Sequence[int]) -> None:  # noqa: ANN401 - gRPC's.
        self._stub = stub
        self._sizes = sizes
        self._metadata = {size: rig.metadata(_tenant(size), "meter.read") for size in sizes}

    async def check(self, database: asyncpg.Connection, size: int) -> None:
        """Compare an answer with the events."""
        answer = await self._ask(size, "customer-7", [])
        expected = await database.fetchrow(_EXPECTED, _tenant(size), "customer-7")
        found = [(row.quantity.value, row.event_count) for row in answer.rows]
        assert found == [tuple(expected)], f"answered {found} instead of {tuple(expected)}"

    async def run(self) -> list[Figures]:
        """Ask, and answer the figures of each size."""
        draw = random.Random(1)
        took_ms: dict[tuple[int, bool], list[float]] = {
            (size, by_model): [] for size in self._sizes for by_model in (False, True)
        }
        for number in range(-_WARM_UP, _QUESTIONS):
            customer = f"customer-{draw.randrange(_CUSTOMERS)}"
            for (size, by_model), taken in took_ms.items():
                before_s = time.perf_counter()
                await self._ask(size, customer, ["model"] if by_model else [])
                if number >= 0:
                    taken.append((time.perf_counter() - before_s) * 1000)
        return [
            Figures(
                events=size,
                p50_ms=_quantile(took_ms[size, False] + took_ms[size, True], 50),
                p99_ms=_quantile(took_ms[size, False] + took_ms[size, True], 99),
                p99_ms_by_customer=_quantile(took_ms[size, False], 99),
                p99_ms_by_model=_quantile(took_ms[size, True], 99),
            )
            for size in self._sizes
        ]

    async def _ask(self, size: int, customer_id: str, group_by: Sequence[str]) -> Any:  # noqa: ANN401 - gRPC's.
        request = messages.QueryUsageRequest(
            meter_id="tokens",
            customer_id=customer_id,
            interval=render_interval(_MONTH),
            group_by=group_by,
        )
        return await self._stub.QueryUsage(request, metadata=self._metadata[size])


def _quantile(values: Sequence[float], percent: int) -> float:
    ordered = sorted(values)
    return round(ordered[len(ordered) * percent // 100], 2)
