"""Usage events from and to the wire.

Each event is read by itself, since a bad one must not spoil the others. What recurs from event to
event is checked only once: a source, a customer, a set of dimensions. Whatever is wrong raises
`Bad`; then the event is gone through again, field by field, to name everything that is. Most events
never become messages: `event_bytes` reads them, and brings here what is rare or wrong.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from datetime import datetime, timedelta
from decimal import Decimal
from functools import lru_cache, partial
from hashlib import blake2b

from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc.error_details_pb2 import BadRequest

from kit.decimals import parse_decimal, plain
from kit.errors import InvalidInput, Violation
from kit.rpc.wire import render_decimal, render_time
from services.meter.convert.fields import (
    Bad,
    check_customer_id,
    check_key,
    check_name,
    check_subject_id,
    check_type,
    check_value,
    entry_path,
)
from services.meter.model import (
    EARLIEST_TIME,
    EPOCH,
    Amount,
    Fate,
    IncomingEvent,
    Outcome,
    StoredEvent,
    UsageEvent,
    canonical,
)
from tollkeeper.api.meter.v1 import meter_pb2, meter_service_pb2
from tollkeeper.api.type.v1.subject_pb2 import Subject

EVENTS_MAX = 10_000
DECIMALS_MAX = 18
ENTRIES_MAX = 16
_FINGERPRINT_BYTES = 16
# Of a rejected event: what is larger is told of, and not kept.
_PAYLOAD_BYTES_MAX = 65_536
_CUSTOMER_LENGTH_KEPT = 128
_REMEMBERED = 16_384
# A set of dimensions may take 12 kB.
_DIMENSIONS_REMEMBERED = 4_096

_NANOS_PER_SECOND = 10**9
_ZERO = Decimal(0)
# What `parse_decimal` would read so as well.
_is_plain = re.compile(r"(?:0|[1-9][0-9]{0,13})(?:\.[0-9]{1,18})?").fullmatch
# Faster than to make one anew.
_new_digest = blake2b(digest_size=_FINGERPRINT_BYTES).copy
_TIME_BOUNDS = "must be between 2000-01-01 and one hour from now"


def check_event_count(count: int) -> None:
    """Make sure that a call holds neither none nor too many events.

    Raises:
        InvalidInput: there are no events; with the reason PAYLOAD_TOO_LARGE, over 10,000.
    """
    if not count:
        raise InvalidInput.of("events", "is required: 1 to 10,000 events")
    if count > EVENTS_MAX:
        description = f"must have at most 10,000 events, and has {count:,}"
        raise InvalidInput(
            "PAYLOAD_TOO_LARGE",
            f"events: {description}",
            metadata={"maximum": str(EVENTS_MAX)},
            violations=(Violation("events", description),),
        )


def parse_event(message: meter_pb2.UsageEvent, latest_us: int) -> IncomingEvent | Fate:
    """Read one event that happened at `latest_us` or before, or say why it is rejected."""
    try:
        return _parse(message, latest_us)
    except Bad:
        violations = tuple(_violations(message, latest_us))
    assert violations, "what is refused at once is also found when looked for"
    payload = message.SerializeToString()
    return Fate(
        Outcome.REJECTED,
        violations,
        payload=payload if len(payload) <= _PAYLOAD_BYTES_MAX else b"",
        customer_id=message.subject.customer_id[:_CUSTOMER_LENGTH_KEPT],
    )


def render_outcomes(fates: Sequence[Fate]) -> meter_service_pb2.IngestEventsResponse:
    """Write one outcome for each event, and the details of those that need some."""
    return meter_service_pb2.IngestEventsResponse(
        outcomes=[_OUTCOMES[fate.outcome] for fate in fates],
        problems=_problems(fates),
        late=_late(fates),
    )


def render_import_outcomes(fates: Sequence[Fate]) -> meter_service_pb2.ImportUsageResponse:
    """Write one outcome for each event of imported history."""
    return meter_service_pb2.ImportUsageResponse(
        outcomes=[_OUTCOMES[fate.outcome] for fate in fates], problems=_problems(fates)
    )


def render_replay_outcomes(
    fates: Sequence[Fate],
) -> meter_service_pb2.ReplayRejectedEventsResponse:
    """Write one outcome for each rejected event that was sent anew."""
    return meter_service_pb2.ReplayRejectedEventsResponse(
        outcomes=[_OUTCOMES[fate.outcome] for fate in fates], problems=_problems(fates)
    )


def render_stream_outcomes(
    batch_id: int, fates: Sequence[Fate]
) -> meter_service_pb2.StreamEventsResponse:
    """Write the outcomes of one batch of a stream, as `render_outcomes` does."""
    return meter_service_pb2.StreamEventsResponse(
        batch_id=batch_id,
        outcomes=[_OUTCOMES[fate.outcome] for fate in fates],
        problems=_problems(fates),
        late=_late(fates),
    )


def render_cloud_event_outcomes(
    fates: Sequence[Fate],
) -> meter_service_pb2.IngestCloudEventsResponse:
    """Write the outcomes of CloudEvents, as `render_outcomes` does."""
    return meter_service_pb2.IngestCloudEventsResponse(
        outcomes=[_OUTCOMES[fate.outcome] for fate in fates],
        problems=_problems(fates),
        late=_late(fates),
    )


def _late(fates: Sequence[Fate]) -> list[int]:
    return [index for index, fate in enumerate(fates) if fate.late]


def _problems(fates: Sequence[Fate]) -> list[meter_service_pb2.EventProblem]:
    return [
        meter_service_pb2.EventProblem(
            index=index,
            outcome=_OUTCOMES[fate.outcome],
            violations=[
                BadRequest.FieldViolation(
                    field=f"events[{index}].{violation.field}", description=violation.description
                )
                for violation in fate.violations
            ],
        )
        for index, fate in enumerate(fates)
        if fate.violations
    ]


def render_event(stored: StoredEvent) -> meter_pb2.StoredEvent:
    """Write a stored event."""
    return meter_pb2.StoredEvent(
        event=render_usage_event(stored.event),
        ingest_time=render_time(stored.ingest_time),
        billed=stored.billed,
        counted_quantity=None
        if stored.counted is None
        else render_decimal(Decimal(stored.counted)),
    )


def render_usage_event(event: UsageEvent) -> meter_pb2.UsageEvent:
    """Write an event as it was sent, in canonical texts."""
    return meter_pb2.UsageEvent(
        event_id=event.event_id,
        source=event.source,
        subject=Subject(
            customer_id=event.customer_id,
            project_id=event.project_id,
            user_id=event.user_id,
            key_id=event.key_id,
            run_id=event.run_id,
        ),
        type=event.type,
        time=render_time(event.time),
        dimensions=json.loads(event.dimensions),
        quantities=json.loads(event.quantities),
    )


def _parse(message: meter_pb2.UsageEvent, latest_us: int) -> IncomingEvent:
    subject = message.subject
    source, event_id = _source(message.source), check_name(message.event_id)
    time_us = read_time(message.time, latest_us)
    event_type, customer_id = _type(message.type), _customer_id(subject.customer_id)
    dimensions = read_dimensions(_entries(message.dimensions))
    quantities, amounts = _quantities(message.quantities)
    content = "\t".join(
        (
            str(time_us),
            event_type,
            customer_id,
            _subject_id(subject.project_id),
            check_subject_id(subject.user_id),
            _subject_id(subject.key_id),
            check_subject_id(subject.run_id),
            dimensions,
            quantities,
        )
    )
    return IncomingEvent(
        source,
        event_id,
        time_us,
        event_type,
        customer_id,
        dimensions,
        content,
        fingerprint_of(content),
        amounts,
    )


def fingerprint_of(content: str) -> str:
    """Digest the content of an event."""
    digest = _new_digest()
    digest.update(content.encode())
    return digest.hexdigest()


def _violations(message: meter_pb2.UsageEvent, latest_us: int) -> Iterator[Violation]:
    subject = message.subject
    checks: Iterable[tuple[str, Callable[[], object]]] = (
        ("event_id", lambda: check_name(message.event_id)),
        ("source", lambda: check_name(message.source)),
        ("subject.customer_id", lambda: check_customer_id(subject.customer_id)),
        ("subject.project_id", lambda: check_subject_id(subject.project_id)),
        ("subject.user_id", lambda: check_subject_id(subject.user_id)),
        ("subject.key_id", lambda: check_subject_id(subject.key_id)),
        ("subject.run_id", lambda: check_subject_id(subject.run_id)),
        ("type", lambda: check_type(message.type)),
        ("time", lambda: read_time(message.time, latest_us)),
        ("dimensions", lambda: _check_count(message.dimensions)),
        *_entry_checks("dimensions", message.dimensions, check_value),
        ("quantities", lambda: _check_count(message.quantities)),
        *_entry_checks("quantities", message.quantities, read_quantity),
    )
    for field, check in checks:
        try:
            check()
        except Bad as error:
            yield Violation(field, str(error))


def _entry_checks(
    field: str, entries: Mapping[str, str], check: Callable[[str], object]
) -> Iterator[tuple[str, Callable[[], object]]]:
    if len(entries) > ENTRIES_MAX:
        return
    for key, value in sorted(entries.items()):
        path = entry_path(field, key)
        yield path, partial(check_key, key)
        yield path, partial(check, value)


def _entries(entries: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    # Faster than items(), which protobuf's maps inherit from a mix-in written in Python.
    return tuple([(key, entries[key]) for key in entries])


def _check_count(entries: Sized) -> None:
    if len(entries) > ENTRIES_MAX:
        raise Bad(f"must have at most {ENTRIES_MAX} entries")


@lru_cache(_DIMENSIONS_REMEMBERED)
def read_dimensions(entries: tuple[tuple[str, str], ...]) -> str:
    """Check entries with different names, and write their canonical text."""
    _check_count(entries)
    for key, value in entries:
        check_key(key)
        check_value(value)
    return canonical(entries)


def _quantities(entries: Mapping[str, str]) -> tuple[str, Mapping[str, Amount]]:
    names = tuple(sorted(entries))
    template = _quantities_template(names)
    texts, amounts = [], {}
    for name in names:
        text, amounts[name] = read_quantity(entries[name])
        texts.append(text)
    return template % tuple(texts), amounts


@lru_cache(_REMEMBERED)
def _quantities_template(names: tuple[str, ...]) -> str:
    """Write what `canonical` would write of these names, with the place of each number open."""
    _check_count(names)
    keys = (json.dumps(check_key(name), ensure_ascii=False) for name in names)
    return "{" + ",".join(f'{key.replace("%", "%%")}:"%s"' for key in keys) + "}"


def read_quantity(text: str) -> tuple[str, Amount]:
    """Read a quantity: the canonical text, and the number, an `int` where it is whole."""
    if not _is_plain(text):
        return _unusual_quantity(text)
    written = text.rstrip("0").rstrip(".") if "." in text else text
    return written, Decimal(text) if "." in written else int(written)


@lru_cache(_REMEMBERED)
def _unusual_quantity(text: str) -> tuple[str, Amount]:
    try:
        value = parse_decimal(text, "quantity", minimum=_ZERO)
    except InvalidInput as error:
        raise Bad(error.violations[0].description) from error
    written = plain(value)
    whole, _, decimals = written.partition(".")
    if len(decimals) > DECIMALS_MAX:
        raise Bad(f"must have at most {DECIMALS_MAX} digits after the point")
    return written, value if decimals else int(whole)


def read_time(message: Timestamp, latest_us: int) -> int:
    """Answer the microseconds since 1970 of a time at `latest_us` or before."""
    seconds, nanos = message.seconds, message.nanos
    if not 0 <= nanos < _NANOS_PER_SECOND:
        raise Bad("must have nanos between 0 and 999,999,999")
    time_us = seconds * 10**6 + nanos // 1000
    if _EARLIEST_US <= time_us <= latest_us:
        return time_us
    raise Bad(_TIME_BOUNDS if seconds or nanos else "is required")


def microseconds_of(instant: datetime) -> int:
    """Answer the microseconds since 1970."""
    return (instant - EPOCH) // timedelta(microseconds=1)


_source = lru_cache(_REMEMBERED)(check_name)
_type = lru_cache(_REMEMBERED)(check_type)
_customer_id = lru_cache(_REMEMBERED)(check_customer_id)
_subject_id = lru_cache(_REMEMBERED)(check_subject_id)

_EARLIEST_US = microseconds_of(EARLIEST_TIME)
_OUTCOMES = {
    outcome: meter_service_pb2.IngestOutcome.Value(f"INGEST_OUTCOME_{outcome.value}")
    for outcome in Outcome
}
