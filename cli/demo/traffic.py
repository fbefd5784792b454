"""Plays the gateway: makes the planned calls through the client, many at a time.

It keeps its own list of what was used, from which the reconciliation starts.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

from cli.call_meters import CALL_TYPE
from cli.demo.recompute import Used
from cli.demo.workload import GpuJob, PlannedCall
from cli.demo.world import GPU_TYPE
from cli.errors import CommandError
from cli.services import Connection
from tollkeeper import QuotaDenied, Tollkeeper, TollkeeperError, UsageReport

SOURCE = "demo-gateway"
CALLERS = 128
_DECISION_TIMEOUT_S = 30.0

Advance = Callable[[int], None]


class _ModelFailed(Exception):
    """The model gave no answer, so that nothing was used."""


@dataclass(slots=True)
class Traffic:
    """What became of the calls.

    Args:
        used: What was used, in the words of the reconciliation.
        refused: How many calls each limit refused.
        refusals: The first refusal of each limit, as the gateway's developer sees it.
        failed: How many calls the model failed, whose holds were given back.
        overrun: How many calls used more than they had reserved.
        reported: What the client says of its usage events.
    """

    used: list[Used] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)
    refusals: dict[str, str] = field(default_factory=dict)
    failed: int = 0
    overrun: int = 0
    reported: UsageReport = field(default_factory=UsageReport)

    @property
    def passed(self) -> int:
        """How many calls passed the gate and were used."""
        return sum(event.event_type == CALL_TYPE for event in self.used)


async def make_calls(
    connection: Connection, calls: Sequence[PlannedCall], jobs: Sequence[GpuJob], advance: Advance
) -> Traffic:
    """Make every call and report every GPU job; return once the meter has taken all of it.

    Raises:
        CommandError: The gate or the meter did not do its work.
    """
    traffic = Traffic()
    waiting = iter(calls)
    client = Tollkeeper(
        token=connection.token,
        quota=connection.addresses["quota"],
        meter=connection.addresses["meter"],
        source=SOURCE,
        timeout_s=_DECISION_TIMEOUT_S,
    )
    try:
        async with client:
            async with asyncio.TaskGroup() as callers:
                for _ in range(CALLERS):
                    callers.create_task(_call_in_turn(client, waiting, traffic, advance))
            for job in jobs:
                await _report_job(client, job, traffic)
            await client.flush()
    except* TollkeeperError as failures:
        raise CommandError(f"the traffic stopped: {failures.exceptions[0]}") from None
    traffic.reported = client.usage
    return traffic


async def _call_in_turn(
    client: Tollkeeper, waiting: Iterator[PlannedCall], traffic: Traffic, advance: Advance
) -> None:
    for call in waiting:
        try:
            await _make_call(client, call)
        except QuotaDenied as denied:
            limit_id = denied.limit.limit_id
            traffic.refused[limit_id] += 1
            traffic.refusals.setdefault(limit_id, str(denied))
        except _ModelFailed:
            traffic.failed += 1
        else:
            traffic.used.append(_used_by(call))
            traffic.overrun += call.output_tokens > call.reserved_output_tokens
        advance(1)


async def _make_call(client: Tollkeeper, call: PlannedCall) -> None:
    """Do what every gateway does: reserve, call the model, commit what it used."""
    async with client.reserve(
        call.customer_id,
        project=call.project_id,
        key=call.key_id,
        dimensions={"model": call.model},
        requests=1,
        input_tokens=call.input_tokens,
        output_tokens=call.reserved_output_tokens,
    ) as hold:
        if call.fails:
            raise _ModelFailed
        hold.commit(
            event_id=call.event_id,
            time=call.time,
            requests=1,
            input_tokens=call.input_tokens,
            output_tokens=call.output_tokens,
            total_tokens=call.total_tokens,
        )


async def _report_job(client: Tollkeeper, job: GpuJob, traffic: Traffic) -> None:
    await client.report(
        job.customer_id,
        event_id=job.event_id,
        event_type=GPU_TYPE,
        time=job.time,
        dimensions={"gpu": job.gpu},
        gpu_hours=job.gpu_hours,
    )
    traffic.used.append(
        Used(
            event_id=job.event_id,
            source=SOURCE,
            customer_id=job.customer_id,
            project_id="",
            key_id="",
            event_type=GPU_TYPE,
            time=job.time,
            dimensions=(("gpu", job.gpu),),
            quantities=(("gpu_hours", Fraction(job.gpu_hours)),),
        )
    )


def _used_by(call: PlannedCall) -> Used:
    return Used(
        event_id=call.event_id,
        source=SOURCE,
        customer_id=call.customer_id,
        project_id=call.project_id,
        key_id=call.key_id,
        event_type=CALL_TYPE,
        time=call.time,
        dimensions=(("model", call.model),),
        quantities=(
            ("input_tokens", Fraction(call.input_tokens)),
            ("output_tokens", Fraction(call.output_tokens)),
            ("requests", Fraction(1)),
            ("total_tokens", Fraction(call.total_tokens)),
        ),
    )
