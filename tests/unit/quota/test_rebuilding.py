"""Counters anew from usage: which window, which counter, and how decimals become quanta."""

from collections import defaultdict
from collections.abc import Mapping
from decimal import Decimal

from services.quota.coverage import LimitIndex
from services.quota.model import HOLDS, ConcurrencyWindow, Level, LifetimeWindow, Subject
from services.quota.rebuilding import Rebuilt, Usage, rebuild, starts_of
from tests.quota_builders import a_limit, a_rate, a_subject, unix_ms

NOW_MS = unix_ms("2026-03-15T12:00:00")
MADE_MS = defaultdict[str, int](int)
DAY_MS, NEXT_DAY_MS = unix_ms("2026-03-15T00:00:00"), unix_ms("2026-03-16T00:00:00")


def usage(subject: Subject, events_count: int = 1, **quantities: str) -> Usage:
    """Make the usage of a subject."""
    decimals = {unit: Decimal(text) for unit, text in quantities.items()}
    return Usage(subject, (), decimals, events_count)


def rebuilt(index: LimitIndex, *usages: Usage) -> Mapping[str, int]:
    """Rebuild from the same usage since every start, and answer what is taken by field."""
    since = dict.fromkeys(starts_of(index.clocks_of("acme"), NOW_MS, MADE_MS), usages)
    return {each.field: each.taken for each in rebuild(index, since, NOW_MS, MADE_MS)}


def test_usage_counts_on_each_limit_that_covers_it() -> None:
    """Of two keys, on the customer's counter together and on each key's own."""
    index = LimitIndex([a_limit("day"), a_limit("keys", level=Level.KEY)])
    found = rebuilt(
        index, usage(a_subject(key="k1"), tokens="5"), usage(a_subject(key="k2"), tokens="7")
    )

    assert found == {"day|customer": 12, "keys|key/k1": 5, "keys|key/k2": 7}


def test_each_window_has_its_start() -> None:
    """Its own period, all of time for a lifetime, what drains for a rate; none for open holds."""
    limits = [
        a_limit("day"),
        a_limit("prepaid", window=LifetimeWindow()),
        a_rate("rate", capacity=60, period_ms=60_000, burst=30),
        a_limit("flying", units=(HOLDS,), window=ConcurrencyWindow()),
    ]

    starts = starts_of(LimitIndex(limits).clocks_of("acme"), NOW_MS, MADE_MS)

    assert starts == [0, DAY_MS, NOW_MS - 30_000]


def test_a_counter_has_the_stamp_and_the_parts_of_its_rule() -> None:
    """The end of the window, or the present of a rate whose parts are finer than quanta."""
    index = LimitIndex([a_limit("day"), a_rate("rate", capacity=7, period_ms=3_000)])
    used = (usage(a_subject(), tokens="2"),)
    since = dict.fromkeys(starts_of(index.clocks_of("acme"), NOW_MS, MADE_MS), used)

    assert sorted(rebuild(index, since, NOW_MS, MADE_MS), key=lambda each: each.field) == [
        Rebuilt("day|customer", NEXT_DAY_MS, 2, 0, 1),
        Rebuilt("rate|customer", NOW_MS, 2 * 3_000, 7, 3_000),
    ]


def test_decimals_become_quanta_by_rounding_up() -> None:
    """Whole things, and millionths of seconds and of money."""
    used = usage(a_subject(), 3, tokens="1.2", seconds="0.0000011", USD="12.34")

    assert used.amounts() == {"requests": 3, "tokens": 2, "seconds": 2, "USD": 12_340_000}


def test_events_that_count_requests_are_not_counted_again() -> None:
    """What the event says holds."""
    assert usage(a_subject(), 3, requests="5").amounts() == {"requests": 5}


def test_limits_of_other_customers_are_not_asked_about() -> None:
    """Only those that may cover a call of this one."""
    other = a_limit("other", subject=Subject("other"))
    index = LimitIndex([other, a_limit("all")])

    assert [clock.limit.limit_id for clock in index.clocks_of("acme")] == ["all"]


def test_a_limit_counts_from_when_it_was_made() -> None:
    """In the window in which it was made, and for ever where it has none."""
    limits = [a_limit("day"), a_limit("prepaid", window=LifetimeWindow())]
    made_ms = {"day": DAY_MS + 5, "prepaid": DAY_MS - 7}

    assert starts_of(LimitIndex(limits).clocks_of("acme"), NOW_MS, made_ms) == [
        DAY_MS - 7,
        DAY_MS + 5,
    ]
