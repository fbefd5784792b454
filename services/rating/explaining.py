"""A line in words: where its quantity comes from, every step, and how it was rounded.

Refuses to compute: what a line comes to is what it says.
"""

from collections.abc import Iterator
from decimal import Decimal

from kit.decimals import exactly, plain
from kit.errors import NotFound
from services.rating.model import FormulaStep, LineKind, RatedLine, Rating, UsageReference
from services.rating.prices import Dimensions

_ZERO = Decimal(0)


def find_line(rating: Rating, kind: LineKind, price_id: str, group: Dimensions) -> RatedLine:
    """Find a line by what it is for.

    Raises:
        NotFound: LINE_NOT_FOUND.
    """
    for line in rating.lines:
        values = dict(line.usage.dimensions) if line.usage is not None else {}
        if (
            line.kind is kind
            and line.price_id == price_id
            and all(values.get(name) == value for name, value in group)
        ):
            return line
    raise NotFound(
        "LINE_NOT_FOUND",
        f"the rating has no line of the kind {kind.name} for {price_id or 'the plan'}",
        metadata={"kind": kind.name, "price_id": price_id},
    )


def amounts_so_far(line: RatedLine) -> tuple[tuple[FormulaStep, Decimal], ...]:
    """Answer each step of a line with the sum up to it; the last is the unrounded amount."""
    sums = []
    amount = _ZERO
    with exactly():
        for step in line.steps:
            amount += step.amount
            sums.append((step, amount))
    return tuple(sums)


def explain(rating: Rating, line: RatedLine) -> str:
    """Write a line for people, each fact on a line of its own."""
    return "\n".join(_facts(rating, line))


def _facts(rating: Rating, line: RatedLine) -> Iterator[str]:
    yield f"{line.description}, by version {rating.plan_version} of the plan {rating.plan_id}"
    yield f"quantity: {plain(line.quantity)} {line.unit}".rstrip()
    if line.usage is not None:
        yield f"counted by: {_query(line.usage)}"
    for step, amount in amounts_so_far(line):
        yield (
            f"{step.stage.name.lower().replace('_', ' ')}: {step.description}:"
            f" {plain(step.quantity)} x {plain(step.unit_amount)} = {plain(step.amount)},"
            f" so far {plain(amount)}"
        )
    yield (
        f"rounded half up: {plain(line.unrounded_amount)} becomes"
        f" {line.amount.to_decimal()} {line.amount.currency}"
    )


def _query(usage: UsageReference) -> str:
    interval = usage.interval
    filters = "".join(f", {name}={value}" for name, value in usage.dimensions)
    excluded = "".join(
        f", not ({', '.join(f'{name}={value}' for name, value in each)})" for each in usage.excluded
    )
    return (
        f"meter {usage.meter_id}, customer {usage.customer_id}, from"
        f" {interval.start.isoformat()} to {interval.end.isoformat()}{filters}{excluded}"
    )
