"""Writes what each customer would pay as CSV or Parquet, while it arrives.

A row is a customer and a candidate. Amounts are exact: text in CSV, decimals in Parquet. Refuses to
keep more than a batch of rows.
"""

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from cli.errors import CommandError, writing
from kit.decimals import plain
from kit.rpc.wire import parse_money
from tollkeeper.api.rating.v1.simulation_pb2 import CustomerOutcome

if TYPE_CHECKING:
    import pyarrow as pa

COLUMNS = (
    "customer_id",
    "segment",
    "plan_id",
    "currency",
    "current_amount",
    "simulated_amount",
    "change_amount",
    "tiers",
    "error",
)
_AMOUNTS = frozenset({"current_amount", "simulated_amount", "change_amount"})
_DIGITS, _DECIMALS = 38, 4

Row = Mapping[str, str | Decimal | None]


class RowWriter(Protocol):
    """Takes rows, some at a time."""

    def write(self, rows: Sequence[Row]) -> None:
        """Write rows."""


def rows_of(outcomes: Iterable[CustomerOutcome], plan_ids: Sequence[str]) -> Iterator[Row]:
    """Make a row for each customer and candidate; a customer that failed has one."""
    for outcome in outcomes:
        row: dict[str, str | Decimal | None] = dict.fromkeys(COLUMNS)
        row |= {"customer_id": outcome.customer_id, "segment": outcome.segment}
        if outcome.HasField("error"):
            yield {**row, "error": outcome.error.message}
        for plan_id, candidate in zip(plan_ids, outcome.candidates, strict=False):
            total = parse_money(candidate.total, "total")
            now = parse_money(outcome.current, "current") if outcome.HasField("current") else None
            current = Decimal(0) if now is None else now.to_decimal()
            yield {
                **row,
                "plan_id": plan_id,
                "currency": total.currency,
                "current_amount": None if now is None else current,
                "simulated_amount": total.to_decimal(),
                "change_amount": total.to_decimal() - current,
                "tiers": " ".join(f"{each.price_id}:{each.tier}" for each in candidate.tiers),
            }


@contextmanager
def row_writers(csv_file: Path | None, parquet_file: Path | None) -> Iterator[list[RowWriter]]:
    """Open the files that are asked for, and close them whole.

    Raises:
        CommandError: a file cannot be written, or what Parquet needs is not installed.
    """
    with ExitStack() as stack:
        writers: list[RowWriter] = []
        if csv_file is not None:
            with writing(csv_file):
                file = stack.enter_context(csv_file.open("w", encoding="utf-8", newline=""))
                writers.append(_CsvWriter(csv.DictWriter(file, COLUMNS, lineterminator="\n")))
        if parquet_file is not None:
            with writing(parquet_file):
                writers.append(stack.enter_context(_open_parquet(parquet_file)))
        yield writers


class _CsvWriter:
    def __init__(self, writer: "csv.DictWriter[str]") -> None:
        self._writer = writer
        self._writer.writeheader()

    def write(self, rows: Sequence[Row]) -> None:
        for row in rows:
            self._writer.writerow(
                {
                    name: plain(value) if isinstance(value, Decimal) else value
                    for name, value in row.items()
                }
            )


@contextmanager
def _open_parquet(file: Path) -> Iterator[RowWriter]:
    try:
        import pyarrow as pa  # noqa: PLC0415 - only people who ask for Parquet need it.
        from pyarrow import parquet  # noqa: PLC0415 - as above.
    except ImportError:
        raise CommandError(
            "Parquet needs pyarrow; install it by `pip install tollkeeper-suite[parquet]`"
        ) from None
    amount = pa.decimal128(_DIGITS, _DECIMALS)
    schema = pa.schema([(name, amount if name in _AMOUNTS else pa.string()) for name in COLUMNS])
    with parquet.ParquetWriter(file, schema) as writer:
        yield _ParquetWriter(writer, schema)


class _ParquetWriter:
    def __init__(self, writer: Any, schema: "pa.Schema") -> None:  # noqa: ANN401 - pyarrow has no types.
        self._writer = writer
        self._schema = schema

    def write(self, rows: Sequence[Row]) -> None:
        import pyarrow as pa  # noqa: PLC0415 - as above.

        self._writer.write_table(pa.Table.from_pylist(rows, schema=self._schema))
