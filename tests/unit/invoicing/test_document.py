"""What stands on the page of an invoice."""

from decimal import Decimal
from typing import Any

import pytest

from kit.money import Money
from services.invoicing.assembly import settle_lines
from services.invoicing.document import describe_address, describe_page, describe_unit_amount
from services.invoicing.figures import figures_of
from services.invoicing.labels import translate_step
from services.invoicing.model import Invoice, Language, PostalAddress
from tests.invoicing_builders import (
    a_base_fee,
    a_customer,
    a_determination,
    a_draft,
    a_line,
    a_rate,
    a_rating,
    a_reverse_charge,
    a_seller,
    a_step,
    an_address,
    an_issued_invoice,
)
from tollkeeper.api.tax.v1 import tax_pb2

ENGLISH = figures_of(Language.ENGLISH, "IE")


def page_of(invoice: Invoice, time_zone: str = "UTC") -> Any:  # noqa: ANN401 - as JSON is.
    """Describe the page of an invoice."""
    return describe_page(invoice, time_zone)


def a_reverse_charged_invoice() -> Invoice:
    """Make an invoice of 100.00 euro to a German business."""
    return an_issued_invoice(
        a_draft(a_rating(a_base_fee()), determination=a_reverse_charge((Money("EUR", 10000),)))
    )


def test_a_page_holds_everything_that_an_invoice_must_show() -> None:
    """Seller and buyer with tax ids, number, dates, period, line, taxes, total, note, payment."""
    page = page_of(a_reverse_charged_invoice())

    assert page == {
        "language": "en",
        "paper": "a4",
        "title": "Invoice INV-2026-000001",
        "number": "INV-2026-000001",
        "heading": "Invoice",
        "issued": [2026, 2, 1],
        "seller": {
            "name": "Lumen Inference Ltd",
            "address": ["12 Harcourt Street", "Dublin D02 XY45", "Ireland"],
            "more": ["billing@lumen.example", "VAT ID IE6388047V"],
        },
        "buyer": {
            "label": "Bill to",
            "name": "Acme Robotik GmbH",
            "address": ["Invalidenstraße 44", "10115 Berlin", "Germany"],
            "more": ["rechnung@acme.example", "VAT ID DE136695976"],
        },
        "facts": [
            ["Invoice number", "INV-2026-000001"],
            ["Issue date", "1 February 2026"],
            ["Due date", "15 February 2026"],
            ["Billing period", "1 January 2026 – 31 January 2026"],  # noqa: RUF001 - a dash between days
            ["Customer", "acme"],
        ],
        "columns": [
            "Description",
            "Quantity",
            "Unit price (EUR)",
            "Calculation (EUR)",
            "Amount (EUR)",
        ],
        "lines": [
            {
                "description": "Team: base fee",
                "quantity": "1",
                "unit_amount": "100.00",
                "calculation": "100.00",
                "amount": "100.00",
                "steps": [],
            }
        ],
        "totals": [
            ["Subtotal, without tax", "100.00"],
            ["VAT DE: reverse charge, on 100.00", "0.00"],
        ],
        "total": ["Total due", "€100.00"],
        "notes": ["Reverse charge: VAT is owed by the recipient."],
        "notes_label": "Notes",
        "payment": [
            "By bank transfer, naming the invoice number.",
            "IBAN IE29 AIBK 9311 5212 3456 78 · BIC AIBKIE2D",
        ],
        "payment_label": "How to pay",
        "page": ["Page ", " of ", ""],
    }


def test_each_step_of_a_line_is_a_row_of_its_own() -> None:
    """Included units, tiers and flat fees are readable, and their amounts exact."""
    line = a_line(
        a_step("included: up to 1000000", "1000000", "0"),
        a_step("tier 1: up to 100000", "100000", "0.00002"),
        a_step("tier 2: flat", "1", "5"),
        a_step("tier 2: above 100000", "134567", "0.000015"),
    )
    page = page_of(an_issued_invoice(a_draft(a_rating(line))))

    assert page["lines"] == [
        {
            "description": "Tokens",
            "quantity": "1,234,568 token",
            "unit_amount": "",
            "calculation": "9.018505",
            "amount": "9.02",
            "steps": [
                {
                    "description": "included, up to 1,000,000",
                    "quantity": "1,000,000",
                    "unit_amount": "0.00",
                    "calculation": "0.00",
                },
                {
                    "description": "tier 1, up to 100,000",
                    "quantity": "100,000",
                    "unit_amount": "0.02 / 1,000",
                    "calculation": "2.00",
                },
                {
                    "description": "tier 2, flat fee",
                    "quantity": "1",
                    "unit_amount": "5.00",
                    "calculation": "5.00",
                },
                {
                    "description": "tier 2, above 100,000",
                    "quantity": "134,567",
                    "unit_amount": "0.015 / 1,000",
                    "calculation": "2.018505",
                },
            ],
        }
    ]


def test_a_converted_invoice_names_the_rate_and_both_currencies() -> None:
    """Prices stand in the plan's currency, amounts in the invoice's; a note says how."""
    rate = a_rate()
    rating = a_rating(a_base_fee("100", "USD"), currency="USD")
    amounts = tuple(line.amount for line in settle_lines(rating, "JPY", rate))
    customer = a_customer(currency="JPY")
    draft = a_draft(rating, customer=customer, rate=rate, determination=a_determination(amounts))

    page = page_of(an_issued_invoice(draft))

    assert page["columns"] == [
        "Description",
        "Quantity",
        "Unit price (USD)",
        "Calculation (USD)",
        "Amount (JPY)",
    ]
    assert page["total"] == ["Total due", "JP¥18,820"]
    assert page["notes"] == [
        "Converted at 1 USD = 156.83 JPY, European Central Bank reference rate of 30 January 2026."
    ]


def test_a_rate_is_shown_with_every_digit() -> None:
    """Whoever wants to compute the conversion again can."""
    rate = a_rate(rate="154.031378472222")
    rating = a_rating(a_base_fee("100", "USD"), currency="USD")
    amounts = tuple(line.amount for line in settle_lines(rating, "JPY", rate))
    customer = a_customer(currency="JPY")
    draft = a_draft(rating, customer=customer, rate=rate, determination=a_determination(amounts))

    (note,) = page_of(an_issued_invoice(draft))["notes"]

    assert note.startswith("Converted at 1 USD = 154.031378472222 JPY, ")


def test_a_part_of_a_month_shows_its_days() -> None:
    """A prorated base fee names the days that are billed instead of an endless fraction."""
    step = a_step(
        "base fee: 17 of 31 days",
        "0.548387096774193548387097",
        "100",
        "54.838709677419354838709677",
    )
    fee = a_base_fee(step=step)
    (line,) = page_of(an_issued_invoice(a_draft(a_rating(fee))))["lines"]

    assert line == {
        "description": "Team: base fee",
        "quantity": "17 of 31 days",
        "unit_amount": "100.00",
        "calculation": "54.83870967…",
        "amount": "54.84",
        "steps": [],
    }


def test_taxes_nobody_owes_take_no_room() -> None:
    """Where the seller is not registered, no tax row stands on the page."""
    determination = a_determination(
        (Money("EUR", 10000),),
        rate_percent="0",
        treatment=tax_pb2.TAX_TREATMENT_NOT_REGISTERED,
        seller_tax_id="",
    )
    page = page_of(
        an_issued_invoice(a_draft(a_rating(a_base_fee()), determination=determination)), "UTC"
    )

    assert page["totals"] == [["Subtotal, without tax", "100.00"]]


def test_the_days_of_a_period_are_those_of_the_subscription() -> None:
    """A period that ends at midnight in Tokyo ends there on the 31st."""
    invoice = an_issued_invoice()

    facts = dict(page_of(invoice, "Asia/Tokyo")["facts"])

    assert facts["Billing period"] == "1 January 2026 – 1 February 2026"  # noqa: RUF001 - as above


def test_a_seller_may_leave_things_out() -> None:
    """Without an e-mail address and payment instructions nothing stands in their place."""
    draft = a_draft(seller=a_seller(email="", payment_instructions=""))

    page = page_of(an_issued_invoice(draft))

    assert page["payment"] == []
    assert page["seller"] == {
        "name": "Lumen Inference Ltd",
        "address": ["12 Harcourt Street", "Dublin D02 XY45", "Ireland"],
        "more": ["VAT ID IE6388047V"],
    }


@pytest.mark.parametrize(
    ("language", "words"),
    [
        (Language.ENGLISH, ["Invoice", "Total due", "VAT FR 20% on 100.00", "Team: base fee"]),
        (
            Language.GERMAN,
            ["Rechnung", "Gesamtbetrag", "USt. FR 20\u00a0% auf 100,00", "Team: Grundgebühr"],
        ),
        (
            Language.FRENCH,
            ["Facture", "Total à payer", "TVA FR 20\u00a0% sur 100,00", "Team : abonnement"],
        ),
        (
            Language.JAPANESE,
            ["請求書", "ご請求金額", "VAT FR 20%（対象額 100.00）", "Team：基本料金"],  # noqa: RUF001 - Japanese
        ),
    ],
)
def test_a_page_speaks_the_language_of_the_customer(language: Language, words: list[str]) -> None:
    """Heading, totals, taxes and lines are in the customer's language."""
    draft = a_draft(a_rating(a_base_fee()), customer=a_customer(language=language))

    page = page_of(an_issued_invoice(draft))

    shown = [
        page["heading"],
        page["total"][0],
        page["totals"][1][0],
        page["lines"][0]["description"],
    ]
    assert shown == words


@pytest.mark.parametrize(
    ("address", "lines"),
    [
        pytest.param(
            an_address(),
            ["Invalidenstraße 44", "10115 Berlin", "Germany"],
            id="the postal code first",
        ),
        pytest.param(
            PostalAddress(("1 Market St", "Floor 3"), "San Francisco", "CA", "94105", "US"),
            ["1 Market St", "Floor 3", "San Francisco, CA 94105", "United States"],
            id="the city first",
        ),
        pytest.param(
            PostalAddress((), "Singapore", "", "018956", "SG"),
            ["Singapore 018956", "Singapore"],
            id="no street",
        ),
        pytest.param(
            PostalAddress(("Carrera 7",), "Bogotá", "DC", "", "CO"),
            ["Carrera 7", "Bogotá, DC", "Colombia"],
            id="no postal code",
        ),
    ],
)
def test_an_address_is_written_as_in_its_country(address: PostalAddress, lines: list[str]) -> None:
    """Where the postal code stands depends on the country; what is missing leaves no gap."""
    assert describe_address(address, ENGLISH) == lines


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        ("100", "100.00"),
        ("0.015", "0.015"),
        ("0.01", "0.01"),
        ("0.002", "2.00 / 1,000"),
        ("0.00002", "0.02 / 1,000"),
        ("0.00000015", "0.15 / 1,000,000"),
        ("0.000000001", "0.00000000…"),
        ("0", "0.00"),
    ],
)
def test_small_unit_prices_are_given_for_a_thousand_or_a_million(amount: str, text: str) -> None:
    """Nobody counts zeros."""
    assert describe_unit_amount(Decimal(amount), "EUR", ENGLISH) == text


def test_words_that_no_phrase_covers_stay_as_they_are() -> None:
    """The phrasebook guesses nothing."""
    assert (
        translate_step("volume rebate", Language.GERMAN, lambda number: number) == "volume rebate"
    )
