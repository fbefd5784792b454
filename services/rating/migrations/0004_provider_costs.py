"""What providers charge."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

from kit.migrations import enable_tenant_isolation

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Add a row for each revision of what a provider charges for a model.

    The service's role may add revisions, and neither change nor remove one. The rates are one
    document, as prices are; its numbers are text, so that they keep every digit.
    """
    op.create_table(
        "provider_costs",
        sa.Column("tenant_id", sa.Text, primary_key=True),
        sa.Column("provider", sa.Text(collation="C"), primary_key=True),
        sa.Column("model", sa.Text(collation="C"), primary_key=True),
        sa.Column("revision", sa.Integer, primary_key=True),
        sa.Column("currency", sa.Text, nullable=False),
        sa.Column("effective_time", sa.DateTime(timezone=True)),
        sa.Column("context_quantity", sa.Text, nullable=False),
        sa.Column("rates", JSONB, nullable=False),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("create_time", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("revision > 0", "provider_costs_count_from_one"),
        sa.Index("provider_costs_of_a_model", "tenant_id", "model"),
        schema="rating",
    )
    enable_tenant_isolation(op, "rating", "provider_costs")
    op.execute("REVOKE UPDATE, DELETE ON rating.provider_costs FROM tollkeeper_rating")
