"""What calls alike have used, so that the next one can be held by what it will probably need.

A tally counts amounts in buckets whose bounds grow by an eighth, keeps the largest amount of each,
and halves all weights now and then, so that what was long ago fades. The estimate is the 95th
percentile. Integers only: replicas that saw the same answer the same.

A tally is of one unit of one series, the calls of one route and model. The name of a hold carries
what was estimated for it, and the series, so that its answer can be repeated, and its commit be
learned from by any replica.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from types import MappingProxyType

from services.quota.model import Amounts, Dimensions, Estimate
from services.quota.weights import is_money, quanta_of

WEIGHT = 16
"""What one observation weighs at first."""
WEIGHT_MAX = 16 * 1024
"""Where all weights are halved, so that a tally remembers about the last thousand calls."""
KNOWN_FROM = 20
"""How many observations must still weigh before they are believed."""

_MODEL = "model"
_SERIES_BYTES = 5
_SERIES_LENGTH = 2 * _SERIES_BYTES
_PLAIN_PARTS = 2
_PERCENT = 95
_SHARE_BITS = 3
_FIRST_COUNTED = 256
_FIRST_SECONDS = 10
_FIRST_MONEY_QUANTA = 10_000


@dataclass(frozen=True, slots=True)
class Tally:
    """How often amounts of about one size were used: by bucket a weight, and the largest amount."""

    buckets: Mapping[int, tuple[int, int]] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def weight(self) -> int:
        """Answer what all observations weigh together."""
        return sum(weight for weight, _ in self.buckets.values())

    def seeing(self, quantity: int) -> "Tally":
        """Add an observation."""
        return self.joined(Tally({bucket_of(quantity): (WEIGHT, quantity)}))

    def joined(self, other: "Tally") -> "Tally":
        """Add what another tally saw, and let what is old fade."""
        buckets = dict(self.buckets)
        for bucket, (weight, largest) in other.buckets.items():
            known, known_largest = buckets.get(bucket, (0, 0))
            buckets[bucket] = known + weight, max(known_largest, largest)
        while sum(weight for weight, _ in buckets.values()) > WEIGHT_MAX:
            buckets = {
                bucket: (weight // 2, largest)
                for bucket, (weight, largest) in buckets.items()
                if weight > 1
            }
        return Tally(buckets)

    def percentile(self) -> int | None:
        """Answer the amount within which 95 of 100 calls stayed; nothing while few are known."""
        total = self.weight
        if total < KNOWN_FROM * WEIGHT:
            return None
        seen = 0
        for bucket in sorted(self.buckets):
            weight, largest = self.buckets[bucket]
            seen += weight
            if seen * 100 >= total * _PERCENT:
                return largest
        raise AssertionError("all weights together are the total")


def bucket_of(quantity: int) -> int:
    """Number the bucket of an amount: eight of them from each power of two to the next."""
    shift = max(quantity.bit_length() - _SHARE_BITS - 1, 0)
    return (shift << _SHARE_BITS) + (quantity >> shift)


def estimate(tally: Tally | None, unit: str, quantity_max: int) -> int:
    """Say how much to hold of a unit, at most `quantity_max`, of which 0 is no bound."""
    learned = None if tally is None else tally.percentile()
    quantity = _first(unit) if learned is None else learned
    return min(quantity, quantity_max) if quantity_max else quantity


def _first(unit: str) -> int:
    """Answer what is held while nothing is known: little, since it can be extended."""
    if is_money(unit):
        return _FIRST_MONEY_QUANTA
    return _FIRST_SECONDS * quanta_of(unit) if quanta_of(unit) > 1 else _FIRST_COUNTED


def series_of(dimensions: Dimensions, route: str) -> str:
    """Name the series of calls of a route to the model that the dimensions name."""
    model = dict(dimensions).get(_MODEL, "")
    content = f"{len(model)} {model} {route}".encode()
    return blake2b(content, digest_size=_SERIES_BYTES).hexdigest()


def hold_name(base: str, estimated: Sequence[tuple[str, int]]) -> str:
    """Name a hold for which amounts of some series were estimated; the base has one hyphen."""
    return "-".join((base, *(f"{series}{quantity:x}" for series, quantity in estimated)))


def series_in(name: str) -> frozenset[str]:
    """Read from the name of a hold which series it belongs to."""
    return frozenset(part[:_SERIES_LENGTH] for part in name.split("-")[_PLAIN_PARTS:])


def estimated_in(name: str, estimates: Sequence[Estimate]) -> Amounts:
    """Read from the name of a hold how much of each unit was estimated for it."""
    parts = name.split("-")[_PLAIN_PARTS:]
    return {
        estimate.unit: int(part[_SERIES_LENGTH:], 16)
        for estimate, part in zip(estimates, parts, strict=True)
    }
