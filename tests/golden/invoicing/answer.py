"""Assembles the invoice of a case and writes what stands on its page, as a person would check it.

A case gives, each on its own line: `kind: invoicing`, remarks that begin with `#`, perhaps
`language: <code>`, `currency: <code>` of the invoice, perhaps `rate: <number> <plan currency>`,
perhaps `tax: <percent>`, and lines: `base fee: <amount>` or `line: <description>, <quantity>,
<unit>` followed by its steps, `step: <words> | <quantity> | <unit amount>`.
"""

from __future__ import annotations

import re
from datetime import date
from decimal import Decimal
from typing import Any

from google.type.decimal_pb2 import Decimal as DecimalMessage

from services.invoicing.assembly import settle_lines
from services.invoicing.document import describe_page
from services.invoicing.model import ExchangeRate, Language, RatedLine
from tests.invoicing_builders import (
    a_base_fee,
    a_customer,
    a_determination,
    a_draft,
    a_line,
    a_rating,
    a_step,
    an_issued_invoice,
)

LINE = re.compile(r"^(base fee|line): (.+)((?:\n +step: .+)*)", re.MULTILINE)
STEP = re.compile(r"step: (.+) \| (\S+) \| (\S+)")


def answer(given: str) -> str:
    """Assemble what is given."""
    currency = told(given, "currency")
    rate = told(given, "rate", "")
    number, _, plan_currency = rate.partition(" ")
    lines = [rated_line(each, plan_currency or currency) for each in LINE.finditer(given)]
    rating = a_rating(*lines, currency=plan_currency or currency)
    exchange = (
        ExchangeRate(plan_currency, currency, Decimal(number), date(2026, 1, 30), "ECB")
        if rate
        else None
    )
    amounts = tuple(line.amount for line in settle_lines(rating, currency, exchange))
    draft = a_draft(
        rating,
        customer=a_customer(currency=currency, language=Language(told(given, "language", "en"))),
        rate=exchange,
        determination=a_determination(amounts, rate_percent=told(given, "tax", "0")),
    )
    return written(describe_page(an_issued_invoice(draft), "UTC"))


def told(given: str, name: str, default: str | None = None) -> str:
    """Find what a case says of something."""
    match = re.search(rf"^{name}: (.+)$", given, re.MULTILINE)
    if match is None:
        assert default is not None, f"a case names its {name}"
        return default
    return match[1]


def rated_line(line: re.Match[str], currency: str) -> RatedLine:
    """Make a line out of what is given."""
    kind, text, steps = line.groups()
    if kind == "base fee":
        return a_base_fee(text, currency)
    description, quantity, unit = text.split(", ")
    return a_line(
        *(a_step(*each.groups()) for each in STEP.finditer(steps)),
        currency=currency,
        description=description,
        quantity=DecimalMessage(value=quantity),
        unit=unit,
    )


def written(page: Any) -> str:  # noqa: ANN401 - as JSON is.
    """Write the table, the totals and the notes of a page."""
    rows = [aligned(page["columns"])]
    for line in page["lines"]:
        rows.append(aligned(cells(line, line["amount"])))
        rows.extend(
            aligned(cells({**step, "description": f"  {step['description']}"}, ""))
            for step in line["steps"]
        )
    rows.append("")
    rows.extend(f"{label:<80} {amount:>18}" for label, amount in [*page["totals"], page["total"]])
    rows.extend(["", *page["notes"]] if page["notes"] else [])
    text = "\n".join(row.rstrip() for row in rows) + "\n"
    return text.replace("\u00a0", " ").replace("\u202f", " ")


def cells(row: dict[str, str], amount: str) -> list[str]:
    """Put the cells of a row in order."""
    return [
        row["description"],
        row["quantity"],
        row["unit_amount"],
        row["calculation"],
        amount,
    ]


def aligned(row: list[str]) -> str:
    """Write a row in columns."""
    first, *others = row
    return f"{first:<38} {others[0]:>20} {others[1]:>20} {others[2]:>20} {others[3]:>18}"
