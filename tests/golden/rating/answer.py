"""Rates the period of a case and writes the lines as a person would check them.

A case gives, each on its own line: `kind: rating`, remarks that begin with `#`, `period: <day> to
<day>`, perhaps `proration: <billed> of <whole> days`, any number of `usage: <meter> <quantity>
[<dimension>=<value> ...]`, and then a plan as a plan file has it.
"""

from __future__ import annotations

import re
from datetime import datetime
from decimal import Decimal
from pathlib import Path

from cli.plan_files import parse_plan_file
from kit.decimals import plain
from kit.interval import Interval
from kit.money import Money
from services.rating.convert.plans import parse_plan
from services.rating.model import (
    FormulaStep,
    GivenUsage,
    PlanVersion,
    Proration,
    RatedLine,
    Rating,
    UsageEntry,
)
from services.rating.pipeline import Terms, rate_period, spans_of
from services.rating.selection import count_given

PERIOD = re.compile(r"^period: (\S+) to (\S+)$", re.MULTILINE)
PRORATION = re.compile(r"^proration: (\d+) of (\d+) days$", re.MULTILINE)
USAGE = re.compile(r"^usage: (\S+) (\S+)(.*)$", re.MULTILINE)
PLAN = re.compile(r"^(?:meters|plan):$.*", re.MULTILINE | re.DOTALL)


def answer(given: str) -> str:
    """Rate what is given."""
    head, plan_file = given[: found(PLAN, given).start()], found(PLAN, given)[0]
    plan = parse_plan(parse_plan_file(plan_file.encode(), Path("case")).plan, "plan")
    period = Interval(*(instant(day) for day in found(PERIOD, head).groups()))
    proration = PRORATION.search(head)
    usage = [given_quantity(*each.groups()) for each in USAGE.finditer(head)]
    terms = Terms(
        "acme",
        period,
        Proration(int(proration[1]), int(proration[2])) if proration else None,
    )
    usages = count_given(plan, usage, spans_of(plan, terms))
    rating = rate_period(PlanVersion(plan, 1, period.start), terms, usages)
    return written(rating)


def found(pattern: re.Pattern[str], text: str) -> re.Match[str]:
    """Find what a case must have."""
    match = pattern.search(text)
    assert match, f"a case has {pattern.pattern}"
    return match


def instant(day: str) -> datetime:
    """Read a day as its first instant in UTC."""
    return datetime.fromisoformat(f"{day}T00:00:00+00:00")


def given_quantity(meter_id: str, quantity: str, dimensions: str) -> GivenUsage:
    """Read a line of usage."""
    pairs = (pair.split("=") for pair in dimensions.split())
    return GivenUsage(meter_id, UsageEntry(Decimal(quantity), dict(pairs)))


def written(rating: Rating) -> str:
    """Write a rating: each line, its steps below it, and the total."""
    parts = [written_line(line) for line in rating.lines]
    return "\n".join([*parts, row("total", money(rating.total))])


def written_line(line: RatedLine) -> str:
    """Write a line with its steps."""
    quantity = f"{plain(line.quantity)} {line.unit}".rstrip()
    steps = [row(f"  {step.description}", calculation(step)) for step in line.steps]
    unrounded = row("  unrounded", plain(line.unrounded_amount))
    return "".join([row(f"{line.description}: {quantity}", money(line.amount)), *steps, unrounded])


def calculation(step: FormulaStep) -> str:
    """Write a step as a person would calculate it."""
    return f"{plain(step.quantity)} x {plain(step.unit_amount)} = {plain(step.amount)}"


def row(left: str, right: str) -> str:
    """Write a row of two columns."""
    return f"{left:<38}  {right}\n"


def money(amount: Money) -> str:
    """Write settled money with the decimals of its currency."""
    return f"{amount.to_decimal()} {amount.currency}"
