"""Limits with a filter, in the stead of others, and until an instant."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add the columns; limits that are there cover what they covered, for ever."""
    for name in ("filter", "overrides"):
        op.add_column(
            "limits",
            sa.Column(name, sa.Text, nullable=False, server_default=""),
            schema="quota",
        )
    op.add_column("limits", sa.Column("expire_time", sa.DateTime(timezone=True)), schema="quota")
