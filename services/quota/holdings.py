"""Holds as their records tell them: whose they are, until when, and what they took from what.

Refuses to change anything: the script alone writes what is read here.
"""

from collections.abc import Iterable
from typing import NamedTuple

import msgpack

from services.quota.counting import GAUGE
from services.quota.coverage import described_hold
from services.quota.model import Dimensions, HoldPhase, Subject

HOLDERS_MAX = 100


class HeldOn(NamedTuple):
    """How much a hold took from the counter of a limit."""

    limit_id: str
    scope: str
    quantity: int


class Holding(NamedTuple):
    """A hold that has not ended."""

    name: str
    subject: Subject
    dimensions: Dimensions
    create_ms: int
    expire_ms: int
    phase: HoldPhase
    held: tuple[HeldOn, ...]

    def held_on(self, limits: frozenset[tuple[str, str]]) -> int:
        """Add up what it holds on some limits, each with its scope."""
        return sum(each.quantity for each in self.held if (each.limit_id, each.scope) in limits)


def read_holding(name: str, record: bytes) -> Holding:
    """Read a hold from its record."""
    unpacker = msgpack.Unpacker(raw=True)
    unpacker.feed(record)
    expire_ms, description, phase, create_ms, *amounts = unpacker
    subject, dimensions, _, counted = described_hold(description)
    held = tuple(
        HeldOn(*counted_by(subject.customer, field), amounts[slot - 1]) for field, slot in counted
    )
    return Holding(name, subject, dimensions, create_ms, expire_ms, HoldPhase(phase), held)


def counted_by(customer: str, field: str) -> tuple[str, str]:
    """Answer which limit a counter is of, and its scope, given the name of the counter."""
    limit_id, _, place = field.replace(GAUGE, "|").partition("|")
    _, _, name = place.partition("/")
    return limit_id, f"{customer}/{name}" if name else customer


def holders_of(
    holdings: Iterable[Holding], limits: frozenset[tuple[str, str]], at_ms: int
) -> list[Holding]:
    """Find who held most on some limits at an instant, of the holds that have not ended since."""
    then = [each for each in holdings if each.create_ms <= at_ms and each.held_on(limits)]
    then.sort(key=lambda each: (-each.held_on(limits), each.name))
    return then[:HOLDERS_MAX]
