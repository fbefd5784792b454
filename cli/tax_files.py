"""Reads the CSV files that `tollkeeper tax import` takes: exchange rates, or rates of taxes.

The first cell of the header tells them apart: `Date` or `jurisdiction`. It refuses any other, and
leaves judging the rows to the service.
"""

import csv
from datetime import date
from pathlib import Path

from google.type.date_pb2 import Date
from google.type.decimal_pb2 import Decimal as DecimalMessage

from cli.errors import CommandError
from tollkeeper.api.tax.v1.tax_pb2 import UploadedRate

TAX_RATE_COLUMNS = (
    "jurisdiction",
    "name",
    "rate_percent",
    "postal_codes",
    "start_date",
    "end_date",
    "source",
)


def is_exchange_rates(file: Path) -> bool:
    """Tell whether a file holds exchange rates; else it holds rates of taxes.

    Raises:
        CommandError: It cannot be read, or is neither.
    """
    if file.suffix == ".zip":
        return True
    try:
        with file.open(encoding="utf-8", newline="") as lines:
            header = next(csv.reader(lines), [])
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise CommandError(f"cannot read {file}: {error}") from None
    if header[:1] == ["Date"]:
        return True
    if tuple(header) != TAX_RATE_COLUMNS:
        raise CommandError(
            f"{file} begins neither with Date, as exchange rates do, nor with the columns "
            f"{','.join(TAX_RATE_COLUMNS)}"
        )
    return False


def read_tax_rates(file: Path) -> list[UploadedRate]:
    """Read rates of taxes; postal codes are separated by blanks.

    Raises:
        CommandError: A line cannot be read.
    """
    with file.open(encoding="utf-8", newline="") as lines:
        reader = csv.DictReader(lines, strict=True)
        try:
            return [_read_row(file, reader.line_num, cells) for cells in reader]
        except csv.Error as error:
            raise CommandError(f"{file}, line {reader.line_num}: {error}") from None


def parse_day(text: str, where: str) -> Date:
    """Read a day such as 2026-01-31.

    Raises:
        CommandError: It is none.
    """
    try:
        day = date.fromisoformat(text)
    except ValueError:
        raise CommandError(f"{where} {text!r} is no day; write it as 2026-01-31") from None
    return Date(year=day.year, month=day.month, day=day.day)


def _read_row(file: Path, line: int, cells: dict[str, str]) -> UploadedRate:
    where = f"{file}, line {line}:"
    if None in cells or None in cells.values():
        raise CommandError(f"{where} must hold {len(TAX_RATE_COLUMNS)} cells")
    return UploadedRate(
        jurisdiction=cells["jurisdiction"],
        name=cells["name"],
        rate_percent=DecimalMessage(value=cells["rate_percent"]),
        postal_codes=cells["postal_codes"].split(),
        start_date=parse_day(cells["start_date"], where),
        end_date=parse_day(cells["end_date"], where) if cells["end_date"] else None,
        source=cells["source"],
    )
