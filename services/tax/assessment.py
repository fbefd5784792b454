"""Turns rulings into amounts: taxable amounts, taxes, and totals that add up to the unit.

Rounding is half up, once for each jurisdiction, tax, rate and treatment, or on each line. A sum
is split over its lines by largest remainder: each line gets its exact share rounded down, and
the units left go to the largest remainders, at a tie to the line that comes first. So a line
without a credit never bears a negative tax, and a credit never a positive one.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import reduce
from itertools import islice

from kit.errors import InvalidInput
from kit.money import Money, Rounding, settle
from services.tax.model import (
    HUNDRED,
    LineTax,
    ProductCategory,
    Ruling,
    Tax,
    TaxableLine,
    TaxRounding,
    Treatment,
)

AMOUNT_DIGITS_MAX = 18

_GroupKey = tuple[str, str, Decimal, Treatment]


@dataclass(slots=True)
class _Group:
    """The entries of one jurisdiction, tax, rate and treatment, by index of their lines."""

    ruling: Ruling
    members: list[tuple[int, Ruling]]


def assess(
    lines: Sequence[TaxableLine],
    rulings: Mapping[ProductCategory, tuple[Ruling, ...]],
    rounding: TaxRounding,
) -> tuple[tuple[LineTax, ...], tuple[Tax, ...], Money]:
    """Answer the taxes of each line, their totals, and the sum of all taxes.

    Raises:
        InvalidInput: the sum of the lines or of the taxes has over 18 digits.
    """
    currency = lines[0].amount.currency
    _sum("lines", currency, (line.amount for line in lines))
    taxes_by_line: list[list[Tax]] = [[] for _ in lines]
    totals: list[Tax] = []
    for group in _groups(lines, rulings):
        taxes = _assess_group(group, lines, rounding)
        for (index, _), tax in zip(group.members, taxes, strict=True):
            taxes_by_line[index].append(tax)
        taxable = _sum("lines", currency, (tax.taxable_amount for tax in taxes))
        amount = _sum("lines", currency, (tax.tax_amount for tax in taxes))
        totals.append(Tax(group.ruling, taxable, amount))
    tax_total = _sum("lines", currency, (tax.tax_amount for tax in totals))
    by_line = tuple(
        LineTax(line.line_id, tuple(taxes))
        for line, taxes in zip(lines, taxes_by_line, strict=True)
    )
    in_lines = sum(tax.tax_amount.minor_units for line in by_line for tax in line.taxes)
    assert in_lines == tax_total.minor_units, "the taxes of the lines sum to the total"
    return by_line, tuple(totals), tax_total


def _groups(
    lines: Sequence[TaxableLine], rulings: Mapping[ProductCategory, tuple[Ruling, ...]]
) -> Iterable[_Group]:
    groups: dict[_GroupKey, _Group] = {}
    for index, line in enumerate(lines):
        for ruling in rulings[line.category]:
            key = (ruling.jurisdiction, ruling.name, ruling.rate_percent, ruling.treatment)
            groups.setdefault(key, _Group(ruling, [])).members.append((index, ruling))
    return groups.values()


def _assess_group(
    group: _Group, lines: Sequence[TaxableLine], rounding: TaxRounding
) -> tuple[Tax, ...]:
    amounts = [lines[index].amount for index, _ in group.members]
    shares = [ruling.taxable_percent for _, ruling in group.members]
    taxable = _percentages(amounts, shares, rounding)
    taxes = _percentages(taxable, [group.ruling.rate_percent] * len(amounts), rounding)
    return tuple(
        Tax(ruling, base, tax)
        for (_, ruling), base, tax in zip(group.members, taxable, taxes, strict=True)
    )


def _percentages(
    amounts: Sequence[Money], percents: Sequence[Decimal], rounding: TaxRounding
) -> Sequence[Money]:
    """Take a percentage of each amount; all of it, and nothing of it, need no rounding."""
    if all(percent == HUNDRED for percent in percents):
        return amounts
    currency = amounts[0].currency
    if not any(percents):
        return [Money.zero(currency)] * len(amounts)
    exact = [
        amount.to_decimal() * percent / HUNDRED
        for amount, percent in zip(amounts, percents, strict=True)
    ]
    return _settle_all(exact, currency, rounding)


def _settle_all(
    exact: Sequence[Decimal], currency: str, rounding: TaxRounding
) -> tuple[Money, ...]:
    """Round each amount by itself, or their sum once and split that by largest remainder."""
    if rounding is TaxRounding.PER_LINE:
        return tuple(settle(amount, currency, Rounding.HALF_UP) for amount in exact)
    total = settle(sum(exact, Decimal(0)), currency, Rounding.HALF_UP)
    floors = [settle(amount, currency, Rounding.FLOOR) for amount in exact]
    units = [floor.minor_units for floor in floors]
    remainders = [amount - floor.to_decimal() for amount, floor in zip(exact, floors, strict=True)]
    left = total.minor_units - sum(units)
    assert 0 <= left <= len(units), "a rounded sum lies between its parts rounded down and up"
    largest_first = sorted(range(len(units)), key=lambda index: -remainders[index])
    for index in islice(largest_first, left):
        units[index] += 1
    return tuple(Money(currency, unit) for unit in units)


def _sum(field: str, currency: str, amounts: Iterable[Money]) -> Money:
    units = reduce(lambda total, amount: total + amount.minor_units, amounts, 0)
    if abs(units) >= 10**AMOUNT_DIGITS_MAX:
        raise InvalidInput.of(field, f"must sum to at most {AMOUNT_DIGITS_MAX} digits")
    return Money(currency, units)
