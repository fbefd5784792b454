"""`envoy.lua` counts as a few lines of Python say it should, over long random histories.

The present is part of the history; that, and for how long Redis keeps a counter, are the only
changes to the script.
"""

import secrets
from collections.abc import Iterator

import msgpack
import pytest
import redis
from hypothesis import given, settings
from hypothesis import strategies as st

from services.quota.envoy.counters import SCRIPT
from tests.servers import Servers

COUNT_MAX = 2**53 - 1
SECONDS = (1, 60, 3600)
LIMITS = (0, 1, 3, 10, 2**32 - 1)
ADDENDS = st.one_of(st.integers(0, 4), st.sampled_from([2**32, COUNT_MAX]))

Hit = tuple[int, int]
"""The index of a counter, and an addend."""
Batch = tuple[int, list[list[Hit]]]
"""How many seconds later, and the hits of each request."""

HITS = st.tuples(st.integers(1, 4), ADDENDS)
REQUESTS = st.lists(HITS, min_size=1, max_size=4)
BATCHES = st.lists(
    st.tuples(st.sampled_from([0, 0, 1, 59, 60, 3600]), st.lists(REQUESTS, max_size=4)),
    max_size=8,
)


def seconds_of(index: int) -> int:
    """Tell how long the windows of a counter are."""
    return SECONDS[index % len(SECONDS)]


def limit_of(index: int) -> int:
    """Tell the limit of a counter."""
    return LIMITS[index % len(LIMITS)]


class Model:
    """The rule: a count for each counter and window."""

    def __init__(self, *, stops: bool) -> None:
        self._stops = stops
        self._counts: dict[tuple[int, int], int] = {}

    def count(self, request: list[Hit], now_s: int) -> list[int]:
        """Count the hits of a request; answer each counter after its hit."""
        windows = [(index, now_s // seconds_of(index)) for index, _ in request]
        would_be = [
            self._counts.get(window, 0) + addend
            for window, (_, addend) in zip(windows, request, strict=True)
        ]
        refuses = [
            total > limit_of(index) for total, (index, _) in zip(would_be, request, strict=True)
        ]
        after = []
        for window, (_, addend), is_over in zip(windows, request, refuses, strict=True):
            if is_over or not (self._stops and any(refuses)):
                self._counts[window] = min(self._counts.get(window, 0) + addend, COUNT_MAX)
            after.append(self._counts.get(window, 0))
        return after


class InRedis:
    """The script on a real Redis, with counters nobody used before."""

    def __init__(self, client: redis.Redis, *, stops: bool) -> None:
        source = SCRIPT.read_text()
        for ours, theirs in (
            ("redis.call('TIME')", "{ARGV[2], '0'}"),
            ("'EXAT', ends[index]", "'EX', 600"),
        ):
            assert source.count(ours) == 1
            source = source.replace(ours, theirs)
        self._run = client.register_script(source)
        self._stops = stops
        self._keys = [f"test:{{{secrets.token_hex(8)}}}:{index}" for index in range(1, 5)]

    def count(self, requests: list[list[Hit]], now_s: int) -> list[int]:
        """Count requests; answer each counter after its hit."""
        flat: list[int] = []
        for request in requests:
            flat.append(len(request))
            for index, addend in request:
                flat += (index, seconds_of(index), limit_of(index), addend)
        argument = msgpack.packb(self._stops) + msgpack.packb(flat)
        now_ms, *after = msgpack.unpackb(self._run(self._keys, [argument, now_s]))
        assert now_ms == now_s * 1000
        return list(after)


@pytest.fixture(scope="module")
def client(servers: Servers) -> Iterator[redis.Redis]:
    """A connection to the Redis of the session."""
    with redis.Redis.from_url(servers.redis_url) as client:
        yield client


@settings(max_examples=200, deadline=None)
@given(stops=st.booleans(), batches=BATCHES)
def test_the_script_counts_as_the_rule_says(
    client: redis.Redis, *, stops: bool, batches: list[Batch]
) -> None:
    """Whatever comes in one batch, twice in one request, or in another window."""
    model, script = Model(stops=stops), InRedis(client, stops=stops)
    now_s = 1_000_000_000
    for later_s, requests in batches:
        now_s += later_s
        wanted = [each for request in requests for each in model.count(request, now_s)]
        assert script.count(requests, now_s) == wanted
