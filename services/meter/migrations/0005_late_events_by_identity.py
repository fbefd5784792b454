"""Late events are found by their identity."""

from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Index late events, of which there are few."""
    op.execute(
        "CREATE INDEX late_events_by_identity ON meter.late_events (tenant_id, event_id, source)"
    )
