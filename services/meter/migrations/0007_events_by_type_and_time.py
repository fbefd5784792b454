"""Events are keyed by tenant, type and time, so that types need no index of their own.

Identities are keyed by what tells them apart first. The new keys are built while the tables are
locked; events and identities themselves stay where they are.
"""

from alembic import op

revision = "0007"
down_revision = "0006"

_KEY = """
ALTER TABLE meter.events DROP CONSTRAINT events_pkey;
ALTER TABLE meter.events ADD PRIMARY KEY (tenant_id, type, time, source, event_id);
DROP INDEX meter.events_by_type;
ALTER TABLE meter.event_identities DROP CONSTRAINT event_identities_pkey;
ALTER TABLE meter.event_identities ADD PRIMARY KEY (event_id, source, tenant_id)
"""
# As before but for the key.
_MAKE_MONTH = """
CREATE OR REPLACE FUNCTION meter.make_month(first timestamptz) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET timezone = 'UTC'
SET lock_timeout = '1s'
AS $$
DECLARE
    name text := 'events_' || to_char(first, 'YYYY_MM');
BEGIN
    IF to_regclass('meter.' || name) IS NOT NULL THEN
        RETURN false;
    END IF;
    EXECUTE format(
        'CREATE TABLE meter.%I (
            LIKE meter.events INCLUDING DEFAULTS,
            PRIMARY KEY (tenant_id, type, time, source, event_id)
        )', name
    );
    EXECUTE format('ALTER TABLE meter.%I ENABLE ROW LEVEL SECURITY', name);
    EXECUTE format(
        'ALTER TABLE meter.events ATTACH PARTITION meter.%I FOR VALUES FROM (%L) TO (%L)',
        name, first, first + INTERVAL '1 month'
    );
    RETURN true;
EXCEPTION
    WHEN check_violation OR invalid_object_definition THEN
        RETURN false;
END
$$
"""


def upgrade() -> None:
    """Change the keys, also of months to come."""
    for statement in _KEY.split(";"):
        op.execute(statement)
    op.execute(_MAKE_MONTH)
