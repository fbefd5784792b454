"""Functions by which events are taken in with one call, instead of a dozen statements.

What a call brings was decided by what the caller knew of the tenant: which meters there are, what
is closed, what is kept. So it says what that was, and nothing is stored where it has changed since.

They run with the rights of who calls them. `take_in` is called by itself, outside of a transaction
that has entered the service's role and a tenant, so that is what it does first.
"""

from alembic import op

from kit.postgres import role_of

revision = "0006"
down_revision = "0005"

_ROLE = role_of("meter")
_FUNCTION = """
CREATE FUNCTION meter.{signature}
LANGUAGE plpgsql
AS $$ {body} $$
"""
# Starts are seconds since 1970, spans are minutes: a day, and a quarter of an hour.
_ADD = """
    IF {rows} IS NOT NULL THEN
        WITH quarters AS MATERIALIZED (
            SELECT series_id, start_s, quantity, event_count
            FROM unnest(
                string_to_array({rows}[1], ' ')::bigint[],
                string_to_array({rows}[2], ' ')::bigint[],
                string_to_array({rows}[3], ' ')::numeric[],
                string_to_array({rows}[4], ' ')::bigint[]
            ) AS quarter (series_id, start_s, quantity, event_count)
        )
        INSERT INTO meter.rollups AS stored (
            tenant_id, series_id, span, start, quantity, event_count
        )
        SELECT tenant, series_id, span, to_timestamp(start_s), quantity, event_count
        FROM (
            SELECT series_id, 15 AS span, start_s, quantity, event_count FROM quarters
            UNION ALL
            SELECT
                series_id, 1440, start_s - start_s % 86400, {joined}(quantity),
                sum(event_count)::bigint
            FROM quarters GROUP BY 1, 3
        ) AS added
        ORDER BY series_id, span, start_s
        ON CONFLICT (tenant_id, series_id, span, start) DO UPDATE SET
            quantity = {quantity},
            event_count = stored.event_count + excluded.event_count;
    END IF;
"""
_ADDING = {
    "sums": ("sum", "stored.quantity + excluded.quantity"),
    "minima": ("min", "least(stored.quantity, excluded.quantity)"),
    "maxima": ("max", "greatest(stored.quantity, excluded.quantity)"),
}
_ADD_VALUES = """
    IF occurrences IS NOT NULL THEN
        WITH quarters AS MATERIALIZED (
            SELECT series_id, start_s, value, event_count
            FROM unnest(
                string_to_array(occurrences[1], ' ')::bigint[],
                string_to_array(occurrences[2], ' ')::bigint[],
                string_to_array(occurrences[3], E'\\n'),
                string_to_array(occurrences[4], ' ')::bigint[]
            ) AS quarter (series_id, start_s, value, event_count)
        )
        INSERT INTO meter.rollup_values AS stored (
            tenant_id, series_id, span, start, value, event_count
        )
        SELECT tenant, series_id, span, to_timestamp(start_s), value, event_count
        FROM (
            SELECT series_id, 15 AS span, start_s, value, event_count FROM quarters
            UNION ALL
            SELECT
                series_id, 1440, start_s - start_s % 86400, value, sum(event_count)::bigint
            FROM quarters GROUP BY 1, 3, 4
        ) AS added
        ORDER BY series_id, span, start_s, value COLLATE "C"
        ON CONFLICT (tenant_id, series_id, span, start, value) DO UPDATE SET
            event_count = stored.event_count + excluded.event_count;
    END IF;
"""
_FUNCTIONS = {
    # Keeps meters, closed periods and what is kept as they are until the transaction ends, and
    # answers them. By the lock of the table nothing that is kept is dropped.
    "lock_for_events("
    "tenant text, OUT revision bigint, OUT closed_until timestamptz, OUT horizon timestamptz"
    ")": """
BEGIN
    PERFORM pg_advisory_xact_lock_shared(hashtextextended('meter.meters ' || tenant, 0));
    LOCK TABLE ONLY meter.events IN ACCESS SHARE MODE;
    -- Another statement, since one sees what was committed before it waited for the lock.
    SELECT
        coalesce((SELECT r.revision FROM meter.meter_revisions AS r WHERE tenant_id = tenant), 0),
        (SELECT end_time FROM meter.closing_bounds WHERE tenant_id = tenant),
        (SELECT r.horizon FROM meter.retention AS r)
    INTO revision, closed_until, horizon;
END
""",
    # Adds to rollups of quarters of an hour, and to those of their days. Each kind of rows is four
    # columns, of which each is one text; see `store.rollups`. Rows are locked in one order.
    "add_rollups(tenant text, sums text[], minima text[], maxima text[], occurrences text[])"
    " RETURNS void": f"""
BEGIN
    {
        "".join(
            _ADD.format(rows=rows, joined=joined, quantity=quantity)
            for rows, (joined, quantity) in _ADDING.items()
        )
    }
    {_ADD_VALUES}
END
""",
    # Stores events, of which none may be stored already, and adds to rollups. Answers false, and
    # changes nothing, where the tenant does not stand as the caller thought. The events of a large
    # call are kept in memory.
    "take_in("
    "tenant text, known_revision bigint, known_closed_until timestamptz,"
    " known_horizon timestamptz, lines text, taken_at timestamptz, is_billed boolean,"
    " sums text[], minima text[], maxima text[], occurrences text[]"
    ") RETURNS boolean": """
DECLARE
    standing record;
BEGIN
    PERFORM
        set_config('role', 'tollkeeper_meter', true),
        set_config('tollkeeper.tenant', tenant, true),
        set_config('work_mem', '32MB', true);
    standing := meter.lock_for_events(tenant);
    IF (standing.revision, standing.closed_until, standing.horizon)
        IS DISTINCT FROM (known_revision, known_closed_until, known_horizon)
    THEN
        RETURN false;
    END IF;
    WITH taken AS MATERIALIZED (
        SELECT
            field[1] AS source, field[2] AS event_id,
            timestamptz '1970-01-01 00:00Z' + field[3]::bigint * interval '1 microsecond' AS time,
            field[4] AS type, field[5] AS customer_id, field[6] AS project_id,
            field[7] AS user_id, field[8] AS key_id, field[9] AS run_id,
            field[10]::json AS dimensions, field[11]::json AS quantities, field[12] AS fingerprint
        FROM string_to_table(lines, E'\\n') AS line, string_to_array(line, E'\\t') AS field
    ), identified AS (
        INSERT INTO meter.event_identities (
            tenant_id, event_id, source, time, fingerprint, stored_on
        )
        SELECT
            tenant, event_id, source, time, decode(fingerprint, 'hex'),
            (taken_at AT TIME ZONE 'UTC')::date
        FROM taken
        ORDER BY event_id COLLATE "C", source COLLATE "C"
        RETURNING 1
    )
    INSERT INTO meter.events (
        tenant_id, time, source, event_id, type, customer_id, project_id, user_id, key_id, run_id,
        dimensions, quantities, ingest_time, billed
    )
    SELECT
        tenant, time, source, event_id, type, customer_id, project_id, user_id, key_id, run_id,
        dimensions, quantities, taken_at, is_billed
    FROM taken
    -- So that all identities are locked before any event is stored.
    WHERE (SELECT count(*) FROM identified) > 0;
    PERFORM meter.add_rollups(tenant, sums, minima, maxima, occurrences);
    RETURN true;
END
""",
}


def upgrade() -> None:
    """Create the functions, for the service alone."""
    for signature, body in _FUNCTIONS.items():
        op.execute(_FUNCTION.format(signature=signature, body=body))
        name = signature.partition("(")[0]
        op.execute(f"REVOKE ALL ON FUNCTION meter.{name} FROM PUBLIC")
        op.execute(f"GRANT EXECUTE ON FUNCTION meter.{name} TO {_ROLE}")
