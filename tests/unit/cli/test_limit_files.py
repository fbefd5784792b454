"""What a file of limits may say, and where its faults are."""

from pathlib import Path

import pytest
from google.protobuf.duration_pb2 import Duration

from cli.contract_files import InvalidFile
from cli.limit_files import read_limit_file
from tollkeeper import FieldProblem
from tollkeeper.api.quota.v1.quota_pb2 import (
    CALENDAR_PERIOD_MONTH,
    LEVEL_CUSTOMER,
    LEVEL_KEY,
    CalendarWindow,
    Limit,
    RollingRate,
)
from tollkeeper.api.type.v1.subject_pb2 import Subject

GOOD = """
limits:
  - limit_id: acme-month
    level: customer
    subject: {customer_id: acme}
    units: [input_tokens, output_tokens]
    capacity: 10000000000
    calendar: {period: month, time_zone: Europe/Berlin}
  - limit_id: key-rate
    display_name: Requests of each key
    level: key
    dimensions: {model: large}
    units: [requests]
    capacity: 60
    rolling: {period: 1m, burst: 10}
"""


def a_file(folder: Path, text: str) -> Path:
    """Write a file of limits."""
    file = folder / "limits.yaml"
    file.write_text(text)
    return file


def test_a_file_gives_its_limits_in_order(tmp_path: Path) -> None:
    """Every kind of field that a limit has."""
    file = read_limit_file(a_file(tmp_path, GOOD))

    assert file.limits == (
        Limit(
            limit_id="acme-month",
            level=LEVEL_CUSTOMER,
            subject=Subject(customer_id="acme"),
            units=["input_tokens", "output_tokens"],
            capacity=10_000_000_000,
            calendar=CalendarWindow(period=CALENDAR_PERIOD_MONTH, time_zone="Europe/Berlin"),
        ),
        Limit(
            limit_id="key-rate",
            display_name="Requests of each key",
            level=LEVEL_KEY,
            dimensions={"model": "large"},
            units=["requests"],
            capacity=60,
            rolling=RollingRate(period=Duration(seconds=60), burst=10),
        ),
    )


def test_json_is_yaml(tmp_path: Path) -> None:
    """Programs may write the file too."""
    file = a_file(tmp_path, '{"limits": [{"limit_id": "a", "level": "user", "capacity": 1}]}')

    assert [limit.limit_id for limit in read_limit_file(file).limits] == ["a"]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("limits: []", "1:1: limits: is required and holds at least one limit"),
        ("{}", "1:1: limits: is required and holds at least one limit"),
        ("limit: []", "1:1: limit: is no field here: did you mean limits?"),
        (
            "limits:\n  - level_of: key",
            "2:5: limits[0].level_of: is no field here: did you mean level?",
        ),
        (
            "limits:\n  - level: keys",
            "2:12: limits[0].level: must be one of customer, project, user, key, run",
        ),
        (
            "limits:\n  - capacity: -1.5",
            "2:15: limits[0].capacity: must be a whole number",
        ),
        (
            "limits:\n  - rolling: {period: soon}",
            "2:23: limits[0].rolling.period: must be a duration such as 60s, 15m or 1h",
        ),
        (
            "limits:\n  - calendar: {period: day}\n    rolling: {period: 1s}",
            "3:14: limits[0].rolling: cannot stand beside calendar: choose one",
        ),
    ],
)
def test_a_fault_is_told_with_line_and_column(tmp_path: Path, text: str, fault: str) -> None:
    """One fault, one line."""
    file = a_file(tmp_path, text)

    with pytest.raises(InvalidFile) as refused:
        read_limit_file(file)

    assert str(refused.value) == f"{file}:{fault}"


def test_what_the_service_refuses_is_found_in_the_file(tmp_path: Path) -> None:
    """The service says `limit.capacity`; the file has it on a line."""
    file = read_limit_file(a_file(tmp_path, GOOD))

    refused = file.refused(1, [FieldProblem("limit.capacity", "is too large")])

    assert str(refused) == f"{file.path}:14:15: limits[1].capacity: is too large"
