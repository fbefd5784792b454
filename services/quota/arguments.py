"""Operations of one customer, written as `decide.lua` reads them."""

from collections.abc import Iterable

import msgpack

from services.quota.coverage import Coverage
from services.quota.operations import Operation

SWEEP_MAX = 256

# The script's reader knows no binary strings, so bytes go as the older raw strings. There is one
# packer, because each would allocate a large buffer of its own.
_packer = msgpack.Packer(use_bin_type=False, autoreset=False)


def encode(
    operations: Iterable[Operation],
    now_ms: int,
    *,
    sweep_max: int = SWEEP_MAX,
    epoch: str = "",
    may_begin: bool = True,
) -> bytes:
    """Write operations of one customer as `decide.lua` reads them."""
    places: dict[Coverage, int] = {}
    indexes: dict[str, int] = {}
    counters: list[str | int] = []
    coverages: list[list[bytes | int]] = []
    flat: list[object] = []
    for kind, coverage, request_id, fingerprint, hold, detail, extra, sums, _ in operations:
        place = places.get(coverage)
        if place is None:
            place = places[coverage] = len(places) + 1
            entry: list[bytes | int] = [
                *(coverage.id, coverage.description, coverage.exhibit, len(coverage.slots))
            ]
            coverages.append(entry)
            for limit in coverage.limits:
                index = indexes.get(limit.field)
                if index is None:
                    assert limit.clock is not None, "what is only remembered is never decided"
                    index = indexes[limit.field] = len(indexes) + 1
                    counters += (limit.field, *limit.clock.terms_at(now_ms))
                entry += (index, limit.slot)
        flat += (kind, place, "r" + request_id, fingerprint, hold, detail, extra, *sums)
    try:
        for part in (counters, coverages, flat, sweep_max, epoch, may_begin):
            _packer.pack(part)
        packed: bytes = _packer.bytes()
        return packed
    finally:
        _packer.reset()
