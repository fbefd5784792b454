"""Whether the limits of a subscription's plan are in the quota service as they should be."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add the time of it; subscriptions of before are looked at once more."""
    op.add_column(
        "subscriptions",
        sa.Column("limits_time", sa.DateTime(timezone=True)),
        schema="invoicing",
    )
    op.create_index(
        "subscriptions_without_limits",
        "subscriptions",
        ["tenant_id", "start_time"],
        schema="invoicing",
        postgresql_where=sa.text("limits_time IS NULL"),
    )
