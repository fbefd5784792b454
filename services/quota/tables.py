"""The tables of the schema `quota`; `migrations/` makes them."""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Date,
    DateTime,
    Identity,
    Integer,
    MetaData,
    SmallInteger,
    Table,
    Text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

metadata = MetaData(schema="quota")

limits = Table(
    "limits",
    metadata,
    Column("tenant_id", Text, primary_key=True),
    Column("limit_id", Text(collation="C"), primary_key=True),
    Column("display_name", Text, nullable=False),
    Column("level", SmallInteger, nullable=False),
    Column("customer_id", Text, nullable=False),
    Column("project_id", Text, nullable=False),
    Column("user_id", Text, nullable=False),
    Column("key_id", Text, nullable=False),
    Column("run_id", Text, nullable=False),
    Column("dimensions", JSONB, nullable=False),
    Column("units", ARRAY(Text), nullable=False),
    Column("capacity", BigInteger, nullable=False),
    # A calendar period, a rolling rate or a billing period; with none of them, open holds are
    # counted, or there is no window.
    Column("calendar_period", Text),
    Column("time_zone", Text),
    Column("rolling_period_ms", BigInteger),
    Column("rolling_burst", BigInteger),
    Column("anchor", Date),
    Column("months", SmallInteger),
    Column("counts_holds", Boolean, nullable=False),
    Column("overdraft", BigInteger, nullable=False),
    Column("enforcement", SmallInteger, nullable=False),
    Column("outage_policy", SmallInteger, nullable=False),
    Column("outage_allowance", BigInteger, nullable=False),
    Column("filter", Text, nullable=False),
    Column("overrides", Text, nullable=False),
    Column("expire_time", DateTime(timezone=True)),
    Column("plan_id", Text, nullable=False),
    Column("alert_thresholds", ARRAY(SmallInteger), nullable=False),
    Column("create_time", DateTime(timezone=True), nullable=False),
    Column("update_time", DateTime(timezone=True), nullable=False),
)

alerts = Table(
    "alerts",
    metadata,
    Column("tenant_id", Text, primary_key=True),
    # Ascends in the order in which alerts become visible, since writers of a tenant wait in line.
    Column("alert_id", BigInteger, Identity(always=True), primary_key=True),
    Column("customer_id", Text, nullable=False),
    Column("limit_id", Text, nullable=False),
    Column("scope", Text, nullable=False),
    # The end of the window in Unix milliseconds, or of a lifetime the capacity, negated.
    Column("window", BigInteger, nullable=False),
    Column("threshold", SmallInteger, nullable=False),
    Column("capacity", BigInteger, nullable=False),
    Column("used", BigInteger, nullable=False),
    Column("create_time", DateTime(timezone=True), nullable=False),
)

counter_epochs = Table(
    "counter_epochs",
    metadata,
    # Always empty: the one row is that of the installation.
    Column("tenant_id", Text, primary_key=True),
    Column("installation", Text, nullable=False),
    Column("number", Integer, nullable=False),
    Column("token", Text, nullable=False),
    Column("beat_ms", BigInteger, nullable=False),
)
