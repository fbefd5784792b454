"""How a command speaks: tables and progress bars on a terminal, plain lines elsewhere, or JSON.

A command says everything through one `Output` and never asks where it goes. Colour is left out
when NO_COLOR is set; what is given is shown as it is, never read as markup.
"""

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal

from google.type.date_pb2 import Date
from google.type.interval_pb2 import Interval
from google.type.money_pb2 import Money as MoneyMessage
from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from kit.decimals import parse_decimal, plain
from kit.rpc.wire import parse_interval, parse_money
from tollkeeper.api.tax.v1.tax_pb2 import ExchangeRate, Tax, TaxTreatment

_GAP = "  "
_PLAIN_PROGRESS_STEPS = 4


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table; figures stand on the right."""

    name: str
    right: bool = False
    style: str = ""


class Output:
    """Where a command speaks.

    Args:
        as_json: Print one JSON object and nothing else on standard output.
        console: Where to; by default standard output.
    """

    def __init__(self, *, as_json: bool = False, console: Console | None = None) -> None:
        self._console = console or Console(highlight=False)
        self._as_json = as_json
        self._is_rich = self._console.is_terminal and not as_json

    def say(self, text: str = "", style: str = "") -> None:
        """Print a line; nothing when JSON is asked for."""
        if self._is_rich:
            self._console.print(Text(text, style))
        elif not self._as_json:
            self._write(text)

    def section(self, title: str) -> None:
        """Begin a part of a long report."""
        if self._is_rich:
            self._console.print()
            self._console.print(Rule(Text(title, "bold"), align="left", style="cyan"))
        elif not self._as_json:
            self._write(f"\n== {title}")

    def table(
        self, columns: Sequence[Column], rows: Sequence[Sequence[str]], *, empty: str = ""
    ) -> None:
        """Print a table; without rows, the sentence `empty`. Nothing when JSON is asked for."""
        if not rows and empty:
            self.say(empty)
        elif self._is_rich:
            table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
            for column in columns:
                table.add_column(
                    Text(column.name),
                    justify="right" if column.right else "left",
                    style=column.style or None,
                    overflow="fold",
                )
            for row in rows:
                table.add_row(*map(Text, row))
            self._console.print(table)
        elif not self._as_json:
            for line in _aligned(columns, rows):
                self._write(line)

    def value(self, value: Mapping[str, object]) -> None:
        """Print the one JSON object, when it is asked for."""
        if self._as_json:
            self._write(json.dumps(value, indent=2, ensure_ascii=False))

    @contextmanager
    def progress(self, what: str, total: int) -> Iterator[Callable[[int], None]]:
        """Show how far a long work is; give the function that says how much more is done."""
        if self._is_rich:
            with Progress(
                SpinnerColumn(),
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=40),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                console=self._console,
            ) as progress:
                task = progress.add_task(what, total=total)
                yield lambda count: progress.advance(task, count)
        else:
            yield self._plain_progress(what, total)

    def _plain_progress(self, what: str, total: int) -> Callable[[int], None]:
        done = steps = 0

        def advance(count: int) -> None:
            nonlocal done, steps
            done += count
            reached = done * _PLAIN_PROGRESS_STEPS // total if total else 0
            if reached > steps:
                steps = reached
                self.say(f"{what}: {done:,} of {total:,}")

        return advance

    def _write(self, line: str) -> None:
        # The console would wrap long lines at the width of a terminal that is not there.
        self._console.file.write(f"{line}\n")
        self._console.file.flush()


def warn(text: str) -> None:
    """Tell something beside the answer, on standard error."""
    print(f"tollkeeper: {text}", file=sys.stderr, flush=True)


def quantity_text(value: Decimal) -> str:
    """Write a quantity for people: `1,234.5`."""
    whole, point, fraction = plain(value).partition(".")
    return f"{int(whole):,}{point}{fraction}"


def money_text(message: MoneyMessage) -> str:
    """Write settled money for people: `1,234.50 USD`."""
    money = parse_money(message, "amount")
    return f"{money.to_decimal():,} {money.currency}"


def tax_text(tax: Tax) -> str:
    """Name a tax and what becomes of it: `FR VAT 20 %`, `DE VAT: reverse charge`."""
    treatment = TaxTreatment.Name(tax.treatment).removeprefix("TAX_TREATMENT_")
    if treatment != "TAXED":
        return f"{tax.jurisdiction} {tax.name}: {treatment.lower().replace('_', ' ')}"
    rate = quantity_text(parse_decimal(tax.rate_percent.value, "rate"))
    return f"{tax.jurisdiction} {tax.name} {rate} %"


def rate_text(rate: ExchangeRate) -> str:
    """Name an exchange rate and its day: `157.25 JPY for 1 USD, ECB, 2026-10-30`."""
    day = date_text(rate.rate_date)
    return (
        f"{rate.rate.value} {rate.quote_currency} for 1 {rate.base_currency}, {rate.source}, {day}"
    )


def date_text(date: Date) -> str:
    """Write a day: `2026-10-30`."""
    return f"{date.year}-{date.month:02}-{date.day:02}"


def interval_text(message: Interval) -> str:
    """Write a half-open interval for people, in UTC."""
    interval = parse_interval(message, "interval")
    return f"{time_text(interval.start)} to {time_text(interval.end)}"


def time_text(time: datetime) -> str:
    """Write an instant for people, in UTC: `2026-10-01 07:00`, finer where it is finer."""
    utc = time.astimezone(UTC)
    spec = "minutes" if not (utc.second or utc.microsecond) else "auto"
    return utc.replace(tzinfo=None).isoformat(" ", spec)


def _aligned(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    lines = [[column.name for column in columns], *rows]
    widths = [max(cell_len(line[index]) for line in lines) for index in range(len(columns))]
    for line in lines:
        cells = []
        for cell, width, column in zip(line, widths, columns, strict=True):
            # Some characters take two places of a line.
            gap = " " * (width - cell_len(cell))
            cells.append(gap + cell if column.right else cell + gap)
        yield _GAP.join(cells).rstrip()
