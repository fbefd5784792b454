"""Laws that every determination and conversion obeys, for any invoice.

The independent model computes with `fractions.Fraction`, so it shares neither the arithmetic nor
the code of the service.
"""

from datetime import date, timedelta
from decimal import Decimal
from fractions import Fraction

from hypothesis import given, settings
from hypothesis import strategies as st

from kit.errors import DomainError
from kit.money import Money, Rounding, minor_digits
from services.tax.determination import determine
from services.tax.exchange import PublishedRate, convert, exchange_rate, legs
from services.tax.model import (
    Address,
    Buyer,
    BuyerKind,
    Determination,
    ProductCategory,
    RegistrationScheme,
    Seller,
    Supply,
    Tax,
    TaxableLine,
    TaxId,
    TaxRounding,
    Treatment,
)
from services.tax.tax_ids import check_tax_id
from tests.tax_builders import BOOK, CALIFORNIAN, a_buyer, a_registration, a_seller, lines_of

HALF = Fraction(1, 2)
CURRENCIES = ("EUR", "JPY", "KWD")
"""Currencies with 2, 0 and 3 decimals."""

FULLY_REGISTERED = a_seller(
    "US-NV",
    a_registration("IE", scheme=RegistrationScheme.NON_UNION_OSS),
    a_registration("CA"),
    a_registration("CA", "QC"),
    a_registration("US", "TX"),
    a_registration("US", "NM"),
    a_registration("CH"),
    a_registration("IN"),
)
TAXED_PLACES = ("FR", "FI", "HU", "CA-QC", "CA-ON", "US-TX", "US-NM", "CH", "IN")

amounts = st.one_of(st.integers(0, 300), st.integers(0, 10**9), st.integers(0, 10**14))
signed = st.one_of(amounts, amounts.map(lambda units: -units))
invoices = st.lists(signed, min_size=1, max_size=12)
places = st.sampled_from(TAXED_PLACES)
currencies = st.sampled_from(CURRENCIES)


def taxed(
    place: str, units: list[int], currency: str, rounding: TaxRounding = TaxRounding.PER_RATE
) -> Determination:
    """Determine the taxes of lines for a consumer."""
    supply = Supply(
        a_buyer(place), lines_of(*units, currency=currency), date(2026, 10, 31), rounding
    )
    return determine(FULLY_REGISTERED, supply, BOOK)


def tax_units(found: Determination) -> list[list[int]]:
    """Answer the taxes of each line in minor units."""
    return [[tax.tax_amount.minor_units for tax in line.taxes] for line in found.lines]


def exact_tax(base: int, tax: Tax) -> Fraction:
    """Compute the tax on a base, in minor units."""
    return Fraction(base) * Fraction(tax.ruling.rate_percent) / 100


def half_up(value: Fraction) -> int:
    """Round to the nearest whole number, ties away from zero."""
    sign = -1 if value < 0 else 1
    return sign * int(abs(value) + HALF)


@given(places, invoices, currencies, st.sampled_from(TaxRounding))
def test_lines_taxes_and_totals_add_up_exactly(
    place: str, units: list[int], currency: str, rounding: TaxRounding
) -> None:
    """The taxes of the lines sum to the totals of each rate, and these to the total."""
    found = taxed(place, units, currency, rounding)

    by_line = tax_units(found)
    assert [sum(column) for column in zip(*by_line, strict=True)] == [
        total.tax_amount.minor_units for total in found.totals
    ]
    assert sum(map(sum, by_line)) == found.tax_total.minor_units
    for index, total in enumerate(found.totals):
        bases = [line.taxes[index].taxable_amount.minor_units for line in found.lines]
        assert sum(bases) == total.taxable_amount.minor_units


@given(places, invoices, currencies)
def test_each_total_is_the_exact_tax_rounded_once(
    place: str, units: list[int], currency: str
) -> None:
    """Per rate: the rate on the sum of the taxable amounts, half up."""
    found = taxed(place, units, currency)

    assert [total.tax_amount.minor_units for total in found.totals] == [
        half_up(exact_tax(total.taxable_amount.minor_units, total)) for total in found.totals
    ]


@given(places, invoices, currencies)
def test_each_line_rounded_apart_is_its_exact_tax_rounded(
    place: str, units: list[int], currency: str
) -> None:
    """Per line: the rate on the line's own taxable amount, half up."""
    found = taxed(place, units, currency, TaxRounding.PER_LINE)
    taxes = [tax for line in found.lines for tax in line.taxes]

    assert [tax.tax_amount.minor_units for tax in taxes] == [
        half_up(exact_tax(tax.taxable_amount.minor_units, tax)) for tax in taxes
    ]


@given(places, invoices, currencies)
def test_splitting_moves_no_line_by_a_whole_unit(
    place: str, units: list[int], currency: str
) -> None:
    """Each line bears its exact tax to within a unit, so no charge bears a negative tax."""
    found = taxed(place, units, currency)

    for tax in (tax for line in found.lines for tax in line.taxes):
        exact = exact_tax(tax.taxable_amount.minor_units, tax)
        assert abs(tax.tax_amount.minor_units - exact) < 1
        assert tax.tax_amount.minor_units * tax.taxable_amount.minor_units >= 0


@given(places, invoices, currencies, st.sampled_from(TaxRounding))
def test_a_credit_for_everything_takes_all_tax_back(
    place: str, units: list[int], currency: str, rounding: TaxRounding
) -> None:
    """The opposite invoice has the opposite total."""
    charged = taxed(place, units, currency, rounding)
    credited = taxed(place, [-each for each in units], currency, rounding)

    assert credited.tax_total == -charged.tax_total


ADDRESSES = st.builds(
    Address,
    st.sampled_from(["DE", "FR", "ES", "PT", "GB", "CH", "JP", "IN", "US", "CA", "BR", "SJ", "MC"]),
    st.sampled_from(["", "CA", "NY", "TX", "ON", "QC", "KA", "TF", "20"]),
    st.sampled_from(["", "35001", "78266", "9500-119", "10115"]),
)
TAX_IDS = st.sampled_from(
    [
        (),
        (check_tax_id(TaxId("DE", "DE136695976")),),
        (check_tax_id(TaxId("FR", "FR40303265045")),),
        (check_tax_id(TaxId("GB", "GB980780684")),),
        (check_tax_id(TaxId("DE", "DE136695970")),),
    ]
)
SELLERS = st.sampled_from([CALIFORNIAN, FULLY_REGISTERED, a_seller("DE"), a_seller("IN-KA")])
DAYS = st.dates(date(2018, 6, 1), date(2027, 6, 30))


def attempted(seller: Seller, supply: Supply) -> Determination | DomainError:
    """Determine the taxes, and answer an error of the domain as it is."""
    try:
        return determine(seller, supply, BOOK)
    except DomainError as error:
        return error


def unexplained(outcome: Determination | DomainError) -> list[object]:
    """Answer what an outcome leaves unsaid: an error what is missing, a ruling why it is so."""
    if isinstance(outcome, DomainError):
        explained = outcome.reason == "TAX_UNDETERMINED" and outcome.metadata["missing"]
        return [] if explained else [outcome]
    rulings = [tax.ruling for tax in outcome.lines[0].taxes]
    return [
        ruling
        for ruling in rulings
        if not (ruling.rule_id and ruling.reason and ruling.source)
        or (ruling.rate_percent > 0) != (ruling.treatment is Treatment.TAXED)
    ] + ([] if rulings else [outcome])


@given(
    SELLERS,
    st.builds(Buyer, st.sampled_from(BuyerKind), ADDRESSES, TAX_IDS),
    st.sampled_from(ProductCategory),
    DAYS,
)
@settings(max_examples=400)
def test_every_case_is_determined_or_is_a_clear_error(
    seller: Seller, buyer: Buyer, category: ProductCategory, day: date
) -> None:
    """Nothing else is raised; what is not taxed has a rule, a reason and a source that say why."""
    line = TaxableLine("1", Money("EUR", 10_000), category)

    outcome = attempted(seller, Supply(buyer, (line,), day))

    assert unexplained(outcome) == []


rates = st.decimals(Decimal("0.0001"), Decimal(30_000), places=4)
# At the widest cross rate of these, 3 * 10^8, still within a 64-bit integer of minor units.
MODERATE = st.integers(-(10**7), 10**7)
pairs = st.tuples(
    st.sampled_from(["EUR", "USD", "JPY", "KWD"]), st.sampled_from(["EUR", "USD", "JPY", "KWD"])
)


def published(rates_by_currency: dict[str, Decimal], *currencies: str) -> list[PublishedRate]:
    """Publish the rates of some currencies on one day."""
    day = date(2026, 10, 30)
    return [PublishedRate("ECB", code, day, rates_by_currency[code]) for code in currencies]


@given(pairs, rates, rates, rates, MODERATE, st.sampled_from(Rounding))
def test_a_conversion_is_within_a_unit_of_exact_arithmetic(  # noqa: PLR0917 - one for each draw.
    pair: tuple[str, str],
    dollar: Decimal,
    yen: Decimal,
    dinar: Decimal,
    units: int,
    rounding: Rounding,
) -> None:
    """Half a minor unit to the nearest, one otherwise, and the error of 15 digits of the rate."""
    base, quote = pair
    by_currency = {"EUR": Decimal(1), "USD": dollar, "JPY": yen, "KWD": dinar}
    amount = Money(base, units).to_decimal()
    newest = published(by_currency, *legs(base, quote))
    rate = exchange_rate(base, quote, date(2026, 10, 30) + timedelta(2), newest, {})

    _, money = convert(amount, rate, rounding)

    true_rate = Fraction(by_currency[quote]) / Fraction(by_currency[base])
    exact = Fraction(amount) * true_rate * 10 ** minor_digits(quote)
    nearest = rounding in {Rounding.HALF_UP, Rounding.HALF_EVEN}
    tolerance = (HALF if nearest else 1) + abs(exact) * Fraction(5, 10**15)
    assert abs(money.minor_units - exact) <= tolerance


@given(pairs, rates, rates, rates, MODERATE)
def test_unrounded_there_and_back_is_where_it_began(
    pair: tuple[str, str], dollar: Decimal, yen: Decimal, dinar: Decimal, units: int
) -> None:
    """The exact result, converted back, stays within half a minor unit, and settles to the same."""
    base, quote = pair
    by_currency = {"EUR": Decimal(1), "USD": dollar, "JPY": yen, "KWD": dinar}
    newest = published(by_currency, *legs(base, quote))
    day = date(2026, 10, 30)
    amount = Money(base, units)

    there, _ = convert(
        amount.to_decimal(), exchange_rate(base, quote, day, newest, {}), Rounding.HALF_EVEN
    )
    back, settled = convert(there, exchange_rate(quote, base, day, newest, {}), Rounding.HALF_EVEN)

    exact_units = Fraction(back) * 10 ** minor_digits(base)
    assert abs(exact_units - units) < HALF
    assert settled == amount


@given(rates, st.integers(-(10**9), 10**9))
def test_there_and_back_is_within_what_rounding_there_lost(rate: Decimal, units: int) -> None:
    """A unit lost there is worth its rate back here, and half a unit more is lost here."""
    newest = published({"USD": rate}, "USD")
    day = date(2026, 10, 30)
    there = exchange_rate("EUR", "USD", day, newest, {})
    back = exchange_rate("USD", "EUR", day, newest, {})

    _, dollars = convert(Money("EUR", units).to_decimal(), there, Rounding.HALF_EVEN)
    _, euros = convert(dollars.to_decimal(), back, Rounding.HALF_EVEN)

    lost = HALF / Fraction(rate) + HALF + Fraction(1, 10**3)
    assert abs(euros.minor_units - units) <= lost
