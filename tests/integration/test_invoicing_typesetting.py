"""Invoices as PDF: what a reader finds in them, and that the bytes never differ."""

import io
from datetime import UTC, datetime

import pytest
import typst
from pypdf import PdfReader

from services.invoicing.assembly import settle_lines
from services.invoicing.document import describe_page
from services.invoicing.glyphs import SHOWN
from services.invoicing.model import BuyerKind, Invoice, Language
from services.invoicing.typesetting import Typesetter
from tests.invoicing_builders import (
    CLOSED,
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

CHARACTERS_PER_PAGE = 1_500


@pytest.fixture(scope="module")
def typesetter() -> Typesetter:
    """One typesetter for all, as a service has."""
    return Typesetter()


def words(text: str) -> str:
    """Leave one blank between words, whatever stood there."""
    return " ".join(text.split())


async def read(typesetter: Typesetter, invoice: Invoice) -> tuple[PdfReader, str]:
    """Set an invoice and read the text of its pages."""
    content = await typesetter.typeset(describe_page(invoice, "UTC"), CLOSED)
    reader = PdfReader(io.BytesIO(content))
    return reader, words(" ".join(page.extract_text() for page in reader.pages))


def a_german_invoice() -> Invoice:
    """Issue a base fee and tokens to a German business."""
    rating = a_rating(
        a_base_fee("100"),
        a_line(
            a_step("included: up to 1000000", "1000000", "0"),
            a_step("0.02 per 1000", "234567", "0.00002"),
        ),
    )
    amounts = tuple(line.amount for line in settle_lines(rating, "EUR", None))
    return an_issued_invoice(
        a_draft(
            rating,
            customer=a_customer(language=Language.GERMAN),
            determination=a_reverse_charge(
                amounts, note="Steuerschuldnerschaft des Leistungsempfängers."
            ),
        )
    )


async def test_a_reader_finds_everything_an_invoice_must_show(typesetter: Typesetter) -> None:
    """Seller, buyer, tax ids, number, dates, period, lines, note, totals and payment are text."""
    reader, text = await read(typesetter, a_german_invoice())

    missing = [
        expected
        for expected in (
            "Lumen Inference Ltd",
            "12 Harcourt Street",
            "USt-IdNr. IE6388047V",
            "Acme Robotik GmbH",
            "10115 Berlin",
            "Deutschland",
            "USt-IdNr. DE136695976",
            "INV-2026-000001",
            "1. Februar 2026",
            "15. Februar 2026",
            "1. Januar 2026 – 31. Januar 2026",  # noqa: RUF001 - a dash between days
            "Team: Grundgebühr",
            "1.234.567 token",
            "0,02 / 1.000",
            "4,69134",
            "USt. DE: Steuerschuldnerschaft des Leistungsempfängers, auf 104,69",
            "Steuerschuldnerschaft des Leistungsempfängers.",
            "Nettobetrag",
            "Gesamtbetrag",
            "104,69 €",
            "IBAN IE29 AIBK 9311 5212 3456 78",
        )
        if expected not in text
    ]
    assert missing == []
    assert len(reader.pages) == 1


async def test_the_properties_of_the_file_come_from_the_invoice(typesetter: Typesetter) -> None:
    """Title, author and date are the invoice's; the page is as tall as the buyer's paper."""
    german, _ = await read(typesetter, a_german_invoice())
    american, _ = await read(
        typesetter,
        an_issued_invoice(
            a_draft(
                customer=a_customer(
                    address=an_address(city="Reno", region="NV", postal_code="89501", country="US")
                )
            )
        ),
    )

    assert german.metadata is not None
    assert (german.metadata.title, german.metadata.author) == (
        "Rechnung INV-2026-000001",
        "Lumen Inference Ltd",
    )
    assert german.metadata.creation_date == datetime(2026, 2, 1, tzinfo=UTC)
    heights = [round(float(reader.pages[0].mediabox.height)) for reader in (german, american)]
    assert heights == [842, 792]


async def test_the_same_invoice_always_gives_the_same_bytes() -> None:
    """Two typesetters, as two replicas would be, set identical files."""
    page = describe_page(a_german_invoice(), "UTC")

    first = await Typesetter().typeset(page, CLOSED)
    second = await Typesetter().typeset(page, CLOSED)

    assert first == second


async def test_japanese_is_set_in_japanese_glyphs(typesetter: Typesetter) -> None:
    """Name, address, labels and the note on the rate are there as text, and so is the yen."""
    rate = a_rate()
    rating = a_rating(a_base_fee("100", "USD"), currency="USD")
    amounts = tuple(line.amount for line in settle_lines(rating, "JPY", rate))
    customer = a_customer(
        legal_name="株式会社さくら研究所",
        kind=BuyerKind.CONSUMER,
        address=an_address(
            lines=("千代田1-1",), city="東京都千代田区", postal_code="100-0001", country="JP"
        ),
        currency="JPY",
        language=Language.JAPANESE,
    )
    invoice = an_issued_invoice(
        a_draft(
            rating,
            customer=customer,
            rate=rate,
            determination=a_determination(
                amounts, rate_percent="10", name="JCT", jurisdiction="JP"
            ),
        )
    )

    reader, text = await read(typesetter, invoice)

    shown = text.replace(" ", "")
    missing = [
        expected
        for expected in (
            "請求書",
            "株式会社さくら研究所",
            "東京都千代田区",
            "消費税JP10%",
            "¥17,251",
        )
        if expected not in shown
    ]
    assert missing == []
    fonts = {str(font["/BaseFont"]) for font in fonts_of(reader)}
    assert any("NotoSansCJKjp" in font for font in fonts)


def fonts_of(reader: PdfReader) -> list[dict[str, object]]:
    """Answer the fonts of the first page."""
    resources = reader.pages[0]["/Resources"]
    return [font.get_object() for font in resources["/Font"].values()]  # type: ignore[index] # pypdf types every object alike


async def test_a_long_invoice_has_numbered_pages_and_its_table_head_on_each(
    typesetter: Typesetter,
) -> None:
    """Seventy lines take several pages; one page has no page number."""
    lines = [a_line(description=f"Model {number}") for number in range(70)]

    reader, _ = await read(typesetter, an_issued_invoice(a_draft(a_rating(*lines))))

    pages = [words(page.extract_text()) for page in reader.pages]
    assert len(pages) > 1
    for number, page in enumerate(pages, 1):
        assert f"Page {number} of {len(pages)}" in page
    assert all("Description Quantity Unit price (EUR)" in page for page in pages[:-1])


async def test_what_no_font_can_show_is_written_as_its_code(typesetter: Typesetter) -> None:
    """A plan named with a rocket gets an invoice without boxes."""
    line = a_line(description="Launch 🚀")

    _, text = await read(typesetter, an_issued_invoice(a_draft(a_rating(line))))

    assert "Launch [U+1F680]" in text


async def test_a_character_without_a_glyph_fails_instead_of_showing_a_box(
    typesetter: Typesetter,
) -> None:
    """Should one ever get past the check, there is no document rather than a bad one."""
    page = describe_page(an_issued_invoice(), "UTC")

    with pytest.raises(typst.TypstError, match="could not be displayed"):
        await typesetter.typeset({**page, "heading": "🚀"}, CLOSED)


async def test_every_character_that_is_accepted_has_a_glyph(typesetter: Typesetter) -> None:
    """The ranges promise nothing that the fonts do not hold, in any weight that is used."""
    page = describe_page(an_issued_invoice(), "UTC")
    characters = [chr(code) for code in sorted(SHOWN)]
    chunks = [
        " ".join(characters[start : start + CHARACTERS_PER_PAGE])
        for start in range(0, len(characters), CHARACTERS_PER_PAGE)
    ]

    content = await typesetter.typeset(
        {**page, "payment": chunks, "notes_label": "".join(characters[:2000])}, CLOSED
    )

    assert content.startswith(b"%PDF")


async def test_unusual_lengths_stay_on_the_page(typesetter: Typesetter) -> None:
    """Long names, long words and huge figures are set whole."""
    name = "Gesellschaft für außerordentlich weitreichende Versuche mit Sprachmodellen mbH & Co. KG"
    line = a_line(a_step("each", "12345678901234567890", "0.000001"))
    draft = a_draft(
        a_rating(line),
        seller=a_seller(legal_name=name),
        customer=a_customer(legal_name=name, customer_id="c" * 64),
    )

    _, text = await read(typesetter, an_issued_invoice(draft))

    assert "12,345,678,901,234,567,890 token" in text
    assert "12,345,678,901,234.57" in text
    assert text.count("KG") >= 2
