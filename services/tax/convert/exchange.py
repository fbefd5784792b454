"""Exchange rates and conversions, between the wire and the domain."""

from collections.abc import Sequence
from datetime import date
from decimal import Decimal

from kit.decimals import parse_decimal
from kit.errors import DomainError, InvalidInput, Violations
from kit.idempotency import parse_request_id
from kit.money import Money, Rounding
from kit.rpc.status import render_status
from kit.rpc.wire import parse_money, render_decimal, render_money
from services.tax.assessment import AMOUNT_DIGITS_MAX
from services.tax.convert.fields import (
    BATCH_MAX,
    DOMAIN,
    check_count,
    parse_currency,
    parse_date,
    render_date,
)
from services.tax.exchange import (
    AGE_MAX_DAYS,
    Conversion,
    Difference,
    DifferenceQuestion,
    ExchangeRate,
)
from services.tax.model import SellerSettings
from services.tax.reference_rates import SOURCE_ECB, SOURCE_NAME
from tollkeeper.api.tax.v1 import tax_pb2, tax_service_pb2

RATE_AGE_DAYS_LIMIT = 31
_AMOUNT_MAX = Decimal(10) ** AMOUNT_DIGITS_MAX
_UNCONFIRMED_TAX_IDS = {
    tax_pb2.UNCONFIRMED_TAX_IDS_UNSPECIFIED: False,
    tax_pb2.UNCONFIRMED_TAX_IDS_ACCEPTED: False,
    tax_pb2.UNCONFIRMED_TAX_IDS_REFUSED: True,
}
_ENGINES = {
    tax_pb2.TAX_ENGINE_UNSPECIFIED: False,
    tax_pb2.TAX_ENGINE_INTERNAL: False,
    tax_pb2.TAX_ENGINE_OUTSIDE: True,
}
_ROUNDING_MODES = {
    tax_service_pb2.ROUNDING_MODE_UNSPECIFIED: Rounding.HALF_UP,
    tax_service_pb2.ROUNDING_MODE_HALF_UP: Rounding.HALF_UP,
    tax_service_pb2.ROUNDING_MODE_HALF_EVEN: Rounding.HALF_EVEN,
    tax_service_pb2.ROUNDING_MODE_DOWN: Rounding.DOWN,
    tax_service_pb2.ROUNDING_MODE_UP: Rounding.UP,
}


def parse_currency_pair(
    request: tax_service_pb2.GetExchangeRateRequest | tax_service_pb2.ConvertMoneyRequest,
) -> tuple[str, str, date]:
    """Read which rate is asked for: the base, the quote and the day."""
    v = Violations()
    base = v.take("base_currency", lambda: parse_currency(request.base_currency, "base_currency"))
    quote = v.take(
        "quote_currency", lambda: parse_currency(request.quote_currency, "quote_currency")
    )
    day = v.take("date", lambda: parse_date(request.date, "date"))
    v.raise_if_any()
    return base, quote, day


def parse_conversion(request: tax_service_pb2.ConvertMoneyRequest) -> Conversion:
    """Read what is to be converted."""
    v = Violations()
    amount = v.take("amount", lambda: _exact_amount(request.amount.value, "amount"))
    pair = v.take("", lambda: parse_currency_pair(request))
    rounding = _ROUNDING_MODES.get(request.rounding)
    if rounding is None:
        v.add("rounding", "is not known")
    v.raise_if_any()
    assert rounding is not None, "an unknown rounding was noted"
    return Conversion(amount, *pair, rounding)


def _exact_amount(text: str, field: str) -> Decimal:
    amount = parse_decimal(text, field)
    if abs(amount) >= _AMOUNT_MAX:
        raise InvalidInput.of(
            field, f"must have at most {AMOUNT_DIGITS_MAX} digits before the point"
        )
    return amount


def render_exchange_rate(rate: ExchangeRate) -> tax_pb2.ExchangeRate:
    """Write an exchange rate."""
    return tax_pb2.ExchangeRate(
        base_currency=rate.base,
        quote_currency=rate.quote,
        rate=render_decimal(rate.rate),
        rate_date=render_date(rate.rate_date),
        source=rate.source,
    )


def render_conversion(
    money: Money, exact: Decimal, rate: ExchangeRate
) -> tax_service_pb2.ConvertMoneyResponse:
    """Write a converted amount, settled and exact."""
    return tax_service_pb2.ConvertMoneyResponse(
        money=render_money(money),
        unrounded_amount=render_decimal(exact),
        rate=render_exchange_rate(rate),
    )


def parse_conversions(
    request: tax_service_pb2.BatchConvertRequest,
) -> list[Conversion | DomainError]:
    """Read many; what cannot be read is its own error."""
    check_count(len(request.requests), BATCH_MAX, "requests")
    return [_conversion_or_error(each) for each in request.requests]


def parse_difference(
    request: tax_service_pb2.GetExchangeDifferenceRequest,
) -> DifferenceQuestion:
    """Read what may have gained or lost."""
    v = Violations()
    amount = v.take("amount", lambda: _settled_amount(request, "amount"))
    book = v.take("book_currency", lambda: parse_currency(request.book_currency, "book_currency"))
    invoiced = v.take("invoice_date", lambda: parse_date(request.invoice_date, "invoice_date"))
    paid = v.take("payment_date", lambda: parse_date(request.payment_date, "payment_date"))
    v.raise_if_any()
    if paid < invoiced:
        raise InvalidInput.of("payment_date", "must not be before the invoice date")
    return DifferenceQuestion(amount, book, invoiced, paid)


def parse_put_settings(request: tax_service_pb2.PutTaxSettingsRequest) -> SellerSettings:
    """Read the settings that are put, and make sure that the request has an id."""
    v = Violations()
    v.take("request_id", lambda: parse_request_id(request.request_id))
    settings = request.settings
    source = settings.exchange_rate_source or SOURCE_ECB
    if not SOURCE_NAME.fullmatch(source):
        v.add(
            "settings.exchange_rate_source",
            "must be 1 to 32 upper-case letters, digits and underscores",
        )
    age_days = settings.maximum_rate_age_days or AGE_MAX_DAYS
    if not 1 <= age_days <= RATE_AGE_DAYS_LIMIT:
        v.add("settings.maximum_rate_age_days", f"must be 1 to {RATE_AGE_DAYS_LIMIT}")
    refuses = _UNCONFIRMED_TAX_IDS.get(settings.unconfirmed_tax_ids)
    if refuses is None:
        v.add("settings.unconfirmed_tax_ids", "is not known")
    uses_engine = _ENGINES.get(settings.engine)
    if uses_engine is None:
        v.add("settings.engine", "is not known")
    if not request.HasField("settings"):
        v.add("settings", "is required")
    v.raise_if_any()
    return SellerSettings(
        exchange_rate_source=source,
        maximum_rate_age_days=age_days,
        refuses_unconfirmed_tax_ids=bool(refuses),
        uses_engine=bool(uses_engine),
        falls_back=settings.fall_back,
    )


def render_settings(settings: SellerSettings) -> tax_pb2.TaxSettings:
    """Write what the seller has decided on."""
    return tax_pb2.TaxSettings(
        exchange_rate_source=settings.exchange_rate_source,
        maximum_rate_age_days=settings.maximum_rate_age_days,
        unconfirmed_tax_ids=(
            tax_pb2.UNCONFIRMED_TAX_IDS_REFUSED
            if settings.refuses_unconfirmed_tax_ids
            else tax_pb2.UNCONFIRMED_TAX_IDS_ACCEPTED
        ),
        engine=(
            tax_pb2.TAX_ENGINE_OUTSIDE if settings.uses_engine else tax_pb2.TAX_ENGINE_INTERNAL
        ),
        fall_back=settings.falls_back,
    )


def render_conversions(
    results: Sequence[tuple[Money, Decimal, ExchangeRate] | DomainError],
) -> tax_service_pb2.BatchConvertResponse:
    """Write many, each a converted amount or an error."""
    return tax_service_pb2.BatchConvertResponse(results=map(_render_result, results))


def render_difference(found: Difference) -> tax_service_pb2.GetExchangeDifferenceResponse:
    """Write what an amount gained or lost."""
    return tax_service_pb2.GetExchangeDifferenceResponse(
        invoiced=render_money(found.invoiced),
        paid=render_money(found.paid),
        difference=render_money(found.difference),
        invoice_rate=render_exchange_rate(found.invoice_rate),
        payment_rate=render_exchange_rate(found.payment_rate),
    )


def _conversion_or_error(
    request: tax_service_pb2.ConvertMoneyRequest,
) -> Conversion | DomainError:
    try:
        return parse_conversion(request)
    except DomainError as error:
        return error


def _settled_amount(request: tax_service_pb2.GetExchangeDifferenceRequest, field: str) -> Money:
    amount = parse_money(request.amount, field)
    if abs(amount.minor_units) >= 10**AMOUNT_DIGITS_MAX:
        raise InvalidInput.of(field, f"must have at most {AMOUNT_DIGITS_MAX} digits")
    return amount


def _render_result(
    result: tuple[Money, Decimal, ExchangeRate] | DomainError,
) -> tax_service_pb2.BatchConvertResult:
    if isinstance(result, DomainError):
        return tax_service_pb2.BatchConvertResult(error=render_status(result, DOMAIN))
    return tax_service_pb2.BatchConvertResult(conversion=render_conversion(*result))
