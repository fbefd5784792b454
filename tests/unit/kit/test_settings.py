"""Settings: defaults, the environment, and faults named by variable without any value."""

from pathlib import Path

import pytest

from kit.settings import (
    BadSettings,
    ServiceSettings,
    load_migration_settings,
    load_settings,
)

REQUIRED = {
    "DATABASE_URL": "postgresql://app:hunter2@db/tollkeeper",
    "REDIS_URL": "redis://:hunter2@cache",
    "TOLLKEEPER_KEYS_FILE": "keys.json",
}


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """An environment with what is required, and nothing else of ours."""
    for name in ("DATABASE_URL", "REDIS_URL", "TOLLKEEPER_METER_LISTEN", "TOLLKEEPER_DRAIN_S"):
        monkeypatch.delenv(name, raising=False)
    for name, value in REQUIRED.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


@pytest.mark.usefixtures("environment")
def test_everything_else_has_a_default() -> None:
    """A service starts with three variables."""
    settings = load_settings("meter")

    assert (settings.service, settings.listen, settings.keys_file) == (
        "meter",
        "127.0.0.1:7302",
        Path("keys.json"),
    )
    assert (settings.service_key_file, settings.otlp_endpoint) == (None, None)


def test_the_environment_overrides_the_defaults(environment: pytest.MonkeyPatch) -> None:
    """Each service listens where its own variable says; an empty variable counts as unset."""
    environment.setenv("TOLLKEEPER_METER_LISTEN", "[::1]:9000")
    environment.setenv("TOLLKEEPER_TAX_ADDRESS", "tax.internal:443")
    environment.setenv("TOLLKEEPER_PARENT_PIPE", "1")
    environment.setenv("TOLLKEEPER_DRAIN_S", "")

    settings = load_settings("meter")

    assert (settings.listen, settings.tax_address, settings.parent_pipe, settings.drain_s) == (
        "[::1]:9000",
        "tax.internal:443",
        True,
        10,
    )


@pytest.mark.usefixtures("environment")
def test_keyword_arguments_win_over_the_environment() -> None:
    """Tests and tools may pass what they want."""
    settings = ServiceSettings.model_validate(
        {"service": "quota", "listen": "127.0.0.1:0", "redis_url": "redis://elsewhere"}
    )

    assert (settings.listen, settings.redis_url) == ("127.0.0.1:0", "redis://elsewhere")


@pytest.mark.usefixtures("environment")
def test_settings_never_show_a_password() -> None:
    """What is logged of the settings holds no URL."""
    assert "hunter2" not in repr(load_settings("meter"))


@pytest.mark.parametrize(
    ("variable", "value", "problem"),
    [
        pytest.param(
            "TOLLKEEPER_METER_RETENTION_DAYS",
            "31",
            "should be greater than or equal to 32",
            id="shorter than a month",
        ),
        pytest.param("DATABASE_URL", "", "is required", id="missing"),
        pytest.param(
            "DATABASE_URL", "mysql://hunter2", "must start with postgresql://", id="another kind"
        ),
        pytest.param(
            "REDIS_URL",
            "http://hunter2",
            "must start with redis://, rediss://, unix://, redis+cluster:// or rediss+cluster://",
            id="not Redis",
        ),
        pytest.param(
            "TOLLKEEPER_METER_LISTEN",
            "hunter2",
            "must be a host and a port, such as 127.0.0.1:7301",
            id="no port",
        ),
        pytest.param(
            "TOLLKEEPER_QUOTA_ADDRESS",
            "quota:hunter2",
            "must be a host and a port, such as 127.0.0.1:7301",
            id="no number",
        ),
        pytest.param(
            "TOLLKEEPER_METER_LISTEN",
            "127.0.0.1:65536",
            "must be a host and a port, such as 127.0.0.1:7301",
            id="port too large",
        ),
        pytest.param(
            "TOLLKEEPER_DRAIN_S",
            "hunter2",
            "should be a valid number, unable to parse string as a number",
            id="no duration",
        ),
        pytest.param(
            "TOLLKEEPER_DRAIN_S",
            "-1",
            "should be greater than or equal to 0",
            id="a negative duration",
        ),
        pytest.param(
            "TOLLKEEPER_PARENT_PIPE",
            "hunter2",
            "should be a valid boolean, unable to interpret input",
            id="no yes or no",
        ),
    ],
)
def test_a_bad_setting_is_named_and_not_shown(
    environment: pytest.MonkeyPatch, variable: str, value: str, problem: str
) -> None:
    """The line names the variable and what it must be, and never repeats the value."""
    environment.setenv(variable, value)

    with pytest.raises(BadSettings) as refused:
        load_settings("meter")

    assert str(refused.value) == f"bad settings: {variable} {problem}"


def test_all_bad_settings_are_named_at_once(environment: pytest.MonkeyPatch) -> None:
    """A person mends everything in one go."""
    environment.delenv("REDIS_URL")
    environment.setenv("TOLLKEEPER_DRAIN_S", "-1")

    with pytest.raises(BadSettings) as refused:
        load_settings("meter")

    assert str(refused.value) == (
        "bad settings: REDIS_URL is required;"
        " TOLLKEEPER_DRAIN_S should be greater than or equal to 0"
    )


def test_migrating_needs_the_database_only(environment: pytest.MonkeyPatch) -> None:
    """A migration job is told nothing but where PostgreSQL is."""
    environment.delenv("REDIS_URL")
    environment.delenv("TOLLKEEPER_KEYS_FILE")
    assert load_migration_settings("meter").database_url == REQUIRED["DATABASE_URL"]

    environment.delenv("DATABASE_URL")
    with pytest.raises(BadSettings, match=r"^bad settings: DATABASE_URL is required$"):
        load_migration_settings("meter")
