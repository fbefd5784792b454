"""Events and meters of the domain with defaults, so that a test shows only what matters to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from services.meter.convert.events import parse_event
from services.meter.model import (
    Aggregation,
    Amount,
    Definition,
    IncomingEvent,
    Meter,
    Rollup,
    Series,
    Span,
    Tally,
)
from tests import meter_world

LONG_AFTER_US = 32_503_680_000_000_000
LONG_BEFORE = datetime(2020, 1, 1, tzinfo=UTC)


def an_incoming_event(
    event_id: str = "e1",
    *,
    time: datetime = meter_world.NOON,
    customer_id: str = "acme",
    type: str = "llm.call",  # noqa: A002 - the contract's word.
    quantities: Mapping[str, str] = meter_world.DEFAULT_QUANTITIES,
    **dimensions: str,
) -> IncomingEvent:
    """Make an event as it comes in; other keyword arguments are its dimensions."""
    message = meter_world.an_event(
        event_id,
        time=time,
        customer_id=customer_id,
        type=type,
        dimensions=dimensions,
        quantities=quantities,
    )
    parsed = parse_event(message, LONG_AFTER_US)
    assert isinstance(parsed, IncomingEvent)
    return parsed


def a_stored_meter(
    meter_id: str = "tokens",
    *,
    quantity: str = "tokens",
    aggregation: Aggregation | None = None,
    display_name: str = "Tokens",
    unit: str = "token",
    filters: Mapping[str, Sequence[str]] | None = None,
    **definition: Any,  # noqa: ANN401 - of any definition.
) -> Meter:
    """Make a meter that adds up tokens; without a quantity, one that counts events."""
    return Meter(
        meter_id=meter_id,
        display_name=display_name,
        unit=unit,
        definition=Definition(
            event_type=definition.pop("event_type", "llm.call"),
            aggregation=aggregation or (Aggregation.SUM if quantity else Aggregation.COUNT),
            quantity=quantity,
            filters=tuple((key, tuple(values)) for key, values in (filters or {}).items()),
            **definition,
        ),
        create_time=LONG_BEFORE,
    )


def redefined(meter: Meter, **changes: Any) -> Meter:  # noqa: ANN401 - of any definition.
    """Change what a meter counts."""
    return replace(meter, definition=replace(meter.definition, **changes))


def a_rollup(
    series: Series, start: datetime, quantity: Amount, event_count: int, span: Span = Span.QUARTER
) -> Rollup:
    """Make a rollup of what is added up."""
    return Rollup(series, span, start, Tally(quantity, event_count))
