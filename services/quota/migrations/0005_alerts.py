"""Thresholds of limits, and the outbox of alerts about those that were crossed."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY

from kit.migrations import enable_tenant_isolation

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Add the column and the table; limits that are there have no thresholds."""
    op.add_column(
        "limits",
        sa.Column("alert_thresholds", ARRAY(sa.SmallInteger), nullable=False, server_default="{}"),
        schema="quota",
    )
    op.create_table(
        "alerts",
        sa.Column("tenant_id", sa.Text, primary_key=True),
        sa.Column("alert_id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
        sa.Column("customer_id", sa.Text, nullable=False),
        sa.Column("limit_id", sa.Text, nullable=False),
        sa.Column("scope", sa.Text, nullable=False),
        sa.Column("window", sa.BigInteger, nullable=False),
        sa.Column("threshold", sa.SmallInteger, nullable=False),
        sa.Column("capacity", sa.BigInteger, nullable=False),
        sa.Column("used", sa.BigInteger, nullable=False),
        sa.Column("create_time", sa.DateTime(timezone=True), nullable=False),
        sa.UniqueConstraint(
            *("tenant_id", "limit_id", "scope", "window", "threshold"), name="alerts_once"
        ),
        schema="quota",
    )
    op.create_index(
        "alerts_customer", "alerts", ["tenant_id", "customer_id", "alert_id"], schema="quota"
    )
    enable_tenant_isolation(op, "quota", "alerts")
