"""Registrations of sellers, and published exchange rates."""

import sqlalchemy as sa
from alembic import op

from kit.migrations import create_idempotency_table, enable_tenant_isolation

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create the first tables.

    Exchange rates have no tenant: they are published figures, the same for everybody. The
    service's role may read and add them, and neither change nor remove one.
    """
    op.create_table(
        "registrations",
        sa.Column("tenant_id", sa.Text, primary_key=True),
        sa.Column("registration_id", sa.Text, primary_key=True),
        sa.Column("country", sa.Text, nullable=False),
        sa.Column("region", sa.Text, nullable=False),
        sa.Column("scheme", sa.Text, nullable=False),
        sa.Column("number", sa.Text, nullable=False),
        sa.Column("established", sa.Boolean, nullable=False),
        sa.Column("start_date", sa.Date, nullable=False),
        sa.Column("end_date", sa.Date),
        sa.Column("create_time", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("end_date IS NULL OR end_date > start_date", "registrations_dates"),
        schema="tax",
    )
    enable_tenant_isolation(op, "tax", "registrations")
    op.create_table(
        "exchange_rates",
        sa.Column("source", sa.Text, primary_key=True),
        sa.Column("currency", sa.Text, primary_key=True),
        sa.Column("rate_date", sa.Date, primary_key=True),
        sa.Column("units_per_euro", sa.Numeric, nullable=False),
        sa.CheckConstraint("units_per_euro > 0", "exchange_rates_positive"),
        schema="tax",
    )
    op.execute("GRANT SELECT, INSERT ON tax.exchange_rates TO tollkeeper_tax")
    create_idempotency_table(op, "tax")
