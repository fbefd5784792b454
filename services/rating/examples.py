"""Examples of what usage comes to under a plan, and where a plan says otherwise.

Refuses to fetch usage: an example carries its own.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from itertools import zip_longest

from kit.decimals import plain
from kit.errors import DomainError
from services.rating.model import LineKind, PeriodToRate, Plan, PlanVersion, RatedLine, Rating
from services.rating.overrides import override
from services.rating.pipeline import rate_period, spans_of, terms_of
from services.rating.prices import Dimensions
from services.rating.selection import count_given

_NEVER_PUT = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class ExpectedLine:
    """What a line is for and comes to; what is nothing is left open."""

    price_id: str
    kind: LineKind | None
    group: Dimensions
    quantity: Decimal | None
    unrounded_amount: Decimal | None
    amount: Decimal


@dataclass(frozen=True, slots=True)
class Example:
    """A period with its usage, the lines it comes to unless they are left open, and their total."""

    name: str
    to_rate: PeriodToRate
    lines: tuple[ExpectedLine, ...]
    total: Decimal


@dataclass(frozen=True, slots=True)
class Difference:
    """What a plan says otherwise than an example; `field` is the path within the example."""

    field: str
    description: str


def try_example(plan: Plan, example: Example) -> tuple[Difference, ...]:
    """Rate the period of an example, and answer all that is not as it says."""
    try:
        rating = _rate(plan, example.to_rate)
    except DomainError as error:
        return (Difference("", f"cannot be rated: {error}"),)
    return tuple(_differences(example, rating))


def _rate(plan: Plan, to_rate: PeriodToRate) -> Rating:
    agreed = override(plan, to_rate.overrides)
    terms = terms_of(to_rate)
    usages = count_given(agreed, to_rate.given_usage or (), spans_of(agreed, terms))
    return rate_period(PlanVersion(agreed, 1, _NEVER_PUT), terms, usages)


def _differences(example: Example, rating: Rating) -> Iterator[Difference]:
    if example.lines:
        for index, (expected, line) in enumerate(zip_longest(example.lines, rating.lines)):
            if expected is None:
                yield Difference("lines", f"there is a further one: {_written(line)}")
            elif line is None:
                yield Difference(f"lines[{index}]", "there is no such line")
            else:
                yield from _line_differences(f"lines[{index}]", expected, line)
    total = rating.total.to_decimal()
    if total != example.total:
        yield Difference("total", f"comes to {plain(total)}, not to {plain(example.total)}")


def _line_differences(field: str, expected: ExpectedLine, line: RatedLine) -> Iterator[Difference]:
    values = dict(line.usage.dimensions) if line.usage is not None else {}
    is_kind = expected.kind is None or line.kind is expected.kind
    is_group = all(values.get(name) == value for name, value in expected.group)
    if line.price_id != expected.price_id or not is_kind or not is_group:
        yield Difference(field, f"another line stands here: {_written(line)}")
        return
    amounts = (
        ("quantity", expected.quantity, line.quantity),
        ("unrounded_amount", expected.unrounded_amount, line.unrounded_amount),
        ("amount", expected.amount, line.amount.to_decimal()),
    )
    for name, wanted, found in amounts:
        if wanted is not None and wanted != found:
            yield Difference(f"{field}.{name}", f"is {plain(found)}, not {plain(wanted)}")


def _written(line: RatedLine) -> str:
    return f"{line.description}, {plain(line.amount.to_decimal())} {line.amount.currency}"
