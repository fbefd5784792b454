"""Tax rates that sellers upload."""

import sqlalchemy as sa
from alembic import op

from kit.migrations import enable_tenant_isolation

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Create the uploaded rates; the position keeps the order of the upload."""
    op.create_table(
        "uploaded_rates",
        sa.Column("tenant_id", sa.Text, primary_key=True),
        sa.Column("position", sa.Integer, primary_key=True),
        sa.Column("jurisdiction", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("rate_percent", sa.Numeric, nullable=False),
        sa.Column("postal_codes", sa.ARRAY(sa.Text), nullable=False),
        sa.Column("start_date", sa.Date, nullable=False),
        sa.Column("end_date", sa.Date),
        sa.Column("source", sa.Text, nullable=False),
        sa.CheckConstraint("rate_percent BETWEEN 0 AND 100", "uploaded_rates_percent"),
        sa.CheckConstraint("end_date IS NULL OR end_date > start_date", "uploaded_rates_dates"),
        schema="tax",
    )
    enable_tenant_isolation(op, "tax", "uploaded_rates")
