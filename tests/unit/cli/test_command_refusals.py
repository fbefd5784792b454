"""What commands refuse before they call any service: one sentence, exit status 1, no traceback."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.command_line import Outcome, Tollkeeper

EXAMPLES = Path(__file__).resolve().parents[3] / "docs" / "examples"


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No suite runs in the current folder, and there is a token that nobody will see."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TOLLKEEPER_TOKEN", "token")
    # Port 1 is no service's.
    for service in ("QUOTA", "METER", "RATING", "TAX", "INVOICING"):
        monkeypatch.setenv(f"TOLLKEEPER_{service}_ADDRESS", "127.0.0.1:1")


@dataclass(frozen=True)
class Refused:
    """A command line, and what it says."""

    id: str
    arguments: str
    message: str


REFUSED = [
    Refused("no such file", "plans apply absent.yaml", "cannot read absent.yaml: No such file"),
    Refused("two windows", "limits put a --capacity 1 --per day --rolling 1m", "choose a window"),
    Refused(
        "no window",
        "limits put a --capacity 1",
        "choose a window: either --per or --rolling, or --lifetime",
    ),
    Refused(
        "two lives",
        "limits put a --capacity 1 --per day --lifetime",
        "--lifetime stands alone: what has one has no window",
    ),
    Refused(
        "no outage policy",
        "limits put a --capacity 1 --per day --outage often",
        "--outage 'often' is none of closed, open, leased",
    ),
    Refused("no limit", "limits put", "name either a limit or a file of limits by --file"),
    Refused("limit and file", "limits put a --file b.yaml", "name either a limit or a file of"),
    Refused(
        "unknown level",
        "limits put a --level team --capacity 1 --per day",
        "--level 'team' is none of customer, project, user, key, run",
    ),
    Refused(
        "unknown period",
        "limits put a --capacity 1 --per decade",
        "--per 'decade' is none of hour, day, week, month, year",
    ),
    Refused(
        "no number", "limits put a --capacity many --per day", "--capacity 'many' is not a number"
    ),
    Refused("no capacity", "limits put a --per day", "--capacity '' is not a number"),
    Refused(
        "negative",
        "limits put a --capacity=-5 --per day",
        "--capacity: requests is -5, but an amount is finite and never negative",
    ),
    Refused(
        "not finite",
        "limits put a --capacity NaN --per day",
        "--capacity: requests is NaN, but an amount is finite and never negative",
    ),
    Refused(
        "too fine",
        "limits put a --unit USD --capacity 0.0000001 --per day",
        "--capacity: USD is 1E-7, but the smallest step of this unit is 0.000001",
    ),
    Refused(
        "no end",
        "limits put a --capacity 1 --per day --until soon",
        "--until 'soon' is not a time; write it as 2026-01-31 or 2026-01-31T12:00Z",
    ),
    Refused(
        "half a request",
        "limits put a --capacity 0.5 --per day",
        "--capacity: requests is 0.5, but the smallest step of this unit is 1",
    ),
    Refused(
        "no duration",
        "limits put a --capacity 1 --rolling soon",
        "--rolling 'soon' is not a time such as 60s, 15m or 1h",
    ),
    Refused(
        "no dimension",
        "limits put a --capacity 1 --per day --dimension large",
        "--dimension 'large' is not written as model=large",
    ),
    Refused("burst", "limits put a --capacity 1 --per day --burst 1", "--burst belongs to --roll"),
    Refused(
        "zone",
        "limits put a --capacity 1 --rolling 1m --time-zone UTC",
        "--time-zone belongs to --per",
    ),
    Refused("no time", "usage --from yesterday", "--from 'yesterday' is not a time; write it as"),
    Refused(
        "backwards",
        "usage --from 2026-02-01 --to 2026-01-01",
        "--from 2026-02-01 00:00 is not before --to 2026-01-01 00:00",
    ),
    Refused("window", "usage --window decade", "--window 'decade' is none of minute, hour"),
    Refused("nothing to replay", "usage replay", "give either numbers of rejected events, or"),
    Refused("two ways to replay", "usage replay 1 --file x", "give either numbers of rejected"),
    Refused("nothing repaired", "usage replay --file absent", "cannot read absent: "),
    Refused(
        "erasing by mistake",
        "usage erase acme",
        "nobody could tell any more who used what at acme; add --yes",
    ),
    Refused("state", "invoices list --state paid", "--state 'paid' is none of draft, finalized"),
    Refused("until", "invoices close --until soon", "--until 'soon' is not a time"),
    Refused("format", "replay x.csv --format xml", "--format 'xml' is none of auto, azure, moonc"),
    Refused("endless", "replay x.csv --speed-up inf", "--speed-up and --patience are finite"),
    Refused("no trace", "replay absent.csv", "cannot read absent.csv: No such file or directory"),
    Refused(
        "customers twice",
        "replay x.csv --customer a --customers 3",
        "--customer and --customers exclude each other",
    ),
    Refused("address", "plans list --address here", "--address 'here' names no service"),
    Refused(
        "nobody answers",
        "plans list",
        "the rating service does not answer at 127.0.0.1:1; start everything by `tollkeeper up`",
    ),
    Refused("nobody meters", "usage", "the meter service does not answer at 127.0.0.1:1; start"),
    Refused("no gate", "limits list", "the quota service does not answer at 127.0.0.1:1; start"),
    Refused("no invoices", "invoices list", "the invoicing service does not answer at 127.0.0.1:1"),
]


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.id)
def test_what_cannot_work_is_one_sentence(tollkeeper: Tollkeeper, case: Refused) -> None:
    """On standard error, with exit status 1, and nothing on standard output."""
    outcome = tollkeeper(*case.arguments.split())

    assert (outcome.status, outcome.output) == (1, "")
    assert outcome.errors.startswith(f"tollkeeper: {case.message}")
    assert outcome.errors.count("\n") == 1


def test_every_fault_of_a_plan_file_is_told(tollkeeper: Tollkeeper, tmp_path: Path) -> None:
    """Unknown fields with line and column; nothing is sent."""
    file = tmp_path / "plan.yaml"
    text = (EXAMPLES / "plans" / "pro.yaml").read_text()
    file.write_text(text.replace("base_fee: 100", "bas_fee: 100"))

    outcome = tollkeeper("plans", "apply", file)

    assert outcome == Outcome(
        1, "", f"tollkeeper: {file}:16:3: plan.bas_fee: is no field here: did you mean base_fee?\n"
    )


def test_a_trace_is_read_to_its_end_before_anything_is_sent(
    tollkeeper: Tollkeeper, tmp_path: Path
) -> None:
    """No meter listens, yet the fault of the last line is what is told."""
    file = tmp_path / "trace.csv"
    file.write_text(
        "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:00:00,1,2\n2023-11-16 18:00:01,1,x"
    )

    outcome = tollkeeper("replay", file)

    assert outcome == Outcome(
        1,
        "",
        f"tollkeeper: {file}:3: GeneratedTokens 'x' is not a whole number from 0 to "
        "1,000,000,000,000,000\n",
    )


def test_a_file_of_limits_is_refused_with_its_line(tollkeeper: Tollkeeper, tmp_path: Path) -> None:
    """As a plan file is."""
    file = tmp_path / "limits.yaml"
    file.write_text("limits:\n  - limit_id: a\n    capacty: 3\n")

    outcome = tollkeeper("limits", "put", "--file", file)

    assert outcome == Outcome(
        1,
        "",
        f"tollkeeper: {file}:3:5: limits[0].capacty: is no field here: did you mean capacity?\n",
    )


@pytest.mark.parametrize("line", ["{", "[]", '{"events": {}}', '{"rejectedEventId": "many"}'])
def test_a_file_of_repaired_events_is_refused_with_its_line(
    tollkeeper: Tollkeeper, tmp_path: Path, line: str
) -> None:
    """Nothing is sent of a file with a line that is no rejected event."""
    file = tmp_path / "repaired.jsonl"
    file.write_text('{"rejectedEventId": "1"}\n\n' + line)

    outcome = tollkeeper("usage", "replay", "--file", file)

    assert (outcome.status, outcome.output) == (1, "")
    assert outcome.errors.startswith(f"tollkeeper: {file}:3: is no rejected event: ")
