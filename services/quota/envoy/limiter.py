"""Decides a request: finds the rules, has the counters counted, and judges what they say.

Windows that are known to be over may be remembered, so that Redis is not asked about them again;
they are then not charged either, as in the original. Refuses to remember more than it was told.
"""

import asyncio
import math
from collections.abc import Callable, Sequence
from decimal import Decimal

from kit import telemetry
from services.quota.envoy.batcher import Batcher
from services.quota.envoy.convert import Descriptor
from services.quota.envoy.counters import Request
from services.quota.envoy.files import RuleFiles
from services.quota.envoy.mapping import CallMapping
from services.quota.envoy.rules import Entry, Match, applied
from services.quota.envoy.verdict import Counted, Hit, Modes, Tally, Verdict, judge, tally

Key = tuple[str, str, str]
"""Tenant, domain and counter."""

# What was found for descriptors is remembered until the rules change, or there are too many.
_FOUND_MAX = 20_000
_STATISTICS = tuple(Tally.__dataclass_fields__)
_counters = {
    name: telemetry.meter.create_counter(
        f"envoy.ratelimit.{name}", description=f"{name} of envoyproxy/ratelimit, by rule."
    )
    for name in (*_STATISTICS, "global_shadow_mode")
}


class KnownOver:
    """The windows that are over their limit, at most `size`; the oldest is forgotten first."""

    def __init__(self, size: int, now_s: Callable[[], float]) -> None:
        self._size = size
        self._now_s = now_s
        self._ends_s: dict[Key, float] = {}

    def remaining_ms(self, key: Key) -> int:
        """Tell for how long a window is over; 0 when that is not known."""
        end_s = self._ends_s.get(key)
        if end_s is None:
            return 0
        remaining_ms = math.ceil((end_s - self._now_s()) * 1000)
        if remaining_ms <= 0:
            del self._ends_s[key]
        return max(0, remaining_ms)

    def remember(self, key: Key, end_s: float) -> None:
        """Note that a window is over until it ends."""
        if self._size == 0:
            return
        self._ends_s.pop(key, None)
        if len(self._ends_s) >= self._size:
            del self._ends_s[next(iter(self._ends_s))]
        self._ends_s[key] = end_s


class Limiter:
    """One for the facade.

    Args:
        near_ratio: From which part of a limit on its hits count as near it in metrics.
        local_cache_size: How many windows that are over are remembered.
    """

    def __init__(
        self,
        files: RuleFiles,
        batcher: Batcher,
        modes: Modes,
        *,
        near_ratio: Decimal,
        local_cache_size: int,
    ) -> None:
        self._files = files
        self._batcher = batcher
        self._modes = modes
        self._near_ratio = near_ratio
        self._has_cache = local_cache_size > 0
        self._rules = files.rules
        self._found: dict[tuple[str, tuple[Entry, ...]], Match | None] = {}
        self._known_over = KnownOver(local_cache_size, _loop_s)

    async def decide(self, tenant: str, domain: str, descriptors: Sequence[Descriptor]) -> Verdict:
        """Decide a request of a tenant, and count it.

        Raises:
            Unavailable: COUNTERS_UNAVAILABLE.
        """
        rules = self._files.rules
        if rules is not self._rules or len(self._found) > _FOUND_MAX:
            self._rules, self._found = rules, {}
        matches = [self._find(domain, each) for each in descriptors]
        hits = tuple(
            Hit(match, descriptor.addend)
            for match, descriptor in zip(applied(matches), descriptors, strict=True)
        )
        request = Request(tenant, domain, hits)
        counted = await self._count(request)
        verdict = judge(hits, counted, self._modes)
        if telemetry.is_on():
            self._measure(hits, counted, verdict)
        return verdict

    def mapping(self, domain: str) -> CallMapping | None:
        """Answer how a domain is mapped to Tollkeeper's limits, if it is."""
        return self._files.rules.mappings.get(domain)

    def _find(self, domain: str, descriptor: Descriptor) -> Match | None:
        if descriptor.override is not None:
            return self._rules.find(domain, descriptor.entries, descriptor.override)
        asked = (domain, descriptor.entries)
        if asked in self._found:
            return self._found[asked]
        match = self._found[asked] = self._rules.find(*asked)
        return match

    async def _count(self, request: Request) -> Sequence[Counted | None]:
        if all(hit.match is None or hit.match.rule.limit is None for hit in request.hits):
            return [None] * len(request.hits)
        if not self._has_cache:
            return await self._batcher.count(request)
        asked_at_s = _loop_s()
        known = {
            place: Counted(0, remaining_ms, is_known_over=True)
            for place, key in self._keys(request).items()
            if (remaining_ms := self._known_over.remaining_ms(key))
        }
        counted = await self._batcher.count(request._replace(uncounted=frozenset(known)))
        for place, key in self._keys(request).items():
            hit, counter = request.hits[place], counted[place]
            assert hit.match is not None
            assert hit.match.rule.limit is not None
            if counter is not None and counter.total > hit.match.rule.limit.requests_per_unit:
                # Counted from before the question, so that it ends no later than the window.
                self._known_over.remember(key, asked_at_s + counter.reset_ms / 1000)
        return [known.get(place, counter) for place, counter in enumerate(counted)]

    def _keys(self, request: Request) -> dict[int, Key]:
        return {
            place: (request.tenant, request.domain, hit.match.counter)
            for place, hit in enumerate(request.hits)
            if hit.match is not None and hit.match.rule.limit is not None
        }

    def _measure(
        self, hits: Sequence[Hit], counted: Sequence[Counted | None], verdict: Verdict
    ) -> None:
        for hit, counter in zip(hits, counted, strict=True):
            if counter is None or hit.match is None:
                continue
            moved = tally(hit, counter, self._near_ratio)
            for name in _STATISTICS:
                if by := getattr(moved, name):
                    _counters[name].add(by, {"rule": hit.match.metric})
        if verdict.was_shadowed:
            _counters["global_shadow_mode"].add(1)


def _loop_s() -> float:
    return asyncio.get_running_loop().time()
