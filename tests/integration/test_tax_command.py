"""`tollkeeper tax` with a running service: the seller's own case, and imports."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from cli.signing_keys import SigningKeys
from cli.tax_files import TAX_RATE_COLUMNS
from kit.settings import ServiceSettings
from tests.command_line import Outcome, Tollkeeper, command_line
from tests.tax_world import OSS, TaxWorld, a_registration, tax_world


@pytest.fixture
async def world(
    settings_for: Callable[..., ServiceSettings], keys: SigningKeys
) -> AsyncIterator[TaxWorld]:
    """A tax service."""
    async with tax_world(settings_for, keys) as running:
        yield running


@pytest.fixture
def tollkeeper(
    world: TaxWorld,
    tenant: str,
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Tollkeeper:
    """The command, speaking for the tenant to that service."""
    ((_, bearer),) = world.token(tenant)
    monkeypatch.setenv("TOLLKEEPER_TOKEN", bearer.removeprefix("Bearer "))
    monkeypatch.setenv("TOLLKEEPER_TAX_ADDRESS", world.address)
    monkeypatch.setenv("DATABASE_URL", database_url)
    return command_line(monkeypatch, capsys)


async def call(tollkeeper: Tollkeeper, *arguments: object) -> Outcome:
    """Run the command beside the service, which lives in this loop."""
    return await asyncio.to_thread(tollkeeper, "tax", *arguments)


async def test_a_case_of_the_registered_seller_is_explained(
    world: TaxWorld, tenant: str, tollkeeper: Tollkeeper
) -> None:
    """Without --seller, the service answers by the seller's registrations."""
    await world.register(tenant, a_registration(), OSS)

    outcome = await call(tollkeeper, "check", "--buyer", "FR", "--date", "2026-10-30")

    assert (outcome.status, outcome.output.splitlines()[1]) == (
        0,
        "FR VAT 20 %  100.00 EUR  20.00 EUR",
    )


async def test_tax_rates_are_imported_and_used(
    world: TaxWorld, tenant: str, tollkeeper: Tollkeeper, tmp_path: Path
) -> None:
    """A change of a rate that no release knows yet."""
    await world.register(tenant, a_registration(), OSS)
    file = tmp_path / "rates.csv"
    row = "EE,VAT,26,,2027-01-01,,Riigi Teataja"
    file.write_text(f"{','.join(TAX_RATE_COLUMNS)}\n{row}\n", encoding="utf-8")

    imported = await call(tollkeeper, "import", file)
    outcome = await call(tollkeeper, "check", "--buyer", "EE", "--date", "2027-01-01")

    assert (imported.status, imported.output) == (0, "1 tax rates, in place of those before\n")
    assert outcome.output.splitlines()[1] == "EE VAT 26 %  100.00 EUR  26.00 EUR"


async def test_exchange_rates_are_imported_once(tollkeeper: Tollkeeper, tmp_path: Path) -> None:
    """The second import of a file adds nothing."""
    file = tmp_path / "rates.csv"
    file.write_text("Date,USD,JPY\n2025-01-02,1.0321,162.35\n", encoding="utf-8")

    outcomes = [await call(tollkeeper, "import", file) for _ in range(2)]

    assert [outcome.output for outcome in outcomes] == [
        "2 new exchange rates of ECB\n",
        "0 new exchange rates of ECB\n",
    ]
