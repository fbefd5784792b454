"""Plans as code: a YAML file that holds a plan, and perhaps the meters that it prices.

The fields are those of the contract, `tollkeeper.api.rating.v1.Plan` and
`tollkeeper.api.meter.v1.Meter`, written as `cli.contract_files` says. Refuses what the rating
service would refuse of a plan by itself.
"""

from collections.abc import Iterable
from collections.abc import Mapping as ReadOnly
from dataclasses import dataclass
from pathlib import Path

from cli.contract_files import Fault, InvalidFile, Reading, place_of
from cli.yaml_tree import Mapping, Node, Place, YamlFault, parse_tree, read_data
from kit.errors import InvalidInput, Violation
from services.rating.convert.plans import parse_plan
from tollkeeper.api.meter.v1.meter_pb2 import Meter
from tollkeeper.api.rating.v1.plan_pb2 import Plan

METERS_MAX = 100


@dataclass(frozen=True, slots=True)
class PlanFile:
    """What a file holds; `places` says where each field stands, by its path in the contract."""

    path: Path
    plan: Plan
    meters: tuple[Meter, ...]
    places: ReadOnly[str, Place]

    def refused(self, violations: Iterable[Violation]) -> InvalidFile:
        """Say where the fields stand that a service refused; paths start with the file's own.

        These are `plan`, and `meters[0]` for what the meter service calls `meter`.
        """
        faults = [
            Fault(place_of(each.field, self.places), each.field, each.description)
            for each in violations
        ]
        return InvalidFile(self.path, faults)


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
    plan, meters = reading.read_file(tree)
    reading.check_plan(plan)
    if reading.faults:
        raise InvalidFile(path, reading.faults)
    return PlanFile(path, plan, meters, reading.places)


class _PlanReading(Reading):
    """Reads the plan and the meters of a file."""

    def read_file(self, tree: Node) -> tuple[Plan, tuple[Meter, ...]]:
        plan, meters = Plan(), list[Meter]()
        for name, node in self.entries(tree, "", ("meters", "plan")):
            if name == "plan":
                self.fill(plan, node, name)
            else:
                for path, item in self.items(node, name):
                    meters.append(Meter())
                    self.fill(meters[-1], item, path)
        if len(meters) > METERS_MAX:
            self.fault(self.places["meters"], "meters", f"must have at most {METERS_MAX} entries")
        if isinstance(tree, Mapping) and "plan" not in self.places:
            self.fault(tree.place, "plan", "is required")
        return plan, tuple(meters)

    def check_plan(self, plan: Plan) -> None:
        """Note what the rating service would refuse, unless it follows from a noted fault."""
        noted = [fault.field for fault in self.faults]
        try:
            parse_plan(plan, "plan")
        except InvalidInput as error:
            for violation in error.violations:
                if not any(_is_within(violation.field, path) for path in noted):
                    place = place_of(violation.field, self.places)
                    self.fault(place, violation.field, violation.description)


def _is_within(path: str, outer: str) -> bool:
    return not outer or path == outer or path.startswith((f"{outer}.", f"{outer}["))
