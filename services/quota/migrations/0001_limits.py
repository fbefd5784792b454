"""Limits: whom and what they cover, how much, and in which window."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from kit.migrations import create_idempotency_table, enable_tenant_isolation

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create the first tables. Identifiers sort by code point, as they do in the service."""
    op.create_table(
        "limits",
        sa.Column("tenant_id", sa.Text, primary_key=True),
        sa.Column("limit_id", sa.Text(collation="C"), primary_key=True),
        sa.Column("display_name", sa.Text, nullable=False),
        sa.Column("level", sa.SmallInteger, nullable=False),
        sa.Column("customer_id", sa.Text, nullable=False),
        sa.Column("project_id", sa.Text, nullable=False),
        sa.Column("user_id", sa.Text, nullable=False),
        sa.Column("key_id", sa.Text, nullable=False),
        sa.Column("run_id", sa.Text, nullable=False),
        sa.Column("dimensions", JSONB, nullable=False),
        sa.Column("units", ARRAY(sa.Text), nullable=False),
        sa.Column("capacity", sa.BigInteger, nullable=False),
        sa.Column("calendar_period", sa.Text),
        sa.Column("time_zone", sa.Text),
        sa.Column("rolling_period_ms", sa.BigInteger),
        sa.Column("rolling_burst", sa.BigInteger),
        sa.Column("create_time", sa.DateTime(timezone=True), nullable=False),
        sa.Column("update_time", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("level BETWEEN 1 AND 5", "limits_level"),
        sa.CheckConstraint("capacity BETWEEN 0 AND 1000000000000000", "limits_capacity"),
        sa.CheckConstraint(
            "num_nonnulls(calendar_period, time_zone) IN (0, 2)"
            " AND num_nonnulls(rolling_period_ms, rolling_burst) IN (0, 2)"
            " AND num_nonnulls(calendar_period, rolling_period_ms) = 1",
            "limits_one_window",
        ),
        schema="quota",
    )
    op.create_index(
        "limits_customer", "limits", ["tenant_id", "customer_id", "limit_id"], schema="quota"
    )
    enable_tenant_isolation(op, "quota", "limits")
    create_idempotency_table(op, "quota")
