"""The second computation of the demo, checked by hand, and that a difference cannot hide."""

from datetime import UTC, date, datetime, timedelta
from fractions import Fraction

import pytest
from google.type.money_pb2 import Money

from cli.demo.recompute import (
    ExpectedLine,
    Used,
    add_up,
    cross_rate,
    half_up,
    month_bounds,
    recompute_invoice,
    split_tax,
    to_significant_digits,
)
from cli.demo.reconcile import (
    Reconciliation,
    compare_events,
    compare_invoices,
    compare_usage,
    minor_units,
)
from tollkeeper.api.invoicing.v1.customer_pb2 import Customer
from tollkeeper.api.invoicing.v1.invoice_pb2 import Invoice

OCTOBER = date(2026, 10, 1)


def used(
    customer_id: str,
    time: datetime,
    event_type: str = "llm.call",
    event_id: str = "1",
    **quantities: str,
) -> Used:
    """Make a usage event."""
    return Used(
        event_id=event_id,
        source="test",
        customer_id=customer_id,
        project_id="",
        key_id="",
        event_type=event_type,
        time=time,
        dimensions=(),
        quantities=tuple((name, Fraction(text)) for name, text in quantities.items()),
    )


def test_a_month_lasts_from_midnight_to_midnight_where_the_customer_is() -> None:
    """Clocks go back in Berlin on 25 October 2026, so the month is an hour longer."""
    start, end = month_bounds(OCTOBER, "Europe/Berlin")

    assert (start, end) == (
        datetime(2026, 9, 30, 22, tzinfo=UTC),
        datetime(2026, 10, 31, 23, tzinfo=UTC),
    )
    assert end - start == timedelta(days=31, hours=1)


def test_the_first_instant_counts_and_the_end_does_not() -> None:
    """The interval is half-open, and another customer's usage is not this one's."""
    start, end = month_bounds(OCTOBER, "Asia/Tokyo")
    events = [
        used("hanako", start, input_tokens="1"),
        used("hanako", end - timedelta(microseconds=1), input_tokens="10"),
        used("hanako", end, input_tokens="100"),
        used("hanako", start - timedelta(microseconds=1), input_tokens="1000"),
        used("manon", start, input_tokens="10000"),
    ]

    assert add_up(events, "hanako", start, end) == {"calls": 2, "input_tokens": 11}


def test_a_starter_month_is_base_fee_tokens_and_begun_packs() -> None:
    """By hand, for a consumer in France.

    1,234,567 tokens less 500,000 are 734,567; at 0.01 dollars per 1,000 that is 7.34567, settled
    7.35. 20.001 GPU hours are 3 packs, 75.00. The subtotal is 132.35, and 20 % of it are 26.47;
    exactly 10, 1.47 and 15 for the lines.
    """
    noon = datetime(2026, 10, 15, 12, tzinfo=UTC)
    events = [
        used("manon", noon, input_tokens="1000000", output_tokens="234567"),
        used("manon", noon, "gpu.session", gpu_hours="20.001"),
    ]

    invoice = recompute_invoice(events, "manon", OCTOBER)

    assert invoice.lines == {
        "": ExpectedLine(Fraction(1), Fraction(50), 5000, 5000, 1000),
        "tokens": ExpectedLine(Fraction(1234567), Fraction("7.34567"), 735, 735, 147),
        "gpu_packs": ExpectedLine(Fraction("20.001"), Fraction(75), 7500, 7500, 1500),
    }
    assert (invoice.subtotal_minor, invoice.tax_minor, invoice.tax_percent) == (
        13235,
        2647,
        Fraction(20),
    )


def test_a_pro_month_in_yen_is_settled_once_after_conversion() -> None:
    """By hand: 100 dollars at 157.250268528464 yen are 15,725.03, settled 15,725; 10 % are 1,573.

    The European Central Bank published 1.1172 dollars and 175.68 yen for a euro on Friday
    30 October 2026, which counts for Saturday, the last day of the month.
    """
    invoice = recompute_invoice([], "hanako", OCTOBER)

    assert invoice.exchange_rate == Fraction("157.250268528464")
    assert invoice.lines == {
        "": ExpectedLine(Fraction(1), Fraction(100), 10000, 15725, 1573),
        "tokens": ExpectedLine(Fraction(0), Fraction(0), 0, 0, 0),
    }


def test_a_friday_counts_for_its_weekend() -> None:
    """No rate is published on Saturdays and Sundays."""
    assert cross_rate("USD", "JPY", date(2026, 10, 31)) == cross_rate(
        "USD", "JPY", date(2026, 10, 30)
    )
    assert cross_rate("USD", "JPY", date(2026, 10, 30)) != cross_rate(
        "USD", "JPY", date(2026, 10, 29)
    )


def test_california_taxes_from_the_year_in_which_its_law_does() -> None:
    """The last day of the month decides."""
    before = recompute_invoice([], "golden-gate", date(2026, 12, 1))
    after = recompute_invoice([], "golden-gate", date(2027, 1, 1))

    assert (before.treatment, before.tax_percent) == ("NOT_TAXABLE", Fraction(0))
    assert (after.treatment, after.tax_percent) == ("TAXED", Fraction("7.25"))


@pytest.mark.parametrize(
    ("amount", "expected"), [("0.5", 1), ("1.5", 2), ("2.4999", 2), ("0.4999", 0), ("7", 7)]
)
def test_halves_go_up(amount: str, expected: int) -> None:
    """Unlike `round`, which goes to even."""
    assert half_up(Fraction(amount)) == expected


@pytest.mark.parametrize(
    ("amounts", "percent", "expected"),
    [
        # 3 times 0.333 is 0.999, so 1 is split; all remainders are equal, the first line gets it.
        ([3, 3, 3], "11.1", [1, 0, 0]),
        # 0.2, 0.7 and 0.6 are 1.5, so 2: the largest remainders are the second and the third.
        ([2, 7, 6], "10", [0, 1, 1]),
        ([100, 200], "0", [0, 0]),
    ],
)
def test_tax_is_rounded_once_and_split_without_loss(
    amounts: list[int], percent: str, expected: list[int]
) -> None:
    """The parts add up to the rounded whole."""
    assert split_tax(amounts, Fraction(percent)) == expected


@pytest.mark.parametrize(
    ("value", "digits", "expected"),
    [
        ("1234.5", 4, "1234"),
        ("1235.5", 4, "1236"),
        ("0.00123456", 3, "0.00123"),
        ("9.996", 3, "10"),
    ],
)
def test_significant_digits_round_halves_to_even(value: str, digits: int, expected: str) -> None:
    """As the tax service says of its cross rates."""
    assert to_significant_digits(Fraction(value), digits) == Fraction(expected)


def test_an_event_that_differs_is_missing_or_is_new_cannot_hide() -> None:
    """Each of the three is one difference, and names the event."""
    noon = datetime(2026, 10, 15, 12, tzinfo=UTC)
    sent = [used("manon", noon, event_id=name, tokens="1") for name in ("same", "changed", "lost")]
    listed = [
        used("manon", noon, event_id="same", tokens="1"),
        used("manon", noon, event_id="changed", tokens="2"),
        used("manon", noon, event_id="new", tokens="1"),
    ]
    result = Reconciliation()

    compare_events(result, sent, listed)

    assert [text.split(":")[0] for text in result.differences] == [
        "event changed of test",
        "event new of test",
        "event lost of test is not in the meter",
    ]
    assert not result.is_clean


def test_usage_that_differs_by_one_is_found() -> None:
    """Both figures are in the message; every customer and meter is compared."""
    start, _ = month_bounds(OCTOBER, "Europe/Paris")
    events = [used("manon", start, input_tokens="5")]
    result = Reconciliation()

    compare_usage(
        result,
        events,
        OCTOBER,
        {"calls": "calls", "input_tokens": "input_tokens"},
        {("manon", "calls"): Fraction(1), ("manon", "input_tokens"): Fraction(6)},
    )

    assert result.differences == ["usage of manon on input_tokens: 6 instead of 5"]
    assert result.figure_count == 8


def test_a_missing_and_an_empty_invoice_are_differences() -> None:
    """Every customer must have one invoice, with every line and every sum."""
    invoice = Invoice(number="X-1", currency="USD", customer=Customer(customer_id="isar"))
    for field in ("subtotal", "tax_total", "total"):
        getattr(invoice, field).CopyFrom(Money(currency_code="USD"))
    result = Reconciliation()

    compare_invoices(result, [], OCTOBER, [invoice])

    assert [text.split(":")[0] for text in result.differences] == [
        "customers with an invoice",
        "invoice X-1, period",
        "invoice X-1, prices",
        "invoice X-1, subtotal",
        "invoice X-1, total",
        "invoice X-1, taxes",
    ]


def test_money_finer_than_its_currency_shows() -> None:
    """A hidden fraction of a cent would be a difference."""
    assert minor_units(Money(currency_code="USD", units=1, nanos=500_000_000)) == 150
    assert minor_units(Money(currency_code="JPY", units=1, nanos=500_000_000)) == Fraction(3, 2)
