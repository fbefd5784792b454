"""Reads exchange rates against the euro, in the CSV that the European Central Bank publishes.

One row for a day, one column for a currency, units of it for one euro, `N/A` where there is no
rate. It refuses a file that it cannot read whole. Columns of currencies that ISO 4217 withdrew
long ago are passed over.
"""

import csv
import re
from collections.abc import Iterable, Iterator
from datetime import date
from decimal import Decimal

from kit.decimals import parse_decimal
from kit.errors import InvalidInput
from kit.money import minor_digits
from services.tax.exchange import PublishedRate

SOURCE_ECB = "ECB"
SOURCE_NAME = re.compile(r"[A-Z0-9_]{1,32}")
_NO_RATE = ("", "N/A")


def parse_reference_rates(
    lines: Iterable[str], source: str = SOURCE_ECB
) -> Iterator[PublishedRate]:
    """Read the rates that a source published, in the order of the file.

    Raises:
        InvalidInput: naming the line that cannot be read.
    """
    reader = csv.reader(lines, strict=True)
    try:
        header = [cell.strip() for cell in next(reader, [])]
        if header[:1] != ["Date"]:
            raise InvalidInput.of("line 1", "must start with the column Date")
        columns = [(index, code) for index, code in enumerate(header) if index and _known(code)]
        for cells in reader:
            for currency, day, units in _rates(cells, columns, f"line {reader.line_num}"):
                yield PublishedRate(source, currency, day, units)
    except csv.Error as error:
        raise InvalidInput.of(f"line {reader.line_num}", f"is no CSV: {error}") from error


def new_rates(
    rates: Iterable[PublishedRate], stored: Iterable[PublishedRate]
) -> tuple[PublishedRate, ...]:
    """Answer which rates are not stored yet.

    Raises:
        InvalidInput: a rate differs from the stored one, or from another for the same day.
    """
    known = {(rate.currency, rate.rate_date): rate.units_per_euro for rate in stored}
    new = []
    for rate in rates:
        key = rate.currency, rate.rate_date
        units = known.get(key)
        if units is None:
            known[key] = rate.units_per_euro
            new.append(rate)
        elif units != rate.units_per_euro:
            raise InvalidInput.of(
                f"{rate.currency} on {rate.rate_date}",
                f"is {rate.units_per_euro}, but was {units}; published rates never change",
            )
    return tuple(new)


def _known(code: str) -> bool:
    try:
        return minor_digits(code) >= 0
    except InvalidInput:
        return False


def _rates(
    cells: list[str], columns: list[tuple[int, str]], line: str
) -> Iterator[tuple[str, date, Decimal]]:
    try:
        day = date.fromisoformat(cells[0].strip())
        texts = [(code, cells[index].strip()) for index, code in columns]
    except (IndexError, ValueError):
        raise InvalidInput.of(line, "must hold a date and a cell for each column") from None
    for code, text in texts:
        if text in _NO_RATE:
            continue
        units = parse_decimal(text, f"{line}, {code}")
        if units <= 0:
            raise InvalidInput.of(f"{line}, {code}", "must be above 0")
        yield code, day, units
