"""Exchange rates and conversions, between the wire and the domain."""

from datetime import date
from decimal import Decimal

from kit.decimals import parse_decimal
from kit.errors import InvalidInput, Violations
from kit.money import Money, Rounding
from kit.rpc.wire import render_decimal, render_money
from services.tax.assessment import AMOUNT_DIGITS_MAX
from services.tax.convert.fields import parse_currency, parse_date, render_date
from services.tax.exchange import Conversion, ExchangeRate
from tollkeeper.api.tax.v1 import tax_pb2, tax_service_pb2

_AMOUNT_MAX = Decimal(10) ** AMOUNT_DIGITS_MAX
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
