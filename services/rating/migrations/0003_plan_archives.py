"""Which plans are archived."""

import sqlalchemy as sa
from alembic import op

from kit.migrations import enable_tenant_isolation

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add a row for each archived plan; the service's role may add one, and not take it back."""
    op.create_table(
        "plan_archives",
        sa.Column("tenant_id", sa.Text, primary_key=True),
        sa.Column("plan_id", sa.Text, primary_key=True),
        sa.Column("archive_time", sa.DateTime(timezone=True), nullable=False),
        schema="rating",
    )
    enable_tenant_isolation(op, "rating", "plan_archives")
    op.execute("REVOKE UPDATE, DELETE ON rating.plan_archives FROM tollkeeper_rating")
