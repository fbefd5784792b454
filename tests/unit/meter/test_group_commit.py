"""Calls share transactions, get their own answers, and never more of them wait than allowed."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

import pytest

from kit.errors import Exhausted
from services.meter.group_commit import GroupCommit, GroupLimits

LIMITS = GroupLimits(
    tenant_transactions_max=1, transactions_max=2, transaction_items=4, items_max=10
)


class Store:
    """Stores what it is given once the gate is open, and answers each item in upper case."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.groups: list[str] = []
        self.failure: Exception | None = None

    async def __call__(self, tenant: str, items: Sequence[str]) -> list[str]:
        """Store a group."""
        self.groups.append(f"{tenant}:{''.join(items)}")
        await self.gate.wait()
        if self.failure:
            raise self.failure
        return [item.upper() for item in items]


async def submit(commit: GroupCommit[str, str], tenant: str, items: str) -> str:
    """Submit some letters, and join the answers."""
    return "".join(await commit.submit(tenant, items))


async def begin(commit: GroupCommit[str, str], tenant: str, *calls: str) -> list[asyncio.Task[str]]:
    """Submit calls at once, and let them get as far as they can."""
    tasks = [asyncio.create_task(submit(commit, tenant, items)) for items in calls]
    for _ in range(30):
        await asyncio.sleep(0)
    return tasks


async def test_calls_gather_while_a_transaction_runs() -> None:
    """The first call goes at once; those that come meanwhile share the next, up to its size."""
    store = Store()
    commit = GroupCommit(store, LIMITS)

    tasks = await begin(commit, "t", "a")
    tasks += await begin(commit, "t", "bc", "de", "f")
    store.gate.set()

    assert await asyncio.gather(*tasks) == ["A", "BC", "DE", "F"]
    assert store.groups == ["t:a", "t:bcde", "t:f"]


async def test_calls_that_are_being_read_join_the_first() -> None:
    """A transaction begins when turns of the loop bring no more calls, or it has enough of them."""
    store = Store()
    store.gate.set()
    commit = GroupCommit(store, replace(LIMITS, parallel_items=3))

    tasks = []
    for items in ("a", "b", "c", "d"):
        tasks.append(asyncio.create_task(submit(commit, "t", items)))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    await asyncio.gather(*tasks)

    assert store.groups == ["t:abc", "t:d"]


async def test_a_transaction_does_not_wait_for_everybody() -> None:
    """Enough callers share it; those that come later are read while it runs."""
    store = Store()
    store.gate.set()
    limits = replace(LIMITS, transaction_items=100, items_max=100, parallel_items=100)
    commit = GroupCommit(store, limits)

    tasks = []
    for _ in range(60):
        tasks.append(asyncio.create_task(submit(commit, "t", "a")))
        await asyncio.sleep(0)
    await asyncio.gather(*tasks)

    assert [len(group.removeprefix("t:")) for group in store.groups] == [40, 20]


async def test_a_call_larger_than_a_transaction_goes_alone() -> None:
    """A call is never split, however large."""
    store = Store()
    store.gate.set()

    answer = await submit(GroupCommit(store, LIMITS), "t", "abcdefghijklm")

    assert (answer, store.groups) == ("ABCDEFGHIJKLM", ["t:abcdefghijklm"])


async def test_tenants_never_share_a_transaction() -> None:
    """Each tenant has its own transactions, side by side up to the bound of all."""
    store = Store()
    commit = GroupCommit(store, LIMITS)

    tasks = [task for tenant in ("x", "y", "z") for task in await begin(commit, tenant, "ab")]
    running = list(store.groups)
    store.gate.set()
    await asyncio.gather(*tasks)

    assert (running, store.groups) == (["x:ab", "y:ab"], ["x:ab", "y:ab", "z:ab"])


async def test_more_than_may_wait_is_refused_and_the_rest_goes_on() -> None:
    """Back-pressure comes before memory grows, with the time to try again."""
    store = Store()
    commit = GroupCommit(store, LIMITS)
    (waiting,) = await begin(commit, "t", "abcdefgh")

    with pytest.raises(Exhausted) as refused:
        await submit(commit, "other", "ijk")
    store.gate.set()

    assert (refused.value.reason, refused.value.retry_after) == ("OVERLOADED", timedelta(seconds=1))
    assert await waiting == "ABCDEFGH"
    assert await submit(commit, "other", "ijk") == "IJK"


async def test_a_failure_reaches_every_caller_of_the_transaction_and_nobody_else() -> None:
    """Who shared a failed transaction is told; the next transaction runs."""
    store = Store()
    commit = GroupCommit(store, LIMITS)
    store.failure = RuntimeError("no database")

    tasks = await begin(commit, "t", "a", "b", "c")
    store.gate.set()
    failed = await asyncio.gather(*tasks, return_exceptions=True)
    store.failure = None

    assert [str(each) for each in failed] == ["no database"] * 3
    assert await submit(commit, "t", "d") == "D"


async def test_a_caller_who_left_is_not_stored() -> None:
    """A call that was cancelled while it waited takes no part in the transaction."""
    store = Store()
    commit = GroupCommit(store, LIMITS)
    (first,) = await begin(commit, "t", "a")
    second, third = await begin(commit, "t", "b", "c")

    second.cancel()
    store.gate.set()

    assert list(await asyncio.gather(first, third)) == ["A", "C"]
    assert store.groups == ["t:a", "t:c"]


async def test_a_caller_who_leaves_during_the_transaction_disturbs_nobody() -> None:
    """What runs is finished for the others."""
    store = Store()
    commit = GroupCommit(store, LIMITS)
    first, second = await begin(commit, "t", "a", "b")

    first.cancel()
    store.gate.set()

    assert (await second, store.groups) == ("B", ["t:ab"])


async def test_closing_waits_for_what_runs() -> None:
    """Nothing is left running when the group commit is closed."""
    store = Store()
    commit = GroupCommit(store, LIMITS)
    (running,) = await begin(commit, "t", "a")

    closing = asyncio.create_task(commit.close())
    await asyncio.sleep(0)
    closed_early = closing.done()
    store.gate.set()
    await closing

    assert (closed_early, await running) == (False, "A")


async def test_a_call_that_waits_is_never_refused() -> None:
    """Beyond the bound it waits until there is room, and is stored then."""
    store = Store()
    commit = GroupCommit(store, LIMITS)
    tasks = await begin(commit, "t", "abcdefgh")

    waiting = asyncio.create_task(commit.submit("t", "ijk", waits=True))
    with pytest.raises(Exhausted):
        await commit.submit("t", "ijk")
    await asyncio.sleep(0)
    before = list(store.groups)
    store.gate.set()

    assert (await asyncio.gather(*tasks), await waiting) == (["ABCDEFGH"], ["I", "J", "K"])
    assert (before, store.groups) == (["t:abcdefgh"], ["t:abcdefgh", "t:ijk"])


async def test_a_few_items_share_the_next_transaction_instead_of_having_their_own() -> None:
    """Beside one that runs a transaction begins only for enough items; what waits is not lost."""
    store = Store()
    limits = GroupLimits(
        tenant_transactions_max=2,
        transactions_max=4,
        transaction_items=10,
        items_max=20,
        parallel_items=3,
    )
    commit = GroupCommit(store, limits)

    tasks = await begin(commit, "t", "a")
    tasks += await begin(commit, "t", "b", "c")
    one_runs = list(store.groups)
    tasks += await begin(commit, "t", "d")
    two_run = list(store.groups)
    tasks += await begin(commit, "t", "e")
    store.gate.set()

    assert await asyncio.gather(*tasks) == ["A", "B", "C", "D", "E"]
    assert (one_runs, two_run) == (["t:a"], ["t:a", "t:bcd"])
    assert store.groups == ["t:a", "t:bcd", "t:e"]
