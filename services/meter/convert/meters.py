"""Meters from and to the wire."""

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal

from kit.errors import InvalidInput, Violations
from kit.ids import parse_id
from kit.rpc.wire import parse_decimal_message, render_decimal, render_time
from services.meter.aggregation import SUBJECT_LEVELS
from services.meter.convert.fields import (
    Bad,
    check_key,
    check_type,
    check_value,
    entry_path,
    has_control_characters,
    take,
)
from services.meter.expressions import Expression
from services.meter.model import (
    WITHOUT_QUANTITY,
    Aggregation,
    Definition,
    Meter,
    MeterState,
    Rounding,
    RoundingMode,
    TimeUnit,
)
from tollkeeper.api.meter.v1 import meter_pb2, meter_service_pb2

_NAME_LENGTH_MAX = 200
_UNIT_LENGTH_MAX = 63
_FILTERS_MAX = 16
_VALUES_MAX = 64
GROUP_BY_MAX = 8
_PERCENT = Decimal(100)
_PERCENTILE_DECIMALS_MAX = 6
_PRECISION_MIN, _PRECISION_MAX = -12, 18
_AGGREGATIONS = {
    getattr(meter_pb2, f"AGGREGATION_{aggregation.name}"): aggregation
    for aggregation in Aggregation
}
_AGGREGATION_NUMBERS = {aggregation: number for number, aggregation in _AGGREGATIONS.items()}
_MODES = {getattr(meter_pb2, f"ROUNDING_MODE_{mode.name}"): mode for mode in RoundingMode}
_MODE_NUMBERS = {mode: number for number, mode in _MODES.items()}
_TIME_UNITS = {getattr(meter_pb2, f"TIME_UNIT_{unit.name}"): unit for unit in TimeUnit}
_TIME_UNIT_NUMBERS = {unit: number for number, unit in _TIME_UNITS.items()}


def parse_put_meter(request: meter_service_pb2.PutMeterRequest, now: datetime) -> Meter:
    """Read the meter to put, as of now; its names may be empty.

    Raises:
        InvalidInput: naming every bad field.
    """
    if not request.HasField("meter"):
        raise InvalidInput.of("meter", "is required")
    message = request.meter
    violations = Violations()
    meter_id = violations.take(
        "meter.meter_id", lambda: parse_id(message.meter_id, "meter.meter_id")
    )
    definition = _parse_definition(violations, message)
    for field in ("create_time", "effective_time", "backfill"):
        if message.HasField(field):
            violations.add(f"meter.{field}", "must be absent")
    if message.version:
        violations.add("meter.version", "must be absent")
    _check_length(violations, "meter.display_name", message.display_name, _NAME_LENGTH_MAX)
    _check_length(violations, "meter.unit", message.unit, _UNIT_LENGTH_MAX)
    violations.raise_if_any()
    assert definition is not None, "noted above"
    return Meter(
        meter_id=meter_id,
        display_name=message.display_name,
        unit=message.unit,
        definition=definition,
        create_time=now,
    )


def _parse_definition(violations: Violations, message: meter_pb2.Meter) -> Definition | None:
    event_type = take(violations, "meter.event_type", check_type, message.event_type)
    aggregation = _AGGREGATIONS.get(message.aggregation)
    if aggregation is None:
        names = ", ".join(each.name for each in Aggregation)
        violations.add("meter.aggregation", f"must be one of {names}")
    else:
        _check_source(violations, message, aggregation)
    percentile = violations.take("meter.percentile", lambda: _percentile(message, aggregation))
    rounding = violations.take("meter.rounding", lambda: _rounding(message))
    time_unit = violations.take("meter.time_unit", lambda: _time_unit(message, aggregation))
    filters = _filters(violations, message)
    group_by = parse_group_by(violations, "meter.group_by", message.group_by)
    if aggregation is None:
        return None
    return Definition(
        event_type=event_type,
        aggregation=aggregation,
        quantity=message.quantity,
        expression=message.expression,
        unique_by=message.unique_by,
        percentile=percentile,
        rounding=rounding,
        time_unit=time_unit,
        filters=filters,
        group_by=tuple(sorted(group_by)),
    )


def _check_source(
    violations: Violations, message: meter_pb2.Meter, aggregation: Aggregation
) -> None:
    """Check what is aggregated: a quantity or an expression, a property, or nothing."""
    if aggregation in WITHOUT_QUANTITY:
        for field in ("quantity", "expression"):
            if getattr(message, field):
                violations.add(f"meter.{field}", f"must be empty for {aggregation.name}")
    elif message.expression:
        if message.quantity:
            violations.add("meter.quantity", "must be empty beside an expression")
        violations.take(
            "meter.expression", lambda: Expression(message.expression, "meter.expression")
        )
    else:
        take(violations, "meter.quantity", check_key, message.quantity)
    if aggregation is not Aggregation.UNIQUE_COUNT:
        if message.unique_by:
            violations.add("meter.unique_by", f"must be empty for {aggregation.name}")
    elif message.unique_by not in SUBJECT_LEVELS:
        take(violations, "meter.unique_by", check_key, message.unique_by)


def _percentile(message: meter_pb2.Meter, aggregation: Aggregation | None) -> Decimal | None:
    field = "meter.percentile"
    if aggregation is not Aggregation.PERCENTILE:
        if message.HasField("percentile"):
            raise InvalidInput.of(field, "must be absent unless for PERCENTILE")
        return None
    value = parse_decimal_message(message.percentile, field)
    exponent = value.as_tuple().exponent
    if not 0 < value <= _PERCENT or (
        isinstance(exponent, int) and -exponent > _PERCENTILE_DECIMALS_MAX
    ):
        raise InvalidInput.of(
            field, "must be over 0 and at most 100, with at most 6 digits after the point"
        )
    return value


def _rounding(message: meter_pb2.Meter) -> Rounding | None:
    if not message.HasField("rounding"):
        return None
    violations = Violations()
    mode = _MODES.get(message.rounding.mode)
    precision = message.rounding.precision
    if mode is None:
        violations.add("meter.rounding.mode", "must be ROUND, CEIL or FLOOR")
    if not _PRECISION_MIN <= precision <= _PRECISION_MAX:
        violations.add("meter.rounding.precision", "must be between -12 and 18")
    violations.raise_if_any()
    assert mode is not None, "noted above"
    return Rounding(mode, precision)


def _time_unit(message: meter_pb2.Meter, aggregation: Aggregation | None) -> TimeUnit:
    if not message.time_unit:
        return TimeUnit.SECOND
    if aggregation is not Aggregation.WEIGHTED_SUM:
        raise InvalidInput.of("meter.time_unit", "must be absent unless for WEIGHTED_SUM")
    unit = _TIME_UNITS.get(message.time_unit)
    if unit is None:
        raise InvalidInput.of("meter.time_unit", "must be SECOND, MINUTE, HOUR or DAY")
    return unit


def parse_group_by(violations: Violations, field: str, keys: Sequence[str]) -> tuple[str, ...]:
    """Read up to 8 different dimensions, noting each that is bad."""
    if len(keys) > GROUP_BY_MAX:
        violations.add(field, f"must have at most {GROUP_BY_MAX} dimensions")
        return ()
    for index, key in enumerate(keys):
        take(violations, f"{field}[{index}]", check_key, key)
        if key in keys[:index]:
            violations.add(f"{field}[{index}]", "must not repeat another dimension")
    return tuple(keys)


def render_meter(state: MeterState) -> meter_pb2.Meter:
    """Write a meter, and how far it has counted."""
    meter, definition = state.meter, state.meter.definition
    rounding = definition.rounding
    weighted = definition.aggregation is Aggregation.WEIGHTED_SUM
    behind = meter.counted_from
    return meter_pb2.Meter(
        meter_id=meter.meter_id,
        display_name=meter.display_name,
        event_type=definition.event_type,
        aggregation=_AGGREGATION_NUMBERS[definition.aggregation],
        quantity=definition.quantity,
        filters={
            key: meter_pb2.DimensionValues(values=values) for key, values in definition.filters
        },
        group_by=definition.group_by,
        unit=meter.unit,
        expression=definition.expression,
        unique_by=definition.unique_by,
        percentile=render_decimal(definition.percentile) if definition.percentile else None,
        rounding=(
            meter_pb2.Rounding(mode=_MODE_NUMBERS[rounding.mode], precision=rounding.precision)
            if rounding
            else None
        ),
        time_unit=_TIME_UNIT_NUMBERS[definition.time_unit]
        if weighted
        else meter_pb2.TIME_UNIT_UNSPECIFIED,
        create_time=render_time(meter.create_time),
        version=meter.version,
        effective_time=render_time(meter.effective_time) if meter.effective_time else None,
        backfill=(
            meter_pb2.Backfill(counted_from=render_time(behind), percent=state.percent)
            if behind
            else meter_pb2.Backfill(complete=True)
        ),
        exact_from_time=render_time(meter.exact_from) if meter.exact_from else None,
    )


def render_put_meter(state: MeterState) -> meter_service_pb2.PutMeterResponse:
    """Write the answer of `PutMeter`."""
    return meter_service_pb2.PutMeterResponse(meter=render_meter(state))


def _filters(
    violations: Violations, message: meter_pb2.Meter
) -> tuple[tuple[str, tuple[str, ...]], ...]:
    filters = message.filters
    if len(filters) > _FILTERS_MAX:
        violations.add("meter.filters", f"must have at most {_FILTERS_MAX} dimensions")
        return ()
    for key in sorted(filters):
        field = entry_path("meter.filters", key)
        take(violations, field, check_key, key)
        values = filters[key].values
        if not 1 <= len(values) <= _VALUES_MAX:
            violations.add(field, f"must have 1 to {_VALUES_MAX} values")
            continue
        for index, value in enumerate(values):
            take(violations, f"{field}.values[{index}]", check_value, value)
    return tuple((key, tuple(sorted(set(filters[key].values)))) for key in sorted(filters))


def _check_length(violations: Violations, field: str, text: str, maximum: int) -> None:
    def check(written: str) -> None:
        if len(written) > maximum or has_control_characters(written):
            raise Bad(f"must have at most {maximum} characters, no control ones")

    take(violations, field, check, text)
