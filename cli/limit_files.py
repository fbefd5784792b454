"""Limits as code: a YAML or JSON file that holds a list of limits under `limits`.

The fields are those of the contract, `tollkeeper.api.quota.v1.Limit`, written as
`cli.contract_files` says; capacities are in quanta, as in the contract. What the quota service
refuses is told with the line and column of the field.
"""

from collections.abc import Iterable
from collections.abc import Mapping as ReadOnly
from dataclasses import dataclass
from pathlib import Path

from cli.contract_files import Fault, InvalidFile, Reading, place_of
from cli.yaml_tree import Place, YamlFault, parse_tree, read_data
from tollkeeper.api.quota.v1.quota_pb2 import Limit
from tollkeeper.errors import FieldProblem

LIMITS_MAX = 1000


@dataclass(frozen=True, slots=True)
class LimitFile:
    """The limits of a file; `places` says where each field stands."""

    path: Path
    limits: tuple[Limit, ...]
    places: ReadOnly[str, Place]

    def refused(self, index: int, problems: Iterable[FieldProblem]) -> InvalidFile:
        """Say where the fields of a limit stand that the quota service refused."""
        fields = [(f"limits[{index}]{each.field.removeprefix('limit')}", each) for each in problems]
        faults = [
            Fault(place_of(field, self.places), field, each.description) for field, each in fields
        ]
        return InvalidFile(self.path, faults)


def read_limit_file(path: Path) -> LimitFile:
    """Read a file of limits.

    Raises:
        InvalidFile: It has faults.
        CommandError: It cannot be read, or is too large.
    """
    try:
        tree = parse_tree(read_data(path))
    except YamlFault as fault:
        raise InvalidFile(path, [Fault(fault.place, "", fault.description)]) from fault
    reading = Reading()
    limits = list[Limit]()
    for name, node in reading.entries(tree, "", ("limits",)):
        for field, item in reading.items(node, name):
            limits.append(Limit())
            reading.fill(limits[-1], item, field)
    if not limits and not reading.faults:
        reading.fault(tree.place, "limits", "is required and holds at least one limit")
    if len(limits) > LIMITS_MAX:
        reading.fault(tree.place, "limits", f"must have at most {LIMITS_MAX} entries")
    if reading.faults:
        raise InvalidFile(path, reading.faults)
    return LimitFile(path, tuple(limits), reading.places)
