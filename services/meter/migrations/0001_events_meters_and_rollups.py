"""Events, the identities that count them once, meters, and the rollups kept beside them."""

from alembic import op

from kit.migrations import create_idempotency_table, enable_tenant_isolation

revision = "0001"
down_revision = None

# Every text compares byte by byte: twice as fast as a language's order, and the same everywhere.
TABLES = {
    # Who was seen, apart from what happened: identities are unique over all time, so that events
    # may be partitioned by time. The event id comes first, since it tells apart the soonest.
    "event_identities": """
        CREATE TABLE meter.event_identities (
            tenant_id text COLLATE "C" NOT NULL,
            event_id text COLLATE "C" NOT NULL,
            source text COLLATE "C" NOT NULL,
            time timestamptz NOT NULL,
            fingerprint bytea NOT NULL,
            PRIMARY KEY (tenant_id, event_id, source)
        )
    """,
    # JSON, not jsonb: kept as the canonical text it arrives in, for half the work.
    "events": """
        CREATE TABLE meter.events (
            tenant_id text COLLATE "C" NOT NULL,
            time timestamptz NOT NULL,
            source text COLLATE "C" NOT NULL,
            event_id text COLLATE "C" NOT NULL,
            type text COLLATE "C" NOT NULL,
            customer_id text COLLATE "C" NOT NULL,
            project_id text COLLATE "C" NOT NULL,
            user_id text COLLATE "C" NOT NULL,
            key_id text COLLATE "C" NOT NULL,
            run_id text COLLATE "C" NOT NULL,
            dimensions json NOT NULL,
            quantities json NOT NULL,
            ingest_time timestamptz NOT NULL,
            PRIMARY KEY (tenant_id, time, source, event_id)
        )
    """,
    "meters": """
        CREATE TABLE meter.meters (
            tenant_id text COLLATE "C" NOT NULL,
            meter_id text COLLATE "C" NOT NULL,
            display_name text NOT NULL,
            event_type text COLLATE "C" NOT NULL,
            aggregation text NOT NULL CHECK (aggregation IN ('SUM', 'COUNT')),
            quantity text NOT NULL CHECK ((aggregation = 'COUNT') = (quantity = '')),
            filters json NOT NULL,
            group_by text[] NOT NULL,
            unit text NOT NULL,
            create_time timestamptz NOT NULL,
            PRIMARY KEY (tenant_id, meter_id)
        )
    """,
    # Grows with every change of a tenant's meters, so that a process knows when to read them anew.
    "meter_revisions": """
        CREATE TABLE meter.meter_revisions (
            tenant_id text COLLATE "C" NOT NULL,
            revision bigint NOT NULL,
            PRIMARY KEY (tenant_id)
        )
    """,
    # What a figure is about, once, so that a rollup is two numbers. Group values may be longer
    # than an index takes; their SHA-256 stands for them.
    "series": """
        CREATE TABLE meter.series (
            tenant_id text COLLATE "C" NOT NULL,
            series_id bigint GENERATED ALWAYS AS IDENTITY,
            meter_id text COLLATE "C" NOT NULL,
            customer_id text COLLATE "C" NOT NULL,
            group_digest bytea NOT NULL,
            group_values text[] COLLATE "C" NOT NULL,
            PRIMARY KEY (tenant_id, series_id),
            UNIQUE (tenant_id, meter_id, customer_id, group_digest)
        )
    """,
    # Half of each page is left free, so that a running hour is updated in place.
    "rollups": """
        CREATE TABLE meter.rollups (
            tenant_id text COLLATE "C" NOT NULL,
            series_id bigint NOT NULL,
            hour timestamptz NOT NULL,
            quantity numeric NOT NULL,
            event_count bigint NOT NULL,
            PRIMARY KEY (tenant_id, series_id, hour)
        ) WITH (fillfactor = 50)
    """,
}


def upgrade() -> None:
    """Create the first tables."""
    for table, statement in TABLES.items():
        op.execute(statement)
        enable_tenant_isolation(op, "meter", table)
    # By the minute, since equal keys share one entry: half of the work of an index by the instant,
    # and less of the size. Reading sorts within the minute.
    for name, column in (("events_by_customer", "customer_id"), ("events_by_type", "type")):
        op.execute(
            f"CREATE INDEX {name} ON meter.events (tenant_id, {column},"
            " date_bin(INTERVAL '1 minute', time, TIMESTAMPTZ '2000-01-01 00:00Z'))"
        )
    create_idempotency_table(op, "meter")
