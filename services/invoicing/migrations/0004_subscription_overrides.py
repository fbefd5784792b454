"""What was agreed with a subscription instead of what its plan says."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Add it, as the rating service takes it; subscriptions of before have agreed on nothing."""
    op.add_column(
        "subscriptions",
        sa.Column("overrides", sa.LargeBinary, nullable=False, server_default=""),
        schema="invoicing",
    )
