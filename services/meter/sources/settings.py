"""Where the meter takes in what others send, and whose it is.

Refuses to take calls without a token from beyond this machine, since whoever reaches the address
could then make up usage of anybody.
"""

import ipaddress
from pathlib import Path
from typing import Any

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from kit.errors import InvalidInput
from kit.ids import parse_tenant
from kit.settings import Address, BadSettings, load_more_settings

_HTTP_BYTES_MAX = 4 * 2**20


def _variable(name: str, default: Any = None, **checks: Any) -> Any:  # noqa: ANN401 - as Field.
    return Field(default, validation_alias=f"TOLLKEEPER_METER_{name}", **checks)


class SourceSettings(BaseSettings):
    """The settings of the sources; the environment variable of each is its alias."""

    model_config = SettingsConfigDict(frozen=True, populate_by_name=True, env_ignore_empty=True)

    http_listen: Address | None = _variable("HTTP_LISTEN")
    """Where to take CloudEvents by HTTP; nowhere without it."""
    http_bytes_max: int = _variable("HTTP_BYTES_MAX", _HTTP_BYTES_MAX, ge=2**10, le=2**31 - 1)
    """The largest body accepted."""
    sources_listen: Address | None = _variable("SOURCES_LISTEN")
    """Another address for OTLP and for Envoy's access log, which the main address takes too."""
    sources_tenant: str | None = _variable("SOURCES_TENANT")
    """Whose calls those without a token are at the two addresses above; without it every call
    needs one."""
    sources_config: Path | None = _variable("SOURCES_CONFIG")
    """The YAML file that says where customers, dimensions and quantities stand."""


def load_source_settings() -> SourceSettings:
    """Read the settings from the environment.

    Raises:
        BadSettings: naming each variable that is missing or malformed.
    """
    settings = load_more_settings(SourceSettings, "meter")
    faults = check_tenant(settings)
    if faults:
        raise BadSettings("bad settings: " + "; ".join(faults))
    return settings


def check_tenant(settings: SourceSettings) -> list[str]:
    """Tell what is wrong with calls that need no token."""
    if settings.sources_tenant is None:
        return []
    faults = []
    try:
        parse_tenant(settings.sources_tenant)
    except InvalidInput:
        faults.append("TOLLKEEPER_METER_SOURCES_TENANT is no tenant")
    faults += [
        f"TOLLKEEPER_METER_{name} must be on loopback with TOLLKEEPER_METER_SOURCES_TENANT,"
        " which lets calls pass without a token"
        for name, address in (
            ("HTTP_LISTEN", settings.http_listen),
            ("SOURCES_LISTEN", settings.sources_listen),
        )
        if address is not None and not _is_loopback(address)
    ]
    return faults


def _is_loopback(address: str) -> bool:
    host = address.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
