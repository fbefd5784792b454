"""Sums the events of a customer by subject path and dimensions, whatever the meters count."""

import json
from decimal import Decimal
from typing import Any, Final

from sqlalchemy import bindparam, text
from sqlalchemy.ext.asyncio import AsyncConnection

from kit.interval import Interval
from services.meter.model import UsageSummary
from services.meter.windows import start_of_minute

SummaryKey = tuple[str, str, str, str, str]
"""The order of summaries: project, user, key, run, digest of the dimensions."""

# Every event stands once for itself, under a name that no quantity has, and once for each of its
# quantities; so one pass counts and sums. Texts are cut to a digest, since a page token holds it.
_SUMMARIZE: Final = """
WITH matching AS (
    SELECT
        project_id, user_id, key_id, run_id, dimensions::text AS dimensions, quantities,
        encode(sha256(convert_to(dimensions::text, 'UTF8')), 'hex') COLLATE "C" AS digest
    FROM meter.events
    WHERE tenant_id = :tenant AND customer_id = :customer
        AND date_bin(INTERVAL '1 minute', time, TIMESTAMPTZ '2000-01-01 00:00Z') >= :minute
        AND date_bin(INTERVAL '1 minute', time, TIMESTAMPTZ '2000-01-01 00:00Z') < :end
        AND time >= :start AND time < :end
), summed AS (
    SELECT
        project_id, user_id, key_id, run_id, digest, min(dimensions) AS dimensions, name,
        sum(value) AS value
    FROM matching, LATERAL (
        SELECT '' AS name, 1::numeric AS value
        UNION ALL SELECT key, value::numeric FROM json_each_text(quantities)
    ) AS parts
    WHERE (project_id, user_id, key_id, run_id, digest) > ({after})
    GROUP BY project_id, user_id, key_id, run_id, digest, name
)
SELECT
    project_id, user_id, key_id, run_id, digest, min(dimensions),
    json_object_agg(name, value::text)::text
FROM summed
GROUP BY project_id, user_id, key_id, run_id, digest
ORDER BY project_id, user_id, key_id, run_id, digest
LIMIT :limit
"""
_LEVELS: Final = ("project_id", "user_id", "key_id", "run_id", "digest")
_STATEMENT: Final = text(
    _SUMMARIZE.format(after=", ".join(f":after_{level}" for level in _LEVELS))
).bindparams(*(bindparam(f"after_{level}") for level in _LEVELS))
_BEFORE_ALL: Final = ("", "", "", "", "")


async def summarize_usage(
    transaction: AsyncConnection,
    tenant: str,
    customer_id: str,
    interval: Interval,
    *,
    after: SummaryKey | None,
    limit: int,
) -> list[tuple[SummaryKey, UsageSummary]]:
    """Sum a customer's events by subject path and dimensions, beginning after a key."""
    values: dict[str, Any] = {
        "tenant": tenant,
        "customer": customer_id,
        "minute": start_of_minute(interval.start),
        "start": interval.start,
        "end": interval.end,
        "limit": limit,
    }
    for level, value in zip(_LEVELS, after or _BEFORE_ALL, strict=True):
        values[f"after_{level}"] = value
    found = await transaction.execute(_STATEMENT, values)
    return [
        (tuple(key), _summary(customer_id, tuple(key), dimensions, sums))
        for *key, dimensions, sums in found
    ]


def _summary(customer_id: str, key: SummaryKey, dimensions: str, sums: str) -> UsageSummary:
    quantities = {name: Decimal(value) for name, value in json.loads(sums).items()}
    event_count = int(quantities.pop(""))
    subject = (customer_id, *key[:4])
    return UsageSummary(subject, dimensions, tuple(sorted(quantities.items())), event_count)
