"""Price lists as people publish them, as plan files: what usage comes to under each."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pytest

from cli.plan_files import read_plan_file
from kit.interval import Interval
from services.rating.convert.plans import parse_plan
from services.rating.model import Contract, GivenUsage, Plan, Proration
from services.rating.selection import dimensions_of, readings_of
from tests.rating_builders import JANUARY, a_contract, a_given_usage, rated_given

FOLDER = Path(__file__).resolve().parents[3] / "docs/examples/plans"


def read(name: str) -> Plan:
    """Read a plan of the examples."""
    return parse_plan(read_plan_file(FOLDER / f"{name}.yaml").plan, "plan")


def on(day: int, month: int = 1, year: int = 2026) -> datetime:
    """Name the first instant of a day."""
    return datetime(year, month, day, tzinfo=UTC)


def a_call(meter_id: str, model: str, quantity: str, context: str = "1000") -> GivenUsage:
    """Make what a meter counts of a call of some size."""
    return a_given_usage(
        quantity, meter_id=meter_id, model=model, quantities={"input_tokens": context}
    )


@dataclass(frozen=True, slots=True)
class Case:
    """Usage under a price list, and what its lines come to, in cents."""

    id: str
    file: str
    usage: tuple[GivenUsage, ...]
    lines: tuple[tuple[str, int], ...]
    contract: Contract = field(default_factory=lambda: a_contract(on(1)))
    proration: Proration | None = None
    previous: tuple[Interval, ...] = ()


DECEMBER = Interval(on(1, 12, 2025), on(1))

CASES = [
    Case(
        "six models, of which one has a context tier",
        "six-models",
        (
            a_call("uncached_input_tokens", "gpt-5", "3000000"),
            a_call("cached_input_tokens", "gpt-5", "8000000"),
            a_call("visible_output_tokens", "gpt-5", "500000"),
            a_call("reasoning_tokens", "o3", "250000"),
            a_call("uncached_input_tokens", "a-model-of-tomorrow", "1000000"),
            a_call("uncached_input_tokens", "gemini-2.5-pro", "200000", "200000"),
            a_call("uncached_input_tokens", "gemini-2.5-pro", "100001", "200001"),
            a_call("cached_input_tokens", "gemini-2.5-pro", "100000", "200001"),
            a_call("visible_output_tokens", "gemini-2.5-pro", "2000", "200001"),
        ),
        (
            # 3 x 1.25 of gpt-5 and 1 x 3 of any other model.
            ("input", 675),
            # 0.2 x 1.25 and 0.100001 x 2.5 for the call above 200,000 tokens.
            ("input_gemini-2.5-pro", 50),
            ("cached", 100),
            ("cached_gemini-2.5-pro", 3),
            ("output", 500),
            ("output_gemini-2.5-pro", 3),
            ("reasoning", 200),
            ("reasoning_gemini-2.5-pro", 0),
        ),
    ),
    Case(
        "GPU seconds by type and region, below the commitment",
        "gpu-commitment",
        (
            a_given_usage("3600000", meter_id="gpu_seconds", gpu="h100", region="us"),
            a_given_usage("1800", meter_id="gpu_seconds", gpu="h100", region="eu"),
            a_given_usage("5400", meter_id="gpu_seconds", gpu="l4", region="eu"),
            a_given_usage("60", meter_id="gpu_seconds", gpu="b200", region="eu"),
        ),
        # 3,950 + 2.175 + 1.20 + 0.08333 of 20,000.
        (("gpu", 395346), ("", 1604654)),
    ),
    Case(
        "half a month of GPU seconds beyond its part of the commitment",
        "gpu-commitment",
        (a_given_usage("36000000", meter_id="gpu_seconds", gpu="h100", region="us"),),
        (("gpu", 3950000),),
        proration=Proration(17, 31),
    ),
    Case(
        "seats by days, and calls beyond what is included and kept",
        "seats",
        (
            a_given_usage("9", meter_id="seats", time=on(1, 6, 2025), operation="add"),
            a_given_usage("3", meter_id="seats", time=on(17), operation="add"),
            a_given_usage("2", meter_id="seats", time=on(31), operation="remove"),
            a_given_usage("20000", meter_id="calls", time=on(9, 12, 2025)),
            a_given_usage("81000", meter_id="calls", time=on(9)),
        ),
        # 30 x 9 + 15 / 31 x (30 + 2 x 25) and 1,000 of 81,000 calls.
        (("seats", 30871), ("calls", 100)),
        contract=a_contract(on(1, 6, 2025)),
        previous=(DECEMBER,),
    ),
    Case(
        "calls within the trial cost nothing",
        "seats",
        (
            a_given_usage("90000", meter_id="calls", time=on(14)),
            a_given_usage("51000", meter_id="calls", time=on(15)),
        ),
        (("seats", 0), ("calls", 100)),
    ),
    Case(
        "credits in packs, and what is priced in credits",
        "credit-packs",
        (
            a_given_usage("1500", meter_id="bought_credits"),
            a_given_usage("400", meter_id="bought_credits"),
            a_given_usage("3", meter_id="images", quality="high"),
            a_given_usage("10", meter_id="images", quality="draft"),
            a_given_usage("6.2", meter_id="video_seconds"),
        ),
        # Two packs; 51 + 40 credits; 7 seconds at 12.5 are 87.5, rounded to 88 credits.
        (("packs", 1800), ("images", 91), ("video", 88)),
    ),
    Case(
        "a commission with free sales, bounds of each and a cap",
        "marketplace",
        tuple(
            a_given_usage(amount, meter_id="sales", time=on(2 + index))
            for index, amount in enumerate(("300", "240", "5", "100", "900", "10000"))
        ),
        # Free: 300 and 200 of 240. Of 40: 1.46, of 5: 0.50, of 100: 3.20, and 25 of both others.
        (("commission", 5516),),
    ),
    Case(
        "a seller whose month is capped",
        "marketplace",
        tuple(a_given_usage("10000", meter_id="sales") for _ in range(100)),
        (("commission", 200000),),
    ),
    Case(
        "tokens at the tier of the contract, in the last month of the first year",
        "volume-commitment",
        (
            a_given_usage("9000000000", meter_id="llm_tokens", time=on(5, 3, 2025)),
            a_given_usage("2000000000", meter_id="llm_tokens", time=on(5)),
        ),
        # 2,000,000,000 x 0.000006, and of 120,000 what 90,000, 1,500 and 12,000 leave.
        (("support", 150000), ("tokens", 1200000), ("", 1650000)),
        contract=a_contract(on(1, 2, 2025), billed_before="90000"),
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_a_price_list_comes_to_its_lines(case: Case) -> None:
    """Every line of a published way of pricing, to the cent."""
    rating = rated_given(
        read(case.file),
        *case.usage,
        period=JANUARY,
        proration=case.proration,
        contract=case.contract,
        previous=case.previous,
    )

    lines = [(line.price_id, line.amount.minor_units) for line in rating.lines]
    assert lines == list(case.lines)


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_plan_of_the_examples_names_the_meters_it_prices(path: Path) -> None:
    """A plan file can be applied by itself: its meters keep every dimension that it prices by."""
    file = read_plan_file(path)
    kept = {meter.meter_id: set(meter.group_by) for meter in file.meters}

    plan = parse_plan(file.plan, "plan")

    assert [
        (reading.meter_id, set(dimensions_of(reading)) - kept[reading.meter_id])
        for reading in readings_of(plan)
    ] == [(reading.meter_id, set()) for reading in readings_of(plan)]
