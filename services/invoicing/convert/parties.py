"""The seller, customers and subscriptions on the wire."""

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import partial

from kit.errors import InvalidInput, Violations
from kit.ids import parse_id
from kit.paging import Page
from kit.rpc.wire import render_time
from services.invoicing.convert.fields import (
    parse_country,
    parse_currency,
    parse_customer_id,
    parse_email,
    parse_instant,
    parse_language,
    parse_text,
    parse_time_zone,
    take,
)
from services.invoicing.convert.tax_proofs import parse_certificates, parse_evidence
from services.invoicing.model import (
    DEFAULT_NUMBER_PREFIX,
    DEFAULT_TIME_ZONE,
    BillingAnchor,
    BuyerKind,
    CurrencyConversion,
    Customer,
    PostalAddress,
    Seller,
    Subscription,
    TaxId,
)
from services.invoicing.snapshot import BUYER_KINDS, render_customer
from tollkeeper.api.invoicing.v1 import customer_pb2
from tollkeeper.api.invoicing.v1 import invoicing_service_pb2 as messages
from tollkeeper.api.rating.v1.rating_service_pb2 import PlanOverrides
from tollkeeper.api.tax.v1 import tax_pb2

NAME_LENGTH_MAX = 200
ADDRESS_LINES_MAX = 4
ADDRESS_LINE_LENGTH_MAX = 100
POSTAL_CODE_LENGTH_MAX = 20
PAYMENT_INSTRUCTIONS_LENGTH_MAX = 1_000
PAYMENT_TERM_DAYS_MAX = 365
TAX_IDS_MAX = 8
TAX_ID_LENGTH_MAX = 32

_NUMBER_PREFIX = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,11}")
_REGION = re.compile(r"[A-Z0-9]{1,3}")
_COUNTRIES_WITH_REGIONS = frozenset({"CA", "US"})
_BUYER_KINDS: Mapping[int, BuyerKind] = {number: kind for kind, number in BUYER_KINDS.items()}
_ANCHORS: Mapping[int, BillingAnchor] = {
    customer_pb2.BILLING_ANCHOR_UNSPECIFIED: BillingAnchor.CALENDAR,
    customer_pb2.BILLING_ANCHOR_CALENDAR: BillingAnchor.CALENDAR,
    customer_pb2.BILLING_ANCHOR_ANNIVERSARY: BillingAnchor.ANNIVERSARY,
}
_ANCHOR_NUMBERS = {
    BillingAnchor.CALENDAR: customer_pb2.BILLING_ANCHOR_CALENDAR,
    BillingAnchor.ANNIVERSARY: customer_pb2.BILLING_ANCHOR_ANNIVERSARY,
}
_CONVERSIONS: Mapping[int, CurrencyConversion] = {
    customer_pb2.CURRENCY_CONVERSION_UNSPECIFIED: CurrencyConversion.REFUSED,
    customer_pb2.CURRENCY_CONVERSION_ECB_REFERENCE_RATE: CurrencyConversion.ECB_REFERENCE_RATE,
}
_CONVERSION_NUMBERS = {
    CurrencyConversion.REFUSED: customer_pb2.CURRENCY_CONVERSION_UNSPECIFIED,
    CurrencyConversion.ECB_REFERENCE_RATE: customer_pb2.CURRENCY_CONVERSION_ECB_REFERENCE_RATE,
}


def parse_put_seller(request: messages.PutSellerRequest) -> Seller:
    """Read who sells."""
    if not request.HasField("seller"):
        raise InvalidInput.of("seller", "is required")
    seller, v = request.seller, Violations()
    parsed = Seller(
        legal_name=take(v, "seller.legal_name", _name, seller.legal_name),
        address=take(v, "seller.address", _address, seller.address),
        email=take(v, "seller.email", parse_email, seller.email),
        payment_instructions=take(
            v,
            "seller.payment_instructions",
            partial(parse_text, length_max=PAYMENT_INSTRUCTIONS_LENGTH_MAX, lines=True),
            seller.payment_instructions,
        ),
        number_prefix=take(v, "seller.number_prefix", _number_prefix, seller.number_prefix),
        payment_term_days=take(
            v, "seller.payment_term_days", _payment_term, seller.payment_term_days
        ),
    )
    v.raise_if_any()
    return parsed


def parse_put_customer(request: messages.PutCustomerRequest, now: datetime) -> Customer:
    """Read a customer; `now` is its create time if it is new."""
    if not request.HasField("customer"):
        raise InvalidInput.of("customer", "is required")
    customer, v = request.customer, Violations()
    if customer.HasField("create_time"):
        v.add("customer.create_time", "is set by the service")
    parsed = Customer(
        customer_id=take(v, "customer.customer_id", parse_customer_id, customer.customer_id),
        legal_name=take(v, "customer.legal_name", _name, customer.legal_name),
        email=take(v, "customer.email", parse_email, customer.email),
        address=take(v, "customer.address", _address, customer.address),
        kind=take(v, "customer.kind", _buyer_kind, customer.kind),
        tax_ids=take(v, "customer.tax_ids", _tax_ids, customer.tax_ids),
        currency=take(v, "customer.currency", parse_currency, customer.currency),
        time_zone=take(v, "customer.time_zone", parse_time_zone, customer.time_zone),
        language=take(v, "customer.language", parse_language, customer.language),
        create_time=now,
        exemption_certificates=take(
            v,
            "customer.exemption_certificates",
            parse_certificates,
            customer.exemption_certificates,
        ),
        location_evidence=take(
            v, "customer.location_evidence", parse_evidence, customer.location_evidence
        ),
    )
    v.raise_if_any()
    return parsed


def parse_create_subscription(
    request: messages.CreateSubscriptionRequest, now: datetime
) -> Subscription:
    """Read a subscription; its time zone is still to be taken from the customer."""
    if not request.HasField("subscription"):
        raise InvalidInput.of("subscription", "is required")
    written, v = request.subscription, Violations()
    if written.HasField("create_time"):
        v.add("subscription.create_time", "is set by the service")
    has_end = written.HasField("end_time")
    parsed = Subscription(
        subscription_id=take(v, "subscription.subscription_id", parse_id, written.subscription_id),
        customer_id=take(v, "subscription.customer_id", parse_customer_id, written.customer_id),
        plan_id=take(v, "subscription.plan_id", parse_id, written.plan_id),
        start_time=take(v, "subscription.start_time", parse_instant, written.start_time),
        end_time=(
            take(v, "subscription.end_time", parse_instant, written.end_time) if has_end else None
        ),
        anchor=take(v, "subscription.anchor", _anchor, written.anchor),
        conversion=take(
            v, "subscription.currency_conversion", _conversion, written.currency_conversion
        ),
        time_zone=DEFAULT_TIME_ZONE,
        create_time=now,
        overrides=written.overrides.SerializeToString(deterministic=True),
    )
    v.raise_if_any()
    return parsed


def parse_cancel_subscription(
    request: messages.CancelSubscriptionRequest,
) -> tuple[str, datetime]:
    """Read which subscription ends, and when."""
    v = Violations()
    subscription_id = take(v, "subscription_id", parse_id, request.subscription_id)
    end_time = take(v, "end_time", parse_instant, request.end_time)
    v.raise_if_any()
    return subscription_id, end_time


def render_customers(page: Page[Customer]) -> messages.ListCustomersResponse:
    """Write a page of customers."""
    return messages.ListCustomersResponse(
        customers=map(render_customer, page.items), next_page_token=page.next_page_token
    )


def render_subscription(subscription: Subscription) -> customer_pb2.Subscription:
    """Write a subscription."""
    end_time = subscription.end_time
    overrides = None
    if subscription.overrides:
        overrides = PlanOverrides.FromString(subscription.overrides)
    return customer_pb2.Subscription(
        subscription_id=subscription.subscription_id,
        customer_id=subscription.customer_id,
        plan_id=subscription.plan_id,
        start_time=render_time(subscription.start_time),
        end_time=None if end_time is None else render_time(end_time),
        anchor=_ANCHOR_NUMBERS[subscription.anchor],
        currency_conversion=_CONVERSION_NUMBERS[subscription.conversion],
        create_time=render_time(subscription.create_time),
        overrides=overrides,
    )


def render_subscriptions(page: Page[Subscription]) -> messages.ListSubscriptionsResponse:
    """Write a page of subscriptions."""
    return messages.ListSubscriptionsResponse(
        subscriptions=map(render_subscription, page.items), next_page_token=page.next_page_token
    )


def _name(text: str, field: str) -> str:
    return parse_text(text, field, length_max=NAME_LENGTH_MAX, required=True)


def _number_prefix(prefix: str, field: str) -> str:
    if prefix and not _NUMBER_PREFIX.fullmatch(prefix):
        raise InvalidInput.of(
            field,
            "must be 1 to 12 letters, digits and hyphens, starting with a letter or digit",
        )
    return prefix or DEFAULT_NUMBER_PREFIX


def _payment_term(days: int, field: str) -> int:
    if not 0 <= days <= PAYMENT_TERM_DAYS_MAX:
        raise InvalidInput.of(field, f"must be between 0 and {PAYMENT_TERM_DAYS_MAX}")
    return days


def _buyer_kind(number: int, field: str) -> BuyerKind:
    kind = _BUYER_KINDS.get(number)
    if kind is None:
        raise InvalidInput.of(field, "must be BUYER_KIND_CONSUMER or BUYER_KIND_BUSINESS")
    return kind


def _anchor(number: int, field: str) -> BillingAnchor:
    anchor = _ANCHORS.get(number)
    if anchor is None:
        raise InvalidInput.of(field, "must be an anchor of the contract")
    return anchor


def _conversion(number: int, field: str) -> CurrencyConversion:
    conversion = _CONVERSIONS.get(number)
    if conversion is None:
        raise InvalidInput.of(field, "must be a conversion of the contract")
    return conversion


def _tax_ids(tax_ids: Sequence[tax_pb2.TaxId], field: str) -> tuple[TaxId, ...]:
    if len(tax_ids) > TAX_IDS_MAX:
        raise InvalidInput.of(field, f"must have at most {TAX_IDS_MAX} entries")
    v = Violations()
    parsed = tuple(
        take(v, f"{field}[{index}]", _tax_id, tax_id) for index, tax_id in enumerate(tax_ids)
    )
    v.raise_if_any()
    return parsed


def _tax_id(tax_id: tax_pb2.TaxId, field: str) -> TaxId:
    v = Violations()
    country, number = tax_id.country, f"{field}.number"
    parsed = TaxId(
        country=take(v, f"{field}.country", parse_country, "GR" if country == "EL" else country),
        number=v.take(
            number,
            lambda: parse_text(tax_id.number, number, length_max=TAX_ID_LENGTH_MAX, required=True),
        ),
    )
    v.raise_if_any()
    return parsed


def _address(address: customer_pb2.PostalAddress, field: str) -> PostalAddress:
    v = Violations()
    line = partial(parse_text, length_max=ADDRESS_LINE_LENGTH_MAX, required=True)
    if len(address.lines) > ADDRESS_LINES_MAX:
        v.add(f"{field}.lines", f"must have at most {ADDRESS_LINES_MAX} entries")
    parsed = PostalAddress(
        lines=tuple(
            take(v, f"{field}.lines[{index}]", line, text)
            for index, text in enumerate(address.lines[:ADDRESS_LINES_MAX])
        ),
        city=take(v, f"{field}.city", line, address.city),
        region=v.take(f"{field}.region", lambda: _region(address, f"{field}.region")),
        postal_code=take(
            v,
            f"{field}.postal_code",
            partial(parse_text, length_max=POSTAL_CODE_LENGTH_MAX),
            address.postal_code,
        ),
        country=take(v, f"{field}.country", parse_country, address.country),
    )
    v.raise_if_any()
    return parsed


def _region(address: customer_pb2.PostalAddress, field: str) -> str:
    if not address.region and address.country in _COUNTRIES_WITH_REGIONS:
        raise InvalidInput.of(field, f"is required in {address.country}")
    if address.region and not _REGION.fullmatch(address.region):
        raise InvalidInput.of(field, "must be the part of ISO 3166-2 after the hyphen, such as CA")
    return address.region
