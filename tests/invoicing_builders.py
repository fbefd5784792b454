"""Values of invoicing with defaults, so that a test shows only what matters to it."""

from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

from google.type.decimal_pb2 import Decimal as DecimalMessage

from kit.decimals import exactly
from kit.interval import Interval
from kit.money import Money, Rounding, settle
from kit.rpc.wire import render_decimal, render_interval, render_money
from services.invoicing.assembly import assemble, finalize, settle_lines
from services.invoicing.model import (
    BillingAnchor,
    BuyerKind,
    CurrencyConversion,
    Customer,
    Determination,
    ExchangeRate,
    FormulaStep,
    Invoice,
    Language,
    PostalAddress,
    RatedLine,
    Rating,
    Seller,
    Subscription,
    Tax,
    TaxId,
)
from services.invoicing.periods import BillingPeriod, periods_until
from services.invoicing.snapshot import read_rated_line, read_tax
from tollkeeper.api.rating.v1 import plan_pb2, rating_pb2
from tollkeeper.api.tax.v1 import tax_pb2

JANUARY = Interval(datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 2, 1, tzinfo=UTC))
CREATED = datetime(2025, 12, 1, 9, tzinfo=UTC)
CLOSED = datetime(2026, 2, 1, 3, tzinfo=UTC)


def an_address(**changes: Any) -> PostalAddress:  # noqa: ANN401 - any field, by its name.
    """Make an address in Berlin."""
    fields: dict[str, Any] = {
        "lines": ("Invalidenstraße 44",),
        "city": "Berlin",
        "region": "",
        "postal_code": "10115",
        "country": "DE",
    }
    return PostalAddress(**{**fields, **changes})


def a_seller(**changes: Any) -> Seller:  # noqa: ANN401 - any field, by its name.
    """Make a seller in Dublin, paid within 14 days."""
    fields: dict[str, Any] = {
        "legal_name": "Lumen Inference Ltd",
        "address": an_address(
            lines=("12 Harcourt Street",), city="Dublin", postal_code="D02 XY45", country="IE"
        ),
        "email": "billing@lumen.example",
        "payment_instructions": "By bank transfer, naming the invoice number.\n"
        "IBAN IE29 AIBK 9311 5212 3456 78 · BIC AIBKIE2D",
        "number_prefix": "INV",
        "payment_term_days": 14,
    }
    return Seller(**{**fields, **changes})


def a_customer(**changes: Any) -> Customer:  # noqa: ANN401 - any field, by its name.
    """Make a German business that is invoiced in euro, in English and by UTC."""
    fields: dict[str, Any] = {
        "customer_id": "acme",
        "legal_name": "Acme Robotik GmbH",
        "email": "rechnung@acme.example",
        "address": an_address(),
        "kind": BuyerKind.BUSINESS,
        "tax_ids": (TaxId("DE", "DE136695976"),),
        "currency": "EUR",
        "time_zone": "UTC",
        "language": Language.ENGLISH,
        "create_time": CREATED,
    }
    return Customer(**{**fields, **changes})


def a_subscription(**changes: Any) -> Subscription:  # noqa: ANN401 - any field, by its name.
    """Make a subscription by calendar months from the first of January 2026 on."""
    fields: dict[str, Any] = {
        "subscription_id": "acme-team",
        "customer_id": "acme",
        "plan_id": "team",
        "start_time": JANUARY.start,
        "end_time": None,
        "anchor": BillingAnchor.CALENDAR,
        "conversion": CurrencyConversion.REFUSED,
        "time_zone": "UTC",
        "create_time": CREATED,
    }
    return Subscription(**{**fields, **changes})


def a_step(
    description: str = "each", quantity: str = "1", unit_amount: str = "1", amount: str = ""
) -> FormulaStep:
    """Make a step; its amount is the product unless it is given."""
    with exactly():
        product = Decimal(quantity) * Decimal(unit_amount)
    return FormulaStep(
        description, Decimal(quantity), Decimal(unit_amount), Decimal(amount) if amount else product
    )


def a_line(*steps: FormulaStep, currency: str = "EUR", **changes: Any) -> RatedLine:  # noqa: ANN401 - any field of the message, by its name.
    """Make a usage line, as rating gives it, whose amounts follow from its steps."""
    steps = steps or (a_step("each", "3", "1.25"),)
    with exactly():
        unrounded = sum((step.amount for step in steps), Decimal(0))
        quantity = sum((step.quantity for step in steps), Decimal(0))
    fields: dict[str, Any] = {
        "kind": rating_pb2.LINE_KIND_USAGE,
        "price_id": "tokens",
        "description": "Tokens",
        "quantity": render_decimal(quantity),
        "unit": "token",
        "unrounded_amount": render_decimal(unrounded),
        "amount": render_money(settle(unrounded, currency, Rounding.HALF_UP)),
        "steps": [
            rating_pb2.FormulaStep(
                description=step.description,
                quantity=render_decimal(step.quantity),
                unit_amount=render_decimal(step.unit_amount),
                amount=render_decimal(step.amount),
            )
            for step in steps
        ],
        "usage": rating_pb2.UsageReference(
            meter_id="tokens",
            customer_id="acme",
            interval=render_interval(JANUARY),
            dimensions={"model": "large", "region": "eu"},
        ),
        "category": plan_pb2.PRODUCT_CATEGORY_ELECTRONIC_SERVICE,
        "period": render_interval(JANUARY),
    }
    return read_rated_line(rating_pb2.RatedLine(**{**fields, **changes}))


def a_base_fee(
    amount: str = "100",
    currency: str = "EUR",
    step: FormulaStep | None = None,
    **changes: Any,  # noqa: ANN401 - any field of the message, by its name.
) -> RatedLine:
    """Make the base fee of a whole period, unless a step tells of a part."""
    fields: dict[str, Any] = {
        "kind": rating_pb2.LINE_KIND_BASE_FEE,
        "price_id": "",
        "description": "Team: base fee",
        "unit": "period",
        "usage": None,
    }
    step = step or a_step("base fee", "1", amount)
    return a_line(step, currency=currency, **{**fields, **changes})


def a_rating(*lines: RatedLine, currency: str = "EUR", **changes: Any) -> Rating:  # noqa: ANN401 - any field, by its name.
    """Make the rating of a period: a base fee and a line of usage unless lines are given."""
    fields: dict[str, Any] = {
        "plan_id": "team",
        "plan_version": 1,
        "currency": currency,
        "lines": lines or (a_base_fee(currency=currency), a_line(currency=currency)),
    }
    return Rating(**{**fields, **changes})


def a_tax(taxable: Money, tax: Money, **changes: Any) -> Tax:  # noqa: ANN401 - any field of the message, by its name.
    """Make French VAT of 20 percent, as tax determines it."""
    fields: dict[str, Any] = {
        "jurisdiction": "FR",
        "name": "VAT",
        "rate_percent": DecimalMessage(value="20"),
        "taxable_amount": render_money(taxable),
        "tax_amount": render_money(tax),
        "treatment": tax_pb2.TAX_TREATMENT_TAXED,
        "rule_id": "eu.b2c.destination",
        "reason": "Electronic services to consumers are taxed where they live.",
        "source": "Directive 2006/112/EC, article 58",
        "seller_tax_id": "IE6388047V",
    }
    return read_tax(tax_pb2.Tax(**{**fields, **changes}))


def a_determination(
    amounts: tuple[Money, ...],
    *,
    rate_percent: str = "20",
    buyer_tax_id: str = "",
    **changes: Any,  # noqa: ANN401 - any field of a tax, by its name.
) -> Determination:
    """Tax the amounts at one rate, rounded once and allocated to the lines without a loss."""
    currency = amounts[0].currency
    subtotal = sum(amounts, Money.zero(currency))
    with exactly():
        exact = subtotal.to_decimal() * Decimal(rate_percent) / 100
    total = settle(exact, currency, Rounding.HALF_UP)
    parts = total.allocate([amount.minor_units for amount in amounts])
    changes = {"rate_percent": DecimalMessage(value=rate_percent), **changes}
    return Determination(
        lines=tuple(
            (a_tax(amount, part, **changes),) for amount, part in zip(amounts, parts, strict=True)
        ),
        totals=(a_tax(subtotal, total, **changes),),
        tax_total=total,
        buyer_tax_id=buyer_tax_id,
    )


def a_reverse_charge(
    amounts: tuple[Money, ...], *, note: str = "Reverse charge: VAT is owed by the recipient."
) -> Determination:
    """Determine that the German buyer owes the VAT."""
    return a_determination(
        amounts,
        rate_percent="0",
        buyer_tax_id="DE136695976",
        jurisdiction="DE",
        treatment=tax_pb2.TAX_TREATMENT_REVERSE_CHARGE,
        rule_id="eu.b2b.reverse_charge",
        invoice_note=note,
    )


def a_rate(base: str = "USD", quote: str = "JPY", rate: str = "156.83") -> ExchangeRate:
    """Make a reference rate of the last working day of January 2026."""
    return ExchangeRate(base, quote, Decimal(rate), date(2026, 1, 30), "ECB")


def the_period(subscription: Subscription | None = None) -> BillingPeriod:
    """Answer the first period of a subscription."""
    return periods_until(subscription or a_subscription(), datetime(2030, 1, 1, tzinfo=UTC))[0]


def a_draft(
    rating: Rating | None = None,
    *,
    customer: Customer | None = None,
    seller: Seller | None = None,
    subscription: Subscription | None = None,
    rate: ExchangeRate | None = None,
    determination: Determination | None = None,
) -> Invoice:
    """Make the draft of an invoice, taxed at 20 percent unless a determination is given."""
    customer = customer or a_customer()
    rating = rating or a_rating(currency=customer.currency)
    subscription = subscription or a_subscription()
    amounts = tuple(line.amount for line in settle_lines(rating, customer.currency, rate))
    return assemble(
        invoice_id="inv_01kehv7fs0abcdefghjkmnpqrs",
        seller=seller or a_seller(),
        customer=customer,
        subscription=subscription,
        period=the_period(subscription),
        rating=rating,
        exchange_rate=rate,
        determination=determination or a_determination(amounts),
        create_time=CLOSED,
    )


def an_issued_invoice(draft: Invoice | None = None, *, sequence: int = 1) -> Invoice:
    """Make an invoice that was issued on the first of February 2026."""
    return finalize(
        draft or a_draft(),
        sequence=sequence,
        issue_date=date(2026, 2, 1),
        finalize_time=CLOSED,
    )
