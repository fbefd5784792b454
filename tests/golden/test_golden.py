"""Runs every golden case: text files whose figures a person can check by hand.

A case is `<kind>/<name>.txt`: what is given, a line `----`, and what comes of it. Its first line
names the kind, and `tests/golden/<kind>/answer.py` turns what is given into what comes of it.
`REWRITE_GOLDEN=1` writes the answers instead of comparing them; the diff is then reviewed.
"""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent
CASES = sorted(FOLDER.glob("*/*.txt"))
SEPARATOR = "\n----\n"


def answer(given: str) -> str:
    """Compute what comes of what is given."""
    label, _, kind = given.splitlines()[0].partition(": ")
    assert (label, kind.isidentifier()) == ("kind", True), "a case begins with `kind: <name>`"
    computed: str = import_module(f"tests.golden.{kind}.answer").answer(given)
    return computed


def expected_answer(case: Path, computed: str) -> str:
    """Tell what the case says, after rewriting it when that is asked for."""
    given, separator, expected = case.read_text(encoding="utf-8").partition(SEPARATOR)
    if os.environ.get("REWRITE_GOLDEN") == "1":
        case.write_text(f"{given}{SEPARATOR}{computed}", encoding="utf-8")
        return computed
    assert separator, f"{case.name} has no line `----`"
    return expected


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.parent.name}/{case.stem}")
def test_a_golden_case_comes_to_its_figures(case: Path) -> None:
    """What is computed is what stands below the line, to the last character."""
    computed = answer(case.read_text(encoding="utf-8").partition(SEPARATOR)[0])

    assert computed == expected_answer(case, computed)


def test_every_kind_of_case_has_one() -> None:
    """A folder that answers has cases, and a folder of cases answers."""
    answering = {path.parent for path in FOLDER.glob("*/answer.py")}

    assert answering == {case.parent for case in CASES}
