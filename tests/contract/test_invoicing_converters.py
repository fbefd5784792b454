"""Invoicing's converters: what is written comes back, and every bad field is named, all at once."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from google.protobuf.json_format import Parse as JsonParse
from google.protobuf.text_format import Merge, Parse
from google.protobuf.timestamp_pb2 import Timestamp

from kit.money import Money
from kit.rpc.wire import render_time
from services.invoicing.convert.fields import parse_customer_id
from services.invoicing.convert.invoices import (
    Closing,
    Listing,
    parse_close,
    parse_get_document,
    parse_list_invoices,
    parse_preview,
    parse_void,
    render_document,
    render_progress,
    render_summary,
)
from services.invoicing.convert.parties import (
    parse_cancel_subscription,
    parse_create_subscription,
    parse_put_customer,
    parse_put_seller,
    render_subscription,
)
from services.invoicing.model import (
    BillingAnchor,
    CurrencyConversion,
    DocumentFormat,
    InvoiceState,
    Language,
    Subscription,
    summarize,
)
from services.invoicing.snapshot import (
    read_rated_line,
    read_snapshot,
    render_customer,
    render_invoice,
    render_seller,
    write_json,
    write_snapshot,
)
from tests.invoicing_builders import (
    a_base_fee,
    a_customer,
    a_determination,
    a_draft,
    a_line,
    a_rate,
    a_rating,
    a_seller,
    a_step,
    a_subscription,
    an_issued_invoice,
)
from tests.refusals import Bad, refusal_of
from tollkeeper.api.invoicing.v1 import invoice_pb2
from tollkeeper.api.invoicing.v1 import invoicing_service_pb2 as messages
from tollkeeper.api.rating.v1 import plan_pb2, rating_pb2
from tollkeeper.api.tax.v1 import tax_pb2

NOW = datetime(2026, 3, 1, 12, 30, 0, 123456, tzinfo=UTC)

SELLER = """
seller {
  legal_name: "Lumen Inference Ltd"
  address { lines: "12 Harcourt Street" city: "Dublin" country: "IE" }
}
"""
CUSTOMER = """
customer {
  customer_id: "acme"
  legal_name: "Acme GmbH"
  address { city: "Berlin" country: "DE" }
  kind: BUYER_KIND_BUSINESS
  tax_ids { country: "EL" number: "094259216" }
  currency: "EUR"
}
"""
SUBSCRIPTION = """
subscription {
  subscription_id: "acme-team"
  customer_id: "acme"
  plan_id: "team"
  start_time { seconds: 1767225600 }
}
"""

BAD_SELLERS = [
    Bad("nothing at all", "seller { legal_name: '' address { city: '' country: '' } }",
        ("seller.legal_name", "seller.address.city", "seller.address.country")),
    Bad("a name of blanks", "seller { legal_name: '  ' }", ("seller.legal_name",)),
    Bad("a name on two lines", r"seller { legal_name: 'a\nb' }", ("seller.legal_name",)),
    Bad("a name no font shows", "seller { legal_name: 'ไทย' }", ("seller.legal_name",)),
    Bad("a name too long", f"seller {{ legal_name: '{'x' * 201}' }}", ("seller.legal_name",)),
    Bad("no e-mail address", "seller { email: 'billing' }", ("seller.email",)),
    Bad("instructions too long", f"seller {{ payment_instructions: '{'x' * 1001}' }}",
        ("seller.payment_instructions",)),
    Bad("a prefix too long", "seller { number_prefix: 'ABCDEFGHIJKLM' }",
        ("seller.number_prefix",)),
    Bad("a prefix with a blank", "seller { number_prefix: 'IN V' }", ("seller.number_prefix",)),
    Bad("a prefix that begins with a hyphen", "seller { number_prefix: '-INV' }",
        ("seller.number_prefix",)),
    Bad("a negative term", "seller { payment_term_days: -1 }", ("seller.payment_term_days",)),
    Bad("a term beyond a year", "seller { payment_term_days: 366 }",
        ("seller.payment_term_days",)),
    Bad("too many address lines",
        "seller { address { lines: 'b' lines: 'c' lines: 'd' lines: 'e' } }",
        ("seller.address.lines",)),
    Bad("an empty address line", "seller { address { lines: '' } }",
        ("seller.address.lines[1]",)),
    Bad("a country in lower case", "seller { address { country: 'ie' } }",
        ("seller.address.country",)),
    Bad("a country that is none", "seller { address { country: 'XX' } }",
        ("seller.address.country",)),
    Bad("the US without a state", "seller { address { country: 'US' } }",
        ("seller.address.region",)),
    Bad("a region with its country", "seller { address { region: 'US-CA' } }",
        ("seller.address.region",)),
    Bad("a postal code too long", f"seller {{ address {{ postal_code: '{'1' * 21}' }} }}",
        ("seller.address.postal_code",)),
]  # fmt: skip

BAD_CUSTOMERS = [
    Bad("an id with a slash", "customer { customer_id: 'a/b' }", ("customer.customer_id",)),
    Bad("an id too long", f"customer {{ customer_id: '{'x' * 65}' }}", ("customer.customer_id",)),
    Bad("no kind", "customer { kind: BUYER_KIND_UNSPECIFIED }", ("customer.kind",)),
    Bad("an unknown kind", "customer { kind: 9 }", ("customer.kind",)),
    Bad("an unknown currency", "customer { currency: 'EUX' }", ("customer.currency",)),
    Bad("a currency in lower case", "customer { currency: 'eur' }", ("customer.currency",)),
    Bad("no currency", "customer { currency: '' }", ("customer.currency",)),
    Bad("gold", "customer { currency: 'XAU' }", ("customer.currency",)),
    Bad("an unknown time zone", "customer { time_zone: 'Europe/Atlantis' }",
        ("customer.time_zone",)),
    Bad("a path as time zone", "customer { time_zone: '../../etc/passwd' }",
        ("customer.time_zone",)),
    Bad("an unknown language", "customer { language: 'it' }", ("customer.language",)),
    Bad("a create time", "customer { create_time { seconds: 1 } }", ("customer.create_time",)),
    Bad("a tax id without a number", "customer { tax_ids { country: 'DE' } }",
        ("customer.tax_ids[1].number",)),
    Bad("a tax id of nowhere", "customer { tax_ids { number: '1' } }",
        ("customer.tax_ids[1].country",)),
    Bad("too many tax ids", "customer { " + "tax_ids { country: 'DE' number: '1' } " * 8 + "}",
        ("customer.tax_ids",)),
    Bad("several at once", "customer { customer_id: '!' kind: 9 email: '@' language: 'xx' }",
        ("customer.customer_id", "customer.email", "customer.kind", "customer.language")),
]  # fmt: skip

BAD_SUBSCRIPTIONS = [
    Bad("an id in upper case", "subscription { subscription_id: 'Acme' }",
        ("subscription.subscription_id",)),
    Bad("no plan", "subscription { plan_id: '' }", ("subscription.plan_id",)),
    Bad("no start", "subscription { start_time { seconds: 0 } }", ("subscription.start_time",)),
    Bad("a start in the last century", "subscription { start_time { seconds: 900000000 } }",
        ("subscription.start_time",)),
    Bad("a start far in the future", "subscription { start_time { seconds: 99999999999 } }",
        ("subscription.start_time",)),
    Bad("a start beyond all calendars", "subscription { start_time { seconds: 9999999999999 } }",
        ("subscription.start_time",)),
    Bad("an end without a time", "subscription { end_time {} }", ("subscription.end_time",)),
    Bad("an unknown anchor", "subscription { anchor: 9 }", ("subscription.anchor",)),
    Bad("an unknown conversion", "subscription { currency_conversion: 9 }",
        ("subscription.currency_conversion",)),
    Bad("a create time", "subscription { create_time { seconds: 1 } }",
        ("subscription.create_time",)),
]  # fmt: skip


def named(refusal: list[str]) -> tuple[str, ...]:
    """Answer which fields a refusal names."""
    return tuple(line.partition(": ")[0] for line in refusal)


@pytest.mark.parametrize("bad", BAD_SELLERS, ids=lambda bad: bad.id)
def test_a_bad_seller_is_refused_by_every_bad_field(bad: Bad) -> None:
    """Whatever is wrong with a seller is said at once."""
    request = Merge(bad.written, Parse(SELLER, messages.PutSellerRequest()))

    assert named(refusal_of(parse_put_seller, request)) == bad.named


@pytest.mark.parametrize("bad", BAD_CUSTOMERS, ids=lambda bad: bad.id)
def test_a_bad_customer_is_refused_by_every_bad_field(bad: Bad) -> None:
    """Whatever is wrong with a customer is said at once."""
    request = Merge(bad.written, Parse(CUSTOMER, messages.PutCustomerRequest()))

    assert named(refusal_of(parse_put_customer, request, NOW)) == bad.named


@pytest.mark.parametrize("bad", BAD_SUBSCRIPTIONS, ids=lambda bad: bad.id)
def test_a_bad_subscription_is_refused_by_every_bad_field(bad: Bad) -> None:
    """Whatever is wrong with a subscription is said at once."""
    request = Merge(bad.written, Parse(SUBSCRIPTION, messages.CreateSubscriptionRequest()))

    assert named(refusal_of(parse_create_subscription, request, NOW)) == bad.named


@pytest.mark.parametrize(
    ("refusal", "expected"),
    [
        pytest.param(
            refusal_of(parse_put_seller, messages.PutSellerRequest()),
            ["seller: is required"],
            id="no seller",
        ),
        pytest.param(
            refusal_of(parse_put_customer, messages.PutCustomerRequest(), NOW),
            ["customer: is required"],
            id="no customer",
        ),
        pytest.param(
            refusal_of(parse_create_subscription, messages.CreateSubscriptionRequest(), NOW),
            ["subscription: is required"],
            id="no subscription",
        ),
        pytest.param(
            refusal_of(parse_cancel_subscription, messages.CancelSubscriptionRequest()),
            ["subscription_id: is required", "end_time: is required"],
            id="cancelling nothing",
        ),
        pytest.param(
            refusal_of(
                parse_preview,
                messages.PreviewInvoiceRequest(time=Timestamp(seconds=99999999999)),
            ),
            [
                "subscription_id: is required",
                "time: must be between the years 2000 and 2199",
            ],
            id="previewing nothing in the far future",
        ),
        pytest.param(
            refusal_of(
                parse_close,
                messages.CloseBillingPeriodRequest(
                    until=Timestamp(nanos=-1), customer_id="no such/id"
                ),
            ),
            [
                "until: must have nanos between 0 and 999,999,999",
                (
                    "customer_id: must be 1 to 64 characters out of letters, digits and"
                    " '_', '.', ':', '@', '-'"
                ),
            ],
            id="closing until no time",
        ),
        pytest.param(
            refusal_of(parse_list_invoices, messages.ListInvoicesRequest(state=9)),  # type: ignore[arg-type] # an unknown state
            ["state: must be a state of the contract"],
            id="listing an unknown state",
        ),
        pytest.param(
            refusal_of(parse_void, messages.VoidInvoiceRequest(reason="x" * 501)),
            ["invoice_id: is required", "reason: must have at most 500 characters"],
            id="voiding nothing at length",
        ),
        pytest.param(
            refusal_of(parse_void, messages.VoidInvoiceRequest(invoice_id="inv_1")),
            ["reason: is required"],
            id="voiding without a reason",
        ),
        pytest.param(
            refusal_of(
                parse_get_document,
                messages.GetInvoiceDocumentRequest(invoice_id="x" * 65, format=9),  # type: ignore[arg-type] # an unknown format
            ),
            [
                "invoice_id: must have at most 64 characters",
                "format: must be a format of the contract",
            ],
            id="an unknown format",
        ),
        pytest.param(
            refusal_of(parse_customer_id, "", "customer_id"),
            ["customer_id: is required"],
            id="no customer id",
        ),
    ],
)
def test_what_is_missing_or_out_of_bounds_is_said_in_words(
    refusal: list[str], expected: list[str]
) -> None:
    """Each bad field has its sentence."""
    assert refusal == expected


def test_a_seller_is_read_with_what_empty_fields_mean() -> None:
    """Without a prefix it is INV; and what is read is written the same."""
    seller = parse_put_seller(Parse(SELLER, messages.PutSellerRequest()))

    assert (seller.number_prefix, seller.payment_term_days) == ("INV", 0)
    assert parse_put_seller(messages.PutSellerRequest(seller=render_seller(seller))) == seller


def test_a_customer_is_read_with_what_empty_fields_mean() -> None:
    """UTC and English where nothing is said; EL, as the EU writes it, is Greece."""
    customer = parse_put_customer(Parse(CUSTOMER, messages.PutCustomerRequest()), NOW)

    assert (customer.time_zone, customer.language, customer.create_time) == (
        "UTC",
        Language.ENGLISH,
        NOW,
    )
    assert [tax_id.country for tax_id in customer.tax_ids] == ["GR"]


@pytest.mark.parametrize(
    "seller",
    [a_seller(), a_seller(number_prefix="LUM-1", email="", payment_instructions="a\nb")],
)
def test_a_seller_survives_the_wire(seller: object) -> None:
    """Written and read, it is the same."""
    request = messages.PutSellerRequest(seller=render_seller(seller))  # type: ignore[arg-type] # a seller

    assert parse_put_seller(request) == seller


def test_a_customer_survives_the_wire() -> None:
    """Written without its create time and read, it is the same."""
    customer = a_customer(language=Language.JAPANESE, time_zone="Asia/Tokyo", create_time=NOW)
    message = render_customer(customer)
    message.ClearField("create_time")

    assert parse_put_customer(messages.PutCustomerRequest(customer=message), NOW) == customer


@pytest.mark.parametrize(
    "subscription",
    [
        a_subscription(create_time=NOW),
        a_subscription(
            create_time=NOW,
            end_time=datetime(2026, 5, 1, tzinfo=UTC),
            anchor=BillingAnchor.ANNIVERSARY,
            conversion=CurrencyConversion.ECB_REFERENCE_RATE,
        ),
    ],
)
def test_a_subscription_survives_the_wire(subscription: Subscription) -> None:
    """Written without its create time and read, it is the same."""
    message = render_subscription(subscription)
    message.ClearField("create_time")
    request = messages.CreateSubscriptionRequest(subscription=message)

    assert parse_create_subscription(request, NOW) == subscription


def test_requests_without_filters_ask_for_everything() -> None:
    """Absent means now, nobody in particular, any state, and PDF."""
    assert parse_close(messages.CloseBillingPeriodRequest()) == Closing(None, "", issue=False)
    assert parse_list_invoices(messages.ListInvoicesRequest()) == Listing("", None)
    assert parse_get_document(messages.GetInvoiceDocumentRequest(invoice_id="INV-2026-000001")) == (
        "INV-2026-000001",
        DocumentFormat.PDF,
    )


def test_requests_with_filters_are_read() -> None:
    """Each field arrives as the value it stands for."""
    close = messages.CloseBillingPeriodRequest(
        until=render_time(NOW), customer_id="acme", finalize=True
    )
    listing = messages.ListInvoicesRequest(
        customer_id="acme", state=invoice_pb2.INVOICE_STATE_VOIDED
    )

    assert parse_close(close) == Closing(NOW, "acme", issue=True)
    assert parse_list_invoices(listing) == Listing("acme", InvoiceState.VOIDED)


def test_an_issued_converted_invoice_survives_the_store() -> None:
    """Rate, dates, tax id and every line come back."""
    rating = a_rating(
        a_base_fee("100", "USD"), a_line(a_step("each", "3", "0.1"), currency="USD"), currency="USD"
    )
    yen = (Money("JPY", 15683), Money("JPY", 47))
    invoice = an_issued_invoice(
        a_draft(
            rating,
            customer=a_customer(currency="JPY"),
            rate=a_rate(),
            determination=a_determination(yen, buyer_tax_id="DE136695976"),
        )
    )

    assert read_snapshot(write_snapshot(invoice)) == invoice


def test_fields_of_other_services_that_are_new_to_us_are_kept() -> None:
    """A newer rating service may say more than this version knows; the invoice still holds it."""
    newer = b"\xfa\x3f\x03abc"
    known = rating_pb2.RatedLine.FromString(a_line().as_given)
    line = read_rated_line(
        rating_pb2.RatedLine.FromString(known.SerializeToString(deterministic=True) + newer)
    )

    invoice = read_snapshot(write_snapshot(a_draft(a_rating(line))))

    assert render_invoice(invoice).lines[0].rated.SerializeToString().endswith(newer)


def test_the_documents_json_is_the_protobuf_mapping() -> None:
    """A program reads the document back into the very message."""
    invoice = an_issued_invoice()
    text = write_json(invoice)

    assert JsonParse(text, invoice_pb2.Invoice()) == render_invoice(invoice)
    assert text.startswith(b'{\n  "invoiceId": ')


def test_progress_tells_the_total_first_and_then_each_period() -> None:
    """The first message has neither a subscription nor a result."""
    summary = summarize(an_issued_invoice())

    first, second = render_progress(0, 3), render_progress(1, 3, "acme-team", summary)

    assert first == messages.CloseBillingPeriodResponse(done=0, total=3)
    assert second == messages.CloseBillingPeriodResponse(
        done=1, total=3, subscription_id="acme-team", invoice=render_summary(summary)
    )


def test_a_document_is_named_for_its_number() -> None:
    """Type and name follow from the format."""
    rendered = render_document(b"{}", "INV-2026-000001", DocumentFormat.JSON)

    assert rendered == messages.GetInvoiceDocumentResponse(
        content=b"{}", media_type="application/json", file_name="INV-2026-000001.json"
    )


def test_rating_and_tax_number_product_categories_alike() -> None:
    """The category of a rated line is handed to tax as the number it is."""
    rating: dict[str, int] = dict(plan_pb2.ProductCategory.items())
    tax: dict[str, int] = dict(tax_pb2.ProductCategory.items())

    assert {name: tax.get(name) for name in rating} == rating
