"""The settings of a service, from the environment, with every default in one place.

Read once at start-up and frozen. Refuses to guess: a setting that is missing or malformed is
named by its variable, and no message shows a value, since it may hold a password.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, SettingsConfigDict

from kit.errors import CannotStart

DEFAULT_ADDRESSES: Mapping[str, str] = MappingProxyType(
    {
        "quota": "127.0.0.1:7301",
        "meter": "127.0.0.1:7302",
        "rating": "127.0.0.1:7303",
        "tax": "127.0.0.1:7304",
        "invoicing": "127.0.0.1:7305",
    }
)

More = TypeVar("More", bound=BaseSettings)

_ADDRESS = re.compile(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+):([0-9]{1,5})")
_PORT_MAX = 65_535
_REDIS_SCHEMES = ("redis://", "rediss://", "unix://", "redis+cluster://", "rediss+cluster://")


def _check_address(address: str) -> str:
    match = _ADDRESS.fullmatch(address)
    if match is None or int(match[2]) > _PORT_MAX:
        raise ValueError("must be a host and a port, such as 127.0.0.1:7301")
    return address


def _check_database_url(url: str) -> str:
    if not url.startswith(("postgresql://", "postgres://", "postgresql+asyncpg://")):
        raise ValueError("must start with postgresql://")
    return url


def _check_web_url(url: str) -> str:
    if url and not url.startswith(("https://", "http://")):
        raise ValueError("must start with https:// or http://")
    return url


def _check_redis_url(url: str) -> str:
    if not url.startswith(_REDIS_SCHEMES):
        raise ValueError(
            "must start with redis://, rediss://, unix://, redis+cluster:// or rediss+cluster://"
        )
    return url


Address = Annotated[str, AfterValidator(_check_address)]
"""A host and a port."""


def _address(service: str) -> Any:  # noqa: ANN401 - as pydantic's Field.
    variable = f"TOLLKEEPER_{service.upper()}_ADDRESS"
    return Field(DEFAULT_ADDRESSES[service], validation_alias=variable)


class BadSettings(CannotStart):
    """A setting is missing or malformed."""


class ServiceSettings(BaseSettings):
    """What one service is told from outside. Keyword arguments win over the environment."""

    model_config = SettingsConfigDict(
        frozen=True, populate_by_name=True, extra="forbid", env_ignore_empty=True
    )

    service: Annotated[str, Field(pattern="^[a-z]{1,32}$")]
    """Which service this is, for example `meter`; not from the environment."""
    listen: Address
    """Where to listen: TOLLKEEPER_<SERVICE>_LISTEN, by default the service's default address.

    Port 0 takes a free one."""

    database_url: Annotated[str, AfterValidator(_check_database_url)] = Field(
        validation_alias="DATABASE_URL", repr=False
    )
    database_pool_size: int = Field(
        10, ge=1, le=1000, validation_alias="TOLLKEEPER_DATABASE_POOL_SIZE"
    )
    """Connections to PostgreSQL, at most."""
    database_prepared_statements: bool = Field(
        default=True, validation_alias="TOLLKEEPER_DATABASE_PREPARED_STATEMENTS"
    )
    """Off behind PgBouncer in transaction mode, where a statement may meet another connection."""
    redis_url: Annotated[str, AfterValidator(_check_redis_url)] = Field(
        validation_alias="REDIS_URL", repr=False
    )
    redis_timeout_s: float = Field(2.0, gt=0, validation_alias="TOLLKEEPER_REDIS_TIMEOUT_S")
    """How long one Redis command may take."""
    quota_decision_timeout_s: float = Field(
        0.02, gt=0, validation_alias="TOLLKEEPER_QUOTA_DECISION_TIMEOUT_S"
    )
    """How long a decision of the quota service may wait for Redis while no answer comes at all."""
    quota_rate_card_refresh_s: float = Field(
        60.0, gt=0, validation_alias="TOLLKEEPER_QUOTA_RATE_CARD_REFRESH_S"
    )
    """After how long the quota service asks for the rate card of a plan again."""

    keys_file: Path = Field(validation_alias="TOLLKEEPER_KEYS_FILE")
    """A JWKS of the public keys whose tokens are accepted."""
    service_key_file: Path | None = Field(None, validation_alias="TOLLKEEPER_SERVICE_KEY_FILE")
    """The private JWK that signs calls to other services; none where a service calls none."""

    quota_address: Address = _address("quota")
    meter_address: Address = _address("meter")
    rating_address: Address = _address("rating")
    tax_address: Address = _address("tax")
    invoicing_address: Address = _address("invoicing")

    meter_retention_days: int = Field(
        400, ge=32, le=36_500, validation_alias="TOLLKEEPER_METER_RETENTION_DAYS"
    )
    """For how many days the meter service keeps events and their identities, at least."""

    tax_vies_url: Annotated[str, AfterValidator(_check_web_url)] = Field(
        "", validation_alias="TOLLKEEPER_TAX_VIES_URL"
    )
    """Where VIES is asked about VAT ids, as https://ec.europa.eu/taxation_customs/vies/rest-api.

    Without it VAT ids of the EU stay unconfirmed."""
    tax_hmrc_url: Annotated[str, AfterValidator(_check_web_url)] = Field(
        "", validation_alias="TOLLKEEPER_TAX_HMRC_URL"
    )
    """Where HMRC is asked about VAT numbers, as https://api.service.hmrc.gov.uk."""
    tax_hmrc_client_id: str = Field("", validation_alias="TOLLKEEPER_TAX_HMRC_CLIENT_ID")
    tax_hmrc_client_secret: str = Field(
        "", validation_alias="TOLLKEEPER_TAX_HMRC_CLIENT_SECRET", repr=False
    )
    tax_register_timeout_s: float = Field(
        5.0, gt=0, validation_alias="TOLLKEEPER_TAX_REGISTER_TIMEOUT_S"
    )
    """How long a register of tax ids may take to answer."""
    tax_engine_url: Annotated[str, AfterValidator(_check_web_url)] = Field(
        "", validation_alias="TOLLKEEPER_TAX_ENGINE_URL"
    )
    """Where Stripe Tax is, as https://api.stripe.com, for sellers that use it."""
    tax_engine_key: str = Field("", validation_alias="TOLLKEEPER_TAX_ENGINE_KEY", repr=False)
    tax_engine_timeout_s: float = Field(
        5.0, gt=0, validation_alias="TOLLKEEPER_TAX_ENGINE_TIMEOUT_S"
    )
    """How long the tax engine may take to answer."""

    default_deadline_s: float = Field(30.0, gt=0, validation_alias="TOLLKEEPER_DEFAULT_DEADLINE_S")
    """How long a unary call may take when its caller names no deadline."""
    message_bytes_max: int = Field(
        16 * 2**20, ge=2**16, le=2**31 - 1, validation_alias="TOLLKEEPER_MESSAGE_BYTES_MAX"
    )
    """The largest request accepted."""
    startup_timeout_s: float = Field(60.0, gt=0, validation_alias="TOLLKEEPER_STARTUP_TIMEOUT_S")
    """How long to wait for PostgreSQL, Redis and the migrations before giving up."""
    drain_s: float = Field(10.0, ge=0, validation_alias="TOLLKEEPER_DRAIN_S")
    """How long running calls may take to end after SIGTERM."""
    parent_pipe: bool = Field(default=False, validation_alias="TOLLKEEPER_PARENT_PIPE")
    """Drain and exit when standard input ends, since the supervisor then died."""

    log_level: Annotated[str, Field(pattern="^(debug|info|warning|error)$")] = Field(
        "info", validation_alias="TOLLKEEPER_LOG_LEVEL"
    )
    otlp_endpoint: str | None = Field(None, validation_alias="OTEL_EXPORTER_OTLP_ENDPOINT")
    """Where traces and metrics go; telemetry is off without it. The exporter reads more OTEL_*."""

    @model_validator(mode="before")
    @classmethod
    def _listen_by_service(cls, values: dict[str, Any]) -> dict[str, Any]:
        service = values.get("service")
        if "listen" in values or not isinstance(service, str):
            return values
        address = os.environ.get(_listen_variable(service)) or DEFAULT_ADDRESSES.get(service)
        return values if address is None else {**values, "listen": address}


class MigrationSettings(BaseSettings):
    """All that migrating needs to be told."""

    model_config = SettingsConfigDict(frozen=True, populate_by_name=True, env_ignore_empty=True)

    database_url: Annotated[str, AfterValidator(_check_database_url)] = Field(
        validation_alias="DATABASE_URL", repr=False
    )


def load_settings(service: str) -> ServiceSettings:
    """Read the settings of a service from the environment.

    Raises:
        BadSettings: naming each variable that is missing or malformed, and never a value.
    """
    try:
        return ServiceSettings.model_validate({"service": service})
    except ValidationError as error:
        raise _bad_settings(error, service) from None


def load_migration_settings(service: str) -> MigrationSettings:
    """Read what migrating needs; raise `BadSettings` as `load_settings` does."""
    return load_more_settings(MigrationSettings, service)


def load_more_settings(kind: type[More], service: str) -> More:
    """Read settings whose fields have their variables as aliases; raise as `load_settings` does."""
    try:
        return kind.model_validate({})
    except ValidationError as error:
        raise _bad_settings(error, service) from None


def _bad_settings(error: ValidationError, service: str) -> BadSettings:
    lines = (
        f"{_variable(str(problem['loc'][0]), service)} {_describe(problem)}"
        for problem in error.errors(include_input=False, include_url=False)
    )
    return BadSettings("bad settings: " + "; ".join(lines))


def _listen_variable(service: str) -> str:
    return f"TOLLKEEPER_{service.upper()}_LISTEN"


def _variable(location: str, service: str) -> str:
    return _listen_variable(service) if location == "listen" else location


def _describe(problem: ErrorDetails) -> str:
    if problem["type"] == "missing":
        return "is required"
    text = problem["msg"].removeprefix("Value error, ").removeprefix("Input ")
    return text[:1].lower() + text[1:]
