"""The terms of plans beside their prices, and which contracts a version rates."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add the terms as one document, as the prices are; versions that are stored have none."""
    op.add_column(
        "plan_versions",
        sa.Column("terms", JSONB, nullable=False, server_default=sa.text("'{}'")),
        schema="rating",
    )
    op.add_column(
        "plan_versions",
        sa.Column("keeps_contracts", sa.Boolean, nullable=False, server_default=sa.false()),
        schema="rating",
    )
