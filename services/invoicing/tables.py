"""The tables of the schema `invoicing`; `migrations/` makes them."""

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Column,
    DateTime,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
)
from sqlalchemy.dialects.postgresql import JSONB

metadata = MetaData(schema="invoicing")


sellers = Table(
    "sellers",
    metadata,
    Column("tenant_id", Text, primary_key=True),
    Column("legal_name", Text, nullable=False),
    Column("email", Text, nullable=False),
    Column("address", JSONB, nullable=False),
    Column("payment_instructions", Text, nullable=False),
    Column("number_prefix", Text, nullable=False),
    Column("payment_term_days", Integer, nullable=False),
)

customers = Table(
    "customers",
    metadata,
    Column("tenant_id", Text, primary_key=True),
    Column("customer_id", Text, primary_key=True),
    Column("legal_name", Text, nullable=False),
    Column("email", Text, nullable=False),
    Column("address", JSONB, nullable=False),
    Column("kind", Text, nullable=False),
    Column("tax_ids", JSONB, nullable=False),
    Column("exemption_certificates", ARRAY(LargeBinary), nullable=False),
    Column("location_evidence", ARRAY(LargeBinary), nullable=False),
    Column("currency", Text, nullable=False),
    Column("time_zone", Text, nullable=False),
    Column("language", Text, nullable=False),
    Column("create_time", DateTime(timezone=True), nullable=False),
)

subscriptions = Table(
    "subscriptions",
    metadata,
    Column("tenant_id", Text, primary_key=True),
    Column("subscription_id", Text, primary_key=True),
    Column("customer_id", Text, nullable=False),
    Column("plan_id", Text, nullable=False),
    Column("start_time", DateTime(timezone=True), nullable=False),
    Column("end_time", DateTime(timezone=True)),
    Column("anchor", Text, nullable=False),
    Column("conversion", Text, nullable=False),
    Column("time_zone", Text, nullable=False),
    Column("create_time", DateTime(timezone=True), nullable=False),
    Column("limits_time", DateTime(timezone=True)),
    Column("overrides", LargeBinary, nullable=False),
)

invoices = Table(
    "invoices",
    metadata,
    Column("tenant_id", Text, primary_key=True),
    Column("invoice_id", Text, primary_key=True),
    Column("number", Text),
    Column("state", Text, nullable=False),
    Column("customer_id", Text, nullable=False),
    Column("subscription_id", Text, nullable=False),
    Column("period_start", DateTime(timezone=True), nullable=False),
    Column("period_end", DateTime(timezone=True), nullable=False),
    Column("currency", Text, nullable=False),
    Column("subtotal_minor", BigInteger, nullable=False),
    Column("tax_total_minor", BigInteger, nullable=False),
    Column("total_minor", BigInteger, nullable=False),
    Column("snapshot", LargeBinary, nullable=False),
    Column("close_request_id", Text, nullable=False),
    Column("void_time", DateTime(timezone=True)),
    Column("void_reason", Text, nullable=False),
)

number_series = Table(
    "number_series",
    metadata,
    Column("tenant_id", Text, primary_key=True),
    Column("series", Text, primary_key=True),
    Column("last_number", BigInteger, nullable=False),
)

documents = Table(
    "documents",
    metadata,
    Column("tenant_id", Text, primary_key=True),
    Column("invoice_id", Text, primary_key=True),
    Column("format", Text, primary_key=True),
    Column("content", LargeBinary, nullable=False),
)
