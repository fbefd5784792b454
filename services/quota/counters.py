"""The counters and holds of customers in Redis, changed only by `decide.lua`.

All that is kept of a customer shares one hash tag, so that one script call decides over all of it,
in a cluster too. Everything here is a batch: operations of one customer, answered in their order.
Refuses to interpret: what a figure means on the wire is the converter's.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol, cast

import msgpack

from kit.errors import CannotStart, DomainError
from kit.waiting import wait_for
from services.quota.arguments import encode
from services.quota.coverage import Coverage, DescribedHold, described_hold, remembered
from services.quota.expiry_index import SHARDS_COUNT, ExpiryIndex
from services.quota.model import HoldState, Kind, Outcome
from services.quota.operations import Operation
from services.quota.redis_link import Link, NotAsked, Reply, ReplyError, check_replies, packed
from services.quota.refusals import KINDS, refusal, unavailable

_PARTS = ("counting.lua", "admitting.lua", "holding.lua", "decide.lua")
SCRIPT = b"\n".join(Path(__file__).with_name(part).read_bytes() for part in _PARTS)
"""What decides, in Redis."""

_ERROR_LENGTH_MAX = 15
_PROBE_LIFE_MS = 1000
# msgpack of a list of two, the first of which is 2.
_LOST_REPLY = b"\x92\x02"
_FINGERPRINT = slice(0, 8)
_COVERAGE_ID = slice(8, 16)
_STALE_ATTEMPTS_MAX = 3
_ROOTS_MAX = 16_384
# Plain numbers, since looking up a member of an enumeration takes a while.
_RESERVE = int(Kind.RESERVE)
_HOLDING = frozenset((_RESERVE, int(Kind.EXTEND)))
_FIGURES = 3
_FIGURES_WITH_WAIT = 4
_WITH_WAITS = frozenset(map(int, (Outcome.EXCEEDING, Outcome.DENIED, Outcome.PARTIAL)))

_unpacked: Callable[[bytes], list[Any]] = partial(msgpack.unpackb, raw=True)


class Root(NamedTuple):
    """The customer of a tenant: what one script call decides over."""

    tenant: str
    customer: str


class Answer(NamedTuple):
    """What was decided for one operation.

    Args:
        kind: The `Kind` of what was asked.
        outcome: An `Outcome`.
        detail: When the hold ends; whether a commit, a release or a dispatch found it open.
        hold: The hold that an allowed reserve made.
        coverage: The limits that applied, which a repeated answer remembers.
        figures: For each of them what is used, what is reserved, and in how many milliseconds it
            is reset, -1 for never. What passed or was booked shows what all that was decided at
            the same instant has left; the answers about a coverage then share one list. Where
            something did not fit also how long to wait: -1 where it fitted, 0 when it never fits
            or need not wait. Behind them, where only a part was granted, how much of each flexible
            unit was beyond the least.
    """

    kind: int
    outcome: int
    now_ms: int
    detail: int
    hold: str
    coverage: Coverage
    figures: Sequence[int]

    def waits_ms(self) -> Sequence[int]:
        """Say of each limit how long to wait for it, where something did not fit; else -1."""
        limits_count = len(self.coverage.limits)
        if self.outcome not in _WITH_WAITS:
            return [-1] * limits_count
        return self.figures[_FIGURES : _FIGURES_WITH_WAIT * limits_count : _FIGURES_WITH_WAIT]


# As the class itself, without what Python does for names of arguments.
_new_answer = cast("Callable[[tuple[object, ...]], Answer]", partial(tuple.__new__, Answer))


class Batch(NamedTuple):
    """Operations of one customer that are decided by one script call."""

    root: Root
    operations: Sequence[Operation]


class LimitsChanged(NamedTuple):
    """The hold that is to be extended was made when other limits applied: those described."""

    operation: Operation
    description: bytes


class Decided(NamedTuple):
    """The answers to a batch, in its order, and whether more holds are due than were ended."""

    answers: Sequence[Answer | LimitsChanged | DomainError]
    more_is_due: bool


class Keeper(Protocol):
    """Knows by which epoch counters are kept, and has those rebuilt that were lost."""

    @property
    def epoch(self) -> str | None:
        """Answer the token of the epoch; nothing while counters may be lost."""

    async def may_begin(self, root: Root) -> bool:
        """Tell whether a customer of whom nothing is kept is new; else have him rebuilt."""

    def lost(self, root: Root) -> None:
        """Have the counters of a customer rebuilt."""

    def note(self, batch: Batch, decided: Decided) -> None:
        """Note what was decided."""


class Counters:
    """The script and the keys; every method is one round trip unless something was lost.

    Limits are sent with their windows around what Redis's clock last showed. When that is too long
    ago the script decides nothing and says so, and is asked again.
    """

    def __init__(
        self,
        link: Link,
        index: ExpiryIndex,
        keeper: Keeper,
        *,
        startup_timeout_s: float = 60.0,
    ) -> None:
        self._startup_timeout_s = startup_timeout_s
        self._link = link
        self._index = index
        self._keeper = keeper
        self._load = packed("SCRIPT", "LOAD", SCRIPT)
        self._sha = hashlib.sha1(SCRIPT, usedforsecurity=False).hexdigest()
        self._now_ms = 0

    async def connect(self) -> None:
        """Wait for Redis, within the start-up timeout; load the script and read its clock.

        Raises:
            CannotStart: Redis does not answer, or knows no scripts.
        """
        await wait_for(
            "Redis",
            self._prepare,
            faults=(OSError,),
            may_pass=lambda error: isinstance(error, OSError),
            timeout_s=self._startup_timeout_s,
        )

    async def _prepare(self) -> None:
        loaded = await self._load_script()
        for node in await self._link.nodes():
            (time,) = await node.ask([packed("TIME")])
        for reply in loaded:
            if isinstance(reply, ReplyError):
                raise CannotStart(f"Redis refuses the script of the counters: {reply}")
        seconds, microseconds = map(int, time)
        self._now_ms = seconds * 1000 + microseconds // 1000

    async def close(self) -> None:
        """Close the connection."""
        await self._link.close()

    async def probe(self) -> None:
        """Return when Redis writes, on every node.

        Raises:
            OSError: it does not.
        """
        keys = [f"tollkeeper:quota:{{expiries-{shard}}}:probe" for shard in range(SHARDS_COUNT)]
        commands = [packed("SET", key, "", "PX", _PROBE_LIFE_MS) for key in keys]
        check_replies(await self._link.ask(commands, keys))

    async def decide(self, batches: Sequence[Batch]) -> list[Decided | Exception]:
        """Decide batches of different customers, each as a whole or not at all.

        A batch that Redis did not decide in time answers COUNTERS_UNAVAILABLE; whether it did later
        is not known, so that its operations are to be repeated with the same request ids. One
        without operations ends what is due, or answers `LOST` where this epoch keeps nothing.
        """
        epoch = self._keeper.epoch
        if epoch is None:
            return [unavailable(NotAsked("counters may be lost"))] * len(batches)
        decided: dict[int, Decided | Exception] = {}
        beginning: set[int] = set()
        waiting = {place: (batch, _shortest_ttl_ms(batch)) for place, batch in enumerate(batches)}
        for _ in range(_STALE_ATTEMPTS_MAX):
            before_ms = self._now_ms
            replies = await self._run(waiting, epoch, beginning)
            for place, reply in zip(list(waiting), replies, strict=True):
                batch, ttl_ms = waiting[place]
                found = self._read(batch, reply)
                if found is LOST and batch.operations:
                    found = await self._begin(batch.root, place, beginning)
                if isinstance(found, Decided):
                    self._keeper.note(batch, found)
                if found is not None:
                    if ttl_ms:
                        self._index.noted(
                            _name(batch.root),
                            before_ms + ttl_ms,
                            ttl_ms=ttl_ms,
                            now_ms=self._now_ms,
                        )
                    decided[place] = found
                    del waiting[place]
            if not waiting:
                break
        return [decided.get(place) or unavailable() for place in range(len(batches))]

    async def find_holds(
        self, wanted: Sequence[tuple[Root, str]]
    ) -> Sequence[DescribedHold | None]:
        """Find whose calls holds were made for, be they open or expired not long ago.

        Raises:
            Unavailable: COUNTERS_UNAVAILABLE.
        """
        commands, keys = [], []
        for root, hold in wanted:
            counters, _, *recents = keys_of(root)
            commands.append(packed("HGET", counters, f"h{hold}"))
            commands += [packed("HGET", recent, f"e{hold}") for recent in recents]
            keys += [counters, *recents]
        found = await self._ask(commands, keys)
        for reply in found:
            if isinstance(reply, Exception):
                raise unavailable() from reply
        return [_found_hold(*found[place : place + 3]) for place in range(0, len(found), 3)]

    async def _begin(self, root: Root, place: int, beginning: set[int]) -> Exception | None:
        """Let a customer of whom nothing is kept begin, if nothing was lost; nothing means so."""
        if place in beginning:
            self._keeper.lost(root)
        elif await self._keeper.may_begin(root):
            beginning.add(place)
            return None
        return unavailable(NotAsked("the counters of the customer were lost"))

    async def _run(
        self, waiting: Mapping[int, tuple[Batch, int]], epoch: str, beginning: AbstractSet[int]
    ) -> list[Reply]:
        """Have the script decide batches, and note the holds they make so that they are ended.

        Beside each batch is how long the holds live that it makes, the shortest of them.
        """
        batches = list(waiting.values())
        now_ms = self._now_ms
        notes = [
            note
            for batch, ttl_ms in batches
            if ttl_ms and (note := self._index.note(_name(batch.root), now_ms + ttl_ms, now_ms))
        ]
        commands = [
            self._command(batch, epoch, may_begin=place in beginning)
            for place, (batch, _) in waiting.items()
        ]
        keys = [keys_of(batch.root)[0] for batch, _ in batches]
        if not notes:
            replies = await self._ask(commands, keys)
        else:
            replies = await self._ask(
                [note for note, _ in notes] + commands, [key for _, key in notes] + keys
            )
            noted, replies = replies[: len(notes)], replies[len(notes) :]
            if any(isinstance(reply, Exception) for reply in noted):
                self._index.forget()
        lost = [place for place, reply in enumerate(replies) if _is_script_lost(reply)]
        if lost:
            await self._load_script()
            again = await self._ask(
                [commands[place] for place in lost], [keys[place] for place in lost]
            )
            for place, reply in zip(lost, again, strict=True):
                replies[place] = reply
        return replies

    async def _load_script(self) -> list[Reply]:
        """Load the script on every node."""
        return [(await node.ask([self._load]))[0] for node in await self._link.nodes()]

    def _command(self, batch: Batch, epoch: str, *, may_begin: bool) -> bytes:
        keys = keys_of(batch.root)
        argument = encode(batch.operations, self._now_ms, epoch=epoch, may_begin=may_begin)
        return packed("EVALSHA", self._sha, len(keys), *keys, argument)

    async def _ask(self, commands: Sequence[bytes], keys: Sequence[str]) -> list[Reply]:
        try:
            return await self._link.ask(commands, keys)
        except OSError as error:
            raise unavailable(error) from error

    def _read(self, batch: Batch, reply: Reply) -> Decided | Exception | None:
        """Read the answers out of a reply; nothing when its windows were stale, or `LOST`."""
        if isinstance(reply, OSError):
            return unavailable(reply)
        if isinstance(reply, ReplyError):
            if "READONLY" in str(reply):
                self._link.drop()
            return reply if _is_mistake(reply) else unavailable()
        if reply[0].startswith(_LOST_REPLY):
            return LOST
        self._now_ms, decided = decode(batch, reply)
        return decided


LOST = LookupError("the counters are of another epoch, or there are none")
"""What is read where Redis keeps nothing of a customer in this epoch."""


def _shortest_ttl_ms(batch: Batch) -> int:
    """Say how long the holds live that a batch makes or extends, the shortest; 0 for none."""
    ttls = [
        operation.detail
        for operation in batch.operations
        if operation.kind in _HOLDING and operation.detail
    ]
    return min(ttls) if ttls else 0


def _found_hold(is_open: bytes | None, *ended: bytes | None) -> DescribedHold | None:
    if is_open is not None:
        _, description, *_ = _unpacked_all(is_open)
        return described_hold(description)
    expired = HoldState.EXPIRED.encode()
    for state in ended:
        if state is not None and state.startswith(expired):
            return described_hold(state.removeprefix(expired))
    return None


def decode(batch: Batch, reply: Sequence[bytes]) -> tuple[int, Decided | None]:
    """Read what `decide.lua` answered: Redis's clock, and nothing else if windows were stale."""
    is_stale, now_ms, *rest = _unpacked(reply[0])
    if is_stale:
        return now_ms, None
    more_is_due, flat, told, shown = rest
    exhibits = dict(zip(flat[::2], flat[1::2], strict=True)) if flat else {}
    records = iter(reply[1:])
    shown_next = iter(shown)
    figures_of: dict[Coverage, Sequence[int]] = {}
    answers: list[Answer | LimitsChanged | DomainError] = []
    for operation, code, detail in zip(batch.operations, told[::2], told[1::2], strict=True):
        coverage = operation.coverage
        figures = figures_of.get(coverage)
        if figures is None:
            figures = figures_of[coverage] = next(shown_next) or ()
        if code:
            hold = operation.hold if code // KINDS == _RESERVE else ""
            told_of = (code // KINDS, code % KINDS, now_ms, detail, hold, coverage, figures)
            answers.append(_new_answer(told_of))
        else:
            answers.append(_answer(batch.root, operation, next(records), exhibits))
    return now_ms, Decided(answers, more_is_due)


@lru_cache(maxsize=_ROOTS_MAX)
def keys_of(root: Root) -> tuple[str, str, str, str]:
    """Name all keys of a customer, as `decide.lua` expects them."""
    tag = f"tollkeeper:quota:{{{_name(root)}}}"
    return f"{tag}:counters", f"{tag}:expiries", f"{tag}:recent0", f"{tag}:recent1"


def _name(root: Root) -> str:
    """Name a customer as the tag of his keys does."""
    return f"{root.tenant}/{root.customer}"


def _answer(
    root: Root,
    operation: Operation,
    record: bytes | Sequence[bytes],
    exhibits: Mapping[bytes, bytes],
) -> Answer | LimitsChanged | DomainError:
    if not isinstance(record, bytes):
        _, description = record
        return LimitsChanged(operation, description)
    if len(record) <= _ERROR_LENGTH_MAX:
        return refusal(root.customer, operation, record.decode())
    coverage = operation.coverage
    if record[_COVERAGE_ID] != coverage.id:
        coverage = remembered(exhibits[b"s" + record[_COVERAGE_ID]])
    return _answer_about(coverage, record, exhibits)


def names_beside(record: bytes) -> tuple[bytes, ...]:
    """Name what else is remembered of an answer: its limits, and figures that it shares."""
    coverage_id = record[_COVERAGE_ID]
    *_, figures = _read_record(record)
    limits = b"s" + coverage_id
    return (limits, _figures_name(coverage_id, figures)) if isinstance(figures, int) else (limits,)


def remembered_answer(record: bytes, exhibits: Mapping[bytes, bytes]) -> Answer:
    """Read an answer that was given before, with what its `names_beside` name."""
    return _answer_about(remembered(exhibits[b"s" + record[_COVERAGE_ID]]), record, exhibits)


def _answer_about(coverage: Coverage, record: bytes, exhibits: Mapping[bytes, bytes]) -> Answer:
    code, now_ms, detail, hold, figures = _read_record(record)
    if isinstance(figures, int):
        figures = _unpacked(exhibits[_figures_name(record[_COVERAGE_ID], figures)])
    return Answer(code // KINDS, code % KINDS, now_ms, detail, hold.decode(), coverage, figures)


def _read_record(record: bytes) -> tuple[int, int, int, bytes, Sequence[int] | int]:
    """Read a record up to its figures, or the number of the run that has remembered them."""
    hold_behind = b""
    try:
        values = _unpacked(record[_COVERAGE_ID.stop :])
    except msgpack.ExtraData as more:
        values, hold_behind = more.unpacked, more.extra
    code, now_ms, detail, hold, *figures = values
    if isinstance(hold, int):
        return code, now_ms, detail, hold_behind, hold
    return code, now_ms, detail, hold, figures


def _figures_name(coverage_id: bytes, run: int) -> bytes:
    return b"f%b%d" % (coverage_id, run)


def _is_script_lost(reply: Reply) -> bool:
    return isinstance(reply, ReplyError) and str(reply).startswith("NOSCRIPT")


def _is_mistake(error: ReplyError) -> bool:
    """Tell what only a mistake of ours can cause from what passes or an operator mends."""
    text = str(error)
    passes = any(word in text for word in ("OOM", "READONLY", "MISCONF", "NOREPLICAS"))
    return "user_script" in text and not passes


def _unpacked_all(data: bytes) -> list[Any]:
    unpacker = msgpack.Unpacker(raw=True)
    unpacker.feed(data)
    return list(unpacker)
