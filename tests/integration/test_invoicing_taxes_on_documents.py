"""Taxes on the PDF as the law rules them: amount, wording and reason in the buyer's language."""

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date
from decimal import Decimal

import pytest
from pypdf import PdfReader

from kit.money import Money
from services.invoicing.assembly import settle_lines
from services.invoicing.document import describe_page
from services.invoicing.model import Customer, Determination, Invoice, Language
from services.invoicing.snapshot import read_reported_tax, read_snapshot, read_tax, write_snapshot
from services.invoicing.typesetting import Typesetter
from services.tax.convert.supplies import render_determination
from services.tax.determination import determine
from services.tax.exchange import ExchangeRate
from services.tax.model import Buyer, Seller, Supply, TaxableLine
from services.tax.reporting import currency_pairs, report
from tests.invoicing_builders import (
    CLOSED,
    a_base_fee,
    a_customer,
    a_draft,
    a_rating,
    an_issued_invoice,
)
from tests.tax_builders import BOOK, CALIFORNIAN, a_buyer, a_seller

DAY = date(2026, 1, 31)
IN_BERLIN = a_seller("DE")


@dataclass(frozen=True, slots=True)
class Document:
    """A buyer, its language and currency, and what its PDF must say."""

    id: str
    buyer: Buyer
    language: Language
    words: tuple[str, ...]
    seller: Seller = CALIFORNIAN
    currency: str = "EUR"


DOCUMENTS = [
    Document(
        "a business in California",
        a_buyer("US-CA", business=True),
        Language.ENGLISH,
        ("Sales tax is not levied on this supply.", "$100.00"),
        a_seller("US-CA"),
        "USD",
    ),
    Document(
        "a business in Munich",
        a_buyer("DE", "DE136695976"),
        Language.GERMAN,
        (
            "Steuerschuldnerschaft des Leistungsempfängers (Art. 196 der Richtlinie 2006/112/EG)",
            "Es schuldet die Umsatzsteuer selbst",
        ),
    ),
    Document(
        "a consumer in Lyon",
        a_buyer("FR"),
        Language.FRENCH,
        (
            "TVA FR 20",
            "La TVA du pays du consommateur s'applique, déclarée par le guichet unique",
            "20,00",
        ),
    ),
    Document(
        "a business in Osaka",
        a_buyer("JP", business=True),
        Language.JAPANESE,
        (
            "本役務の提供は「事業者向け電気通信利用役務の提供」に該当し",
            "消費税は買い手が申告・納付し",
        ),
        currency="JPY",
    ),
    Document(
        "a consumer in Berlin, invoiced in dollars",
        a_buyer("DE"),
        Language.GERMAN,
        (
            "USt. DE 19 % in EUR: 17,10 auf 90,00.",
            "Umgerechnet zu 1 USD = 0,9 EUR, Referenzkurs der Europäischen Zentralbank",
            "Verkäufer und Kunde sind im selben Mitgliedstaat",
        ),
        IN_BERLIN,
        "USD",
    ),
]


def determined(document: Document, amounts: Sequence[Money]) -> Determination:
    """Determine the taxes as the tax service does, and read its answer as invoicing does."""
    lines = tuple(TaxableLine(str(n), amount) for n, amount in enumerate(amounts, 1))
    supply = Supply(document.buyer, lines, DAY, language=document.language.value)
    found = determine(document.seller, supply, BOOK)
    rates = {
        pair: ExchangeRate(*pair, Decimal("0.9"), DAY, "ECB")
        for pair in currency_pairs(found, DAY, BOOK)
    }
    answer = render_determination(report(found, DAY, BOOK, rates))
    return Determination(
        lines=tuple(tuple(map(read_tax, line.taxes)) for line in answer.lines),
        totals=tuple(map(read_tax, answer.totals)),
        tax_total=found.tax_total,
        buyer_tax_id=answer.buyer_tax_id.number,
        reported_taxes=tuple(map(read_reported_tax, answer.reported_taxes)),
    )


def issued(document: Document) -> Invoice:
    """Issue an invoice over 100 to the buyer."""
    customer: Customer = a_customer(language=document.language, currency=document.currency)
    address = replace(customer.address, country=document.buyer.address.country)
    rating = a_rating(a_base_fee("100", document.currency), currency=document.currency)
    amounts = [line.amount for line in settle_lines(rating, document.currency, None)]
    return an_issued_invoice(
        a_draft(
            rating,
            customer=replace(customer, address=address),
            determination=determined(document, amounts),
        )
    )


def plain(text: str) -> str:
    """Leave one blank between words, whatever stood there, and one kind of apostrophe."""
    return " ".join(text.replace("\N{RIGHT SINGLE QUOTATION MARK}", "'").split())


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.id)
async def test_a_document_says_what_is_taxed_and_why(document: Document) -> None:
    """In the language of the buyer, with the words of the law, and in the reporting currency."""
    page = describe_page(issued(document), "UTC")

    content = await Typesetter().typeset(page, CLOSED)

    text = plain(" ".join(page.extract_text() for page in PdfReader(io.BytesIO(content)).pages))
    assert [words for words in document.words if plain(words) not in text] == []


def test_what_stands_in_another_currency_is_kept_with_the_invoice() -> None:
    """The snapshot of an issued invoice holds the converted tax and the rate that was taken."""
    invoice = issued(DOCUMENTS[-1])

    kept = read_snapshot(write_snapshot(invoice))

    (reported,) = kept.reported_taxes
    assert (kept, reported.tax_amount, reported.exchange_rate.rate) == (
        invoice,
        Money("EUR", 1710),
        Decimal("0.9"),
    )
