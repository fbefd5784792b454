"""Budgets of money, counted by the rate card of a plan."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Add the plan of a limit; those that are there have none."""
    op.add_column(
        "limits", sa.Column("plan_id", sa.Text, nullable=False, server_default=""), schema="quota"
    )
