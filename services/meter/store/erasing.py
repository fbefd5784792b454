"""Puts pseudonyms in the place of a customer's users, keys and runs, wherever events are kept."""

from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection

from kit.postgres import raw_connection

_LEVELS: Final = ("user_id", "key_id", "run_id")
_TABLES: Final = ("events", "late_events", "event_revisions")
# Different people stay different, so that counts of them do not change; the salt is forgotten, so
# that nobody can try names.
_PSEUDONYM: Final = (
    "CASE WHEN {value} = '' THEN '' ELSE"
    " 'erased-' || left(encode(sha256(convert_to($3 || {value}, 'UTF8')), 'hex'), 32) END"
)
_ERASE: Final = """
UPDATE meter.{table} SET {changes} WHERE tenant_id = $1 AND customer_id = $2
"""
_ERASE_VALUES: Final = """
UPDATE meter.rollup_values AS kept SET value = {pseudonym}
FROM meter.series JOIN meter.meters USING (tenant_id, meter_id, version)
WHERE kept.tenant_id = $1 AND kept.tenant_id = series.tenant_id
    AND kept.series_id = series.series_id
    AND series.customer_id = $2
    AND meters.unique_by IN ('subject.user_id', 'subject.key_id', 'subject.run_id')
"""
_FORGET_REJECTED: Final = """
DELETE FROM meter.rejected_events WHERE tenant_id = $1 AND customer_id = $2
"""


async def erase_customer(
    transaction: AsyncConnection, tenant: str, customer_id: str, salt: str
) -> tuple[int, int]:
    """Erase, and answer how many events were changed and how many rejected ones deleted."""
    raw = await raw_connection(transaction)
    changes = ", ".join(f"{level} = {_PSEUDONYM.format(value=level)}" for level in _LEVELS)
    count = 0
    for table in _TABLES:
        statement = _ERASE.format(table=table, changes=changes)
        count += _rows(await raw.execute(statement, tenant, customer_id, salt))
    pseudonym = _PSEUDONYM.format(value="kept.value")
    await raw.execute(_ERASE_VALUES.format(pseudonym=pseudonym), tenant, customer_id, salt)
    rejected = await raw.execute(_FORGET_REJECTED, tenant, customer_id)
    return count, _rows(rejected)


def _rows(tag: str) -> int:
    # PostgreSQL answers `UPDATE 12`.
    return int(tag.rsplit(" ", 1)[1])
