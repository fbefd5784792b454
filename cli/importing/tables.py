"""Reads rows of CSV, JSON lines and Parquet, one at a time, each with the line where it stands.

A cell is a text, a number kept as its text, an instant or absent; no number passes through a float
that was none in the file. What cannot be read as a row is a fault of its line, and does not end the
reading where the next line can be read.
"""

import csv
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from decimal import Decimal
from itertools import count
from pathlib import Path
from typing import Any

from cli.errors import CommandError
from services.meter.convert.exact_json import NotJson, read_json

CSV, JSONL, PARQUET = "csv", "jsonl", "parquet"
_SUFFIXES = {
    ".csv": CSV,
    ".jsonl": JSONL,
    ".ndjson": JSONL,
    ".parquet": PARQUET,
    ".pq": PARQUET,
}
_ROWS_PER_READ = 10_000
# The csv module's own bound is 128 KiB, which a row of usage never reaches.
_NO_PARQUET = (
    "reading Parquet needs pyarrow, which is not installed:"
    " install tollkeeper-suite[parquet], or export the file as CSV"
)


@dataclass(frozen=True, slots=True)
class TableRow:
    """One row.

    Args:
        line: Where it stands in the file, from 1; in Parquet the number of the row.
        cells: The cells by column; what is absent or empty is left out.
        fault: Why the row cannot be read, if it cannot.
    """

    line: int
    cells: Mapping[str, object] = field(default_factory=dict)
    fault: str = ""


def format_of(file: Path) -> str:
    """Tell by its name what kind of table a file is.

    Raises:
        CommandError: The name says nothing known.
    """
    found = _SUFFIXES.get(file.suffix.lower())
    if found is None:
        raise CommandError(f"{file}: cannot tell the format by its name; say --format")
    return found


def read_table(file: Path, table_format: str) -> Iterator[TableRow]:
    """Read the rows of a file.

    Raises:
        CommandError: The file cannot be opened or is not of the format.
    """
    try:
        yield from _READERS[table_format](file)
    except UnicodeDecodeError:
        raise CommandError(f"{file}: is not text in UTF-8") from None
    except OSError as error:
        raise CommandError(f"cannot read {file}: {error.strerror or error}") from None


def columns_of(file: Path, table_format: str) -> list[str] | None:
    """Name the columns of a file; None where every row has its own."""
    if table_format == CSV:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            return next(csv.reader(lines), [])
    if table_format == PARQUET:
        return list(_parquet(file).schema_arrow.names)
    return None


def _read_csv(file: Path) -> Iterator[TableRow]:
    with file.open(encoding="utf-8-sig", newline="") as lines:
        reader = csv.reader(lines, strict=True)
        try:
            header = next(reader, [])
            for cells in reader:
                if not cells:
                    continue
                if len(cells) != len(header):
                    fault = f"has {len(cells)} cells instead of {len(header)}"
                    yield TableRow(reader.line_num, fault=fault)
                    continue
                named = zip(header, cells, strict=True)
                yield TableRow(reader.line_num, {name: cell for name, cell in named if cell})
        except csv.Error as error:
            # What follows a broken quote cannot be told apart any more.
            raise CommandError(f"{file}:{reader.line_num}: {error}") from None


def _read_jsonl(file: Path) -> Iterator[TableRow]:
    with file.open("rb") as lines:
        for line, text in enumerate(lines, start=1):
            if not text.strip():
                continue
            try:
                fields = read_json(text.removeprefix(b"\xef\xbb\xbf"))
            except NotJson as error:
                yield TableRow(line, fault=str(error))
                continue
            if isinstance(fields, dict):
                yield TableRow(line, fields)
            else:
                yield TableRow(line, fault="is not a JSON object")


def _read_parquet(file: Path) -> Iterator[TableRow]:
    numbers = count(1)
    for batch in _parquet(file).iter_batches(batch_size=_ROWS_PER_READ):
        for cells in _to_microseconds(batch).to_pylist():
            yield TableRow(next(numbers), {name: _plain(cell) for name, cell in cells.items()})


def _parquet(file: Path) -> Any:  # noqa: ANN401 - pyarrow ships no types.
    try:
        from pyarrow import ArrowInvalid, parquet  # noqa: PLC0415 - large, and seldom needed.
    except ImportError:
        raise CommandError(_NO_PARQUET) from None
    try:
        return parquet.ParquetFile(file)
    except ArrowInvalid as error:
        raise CommandError(f"{file}: {error}") from None


def _to_microseconds(batch: Any) -> Any:  # noqa: ANN401 - as above.
    """Cut instants to what Python has, as the meter does."""
    import pyarrow as pa  # noqa: PLC0415 - as above.

    types = pa.types
    fields = [
        pa.field(each.name, pa.timestamp("us", each.type.tz))
        if types.is_timestamp(each.type) and each.type.unit == "ns"
        else each
        for each in batch.schema
    ]
    return batch.cast(pa.schema(fields), safe=False)


def _plain(cell: object) -> object:
    match cell:
        case datetime():
            return cell if cell.tzinfo else cell.replace(tzinfo=UTC)
        case date():
            return datetime(cell.year, cell.month, cell.day, tzinfo=UTC)
        case float() if math.isfinite(cell):
            return format(Decimal(repr(cell)), "f")
        case bool() | str() | dict() | None:
            return cell
    return str(cell)


_READERS: Mapping[str, Callable[[Path], Iterator[TableRow]]] = {
    CSV: _read_csv,
    JSONL: _read_jsonl,
    PARQUET: _read_parquet,
}
FORMATS = tuple(_READERS)
