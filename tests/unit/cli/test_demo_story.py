"""The verdict of the demo, as it is told."""

import io

from rich.console import Console

from cli.demo.reconcile import Reconciliation
from cli.demo.story import tell_reconciliation
from cli.output import Output


def told(result: Reconciliation) -> list[str]:
    """Tell a reconciliation to a pipe."""
    heard = io.StringIO()
    tell_reconciliation(Output(console=Console(file=heard)), result)
    return heard.getvalue().splitlines()


def test_agreement_is_told_with_the_number_of_figures() -> None:
    """A verdict over nothing would be worth nothing."""
    result = Reconciliation(event_count=1234)
    for _ in range(1500):
        result.figure("usage", 7, 7)

    assert told(result)[-2:] == [
        "1,234 usage events compared field by field with the meter's list",
        "reconciled: yes (1,500 figures compared)",
    ]


def test_differences_are_told_with_both_figures_and_the_verdict_is_no() -> None:
    """The first twenty are shown, the others counted."""
    result = Reconciliation()
    for number in range(25):
        result.figure(f"figure {number}", 1, 2)

    lines = told(result)

    assert lines[2] == "difference: figure 0: 2 instead of 1"
    assert lines[21:] == [
        "difference: figure 19: 2 instead of 1",
        "and 5 more differences",
        "0 usage events compared field by field with the meter's list",
        "reconciled: no (25 figures compared)",
    ]
