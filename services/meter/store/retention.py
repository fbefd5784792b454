"""Makes and drops partitions of events, and deletes what else is beyond retention.

The functions of the schema do what the service's role may not; they are for every tenant at once,
and answer nothing that is any tenant's. Each call is a step that is whole by itself.

A transaction that needs every event of some time asks for the horizon first, or locks for events:
both keep partitions from being dropped until it ends.
"""

from datetime import datetime
from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection

from kit.postgres import raw_connection

TRIMMED: Final = (
    "events_earlier",
    "events_others",
    "late_events",
    "event_revisions",
    "rejected_events",
    "event_identities",
)
"""What is deleted from row by row; identities after the events, which they outlive."""

_KEEP: Final = "LOCK TABLE ONLY meter.events IN ACCESS SHARE MODE"
_HORIZON: Final = "SELECT horizon FROM meter.retention"
_TAKE_TURN: Final = "SELECT pg_try_advisory_xact_lock(hashtextextended('meter.retention', 0))"
_PARTITIONS: Final = """
SELECT relname::text FROM pg_catalog.pg_inherits
JOIN pg_catalog.pg_class ON pg_class.oid = inhrelid
WHERE inhparent = 'meter.events'::regclass
ORDER BY relname
"""
_PAGES: Final = """
SELECT pg_relation_size(format('meter.%I', $1::text)::regclass)
    / current_setting('block_size')::bigint
"""


async def load_horizon(transaction: AsyncConnection) -> datetime | None:
    """Answer from when on every event is kept, and keep it so until the transaction ends."""
    raw = await raw_connection(transaction)
    await raw.execute(_KEEP)
    found: datetime | None = await raw.fetchval(_HORIZON)
    return found


async def take_turn(transaction: AsyncConnection) -> bool:
    """Tell whether no other replica is at a step; none will be until the transaction ends."""
    raw = await raw_connection(transaction)
    is_taken: bool = await raw.fetchval(_TAKE_TURN)
    return is_taken


async def load_time(transaction: AsyncConnection) -> datetime:
    """Answer what PostgreSQL's clock shows."""
    raw = await raw_connection(transaction)
    now: datetime = await raw.fetchval("SELECT now()")
    return now


async def load_partitions(transaction: AsyncConnection) -> list[str]:
    """Name the partitions of events."""
    raw = await raw_connection(transaction)
    return [row[0] for row in await raw.fetch(_PARTITIONS)]


async def make_month(transaction: AsyncConnection, first: datetime) -> bool:
    """Make the partition of a month, and tell whether that could be and had to be done."""
    raw = await raw_connection(transaction)
    is_made: bool = await raw.fetchval("SELECT meter.make_month($1)", first)
    return is_made


async def drop_month(transaction: AsyncConnection, first: datetime) -> None:
    """Drop the partition of a month; if it held any event, the horizon moves to its end."""
    raw = await raw_connection(transaction)
    await raw.execute("SELECT meter.drop_month($1)", first)


async def load_trimmed_until(transaction: AsyncConnection) -> datetime | None:
    """Answer up to which instant everything is deleted that is beyond retention."""
    raw = await raw_connection(transaction)
    found: datetime | None = await raw.fetchval("SELECT trimmed_until FROM meter.retention")
    return found


async def note_trimmed(transaction: AsyncConnection, cut: datetime) -> None:
    """Note that everything up to an instant is deleted."""
    raw = await raw_connection(transaction)
    await raw.execute("SELECT meter.note_trimmed($1)", cut)


async def count_pages(transaction: AsyncConnection, table: str) -> int:
    """Answer how many pages a table has."""
    raw = await raw_connection(transaction)
    count: int = await raw.fetchval(_PAGES, table)
    return count


async def trim(
    transaction: AsyncConnection, table: str, cut: datetime, *, first_page: int, end_page: int
) -> int | None:
    """Delete what is beyond retention from some pages, and answer how many rows.

    Answers nothing where it only moved the horizon, which comes first: call it again then.
    """
    raw = await raw_connection(transaction)
    count: int | None = await raw.fetchval(
        "SELECT meter.trim($1, $2, $3, $4)", table, cut, first_page, end_page
    )
    return count
