"""Envoy's messages and our values: requests are parsed, verdicts are rendered."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from math import ceil
from typing import Any, NamedTuple

from google.protobuf.json_format import ParseDict

from kit.errors import Violations
from services.quota.envoy.messages import RateLimitResponse
from services.quota.envoy.rules import Entry, Limit, Unit
from services.quota.envoy.verdict import Status, Verdict
from tollkeeper import QuotaDenied, denial_headers, rate_limit_headers
from tollkeeper.api.quota.v1.quota_pb2 import LimitStatus
from tollkeeper.errors import parse_limit

DESCRIPTORS_MAX = 1000
_UINT32_MAX = 2**32 - 1

_OK = RateLimitResponse.OK
_OVER_LIMIT = RateLimitResponse.OVER_LIMIT


class Descriptor(NamedTuple):
    """What a caller asks of one descriptor; an override stands in for the rules of the files."""

    entries: tuple[Entry, ...]
    addend: int
    override: Limit | None = None


class Decided(NamedTuple):
    """How a call under Tollkeeper's limits was decided, and the units of its descriptors."""

    is_over: bool
    limits: Sequence[LimitStatus]
    units: tuple[str, ...]
    now: datetime


@dataclass(frozen=True, slots=True)
class Headers:
    """The names of the headers that answers carry."""

    limit: str
    remaining: str
    reset: str


def parse_request(message: Any) -> list[Descriptor]:  # noqa: ANN401 - made at run time.
    """Read the descriptors of a request.

    A descriptor's own number of hits counts, where 0 only looks; else that of the request, where 0
    means 1.

    Raises:
        InvalidInput: naming every bad field.
    """
    return parse_descriptors(message, message.hits_addend or 1)


def parse_descriptors(message: Any, addend: int) -> list[Descriptor]:  # noqa: ANN401 - as above.
    """Read the descriptors of a request that adds so many hits where they do not say it.

    Raises:
        InvalidInput: naming every bad field.
    """
    violations = Violations()
    if not message.domain:
        violations.add("domain", "must not be empty")
    if not message.descriptors:
        violations.add("descriptors", "must not be empty")
    if len(message.descriptors) > DESCRIPTORS_MAX:
        violations.add("descriptors", f"must be at most {DESCRIPTORS_MAX}")
    violations.raise_if_any()
    descriptors = [
        _descriptor(each, addend, f"descriptors[{place}]", violations)
        for place, each in enumerate(message.descriptors)
    ]
    violations.raise_if_any()
    return descriptors


def render_verdict(verdict: Verdict, headers: Headers | None) -> Any:  # noqa: ANN401 - as above.
    """Write the answer, with headers when they have names."""
    response = RateLimitResponse(overall_code=_OVER_LIMIT if verdict.is_over else _OK)
    for status in verdict.statuses:
        _add_status(response, status)
    nearest = verdict.nearest
    if headers is not None and nearest is not None and nearest.limit is not None:
        add = response.response_headers_to_add.add
        add(key=headers.limit, value=str(nearest.limit.requests_per_unit))
        add(key=headers.remaining, value=str(nearest.remaining))
        add(key=headers.reset, value=str(nearest.reset_s))
    return response


def render_decided(decided: Decided, *, has_headers: bool) -> Any:  # noqa: ANN401 - as above.
    """Write the answer to a call under Tollkeeper's limits; a refusal always has its headers."""
    response = RateLimitResponse(overall_code=_OVER_LIMIT if decided.is_over else _OK)
    for unit in decided.units:
        counting = [limit for limit in decided.limits if unit in limit.units]
        _add_limit(response.statuses.add(code=_OK), counting, decided.now)
    limits = tuple(map(parse_limit, decided.limits))
    headers: Mapping[str, str] = {}
    if decided.is_over:
        headers = denial_headers(QuotaDenied(limits), decided.now)
    elif has_headers:
        headers = rate_limit_headers(limits, decided.now)
    for name, value in headers.items():
        response.response_headers_to_add.add(key=name, value=value)
    return response


def _add_limit(status: Any, counting: Sequence[LimitStatus], now: datetime) -> None:  # noqa: ANN401 - as above.
    """Say of a descriptor what the limit says that refuses its unit, or has the least left."""
    if not counting:
        return
    limit = min(counting, key=lambda each: (not each.decided, each.remaining))
    status.code = _OVER_LIMIT if limit.decided else _OK
    status.limit_remaining = min(limit.remaining, _UINT32_MAX)
    status.current_limit.requests_per_unit = min(limit.capacity, _UINT32_MAX)
    status.current_limit.name = limit.limit_id
    if limit.HasField("reset_time"):
        until_reset = limit.reset_time.ToDatetime(UTC) - now
        status.duration_until_reset.seconds = max(0, ceil(until_reset / timedelta(seconds=1)))


def add_metadata(response: Any, request: Any, verdict: Verdict) -> None:  # noqa: ANN401 - as above.
    """Add what Envoy's other filters may read: what was asked, and the metadata of what passed."""
    metadata: dict[str, Any] = {
        "domain": request.domain,
        "descriptors": [_described(descriptor) for descriptor in request.descriptors],
    }
    if request.hits_addend:
        metadata["hitsAddend"] = request.hits_addend
    if verdict.metadata:
        metadata["metadata"] = verdict.metadata
    ParseDict(metadata, response.dynamic_metadata)


def _descriptor(message: Any, addend: int, field: str, violations: Violations) -> Descriptor:  # noqa: ANN401 - as above.
    override: Limit | None = None
    if message.HasField("limit"):
        number = message.limit.unit
        # Both enumerations of Envoy have the same numbers as far as this one goes.
        if Unit.SECOND <= number <= Unit.YEAR:
            override = Limit(message.limit.requests_per_unit, Unit(number))
        else:
            violations.add(f"{field}.limit.unit", "is not known")
    entries = tuple((entry.key, entry.value) for entry in message.entries)
    own = message.hits_addend.value if message.HasField("hits_addend") else addend
    return Descriptor(entries, own, override)


def _add_status(response: Any, status: Status) -> None:  # noqa: ANN401 - as above.
    limit = status.limit
    rendered = response.statuses.add(
        code=_OVER_LIMIT if status.is_over else _OK, limit_remaining=status.remaining
    )
    if limit is not None:
        current = rendered.current_limit
        current.requests_per_unit = limit.requests_per_unit
        current.unit = limit.unit
        current.name = limit.name
        rendered.duration_until_reset.seconds = status.reset_s


def _described(descriptor: Any) -> dict[str, Any]:  # noqa: ANN401 - as above.
    described: dict[str, Any] = {
        "entries": [f"{entry.key}={entry.value}" for entry in descriptor.entries]
    }
    if descriptor.HasField("limit"):
        described["limit"] = _text(descriptor.limit)
    if descriptor.HasField("hits_addend"):
        described["hitsAddend"] = descriptor.hits_addend.value
    return described


def _text(limit: Any) -> str:  # noqa: ANN401 - as above.
    return f"requests_per_unit:{limit.requests_per_unit} unit:{Unit(limit.unit).name}"
