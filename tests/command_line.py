"""Run the `tollkeeper` command inside the test, as its own process would."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module

import pytest


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a command left behind: its exit status and what it printed."""

    status: int
    output: str
    errors: str


Tollkeeper = Callable[..., Outcome]


def command_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Tollkeeper:
    """Give a function that runs `tollkeeper` with the given arguments."""

    def run(*arguments: object) -> Outcome:
        monkeypatch.setattr("sys.argv", ["tollkeeper", *map(str, arguments)])
        capsys.readouterr()
        # Imported late: tests that run no command should neither wait for it nor fail with it.
        main = import_module("cli.main").main
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        return Outcome(int(ended.value.code or 0), printed.out, printed.err)

    return run
