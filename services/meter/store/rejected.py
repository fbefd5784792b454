"""Events that were rejected: what was sent, and why; the same content once, however often."""

import json
from collections.abc import Collection, Sequence
from datetime import datetime
from hashlib import sha256
from typing import Any, Final

from sqlalchemy.ext.asyncio import AsyncConnection

from kit.errors import Violation
from kit.postgres import raw_connection
from services.meter.model import Fate, Rejected

_SAVE: Final = """
INSERT INTO meter.rejected_events AS kept (
    tenant_id, digest, customer_id, event, violations, reject_time, last_reject_time, attempt_count
)
SELECT $1, digest, customer_id, event, violations, $6, $6, attempt_count
FROM unnest($2::bytea[], $3::text[], $4::bytea[], $5::json[], $7::bigint[])
    AS sent (digest, customer_id, event, violations, attempt_count)
ORDER BY digest
ON CONFLICT (tenant_id, digest) DO UPDATE SET
    violations = excluded.violations,
    last_reject_time = excluded.last_reject_time,
    attempt_count = kept.attempt_count + excluded.attempt_count
"""
_COLUMNS: Final = (
    "rejected_event_id, event, violations::text, reject_time, last_reject_time, attempt_count"
)
_LIST: Final = f"""
SELECT {_COLUMNS} FROM meter.rejected_events
WHERE tenant_id = $1 AND rejected_event_id > $2
ORDER BY rejected_event_id
LIMIT $3
"""
_FIND: Final = f"""
SELECT {_COLUMNS} FROM meter.rejected_events
WHERE tenant_id = $1 AND rejected_event_id = ANY($2)
FOR UPDATE
"""
_DELETE: Final = """
DELETE FROM meter.rejected_events WHERE tenant_id = $1 AND rejected_event_id = ANY($2)
"""


async def save_rejected(
    transaction: AsyncConnection, tenant: str, rejected: Sequence[Fate], now: datetime
) -> None:
    """Keep what was rejected."""
    by_digest: dict[bytes, tuple[Fate, int]] = {}
    for fate in rejected:
        digest = sha256(fate.payload).digest()
        by_digest[digest] = (fate, by_digest.get(digest, (fate, 0))[1] + 1)
    raw = await raw_connection(transaction)
    fates = [fate for fate, _ in by_digest.values()]
    await raw.execute(
        _SAVE,
        tenant,
        list(by_digest),
        # What is no text of PostgreSQL's is no customer either.
        [fate.customer_id.replace("\0", "") for fate in fates],
        [fate.payload for fate in fates],
        [_written(fate.violations) for fate in fates],
        now,
        [count for _, count in by_digest.values()],
    )


async def list_rejected(
    transaction: AsyncConnection, tenant: str, *, after: int, limit: int
) -> list[Rejected]:
    """Load rejected events by their number."""
    raw = await raw_connection(transaction)
    return [_rejected(row) for row in await raw.fetch(_LIST, tenant, after, limit)]


async def load_rejected(
    transaction: AsyncConnection, tenant: str, numbers: Collection[int]
) -> dict[int, Rejected]:
    """Load rejected events, which nobody else replays until the transaction ends."""
    raw = await raw_connection(transaction)
    rows = await raw.fetch(_FIND, tenant, list(numbers))
    return {row[0]: _rejected(row) for row in rows}


async def delete_rejected(
    transaction: AsyncConnection, tenant: str, numbers: Collection[int]
) -> None:
    """Take rejected events from the list."""
    raw = await raw_connection(transaction)
    await raw.execute(_DELETE, tenant, list(numbers))


def _written(violations: Sequence[Violation]) -> str:
    # A name or a reason may repeat what was sent, which may be no text of PostgreSQL's.
    pairs = [(each.field, each.description) for each in violations]
    return json.dumps(pairs).replace("\\u0000", "\\ufffd")


def _rejected(row: Sequence[Any]) -> Rejected:
    number, payload, violations, *others = row
    read = tuple(Violation(field, description) for field, description in json.loads(violations))
    return Rejected(number, payload, read, *others)
