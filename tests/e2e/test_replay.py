"""`tollkeeper replay` against real service processes, some of which are killed on the way."""

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.servers import Servers, fresh_database, reachable_folder

COMMAND = Path(sys.executable).with_name("tollkeeper")
SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
TIMEOUT_S = 120
CALLS = 2000


@dataclass(frozen=True)
class Suite:
    """Five running service processes."""

    data_dir: Path

    def run(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        """Run a command against them."""
        return subprocess.run(
            self.command(*arguments),
            check=False,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
        )

    def command(self, *arguments: object) -> list[str]:
        """Give a command that calls them."""
        return [str(COMMAND), *map(str, arguments), "--data-dir", str(self.data_dir)]

    def replay(self, file: Path, *arguments: object) -> dict[str, Any]:
        """Replay a file, and return the report."""
        outcome = self.run("replay", file, "--json", *arguments)
        assert outcome.stderr == ""
        assert outcome.returncode == 0
        report: dict[str, Any] = json.loads(outcome.stdout)
        return report

    def kill(self, service: str) -> None:
        """Kill a service as a crash would; the supervisor starts it again."""
        record = self.data_dir / "run" / f"{service}.pid"
        os.kill(int(record.read_text().split()[0]), signal.SIGKILL)


@pytest.fixture(scope="module")
def suite(servers: Servers) -> Iterator[Suite]:
    """Everything that `tollkeeper up` runs, on a database of its own."""
    with reachable_folder() as folder, fresh_database(servers) as database_url:
        data_dir = folder / "data"
        command = [
            *(str(COMMAND), "up", "--json", "--data-dir", str(data_dir), "--port-base", "0"),
            *("--database-url", database_url, "--redis-url", servers.redis_url),
        ]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        ) as up:
            try:
                assert up.stdout
                assert json.loads(up.stdout.readline())["addresses"]
                yield Suite(data_dir)
            finally:
                up.terminate()
                up.wait(TIMEOUT_S)


@pytest.fixture
def trace(tmp_path: Path) -> Callable[[int], tuple[Path, dict[str, int]]]:
    """Write a trace of a minute, another one for each seed; give it with its totals."""

    def write(seed: int) -> tuple[Path, dict[str, int]]:
        dice = random.Random(seed)
        file = tmp_path / f"trace-{seed}.csv"
        totals = {"calls": CALLS, "input_tokens": 0, "output_tokens": 0}
        lines = ["TIMESTAMP,ContextTokens,GeneratedTokens"]
        for number in range(CALLS):
            input_tokens, output_tokens = dice.randrange(5000), dice.randrange(1000)
            totals["input_tokens"] += input_tokens
            totals["output_tokens"] += output_tokens
            seconds = number * 60 / CALLS
            lines.append(f"2024-02-03 12:00:{seconds:010.7f},{input_tokens},{output_tokens}")
        file.write_text("\n".join(lines))
        return file, totals

    return write


@pytest.mark.skipif(not SHARED.is_dir(), reason="the recorded traces are not beside this checkout")
@pytest.mark.parametrize(
    ("name", "totals"),
    [
        ("conv.csv", {"calls": 14_524, "input_tokens": 17_236_779, "output_tokens": 2_933_279}),
        ("code.csv", {"calls": 6_614, "input_tokens": 13_451_809, "output_tokens": 181_863}),
    ],
)
def test_a_recorded_trace_is_metered_exactly_and_once(
    suite: Suite, name: str, totals: dict[str, int]
) -> None:
    """The sums are the published ones; replaying the file again changes nothing."""
    file = SHARED / "azure-llm-trace-2023" / name

    first, second = suite.replay(file), suite.replay(file)

    count = totals["calls"]
    assert (first["totals"], first["sent"], first["agrees"]) == (totals, totals, True)
    assert (first["outcomes"]["created"], first["outcomes"]["duplicate"]) == (count, 0)
    assert (second["totals"], second["agrees"]) == (totals, True)
    assert (second["outcomes"]["created"], second["outcomes"]["duplicate"]) == (0, count)


@pytest.mark.skipif(not SHARED.is_dir(), reason="the recorded traces are not beside this checkout")
def test_cached_tokens_are_metered_beside_all_input(suite: Suite) -> None:
    """35.98 % of the input of the Mooncake trace is cached, as published."""
    file = SHARED / "mooncake-conversation-trace" / "conversation_trace.jsonl"

    assert suite.replay(file, "--customers", 7)["totals"] == {
        "calls": 9_023,
        "input_tokens": 110_159_505,
        "output_tokens": 3_127_469,
        "cached_input_tokens": 39_630_047,
    }


@pytest.mark.parametrize(
    ("seed", "killed", "way"),
    [
        (1, "meter", ()),
        (2, "meter", ("--through-gate",)),
        (3, "quota", ("--through-gate",)),
    ],
)
def test_a_service_that_is_killed_on_the_way_loses_nothing_and_doubles_nothing(
    suite: Suite,
    trace: Callable[[int], tuple[Path, dict[str, int]]],
    seed: int,
    killed: str,
    way: tuple[str, ...],
) -> None:
    """The replay waits for the restart, ends well, and the totals are exact."""
    # given a replay of three seconds that is half done
    file, totals = trace(seed)
    command = suite.command("replay", file, "--speed-up", 20, *way)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as replay:
        assert replay.stdout
        seen = ""
        while f"calls: {CALLS // 2:,} of {CALLS:,}" not in seen:
            line = replay.stdout.readline()
            assert line, f"the replay ended early: {seen}"
            seen += line

        # when
        suite.kill(killed)
        seen += replay.stdout.read()

    # then
    assert (replay.returncode, "0 not taken, 0 refused by the gate" in seen) == (0, True)
    again = suite.replay(file)
    assert (again["totals"], again["agrees"]) == (totals, True)
    assert again["outcomes"] == {
        "created": 0,
        "duplicate": CALLS,
        "not_taken": 0,
        "denied_by_gate": 0,
    }


def test_a_limit_refuses_calls_of_a_replay_through_the_gate(
    suite: Suite, trace: Callable[[int], tuple[Path, dict[str, int]]]
) -> None:
    """Refused calls are counted by their limit and charge nothing; the meter has the others."""
    limit = ("--customer", "frugal", "--unit", "requests", "--capacity", 150, "--per", "year")
    assert suite.run("limits", "put", "frugal-year", *limit).returncode == 0
    file, _ = trace(7)

    report = suite.replay(file, "--through-gate", "--customer", "frugal")

    assert report["totals"]["calls"] == 150
    assert report["denied_by_limit"] == {"frugal-year": CALLS - 150}
    assert report["agrees"] is True


def test_another_customer_for_the_same_source_is_a_conflict(
    suite: Suite, trace: Callable[[int], tuple[Path, dict[str, int]]]
) -> None:
    """Nothing is taken silently; under a source of its own it is other usage."""
    file, totals = trace(8)
    suite.replay(file, "--customer", "first")

    refused = suite.run("replay", file, "--customer", "second")

    assert refused.returncode == 1
    assert f"{CALLS:,} not taken" in refused.stdout
    assert refused.stderr.startswith(
        f"tollkeeper: {CALLS:,} events were not taken; --source NAME makes it usage of its own; "
        "the first: CONFLICT event 1 of replay-"
    )
    other = suite.replay(file, "--customer", "second", "--source", "second-try")
    assert (other["totals"], other["source"]) == (totals, "second-try")


def test_usage_events_are_replayed_as_they_are(suite: Suite) -> None:
    """The example file; its meters come with the example plans."""
    examples = Path(__file__).resolve().parents[2] / "docs" / "examples"
    assert suite.run("plans", "apply", examples / "plans" / "starter.yaml").returncode == 0

    report = suite.replay(examples / "usage-events.jsonl")

    assert report["totals"] == {
        "calls": 2,
        "gpu_hours": "0.375",
        "input_tokens": 1277,
        "llm_tokens": 2300,
        "output_tokens": 1023,
    }
    assert report["agrees"] is True
