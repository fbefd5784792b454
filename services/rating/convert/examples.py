"""Examples of plan files between the wire and the domain; every bad field is named at once."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import chain, repeat

from google.type.interval_pb2 import Interval as IntervalMessage

from kit.errors import INVALID_FIELD, InvalidInput, Violations
from services.rating.convert.fields import (
    check_length,
    decimal_or,
    parse_amount,
    parse_name,
    parse_price_dimensions,
    parse_quantity,
    take,
    take_each,
)
from services.rating.convert.ratings import LINE_KINDS, parse_rate
from services.rating.examples import Example, ExpectedLine
from services.rating.model import PeriodToRate
from tollkeeper.api.rating.v1 import plan_file_pb2, rating_service_pb2

EXAMPLES_MAX = 1000
USAGE_MAX = 1000
TIMES_MAX = 10_000

_CUSTOMER = "example"
_JANUARY = IntervalMessage()
_JANUARY.start_time.FromJsonString("2026-01-01T00:00:00Z")
_JANUARY.end_time.FromJsonString("2026-02-01T00:00:00Z")
_KINDS = {number: kind for kind, number in LINE_KINDS.items()}
_SAME_FIELDS = {"proration", "contract_start", "billed_before", "as_of", "overrides"}
_GIVEN = "given_usage.quantities"


def parse_examples(
    messages: Sequence[plan_file_pb2.PlanExample], field: str
) -> tuple[Example, ...]:
    """Read the examples of a plan file."""
    check_length(messages, field, EXAMPLES_MAX, reason=INVALID_FIELD)
    return take_each(messages, field, _example)


def _example(message: plan_file_pb2.PlanExample, field: str) -> Example:
    violations = Violations()
    if not message.name:
        violations.add(f"{field}.name", "is required")
    example = Example(
        name=take(violations, f"{field}.name", parse_name, message.name),
        to_rate=take(violations, field, _to_rate, message),
        lines=tuple(
            take(violations, f"{field}.lines[{index}]", _line, line)
            for index, line in enumerate(message.lines)
        ),
        total=take(violations, f"{field}.total", parse_amount, message.total),
    )
    violations.raise_if_any()
    return example


def _to_rate(message: plan_file_pb2.PlanExample, field: str) -> PeriodToRate:
    """Read an example as the request that would rate it, whose fields have the same names."""
    check_length(message.usage, f"{field}.usage", USAGE_MAX, reason=INVALID_FIELD)
    violations = Violations()
    for index, usage in enumerate(message.usage):
        if not 0 <= usage.times <= TIMES_MAX:
            violations.add(f"{field}.usage[{index}].times", f"must be from 0 to {TIMES_MAX}")
    request = rating_service_pb2.RateRequest(
        customer_id=_CUSTOMER,
        plan_id=_CUSTOMER,
        period=message.period if message.HasField("period") else _JANUARY,
        time_zone=message.time_zone,
        previous_periods=message.previous_periods,
        given_usage=rating_service_pb2.GivenUsage(quantities=map(_quantity, message.usage)),
    )
    for descriptor, value in message.ListFields():
        if descriptor.name in _SAME_FIELDS:
            getattr(request, descriptor.name).CopyFrom(value)
    try:
        to_rate = parse_rate(request)
    except InvalidInput as error:
        for violation in error.violations:
            path = violation.field.replace(_GIVEN, "usage", 1)
            violations.add(f"{field}.{path}", violation.description)
        violations.raise_if_any()
        raise
    violations.raise_if_any()
    return _repeated(to_rate, [usage.times or 1 for usage in message.usage])


def _quantity(message: plan_file_pb2.ExampleUsage) -> rating_service_pb2.UsageQuantity:
    return rating_service_pb2.UsageQuantity(
        meter_id=message.meter_id,
        dimensions=message.dimensions,
        quantity=message.quantity if message.HasField("quantity") else None,
        time=message.time if message.HasField("time") else None,
        quantities=message.quantities,
    )


def _repeated(to_rate: PeriodToRate, times: Sequence[int]) -> PeriodToRate:
    given = to_rate.given_usage or ()
    repeated = (repeat(usage, count) for usage, count in zip(given, times, strict=True))
    return replace(to_rate, given_usage=tuple(chain.from_iterable(repeated)))


def _line(message: plan_file_pb2.ExampleLine, field: str) -> ExpectedLine:
    violations = Violations()
    line = ExpectedLine(
        price_id=message.price_id,
        kind=_KINDS.get(message.kind),
        group=take(violations, f"{field}.group", parse_price_dimensions, message.group),
        quantity=decimal_or(None, violations, f"{field}.quantity", message, parse_quantity),
        unrounded_amount=decimal_or(
            None, violations, f"{field}.unrounded_amount", message, parse_amount
        ),
        amount=take(violations, f"{field}.amount", parse_amount, message.amount),
    )
    violations.raise_if_any()
    return line
