"""Sellers, buyers and supplies with defaults, so that a test shows only what matters to it."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date

from kit.money import Money
from services.tax.determination import determine
from services.tax.model import (
    Address,
    Buyer,
    BuyerKind,
    DateRange,
    Determination,
    PriceKind,
    ProductCategory,
    Registration,
    RegistrationScheme,
    Seller,
    Supply,
    TaxableLine,
    TaxId,
    TaxRounding,
)
from services.tax.rulebook_files import load_rulebook
from services.tax.tax_ids import check_tax_id

BOOK = load_rulebook()
BEFORE_ALL = date(2015, 1, 1)
TODAY = date(2026, 10, 31)


def a_registration(
    country: str = "US",
    region: str = "",
    scheme: RegistrationScheme = RegistrationScheme.DOMESTIC,
    *,
    registration_id: str = "",
    number: str = "",
    established: bool = False,
    start: date = BEFORE_ALL,
    end: date | None = None,
) -> Registration:
    """Make a registration whose id and number, if not given, say where it is."""
    place = f"{country}-{region}" if region else country
    return Registration(
        registration_id=registration_id or f"{place}-{scheme}".lower(),
        country=country,
        region=region,
        scheme=scheme,
        number=number or f"{place} {scheme}",
        established=established,
        valid=DateRange(start, end),
    )


def a_seller(home: str, *others: Registration, scheme: RegistrationScheme | None = None) -> Seller:
    """Make a seller established in a country or region, such as `DE` or `US-CA`."""
    country, _, region = home.partition("-")
    seat = a_registration(country, region, scheme or RegistrationScheme.DOMESTIC, established=True)
    return Seller((seat, *others))


NON_UNION_OSS = a_registration("IE", scheme=RegistrationScheme.NON_UNION_OSS)
CALIFORNIAN = a_seller("US-CA", NON_UNION_OSS)
"""The demo's seller: a company of California that sells to consumers in the EU by the OSS."""


def a_buyer(place: str, *tax_ids: str, business: bool = False, postal_code: str = "") -> Buyer:
    """Make a buyer in a country or region; a tax id begins with the country that gave it."""
    country, _, region = place.partition("-")
    return Buyer(
        BuyerKind.BUSINESS if business or tax_ids else BuyerKind.CONSUMER,
        Address(country, region, postal_code),
        tuple(check_tax_id(TaxId(tax_id[:2], tax_id)) for tax_id in tax_ids),
    )


def lines_of(
    *minor_units: int,
    currency: str = "EUR",
    category: ProductCategory = ProductCategory.ELECTRONIC_SERVICE,
) -> tuple[TaxableLine, ...]:
    """Make lines of these amounts, numbered from 1."""
    return tuple(
        TaxableLine(str(number), Money(currency, units), category)
        for number, units in enumerate(minor_units, 1)
    )


def determined(
    buyer: Buyer,
    seller: Seller = CALIFORNIAN,
    lines: Iterable[TaxableLine] = lines_of(10_000),
    *,
    day: date = TODAY,
    rounding: TaxRounding = TaxRounding.PER_RATE,
    language: str = "en",
    prices: PriceKind = PriceKind.TAX_EXCLUSIVE,
) -> Determination:
    """Determine the taxes of lines, by default of one over 100.00 euro, by the real tables."""
    return determine(seller, Supply(buyer, tuple(lines), day, rounding, language, prices), BOOK)


@dataclass(frozen=True, slots=True)
class Case:
    """A supply of 100.00, and each tax on it as `jurisdiction name rate treatment rule = tax`.

    `law` is where the expected figure comes from.
    """

    id: str
    law: str
    buyer: Buyer
    expected: tuple[str, ...]
    seller: Seller = CALIFORNIAN
    day: date = TODAY
    category: ProductCategory = ProductCategory.ELECTRONIC_SERVICE


def ruled(case: Case) -> tuple[str, ...]:
    """Determine a case and write each tax on its line."""
    lines = lines_of(10_000, category=case.category)
    found = determined(case.buyer, case.seller, lines, day=case.day)
    return tuple(
        f"{tax.ruling.jurisdiction} {tax.ruling.name} {tax.ruling.rate_percent}"
        f" {tax.ruling.treatment} {tax.ruling.rule_id} = {tax.tax_amount.to_decimal()}"
        for tax in found.lines[0].taxes
    )
