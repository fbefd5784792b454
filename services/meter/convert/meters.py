"""Meters from and to the wire."""

from collections.abc import Sequence
from datetime import datetime

from kit.errors import InvalidInput, Violations
from kit.ids import parse_id
from kit.rpc.wire import render_time
from services.meter.convert.fields import (
    Bad,
    check_key,
    check_type,
    check_value,
    entry_path,
    has_control_characters,
    take,
)
from services.meter.model import Aggregation, Meter
from tollkeeper.api.meter.v1 import meter_pb2, meter_service_pb2

_NAME_LENGTH_MAX = 200
_UNIT_LENGTH_MAX = 63
_FILTERS_MAX = 16
_VALUES_MAX = 64
GROUP_BY_MAX = 8
_AGGREGATIONS = {
    meter_pb2.AGGREGATION_SUM: Aggregation.SUM,
    meter_pb2.AGGREGATION_COUNT: Aggregation.COUNT,
}
_AGGREGATION_NUMBERS = {aggregation: number for number, aggregation in _AGGREGATIONS.items()}


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
    event_type = take(violations, "meter.event_type", check_type, message.event_type)
    aggregation = _AGGREGATIONS.get(message.aggregation)
    if aggregation is None:
        violations.add("meter.aggregation", "must be SUM or COUNT")
    if aggregation is Aggregation.SUM:
        take(violations, "meter.quantity", check_key, message.quantity)
    elif message.quantity:
        violations.add("meter.quantity", "must be empty unless quantities are added")
    if message.HasField("create_time"):
        violations.add("meter.create_time", "must be absent")
    _check_length(violations, "meter.display_name", message.display_name, _NAME_LENGTH_MAX)
    _check_length(violations, "meter.unit", message.unit, _UNIT_LENGTH_MAX)
    filters = _filters(violations, message)
    group_by = parse_group_by(violations, "meter.group_by", message.group_by)
    violations.raise_if_any()
    assert aggregation is not None, "noted above"
    return Meter(
        meter_id=meter_id,
        display_name=message.display_name,
        event_type=event_type,
        aggregation=aggregation,
        quantity=message.quantity,
        filters=filters,
        group_by=tuple(sorted(group_by)),
        unit=message.unit,
        create_time=now,
    )


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


def render_meter(meter: Meter) -> meter_pb2.Meter:
    """Write a meter."""
    return meter_pb2.Meter(
        meter_id=meter.meter_id,
        display_name=meter.display_name,
        event_type=meter.event_type,
        aggregation=_AGGREGATION_NUMBERS[meter.aggregation],
        quantity=meter.quantity,
        filters={key: meter_pb2.DimensionValues(values=values) for key, values in meter.filters},
        group_by=meter.group_by,
        unit=meter.unit,
        create_time=render_time(meter.create_time),
    )


def render_put_meter(meter: Meter) -> meter_service_pb2.PutMeterResponse:
    """Write the answer of `PutMeter`."""
    return meter_service_pb2.PutMeterResponse(meter=render_meter(meter))


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
