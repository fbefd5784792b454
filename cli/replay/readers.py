"""Reads recorded calls: the Azure LLM trace, the Mooncake trace, and usage events as JSON lines.

Every reader yields a row for each call, with the line where it stands, and holds one row at a time.
They refuse a line they cannot read in full: nothing is guessed, skipped or rounded.
"""

import csv
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import TextIO

from google.protobuf.json_format import ParseDict, ParseError
from google.protobuf.timestamp_pb2 import Timestamp

from cli.call_meters import CALL_TYPE
from cli.errors import CommandError
from kit.decimals import parse_decimal
from kit.errors import InvalidInput
from tollkeeper.api.meter.v1.meter_pb2 import UsageEvent

AZURE = "azure"
MOONCAKE = "mooncake"
EVENTS = "events"
MOONCAKE_START = datetime(2025, 1, 1, tzinfo=UTC)

_AZURE_COLUMNS = ["TIMESTAMP", "ContextTokens", "GeneratedTokens"]
_MOONCAKE_FIELDS = {"timestamp", "input_length", "output_length", "hash_ids"}
_TOKENS_PER_BLOCK = 512
_TOKENS_MAX = 10**15
_SHOWN_LENGTH_MAX = 60
_LATEST = datetime(9999, 1, 1, tzinfo=UTC)
_LATEST_MS = (_LATEST - MOONCAKE_START) // timedelta(milliseconds=1)


@dataclass(frozen=True, slots=True)
class Row:
    """One recorded call.

    Args:
        line: Where it stands in the file, from 1.
        event: What was recorded of it: time, type and quantities; from a file of usage events,
            everything.
    """

    line: int
    event: UsageEvent


class _Unreadable(Exception):
    """What is wrong with a line."""


def read_rows(file: Path, trace_format: str) -> Iterator[Row]:
    """Read the calls of a file.

    Args:
        file: The file.
        trace_format: `azure`, `mooncake` or `events`.

    Raises:
        CommandError: The file cannot be opened, or a line cannot be read; it names file and line.
    """
    line = 0
    try:
        # newline="" hands line ends to the csv reader, which wants them.
        with file.open(encoding="utf-8-sig", newline="") as lines:
            for row in _READERS[trace_format](lines):
                line = row.line
                yield row
    except _Unreadable as error:
        raise CommandError(f"{file}:{error}") from None
    except UnicodeDecodeError:
        raise CommandError(f"{file}:{line + 1}: is not text in UTF-8") from None
    except OSError as error:
        raise CommandError(f"cannot read {file}: {error.strerror}") from None


def detect_format(file: Path) -> str:
    """Tell from the first line what kind of trace a file is.

    Raises:
        CommandError: It is none of them, or cannot be read.
    """
    try:
        with file.open(encoding="utf-8-sig") as lines:
            first = next((line for line in lines if line.strip()), "")
    except UnicodeDecodeError:
        raise CommandError(f"{file}:1: is not text in UTF-8") from None
    except OSError as error:
        raise CommandError(f"cannot read {file}: {error.strerror}") from None
    if first.strip().split(",") == _AZURE_COLUMNS:
        return AZURE
    try:
        fields = json.loads(first)
    except ValueError:
        fields = None
    if isinstance(fields, dict):
        return MOONCAKE if "hash_ids" in fields else EVENTS
    raise CommandError(
        f"{file}:1: is neither the header of an Azure trace ({','.join(_AZURE_COLUMNS)}) "
        "nor a JSON object"
    )


def _read_azure(lines: TextIO) -> Iterator[Row]:
    """Read the Azure LLM inference trace: a CSV file with times in UTC."""
    reader = csv.reader(lines, strict=True)
    try:
        header = next(reader, [])
        if header != _AZURE_COLUMNS:
            raise _Unreadable(f"1: the header must be {','.join(_AZURE_COLUMNS)}")
        for cells in reader:
            if not cells:
                continue
            line = reader.line_num
            if len(cells) != len(_AZURE_COLUMNS):
                raise _Unreadable(
                    f"{line}: has {len(cells)} cells instead of {len(_AZURE_COLUMNS)}"
                )
            time = _parse_time(line, "TIMESTAMP", cells[0])
            input_tokens = _parse_count(line, "ContextTokens", cells[1])
            output_tokens = _parse_count(line, "GeneratedTokens", cells[2])
            yield Row(line, _call(time, input_tokens=input_tokens, output_tokens=output_tokens))
    except csv.Error as error:
        raise _Unreadable(f"{reader.line_num}: {error}") from None


def _read_mooncake(lines: TextIO) -> Iterator[Row]:
    """Read the Mooncake trace: JSON lines with the ids of the 512-token blocks of each prompt.

    A prefix cache that never forgets is assumed: the leading blocks that any earlier prompt had
    are cached, at 512 tokens each and never more than the prompt has. This is the convention under
    which the published trace has 35.98 % of its input cached.
    """
    seen: set[int] = set()
    for line, fields in _json_objects(lines):
        if not fields.keys() >= _MOONCAKE_FIELDS:
            missing = ", ".join(sorted(_MOONCAKE_FIELDS - fields.keys()))
            raise _Unreadable(f"{line}: lacks {missing}")
        milliseconds = _parse_count(line, "timestamp", fields["timestamp"], maximum=_LATEST_MS)
        input_tokens = _parse_count(line, "input_length", fields["input_length"])
        output_tokens = _parse_count(line, "output_length", fields["output_length"])
        blocks = _parse_blocks(line, fields["hash_ids"])
        cached_blocks = next(
            (index for index, block in enumerate(blocks) if block not in seen), len(blocks)
        )
        seen.update(blocks)
        yield Row(
            line,
            _call(
                MOONCAKE_START + timedelta(milliseconds=milliseconds),
                input_tokens=input_tokens,
                output_tokens=output_tokens,
                cached_input_tokens=min(cached_blocks * _TOKENS_PER_BLOCK, input_tokens),
            ),
        )


def _read_events(lines: TextIO) -> Iterator[Row]:
    """Read usage events in the JSON mapping of protobuf, one to a line."""
    for line, fields in _json_objects(lines):
        event = UsageEvent()
        try:
            ParseDict(fields, event)
        except ParseError as error:
            raise _Unreadable(f"{line}: {error}") from None
        required = {
            "event_id": event.event_id,
            "source": event.source,
            "subject.customer_id": event.subject.customer_id,
            "type": event.type,
            "time": event.HasField("time"),
        }
        missing = [name for name, value in required.items() if not value]
        if missing:
            raise _Unreadable(f"{line}: lacks {', '.join(missing)}")
        for name, text in event.quantities.items():
            try:
                parse_decimal(text, f"quantities.{name}", minimum=Decimal(0))
            except InvalidInput as error:
                raise _Unreadable(f"{line}: {error}") from None
        yield Row(line, event)


_READERS: Mapping[str, Callable[[TextIO], Iterator[Row]]] = {
    AZURE: _read_azure,
    MOONCAKE: _read_mooncake,
    EVENTS: _read_events,
}
FORMATS = tuple(_READERS)


def _json_objects(lines: TextIO) -> Iterator[tuple[int, dict[str, object]]]:
    for line, text in enumerate(lines, start=1):
        if not text.strip():
            continue
        try:
            fields = json.loads(text)
        except (ValueError, RecursionError):
            raise _Unreadable(f"{line}: is not JSON") from None
        if not isinstance(fields, dict):
            raise _Unreadable(f"{line}: is not a JSON object")
        yield line, fields


def _call(time: datetime, **quantities: int) -> UsageEvent:
    message = Timestamp()
    message.FromDatetime(time)
    return UsageEvent(
        type=CALL_TYPE,
        time=message,
        quantities={"requests": "1", **{name: str(value) for name, value in quantities.items()}},
    )


def _parse_time(line: int, name: str, text: str) -> datetime:
    """Read a time that names no zone as UTC; what is finer than a microsecond is cut off."""
    shown = repr(text)[:_SHOWN_LENGTH_MAX]
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise _Unreadable(
            f"{line}: {name} {shown} is not a time such as 2023-11-16 18:15:46.6805900"
        ) from None
    if time.tzinfo is not None:
        raise _Unreadable(f"{line}: {name} {shown} names a time zone; the trace is in UTC")
    return time.replace(tzinfo=UTC)


def _parse_count(line: int, name: str, value: object, *, maximum: int = _TOKENS_MAX) -> int:
    number = value
    if isinstance(value, str) and value.isascii() and value.isdigit():
        number = int(value.lstrip("0")[: len(str(maximum)) + 1] or "0")
    if type(number) is not int or not 0 <= number <= maximum:
        shown = repr(value)[:_SHOWN_LENGTH_MAX]
        raise _Unreadable(f"{line}: {name} {shown} is not a whole number from 0 to {maximum:,}")
    return number


def _parse_blocks(line: int, value: object) -> list[int]:
    if not isinstance(value, list) or not all(type(block) is int for block in value):
        raise _Unreadable(f"{line}: hash_ids is not a list of whole numbers")
    return value
