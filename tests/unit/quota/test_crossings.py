"""Which thresholds the figures of an answer show as reached."""

from services.quota.crossings import Crossing, crossed, watch
from services.quota.model import LifetimeWindow
from tests.quota_builders import a_limit, a_rate

NOW_MS = 1_000_000
HOUR_MS = 3_600_000


def test_only_limits_with_thresholds_are_watched() -> None:
    """Each at its place among the limits of the coverage; what is only remembered is not."""
    limits = [
        (a_limit("a"), "acme"),
        (a_limit("b", alert_thresholds=(80,)), "acme/k1"),
        (None, "acme"),
        (a_rate("c"), "acme"),
    ]

    assert [(each.place, each.limit_id, each.scope) for each in watch(limits)] == [
        (1, "b", "acme/k1")
    ]
    assert watch([(a_limit(), "acme")]) == ()


def test_a_threshold_is_reached_when_so_much_of_the_capacity_is_used() -> None:
    """Rounded up to a quantum; the overdraft does not count."""
    watched = watch([(a_limit(capacity=7, alert_thresholds=(50, 100, 120)), "acme")])

    def reached(used: int) -> list[int]:
        figures = [used, 99, HOUR_MS]
        return [each.threshold for each in crossed(watched, figures, width=3, now_ms=NOW_MS)]

    assert [reached(used) for used in (3, 4, 6, 7, 8, 9)] == [
        [],
        [50],
        [50],
        [50, 100],
        [50, 100],
        [50, 100, 120],
    ]


def test_a_crossing_says_in_which_window_it_was() -> None:
    """Of a lifetime it is the capacity, so that a payment begins another."""
    watched = watch(
        [
            (a_limit("day", capacity=10, alert_thresholds=(50,)), "acme"),
            (
                a_limit("paid", capacity=20, window=LifetimeWindow(), alert_thresholds=(50,)),
                "acme",
            ),
        ]
    )
    found = crossed(watched, [5, 0, HOUR_MS, -1, 12, 0, -1, -1], width=4, now_ms=NOW_MS)

    assert found == [
        Crossing("day", "acme", NOW_MS + HOUR_MS, 50, 10, 5),
        Crossing("paid", "acme", -20, 50, 20, 12),
    ]


def test_a_limit_of_nothing_is_reached_by_the_first_use() -> None:
    """Not before anything was used."""
    watched = watch([(a_limit(capacity=0, alert_thresholds=(100,)), "acme")])

    assert crossed(watched, [0, 0, HOUR_MS], width=3, now_ms=NOW_MS) == []
    assert len(crossed(watched, [1, 0, HOUR_MS], width=3, now_ms=NOW_MS)) == 1
