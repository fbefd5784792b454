"""The tables in `services/tax/rates`: whole as they come, refused when they are not."""

import csv
import shutil
from datetime import date
from pathlib import Path

import pytest

from kit.errors import CannotStart, Precondition
from services.tax.model import BuyerKind, ProductCategory
from services.tax.rulebook import DEFAULT_LANGUAGE, Effect, Outcome, Regime
from services.tax.rulebook_files import DIRECTORY, load_ended_currencies, load_rulebook
from tests.tax_builders import BOOK, TODAY

SERVICE = ProductCategory.ELECTRONIC_SERVICE


def broken(folder: Path, name: str, row: str) -> Path:
    """Copy the tables and add a row to one of them."""
    shutil.copytree(DIRECTORY, folder / "rates")
    with (folder / "rates" / name).open("a", encoding="utf-8") as file:
        file.write(row + "\n")
    return folder / "rates"


def test_every_row_names_its_source() -> None:
    """A finance person can look up where each figure comes from."""
    unsourced = [
        f"{path.name}: {row}"
        for path in sorted(DIRECTORY.glob("*.csv"))
        for row in csv.DictReader(path.read_text(encoding="utf-8").splitlines())
        if any(not row[column] for column in row if column.endswith("source"))
    ]

    assert unsourced == []


def test_every_member_state_has_rules_and_a_rate_since_2019() -> None:
    """27 member states, and the United Kingdom until it left."""
    day = date(2019, 1, 1)
    members = [
        code for code in BOOK.countries if BOOK.country_on(code, TODAY).regime is Regime.EU_VAT
    ]

    assert len(members) == 27
    assert [code for code in members if not BOOK.rates_on(code, day)] == []
    assert BOOK.country_on("GB", date(2020, 12, 31)).regime is Regime.EU_VAT
    assert BOOK.country_on("GB", date(2021, 1, 1)).regime is Regime.NATIONAL


def test_every_state_says_whether_it_taxes_software_as_a_service() -> None:
    """50 states and the District of Columbia, for businesses and for consumers, today."""
    silent = [
        (jurisdiction, kind)
        for jurisdiction, category in BOOK.taxability
        if category is SERVICE
        for kind in BuyerKind
        if BOOK.taxability_on(jurisdiction, SERVICE, kind, TODAY) is None
    ]
    states = {jurisdiction for jurisdiction, _ in BOOK.taxability if jurisdiction.startswith("US-")}

    assert silent == []
    assert len(states) == 51


def test_every_state_that_taxes_has_one_rate() -> None:
    """What is taxable has a rate on the same days."""
    taxing = {
        row.jurisdiction
        for rows in BOOK.taxability.values()
        for row in rows
        if row.outcome is not Outcome.NO_TAX and row.jurisdiction.startswith("US-")
    }

    assert {state for state in taxing if len(BOOK.rates_on(state, TODAY)) != 1} == set()


def test_every_territory_applies_something_that_exists() -> None:
    """A territory with its own rate has that rate; one that is another country has its rules."""
    territories = [each for group in BOOK.territories.values() for each in group]

    assert [
        each.code
        for each in territories
        if each.effect is Effect.OWN_RATE and not BOOK.rates_on(each.applies, TODAY)
    ] == []
    assert [
        each.code
        for each in territories
        if each.effect is Effect.SAME_AS and each.applies not in BOOK.countries
    ] == []


def test_every_note_exists_in_the_four_languages_of_documents() -> None:
    """English, German, French and Japanese documents have their own words."""
    keys = {key for key, _ in BOOK.wording}

    assert {
        (key, language)
        for key in keys
        for language in (DEFAULT_LANGUAGE, "de", "fr", "ja")
        if (key, language) not in BOOK.wording
    } == set()


def test_the_currencies_that_ended_are_known() -> None:
    """Two joined the euro at a fixed rate; one is no longer quoted."""
    assert {
        code: (each.end_date.isoformat(), str(each.units_per_euro))
        for code, each in load_ended_currencies().items()
    } == {
        "BGN": ("2026-01-01", "1.95583"),
        "HRK": ("2023-01-01", "7.53450"),
        "RUB": ("2022-03-02", "None"),
    }


@pytest.mark.parametrize(
    ("table", "row", "fault"),
    [
        (
            "eu_vat.csv",
            "DE,VAT,20,2026-01-01,,Some law",
            "rows of ('DE', 'VAT') overlap between 2021-01-01 and 2026-01-01",
        ),
        (
            "eu_vat.csv",
            "XX,VAT,20,2026-01-01,2026-02-01,A\nXX,VAT,20,2026-03-01,,B",
            "rows of ('XX', 'VAT') leave a gap between 2026-01-01 and 2026-03-01",
        ),
        ("eu_vat.csv", "XX,VAT,20,2026-01-01,,", "the source is missing"),
        ("eu_vat.csv", "XX,VAT,twenty,2026-01-01,,A", "eu_vat.csv, line 48: "),
        ("eu_vat.csv", "XX,VAT,120,2026-01-01,,A", "a percentage lies between 0 and 100"),
        ("eu_vat.csv", "XX,VAT,NaN,2026-01-01,,A", "eu_vat.csv, line 48: "),
        ("eu_vat.csv", "XX,VAT,20,2026-02-30,,A", "day is out of range for month"),
        ("eu_vat.csv", "XX,VAT,20,2026-01-02,2026-01-01,A", "must end after it starts"),
        ("countries.csv", "XX,Nowhere,MOON", "countries.csv, line 40: "),
        (
            "taxability.csv",
            "US-NY,ELECTRONIC_SERVICE,BUSINESS,NOT_TAXABLE,100,,2026-01-01,,A",
            "overlap between 2019-01-01 and 2026-01-01",
        ),
        ("wording.csv", "some.key,en,", "text is missing"),
        ("exports.csv", "DE,VAT,2026-01-01,,A", "rows of DE overlap between 2019-01-01"),
        ("reporting_currencies.csv", "XX,,2026-01-01,,A", "currency is missing"),
        ("reporting_currencies.csv", "XX,XXX,2026-01-01,,", "the source is missing"),
        ("withholding.csv", "IN,BOTH,2027-01-01,,note,A", "the seller is ABROAD or DOMESTIC"),
    ],
)
def test_a_bad_table_stops_the_start(tmp_path: Path, table: str, row: str, fault: str) -> None:
    """One clear line names the table and what is wrong with it."""
    directory = broken(tmp_path, table, row)

    with pytest.raises(CannotStart) as caught:
        load_rulebook(directory)

    assert fault in str(caught.value)


def test_a_missing_table_stops_the_start(tmp_path: Path) -> None:
    """Nothing is served without the law."""
    with pytest.raises(CannotStart, match=r"^cannot read the table eu_vat.csv: "):
        load_rulebook(tmp_path)


def test_a_rate_that_is_not_in_the_tables_is_an_error() -> None:
    """Looking up never answers nothing as 0."""
    with pytest.raises(Precondition) as caught:
        BOOK.rate_on("US-SD", "Sales tax", date(2018, 12, 31))

    assert caught.value.metadata == {
        "country": "US",
        "missing": "the rate of Sales tax in US-SD on 2018-12-31",
    }
