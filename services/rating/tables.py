"""The tables of the schema `rating`; `migrations/` makes them."""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Identity,
    Integer,
    MetaData,
    Numeric,
    Table,
    Text,
)
from sqlalchemy.dialects.postgresql import JSONB

metadata = MetaData(schema="rating")

plan_versions = Table(
    "plan_versions",
    metadata,
    Column("tenant_id", Text, primary_key=True),
    Column("plan_id", Text, primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("display_name", Text, nullable=False),
    Column("currency", Text, nullable=False),
    Column("base_fee", Numeric, nullable=False),
    Column("category", Text, nullable=False),
    Column("effective_time", DateTime(timezone=True)),
    Column("prices", JSONB, nullable=False),
    Column("terms", JSONB, nullable=False),
    Column("keeps_contracts", Boolean, nullable=False),
    Column("create_time", DateTime(timezone=True), nullable=False),
)

plan_archives = Table(
    "plan_archives",
    metadata,
    Column("tenant_id", Text, primary_key=True),
    Column("plan_id", Text, primary_key=True),
    Column("archive_time", DateTime(timezone=True), nullable=False),
)

provider_costs = Table(
    "provider_costs",
    metadata,
    Column("tenant_id", Text, primary_key=True),
    Column("provider", Text, primary_key=True),
    Column("model", Text, primary_key=True),
    Column("revision", Integer, primary_key=True),
    Column("currency", Text, nullable=False),
    Column("effective_time", DateTime(timezone=True)),
    Column("context_quantity", Text, nullable=False),
    Column("rates", JSONB, nullable=False),
    Column("source", Text, nullable=False),
    Column("create_time", DateTime(timezone=True), nullable=False),
)

margin_alerts = Table(
    "margin_alerts",
    metadata,
    Column("tenant_id", Text, primary_key=True),
    Column("alert_id", BigInteger, Identity(always=True), primary_key=True),
    Column("scope", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("revenue", Numeric, nullable=False),
    Column("cost", Numeric, nullable=False),
    Column("minimum_percent", Numeric, nullable=False),
    Column("start_time", DateTime(timezone=True), nullable=False),
    Column("end_time", DateTime(timezone=True), nullable=False),
    Column("currency", Text, nullable=False),
    Column("create_time", DateTime(timezone=True), nullable=False),
)
