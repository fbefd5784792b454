"""Conversions in batches, differences between invoice and payment, and the seller's settings."""

import zipfile
from collections.abc import AsyncIterator, Callable
from datetime import date
from pathlib import Path

import pytest
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status
from google.type.date_pb2 import Date
from google.type.money_pb2 import Money as MoneyMessage

from cli.signing_keys import SigningKeys
from kit.errors import CannotStart, Conflict, InvalidInput
from kit.money import Money
from kit.rpc.wire import parse_money
from kit.settings import ServiceSettings
from services.tax.__main__ import import_rates
from tests.tax_world import TaxWorld, a_conversion, day, tax_world
from tollkeeper.api.tax.v1 import tax_pb2
from tollkeeper.api.tax.v1 import tax_service_pb2 as messages


@pytest.fixture
async def world(
    settings_for: Callable[..., ServiceSettings], keys: SigningKeys
) -> AsyncIterator[TaxWorld]:
    """A tax service with the sample of reference rates."""
    async with tax_world(settings_for, keys) as running:
        yield running


def put(**fields: object) -> messages.PutTaxSettingsRequest:
    """Ask to put settings."""
    return messages.PutTaxSettingsRequest(
        request_id="put",
        settings=tax_pb2.TaxSettings(**fields),  # type: ignore[arg-type]
    )


def reason(status: Status) -> str:
    """Read why something failed."""
    info = ErrorInfo()
    for detail in status.details:
        detail.Unpack(info)
    return info.reason


def a_difference(invoiced: Date, paid: Date, book: str = "EUR") -> object:
    """Ask what 1,000.00 USD gained or lost."""
    return messages.GetExchangeDifferenceRequest(
        amount=MoneyMessage(currency_code="USD", units=1000),
        book_currency=book,
        invoice_date=invoiced,
        payment_date=paid,
    )


async def test_each_conversion_of_a_batch_fails_by_itself(world: TaxWorld, tenant: str) -> None:
    """Answers stand in the order of the requests, errors among them."""
    batch = messages.BatchConvertRequest(
        requests=[
            a_conversion("100", "USD", "JPY"),
            a_conversion("100", "USD", "HRK"),
            a_conversion("many", "USD", "JPY"),
            a_conversion("100", "JPY", "EUR"),
        ]
    )

    answer = await world.ask("BatchConvert", batch, tenant)

    single = await world.ask("ConvertMoney", a_conversion("100", "USD", "JPY"), tenant)
    first, second, third, fourth = answer.results
    assert first.conversion == single
    assert reason(second.error) == "EXCHANGE_RATE_NOT_FOUND"
    assert reason(third.error) == "INVALID_FIELD"
    assert parse_money(fourth.conversion.money, "money") == Money("EUR", 57)


async def test_a_payment_a_month_later_gains_or_loses(world: TaxWorld, tenant: str) -> None:
    """1,000.00 USD at 1.1172 are 895.09 EUR, and at 1.113 of the day before 898.47."""
    request = a_difference(day(date(2026, 10, 29)), day(date(2026, 10, 30)))

    found = await world.ask("GetExchangeDifference", request, tenant)

    assert [
        parse_money(each, "money") for each in (found.invoiced, found.paid, found.difference)
    ] == [Money("EUR", 89847), Money("EUR", 89509), Money("EUR", -338)]


async def test_a_payment_is_not_before_its_invoice(world: TaxWorld, tenant: str) -> None:
    """The field is named."""
    request = a_difference(day(date(2026, 10, 30)), day(date(2026, 10, 29)))

    refusal = await world.refusal("GetExchangeDifference", request, tenant)

    assert isinstance(refusal, InvalidInput)
    assert [each.field for each in refusal.violations] == ["payment_date"]


async def test_settings_have_defaults_and_are_put_once(world: TaxWorld, tenant: str) -> None:
    """A repeat answers as before, other content is refused, and no other seller is concerned."""
    defaults = tax_pb2.TaxSettings(
        exchange_rate_source="ECB",
        maximum_rate_age_days=7,
        unconfirmed_tax_ids=tax_pb2.UNCONFIRMED_TAX_IDS_ACCEPTED,
        engine=tax_pb2.TAX_ENGINE_INTERNAL,
    )
    decided = tax_pb2.TaxSettings()
    decided.CopyFrom(defaults)
    decided.maximum_rate_age_days = 1
    asked = messages.GetTaxSettingsRequest()
    assert (await world.ask("GetTaxSettings", asked, tenant)).settings == defaults

    answers = [
        await world.ask("PutTaxSettings", put(maximum_rate_age_days=1), tenant) for _ in range(2)
    ]

    assert [answer.settings for answer in answers] == [decided, decided]
    reused = await world.refusal("PutTaxSettings", put(maximum_rate_age_days=2), tenant)
    assert isinstance(reused, Conflict)
    assert (await world.ask("GetTaxSettings", asked, tenant)).settings == decided
    assert (await world.ask("GetTaxSettings", asked, f"{tenant}-2")).settings == defaults


async def test_the_seller_decides_how_old_a_rate_may_be(world: TaxWorld, tenant: str) -> None:
    """On a Saturday, a rate of Friday is a day old: one day allows it; on Sunday it is too old."""
    await world.ask("PutTaxSettings", put(maximum_rate_age_days=1), tenant)
    sunday = a_conversion("1", "EUR", "USD")
    sunday.date.CopyFrom(day(date(2026, 11, 1)))

    await world.ask("ConvertMoney", a_conversion("1", "EUR", "USD"), tenant)

    assert (await world.refusal("ConvertMoney", sunday, tenant)).reason == "EXCHANGE_RATE_STALE"


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"maximum_rate_age_days": 32}, "settings.maximum_rate_age_days"),
        ({"maximum_rate_age_days": -1}, "settings.maximum_rate_age_days"),
        ({"exchange_rate_source": "my bank"}, "settings.exchange_rate_source"),
    ],
)
async def test_bad_settings_name_their_field(
    world: TaxWorld, tenant: str, fields: dict[str, object], field: str
) -> None:
    """Out of bounds is refused."""
    refusal = await world.refusal("PutTaxSettings", put(**fields), tenant)

    assert isinstance(refusal, InvalidInput)
    assert [each.field for each in refusal.violations] == [field]


async def test_another_source_is_imported_and_chosen(
    world: TaxWorld, tenant: str, database_url: str, tmp_path: Path
) -> None:
    """Rates of a bank stand beside the ECB's, which stay as they are for everybody else."""
    file = tmp_path / "bank.csv"
    file.write_text("Date,USD\n2026-10-30,1.10\n", encoding="utf-8")
    await import_rates(database_url, file, "MY_BANK")
    await world.ask("PutTaxSettings", put(exchange_rate_source="MY_BANK"), tenant)

    found = await world.ask("ConvertMoney", a_conversion("100", "EUR", "USD"), tenant)

    assert (found.money.units, found.rate.source) == (110, "MY_BANK")


async def test_the_zip_of_the_ecb_is_imported(database_url: str, tmp_path: Path) -> None:
    """One CSV in a zip, as it is published; a zip without one is refused."""
    file, empty = tmp_path / "eurofxref-hist.zip", tmp_path / "empty.zip"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("eurofxref-hist.csv", "Date,USD,JPY,\n2025-01-02,1.0321,162.35,\n")
    with zipfile.ZipFile(empty, "w"):
        pass

    assert await import_rates(database_url, file) == 2
    assert await import_rates(database_url, file) == 0
    with pytest.raises(CannotStart):
        await import_rates(database_url, empty)
