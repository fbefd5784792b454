"""Price lists as people publish them, as plan files: their own examples hold under each."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli.plan_files import read_plan_file
from services.rating.examples import Example, try_example
from services.rating.model import Plan

FOLDER = Path(__file__).resolve().parents[3] / "docs/examples/plans"
FILES = [read_plan_file(path) for path in sorted(FOLDER.glob("*.yaml"))]
KINDS = {
    "six-models": {"matrix", "context_tiers"},
    "gpu-commitment": {"matrix"},
    "seats": {"graduated", "standard"},
    "credit-packs": {"package", "matrix", "standard"},
    "marketplace": {"percentage"},
    "volume-commitment": {"volume"},
    "pro": {"standard"},
    "starter": {"standard", "package"},
}


@pytest.mark.parametrize(
    ("plan", "example"),
    [
        pytest.param(file.rated_plan, example, id=f"{file.path.stem}: {example.name}")
        for file in FILES
        for example in file.examples
    ],
)
def test_an_example_of_a_price_list_holds(plan: Plan, example: Example) -> None:
    """Every line and the total come to what the file says."""
    assert try_example(plan, example) == ()


def test_every_price_list_has_examples() -> None:
    """Each published way of pricing is there, with the kinds of price it stands for."""
    found = {
        file.path.stem: {price.WhichOneof("model") for price in file.plan.prices} for file in FILES
    }

    assert found == KINDS
    assert all(file.examples and file.meters for file in FILES)
