"""Prices between the wire and the domain: what they count, and what may stand together."""

import re
from collections.abc import Iterator, Sequence
from decimal import Decimal

from google.type.decimal_pb2 import Decimal as DecimalMessage

from kit.errors import INVALID_FIELD, InvalidInput, Violations
from kit.ids import parse_id
from kit.rpc.wire import render_decimal
from services.rating.convert.fields import (
    check_length,
    decimal_or,
    parse_amount,
    parse_category,
    parse_credit_rate,
    parse_name,
    parse_percent,
    parse_price_dimensions,
    parse_quantity,
    parse_quantity_name,
    render_category,
    take,
)
from services.rating.convert.models import parse_model, render_model
from services.rating.convert.timing import (
    TIER_SPANS,
    may_include,
    parse_recurrence,
    parse_rollover,
    render_timing,
    timing_misfits,
)
from services.rating.model import DIMENSIONS_MAX, PRICES_MAX, Discounts, Price, may_meet
from services.rating.prices import QuantityConversion, QuantityRounding, TierSpan, VirtualCurrency
from tollkeeper.api.rating.v1 import plan_pb2

DECIMALS_MAX = 12

_ZERO = Decimal(0)
_ONE = Decimal(1)
_HUNDRED = Decimal(100)
_CREDIT_CODE = re.compile(r"[A-Z]{1,12}")
_ROUNDINGS = {
    plan_pb2.QUANTITY_ROUNDING_HALF_UP: QuantityRounding.HALF_UP,
    plan_pb2.QUANTITY_ROUNDING_UP: QuantityRounding.UP,
    plan_pb2.QUANTITY_ROUNDING_DOWN: QuantityRounding.DOWN,
}
_ROUNDING_NUMBERS = {rounding: number for number, rounding in _ROUNDINGS.items()}
_METERED_AMOUNT_KINDS = frozenset({"dynamic", "cost_plus"})
_WITHOUT_INCLUDED = _METERED_AMOUNT_KINDS | {"percentage"}
_WITHOUT_CONVERSION = _WITHOUT_INCLUDED | {"matrix", "context_tiers", "time_of_use"}


def parse_prices(messages: Sequence[plan_pb2.Price], field: str) -> tuple[Price, ...]:
    """Read the prices of a plan, of which no two may bill the same usage."""
    check_length(messages, field, PRICES_MAX, reason=INVALID_FIELD)
    violations = Violations()
    prices = tuple(
        take(violations, f"{field}[{index}]", _price, message)
        for index, message in enumerate(messages)
    )
    _check_ids_differ(violations, messages, field)
    _check_usage_has_one_price(violations, messages, field)
    violations.raise_if_any()
    return prices


def render_price(price: Price) -> plan_pb2.Price:
    """Write a price."""
    message = plan_pb2.Price(
        price_id=price.price_id,
        display_name=price.display_name,
        meter_id=price.meter_id,
        dimensions=dict(price.dimensions),
        category=render_category(price.category),
        group_by=price.group_by,
        free_without_usage=price.free_without_usage,
    )
    render_model(price.model, message)
    if message.WhichOneof("model") not in _WITHOUT_INCLUDED and may_include(price):
        message.included_quantity.CopyFrom(render_decimal(price.included_quantity))
    if price.conversion is not None:
        message.conversion.CopyFrom(_render_conversion(price.conversion))
    if price.virtual_currency is not None:
        message.virtual_currency.CopyFrom(_render_virtual_currency(price.virtual_currency))
    if price.minimum_amount is not None:
        message.minimum_amount.CopyFrom(render_decimal(price.minimum_amount))
    if price.maximum_amount is not None:
        message.maximum_amount.CopyFrom(render_decimal(price.maximum_amount))
    if price.discounts is not None:
        message.discounts.CopyFrom(_render_discounts(price.discounts))
    render_timing(price, message)
    return message


def _price(message: plan_pb2.Price, field: str) -> Price:
    violations = Violations()
    conversion = virtual_currency = discounts = recurrence = rollover = None
    if message.HasField("recurrence"):
        recurrence = take(violations, f"{field}.recurrence", parse_recurrence, message.recurrence)
    if message.HasField("rollover"):
        rollover = take(violations, f"{field}.rollover", parse_rollover, message.rollover)
    if message.HasField("discounts"):
        discounts = take(violations, f"{field}.discounts", _discounts, message.discounts)
    if message.HasField("conversion"):
        conversion = take(violations, f"{field}.conversion", _conversion, message.conversion)
    if message.HasField("virtual_currency"):
        virtual_currency = take(
            violations, f"{field}.virtual_currency", _virtual_currency, message.virtual_currency
        )
    price = Price(
        price_id=take(violations, f"{field}.price_id", parse_id, message.price_id),
        display_name=take(violations, f"{field}.display_name", parse_name, message.display_name),
        meter_id=take(violations, f"{field}.meter_id", parse_id, message.meter_id),
        dimensions=take(
            violations, f"{field}.dimensions", parse_price_dimensions, message.dimensions
        ),
        included_quantity=decimal_or(
            _ZERO,
            violations,
            f"{field}.included_quantity",
            message,
            parse_quantity,
        ),
        model=take(violations, field, parse_model, message),
        category=take(violations, f"{field}.category", parse_category, message.category),
        group_by=violations.take(f"{field}.group_by", lambda: _group_by(message, field)),
        conversion=conversion,
        virtual_currency=virtual_currency,
        minimum_amount=decimal_or(
            None, violations, f"{field}.minimum_amount", message, parse_amount
        ),
        maximum_amount=decimal_or(
            None, violations, f"{field}.maximum_amount", message, parse_amount
        ),
        discounts=discounts,
        in_advance=message.billing_timing == plan_pb2.BILLING_TIMING_IN_ADVANCE,
        recurrence=recurrence,
        tier_span=TIER_SPANS.get(message.tier_span, TierSpan.PERIOD),
        rollover=rollover,
        free_without_usage=message.free_without_usage,
    )
    bounds = [each for each in (price.minimum_amount, price.maximum_amount) if each is not None]
    if bounds != sorted(bounds):
        violations.add(f"{field}.maximum_amount", "must not be below minimum_amount")
    if rollover is not None and not price.included_quantity:
        violations.add(f"{field}.rollover", "needs an included quantity")
    for name, description in _misfits(message):
        violations.add(f"{field}.{name}", description)
    violations.raise_if_any()
    return price


def _group_by(message: plan_pb2.Price, field: str) -> tuple[str, ...]:
    field = f"{field}.group_by"
    check_length(message.group_by, field, DIMENSIONS_MAX, reason=INVALID_FIELD)
    violations = Violations()
    for index, name in enumerate(message.group_by):
        take(violations, f"{field}[{index}]", parse_quantity_name, name)
        if name in message.dimensions:
            violations.add(f"{field}[{index}]", "has one value only: dimensions name it")
        if name in message.group_by[:index]:
            violations.add(f"{field}[{index}]", "is given twice")
    violations.raise_if_any()
    return tuple(message.group_by)


def _conversion(message: plan_pb2.QuantityConversion, field: str) -> QuantityConversion:
    violations = Violations()
    divisor = decimal_or(_ONE, violations, f"{field}.divisor", message, _divisor)
    rounding = _ROUNDINGS.get(message.rounding)
    if rounding is None and message.rounding:
        violations.add(f"{field}.rounding", "must be a rounding of the contract")
    if rounding is None and message.decimals:
        violations.add(f"{field}.decimals", "must be absent where nothing is rounded")
    if not -DECIMALS_MAX <= message.decimals <= DECIMALS_MAX:
        violations.add(f"{field}.decimals", f"must be from -{DECIMALS_MAX} to {DECIMALS_MAX}")
    violations.raise_if_any()
    return QuantityConversion(divisor, rounding, message.decimals)


def _divisor(message: DecimalMessage, field: str) -> Decimal:
    divisor = parse_quantity(message, field)
    if divisor < _ONE:
        raise InvalidInput.of(field, "must be at least 1")
    return divisor


def _virtual_currency(message: plan_pb2.VirtualCurrency, field: str) -> VirtualCurrency:
    violations = Violations()
    if not _CREDIT_CODE.fullmatch(message.code):
        violations.add(f"{field}.code", "must be 1 to 12 upper-case letters")
    decimals = message.decimals if message.HasField("decimals") else None
    if decimals is not None and not 0 <= decimals <= DECIMALS_MAX:
        violations.add(f"{field}.decimals", f"must be from 0 to {DECIMALS_MAX}")
    rate = take(violations, f"{field}.rate", parse_credit_rate, message.rate)
    violations.raise_if_any()
    return VirtualCurrency(message.code, rate, decimals)


def _discounts(message: plan_pb2.Discounts, field: str) -> Discounts:
    violations = Violations()
    percent = decimal_or(_ZERO, violations, f"{field}.percent", message, parse_percent)
    discounts = Discounts(
        decimal_or(_ZERO, violations, f"{field}.quantity", message, parse_quantity),
        percent,
        decimal_or(_ZERO, violations, f"{field}.amount", message, parse_amount),
    )
    if percent and percent > _HUNDRED:
        violations.add(f"{field}.percent", "must be at most 100")
    violations.raise_if_any()
    return discounts


def _misfits(message: plan_pb2.Price) -> Iterator[tuple[str, str]]:
    """Find what the kind of a price does not allow; each field with what is wrong with it."""
    kind = message.WhichOneof("model")
    yield from timing_misfits(message)
    if kind in _WITHOUT_INCLUDED and message.HasField("included_quantity"):
        yield "included_quantity", f"must be absent for the kind {kind}"
    if kind == "percentage" and message.discounts.HasField("quantity"):
        yield "discounts.quantity", f"must be absent for the kind {kind}"
    if kind in _WITHOUT_CONVERSION and message.HasField("conversion"):
        yield "conversion", f"must be absent for the kind {kind}"


def _check_ids_differ(
    violations: Violations, messages: Sequence[plan_pb2.Price], field: str
) -> None:
    first_by_id: dict[str, int] = {}
    for index, message in enumerate(messages):
        first = first_by_id.setdefault(message.price_id, index)
        if first != index and message.price_id:
            violations.add(f"{field}[{index}].price_id", f"is the id of {field}[{first}] as well")


def _check_usage_has_one_price(
    violations: Violations, messages: Sequence[plan_pb2.Price], field: str
) -> None:
    """Refuse two prices of which neither is more specific where both could bill the usage."""
    filters = [tuple(message.dimensions.items()) for message in messages]
    for later, message in enumerate(messages):
        for earlier in range(later if message.meter_id else 0):
            if (
                message.meter_id == messages[earlier].meter_id
                and len(filters[later]) == len(filters[earlier])
                and may_meet(filters[earlier], filters[later])
            ):
                violations.add(
                    f"{field}[{later}].dimensions",
                    f"may match usage that {field}[{earlier}] bills as well: name more"
                    " dimensions, or give both another value of the same one",
                )
                break


def _render_conversion(conversion: QuantityConversion) -> plan_pb2.QuantityConversion:
    return plan_pb2.QuantityConversion(
        divisor=render_decimal(conversion.divisor),
        rounding=_ROUNDING_NUMBERS[conversion.rounding]
        if conversion.rounding
        else plan_pb2.QUANTITY_ROUNDING_UNSPECIFIED,
        decimals=conversion.decimals,
    )


def _render_virtual_currency(currency: VirtualCurrency) -> plan_pb2.VirtualCurrency:
    return plan_pb2.VirtualCurrency(
        code=currency.code, rate=render_decimal(currency.rate), decimals=currency.decimals
    )


def _render_discounts(discounts: Discounts) -> plan_pb2.Discounts:
    return plan_pb2.Discounts(
        quantity=render_decimal(discounts.quantity) if discounts.quantity else None,
        percent=render_decimal(discounts.percent),
        amount=render_decimal(discounts.amount),
    )
