"""Plans as code: a YAML file that holds a plan, the meters that it prices, and examples.

The fields are those of the contract, `tollkeeper.api.rating.v1.PlanFile`, written as
`cli.contract_files` says. Refuses what the services would refuse of a plan and its meters by
themselves, and examples of usage that nothing prices.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from collections.abc import Mapping as ReadOnly
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from cli.contract_files import Fault, InvalidFile, Reading, place_of
from cli.yaml_tree import Mapping, Place, YamlFault, parse_tree, read_data
from kit.errors import InvalidInput, Violation, Violations
from services.meter.convert.meters import parse_put_meter
from services.rating.convert.examples import parse_examples
from services.rating.convert.plans import parse_plan
from services.rating.examples import Example, try_example
from services.rating.model import Plan as RatedPlan
from services.rating.selection import adds_parts, dimensions_of, readings_of
from tollkeeper.api.meter.v1.meter_pb2 import AGGREGATION_COUNT, AGGREGATION_SUM, Meter
from tollkeeper.api.meter.v1.meter_service_pb2 import PutMeterRequest
from tollkeeper.api.rating.v1.plan_file_pb2 import PlanFile as FileMessage
from tollkeeper.api.rating.v1.plan_pb2 import Plan

METERS_MAX = 100

_ADDITIVE = frozenset({AGGREGATION_SUM, AGGREGATION_COUNT})
_NEVER_PUT = datetime.min.replace(tzinfo=UTC)
Parsed = TypeVar("Parsed")


@dataclass(frozen=True, slots=True)
class PlanFile:
    """What a file holds; `places` says where each field stands, by its path in the contract."""

    path: Path
    plan: Plan
    meters: tuple[Meter, ...]
    places: ReadOnly[str, Place]
    rated_plan: RatedPlan
    examples: tuple[Example, ...]

    def refused(self, violations: Iterable[Violation]) -> InvalidFile:
        """Say where the fields stand that a service refused; paths start with the file's own.

        These are `plan`, and `meters[0]` for what the meter service calls `meter`.
        """
        faults = [
            Fault(place_of(each.field, self.places), each.field, each.description)
            for each in violations
        ]
        return InvalidFile(self.path, faults)

    def try_examples(self) -> None:
        """Rate the usage of every example by the plan.

        Raises:
            InvalidFile: the plan says otherwise than an example; each difference with its place.
        """
        violations = [
            Violation(
                ".".join(filter(None, (f"examples[{index}]", difference.field))),
                f"{difference.description} ({example.name})",
            )
            for index, example in enumerate(self.examples)
            for difference in try_example(self.rated_plan, example)
        ]
        if violations:
            raise self.refused(violations)


def read_plan_file(path: Path) -> PlanFile:
    """Read a plan file, and check all of it that can be checked without a service.

    Raises:
        InvalidFile: it has faults.
        CommandError: it cannot be read, or is too large.
    """
    return parse_plan_file(read_data(path), path)


def parse_plan_file(data: bytes, path: Path) -> PlanFile:
    """Check the content of a plan file; `path` is what its faults are told of.

    Raises:
        InvalidFile: it has faults.
    """
    try:
        tree = parse_tree(data)
    except YamlFault as fault:
        raise InvalidFile(path, [Fault(fault.place, "", fault.description)]) from fault
    reading = _PlanReading()
    file = FileMessage()
    reading.fill(file, tree, "")
    if isinstance(tree, Mapping) and "plan" not in reading.places:
        reading.fault(tree.place, "plan", "is required")
    plan = reading.check(lambda: parse_plan(file.plan, "plan"))
    reading.check(lambda: _check_meters(file.meters))
    examples = reading.check(lambda: parse_examples(file.examples, "examples"))
    if plan is not None:
        reading.check(lambda: _check_usage(plan, file))
    if reading.faults:
        raise InvalidFile(path, reading.faults)
    assert plan is not None, "what cannot be parsed has faults"
    meters = tuple(file.meters)
    return PlanFile(path, file.plan, meters, reading.places, plan, examples or ())


class _PlanReading(Reading):
    """Reads a plan file, and notes what the services would refuse of it."""

    def check(self, parse: Callable[[], Parsed]) -> Parsed | None:
        """Parse a part of the file; note its faults, unless they follow from others."""
        noted = [fault.field for fault in self.faults]
        try:
            return parse()
        except InvalidInput as error:
            for violation in error.violations:
                if not any(_is_within(violation.field, path) for path in noted):
                    place = place_of(violation.field, self.places)
                    self.fault(place, violation.field, violation.description)
            return None


def _check_meters(meters: Sequence[Meter]) -> None:
    """Refuse what the meter service would refuse of the meters, which must differ."""
    violations = Violations()
    if len(meters) > METERS_MAX:
        violations.add("meters", f"must have at most {METERS_MAX} entries")
    first_by_id: dict[str, int] = {}
    for index, meter in enumerate(meters):
        first = first_by_id.setdefault(meter.meter_id, index)
        if meter.meter_id and first != index:
            violations.add(f"meters[{index}].meter_id", f"is the id of meters[{first}] as well")
        try:
            parse_put_meter(PutMeterRequest(meter=meter), _NEVER_PUT)
        except InvalidInput as error:
            for each in error.violations:
                field = f"meters[{index}]{each.field.removeprefix('meter')}"
                violations.add(field, each.description)
    violations.raise_if_any()


def _check_usage(plan: RatedPlan, file: FileMessage) -> None:
    """Refuse prices of meters that the file lacks, where it has any, and usage without a price."""
    violations = Violations()
    if file.meters:
        for violation in _unfit_meters(plan, {meter.meter_id: meter for meter in file.meters}):
            violations.add(violation.field, violation.description)
    counted = {meter_id for reading in readings_of(plan) for meter_id in reading.meter_ids}
    for number, example in enumerate(file.examples):
        for index, usage in enumerate(example.usage):
            if usage.meter_id not in counted:
                violations.add(
                    f"examples[{number}].usage[{index}].meter_id",
                    f"no price of the plan counts the meter {usage.meter_id}",
                )
    violations.raise_if_any()


def _unfit_meters(plan: RatedPlan, meters: ReadOnly[str, Meter]) -> Iterator[Violation]:
    for index, (price, reading) in enumerate(zip(plan.prices, readings_of(plan), strict=True)):
        for meter_id in reading.meter_ids:
            field = f"plan.prices[{index}]"
            if meter_id not in meters:
                is_own = meter_id == reading.meter_id
                inner = ".meter_id" if is_own else ""
                yield Violation(
                    f"{field}{inner}", f"the meter {meter_id} is none of the file's meters"
                )
                continue
            for name in dimensions_of(reading):
                if name not in meters[meter_id].group_by:
                    yield Violation(
                        f"{field}.dimensions.{name}",
                        f"the meter {meter_id} does not keep it: its group_by lacks {name}",
                    )
            if meters[meter_id].aggregation not in _ADDITIVE and adds_parts(price, reading):
                yield Violation(
                    f"{field}.meter_id",
                    f"the figures of the meter {meter_id} do not add up, and the price adds parts",
                )


def _is_within(path: str, outer: str) -> bool:
    return not outer or path == outer or path.startswith((f"{outer}.", f"{outer}["))
