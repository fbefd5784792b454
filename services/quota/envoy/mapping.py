"""How descriptors say which call of Tollkeeper's they are about.

A domain with a mapping has no rules of its own: its requests are calls under Tollkeeper's limits.
One request before the call holds, one after it settles. Refuses to decide and to find the hold.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

LEVELS = ("customer", "project", "user", "key", "run")
UNIT_DEFAULT = "requests"
TTL_MS_DEFAULT = 60_000


class Source(NamedTuple):
    """Where an id comes from: the value of a descriptor's entry, or always the same."""

    key: str = ""
    value: str = ""


@dataclass(frozen=True, slots=True)
class CallMapping:
    """What the entries of descriptors mean in one domain.

    Args:
        subject: By level, from the customer down; an empty source names nobody.
        dimensions: By the key of an entry, the dimension that it is.
        call_id_key: The key whose value names the call, in the request before and the one after.
        unit_key: The key whose value is the unit of the hits; without it they are requests.
        phase_key: The key whose value says whether the call is over.
        settle_value: The value that says so.
        each_call: What every call takes and uses, whatever its descriptors say.
        ttl_ms: How long a hold waits to be settled.
        books_unsettled: Whether a hold that nobody settles is booked, or given back.
    """

    subject: tuple[Source, ...]
    dimensions: Mapping[str, str] = field(default_factory=dict)
    call_id_key: str = ""
    unit_key: str = ""
    phase_key: str = ""
    settle_value: str = "settle"
    each_call: Mapping[str, int] = field(default_factory=dict)
    ttl_ms: int = TTL_MS_DEFAULT
    books_unsettled: bool = False


class MappedCall(NamedTuple):
    """What a request asks: for whom, of what, how much; `units` are those of its descriptors."""

    path: tuple[str, ...]
    dimensions: Mapping[str, str]
    amounts: Mapping[str, int]
    units: tuple[str, ...]
    call_id: str
    is_settlement: bool


class Unmappable(Exception):
    """A request that cannot be a call; the place is that of the descriptor at fault."""

    def __init__(self, place: int, description: str) -> None:
        self.place = place
        super().__init__(description)


def map_call(
    mapping: CallMapping, descriptors: Sequence[tuple[Iterable[tuple[str, str]], int]]
) -> MappedCall:
    """Read the descriptors of one request as one call.

    They are about the same call, so an entry that several have means once what it means; of hits in
    the same unit the most counts.

    Raises:
        Unmappable: entries contradict each other, or none names the customer.
    """
    entries: dict[str, str] = {}
    amounts = dict(mapping.each_call)
    units: list[str] = []
    for place, (given, addend) in enumerate(descriptors):
        own = dict(given)
        for key, value in own.items():
            if key != mapping.unit_key and entries.setdefault(key, value) != value:
                raise Unmappable(place, f"has another {key} than a descriptor before it")
        unit = own.get(mapping.unit_key, UNIT_DEFAULT)
        units.append(unit)
        amounts[unit] = max(amounts.get(unit, 0), addend)
    path = tuple(entries.get(source.key, source.value) for source in mapping.subject)
    if not path[0]:
        key = mapping.subject[0].key
        raise Unmappable(0, f"names no customer: no descriptor has an entry {key!r}")
    return MappedCall(
        path,
        {name: entries[key] for key, name in mapping.dimensions.items() if key in entries},
        amounts,
        tuple(units),
        entries.get(mapping.call_id_key, ""),
        bool(mapping.phase_key) and entries.get(mapping.phase_key) == mapping.settle_value,
    )
