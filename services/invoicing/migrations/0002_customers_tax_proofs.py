"""What customers show to the tax service: exemption certificates, and where they are."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add both to the customers; those of before have none."""
    for name in ("exemption_certificates", "location_evidence"):
        op.add_column(
            "customers",
            sa.Column(name, sa.ARRAY(sa.LargeBinary), nullable=False, server_default="{}"),
            schema="invoicing",
        )
