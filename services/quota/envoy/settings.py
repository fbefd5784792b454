"""What the facade for Envoy is told from outside, under the names of envoyproxy/ratelimit.

It is off unless it is given an address to listen on. Refuses to take calls without a token from
beyond this machine, since whoever reaches it could then use up anybody's limits.
"""

import ipaddress
from decimal import Decimal
from pathlib import Path
from typing import Any

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from kit.errors import InvalidInput
from kit.ids import parse_tenant
from kit.settings import Address, BadSettings, load_more_settings


def _variable(name: str, default: Any = None, **checks: Any) -> Any:  # noqa: ANN401 - as Field.
    return Field(default, validation_alias=f"TOLLKEEPER_ENVOY_{name}", **checks)


class EnvoySettings(BaseSettings):
    """The settings of the facade; the environment variable of each is its alias."""

    model_config = SettingsConfigDict(frozen=True, populate_by_name=True, env_ignore_empty=True)

    listen: Address | None = _variable("LISTEN")
    """Where to listen; without it there is no facade."""
    config: Path | None = _variable("CONFIG")
    """The YAML file of the rules, or a folder of them."""
    tenant: str | None = _variable("TENANT")
    """Whose calls those without a token are; without it every call needs one."""

    is_shadow: bool = _variable("SHADOW_MODE", default=False)
    """Whether all domains are only watched: every request passes."""
    is_quota: bool = _variable("QUOTA_MODE", default=False)
    """Whether all rules are in quota mode."""
    merges_domains: bool = _variable("MERGE_DOMAIN_CONFIG", default=False)
    """Whether several files may hold rules of the same domain."""
    stops: bool = _variable("STOP_CACHE_KEY_INCREMENT_WHEN_OVERLIMIT", default=False)
    """Whether a refused request charges only the limits that refuse it."""
    near_ratio: Decimal = _variable("NEAR_LIMIT_RATIO", Decimal("0.8"), gt=0, le=1)
    """From which part of a limit on its hits count as near it in metrics."""
    local_cache_size: int = _variable("LOCAL_CACHE_SIZE", 0, ge=0, le=10_000_000)
    """How many windows that are over are remembered, so that nobody is asked; 0 is none."""

    has_headers: bool = _variable("LIMIT_RESPONSE_HEADERS_ENABLED", default=False)
    """Whether answers carry headers for the caller of Envoy."""
    limit_header: str = _variable("LIMIT_LIMIT_HEADER", "RateLimit-Limit")
    remaining_header: str = _variable("LIMIT_REMAINING_HEADER", "RateLimit-Remaining")
    reset_header: str = _variable("LIMIT_RESET_HEADER", "RateLimit-Reset")
    has_metadata: bool = _variable("RESPONSE_DYNAMIC_METADATA", default=False)
    """Whether answers carry dynamic metadata for Envoy's other filters."""


def load_envoy_settings() -> EnvoySettings:
    """Read the settings from the environment.

    Raises:
        BadSettings: naming each variable that is missing or malformed.
    """
    settings = load_more_settings(EnvoySettings, "quota")
    if settings.listen is not None:
        faults = list(_faults(settings, settings.listen))
        if faults:
            raise BadSettings("bad settings: " + "; ".join(faults))
    return settings


def _faults(settings: EnvoySettings, listen: str) -> list[str]:
    faults = []
    if settings.config is None:
        faults.append("TOLLKEEPER_ENVOY_CONFIG is required with TOLLKEEPER_ENVOY_LISTEN")
    if settings.tenant is not None:
        try:
            parse_tenant(settings.tenant)
        except InvalidInput:
            faults.append("TOLLKEEPER_ENVOY_TENANT is no tenant")
        if not _is_loopback(listen):
            faults.append(
                "TOLLKEEPER_ENVOY_LISTEN must be on loopback with TOLLKEEPER_ENVOY_TENANT,"
                " which lets calls pass without a token"
            )
    return faults


def _is_loopback(address: str) -> bool:
    host = address.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
