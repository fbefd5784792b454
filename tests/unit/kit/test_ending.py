"""Background tasks end, also those that miss a cancellation, and their failures are told."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from kit import ending
from kit.ending import end


async def test_a_task_that_misses_its_cancellation_is_cancelled_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A loop whose call swallows the first one does not keep its service from stopping."""
    monkeypatch.setattr(ending, "_AGAIN_S", 0.01)

    async def work_for_ever() -> None:
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(3600)
        await asyncio.sleep(3600)

    task = asyncio.create_task(work_for_ever())
    await asyncio.sleep(0)
    await end(task)

    assert task.cancelled()


async def test_tasks_that_are_over_are_left_and_a_failure_is_raised() -> None:
    """What a task failed with is not lost."""

    async def fail() -> None:
        raise RuntimeError("it failed")

    done = asyncio.create_task(asyncio.sleep(0))
    failed = asyncio.create_task(fail())
    await asyncio.wait((done, failed))

    await end(done)
    with pytest.raises(RuntimeError, match="it failed"):
        await end(failed)
