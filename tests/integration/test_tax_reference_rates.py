"""Reference rates of the European Central Bank, imported into a real database."""

import asyncio
import csv
import sys
from bisect import bisect_right
from collections.abc import AsyncIterator, Callable
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from kit.errors import CannotStart, NotFound, Precondition
from kit.postgres import Database
from services.tax.__main__ import import_rates, main
from services.tax.reference_rates import SOURCE_ECB
from services.tax.rulebook_files import ECB_SAMPLE, load_ended_currencies
from services.tax.store import load_rates_between
from services.tax.usecases.exchange import NO_TENANT, ExchangeUseCases

PUBLISHED = (
    Path(__file__).parents[3] / "shared" / "data" / "ecb-fx-rates" / "eurofxref-hist-from-2019.csv"
)
CURRENCIES = ("CHF", "GBP", "IDR", "JPY", "PLN", "BGN", "HRK", "RUB")
needs_history = pytest.mark.skipif(
    not PUBLISHED.is_file(), reason="the published history in ../shared/data/ecb-fx-rates is absent"
)


@pytest.fixture
async def use_cases(database_url: str) -> AsyncIterator[ExchangeUseCases]:
    """The use cases of tax over a database without any rate."""
    database = Database(database_url, "tax")
    yield ExchangeUseCases(database, load_ended_currencies())
    await database.close()


def a_file(folder: Path, *lines: str) -> Path:
    """Write a file of rates."""
    file = folder / "rates.csv"
    file.write_text("\n".join(("Date,USD,JPY,", *lines)) + "\n", encoding="utf-8")
    return file


async def rate_of(
    use_cases: ExchangeUseCases, day: date, base: str = "EUR", quote: str = "USD"
) -> tuple[Decimal, date]:
    """Ask for a rate, and answer it with its day."""
    found = await use_cases.exchange_rate(NO_TENANT, base, quote, day)
    return found.rate, found.rate_date


def figure_of(cell: str) -> Decimal | None:
    """Read a figure as published; `N/A` is none."""
    return None if cell == "N/A" else Decimal(cell)


async def rate_or_none(use_cases: ExchangeUseCases, currency: str, day: date) -> Decimal | None:
    """Ask for a rate against the euro, and answer nothing where there is none."""
    try:
        return (await rate_of(use_cases, day, "EUR", currency))[0]
    except (NotFound, Precondition):
        return None


async def test_a_file_is_imported_once(
    database_url: str, use_cases: ExchangeUseCases, tmp_path: Path
) -> None:
    """The same file adds nothing; a longer one adds its new days."""
    day = date(2026, 10, 29)
    first = a_file(tmp_path, "2026-10-29,1.113,175.92,")

    assert await import_rates(database_url, first) == 2
    assert await import_rates(database_url, first) == 0
    longer = a_file(tmp_path, "2026-10-30,1.1172,N/A,", "2026-10-29,1.1130,175.92,")
    assert await import_rates(database_url, longer) == 1
    assert await rate_of(use_cases, day) == (Decimal("1.113"), day)


async def test_many_imports_at_once_agree(database_url: str, tmp_path: Path) -> None:
    """Replicas that start together store each rate once, and none fails."""
    file = a_file(tmp_path, *(f"2026-0{month}-05,1.1,175," for month in range(1, 10)))

    await asyncio.gather(*(import_rates(database_url, file) for _ in range(4)))

    assert await import_rates(database_url, file) == 0


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("2026-10-30,1.2,175,", "USD on 2026-10-30: is 1.2, but was 1.1"),
        ("2026-10-30,free,175,", "line 2, USD: must be a decimal number such as 12.5"),
    ],
)
async def test_a_file_that_contradicts_or_cannot_be_read_changes_nothing(
    database_url: str, use_cases: ExchangeUseCases, tmp_path: Path, line: str, fault: str
) -> None:
    """All of a file is taken, or none of it."""
    await import_rates(database_url, a_file(tmp_path, "2026-10-30,1.1,175,"))

    with pytest.raises(CannotStart) as caught:
        await import_rates(database_url, a_file(tmp_path, line, "2026-10-31,1.3,176,"))

    assert fault in str(caught.value)
    friday = date(2026, 10, 30)
    assert await rate_of(use_cases, date(2026, 10, 31)) == (Decimal("1.1"), friday)


async def test_a_cross_rate_needs_both_currencies_on_one_day(
    database_url: str, use_cases: ExchangeUseCases, tmp_path: Path
) -> None:
    """The last day that has both counts, not the last of each."""
    file = a_file(tmp_path, "2026-10-30,1.1,N/A,", "2026-10-29,1.1,176,", "2026-10-28,N/A,175,")
    await import_rates(database_url, file)

    found = await rate_of(use_cases, date(2026, 10, 30), "USD", "JPY")

    assert found == (Decimal(160), date(2026, 10, 29))


async def test_the_service_may_not_change_a_published_rate(
    database_url: str, tmp_path: Path
) -> None:
    """Its role may read and add; the table of everybody's rates is nobody's to edit."""
    await import_rates(database_url, a_file(tmp_path, "2026-10-30,1.1,175,"))
    database = Database(database_url, "tax")

    with pytest.raises(Exception, match="permission denied for table exchange_rates"):
        async with database.transaction(NO_TENANT) as transaction:
            await transaction.exec_driver_sql("UPDATE tax.exchange_rates SET units_per_euro = 1")

    await database.close()


@pytest.fixture
def command(
    database_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Run `python -m services.tax import-rates`, and answer exit code, output and faults."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["tax", "import-rates", *map(str, arguments)])
        monkeypatch.setenv("DATABASE_URL", database_url)
        exit_code = main()
        return exit_code, *capsys.readouterr()

    return run


def test_the_command_says_how_many_rates_were_new(
    command: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    """One line on standard output."""
    assert command(a_file(tmp_path, "2026-10-30,1.1,175,")) == (0, "2 new rates\n", "")


def test_the_command_says_how_it_is_called(command: Callable[..., tuple[int, str, str]]) -> None:
    """It takes one file."""
    assert command() == (2, "", "usage: python -m services.tax import-rates FILE [SOURCE]\n")


def test_the_command_says_in_one_line_what_is_wrong(
    command: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    """A missing or faulty file leaves no traceback."""
    faulty = a_file(tmp_path, "2026-10-30,free,175,")

    assert command(faulty) == (
        1,
        "",
        f"tax: {faulty}: line 2, USD: must be a decimal number such as 12.5\n",
    )
    assert command("nothing.csv") == (
        1,
        "",
        "tax: cannot read nothing.csv: [Errno 2] No such file or directory: 'nothing.csv'\n",
    )


@needs_history
def test_the_sample_is_what_the_central_bank_published() -> None:
    """Every figure that comes with the code is in the published history, letter by letter."""
    with PUBLISHED.open(encoding="utf-8") as file:
        published = {row["Date"]: row for row in csv.DictReader(file)}
    with ECB_SAMPLE.open(encoding="utf-8") as file:
        sample = list(csv.DictReader(file))

    assert len(sample) == 213
    assert [row for row in sample if row.items() - published[row["Date"]].items()] == []


@needs_history
async def test_every_day_since_2019_has_the_published_rate(
    database_url: str, use_cases: ExchangeUseCases
) -> None:
    """A day answers with its own publication, or the last before; an ended currency with none."""
    await import_rates(database_url, PUBLISHED)
    with PUBLISHED.open(encoding="utf-8") as file:
        published = {date.fromisoformat(row["Date"]): row for row in csv.DictReader(file)}
    days = sorted(published)
    every_day = [days[0] + timedelta(count) for count in range((days[-1] - days[0]).days + 1)]
    newest = [days[bisect_right(days, day) - 1] for day in every_day]

    dollars = [await rate_of(use_cases, day) for day in every_day]

    assert dollars == [(Decimal(published[day]["USD"]), day) for day in newest]
    asked = [(currency, day) for currency in CURRENCIES for day in days[::20]]
    found = {key: await rate_or_none(use_cases, *key) for key in asked}
    assert found == {(code, day): figure_of(published[day][code]) for code, day in asked}


@needs_history
async def test_every_published_figure_is_stored_exactly(database_url: str) -> None:
    """Each currency of each day since 2019, to the last digit, and nothing else."""
    await import_rates(database_url, PUBLISHED)
    with PUBLISHED.open(encoding="utf-8") as file:
        rows = {date.fromisoformat(row["Date"]): row for row in csv.DictReader(file)}
    published = {
        (code, day): Decimal(cell)
        for day, row in rows.items()
        for code, cell in row.items()
        if code not in {"", "Date", None} and cell not in {"", "N/A", None}
    }
    database = Database(database_url, "tax")
    async with database.transaction(NO_TENANT) as transaction:
        stored = await load_rates_between(transaction, SOURCE_ECB, min(rows), max(rows))
    await database.close()

    assert {(rate.currency, rate.rate_date): rate.units_per_euro for rate in stored} == published
