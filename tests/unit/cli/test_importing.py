"""Rows of other people's files as usage events: read, mapped, checked, and named when bad."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from google.protobuf.json_format import MessageToDict
from pyarrow import parquet

from cli.errors import CommandError
from cli.importing.columns import ColumnMapping
from cli.importing.importing import ImportOptions, check, mapped_rows

NOW = datetime(2026, 3, 2, tzinfo=UTC)
MAPPING = ColumnMapping(
    source="=import/test",
    event_id="",
    time="when",
    time_unit="",
    type="=llm.call",
    levels={"customer": "who"},
    dimensions={"model": "model"},
    quantities={"tokens": "used"},
)
ROW: Mapping[str, Any] = {
    "when": "2026-03-01T12:00:00Z",
    "who": "acme",
    "model": "small",
    "used": "10",
}


def options(file: Path, file_format: str, mapping: ColumnMapping = MAPPING) -> ImportOptions:
    """Make options of an import of a file."""
    return ImportOptions(
        file=file,
        file_format=file_format,
        mapping=mapping,
        skips_bad=False,
        from_start=False,
        patience_s=1,
        positions=file.parent,
    )


def a_csv(folder: Path, *rows: Mapping[str, Any]) -> Path:
    """Write a CSV file with the columns of `ROW`."""
    file = folder / "usage.csv"
    lines = [",".join(ROW), *(",".join(str(row[name]) for name in ROW) for row in rows)]
    file.write_text("\n".join(lines) + "\n")
    return file


def a_jsonl(folder: Path, *rows: object) -> Path:
    """Write a file of JSON lines."""
    file = folder / "usage.jsonl"
    file.write_text("\n".join(json.dumps(row) for row in rows))
    return file


def a_parquet(folder: Path, **columns: pa.Array) -> Path:
    """Write a Parquet file."""
    file = folder / "usage.parquet"
    parquet.write_table(pa.table(columns), file)
    return file


def events(given: ImportOptions) -> list[dict[str, Any]]:
    """Map the rows, which must all be good, and leave out their ids."""
    found = []
    for mapped in mapped_rows(given, NOW):
        assert mapped.violations == ()
        event = MessageToDict(mapped.event, preserving_proto_field_name=True)
        assert event.pop("event_id")
        found.append(event)
    return found


EVENT = {
    "source": "import/test",
    "subject": {"customer_id": "acme"},
    "type": "llm.call",
    "time": "2026-03-01T12:00:00Z",
    "dimensions": {"model": "small"},
    "quantities": {"tokens": "10"},
}


def test_every_format_gives_the_same_events(tmp_path: Path) -> None:
    """A row is the same event in CSV, JSON lines and Parquet, numbers being texts or not."""
    noon = datetime(2026, 3, 1, 12, tzinfo=UTC)
    columns = {
        "when": pa.array([noon], pa.timestamp("ns", "UTC")),
        "who": pa.array(["acme"]),
        "model": pa.array(["small"]),
        "used": pa.array([10], pa.int64()),
    }

    assert events(options(a_csv(tmp_path, ROW), "csv")) == [EVENT]
    assert events(options(a_jsonl(tmp_path, {**ROW, "used": 10}), "jsonl")) == [EVENT]
    assert events(options(a_parquet(tmp_path, **columns), "parquet")) == [EVENT]


def test_numbers_stay_what_they_are(tmp_path: Path) -> None:
    """Digits that a float cannot hold survive JSON and Parquet's decimals."""
    exact = "1.234567890123456789"
    file = tmp_path / "usage.jsonl"
    file.write_text(json.dumps(ROW).replace('"10"', exact))
    columns = {name: pa.array([value]) for name, value in ROW.items() if name != "used"} | {
        "used": pa.array([Decimal(exact)], pa.decimal128(38, 18))
    }

    assert events(options(file, "jsonl"))[0]["quantities"] == {"tokens": exact}
    assert events(options(a_parquet(tmp_path, **columns), "parquet"))[0]["quantities"] == {
        "tokens": exact
    }


def test_columns_may_be_nested_or_values_for_every_row(tmp_path: Path) -> None:
    """A point leads into JSON, and what begins with = is taken as it is."""
    mapping = replace(
        MAPPING,
        time="meta.at",
        time_unit="ms",
        levels={"customer": "=zeta", "key": "meta.key.id"},
        quantities={"tokens": "usage.total", "requests": "=1"},
    )
    row = {"meta": {"at": 1772366400000, "key": {"id": "k1"}}, "usage": {"total": 7}}

    (event,) = events(options(a_jsonl(tmp_path, row), "jsonl", mapping))

    assert event == {
        "source": "import/test",
        "subject": {"customer_id": "zeta", "key_id": "k1"},
        "type": "llm.call",
        "time": "2026-03-01T12:00:00Z",
        "quantities": {"tokens": "7", "requests": "1"},
    }


@pytest.mark.parametrize(
    ("written", "unit", "read"),
    [
        ("2026-03-01 12:00:00.1234567", "", "2026-03-01T12:00:00.123456Z"),
        ("2026-03-01T13:00:00+01:00", "", "2026-03-01T12:00:00Z"),
        ("2026-03-01", "", "2026-03-01T00:00:00Z"),
        ("1772366400", "s", "2026-03-01T12:00:00Z"),
        ("1772366400.5", "s", "2026-03-01T12:00:00.500Z"),
        ("1772366400000001", "us", "2026-03-01T12:00:00.000001Z"),
    ],
)
def test_times_are_read_in_many_ways(tmp_path: Path, written: str, unit: str, read: str) -> None:
    """What names no zone is in UTC; numbers have the unit that was said."""
    file = a_csv(tmp_path, {**ROW, "when": written})

    (event,) = events(options(file, "csv", replace(MAPPING, time_unit=unit)))

    assert event["time"] == read


def test_the_same_row_is_the_same_event(tmp_path: Path) -> None:
    """Ids depend on the rows alone: repeats get one each, and mending others changes nothing."""
    other = {**ROW, "used": "11"}

    def ids(*rows: Mapping[str, Any]) -> list[str]:
        file = a_csv(tmp_path, *rows)
        return [mapped.event.event_id for mapped in mapped_rows(options(file, "csv"), NOW)]

    first, second, third = ids(ROW, other, ROW)

    assert len({first, second, third}) == 3
    assert ids(ROW, other, ROW) == [first, second, third]
    mended = {**ROW, "used": "12"}
    assert ids(ROW, mended, other, ROW) == [first, *ids(mended), second, third]
    assert third == f"{first}-2"


def test_an_id_of_the_row_is_taken(tmp_path: Path) -> None:
    """A column of ids makes the identity, with the source that was said."""
    mapping = replace(MAPPING, event_id="model")

    (mapped,) = mapped_rows(options(a_csv(tmp_path, ROW), "csv", mapping), NOW)

    assert mapped.event.event_id == "small"


def bad(given: ImportOptions) -> list[tuple[int, str, str]]:
    """List what is wrong with each row."""
    return [(line, each.field, each.description) for line, each in check(given, NOW).bad]


def test_every_bad_row_is_named_with_its_line_and_column(tmp_path: Path) -> None:
    """One reading finds everything, by the words of the file."""
    file = a_csv(
        tmp_path,
        ROW,
        {**ROW, "used": "-1", "who": "a b"},
        {**ROW, "when": "soon"},
        {**ROW, "when": "1772366400"},
        {**ROW, "when": "2027-01-01"},
        {**ROW, "used": "many"},
    )
    with file.open("a") as more:
        more.write("a,b\n")

    assert bad(options(file, "csv")) == [
        (3, "who", "must have at most 64 letters, digits and _ . : @ -"),
        (3, "used", "must be at least 0"),
        (4, "when", "is not a time such as 2026-03-01T12:00:00Z"),
        (5, "when", "is a number; say its unit with --time-unit"),
        (6, "when", "must be between 2000-01-01 and one hour from now"),
        (7, "used", "must be a decimal number such as 12.5"),
        (8, "", "has 2 cells instead of 4"),
    ]


def test_bad_json_lines_do_not_hide_what_follows(tmp_path: Path) -> None:
    """A line that is no JSON object, or holds what is no text, is named; the next are read."""
    file = tmp_path / "usage.jsonl"
    lines = [
        "{",
        "[1]",
        json.dumps({**ROW, "who": ["acme"]}),
        json.dumps({**ROW, "who": "\ud800"}),
        json.dumps(ROW),
    ]
    file.write_bytes(b"\n".join([*(line.encode() for line in lines), b"\xff"]))

    assert bad(options(file, "jsonl")) == [
        (1, "", "is not JSON"),
        (2, "", "is not a JSON object"),
        (3, "who", "must be a text or a number"),
        (4, "who", "holds half of a character"),
        (6, "", "is not text in UTF-8"),
    ]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("usage.csv", b"when,who\n1,2\n", "--dimension model: there is no column 'model'"),
        ("usage.csv", b"", "there is no column 'when'"),
        ("usage.csv", b"when,who,model,used\n", "holds no rows"),
        ("usage.csv", b'when,who,model,used\n"', "unexpected end of data"),
        ("usage.csv", b"\xff", "is not text in UTF-8"),
        ("usage.parquet", b"PAR1", "Parquet"),
    ],
    ids=["missing column", "empty", "only a header", "broken quote", "no text", "no Parquet"],
)
def test_a_file_that_cannot_be_used_is_refused(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    """The message names the file or the column."""
    file = tmp_path / name
    file.write_bytes(content)

    with pytest.raises(CommandError, match=message):
        check(options(file, file.suffix[1:]), NOW)
