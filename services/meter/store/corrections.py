"""Corrections: the event that counts is replaced or removed, and every state it had is kept."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from sqlalchemy.ext.asyncio import AsyncConnection

from kit.postgres import raw_connection
from services.meter.model import Identity, Revision, RevisionKind, StoredEvent, UsageEvent
from services.meter.store.reading import COLUMNS

_LOCK: Final = """
SELECT time FROM meter.event_identities
WHERE tenant_id = $1 AND event_id = $2 AND source = $3
FOR UPDATE
"""
_COLUMNS: Final = (
    "source, event_id, time, type, customer_id, project_id, user_id, key_id, run_id,"
    " dimensions, quantities"
)
_VALUES: Final = "$2, $3, $4, $5, $6, $7, $8, $9, $10, ($11::text)::json, ($12::text)::json"
_SAVE_REVISION: Final = f"""
INSERT INTO meter.event_revisions (tenant_id, {_COLUMNS}, revision, kind, reason, create_time)
VALUES ($1, {_VALUES}, $13, $14, $15, $16)
"""
_SAVE_EVENT: Final = f"""
INSERT INTO meter.events (tenant_id, {_COLUMNS}, ingest_time, billed)
VALUES ($1, {_VALUES}, $13, $14)
"""
_REMOVE_EVENT: Final = """
DELETE FROM meter.events
WHERE tenant_id = $1 AND type = $2 AND time = $3 AND source = $4 AND event_id = $5
"""
_MOVE_IDENTITY: Final = """
UPDATE meter.event_identities SET time = $4
WHERE tenant_id = $1 AND event_id = $2 AND source = $3
"""
_FIND_REVISIONS: Final = f"""
SELECT revision, kind, reason, create_time, {COLUMNS} FROM meter.event_revisions
WHERE tenant_id = $1 AND event_id = $2 AND source = $3
ORDER BY revision
"""
_LIST_REVISIONS: Final = f"""
SELECT revision, kind, reason, create_time, {COLUMNS} FROM meter.event_revisions
WHERE tenant_id = $1 AND customer_id = $2 AND (event_id, source, revision) > ($3, $4, $5)
ORDER BY event_id, source, revision
LIMIT $6
"""


RevisionKey = tuple[str, str, int]
"""The order of revisions: event id, source, number."""


async def lock_identity(transaction: AsyncConnection, tenant: str, identity: Identity) -> bool:
    """Keep an event from being corrected by others; tells whether there ever was one."""
    raw = await raw_connection(transaction)
    source, event_id = identity
    return await raw.fetchval(_LOCK, tenant, event_id, source) is not None


async def load_revisions(
    transaction: AsyncConnection, tenant: str, identity: Identity
) -> list[Revision]:
    """Load every state of a corrected event, the oldest first; none of one never corrected."""
    raw = await raw_connection(transaction)
    source, event_id = identity
    return [_revision(row) for row in await raw.fetch(_FIND_REVISIONS, tenant, event_id, source)]


async def list_revisions(
    transaction: AsyncConnection,
    tenant: str,
    customer_id: str,
    *,
    after: RevisionKey,
    limit: int,
) -> list[Revision]:
    """Load revisions of a customer in their order."""
    raw = await raw_connection(transaction)
    found = await raw.fetch(_LIST_REVISIONS, tenant, customer_id, *after, limit)
    return [_revision(row) for row in found]


def _revision(row: Sequence[Any]) -> Revision:
    number, kind, reason, create_time, *event = row
    return Revision(number, RevisionKind(kind), UsageEvent(*event), reason, create_time)


async def save_revision(transaction: AsyncConnection, tenant: str, revision: Revision) -> None:
    """Keep a state of an event for ever."""
    raw = await raw_connection(transaction)
    await raw.execute(
        _SAVE_REVISION,
        tenant,
        *revision.event,
        revision.number,
        revision.kind.value,
        revision.reason,
        revision.create_time,
    )


async def replace_event(
    transaction: AsyncConnection, tenant: str, stored: StoredEvent, amended: UsageEvent
) -> None:
    """Put an event that counts in the place of another of the same identity."""
    await remove_event(transaction, tenant, stored.event)
    raw = await raw_connection(transaction)
    await raw.execute(_SAVE_EVENT, tenant, *amended, stored.ingest_time, stored.billed)
    await _move_identity(transaction, tenant, amended, amended.time)


async def remove_event(transaction: AsyncConnection, tenant: str, event: UsageEvent) -> None:
    """Let an event no longer count; its identity stays taken."""
    raw = await raw_connection(transaction)
    key = (event.type, event.time, event.source, event.event_id)
    await raw.execute(_REMOVE_EVENT, tenant, *key)


async def _move_identity(
    transaction: AsyncConnection, tenant: str, event: UsageEvent, time: datetime
) -> None:
    raw = await raw_connection(transaction)
    await raw.execute(_MOVE_IDENTITY, tenant, event.event_id, event.source, time)
