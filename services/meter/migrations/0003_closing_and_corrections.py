"""Closed periods and what came late, corrections with their history, and rejected events."""

from alembic import op

from kit.migrations import enable_tenant_isolation

revision = "0003"
down_revision = "0002"

CONTENT = """
    source text COLLATE "C" NOT NULL,
    event_id text COLLATE "C" NOT NULL,
    time timestamptz NOT NULL,
    type text COLLATE "C" NOT NULL,
    customer_id text COLLATE "C" NOT NULL,
    project_id text COLLATE "C" NOT NULL,
    user_id text COLLATE "C" NOT NULL,
    key_id text COLLATE "C" NOT NULL,
    run_id text COLLATE "C" NOT NULL,
    dimensions json NOT NULL,
    quantities json NOT NULL
"""
TABLES = {
    "closed_periods": """
        CREATE TABLE meter.closed_periods (
            tenant_id text COLLATE "C" NOT NULL,
            customer_id text COLLATE "C" NOT NULL,
            end_time timestamptz NOT NULL,
            PRIMARY KEY (tenant_id, customer_id)
        )
    """,
    # The latest end of all customers, so that most calls learn from one row that none is late.
    "closing_bounds": """
        CREATE TABLE meter.closing_bounds (
            tenant_id text COLLATE "C" NOT NULL,
            end_time timestamptz NOT NULL,
            PRIMARY KEY (tenant_id)
        )
    """,
    "late_events": f"""
        CREATE TABLE meter.late_events (
            tenant_id text COLLATE "C" NOT NULL, {CONTENT},
            ingest_time timestamptz NOT NULL,
            closed_until timestamptz NOT NULL,
            PRIMARY KEY (tenant_id, ingest_time, source, event_id)
        )
    """,
    "event_revisions": f"""
        CREATE TABLE meter.event_revisions (
            tenant_id text COLLATE "C" NOT NULL, {CONTENT},
            revision integer NOT NULL,
            kind text NOT NULL CHECK (kind IN ('ORIGINAL', 'AMENDED', 'VOIDED')),
            reason text NOT NULL,
            create_time timestamptz NOT NULL,
            PRIMARY KEY (tenant_id, event_id, source, revision)
        )
    """,
    # The same content is kept once, however often it is sent.
    "rejected_events": """
        CREATE TABLE meter.rejected_events (
            tenant_id text COLLATE "C" NOT NULL,
            rejected_event_id bigint GENERATED ALWAYS AS IDENTITY,
            digest bytea NOT NULL,
            customer_id text COLLATE "C" NOT NULL,
            event bytea NOT NULL,
            violations json NOT NULL,
            reject_time timestamptz NOT NULL,
            last_reject_time timestamptz NOT NULL,
            attempt_count bigint NOT NULL,
            PRIMARY KEY (tenant_id, rejected_event_id),
            UNIQUE (tenant_id, digest)
        )
    """,
}
BILLED = """
ALTER TABLE meter.series
    ADD COLUMN billed boolean NOT NULL DEFAULT false,
    DROP CONSTRAINT series_tenant_id_meter_id_version_customer_id_group_digest_key,
    ADD UNIQUE (tenant_id, meter_id, version, customer_id, group_digest, billed)
"""


def upgrade() -> None:
    """Create the tables, and tell history that was billed elsewhere apart."""
    for table, statement in TABLES.items():
        op.execute(statement)
        enable_tenant_isolation(op, "meter", table)
    op.execute("ALTER TABLE meter.events ADD COLUMN billed boolean NOT NULL DEFAULT false")
    op.execute(BILLED)
