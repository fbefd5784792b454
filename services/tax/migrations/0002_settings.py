"""What sellers have decided on."""

import sqlalchemy as sa
from alembic import op

from kit.migrations import enable_tenant_isolation

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Create the settings, one row for each seller that has decided on any."""
    op.create_table(
        "settings",
        sa.Column("tenant_id", sa.Text, primary_key=True),
        sa.Column("exchange_rate_source", sa.Text, nullable=False),
        sa.Column("maximum_rate_age_days", sa.Integer, nullable=False),
        schema="tax",
    )
    enable_tenant_isolation(op, "tax", "settings")
