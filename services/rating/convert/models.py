"""The kinds of price between the wire and the domain; every bad field is named at once."""

from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal

from google.protobuf.message import Message
from google.type import dayofweek_pb2

from kit.errors import INVALID_FIELD, InvalidInput, Violations
from kit.ids import parse_id
from kit.rpc.wire import render_decimal
from services.rating.convert.fields import (
    amount_or_zero,
    check_length,
    decimal_or,
    parse_amount,
    parse_percent,
    parse_positive_quantity,
    parse_price_dimensions,
    parse_quantity_name,
    parse_time_zone,
    render_optional,
    take,
)
from services.rating.convert.tiers import (
    parse_context_tier,
    parse_percentage_tier,
    parse_stair,
    parse_tier,
    parse_tiers,
)
from services.rating.model import ROWS_MAX, TIERS_MAX
from services.rating.prices import (
    ContextTier,
    ContextTierPrice,
    CostPlusPrice,
    DynamicPrice,
    GraduatedPercentagePrice,
    GraduatedPrice,
    MatrixPrice,
    MatrixRow,
    PackagePrice,
    PercentagePrice,
    PriceModel,
    StairstepPrice,
    StandardPrice,
    Tier,
    TimeOfUsePrice,
    TimeWindow,
    VolumePrice,
)
from tollkeeper.api.rating.v1 import plan_pb2

FREE_EVENTS_MAX = 1_000_000
HOURS_OF_A_DAY = 24
DAYS_OF_A_WEEK = 7

_ZERO = Decimal(0)
_ONE = Decimal(1)
_EVERY_DAY = frozenset(range(DAYS_OF_A_WEEK))


def parse_model(message: plan_pb2.Price, field: str) -> PriceModel:
    """Read the kind of a price; `field` is the path of the price."""
    kind = message.WhichOneof("model")
    if kind is None:
        known = ", ".join(_PARSERS)
        raise InvalidInput.of(f"{field}.model", f"one of {known} is required")
    return _PARSERS[kind](getattr(message, kind), f"{field}.{kind}")


def _standard(message: plan_pb2.StandardPrice, field: str) -> StandardPrice:
    violations = Violations()
    price = StandardPrice(
        per_quantity=_per_quantity(violations, message, field),
        amount=take(violations, f"{field}.amount", parse_amount, message.amount),
    )
    violations.raise_if_any()
    return price


def _package(message: plan_pb2.PackagePrice, field: str) -> PackagePrice:
    violations = Violations()
    price = PackagePrice(
        amount=take(violations, f"{field}.amount", parse_amount, message.amount),
        package_size=take(
            violations, f"{field}.package_size", parse_positive_quantity, message.package_size
        ),
    )
    violations.raise_if_any()
    return price


def _graduated(message: plan_pb2.GraduatedPrice, field: str) -> GraduatedPrice:
    return GraduatedPrice(parse_tiers(message.tiers, f"{field}.tiers", parse_tier))


def _volume(message: plan_pb2.VolumePrice, field: str) -> VolumePrice:
    return VolumePrice(parse_tiers(message.tiers, f"{field}.tiers", parse_tier))


def _graduated_percentage(
    message: plan_pb2.GraduatedPercentagePrice, field: str
) -> GraduatedPercentagePrice:
    return GraduatedPercentagePrice(
        parse_tiers(message.tiers, f"{field}.tiers", parse_percentage_tier)
    )


def _stairstep(message: plan_pb2.StairstepPrice, field: str) -> StairstepPrice:
    return StairstepPrice(parse_tiers(message.stairs, f"{field}.stairs", parse_stair))


def _percentage(message: plan_pb2.PercentagePrice, field: str) -> PercentagePrice:
    violations = Violations()
    if not 0 <= message.free_events <= FREE_EVENTS_MAX:
        violations.add(f"{field}.free_events", f"must be from 0 to {FREE_EVENTS_MAX}")
    free_quantity = decimal_or(
        None,
        violations,
        f"{field}.free_quantity",
        message,
        parse_positive_quantity,
    )
    minimum_amount = decimal_or(None, violations, f"{field}.minimum_amount", message, parse_amount)
    maximum_amount = decimal_or(None, violations, f"{field}.maximum_amount", message, parse_amount)
    price = PercentagePrice(
        rate_percent=take(violations, f"{field}.rate_percent", parse_percent, message.rate_percent),
        fixed_amount=amount_or_zero(violations, f"{field}.fixed_amount", message),
        free_events=message.free_events or None,
        free_quantity=free_quantity,
        minimum_amount=minimum_amount,
        maximum_amount=maximum_amount,
    )
    bounds = [bound for bound in (minimum_amount, maximum_amount) if bound is not None]
    if bounds != sorted(bounds):
        violations.add(f"{field}.maximum_amount", "must not be below minimum_amount")
    violations.raise_if_any()
    return price


def _dynamic(message: plan_pb2.DynamicPrice, field: str) -> DynamicPrice:
    return DynamicPrice(parse_id(message.amount_meter_id, f"{field}.amount_meter_id"))


def _cost_plus(message: plan_pb2.CostPlusPrice, field: str) -> CostPlusPrice:
    violations = Violations()
    price = CostPlusPrice(
        take(violations, f"{field}.cost_meter_id", parse_id, message.cost_meter_id),
        take(violations, f"{field}.markup_percent", parse_percent, message.markup_percent),
    )
    violations.raise_if_any()
    return price


def _matrix(message: plan_pb2.MatrixPrice, field: str) -> MatrixPrice:
    if not message.rows:
        raise InvalidInput.of(f"{field}.rows", "at least one row is required")
    check_length(message.rows, f"{field}.rows", ROWS_MAX, reason=INVALID_FIELD)
    violations = Violations()
    first_by_values: dict[frozenset[tuple[str, str]], int] = {}
    for index, row in enumerate(message.rows):
        first = first_by_values.setdefault(frozenset(row.dimensions.items()), index)
        if first != index:
            violations.add(
                f"{field}.rows[{index}].dimensions", f"are those of {field}.rows[{first}] as well"
            )
    if frozenset() not in first_by_values:
        violations.add(
            f"{field}.rows", "one row without dimensions is required, for what no other row prices"
        )
    rows = tuple(
        take(violations, f"{field}.rows[{index}]", _row, row)
        for index, row in enumerate(message.rows)
    )
    per_quantity = _per_quantity(violations, message, field)
    violations.raise_if_any()
    return MatrixPrice(rows, per_quantity)


def _row(message: plan_pb2.MatrixRow, field: str) -> MatrixRow:
    violations = Violations()
    row = MatrixRow(
        take(violations, f"{field}.dimensions", parse_price_dimensions, message.dimensions),
        take(violations, f"{field}.amount", parse_amount, message.amount),
    )
    violations.raise_if_any()
    return row


def _context_tiers(message: plan_pb2.ContextTierPrice, field: str) -> ContextTierPrice:
    violations = Violations()
    price = ContextTierPrice(
        context_quantity=take(
            violations,
            f"{field}.context_quantity",
            parse_quantity_name,
            message.context_quantity,
        ),
        tiers=violations.take(
            f"{field}.tiers",
            lambda: parse_tiers(message.tiers, f"{field}.tiers", parse_context_tier),
        ),
        per_quantity=_per_quantity(violations, message, field),
    )
    violations.raise_if_any()
    return price


def _calls(messages: Sequence[plan_pb2.ContextTier], field: str) -> tuple[ContextTier, ...]:
    return parse_tiers(messages, field, parse_context_tier)


def _time_of_use(message: plan_pb2.TimeOfUsePrice, field: str) -> TimeOfUsePrice:
    if not message.windows:
        raise InvalidInput.of(f"{field}.windows", "at least one window is required")
    check_length(message.windows, f"{field}.windows", TIERS_MAX, reason=INVALID_FIELD)
    violations = Violations()
    price = TimeOfUsePrice(
        time_zone=take(violations, f"{field}.time_zone", parse_time_zone, message.time_zone),
        windows=tuple(
            take(violations, f"{field}.windows[{index}]", _window, window)
            for index, window in enumerate(message.windows)
        ),
        other_amount=take(violations, f"{field}.other_amount", parse_amount, message.other_amount),
        per_quantity=_per_quantity(violations, message, field),
    )
    violations.raise_if_any()
    return price


def _window(message: plan_pb2.TimeWindow, field: str) -> TimeWindow:
    violations = Violations()
    for index, day in enumerate(message.weekdays):
        if not 1 <= day <= DAYS_OF_A_WEEK:
            violations.add(f"{field}.weekdays[{index}]", "must be a day of the week")
    if not 0 <= message.start_hour < HOURS_OF_A_DAY:
        violations.add(f"{field}.start_hour", f"must be from 0 to {HOURS_OF_A_DAY - 1}")
    if not 0 <= message.end_hour <= HOURS_OF_A_DAY:
        violations.add(f"{field}.end_hour", f"must be from 0 to {HOURS_OF_A_DAY}")
    window = TimeWindow(
        frozenset(day - 1 for day in message.weekdays) or _EVERY_DAY,
        message.start_hour,
        message.end_hour,
        take(violations, f"{field}.amount", parse_amount, message.amount),
    )
    violations.raise_if_any()
    return window


def _per_quantity(violations: Violations, message: Message, field: str) -> Decimal:
    return decimal_or(_ONE, violations, f"{field}.per_quantity", message, parse_positive_quantity)


_PARSERS: Mapping[str, Callable[..., PriceModel]] = {
    "standard": _standard,
    "graduated": _graduated,
    "package": _package,
    "volume": _volume,
    "stairstep": _stairstep,
    "graduated_percentage": _graduated_percentage,
    "percentage": _percentage,
    "dynamic": _dynamic,
    "cost_plus": _cost_plus,
    "matrix": _matrix,
    "context_tiers": _context_tiers,
    "time_of_use": _time_of_use,
}


def render_model(model: PriceModel, message: plan_pb2.Price) -> None:
    """Write the kind of a price into its message."""
    kind, render = _RENDERERS[type(model)]
    getattr(message, kind).CopyFrom(render(model))


def _render_standard(model: StandardPrice) -> plan_pb2.StandardPrice:
    return plan_pb2.StandardPrice(
        amount=render_decimal(model.amount), per_quantity=render_decimal(model.per_quantity)
    )


def _render_graduated(model: GraduatedPrice) -> plan_pb2.GraduatedPrice:
    return plan_pb2.GraduatedPrice(tiers=map(_render_tier, model.tiers))


def _render_package(model: PackagePrice) -> plan_pb2.PackagePrice:
    return plan_pb2.PackagePrice(
        amount=render_decimal(model.amount), package_size=render_decimal(model.package_size)
    )


def _render_volume(model: VolumePrice) -> plan_pb2.VolumePrice:
    return plan_pb2.VolumePrice(tiers=map(_render_tier, model.tiers))


def _render_stairstep(model: StairstepPrice) -> plan_pb2.StairstepPrice:
    return plan_pb2.StairstepPrice(
        stairs=[
            plan_pb2.Stair(up_to=render_optional(stair.up_to), amount=render_decimal(stair.amount))
            for stair in model.stairs
        ]
    )


def _render_graduated_percentage(
    model: GraduatedPercentagePrice,
) -> plan_pb2.GraduatedPercentagePrice:
    return plan_pb2.GraduatedPercentagePrice(
        tiers=[
            plan_pb2.PercentageTier(
                up_to=render_optional(tier.up_to),
                rate_percent=render_decimal(tier.rate_percent),
                flat_amount=render_decimal(tier.flat_amount),
            )
            for tier in model.tiers
        ]
    )


def _render_dynamic(model: DynamicPrice) -> plan_pb2.DynamicPrice:
    return plan_pb2.DynamicPrice(amount_meter_id=model.amount_meter_id)


def _render_cost_plus(model: CostPlusPrice) -> plan_pb2.CostPlusPrice:
    return plan_pb2.CostPlusPrice(
        cost_meter_id=model.cost_meter_id, markup_percent=render_decimal(model.markup_percent)
    )


def _render_matrix(model: MatrixPrice) -> plan_pb2.MatrixPrice:
    return plan_pb2.MatrixPrice(
        rows=[
            plan_pb2.MatrixRow(dimensions=dict(row.dimensions), amount=render_decimal(row.amount))
            for row in model.rows
        ],
        per_quantity=render_decimal(model.per_quantity),
    )


def _render_tier(tier: Tier) -> plan_pb2.Tier:
    return plan_pb2.Tier(
        up_to=render_optional(tier.up_to),
        unit_amount=render_decimal(tier.unit_amount),
        flat_amount=render_decimal(tier.flat_amount),
    )


def _render_percentage(model: PercentagePrice) -> plan_pb2.PercentagePrice:
    return plan_pb2.PercentagePrice(
        rate_percent=render_decimal(model.rate_percent),
        fixed_amount=render_decimal(model.fixed_amount),
        free_events=model.free_events or 0,
        free_quantity=render_optional(model.free_quantity),
        minimum_amount=render_optional(model.minimum_amount),
        maximum_amount=render_optional(model.maximum_amount),
    )


def _render_context_tiers(model: ContextTierPrice) -> plan_pb2.ContextTierPrice:
    return plan_pb2.ContextTierPrice(
        context_quantity=model.context_quantity,
        tiers=[
            plan_pb2.ContextTier(
                up_to=render_optional(tier.up_to), amount=render_decimal(tier.amount)
            )
            for tier in model.tiers
        ],
        per_quantity=render_decimal(model.per_quantity),
    )


def _render_time_of_use(model: TimeOfUsePrice) -> plan_pb2.TimeOfUsePrice:
    return plan_pb2.TimeOfUsePrice(
        time_zone=model.time_zone.key,
        windows=[
            plan_pb2.TimeWindow(
                weekdays=[dayofweek_pb2.DayOfWeek.Name(day + 1) for day in sorted(window.weekdays)],
                start_hour=window.start_hour,
                end_hour=window.end_hour,
                amount=render_decimal(window.amount),
            )
            for window in model.windows
        ],
        other_amount=render_decimal(model.other_amount),
        per_quantity=render_decimal(model.per_quantity),
    )


_RENDERERS: Mapping[type, tuple[str, Callable[..., Message]]] = {
    StandardPrice: ("standard", _render_standard),
    GraduatedPrice: ("graduated", _render_graduated),
    PackagePrice: ("package", _render_package),
    VolumePrice: ("volume", _render_volume),
    StairstepPrice: ("stairstep", _render_stairstep),
    GraduatedPercentagePrice: ("graduated_percentage", _render_graduated_percentage),
    PercentagePrice: ("percentage", _render_percentage),
    DynamicPrice: ("dynamic", _render_dynamic),
    CostPlusPrice: ("cost_plus", _render_cost_plus),
    MatrixPrice: ("matrix", _render_matrix),
    ContextTierPrice: ("context_tiers", _render_context_tiers),
    TimeOfUsePrice: ("time_of_use", _render_time_of_use),
}
