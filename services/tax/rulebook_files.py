"""Reads the tables in `rates/` into a rulebook, once at start, and refuses bad ones.

Every row names its source. Two rows with the same key never hold on the same day, and no day is
missing between the first and the last of them.
"""

import csv
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from datetime import date
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

from kit.errors import CannotStart
from services.tax.exchange import EndedCurrency
from services.tax.model import HUNDRED, BuyerKind, DateRange, ProductCategory
from services.tax.rulebook import (
    BusinessFromAbroad,
    BusinessProof,
    Country,
    Dated,
    Effect,
    Export,
    MatchOn,
    Outcome,
    Rate,
    Regime,
    ReportingCurrency,
    Rulebook,
    Taxability,
    Territory,
    Withholding,
)

DIRECTORY = Path(__file__).parent / "rates"
ECB_SAMPLE = DIRECTORY / "ecb_reference_rates.csv"
_RATE_FILES = ("eu_vat.csv", "other_countries.csv", "canada.csv", "us_states.csv")
_ALL_SERVICES = frozenset(
    {ProductCategory.ELECTRONIC_SERVICE, ProductCategory.PROFESSIONAL_SERVICE}
)

_Cells = Mapping[str, str]
Row = TypeVar("Row", bound=Dated)
Key = TypeVar("Key", bound=Hashable)
Parsed = TypeVar("Parsed")


def load_rulebook(directory: Path = DIRECTORY) -> Rulebook:
    """Read and check every table.

    Raises:
        CannotStart: a table is missing, malformed, without a source, or with a gap or overlap.
    """
    rates = [row for name in _RATE_FILES for row in _read(directory / name, _rate)]
    countries = _read(directory / "countries.csv", _country)
    taxability = _read(directory / "taxability.csv", _taxability)
    territories = _read(directory / "territories.csv", _territory)
    exports = _read(directory / "exports.csv", _export)
    reporting_currencies = _read(directory / "reporting_currencies.csv", _reporting_currency)
    _check_dates(rates, lambda row: (row.jurisdiction, row.name))
    _check_dates(countries, lambda row: row.code)
    withholding = _read(directory / "withholding.csv", _withholding)
    _check_dates(withholding, lambda row: (row.country, row.from_abroad))
    _check_dates(exports, lambda row: row.country)
    _check_dates(reporting_currencies, lambda row: row.country)
    for kind in BuyerKind:
        concerned = (row for row in taxability if row.buyer in (None, kind))
        _check_dates(concerned, lambda row: (row.jurisdiction, row.category))
    return Rulebook(
        rates=_grouped(rates, lambda row: row.jurisdiction),
        countries=_grouped(countries, lambda row: row.code),
        territories=_grouped(territories, lambda row: row.match_country),
        taxability=_grouped(taxability, lambda row: (row.jurisdiction, row.category)),
        wording=dict(_read(directory / "wording.csv", _wording)),
        withholding=_grouped(withholding, lambda row: (row.country, row.from_abroad)),
        exports=_grouped(exports, lambda row: row.country),
        reporting_currencies=_grouped(reporting_currencies, lambda row: row.country),
    )


def load_ended_currencies(directory: Path = DIRECTORY) -> Mapping[str, EndedCurrency]:
    """Read the currencies that the ECB no longer quotes.

    Raises:
        CannotStart: the table is missing or malformed.
    """
    return {row.currency: row for row in _read(directory / "ended_currencies.csv", _ended_currency)}


def _read(path: Path, parse: Callable[[_Cells], Parsed]) -> list[Parsed]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return list(_rows(path, csv.DictReader(file, strict=True), parse))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise CannotStart(f"cannot read the table {path.name}: {error}") from error


def _rows(
    path: Path, reader: "csv.DictReader[str]", parse: Callable[[_Cells], Parsed]
) -> Iterator[Parsed]:
    for cells in reader:
        try:
            if not cells.get("source", "-"):
                raise ValueError("the source is missing")
            yield parse(cells)
        except (ArithmeticError, KeyError, TypeError, ValueError) as error:
            raise CannotStart(f"{path.name}, line {reader.line_num}: {error!r}") from error


def _rate(cells: _Cells) -> Rate:
    return Rate(
        jurisdiction=cells["jurisdiction"],
        name=cells["name"],
        rate_percent=_percent(cells["rate_percent"]),
        valid=_valid(cells),
        source=cells["source"],
    )


def _country(cells: _Cells) -> Country:
    services = cells["business_services"]
    return Country(
        code=cells["country"],
        name=cells["name"],
        regime=Regime(cells["regime"]),
        tax_name=cells["tax_name"],
        business_proof=BusinessProof(cells["business_proof"]),
        business_from_abroad=BusinessFromAbroad(cells["business_from_abroad"]),
        business_services=(
            _ALL_SERVICES if services == "ALL" else frozenset({ProductCategory(services)})
        ),
        registration_threshold=cells["registration_threshold"],
        valid=_valid(cells),
        domestic_source=_required(cells, "domestic_source"),
        business_source=_required(cells, "business_source"),
        consumer_source=_required(cells, "consumer_source"),
    )


def _territory(cells: _Cells) -> Territory:
    country, *values = cells["match"].split()
    return Territory(
        code=cells["territory"],
        name=cells["name"],
        match_on=MatchOn(cells["match_on"]),
        match_country=country,
        match_values=tuple(values),
        effect=Effect(cells["effect"]),
        applies=cells["applies"],
        own_tax=cells["own_tax"],
        valid=_valid(cells),
        source=cells["source"],
    )


def _taxability(cells: _Cells) -> Taxability:
    return Taxability(
        jurisdiction=cells["jurisdiction"],
        category=ProductCategory(cells["category"]),
        buyer=None if cells["buyer"] == "ANY" else BuyerKind(cells["buyer"]),
        outcome=Outcome(cells["outcome"]),
        taxable_percent=_percent(cells["taxable_percent"]),
        rate_percent=_percent(cells["rate_percent"]) if cells["rate_percent"] else None,
        valid=_valid(cells),
        source=cells["source"],
    )


def _export(cells: _Cells) -> Export:
    return Export(
        country=cells["country"],
        tax_name=_required(cells, "tax_name"),
        valid=_valid(cells),
        source=cells["source"],
    )


def _reporting_currency(cells: _Cells) -> ReportingCurrency:
    return ReportingCurrency(
        country=cells["country"],
        currency=_required(cells, "currency"),
        valid=_valid(cells),
        source=cells["source"],
    )


def _withholding(cells: _Cells) -> Withholding:
    if cells["seller"] not in {"ABROAD", "DOMESTIC"}:
        raise ValueError("the seller is ABROAD or DOMESTIC")
    return Withholding(
        country=cells["country"],
        from_abroad=cells["seller"] == "ABROAD",
        note=_required(cells, "note"),
        valid=_valid(cells),
        source=cells["source"],
    )


def _wording(cells: _Cells) -> tuple[tuple[str, str], str]:
    return (cells["key"], cells["language"]), _required(cells, "text")


def _ended_currency(cells: _Cells) -> EndedCurrency:
    fixed = cells["units_per_euro"]
    return EndedCurrency(
        currency=cells["currency"],
        end_date=date.fromisoformat(cells["end_date"]),
        units_per_euro=Decimal(fixed) if fixed else None,
        reason=_required(cells, "reason"),
    )


def _valid(cells: _Cells) -> DateRange:
    end = cells["end_date"]
    return DateRange(
        date.fromisoformat(cells["start_date"]), date.fromisoformat(end) if end else None
    )


def _percent(text: str) -> Decimal:
    percent = Decimal(text)
    if not 0 <= percent <= HUNDRED:
        raise ValueError("a percentage lies between 0 and 100")
    return percent


def _required(cells: _Cells, column: str) -> str:
    if not cells[column]:
        raise ValueError(f"{column} is missing")
    return cells[column]


def _check_dates(rows: Iterable[Row], key: Callable[[Row], Hashable]) -> None:
    for group_key, group in _grouped(rows, key).items():
        for earlier, later in pairwise(group):
            if earlier.valid.end == later.valid.start:
                continue
            fault = "overlap" if earlier.valid.overlaps(later.valid) else "leave a gap"
            raise CannotStart(
                f"rows of {group_key} {fault} between {earlier.valid.start} and {later.valid.start}"
            )


def _grouped(rows: Iterable[Row], key: Callable[[Row], Key]) -> dict[Key, tuple[Row, ...]]:
    groups: defaultdict[Key, list[Row]] = defaultdict(list)
    for row in rows:
        groups[key(row)].append(row)
    return {
        group_key: tuple(sorted(group, key=lambda row: row.valid.start))
        for group_key, group in groups.items()
    }
