"""The tables of the schema `meter`; `migrations/` makes them and says why they are so."""

from sqlalchemy import (
    ARRAY,
    JSON,
    BigInteger,
    Boolean,
    Column,
    Date,
    DateTime,
    Integer,
    LargeBinary,
    MetaData,
    Numeric,
    Table,
    Text,
)

metadata = MetaData(schema="meter")

event_identities = Table(
    "event_identities",
    metadata,
    Column("tenant_id", Text, primary_key=True),
    Column("event_id", Text, primary_key=True),
    Column("source", Text, primary_key=True),
    Column("time", DateTime(timezone=True), nullable=False),
    Column("fingerprint", LargeBinary, nullable=False),
    Column("stored_on", Date, nullable=False),
)

events = Table(
    "events",
    metadata,
    Column("tenant_id", Text, primary_key=True),
    Column("time", DateTime(timezone=True), primary_key=True),
    Column("source", Text, primary_key=True),
    Column("event_id", Text, primary_key=True),
    Column("type", Text, primary_key=True),
    Column("customer_id", Text, nullable=False),
    Column("project_id", Text, nullable=False),
    Column("user_id", Text, nullable=False),
    Column("key_id", Text, nullable=False),
    Column("run_id", Text, nullable=False),
    Column("dimensions", JSON, nullable=False),
    Column("quantities", JSON, nullable=False),
    Column("ingest_time", DateTime(timezone=True), nullable=False),
    Column("billed", Boolean, nullable=False),
)

meters = Table(
    "meters",
    metadata,
    Column("tenant_id", Text, primary_key=True),
    Column("meter_id", Text, primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("display_name", Text, nullable=False),
    Column("event_type", Text, nullable=False),
    Column("aggregation", Text, nullable=False),
    Column("quantity", Text, nullable=False),
    Column("expression", Text, nullable=False),
    Column("unique_by", Text, nullable=False),
    Column("percentile", Numeric),
    Column("rounding_mode", Text),
    Column("rounding_precision", Integer),
    Column("time_unit", Text, nullable=False),
    Column("filters", JSON, nullable=False),
    Column("group_by", ARRAY(Text), nullable=False),
    Column("unit", Text, nullable=False),
    Column("create_time", DateTime(timezone=True), nullable=False),
    Column("effective_time", DateTime(timezone=True)),
    Column("end_time", DateTime(timezone=True)),
    Column("counted_from", DateTime(timezone=True)),
    Column("exact_from", DateTime(timezone=True)),
)

meter_revisions = Table(
    "meter_revisions",
    metadata,
    Column("tenant_id", Text, primary_key=True),
    Column("revision", BigInteger, nullable=False),
)
