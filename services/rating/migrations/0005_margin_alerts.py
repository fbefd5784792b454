"""Margins that fell below a threshold."""

import sqlalchemy as sa
from alembic import op

from kit.migrations import enable_tenant_isolation

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Add a row for each margin that was reported; the same one of an interval is reported once."""
    op.create_table(
        "margin_alerts",
        sa.Column("tenant_id", sa.Text, primary_key=True),
        sa.Column("alert_id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
        sa.Column("scope", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("revenue", sa.Numeric, nullable=False),
        sa.Column("cost", sa.Numeric, nullable=False),
        sa.Column("minimum_percent", sa.Numeric, nullable=False),
        sa.Column("start_time", sa.DateTime(timezone=True), nullable=False),
        sa.Column("end_time", sa.DateTime(timezone=True), nullable=False),
        sa.Column("currency", sa.Text, nullable=False),
        sa.Column("create_time", sa.DateTime(timezone=True), nullable=False),
        sa.UniqueConstraint(
            "tenant_id",
            "scope",
            "name",
            "start_time",
            "end_time",
            "minimum_percent",
            "currency",
            name="margin_alerts_are_reported_once",
        ),
        schema="rating",
    )
    enable_tenant_isolation(op, "rating", "margin_alerts")
    op.execute("REVOKE UPDATE, DELETE ON rating.margin_alerts FROM tollkeeper_rating")
