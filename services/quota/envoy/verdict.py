"""What counters say about a request: the code of each descriptor, and of all together.

The rule is that of envoyproxy/ratelimit. A descriptor is over its limit when its counter, after the
hits were added, is above it. A request is over when any rule is that is not in quota mode, or when
all rules in quota mode are. Shadow rules are never over. Refuses to count: `counters.py` does.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_FLOOR, Decimal
from typing import Any, NamedTuple

from services.quota.envoy.rules import Limit, Match, Rule

REMAINING_MAX = 2**32 - 1


class Hit(NamedTuple):
    """One descriptor: the rule it meets, if any, and how many hits it adds; 0 only looks."""

    match: Match | None
    addend: int


class Counted(NamedTuple):
    """A counter after a hit, and in how many milliseconds its window ends.

    `is_known_over` says that nobody was asked, since the window was over its limit before.
    """

    total: int
    reset_ms: int
    is_known_over: bool = False


class Status(NamedTuple):
    """What is said of one descriptor; without a limit there was nothing to count."""

    is_over: bool
    limit: Limit | None
    remaining: int
    reset_s: int = 0


@dataclass(frozen=True, slots=True)
class Modes:
    """What holds for all domains."""

    is_shadow: bool = False
    is_quota: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """The answer to a request.

    `nearest` is the limit that is closest to refusing, or the last that does. `was_shadowed` says
    that only the shadow mode of all domains let the request pass.
    """

    is_over: bool
    statuses: tuple[Status, ...]
    nearest: Status | None
    was_shadowed: bool
    metadata: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Tally:
    """By how much one hit moves the statistics of its rule."""

    total_hits: int = 0
    over_limit: int = 0
    near_limit: int = 0
    within_limit: int = 0
    over_limit_with_local_cache: int = 0
    shadow_mode: int = 0


def judge(hits: Sequence[Hit], counted: Sequence[Counted | None], modes: Modes) -> Verdict:
    """Decide a request by its counters; a hit without a limit has none."""
    statuses = [_status(hit, counter) for hit, counter in zip(hits, counted, strict=True)]
    nearest: Status | None = None
    fewest = REMAINING_MAX
    quota_count = quota_over_count = plain_over_count = 0
    for hit, status in zip(hits, statuses, strict=True):
        if status.limit is not None and status.remaining < fewest:
            nearest, fewest = status, status.remaining
        if _is_unlimited(hit):
            continue
        if modes.is_quota or (hit.match is not None and hit.match.rule.is_quota):
            quota_count += 1
            quota_over_count += status.is_over
        elif status.is_over:
            plain_over_count += 1
            nearest, fewest = status, 0
    is_over = plain_over_count > 0 or 0 < quota_count == quota_over_count
    return Verdict(
        is_over=is_over and not modes.is_shadow,
        statuses=tuple(statuses),
        nearest=nearest,
        was_shadowed=is_over and modes.is_shadow,
        metadata=_metadata_of_passed(hits, statuses),
    )


def tally(hit: Hit, counter: Counted, near_ratio: Decimal) -> Tally:
    """Tell how the statistics of a hit's rule move.

    Hits beyond the limit count as over, hits between `near_ratio` of the limit and the limit as
    near. Source: envoyproxy/ratelimit, `base_limiter.go`.
    """
    assert hit.match is not None
    assert hit.match.rule.limit is not None, "only limits are counted"
    addend, limit = hit.addend, hit.match.rule.limit.requests_per_unit
    shadowed = addend if hit.match.rule.is_shadow else 0
    if counter.is_known_over:
        return Tally(
            total_hits=addend,
            over_limit=addend,
            over_limit_with_local_cache=addend,
            shadow_mode=shadowed,
        )
    near_from = int((limit * near_ratio).to_integral_value(ROUND_FLOOR))
    after, before = counter.total, counter.total - addend
    if after <= limit:
        return Tally(
            total_hits=addend,
            near_limit=max(0, after - max(near_from, before)),
            within_limit=addend,
        )
    return Tally(
        total_hits=addend,
        over_limit=min(addend, after - limit),
        near_limit=max(0, limit - max(near_from, before)),
        shadow_mode=shadowed,
    )


def merged(into: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """Merge metadata: maps are merged, of two other values the first stays."""
    result = dict(into)
    for key, value in more.items():
        if key not in result:
            result[key] = value
        elif isinstance(result[key], Mapping) and isinstance(value, Mapping):
            result[key] = merged(result[key], value)
    return result


def _status(hit: Hit, counter: Counted | None) -> Status:
    limit = _limit(hit)
    if limit is None or counter is None:
        return Status(
            is_over=False, limit=None, remaining=REMAINING_MAX if _is_unlimited(hit) else 0
        )
    is_above = counter.is_known_over or counter.total > limit.requests_per_unit
    return Status(
        is_over=is_above and not _rule(hit).is_shadow,
        limit=limit,
        remaining=0 if is_above else limit.requests_per_unit - counter.total,
        reset_s=-(-counter.reset_ms // 1000),
    )


def _metadata_of_passed(hits: Sequence[Hit], statuses: Sequence[Status]) -> dict[str, Any]:
    metadata: dict[str, Any] = {}
    for hit, status in zip(hits, statuses, strict=True):
        if _limit(hit) is not None and not status.is_over and _rule(hit).metadata:
            metadata = merged(metadata, _rule(hit).metadata)
    return metadata


def _rule(hit: Hit) -> Rule:
    assert hit.match is not None
    return hit.match.rule


def _limit(hit: Hit) -> Limit | None:
    return None if hit.match is None else hit.match.rule.limit


def _is_unlimited(hit: Hit) -> bool:
    return hit.match is not None and hit.match.rule.limit is None
