"""Plans, as versions that never change."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

from kit.migrations import create_idempotency_table, enable_tenant_isolation

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create the first tables.

    The service's role may add versions of plans, and neither change nor remove one. Prices are one
    document, since a version is read whole and never searched; its numbers are text, so that they
    keep every digit.
    """
    op.create_table(
        "plan_versions",
        sa.Column("tenant_id", sa.Text, primary_key=True),
        sa.Column("plan_id", sa.Text, primary_key=True),
        sa.Column("version", sa.Integer, primary_key=True),
        sa.Column("display_name", sa.Text, nullable=False),
        sa.Column("currency", sa.Text, nullable=False),
        sa.Column("base_fee", sa.Numeric, nullable=False),
        sa.Column("category", sa.Text, nullable=False),
        sa.Column("effective_time", sa.DateTime(timezone=True)),
        sa.Column("prices", JSONB, nullable=False),
        sa.Column("create_time", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("version > 0", "plan_versions_count_from_one"),
        sa.CheckConstraint("base_fee >= 0", "plan_versions_base_fee"),
        sa.UniqueConstraint(
            "tenant_id",
            "plan_id",
            "effective_time",
            name="plan_versions_effective_time",
            postgresql_nulls_not_distinct=True,
        ),
        schema="rating",
    )
    enable_tenant_isolation(op, "rating", "plan_versions")
    op.execute("REVOKE UPDATE, DELETE ON rating.plan_versions FROM tollkeeper_rating")
    create_idempotency_table(op, "rating")
