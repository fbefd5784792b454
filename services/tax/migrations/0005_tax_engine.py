"""Whether a seller's taxes are determined by an engine outside."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Add the two decisions to the settings."""
    for name in ("uses_engine", "falls_back"):
        op.add_column(
            "settings",
            sa.Column(name, sa.Boolean, nullable=False, server_default=sa.false()),
            schema="tax",
        )
