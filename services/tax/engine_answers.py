"""What a tax engine outside answers, made into a determination like the tables' own.

Amounts are the engine's; reasons and wording are ours and name the engine. It refuses an answer
whose amounts do not add up, or that leaves a line without a tax entry.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import Decimal

from kit.errors import InvalidInput
from kit.money import Money
from services.tax.model import (
    Determination,
    LineTax,
    PriceKind,
    Ruling,
    Supply,
    Tax,
    Treatment,
)
from services.tax.rulebook import Regime, Rulebook

INTERNAL = "internal"
_Key = tuple[str, str, Decimal, Treatment]


@dataclass(frozen=True, slots=True)
class EngineTax:
    """One tax on one line as the engine found it; `finding` is its own word for why."""

    jurisdiction: str
    name: str
    treatment: Treatment
    rate_percent: Decimal
    taxable_amount: Money
    tax_amount: Money
    finding: str
    calculation: str


@dataclass(frozen=True, slots=True)
class EngineLine:
    """The taxes of one line, and their sum as the engine gives it."""

    line_id: str
    taxes: tuple[EngineTax, ...]
    tax_amount: Money


def adopt(
    supply: Supply, lines: Sequence[EngineLine], book: Rulebook, engine: str
) -> Determination:
    """Make a determination of an engine's answer.

    Raises:
        InvalidInput: the answer does not fit the supply, or does not add up.
    """
    zero = Money.zero(supply.lines[0].amount.currency)
    by_line = []
    totals: defaultdict[_Key, list[Tax]] = defaultdict(list)
    for asked, answered in zip(supply.lines, lines, strict=True):
        taxes = tuple(_tax(each, supply, book, engine) for each in answered.taxes)
        charged = sum((tax.tax_amount for tax in taxes), zero)
        if not taxes or charged != answered.tax_amount:
            raise InvalidInput.of(f"lines.{asked.line_id}", "has taxes that do not add up")
        is_inclusive = supply.prices is PriceKind.TAX_INCLUSIVE
        net = asked.amount - charged if is_inclusive else asked.amount
        by_line.append(LineTax(asked.line_id, taxes, net))
        for tax in taxes:
            ruling = tax.ruling
            key = ruling.jurisdiction, ruling.name, ruling.rate_percent, ruling.treatment
            totals[key].append(tax)
    summed = tuple(
        Tax(
            taxes[0].ruling,
            sum((tax.taxable_amount for tax in taxes), zero),
            sum((tax.tax_amount for tax in taxes), zero),
        )
        for taxes in totals.values()
    )
    return Determination(
        lines=tuple(by_line),
        totals=summed,
        tax_total=sum((tax.tax_amount for tax in summed), zero),
        net_total=sum((line.net_amount for line in by_line), zero),
        evidence=supply.buyer.evidence,
    )


def _tax(found: EngineTax, supply: Supply, book: Rulebook, engine: str) -> Tax:
    country = found.jurisdiction[:2]
    ruling = Ruling(
        jurisdiction=found.jurisdiction,
        name=found.name,
        treatment=found.treatment,
        rule_id=f"engine.{found.finding}",
        reason=f"{engine} finds {found.finding.replace('_', ' ')} in {found.jurisdiction}.",
        source=f"{engine}, calculation {found.calculation}",
        rate_percent=found.rate_percent,
        explanation=book.explain("", found.treatment, supply.language, found.name),
        declared_in=country,
    )
    if found.treatment is Treatment.REVERSE_CHARGE:
        rows = book.countries.get(country, ())
        in_union = any(row.regime is Regime.EU_VAT and supply.day in row.valid for row in rows)
        key = "reverse_charge.eu" if in_union else "reverse_charge.other"
        note = book.note(key, supply.language, found.name)
        ruling = replace(ruling, invoice_note=note)
    return Tax(ruling, found.taxable_amount, found.tax_amount)
