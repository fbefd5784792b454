"""Redis through kit: timeouts, scripts that load themselves, and revocations that stay."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import structlog
from redis.exceptions import RedisError

from kit.clock import ManualClock
from kit.errors import CannotStart
from kit.redis_pool import RedisPool, Script
from kit.rpc.revocations import REVOKED_KEYS, Revocations

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


@pytest.fixture
async def pool(redis_url: str) -> AsyncIterator[RedisPool]:
    """A pool onto the Redis of the session."""
    pool = RedisPool(redis_url)
    yield pool
    await pool.close()


@pytest.fixture
def script(tmp_path: Path, tenant: str) -> Script:
    """A script that no server has seen before."""
    file = tmp_path / "echo.lua"
    file.write_text(f"return {{KEYS[1], ARGV[1], '{tenant}'}}")
    return Script(file)


async def test_a_script_loads_itself_when_redis_does_not_know_it(
    pool: RedisPool, script: Script, tenant: str
) -> None:
    """The first call after a restart works as every other, and answers bytes."""
    known = [await pool.client.script_exists(script.sha)]

    answer = await script.run(pool.client, [f"{{{tenant}}}:key"], [7])
    known.append(await pool.client.script_exists(script.sha))

    assert answer == [f"{{{tenant}}}:key".encode(), b"7", tenant.encode()]
    assert known == [[False], [True]]


async def test_a_script_can_be_loaded_ahead(pool: RedisPool, script: Script, tenant: str) -> None:
    """Pipelines call a script by its digest, once it is loaded."""
    await script.load(pool.client)

    pipeline = pool.client.pipeline(transaction=False)
    pipeline.evalsha(script.sha, 1, "a", "1")
    pipeline.evalsha(script.sha, 1, "b", "2")

    assert await pipeline.execute() == [
        [b"a", b"1", tenant.encode()],
        [b"b", b"2", tenant.encode()],
    ]


async def test_a_fault_inside_a_script_is_not_taken_for_a_missing_one(
    pool: RedisPool, tmp_path: Path
) -> None:
    """Errors of the script itself pass to the caller, and it is run once."""
    file = tmp_path / "broken.lua"
    file.write_text("return redis.error_reply('BROKEN on purpose')")

    with pytest.raises(RedisError, match="BROKEN on purpose"):
        await Script(file).run(pool.client, [], [])


async def test_many_callers_share_few_connections(redis_url: str) -> None:
    """More callers than connections wait for their turn, instead of failing."""
    pool = RedisPool(redis_url, connections_max=2)

    answers = await asyncio.gather(*(pool.client.echo(str(number)) for number in range(100)))
    await pool.close()

    assert answers == [str(number).encode() for number in range(100)]


async def test_a_redis_that_hangs_is_given_up_in_time(redis_url: str, tenant: str) -> None:
    """A command that is not answered raises, and the pool is usable afterwards."""
    pool = RedisPool(redis_url, timeout_s=0.05)

    with pytest.raises(RedisError):
        await pool.client.blpop([f"{tenant}:never"], timeout=3600)
    await pool.ping()
    await pool.close()


async def test_a_connection_that_died_while_idle_is_replaced(pool: RedisPool, tenant: str) -> None:
    """After a restart of Redis the next command simply works."""
    await pool.client.client_setname(tenant)
    own = await pool.client.client_id()
    other = RedisPool(pool_url(pool))
    await other.client.client_kill_filter(_id=str(own))
    await other.close()

    assert await pool.client.echo("alive") == b"alive"


def pool_url(pool: RedisPool) -> str:
    """Name the server of a pool."""
    options = pool.client.connection_pool.connection_kwargs
    password = f":{options['password']}@" if options.get("password") else ""
    return f"redis://{password}{options['host']}:{options['port']}"


@pytest.mark.parametrize(
    ("url", "message"),
    [
        pytest.param(
            "redis://:hunter2@127.0.0.1:1",
            "cannot reach Redis at 127.0.0.1:1: Connection refused",
            id="nobody listens",
        ),
        pytest.param(
            "unix:///nowhere",
            "cannot reach Redis at /nowhere: No such file or directory",
            id="no socket",
        ),
    ],
)
async def test_a_start_without_redis_is_one_clear_error(url: str, message: str) -> None:
    """The line names host and port, and never the password."""
    pool = RedisPool(url, startup_timeout_s=0.01)

    with pytest.raises(CannotStart) as refused:
        await pool.connect()

    assert str(refused.value) == message


@pytest.mark.parametrize("url", ["redis://:hunter2@localhost:port", "redis://h?db=hunter2"])
def test_a_url_that_cannot_be_read_is_not_repeated(url: str) -> None:
    """The password is a part of the URL."""
    with pytest.raises(CannotStart) as refused:
        RedisPool(url)

    assert str(refused.value) == "the URL of Redis cannot be read: see its port and options"


@pytest.fixture
def clock() -> ManualClock:
    """A clock at noon."""
    return ManualClock(NOON)


async def test_a_revoked_key_is_known_everywhere(
    pool: RedisPool, clock: ManualClock, tenant: str
) -> None:
    """What one process revokes, another one learns at its next look."""
    here, elsewhere = Revocations(pool, clock), Revocations(pool, clock)
    await elsewhere.connect()
    before = elsewhere.is_revoked(tenant)

    await here.revoke(tenant, NOON + HOUR)
    await elsewhere.refresh()
    after = elsewhere.is_revoked(tenant)
    await elsewhere.close()

    assert (before, after, here.is_revoked(tenant)) == (False, True, True)


async def test_looking_happens_in_the_background(
    pool: RedisPool, clock: ManualClock, tenant: str
) -> None:
    """Nobody has to ask for it."""
    watching = Revocations(pool, clock, refresh_s=0.01)
    await watching.connect()
    await Revocations(pool, clock).revoke(tenant, NOON + HOUR)

    async with asyncio.timeout(30):
        while not watching.is_revoked(tenant):  # noqa: ASYNC110 - it tells nobody.
            await asyncio.sleep(0.01)
    await watching.close()


async def test_a_revoked_key_is_forgotten_when_its_tokens_have_expired(
    pool: RedisPool, clock: ManualClock, tenant: str
) -> None:
    """The list stays short: an expired token is refused anyway, and the entry leaves Redis."""
    revocations = Revocations(pool, clock)
    await revocations.revoke(tenant, NOON + HOUR)

    clock.set(NOON + HOUR + timedelta(seconds=1))
    await revocations.revoke(f"{tenant}-2", NOON + 2 * HOUR)

    assert (revocations.is_revoked(tenant), revocations.is_revoked(f"{tenant}-2")) == (False, True)
    assert await pool.client.zscore(REVOKED_KEYS, tenant) is None


async def test_revoking_again_never_shortens(
    pool: RedisPool, clock: ManualClock, tenant: str
) -> None:
    """The later of two expiries counts."""
    revocations = Revocations(pool, clock)
    await revocations.revoke(tenant, NOON + 2 * HOUR)
    await revocations.revoke(tenant, NOON + HOUR)

    assert await pool.client.zscore(REVOKED_KEYS, tenant) == (NOON + 2 * HOUR).timestamp()


async def test_a_key_once_seen_as_revoked_stays_so_when_redis_is_emptied(
    pool: RedisPool, clock: ManualClock, tenant: str
) -> None:
    """Losing Redis opens no door that was shut."""
    revocations = Revocations(pool, clock)
    await revocations.revoke(tenant, NOON + HOUR)

    await pool.client.zrem(REVOKED_KEYS, tenant)
    await revocations.refresh()

    assert revocations.is_revoked(tenant)


async def test_a_key_once_seen_as_revoked_stays_so_while_redis_is_away(
    pool: RedisPool, clock: ManualClock, tenant: str
) -> None:
    """The background look fails again and again, says so once, and changes nothing."""
    away = RedisPool("redis://127.0.0.1:1")
    revocations = Revocations(pool, clock, refresh_s=0.01)
    await revocations.revoke(tenant, NOON + HOUR)
    await revocations.connect()

    with structlog.testing.capture_logs() as logs:
        revocations._redis = away
        async with asyncio.timeout(30):
            while not logs:  # noqa: ASYNC110 - as above.
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
    await revocations.close()
    await away.close()

    assert revocations.is_revoked(tenant)
    assert logs == [
        {"event": "revocations.stale", "log_level": "warning", "cause": "ConnectionError"}
    ]
