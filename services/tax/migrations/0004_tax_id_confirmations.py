"""What registers said of tax ids, and what sellers ask of them."""

import sqlalchemy as sa
from alembic import op

from kit.migrations import enable_tenant_isolation

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Create the proofs; the service's role may add one, and neither change nor remove it."""
    op.create_table(
        "tax_id_confirmations",
        sa.Column("tenant_id", sa.Text, primary_key=True),
        sa.Column("number", sa.Text, primary_key=True),
        sa.Column("check_time", sa.DateTime(timezone=True), primary_key=True),
        sa.Column("register", sa.Text, nullable=False),
        sa.Column("is_valid", sa.Boolean, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("consultation_number", sa.Text, nullable=False),
        schema="tax",
    )
    enable_tenant_isolation(op, "tax", "tax_id_confirmations")
    op.execute("REVOKE UPDATE, DELETE ON tax.tax_id_confirmations FROM tollkeeper_tax")
    op.add_column(
        "settings",
        sa.Column(
            "refuses_unconfirmed_tax_ids", sa.Boolean, nullable=False, server_default=sa.false()
        ),
        schema="tax",
    )
