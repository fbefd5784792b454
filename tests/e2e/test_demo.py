"""`tollkeeper demo`, as a newcomer runs it: one command, and nothing is left but the invoices."""

import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from pypdf import PdfReader

from tests.servers import Servers, reachable_folder

COMMAND = Path(sys.executable).with_name("tollkeeper")
TIMEOUT_S = 300


@dataclass(frozen=True)
class Demo:
    """A demo that has run, and the temporary folder that it was given."""

    folder: Path
    outcome: subprocess.CompletedProcess[str]

    @property
    def files(self) -> list[Path]:
        """Everything that is left."""
        return sorted(path for path in self.folder.rglob("*") if path.is_file())


@pytest.fixture
def folder() -> Iterator[Path]:
    """A place for temporary folders that every account can reach."""
    with reachable_folder() as folder:
        yield folder


@pytest.fixture(scope="module")
def demo() -> Iterator[Demo]:
    """The demo as a newcomer runs it, with fewer calls."""
    with reachable_folder() as folder:
        yield Demo(folder, run_demo(folder, "--calls", "2000"))


def run_demo(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the demo with temporary folders in `folder`, and without the servers of this session."""
    without = {"DATABASE_URL", "REDIS_URL", "TOLLKEEPER_DATA_DIR"}
    environment = {key: value for key, value in os.environ.items() if key not in without}
    return subprocess.run(
        [COMMAND, "demo", *arguments],
        check=False,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        cwd=folder,
        env={**environment, "TMPDIR": str(folder)},
    )


def is_listening(address: str) -> bool:
    """Tell whether anybody answers at an address."""
    host, port = address.split(":")
    with socket.socket() as caller:
        return caller.connect_ex((host, int(port))) == 0


def processes_naming(text: str) -> list[str]:
    """Tell the command lines and environments of living processes that hold a text."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            told = (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
        except OSError:
            continue
        if text.encode() in told and process.name != str(os.getpid()):
            found.append(told.decode(errors="replace"))
    return found


def test_every_figure_reconciles(demo: Demo) -> None:
    """Real servers, five processes, a month; the exit status says what the last lines say."""
    assert (demo.outcome.returncode, demo.outcome.stderr) == (0, "")
    verdict = r"^reconciled: yes \(\d+ figures compared\)$"
    assert re.search(verdict, demo.outcome.stdout, re.MULTILINE)


def test_nothing_is_left_but_the_invoices(demo: Demo) -> None:
    """No process, no port, no data; the report names every file that is kept."""
    addresses = re.findall(r" on (127\.0\.0\.1:\d+)$", demo.outcome.stdout, re.MULTILINE)

    assert len(addresses) == 7
    assert [address for address in addresses if is_listening(address)] == []
    assert processes_naming(str(demo.folder)) == []
    assert [re.sub(r"\d", "0", file.name) for file in demo.files] == ["NWI-0000-000000.pdf"] * 4
    assert all(str(file) in demo.outcome.stdout for file in demo.files)


def test_every_limit_refuses_and_says_so(demo: Demo) -> None:
    """The report shows three limits with their refusals, and one as the developer sees it."""
    limits = r"^(intern-rate|manon-budget|nightly-tokens) .* (\d+)$"
    rows = re.findall(limits, demo.outcome.stdout, re.MULTILINE)

    assert [limit for limit, _ in rows] == ["intern-rate", "manon-budget", "nightly-tokens"]
    assert all(int(count) > 0 for _, count in rows)
    assert re.search(
        r"refused by limit intern-rate of golden-gate/gg-intern: \d+ of \d+ requests left, "
        r"retry in \d+\.\d{3} s",
        demo.outcome.stdout,
    )


def test_documents_name_the_buyer_and_the_tax(demo: Demo) -> None:
    """What a person checks first: who pays, and what is taxed and why."""
    texts = ["".join(page.extract_text() for page in PdfReader(file).pages) for file in demo.files]
    names = ["Golden Gate Robotics LLC", "Isar Analytik GmbH", "Manon Lefèvre", "佐藤 花子"]

    assert [sum(name in text for text in texts) for name in names] == [1, 1, 1, 1]
    assert any("DE136695976" in text and "Steuerschuldnerschaft" in text for text in texts)


@pytest.fixture
def database(empty_database_url: str) -> str:
    """A database with nothing in it; the demo migrates it."""
    return empty_database_url


def test_a_terminal_gets_colours_and_the_same_verdict(
    folder: Path, servers: Servers, database: str
) -> None:
    """Tables and progress bars are for people; the servers may be anybody's."""
    command = [
        *(str(COMMAND), "demo", "--calls", "300", "--data-dir", str(folder / "kept")),
        *("--database-url", database, "--redis-url", servers.redis_url),
    ]
    script = f"import pty, os, sys; sys.exit(os.waitstatus_to_exitcode(pty.spawn({command!r})))"
    outcome = subprocess.run(
        [sys.executable, "-c", script],
        check=False,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "120"},
    )

    assert outcome.returncode == 0
    assert "\x1b[1;32mreconciled: yes" in outcome.stdout


def test_too_few_calls_are_refused(folder: Path) -> None:
    """Below a hundred, four customers have no month to speak of."""
    outcome = run_demo(folder, "--calls", "5")

    assert outcome.returncode == 2
    assert list(folder.iterdir()) == []
