"""Turns rulings into amounts: taxable amounts, taxes, and totals that add up to the unit.

Rounding is half up, once for each jurisdiction, tax, rate and treatment, or on each line. A sum
is split over its lines by largest remainder: each line gets its exact share rounded down, and
the units left go to the largest remainders, at a tie to the line that comes first. So a line
without a credit never bears a negative tax, and a credit never a positive one.

Where prices include tax, the lines that bear the same taxes are added, and each tax is taken out
of the sum by amount x rate / (100 + all rates) and rounded once. All taxes together are then split
over the lines as above, and each line's part over the taxes, so that no line is left with less
than nothing; what is left of a line is its net amount.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_05UP, Context, Decimal, DivisionByZero, InvalidOperation
from functools import lru_cache, reduce
from itertools import islice
from math import lcm

from kit.errors import InvalidInput
from kit.money import Money, Rounding, minor_digits, settle
from services.tax.model import (
    HUNDRED,
    ZERO,
    LineTax,
    PriceKind,
    ProductCategory,
    Ruling,
    Tax,
    TaxableLine,
    TaxRounding,
    Treatment,
)

AMOUNT_DIGITS_MAX = 18
# Of a quotient that does not end, 60 digits are kept, and never a last one of 0 or 5, so that
# settling it gives what the true quotient gives.
_QUOTIENT = Context(prec=60, rounding=ROUND_05UP, traps=[DivisionByZero, InvalidOperation])

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
    prices: PriceKind = PriceKind.TAX_EXCLUSIVE,
) -> tuple[tuple[LineTax, ...], tuple[Tax, ...]]:
    """Answer the taxes of each line, and their totals.

    Raises:
        InvalidInput: the sum of the lines or of the taxes has over 18 digits.
    """
    currency = lines[0].amount.currency
    _sum("lines", currency, (line.amount for line in lines))
    if prices is PriceKind.TAX_EXCLUSIVE:
        nets: Sequence[Money] = [line.amount for line in lines]
        taxes_by_line, totals = _add_taxes(lines, nets, rulings, rounding)
    else:
        nets, taxes_by_line, totals = _take_taxes_out(lines, rulings, rounding)
    paid = [*nets, *(tax.tax_amount for tax in totals)]
    _sum("lines", currency, paid)
    by_line = tuple(
        LineTax(line.line_id, tuple(taxes), net)
        for line, taxes, net in zip(lines, taxes_by_line, nets, strict=True)
    )
    in_lines = sum(tax.tax_amount.minor_units for line in by_line for tax in line.taxes)
    in_totals = sum(tax.tax_amount.minor_units for tax in totals)
    assert in_lines == in_totals, "the taxes of the lines sum to the totals"
    return by_line, tuple(totals)


def _add_taxes(
    lines: Sequence[TaxableLine],
    nets: Sequence[Money],
    rulings: Mapping[ProductCategory, tuple[Ruling, ...]],
    rounding: TaxRounding,
) -> tuple[list[list[Tax]], list[Tax]]:
    currency = lines[0].amount.currency
    taxes_by_line: list[list[Tax]] = [[] for _ in lines]
    totals: list[Tax] = []
    for group in _groups(lines, rulings):
        amounts = [nets[index] for index, _ in group.members]
        taxable = _percentages(
            amounts, [ruling.taxable_percent for _, ruling in group.members], rounding
        )
        taxes = _percentages(taxable, [group.ruling.rate_percent] * len(amounts), rounding)
        for (index, ruling), base, tax in zip(group.members, taxable, taxes, strict=True):
            taxes_by_line[index].append(Tax(ruling, base, tax))
        totals.append(Tax(group.ruling, _total(currency, taxable), _total(currency, taxes)))
    return taxes_by_line, totals


def _take_taxes_out(
    lines: Sequence[TaxableLine],
    rulings: Mapping[ProductCategory, tuple[Ruling, ...]],
    rounding: TaxRounding,
) -> tuple[list[Money], list[list[Tax]], list[Tax]]:
    currency = lines[0].amount.currency
    nets = [line.amount for line in lines]
    amounts: dict[tuple[int, int], Money] = {}
    for category, taxes in rulings.items():
        members = [index for index, line in enumerate(lines) if line.category is category]
        shares = [ruling.rate_percent * ruling.taxable_percent for ruling in taxes]
        whole = HUNDRED * HUNDRED + sum(shares, ZERO)
        gross = [lines[index].amount for index in members]
        for position, column in enumerate(_take_out(gross, shares, whole, rounding)):
            for index, units in zip(members, column, strict=True):
                amounts[index, position] = Money(currency, units)
                nets[index] -= amounts[index, position]
    taxes_by_line: list[list[Tax]] = [[] for _ in lines]
    totals: list[Tax] = []
    for group in _groups(lines, rulings):
        taxable = _percentages(
            [nets[index] for index, _ in group.members],
            [ruling.taxable_percent for _, ruling in group.members],
            rounding,
        )
        charged = []
        for (index, ruling), base in zip(group.members, taxable, strict=True):
            amount = amounts[index, rulings[lines[index].category].index(ruling)]
            taxes_by_line[index].append(Tax(ruling, base, amount))
            charged.append(amount)
        totals.append(Tax(group.ruling, _total(currency, taxable), _total(currency, charged)))
    return nets, taxes_by_line, totals


def _groups(
    lines: Sequence[TaxableLine], rulings: Mapping[ProductCategory, tuple[Ruling, ...]]
) -> Iterable[_Group]:
    groups: dict[_GroupKey, _Group] = {}
    for index, line in enumerate(lines):
        for ruling in rulings[line.category]:
            key = (ruling.jurisdiction, ruling.name, ruling.rate_percent, ruling.treatment)
            groups.setdefault(key, _Group(ruling, [])).members.append((index, ruling))
    return groups.values()


def _percentages(
    amounts: Sequence[Money], percents: Sequence[Decimal], rounding: TaxRounding
) -> Sequence[Money]:
    """Take a percentage of each amount; all of it, and nothing of it, need no rounding."""
    if all(percent == HUNDRED for percent in percents):
        return amounts
    currency = amounts[0].currency
    if not any(percents):
        return [Money.zero(currency)] * len(amounts)
    weights, whole = _whole_numbers([*percents, HUNDRED])
    numerators = [
        amount.minor_units * weight for amount, weight in zip(amounts, weights, strict=False)
    ]
    units = _divide_all(numerators, whole, currency, rounding)
    return [Money(currency, each) for each in units]


def _take_out(
    gross: Sequence[Money], shares: Sequence[Decimal], whole: Decimal, rounding: TaxRounding
) -> list[list[int]]:
    """Take each share out of each amount; answer the minor units, a list for each share."""
    currency = gross[0].currency
    units = [amount.minor_units for amount in gross]
    weights, denominator = _whole_numbers([*shares, whole])
    if rounding is TaxRounding.PER_LINE:
        return [
            _divide_all([each * weight for each in units], denominator, currency, rounding)
            for weight in weights[:-1]
        ]
    totals = [_divide(sum(units) * weight, denominator, currency) for weight in weights[:-1]]
    together = [each * sum(weights[:-1]) for each in units]
    left = _apportion(sum(totals), together, denominator, units)
    columns = []
    for weight, total in zip(weights[:-2], totals[:-1], strict=True):
        column = _apportion(total, [each * weight for each in units], denominator, left)
        left = [units_left - taken for units_left, taken in zip(left, column, strict=True)]
        columns.append(column)
    return [*columns, left]


def _apportion(
    total: int, numerators: Sequence[int], denominator: int, limits: Sequence[int]
) -> list[int]:
    """Split units by largest remainder; no line gets more than its limit, or of the other sign."""
    bounds = [(min(limit, 0), max(limit, 0)) for limit in limits]
    units = [
        min(max(numerator // denominator, low), high)
        for numerator, (low, high) in zip(numerators, bounds, strict=True)
    ]
    by_remainder: list[int] = []
    while (left := total - sum(units)) != 0:
        by_remainder = by_remainder or sorted(
            range(len(units)),
            key=lambda index: units[index] * denominator - numerators[index],
        )
        step = 1 if left > 0 else -1
        order = by_remainder if left > 0 else by_remainder[::-1]
        open_to = [i for i in order if bounds[i][0] <= units[i] + step <= bounds[i][1]]
        if not open_to:
            break
        for index in open_to[: abs(left)]:
            units[index] += step
    return units


def _divide_all(
    numerators: Sequence[int], denominator: int, currency: str, rounding: TaxRounding
) -> list[int]:
    """Round each quotient by itself, or their sum once and split that by largest remainder."""
    if rounding is TaxRounding.PER_LINE:
        return [_divide(numerator, denominator, currency) for numerator in numerators]
    total = _divide(sum(numerators), denominator, currency)
    divided = [divmod(numerator, denominator) for numerator in numerators]
    units = [quotient for quotient, _ in divided]
    left = total - sum(units)
    assert 0 <= left <= len(units), "a rounded sum lies between its parts rounded down and up"
    largest_first = sorted(range(len(units)), key=lambda index: -divided[index][1])
    for index in islice(largest_first, left):
        units[index] += 1
    return units


def _divide(numerator: int, denominator: int, currency: str) -> int:
    """Divide minor units, and round the quotient half up."""
    exact = _QUOTIENT.divide(Decimal(numerator), Decimal(denominator))
    amount = exact.scaleb(-minor_digits(currency), context=_QUOTIENT)
    return settle(amount, currency, Rounding.HALF_UP).minor_units


@lru_cache(maxsize=1024)
def _ratio(percent: Decimal) -> tuple[int, int]:
    return percent.as_integer_ratio()


def _whole_numbers(values: Sequence[Decimal]) -> tuple[list[int], int]:
    """Scale numbers to whole ones in the same proportion; answer them, and the last of them."""
    ratios = [_ratio(value) for value in values]
    scale = lcm(*(denominator for _, denominator in ratios))
    scaled = [numerator * (scale // denominator) for numerator, denominator in ratios]
    return scaled, scaled[-1]


def _total(currency: str, amounts: Iterable[Money]) -> Money:
    return _sum("lines", currency, amounts)


def _sum(field: str, currency: str, amounts: Iterable[Money]) -> Money:
    units = reduce(lambda total, amount: total + amount.minor_units, amounts, 0)
    if abs(units) >= 10**AMOUNT_DIGITS_MAX:
        raise InvalidInput.of(field, f"must sum to at most {AMOUNT_DIGITS_MAX} digits")
    return Money(currency, units)
