"""Limits by billing period, for a lifetime and on concurrency; overdraft and enforcement."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

_HARD = "1"


def upgrade() -> None:
    """Add the columns; limits that are there keep their windows and refuse."""
    for column in (
        sa.Column("anchor", sa.Date),
        sa.Column("months", sa.SmallInteger),
        sa.Column("counts_holds", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.Column("overdraft", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("enforcement", sa.SmallInteger, nullable=False, server_default=_HARD),
    ):
        op.add_column("limits", column, schema="quota")
    op.drop_constraint("limits_one_window", "limits", schema="quota")
    op.create_check_constraint(
        "limits_one_window",
        "limits",
        "num_nonnulls(rolling_period_ms, rolling_burst) IN (0, 2)"
        " AND num_nonnulls(anchor, months) IN (0, 2)"
        " AND num_nonnulls(calendar_period, anchor) = num_nonnulls(time_zone)"
        " AND num_nonnulls(calendar_period, rolling_period_ms, anchor)"
        " + counts_holds::integer <= 1",
        schema="quota",
    )
    op.create_check_constraint(
        "limits_overdraft",
        "limits",
        "overdraft BETWEEN 0 AND 1000000000000000 AND enforcement BETWEEN 1 AND 3",
        schema="quota",
    )
