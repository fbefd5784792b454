"""What the readers of recorded traces take, and what they refuse."""

import json
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

from cli.errors import CommandError
from cli.replay.mapping import event_time
from cli.replay.readers import AZURE, EVENTS, MOONCAKE, Row, detect_format, read_rows

SHARED = Path(__file__).resolve().parents[4] / "shared" / "data"
HEADER = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
AN_EVENT = {
    "eventId": "7",
    "source": "gateway",
    "subject": {"customerId": "acme"},
    "type": "llm.call",
    "time": "2026-01-31T12:00:00Z",
    "quantities": {"input_tokens": "12.5"},
}


def a_file(folder: Path, content: str) -> Path:
    """Write a trace."""
    file = folder / "trace.txt"
    file.write_text(content, encoding="utf-8")
    return file


def facts(row: Row) -> tuple[int, datetime, dict[str, str]]:
    """Give what a trace says of a call."""
    return row.line, event_time(row.event), dict(row.event.quantities)


def without(name: str) -> str:
    """Write a usage event that lacks a field."""
    return json.dumps({field: value for field, value in AN_EVENT.items() if field != name})


def test_an_azure_trace_gives_times_in_utc_and_both_tokens(tmp_path: Path) -> None:
    """Digits finer than a microsecond are cut off, not rounded; blank lines are no calls."""
    file = a_file(tmp_path, HEADER + "2023-11-16 18:15:46.6805909,374,44\n\n")

    assert [facts(row) for row in read_rows(file, AZURE)] == [
        (
            2,
            datetime(2023, 11, 16, 18, 15, 46, 680590, tzinfo=UTC),
            {"requests": "1", "input_tokens": "374", "output_tokens": "44"},
        )
    ]


def test_cached_tokens_are_those_of_the_longest_prefix_seen_before(tmp_path: Path) -> None:
    """A block counts 512 tokens, never more than the prompt; after a new block nothing is cached.

    By hand: nothing is known at first; then blocks 1 and 2 are, and 9 is not; then all of 1 and 2
    are, but the prompt has only 600 tokens; then 2 is known but 8 before it is not.
    """
    prompts = [(1200, [1, 2, 3]), (2000, [1, 2, 9, 3]), (600, [1, 2]), (1000, [8, 2])]
    lines = [
        {"timestamp": 0, "input_length": length, "output_length": 1, "hash_ids": blocks}
        for length, blocks in prompts
    ]
    file = a_file(tmp_path, "\n".join(map(json.dumps, lines)))

    cached = [row.event.quantities["cached_input_tokens"] for row in read_rows(file, MOONCAKE)]

    assert cached == ["0", "1024", "600", "0"]


def test_a_mooncake_trace_counts_its_milliseconds_from_a_fixed_day(tmp_path: Path) -> None:
    """The trace has no date; a fixed one keeps replays of it the same."""
    line = {"timestamp": 1500, "input_length": 5, "output_length": 1, "hash_ids": [1]}
    file = a_file(tmp_path, json.dumps(line))

    assert [event_time(row.event) for row in read_rows(file, MOONCAKE)] == [
        datetime(2025, 1, 1, 0, 0, 1, 500_000, tzinfo=UTC)
    ]


def test_a_usage_event_is_taken_as_it_is(tmp_path: Path) -> None:
    """Identity, customer, type and exact quantities all come from the file."""
    (row,) = read_rows(a_file(tmp_path, json.dumps(AN_EVENT)), EVENTS)

    event = row.event
    assert (event.event_id, event.source, event.subject.customer_id) == ("7", "gateway", "acme")
    assert facts(row) == (
        1,
        datetime(2026, 1, 31, 12, tzinfo=UTC),
        {"input_tokens": "12.5"},
    )


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        pytest.param(HEADER, AZURE, id="azure"),
        pytest.param("\ufeff" + HEADER, AZURE, id="azure with a byte order mark"),
        pytest.param('{"timestamp": 0, "hash_ids": []}', MOONCAKE, id="mooncake"),
        pytest.param(f"\n{json.dumps(AN_EVENT)}", EVENTS, id="events after a blank line"),
    ],
)
def test_the_first_line_tells_the_format(tmp_path: Path, content: str, expected: str) -> None:
    """Nobody has to name the format of a known trace."""
    assert detect_format(a_file(tmp_path, content)) == expected


@pytest.mark.parametrize("content", ["", "hello\n", "[1, 2]", "time,input,output\n"])
def test_an_unknown_format_is_not_guessed(tmp_path: Path, content: str) -> None:
    """The message says what was expected."""
    file = a_file(tmp_path, content)

    with pytest.raises(CommandError) as refused:
        detect_format(file)

    assert str(refused.value) == (
        f"{file}:1: is neither the header of an Azure trace "
        "(TIMESTAMP,ContextTokens,GeneratedTokens) nor a JSON object"
    )


@dataclass(frozen=True)
class Broken:
    """A trace with one bad line, and what is said about it."""

    id: str
    trace_format: str
    content: str
    message: str


MOONCAKE_LINE = '{"timestamp": 0, "input_length": 5, "output_length": 1, "hash_ids": [1]}\n'
BROKEN = [
    Broken("header", AZURE, "a,b\n", "1: the header must be TIMESTAMP,ContextTokens,GeneratedTok"),
    Broken("cells", AZURE, HEADER + "2023-01-01 00:00:00,1\n", "2: has 2 cells instead of 3"),
    Broken("time", AZURE, HEADER + "yesterday,1,2\n", "2: TIMESTAMP 'yesterday' is not a time"),
    Broken(
        "zone",
        AZURE,
        HEADER + "2023-01-01 00:00:00+09:00,1,2\n",
        "2: TIMESTAMP '2023-01-01 00:00:00+09:00' names a time zone",
    ),
    Broken(
        "negative",
        AZURE,
        HEADER + "2023-01-01 00:00:00,1,2\n2023-01-01 00:00:00,-1,2\n",
        "3: ContextTokens '-1' is not a whole number",
    ),
    Broken(
        "40 digits",
        AZURE,
        HEADER + f"2023-01-01 00:00:00,1,{'9' * 40}\n",
        f"2: GeneratedTokens '{'9' * 40}' is not a whole number",
    ),
    Broken(
        "unclosed quote",
        AZURE,
        HEADER + '"2023-01-01 00:00:00,1,2\n',
        "2: unexpected end of data",
    ),
    Broken("not JSON", MOONCAKE, MOONCAKE_LINE + "{\n", "2: is not JSON"),
    Broken("no object", MOONCAKE, "7\n", "1: is not a JSON object"),
    Broken("missing", MOONCAKE, '{"timestamp": 0}', "1: lacks hash_ids, input_length, output_le"),
    Broken(
        "fraction",
        MOONCAKE,
        MOONCAKE_LINE.replace("5", "5.5"),
        "1: input_length 5.5 is not a whole number",
    ),
    Broken(
        "truth is no number",
        MOONCAKE,
        MOONCAKE_LINE.replace("5", "true"),
        "1: input_length True is not a whole number",
    ),
    Broken(
        "block ids", MOONCAKE, MOONCAKE_LINE.replace("[1]", '["a"]'), "1: hash_ids is not a list"
    ),
    Broken("no identity", EVENTS, without("eventId"), "1: lacks event_id"),
    Broken("no customer", EVENTS, without("subject"), "1: lacks subject.customer_id"),
    Broken(
        "unknown field",
        EVENTS,
        json.dumps({**AN_EVENT, "price": 1}),
        '1: Message type "tollkeeper.api.meter.v1.UsageEvent" has no field named "price"',
    ),
    Broken(
        "NaN",
        EVENTS,
        json.dumps({**AN_EVENT, "quantities": {"tokens": "NaN"}}),
        "1: quantities.tokens: must be a decimal number",
    ),
    Broken(
        "negative quantity",
        EVENTS,
        json.dumps({**AN_EVENT, "quantities": {"tokens": "-1"}}),
        "1: quantities.tokens: must be at least 0",
    ),
]


@pytest.mark.parametrize("case", BROKEN, ids=lambda case: case.id)
def test_a_bad_line_is_named_with_its_fault(tmp_path: Path, case: Broken) -> None:
    """File, line and what is wrong: enough to put it right."""
    file = a_file(tmp_path, case.content)

    with pytest.raises(CommandError) as refused:
        list(read_rows(file, case.trace_format))

    assert str(refused.value).startswith(f"{file}:{case.message}")


def test_bytes_that_are_no_text_are_named_by_line(tmp_path: Path) -> None:
    """A compressed or binary file is refused like any other."""
    file = tmp_path / "trace.bin"
    file.write_bytes(b"\xff\xfe\x00")

    with pytest.raises(CommandError, match=r"trace\.bin:1: is not text in UTF-8"):
        detect_format(file)


def test_a_missing_file_is_one_sentence(tmp_path: Path) -> None:
    """The reason is the system's own."""
    with pytest.raises(CommandError, match=r"cannot read .*: No such file or directory"):
        detect_format(tmp_path / "absent.csv")


@pytest.mark.skipif(not SHARED.is_dir(), reason="the recorded traces are not beside this checkout")
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "azure-llm-trace-2023/conv.csv",
            {"requests": 14_524, "input_tokens": 17_236_779, "output_tokens": 2_933_279},
        ),
        (
            "azure-llm-trace-2023/code.csv",
            {"requests": 6_614, "input_tokens": 13_451_809, "output_tokens": 181_863},
        ),
        (
            "mooncake-conversation-trace/conversation_trace.jsonl",
            {
                "requests": 9_023,
                "input_tokens": 110_159_505,
                "output_tokens": 3_127_469,
                # 35.98 % of the input, as published with the trace.
                "cached_input_tokens": 39_630_047,
            },
        ),
    ],
)
def test_recorded_traces_add_up_to_their_published_totals(
    name: str, expected: dict[str, int]
) -> None:
    """Every call of the real traces is read, and read right."""
    file = SHARED / name
    totals: Counter[str] = Counter()
    for row in read_rows(file, detect_format(file)):
        totals.update({unit: int(text) for unit, text in row.event.quantities.items()})

    assert dict(totals) == expected
