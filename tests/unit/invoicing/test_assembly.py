"""Lines, rates and taxes become an invoice whose totals are proven."""

from dataclasses import replace
from datetime import UTC, date, datetime
from decimal import Decimal

import pytest

from kit.errors import Precondition
from kit.money import Money
from services.invoicing.assembly import (
    as_issued,
    check_currency,
    finalize,
    prove_totals,
    series_of,
    settle_lines,
    void,
)
from services.invoicing.model import (
    CurrencyConversion,
    InvoiceState,
    InvoiceSummary,
    ProductCategory,
    TaxableLine,
    summarize,
)
from tests.invoicing_builders import (
    CLOSED,
    JANUARY,
    a_base_fee,
    a_customer,
    a_determination,
    a_draft,
    a_line,
    a_rate,
    a_rating,
    a_seller,
    a_step,
    an_issued_invoice,
)
from tollkeeper.api.rating.v1 import plan_pb2

ELECTRONIC = ProductCategory(plan_pb2.PRODUCT_CATEGORY_ELECTRONIC_SERVICE)


def euro(minor_units: int) -> Money:
    """Make an amount in cents."""
    return Money("EUR", minor_units)


def test_an_invoice_adds_up_lines_and_taxes() -> None:
    """Subtotal, tax total and total follow from the lines and the determination."""
    invoice = a_draft(a_rating(a_base_fee("100"), a_line(a_step("each", "3", "1.25"))))

    assert [line.amount for line in invoice.lines] == [euro(10000), euro(375)]
    assert [line.position for line in invoice.lines] == [1, 2]
    assert summarize(invoice) == InvoiceSummary(
        invoice_id=invoice.invoice_id,
        number="",
        state=InvoiceState.DRAFT,
        customer_id="acme",
        subscription_id="acme-team",
        period=JANUARY,
        subtotal=euro(10375),
        tax_total=euro(2075),
        total=euro(12450),
    )


def test_a_line_is_settled_once_and_half_up() -> None:
    """Half a cent goes up, and less than half goes down."""
    rating = a_rating(
        a_line(a_step("each", "1", "0.005")),
        a_line(a_step("each", "1", "0.00499999999999999999999999")),
    )

    assert settle_lines(rating, "EUR", None) == (
        TaxableLine("1", euro(1), ELECTRONIC),
        TaxableLine("2", euro(0), ELECTRONIC),
    )


def test_conversion_multiplies_the_unrounded_amount() -> None:
    """0.004 USD at 150 is 0.6 yen, thus 1; the settled amount, 0.00 USD, would have given 0."""
    rating = a_rating(a_line(a_step("each", "1", "0.004"), currency="USD"), currency="USD")

    (line,) = settle_lines(rating, "JPY", a_rate(rate="150"))

    assert line.amount == Money("JPY", 1)


def test_conversion_keeps_every_digit_until_it_settles() -> None:
    """The product of 38 and 15 digits is exact: no context rounds at 28 digits."""
    price = "0.123456789012345678901234"
    rating = a_rating(a_line(a_step("each", "50000000", price), currency="USD"), currency="USD")

    (line,) = settle_lines(rating, "KWD", a_rate("USD", "KWD", "0.306999999999991"))

    assert line.amount == Money("KWD", 1895061711)


def test_lines_in_another_currency_need_a_rate_for_exactly_that_pair() -> None:
    """A missing rate, or one for other currencies, is a mistake of ours."""
    rating = a_rating(currency="USD")

    with pytest.raises(AssertionError, match="need a rate"):
        settle_lines(rating, "EUR", None)
    with pytest.raises(AssertionError, match="the rate is for the two"):
        settle_lines(rating, "EUR", a_rate("USD", "JPY"))


def test_a_period_without_lines_is_an_invoice_of_nothing() -> None:
    """A plan may have neither base fee nor prices; the invoice says so with zero."""
    determination = replace(
        a_determination((euro(0),)), lines=(), totals=(), tax_total=Money.zero("EUR")
    )

    invoice = a_draft(replace(a_rating(), lines=()), determination=determination)

    assert (invoice.lines, invoice.total) == ((), Money.zero("EUR"))


@pytest.mark.parametrize(
    ("conversion", "plan_currency"),
    [
        (CurrencyConversion.REFUSED, "EUR"),
        (CurrencyConversion.ECB_REFERENCE_RATE, "EUR"),
        (CurrencyConversion.ECB_REFERENCE_RATE, "USD"),
    ],
)
def test_equal_currencies_or_a_conversion_are_fine(
    conversion: CurrencyConversion, plan_currency: str
) -> None:
    """A customer in euro may have plans in euro, or convert."""
    check_currency(plan_currency, a_customer(), conversion)


def test_other_currencies_without_conversion_are_a_mismatch() -> None:
    """The error names both currencies."""
    with pytest.raises(Precondition) as refused:
        check_currency("USD", a_customer(currency="JPY"), CurrencyConversion.REFUSED)

    assert (refused.value.reason, refused.value.metadata) == (
        "CURRENCY_MISMATCH",
        {"plan_currency": "USD", "customer_currency": "JPY"},
    )


def test_issuing_gives_number_dates_and_nothing_else() -> None:
    """The number belongs to the series of the prefix and the year of issue."""
    draft = a_draft(seller=a_seller(number_prefix="LUM-A", payment_term_days=30))
    issue_date = date(2026, 2, 1)

    issued = finalize(draft, sequence=42, issue_date=issue_date, finalize_time=CLOSED)

    assert issued == replace(
        draft,
        state=InvoiceState.FINALIZED,
        number="LUM-A-2026-000042",
        issue_date=issue_date,
        due_date=date(2026, 3, 3),
        finalize_time=CLOSED,
    )
    assert series_of(draft.seller, issue_date) == "LUM-A-2026"


def test_numbers_grow_beyond_six_digits() -> None:
    """The millionth invoice of a year still has a number."""
    assert an_issued_invoice(sequence=1_000_000).number == "INV-2026-1000000"


def test_voiding_says_when_and_why_and_changes_nothing_else() -> None:
    """Number, dates and figures of a void invoice stay; so does what its documents show."""
    issued = an_issued_invoice()
    void_time = datetime(2026, 2, 3, tzinfo=UTC)

    voided = void(issued, void_time=void_time, reason="wrong address")

    assert voided == replace(
        issued, state=InvoiceState.VOIDED, void_time=void_time, void_reason="wrong address"
    )
    assert as_issued(voided) == issued


def test_a_draft_is_no_document() -> None:
    """What is not issued cannot be sent."""
    with pytest.raises(Precondition, match="cannot be made into a document"):
        as_issued(a_draft())


@pytest.mark.parametrize(
    ("change", "broken"),
    [
        pytest.param({"subtotal": euro(10374)}, "the lines sum to the subtotal", id="subtotal"),
        pytest.param({"tax_total": euro(0)}, "the taxes sum to the tax total", id="tax total"),
        pytest.param({"total": euro(1)}, "sum to the total", id="total"),
        pytest.param({"lines": ()}, "the lines sum to the subtotal", id="no lines"),
        pytest.param({"taxes": ()}, "the taxes sum to the tax total", id="no taxes"),
    ],
)
def test_a_total_that_does_not_follow_is_never_accepted(
    change: dict[str, object], broken: str
) -> None:
    """Whatever figure is off, the invoice does not come to be."""
    with pytest.raises(AssertionError, match=broken):
        prove_totals(replace(a_draft(), **change))  # type: ignore[arg-type] # any one field


def test_taxes_of_lines_must_be_those_of_the_invoice() -> None:
    """The same sum under another rate is not the same tax."""
    invoice = a_draft()
    taxes = tuple(replace(tax, rate_percent=Decimal(19)) for tax in invoice.taxes)

    with pytest.raises(AssertionError, match="the taxes of the lines sum to those"):
        prove_totals(replace(invoice, taxes=taxes))
