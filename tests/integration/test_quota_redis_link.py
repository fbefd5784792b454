"""The connection to Redis on which commands follow each other without waiting."""

import asyncio
from collections.abc import AsyncIterator
from urllib.parse import urlsplit, urlunsplit

import pytest

from kit.errors import CannotStart
from services.quota.breaker import FAILURES_MAX, PAUSE_MS
from services.quota.redis_link import NotAsked, RedisLink, ReplyError, packed

_WRITE = packed("SET", "tollkeeper:test:written", "x", "PX", 1)
_SLOW = """
local start = redis.call('TIME')
local now = start
while (now[1] - start[1]) * 1000000 + now[2] - start[2] < 40000 do now = redis.call('TIME') end
return 'done'
"""


@pytest.fixture
async def link(redis_url: str) -> AsyncIterator[RedisLink]:
    """A link to the Redis of the session."""
    opened = RedisLink(redis_url)
    yield opened
    await opened.close()


def echo(text: str) -> bytes:
    """Make a command that answers a text."""
    return packed("ECHO", text)


async def test_replies_are_those_of_the_commands(link: RedisLink) -> None:
    """Of every kind, and an error among them is a reply like the others."""
    replies = await link.ask(
        [
            echo("one"),
            packed("HGET", "no such key", "field"),
            packed("NO SUCH COMMAND"),
            echo("two"),
        ]
    )

    assert (replies[0], replies[1], replies[3]) == (b"one", None, b"two")
    assert isinstance(replies[2], ReplyError)


async def test_nothing_asked_is_nothing_answered(link: RedisLink) -> None:
    """And nothing is sent."""
    assert await link.ask([]) == []


async def test_many_ask_at_once_and_each_gets_its_own(link: RedisLink) -> None:
    """Large and small, over one connection that was opened once."""
    texts = [str(number) * (1 + 997 * number % 5_000) for number in range(200)]
    replies = await asyncio.gather(
        *(link.ask([echo(text), packed("CLIENT", "ID")]) for text in texts)
    )

    assert [reply[0].decode() for reply in replies] == texts
    assert len({reply[1] for reply in replies}) == 1


async def test_who_gave_up_does_not_shift_the_replies_of_others(link: RedisLink) -> None:
    """A reply that nobody waits for any more is read all the same."""
    await link.ask([echo("open")])
    given_up = asyncio.ensure_future(link.ask([echo("given up")]))
    await asyncio.sleep(0)
    given_up.cancel()

    assert await link.ask([echo("mine")]) == [b"mine"]


async def test_a_broken_connection_is_told_and_opened_anew(link: RedisLink) -> None:
    """Who waits gets an error, for nobody knows what took effect; who comes next gets an answer."""
    await link.ask([echo("open")])
    waiting = asyncio.ensure_future(link.ask([packed("BLPOP", "no such list", 0)]))
    await asyncio.sleep(0)
    link.drop()

    with pytest.raises(ConnectionError):
        await waiting
    assert await link.ask([echo("again")]) == [b"again"]


async def test_a_connection_that_went_silent_is_given_up() -> None:
    """As when a host vanished: who asks is told in time, and after a while it is opened anew."""
    connections: list[asyncio.StreamWriter] = []
    server = await asyncio.start_server(lambda _, writer: connections.append(writer), "127.0.0.1")
    port = server.sockets[0].getsockname()[1]
    link = RedisLink(f"redis://127.0.0.1:{port}", timeout_s=0.05, overdue_s=0.1)
    outcomes: list[type[BaseException]] = []
    for _ in range(500):
        if len(connections) > 1:
            break
        outcomes += map(type, await asyncio.gather(link.ask([echo("x")]), return_exceptions=True))
        await asyncio.sleep(0.01)
    await link.close()
    server.close()
    for writer in connections:
        writer.close()

    assert outcomes[0] is TimeoutError
    assert len(connections) == 2


async def test_who_asks_is_told_at_once_while_redis_does_not_answer(
    redis_url: str, link: RedisLink
) -> None:
    """After some have waited in vain only one now and then tries; his reply lets all others ask."""
    silent = RedisLink(redis_url, timeout_s=0.05)
    await silent.ask([echo("open")])
    await link.ask([packed("CLIENT", "PAUSE", 60_000, "WRITE")])
    try:
        refusals = [await refusal(silent) for _ in range(FAILURES_MAX + 2)]
        await asyncio.sleep(PAUSE_MS / 1000)
        refusals.append(await refusal(silent))
        refusals.append(await refusal(silent))
    finally:
        await link.ask([packed("CLIENT", "UNPAUSE")])
    await asyncio.sleep(PAUSE_MS / 1000)
    replies = [await silent.ask([_WRITE]) for _ in range(2)]
    await silent.close()

    waited, told = [TimeoutError], [NotAsked]
    assert refusals == waited * FAILURES_MAX + told * 2 + waited + told
    assert replies == [[b"OK"]] * 2


async def refusal(link: RedisLink) -> type[OSError]:
    """Ask in vain, and answer how that ended."""
    with pytest.raises(OSError) as caught:  # noqa: PT011 - any of them.
        await link.ask([_WRITE])
    return caught.type


async def test_a_redis_that_answers_others_first_is_not_away(redis_url: str) -> None:
    """A long queue of commands is waited for as long as replies keep coming."""
    link = RedisLink(redis_url, timeout_s=0.1)
    # Redis answers what it has read before it reads on, which is 16 KiB at a time.
    slow = packed("EVAL", _SLOW + " " * 32_768, 0)
    asked = [asyncio.ensure_future(link.ask([slow])) for _ in range(10)]
    replies = await asyncio.gather(*asked)
    await link.close()

    assert replies == [[b"done"]] * 10


async def test_a_connection_that_redis_closes_is_opened_anew(link: RedisLink) -> None:
    """As when it restarts."""
    with pytest.raises(ConnectionError):
        await link.ask([packed("QUIT"), echo("never answered")])

    assert await link.ask([echo("again")]) == [b"again"]


async def test_the_database_of_the_url_is_selected(redis_url: str) -> None:
    """What one database holds the other does not."""
    other = RedisLink(urlunsplit(urlsplit(redis_url)._replace(path="/5")))
    client = await other.ask([packed("CLIENT", "INFO")])
    await other.close()

    assert " db=5 " in client[0].decode()


async def test_a_wrong_password_is_an_error_that_does_not_show_it(redis_url: str) -> None:
    """Nothing is asked of a Redis that does not let us in."""
    parts = urlsplit(redis_url)
    url = urlunsplit(parts._replace(netloc=f"user:secret-word@{parts.hostname}:{parts.port}"))
    with pytest.raises(ConnectionError) as refusal:
        await RedisLink(url).ask([echo("x")])

    assert "secret-word" not in str(refusal.value)


async def test_a_missing_server_is_an_error() -> None:
    """Of the kind that a caller of the gate is told to repeat after."""
    with pytest.raises(OSError):  # noqa: PT011 - any of them.
        await RedisLink("redis://127.0.0.1:1").ask([echo("x")])


def test_a_malformed_url_stops_the_start_without_showing_it() -> None:
    """A port that is no number may be a piece of a password."""
    with pytest.raises(CannotStart) as refusal:
        RedisLink("redis://:secret@host:secret")

    assert "secret" not in str(refusal.value)
