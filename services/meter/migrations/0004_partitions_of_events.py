"""Events partitioned by the month in which they happened, and what keeps them so.

The table of events becomes the partition of all that happened before the next month; it is read
once, to see that it holds nothing else, and neither copied nor indexed anew. Months follow it, and
one more partition takes what no other takes: what is older than the months that are left, or came
while nobody made any.

Making and dropping partitions, and deleting what is beyond retention whosever it is, needs rights
that the role of the service lacks and must lack. So that is done by functions of the owner, which
do these things and nothing else.
"""

from alembic import op

from kit.migrations import enable_tenant_isolation
from kit.postgres import role_of

revision = "0004"
down_revision = "0003"

_ROLE = role_of("meter")
_MINUTE = "date_bin(INTERVAL '1 minute', time, TIMESTAMPTZ '2000-01-01 00:00Z')"
_INDEXES = {
    "events_by_customer": f"(tenant_id, customer_id, {_MINUTE})",
    "events_by_type": f"(tenant_id, type, {_MINUTE})",
}
# Nobody but their owner reads a partition by its own name.
_BEFORE_NEXT_MONTH = f"""
ALTER TABLE meter.events RENAME TO events_earlier;
ALTER TABLE meter.events_earlier RENAME CONSTRAINT events_pkey TO events_earlier_pkey;
ALTER INDEX meter.events_by_customer RENAME TO events_earlier_by_customer;
ALTER INDEX meter.events_by_type RENAME TO events_earlier_by_type;
DROP POLICY tenant_isolation ON meter.events_earlier;
ALTER TABLE meter.events_earlier NO FORCE ROW LEVEL SECURITY;
REVOKE ALL ON meter.events_earlier FROM {_ROLE};
CREATE TABLE meter.events (
    LIKE meter.events_earlier INCLUDING DEFAULTS,
    PRIMARY KEY (tenant_id, time, source, event_id)
) PARTITION BY RANGE (time)
"""
# An event may be an hour ahead of the clock that took it in.
_ATTACH = """
ALTER TABLE meter.events ATTACH PARTITION meter.events_earlier
    FOR VALUES FROM (MINVALUE)
    TO (date_trunc('month', now() + INTERVAL '1 day', 'UTC') + INTERVAL '1 month');
CREATE TABLE meter.events_others PARTITION OF meter.events DEFAULT;
ALTER TABLE meter.events_others ENABLE ROW LEVEL SECURITY
"""
# A row for everybody: since when every event is kept, and up to which instant all is deleted that
# is beyond retention.
_RETENTION = f"""
CREATE TABLE meter.retention (
    is_only boolean PRIMARY KEY DEFAULT true CHECK (is_only),
    horizon timestamptz,
    trimmed_until timestamptz
);
INSERT INTO meter.retention DEFAULT VALUES;
GRANT SELECT ON meter.retention TO {_ROLE}
"""
# What is there already counts as stored today.
_STORED_ON = """
ALTER TABLE meter.event_identities ADD COLUMN stored_on date NOT NULL DEFAULT CURRENT_DATE;
ALTER TABLE meter.event_identities ALTER COLUMN stored_on DROP DEFAULT
"""
_EXACT_FROM = "ALTER TABLE meter.meters ADD COLUMN exact_from timestamptz"
# Policies hold for the owner too. It sees rows of tenants only while it deletes in `trim`.
_POLICY = """
CREATE POLICY retention ON meter.{table} TO CURRENT_USER
    USING (current_setting('tollkeeper.retention', true) = 'on')
"""
_TRIMMED = ("event_identities", "late_events", "event_revisions", "rejected_events")
# Whoever reads or stores events waits for these; so they give up soon, and are tried again.
_FUNCTION = """
CREATE FUNCTION meter.{signature}
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET timezone = 'UTC'
SET lock_timeout = '1s'
AS $$ {body} $$
"""
_FUNCTIONS = {
    # Answers false where the month is there or its time belongs to another partition already.
    "make_month(first timestamptz) RETURNS boolean": """
DECLARE
    name text := 'events_' || to_char(first, 'YYYY_MM');
BEGIN
    IF to_regclass('meter.' || name) IS NOT NULL THEN
        RETURN false;
    END IF;
    EXECUTE format(
        'CREATE TABLE meter.%I (
            LIKE meter.events INCLUDING DEFAULTS, PRIMARY KEY (tenant_id, time, source, event_id)
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
""",
    # Nobody sees the month gone and the horizon before its end, unless nothing was in it.
    "drop_month(first timestamptz) RETURNS void": """
DECLARE
    name text := 'events_' || to_char(first, 'YYYY_MM');
    holds_any boolean;
BEGIN
    LOCK TABLE ONLY meter.events IN ACCESS EXCLUSIVE MODE;
    EXECUTE format('SELECT EXISTS (SELECT FROM meter.%I)', name) INTO holds_any;
    IF holds_any THEN
        PERFORM meter.move_horizon(first + INTERVAL '1 month');
    END IF;
    EXECUTE format('DROP TABLE meter.%I', name);
END
""",
    # Whoever has read events, or is about to, has them all until it is done.
    "move_horizon(beginning timestamptz) RETURNS void": """
BEGIN
    LOCK TABLE ONLY meter.events IN ACCESS EXCLUSIVE MODE;
    UPDATE meter.retention SET horizon = greatest(horizon, beginning);
END
""",
    # Deletes what is beyond retention from some pages of a table. Answers how many rows that were,
    # and nothing where it moved the horizon instead, after which it is to be called again.
    "trim(kind text, cut timestamptz, first_page bigint, end_page bigint) RETURNS bigint": """
DECLARE
    holds_events boolean := kind IN ('events_earlier', 'events_others');
    condition text := CASE
        WHEN holds_events THEN 'time < $1 AND ingest_time < $1'
        WHEN kind = 'event_identities' THEN 'time < $1 AND stored_on < $1::date'
        WHEN kind = 'late_events' THEN 'ingest_time < $1'
        WHEN kind = 'event_revisions' THEN 'time < $1 AND create_time < $1'
        WHEN kind = 'rejected_events' THEN 'last_reject_time < $1'
    END;
    is_found boolean;
    deleted bigint;
BEGIN
    condition := format(
        'meter.%I WHERE ctid >= %L::tid AND ctid < %L::tid AND %s',
        kind, format('(%s,0)', first_page), format('(%s,0)', end_page), condition
    );
    IF holds_events AND (SELECT horizon IS NULL OR horizon < cut FROM meter.retention) THEN
        EXECUTE format('SELECT EXISTS (SELECT FROM %s)', condition) INTO is_found USING cut;
        IF is_found THEN
            PERFORM meter.move_horizon(cut);
            RETURN NULL;
        END IF;
    END IF;
    PERFORM set_config('tollkeeper.retention', 'on', true);
    EXECUTE format('DELETE FROM %s', condition) USING cut;
    GET DIAGNOSTICS deleted = ROW_COUNT;
    PERFORM set_config('tollkeeper.retention', '', true);
    RETURN deleted;
END
""",
    "note_trimmed(cut timestamptz) RETURNS void": """
BEGIN
    UPDATE meter.retention SET trimmed_until = greatest(trimmed_until, cut);
END
""",
}
_CALLED = ("make_month", "drop_month", "trim", "note_trimmed")
_MAKE_MONTHS = """
SELECT meter.make_month(date_trunc('month', now(), 'UTC') + number * INTERVAL '1 month')
FROM generate_series(0, 3) AS number
"""


def upgrade() -> None:
    """Partition the events, and make the next months."""
    # Bounds are months of UTC, whatever the login's time zone.
    op.execute("SET LOCAL timezone = 'UTC'")
    _execute_each(_BEFORE_NEXT_MONTH)
    for name, key in _INDEXES.items():
        op.execute(f"CREATE INDEX {name} ON meter.events {key}")
    enable_tenant_isolation(op, "meter", "events")
    for statements in (_ATTACH, _RETENTION, _STORED_ON, _EXACT_FROM):
        _execute_each(statements)
    for table in _TRIMMED:
        op.execute(_POLICY.format(table=table))
    for signature, body in _FUNCTIONS.items():
        op.execute(_FUNCTION.format(signature=signature, body=body))
        op.execute(f"REVOKE ALL ON FUNCTION meter.{signature.partition('(')[0]} FROM PUBLIC")
    for function in _CALLED:
        op.execute(f"GRANT EXECUTE ON FUNCTION meter.{function} TO {_ROLE}")
    op.execute(_MAKE_MONTHS)


def _execute_each(statements: str) -> None:
    for statement in statements.split(";"):
        op.execute(statement)
