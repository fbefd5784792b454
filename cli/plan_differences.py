"""What changes between two versions of a plan, field by field, and what putting one would do.

Both are brought into one form first, so that a default that is written out is no change. Refuses to
ask a service: the versions there are come with the question.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from google.type.decimal_pb2 import Decimal as DecimalMessage

from kit.rpc.wire import parse_time
from services.rating.convert.plans import parse_plan, render_plan
from services.rating.model import PlanVersion
from tollkeeper.api.rating.v1.plan_pb2 import Plan

_IDS = ("price_id", "fee_id", "limit_id")
_NEVER_PUT = datetime.min.replace(tzinfo=UTC)
_ORDER = "prices: order"


@dataclass(frozen=True, slots=True)
class Change:
    """A field that differs; nothing stands for one that is not there."""

    field: str
    before: str | None
    after: str | None


class Fate(Enum):
    """What putting a plan would do."""

    NEW_PLAN = "makes the plan's first version"
    NEW_VERSION = "makes a new version"
    UNCHANGED = "changes nothing"
    REFUSED = "is refused: a version for this time says something else"


@dataclass(frozen=True, slots=True)
class Comparison:
    """What putting a plan would do, the version it is compared with, and what changes."""

    fate: Fate
    base: Plan | None
    changes: tuple[Change, ...]


def compare(plan: Plan, versions: Sequence[Plan]) -> Comparison:
    """Compare a plan with the version of its time, or else with the one it follows."""
    if not versions:
        return Comparison(Fate.NEW_PLAN, None, ())
    time = _effective(plan)
    earlier = [each for each in versions if _effective(each) <= time]
    base = max(earlier, key=_effective) if earlier else versions[-1]
    changes = tuple(changes_between(base, plan))
    if _effective(base) != time:
        return Comparison(Fate.NEW_VERSION, base, changes)
    return Comparison(Fate.REFUSED if changes else Fate.UNCHANGED, base, changes)


def changes_between(before: Plan, after: Plan) -> Iterator[Change]:
    """Go through what differs, in the order of the contract; what only one has is named once."""
    old, new = _fields(before), _fields(after)
    gone = [path for path in old if path not in new]
    come = [path for path in new if path not in old]
    whole = _outermost(gone), _outermost(come)
    for path in dict.fromkeys([*old, *new]):
        if old.get(path) != new.get(path) and not _is_inside(path, (*whole[0], *whole[1])):
            yield Change(path, old.get(path), new.get(path))


def _effective(plan: Plan) -> datetime:
    if not plan.HasField("effective_time"):
        return _NEVER_PUT
    return parse_time(plan.effective_time, "effective_time")


def _fields(plan: Plan) -> dict[str, str]:
    """Write each field of a plan, with its defaults, under its path."""
    written = _without_service_fields(plan)
    stored = PlanVersion(parse_plan(written, "plan"), 1, _NEVER_PUT)
    complete = _without_service_fields(render_plan(stored))
    fields = dict(_written(complete, ""))
    fields[_ORDER] = ", ".join(price.price_id for price in complete.prices)
    return fields


def _without_service_fields(plan: Plan) -> Plan:
    bare = Plan()
    bare.CopyFrom(plan)
    bare.ClearField("version")
    bare.ClearField("create_time")
    bare.ClearField("archive_time")
    return bare


def _written(message: Message, path: str) -> Iterator[tuple[str, str]]:
    for field, value in message.ListFields():
        inner = f"{path}.{field.name}" if path else field.name
        if isinstance(value, DecimalMessage):
            yield inner, value.value
        elif isinstance(value, Timestamp):
            yield inner, value.ToJsonString()
        elif isinstance(value, Message):
            yield from _written(value, inner)
        elif isinstance(value, Mapping):
            yield inner, ", ".join(f"{name}={value[name]}" for name in sorted(value))
        elif not field.is_repeated:
            enum = field.enum_type
            yield inner, enum.values_by_number[value].name if enum else str(value)
        elif field.message_type is None:
            yield inner, ", ".join(map(str, value))
        else:
            for index, item in enumerate(value):
                name = _name_of(item) or str(index + 1)
                yield f"{inner}[{name}]", ""
                yield from _written(item, f"{inner}[{name}]")


def _name_of(item: Message) -> str:
    return next(
        (getattr(item, name) for name in _IDS if name in item.DESCRIPTOR.fields_by_name), ""
    )


def _outermost(paths: Sequence[str]) -> tuple[str, ...]:
    """Of what is not there on one side, name the items as a whole."""
    return tuple(path for path in paths if path.endswith("]"))


def _is_inside(path: str, items: Sequence[str]) -> bool:
    return any(path.startswith((f"{item}.", f"{item}[")) for item in items)
