"""Reads all that Redis keeps of customers, and audits it.

What is read of one customer is read at one instant. Refuses to change anything.
"""

from typing import Any

import msgpack

from kit.telemetry import meter
from services.quota.auditing import NOTHING_AUDITED, Audit, HoldRecord, audit
from services.quota.counters import Root, keys_of
from services.quota.counting import GAUGE
from services.quota.coverage import described_hold
from services.quota.model import HoldPhase
from services.quota.redis_link import Link, RedisLink, check_replies, packed
from services.quota.refusals import unavailable

_KEYS_PER_STEP = 1000
_START = b"0"
_drift = meter.create_gauge(
    "quota.counter_drift", description="How much counters and open holds differed at the last look."
)


class Audits:
    """Audits the counters of one customer, or of all that a tenant has."""

    def __init__(self, link: Link) -> None:
        self._link = link

    async def audit(self, tenant: str, customer: str) -> Audit:
        """Audit a customer, or with an empty id every one.

        Raises:
            Unavailable: COUNTERS_UNAVAILABLE.
        """
        try:
            customers = [customer] if customer else await self._customers(tenant)
            found = NOTHING_AUDITED
            for each in customers:
                found = found.joined(await self._audit_one(Root(tenant, each)))
        except OSError as error:
            raise unavailable(error) from error
        _drift.set(sum(abs(drift.counted - drift.derived) for drift in found.drifts))
        return found

    async def _audit_one(self, root: Root) -> Audit:
        key, *_ = keys_of(root)
        (fields,) = check_replies(await self._link.ask([packed("HGETALL", key)], [key]))
        held: dict[str, int] = {}
        holds: list[HoldRecord] = []
        for name, value in zip(fields[::2], fields[1::2], strict=True):
            field = name.decode()
            if "|" in field or GAUGE in field:
                _, _, _, held[field], *_ = _unpacked_all(value)
            elif not field.startswith("_"):
                holds.append(_hold_record(value))
        return audit(root.customer, held, holds)

    async def _customers(self, tenant: str) -> list[str]:
        prefix, suffix = f"tollkeeper:quota:{{{tenant}/", "}:counters"
        names: set[str] = set()
        for node in await self._link.nodes():
            async for key in _matching(node, f"{prefix}*{suffix}"):
                names.add(key.removeprefix(prefix).removesuffix(suffix))
        return sorted(names)


async def _matching(node: RedisLink, pattern: str) -> Any:  # noqa: ANN401 - mypy calls it AsyncIterator.
    cursor = _START
    while True:
        command = packed("SCAN", cursor, "MATCH", pattern, "COUNT", _KEYS_PER_STEP)
        ((cursor, keys),) = check_replies(await node.ask([command]))
        for key in keys:
            yield key.decode()
        if cursor == _START:
            return


def _hold_record(value: bytes) -> HoldRecord:
    _, description, phase, _, *amounts = _unpacked_all(value)
    counted = described_hold(description).counted
    return HoldRecord(HoldPhase(phase), [(field, amounts[slot - 1]) for field, slot in counted])


def _unpacked_all(data: bytes) -> list[Any]:
    unpacker = msgpack.Unpacker(raw=True)
    unpacker.feed(data)
    return list(unpacker)
