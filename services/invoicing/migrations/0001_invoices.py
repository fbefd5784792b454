"""The seller, customers, subscriptions, and invoices that cannot change once they are issued."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

from kit.migrations import create_idempotency_table, enable_tenant_isolation

revision = "0001"
down_revision = None

_TABLES = ("sellers", "customers", "subscriptions", "invoices", "number_series", "documents")
_KEEP_ISSUED = """
CREATE FUNCTION invoicing.keep_issued() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF OLD.state = 'DRAFT' THEN
    RETURN CASE WHEN TG_OP = 'DELETE' THEN OLD ELSE NEW END;
  END IF;
  IF TG_OP = 'UPDATE' AND OLD.state = 'FINALIZED' AND NEW.state = 'VOIDED'
    AND to_jsonb(NEW) - '{state,void_time,void_reason}'::text[]
      = to_jsonb(OLD) - '{state,void_time,void_reason}'::text[]
  THEN
    RETURN NEW;
  END IF;
  RAISE EXCEPTION 'the issued invoice % never changes', OLD.number
    USING ERRCODE = 'integrity_constraint_violation';
END $$
"""
_REFUSE = """
CREATE FUNCTION invoicing.refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION '% on %: issued invoices and their documents stay', TG_OP, TG_TABLE_NAME
    USING ERRCODE = 'integrity_constraint_violation';
END $$
"""
_TRIGGERS = """
CREATE TRIGGER keep_issued BEFORE UPDATE OR DELETE ON invoicing.invoices
  FOR EACH ROW EXECUTE FUNCTION invoicing.keep_issued();
CREATE TRIGGER keep_all BEFORE TRUNCATE ON invoicing.invoices
  FOR EACH STATEMENT EXECUTE FUNCTION invoicing.refuse();
CREATE TRIGGER keep_each BEFORE UPDATE OR DELETE ON invoicing.documents
  FOR EACH ROW EXECUTE FUNCTION invoicing.refuse();
CREATE TRIGGER keep_all BEFORE TRUNCATE ON invoicing.documents
  FOR EACH STATEMENT EXECUTE FUNCTION invoicing.refuse()
"""


def upgrade() -> None:
    """Create the first tables, and the triggers that hold issued invoices and documents fast."""
    _create_parties()
    _create_invoices()
    for table in _TABLES:
        enable_tenant_isolation(op, "invoicing", table)
    op.execute(_KEEP_ISSUED)
    op.execute(_REFUSE)
    for trigger in _TRIGGERS.split(";"):
        op.execute(trigger)
    create_idempotency_table(op, "invoicing")


def _create_parties() -> None:
    op.create_table(
        "sellers",
        sa.Column("tenant_id", sa.Text, primary_key=True),
        sa.Column("legal_name", sa.Text, nullable=False),
        sa.Column("email", sa.Text, nullable=False),
        sa.Column("address", JSONB, nullable=False),
        sa.Column("payment_instructions", sa.Text, nullable=False),
        sa.Column("number_prefix", sa.Text, nullable=False),
        sa.Column("payment_term_days", sa.Integer, nullable=False),
        schema="invoicing",
    )
    op.create_table(
        "customers",
        sa.Column("tenant_id", sa.Text, primary_key=True),
        sa.Column("customer_id", sa.Text(collation="C"), primary_key=True),
        sa.Column("legal_name", sa.Text, nullable=False),
        sa.Column("email", sa.Text, nullable=False),
        sa.Column("address", JSONB, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("tax_ids", JSONB, nullable=False),
        sa.Column("currency", sa.Text, nullable=False),
        sa.Column("time_zone", sa.Text, nullable=False),
        sa.Column("language", sa.Text, nullable=False),
        sa.Column("create_time", sa.DateTime(timezone=True), nullable=False),
        schema="invoicing",
    )
    op.create_table(
        "subscriptions",
        sa.Column("tenant_id", sa.Text, primary_key=True),
        sa.Column("subscription_id", sa.Text(collation="C"), primary_key=True),
        sa.Column("customer_id", sa.Text(collation="C"), nullable=False),
        sa.Column("plan_id", sa.Text, nullable=False),
        sa.Column("start_time", sa.DateTime(timezone=True), nullable=False),
        sa.Column("end_time", sa.DateTime(timezone=True)),
        sa.Column("anchor", sa.Text, nullable=False),
        sa.Column("conversion", sa.Text, nullable=False),
        sa.Column("time_zone", sa.Text, nullable=False),
        sa.Column("create_time", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("end_time > start_time", "subscriptions_end_after_start"),
        schema="invoicing",
    )
    op.create_index(
        "subscriptions_by_customer",
        "subscriptions",
        ["tenant_id", "customer_id", "subscription_id"],
        schema="invoicing",
    )


def _create_invoices() -> None:
    op.create_table(
        "invoices",
        sa.Column("tenant_id", sa.Text, primary_key=True),
        sa.Column("invoice_id", sa.Text(collation="C"), primary_key=True),
        sa.Column("number", sa.Text),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("customer_id", sa.Text(collation="C"), nullable=False),
        sa.Column("subscription_id", sa.Text(collation="C"), nullable=False),
        sa.Column("period_start", sa.DateTime(timezone=True), nullable=False),
        sa.Column("period_end", sa.DateTime(timezone=True), nullable=False),
        sa.Column("currency", sa.Text, nullable=False),
        sa.Column("subtotal_minor", sa.BigInteger, nullable=False),
        sa.Column("tax_total_minor", sa.BigInteger, nullable=False),
        sa.Column("total_minor", sa.BigInteger, nullable=False),
        sa.Column("snapshot", sa.LargeBinary, nullable=False),
        sa.Column("close_request_id", sa.Text, nullable=False),
        sa.Column("void_time", sa.DateTime(timezone=True)),
        sa.Column("void_reason", sa.Text, nullable=False),
        sa.CheckConstraint("state IN ('DRAFT', 'FINALIZED', 'VOIDED')", "invoices_state"),
        sa.CheckConstraint("(state = 'DRAFT') = (number IS NULL)", "invoices_number"),
        sa.CheckConstraint("(state = 'VOIDED') = (void_time IS NOT NULL)", "invoices_void"),
        sa.CheckConstraint("period_end > period_start", "invoices_period"),
        sa.CheckConstraint("subtotal_minor + tax_total_minor = total_minor", "invoices_total"),
        schema="invoicing",
    )
    op.create_index(
        "invoices_one_per_period",
        "invoices",
        ["tenant_id", "subscription_id", "period_start"],
        unique=True,
        postgresql_where=sa.text("state <> 'VOIDED'"),
        schema="invoicing",
    )
    op.create_index(
        "invoices_number_once", "invoices", ["tenant_id", "number"], unique=True, schema="invoicing"
    )
    op.create_index(
        "invoices_by_customer",
        "invoices",
        ["tenant_id", "customer_id", "invoice_id"],
        schema="invoicing",
    )
    op.create_index(
        "invoices_by_subscription",
        "invoices",
        ["tenant_id", "subscription_id", "period_start"],
        schema="invoicing",
    )
    op.create_table(
        "number_series",
        sa.Column("tenant_id", sa.Text, primary_key=True),
        sa.Column("series", sa.Text, primary_key=True),
        sa.Column("last_number", sa.BigInteger, nullable=False),
        schema="invoicing",
    )
    op.create_table(
        "documents",
        sa.Column("tenant_id", sa.Text, primary_key=True),
        sa.Column("invoice_id", sa.Text(collation="C"), primary_key=True),
        sa.Column("format", sa.Text, primary_key=True),
        sa.Column("content", sa.LargeBinary, nullable=False),
        schema="invoicing",
    )
