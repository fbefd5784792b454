"""Fixtures every test may ask for: real servers, a fresh database, keys, and hosted services."""

import os
import secrets
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import settings

from cli.signing_keys import SigningKeys
from kit.settings import ServiceSettings
from tests.command_line import Tollkeeper, command_line
from tests.servers import Servers, fresh_database, migrated_template, running_servers

# No test asserts a time. What CI draws is the same each time, so that it fails for a reason of its
# own; people draw anew with every run.
settings.register_profile("tollkeeper", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("tollkeeper")

# Machines that run many tests at once stall now and then, and an outage is the point of few tests;
# those say so.
os.environ.setdefault("TOLLKEEPER_QUOTA_DECISION_TIMEOUT_S", "5")


@pytest.fixture(scope="session")
def servers() -> Iterator[Servers]:
    """Real PostgreSQL and Redis for the whole session."""
    with running_servers() as servers:
        yield servers


@pytest.fixture(scope="session")
def template(servers: Servers) -> Iterator[str]:
    """The name of a database in which every service is migrated; to be copied, not used."""
    with migrated_template(servers) as name:
        yield name


@pytest.fixture
def database_url(servers: Servers, template: str) -> Iterator[str]:
    """A fresh database in which every service is migrated."""
    with fresh_database(servers, template) as url:
        yield url


@pytest.fixture
def empty_database_url(servers: Servers) -> Iterator[str]:
    """A fresh database without anything in it."""
    with fresh_database(servers) as url:
        yield url


@pytest.fixture
def redis_url(servers: Servers) -> str:
    """The Redis of the session; tests keep apart by `tenant`, as no key lacks one."""
    return servers.redis_url


@pytest.fixture
def tenant() -> str:
    """A tenant nobody used before."""
    return f"tenant-{secrets.token_hex(8)}"


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> SigningKeys:
    """Signing keys made for this session."""
    return SigningKeys.load_or_make(tmp_path_factory.mktemp("keys"))


@pytest.fixture
def settings_for(
    database_url: str, redis_url: str, keys: SigningKeys
) -> Callable[..., ServiceSettings]:
    """Make the settings of a service on this test's servers; keyword arguments win."""

    def make(service: str, **overrides: Any) -> ServiceSettings:  # noqa: ANN401 - as the settings.
        return ServiceSettings.model_validate(
            {
                "service": service,
                "listen": "127.0.0.1:0",
                "database_url": database_url,
                "redis_url": redis_url,
                "keys_file": keys.public_file,
                "service_key_file": keys.service_file,
                **overrides,
            }
        )

    return make


@pytest.fixture
def tollkeeper(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Tollkeeper:
    """The `tollkeeper` command: call it with arguments, get its exit status and output."""
    return command_line(monkeypatch, capsys)
