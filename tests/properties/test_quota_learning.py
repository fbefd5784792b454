"""What replicas learned is joined in Redis by the rule of the core."""

from __future__ import annotations

import secrets
from typing import Any, cast

import msgpack
import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.quota.estimators import SCRIPT, flat_of, tally_of
from services.quota.learning import WEIGHT_MAX, Tally

tallies = st.dictionaries(
    st.integers(0, 20),
    st.tuples(st.integers(1, WEIGHT_MAX), st.integers(0, 10**15)),
    max_size=6,
).map(Tally)


@pytest.fixture
def client(redis_url: str) -> redis.Redis:
    """A connection to this test's Redis."""
    return redis.Redis.from_url(redis_url)


@given(news=st.lists(tallies, min_size=1, max_size=5))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_the_script_joins_like_the_core(client: redis.Redis, news: list[Tally]) -> None:
    """Tally by tally, in the order in which they come."""
    key = f"estimates-{secrets.token_hex(8)}"
    expected = Tally()
    told = Tally()
    for each in news:
        argument = msgpack.packb(["series tokens", flat_of(each)], use_bin_type=False)
        answer = client.eval(
            SCRIPT.read_text(), 1, key, cast("str", argument), str(WEIGHT_MAX), "10", "60000"
        )
        (flat,) = cast("list[Any]", msgpack.unpackb(cast("bytes", answer)))
        told = tally_of(flat)
        expected = expected.joined(each) if each.buckets else expected

    assert told == expected


def test_no_more_tallies_are_kept_than_the_bound(client: redis.Redis) -> None:
    """Another one is answered, and forgotten."""
    key = f"estimates-{secrets.token_hex(8)}"
    fields = [part for name in "abc" for part in (name, [1, 16, 1])]
    argument = msgpack.packb(fields, use_bin_type=False)
    client.eval(SCRIPT.read_text(), 1, key, cast("str", argument), "999", "2", "60000")

    assert sorted(cast("list[bytes]", client.hkeys(key))) == [b"a", b"b"]
    assert 0 < client.pttl(key) <= 60_000
