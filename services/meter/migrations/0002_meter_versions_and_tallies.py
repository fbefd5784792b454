"""Versions of meters, and rollups of quarters of an hour and days for every aggregation.

Rollups were of hours and of two aggregations. They are counted anew: every meter is marked as
having counted nothing yet, and catches up from the stored events like one that was put later.
"""

from alembic import op

from kit.migrations import enable_tenant_isolation

revision = "0002"
down_revision = "0001"

METERS = """
ALTER TABLE meter.meters
    DROP CONSTRAINT meters_pkey,
    DROP CONSTRAINT meters_aggregation_check,
    DROP CONSTRAINT meters_check,
    ADD COLUMN version integer NOT NULL DEFAULT 1,
    ADD COLUMN expression text NOT NULL DEFAULT '',
    ADD COLUMN unique_by text NOT NULL DEFAULT '',
    ADD COLUMN percentile numeric,
    ADD COLUMN rounding_mode text,
    ADD COLUMN rounding_precision integer,
    ADD COLUMN time_unit text NOT NULL DEFAULT 'SECOND',
    ADD COLUMN effective_time timestamptz,
    ADD COLUMN end_time timestamptz,
    ADD COLUMN counted_from timestamptz,
    ADD PRIMARY KEY (tenant_id, meter_id, version)
"""
SERIES = """
ALTER TABLE meter.series
    ADD COLUMN version integer NOT NULL DEFAULT 1,
    DROP CONSTRAINT series_tenant_id_meter_id_customer_id_group_digest_key,
    ADD UNIQUE (tenant_id, meter_id, version, customer_id, group_digest)
"""
# Half of each page is left free, so that what is running is updated in place. What an aggregation
# does not need is NULL and takes no room.
ROLLUPS = """
CREATE TABLE meter.rollups (
    tenant_id text COLLATE "C" NOT NULL,
    series_id bigint NOT NULL,
    span smallint NOT NULL CHECK (span IN (15, 1440)),
    start timestamptz NOT NULL,
    quantity numeric NOT NULL,
    event_count bigint NOT NULL,
    last_us bigint,
    last_source text COLLATE "C",
    last_event_id text COLLATE "C",
    first_us bigint,
    area numeric,
    PRIMARY KEY (tenant_id, series_id, span, start)
) WITH (fillfactor = 50)
"""
# How often each value occurred, for what is told apart or ordered.
VALUES = """
CREATE TABLE meter.rollup_values (
    tenant_id text COLLATE "C" NOT NULL,
    series_id bigint NOT NULL,
    span smallint NOT NULL,
    start timestamptz NOT NULL,
    value text COLLATE "C" NOT NULL,
    event_count bigint NOT NULL,
    PRIMARY KEY (tenant_id, series_id, span, start, value)
) WITH (fillfactor = 70)
"""
NOTHING_COUNTED = "UPDATE meter.meters SET counted_from = TIMESTAMPTZ '3000-01-01 00:00Z'"


def upgrade() -> None:
    """Make room for versions and tallies, and let every meter count anew."""
    op.execute(METERS)
    op.execute("ALTER TABLE meter.meters NO FORCE ROW LEVEL SECURITY")
    op.execute(NOTHING_COUNTED)
    op.execute("ALTER TABLE meter.meters FORCE ROW LEVEL SECURITY")
    op.execute(SERIES)
    op.execute("DROP TABLE meter.rollups")
    for table, statement in (("rollups", ROLLUPS), ("rollup_values", VALUES)):
        op.execute(statement)
        enable_tenant_isolation(op, "meter", table)
