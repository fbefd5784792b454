"""Determines the taxes of a case and writes them as a person would check them.

A case gives, each on its own line: `kind: tax`, remarks that begin with `#`, `seller: <place>` and
any number of `registered: <place> <scheme>`, `buyer: <place> <kind>` with perhaps a `postal code: `
and `tax id: <country> <number>`, `supply: <day>`, perhaps `rounding: <mode>` and
`language: <code>`, and `line: <amount> <currency> [<category>]` for each line.
"""

import re
from datetime import date
from decimal import Decimal

from kit.decimals import plain
from kit.money import Money, Rounding, settle
from services.tax.determination import determine
from services.tax.model import (
    Address,
    Buyer,
    BuyerKind,
    Determination,
    LineTax,
    ProductCategory,
    Registration,
    RegistrationScheme,
    Seller,
    Supply,
    Tax,
    TaxableLine,
    TaxId,
    TaxRounding,
)
from services.tax.tax_ids import check_tax_id
from tests.tax_builders import BOOK, a_registration, a_seller


def answer(given: str) -> str:
    """Determine what is given."""
    supply = Supply(
        buyer=buyer(given),
        lines=tuple(
            line(str(number), *text.split()) for number, text in enumerate(all_of("line", given), 1)
        ),
        day=date.fromisoformat(one_of("supply", given)),
        rounding=TaxRounding(one_of("rounding", given, "PER_RATE")),
        language=one_of("language", given, "en"),
    )
    return written(supply, determine(seller(given), supply, BOOK))


def seller(given: str) -> Seller:
    """Read the seller's seat and other registrations."""
    others = (text.split() for text in all_of("registered", given))
    registrations = (registered(place, scheme) for place, scheme in others)
    return a_seller(one_of("seller", given), *registrations)


def registered(place: str, scheme: str) -> Registration:
    """Read a registration."""
    country, _, region = place.partition("-")
    return a_registration(country, region, RegistrationScheme(scheme))


def buyer(given: str) -> Buyer:
    """Read the buyer and its tax ids."""
    place, kind = one_of("buyer", given).split()
    country, _, region = place.partition("-")
    tax_ids = (text.split(" ", 1) for text in all_of("tax id", given))
    return Buyer(
        BuyerKind(kind),
        Address(country, region, one_of("postal code", given, "")),
        tuple(check_tax_id(TaxId(issuer, number)) for issuer, number in tax_ids),
    )


def line(
    line_id: str, amount: str, currency: str, category: str = "ELECTRONIC_SERVICE"
) -> TaxableLine:
    """Read a line."""
    money = settle(Decimal(amount), currency, Rounding.HALF_UP)
    return TaxableLine(line_id, money, ProductCategory(category))


def all_of(label: str, given: str) -> list[str]:
    """Find every line with a label."""
    return re.findall(rf"^{label}: (.+)$", given, re.MULTILINE)


def one_of(label: str, given: str, default: str | None = None) -> str:
    """Find the line with a label."""
    found = all_of(label, given) or ([] if default is None else [default])
    assert len(found) == 1, f"a case has one `{label}: `"
    return found[0]


def written(supply: Supply, determination: Determination) -> str:
    """Write the taxes of each line, then the totals with everything that explains them."""
    lines = [
        written_line(asked, found)
        for asked, found in zip(supply.lines, determination.lines, strict=True)
    ]
    totals = [written_total(total) for total in determination.totals]
    return "\n".join(["".join(lines), *totals, row("all taxes", figure(determination.tax_total))])


def written_line(asked: TaxableLine, found: LineTax) -> str:
    """Write a line with its taxes below it."""
    taxes = "".join(row(f"  {title(tax)}", figure(tax.tax_amount)) for tax in found.taxes)
    return row(f"line {asked.line_id}", figure(asked.amount)) + taxes


def written_total(tax: Tax) -> str:
    """Write the sum of one tax and why it is owed."""
    ruling = tax.ruling
    explained = (
        ("rule", ruling.rule_id),
        ("reason", ruling.reason),
        ("source", ruling.source),
        ("note", ruling.invoice_note),
    )
    why = "".join(f"  {label}: {text}\n" for label, text in explained if text)
    base = f"{title(tax)} on {figure(tax.taxable_amount)}"
    return row(base, figure(tax.tax_amount)) + why


def title(tax: Tax) -> str:
    """Name a tax: where, what, at which rate or why not."""
    ruling = tax.ruling
    rate = f"{plain(ruling.rate_percent)} %" if ruling.rate_percent else ruling.treatment.value
    return f"{ruling.jurisdiction} {ruling.name} {rate}"


def figure(amount: Money) -> str:
    """Write money with the decimals of its currency."""
    return f"{amount.to_decimal()} {amount.currency}"


def row(left: str, right: str) -> str:
    """Write a row of two columns."""
    return f"{left:<50}{right:>20}\n"
