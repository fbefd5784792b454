"""The tables of the schema `tax`; `migrations/` makes them."""

from sqlalchemy import (
    ARRAY,
    Boolean,
    Column,
    Date,
    DateTime,
    Integer,
    MetaData,
    Numeric,
    Table,
    Text,
)

metadata = MetaData(schema="tax")

registrations = Table(
    "registrations",
    metadata,
    Column("tenant_id", Text, primary_key=True),
    Column("registration_id", Text, primary_key=True),
    Column("country", Text, nullable=False),
    Column("region", Text, nullable=False),
    Column("scheme", Text, nullable=False),
    Column("number", Text, nullable=False),
    Column("established", Boolean, nullable=False),
    Column("start_date", Date, nullable=False),
    Column("end_date", Date),
    Column("create_time", DateTime(timezone=True), nullable=False),
)

settings = Table(
    "settings",
    metadata,
    Column("tenant_id", Text, primary_key=True),
    Column("exchange_rate_source", Text, nullable=False),
    Column("maximum_rate_age_days", Integer, nullable=False),
    Column("refuses_unconfirmed_tax_ids", Boolean, nullable=False),
    Column("uses_engine", Boolean, nullable=False),
    Column("falls_back", Boolean, nullable=False),
)

tax_id_confirmations = Table(
    "tax_id_confirmations",
    metadata,
    Column("tenant_id", Text, primary_key=True),
    Column("number", Text, primary_key=True),
    Column("check_time", DateTime(timezone=True), primary_key=True),
    Column("register", Text, nullable=False),
    Column("is_valid", Boolean, nullable=False),
    Column("name", Text, nullable=False),
    Column("consultation_number", Text, nullable=False),
)

uploaded_rates = Table(
    "uploaded_rates",
    metadata,
    Column("tenant_id", Text, primary_key=True),
    Column("position", Integer, primary_key=True),
    Column("jurisdiction", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("rate_percent", Numeric, nullable=False),
    Column("postal_codes", ARRAY(Text), nullable=False),
    Column("start_date", Date, nullable=False),
    Column("end_date", Date),
    Column("source", Text, nullable=False),
)

# Published rates are the same for everybody and nobody's data, so this table has no tenant.
exchange_rates = Table(
    "exchange_rates",
    metadata,
    Column("source", Text, primary_key=True),
    Column("currency", Text, primary_key=True),
    Column("rate_date", Date, primary_key=True),
    Column("units_per_euro", Numeric, nullable=False),
)
