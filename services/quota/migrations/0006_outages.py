"""What limits do while their counters cannot be reached."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"

_CLOSED = "1"


def upgrade() -> None:
    """Add the columns; limits that are there refuse, as they did by failing."""
    for column in (
        sa.Column("outage_policy", sa.SmallInteger, nullable=False, server_default=_CLOSED),
        sa.Column("outage_allowance", sa.BigInteger, nullable=False, server_default="0"),
    ):
        op.add_column("limits", column, schema="quota")
    op.create_check_constraint(
        "limits_outage",
        "limits",
        "outage_policy BETWEEN 1 AND 3 AND outage_allowance BETWEEN 0 AND 1000000000000000"
        " AND (outage_policy = 3 OR outage_allowance = 0)",
        schema="quota",
    )
