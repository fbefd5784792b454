"""How a command finds the services, and how it explains what they say."""

from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from cli.embedded.data_directory import DataDirectory
from cli.errors import CommandError
from cli.running import Running
from cli.services import Connection, explain_failure, find_connection, service_of
from kit.settings import DEFAULT_ADDRESSES
from tollkeeper import CallFailed, FieldProblem
from tollkeeper.api.invoicing.v1.invoicing_service_pb2 import GetInvoiceRequest


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the person who runs the tests matters."""
    for service in DEFAULT_ADDRESSES:
        monkeypatch.delenv(f"TOLLKEEPER_{service.upper()}_ADDRESS", raising=False)
    monkeypatch.delenv("TOLLKEEPER_TOKEN", raising=False)


@pytest.fixture
def suite(tmp_path: Path) -> Iterator[Path]:
    """A data directory in which a suite runs."""
    directory = DataDirectory.open(tmp_path)
    directory.lock()
    Running(
        data_dir=tmp_path,
        addresses={service: f"127.0.0.1:{port}" for port, service in enumerate(DEFAULT_ADDRESSES)},
        database_url="postgresql://x",
        redis_url="redis://x",
        tenant="default",
        admin_token="suite-token",
        keys_file=tmp_path,
        issuer_key_file=tmp_path,
        service_key_file=tmp_path,
    ).save()
    yield tmp_path
    directory.unlock()


def test_a_running_suite_is_found_by_its_data_directory(suite: Path) -> None:
    """No options at all are needed on the machine where `up` runs."""
    assert find_connection(suite) == Connection(Running.load(suite).addresses, "suite-token")


def test_the_environment_wins_over_a_running_suite(
    suite: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A token is never sent to addresses that it was not given for."""
    monkeypatch.setenv("TOLLKEEPER_TOKEN", "mine")
    monkeypatch.setenv("TOLLKEEPER_METER_ADDRESS", "meter.example:443")

    assert find_connection(suite) == Connection(
        {**DEFAULT_ADDRESSES, "meter": "meter.example:443"}, "mine"
    )


def test_an_option_wins_over_everything(suite: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The more particular the stronger."""
    monkeypatch.setenv("TOLLKEEPER_TAX_ADDRESS", "tax.example:1")

    connection = find_connection(suite, ["tax=[::1]:7"])

    assert connection.addresses["tax"] == "[::1]:7"


@pytest.mark.parametrize(
    ("token", "option", "message"),
    [
        ("two words", "tax=a:1", "TOLLKEEPER_TOKEN is not a token"),
        ("x\n", "tax=a:1", "TOLLKEEPER_TOKEN is not a token"),
        ("geheim-ü", "tax=a:1", "TOLLKEEPER_TOKEN is not a token"),
        ("x", "taxes=a:1", "--address 'taxes=a:1' names no service"),
        ("x", "tax", "'' is no address of tax; write host and port, as in 127.0.0.1:7304"),
        ("x", "tax=localhost", "'localhost' is no address of tax"),
        ("x", "tax=http://a:1", "'http://a:1' is no address of tax"),
    ],
)
def test_what_is_written_wrongly_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, token: str, option: str, message: str
) -> None:
    """And the token itself is never shown."""
    monkeypatch.setenv("TOLLKEEPER_TOKEN", token)

    with pytest.raises(CommandError) as refused:
        find_connection(tmp_path, [option])

    assert str(refused.value).startswith(message)
    assert "geheim" not in str(refused.value)


def test_nothing_running_says_what_to_do(tmp_path: Path) -> None:
    """Two ways lead on."""
    with pytest.raises(CommandError) as refused:
        find_connection(tmp_path)

    assert str(refused.value) == (
        f"nothing is running in {tmp_path}; start it by `tollkeeper up`, or set TOLLKEEPER_TOKEN"
    )


@pytest.mark.parametrize(
    ("failure", "explained"),
    [
        pytest.param(
            CallFailed(grpc.StatusCode.UNAVAILABLE, "failed to connect to all addresses"),
            "the meter service does not answer at 127.0.0.1:7302; start everything by "
            "`tollkeeper up`, or name another address by --address or TOLLKEEPER_METER_ADDRESS",
            id="nobody there",
        ),
        pytest.param(
            CallFailed(grpc.StatusCode.UNAVAILABLE, "the database is away", "DATABASE_AWAY"),
            "the meter service refused: the database is away",
            id="said by the service itself",
        ),
        pytest.param(
            CallFailed(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded"),
            "the meter service at 127.0.0.1:7302 took too long to answer",
            id="too slow",
        ),
        pytest.param(
            CallFailed(
                grpc.StatusCode.UNAUTHENTICATED, "the token is malformed", "UNAUTHENTICATED"
            ),
            "the meter service does not accept the token: the token is malformed",
            id="bad token",
        ),
        pytest.param(
            CallFailed(grpc.StatusCode.INTERNAL, "internal error, trace 1f", "INTERNAL"),
            "the meter service failed (internal error, trace 1f); see its log",
            id="defect",
        ),
        pytest.param(
            CallFailed(
                grpc.StatusCode.INVALID_ARGUMENT,
                "2 fields\nare bad",
                "INVALID_FIELD",
                [FieldProblem("a", "is long"), FieldProblem("b", "is short")],
            ),
            "the meter service refused: 2 fields are bad; a: is long; b: is short",
            id="bad fields, on one line",
        ),
    ],
)
def test_a_failure_is_explained_on_one_line(failure: CallFailed, explained: str) -> None:
    """What it means, and what to do where that is known."""
    assert explain_failure(failure, "meter", "127.0.0.1:7302") == explained


def test_a_request_tells_its_service() -> None:
    """By the package of the contract."""
    assert service_of(GetInvoiceRequest()) == "invoicing"
