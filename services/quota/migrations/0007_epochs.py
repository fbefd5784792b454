"""The epoch of the counters, by which it is noticed that Redis has lost them."""

import sqlalchemy as sa
from alembic import op

from kit.migrations import enable_tenant_isolation

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Create a table of one row, which belongs to no tenant; the first replica writes it."""
    op.create_table(
        "counter_epochs",
        sa.Column("tenant_id", sa.Text, primary_key=True),
        sa.Column("installation", sa.Text, nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("token", sa.Text, nullable=False),
        sa.Column("beat_ms", sa.BigInteger, nullable=False),
        sa.CheckConstraint("tenant_id = ''", "counter_epochs_one"),
        schema="quota",
    )
    enable_tenant_isolation(op, "quota", "counter_epochs")
