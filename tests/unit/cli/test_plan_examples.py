"""Examples in plan files: where the plan says otherwise, and where an example cannot be meant."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator
from typer.testing import CliRunner

from cli.contract_files import InvalidFile
from cli.errors import CommandError
from cli.main import app_for
from cli.plan_files import parse_plan_file

ROOT = Path(__file__).resolve().parents[3]
EXAMPLES = sorted((ROOT / "docs/examples/plans").glob("*.yaml"))
FILE = Path("plan.yaml")
PLAN = """\
meters:
  - {meter_id: calls, event_type: llm.call, aggregation: count, group_by: [model]}
plan:
  plan_id: pro
  currency: USD
  base_fee: 10
  prices:
    - {price_id: calls, meter_id: calls, group_by: [model], standard: {amount: 0.015}}
examples:
"""


def faults_of(examples: str, *, plan: str = PLAN) -> list[str]:
    """Check a plan with examples, which begin on line 10, and try them; answer the faults."""
    with pytest.raises(InvalidFile) as caught:
        parse_plan_file((plan + dedent(examples)).encode(), FILE).try_examples()
    return str(caught.value).splitlines()


def test_a_plan_that_says_otherwise_is_told_line_by_line() -> None:
    """Each figure that differs stands with its place, what it is, and whose example it is of."""
    faults = faults_of(
        """\
        - name: two models
          usage:
            - {meter_id: calls, dimensions: {model: a}, quantity: 1, times: 3}
            - {meter_id: calls, dimensions: {model: b}, quantity: 2}
          lines:
            - {kind: base_fee, amount: 11}
            - {price_id: calls, quantity: 4, unrounded_amount: 0.045, amount: 0.05}
            - {price_id: calls, group: {model: a}, amount: 0.03}
          total: 10.07
        - {name: nothing, lines: [{amount: 10}, {price_id: calls, amount: 0}], total: 10}
        - name: too few
          usage: [{meter_id: calls, quantity: 1}]
          lines: [{amount: 10}]
          total: 10.02
        """
    )

    assert faults == [
        "plan.yaml:15:32: examples[0].lines[0].amount: is 10, not 11 (two models)",
        "plan.yaml:16:35: examples[0].lines[1].quantity: is 3, not 4 (two models)",
        (
            "plan.yaml:17:7: examples[0].lines[2]: another line stands here: calls: b, 0.03 USD"
            " (two models)"
        ),
        "plan.yaml:18:10: examples[0].total: comes to 10.08, not to 10.07 (two models)",
        "plan.yaml:19:41: examples[1].lines[1]: there is no such line (nothing)",
        (
            "plan.yaml:22:10: examples[2].lines: there is a further one: calls: other, 0.02 USD"
            " (too few)"
        ),
    ]  # fmt: skip


def test_an_example_that_cannot_be_rated_says_why() -> None:
    """A trial depends on when the contract began, which the example must say."""
    plan = PLAN.replace("  base_fee: 10\n", "  base_fee: 10\n  trial: {days: 3}\n")

    (fault,) = faults_of("- {name: a month, total: 10}\n", plan=plan)

    assert fault == (
        "plan.yaml:11:3: examples[0]: cannot be rated: the plan pro depends on when the contract"
        " began: give contract_start (a month)"
    )


def test_what_cannot_be_an_example_is_refused_at_once() -> None:
    """Bad fields, usage that nothing prices and meters that the file lacks come together."""
    plan = PLAN.replace("group_by: [model]}", "group_by: [region]}").replace(
        "standard: {amount: 0.015}}",
        "standard: {amount: 0.015}}\n    - {price_id: gone, meter_id: gone, standard: {amount: 1}}",
    )
    faults = faults_of(
        """\
        - total: 1
          usage:
            - {meter_id: seats, quantity: -1, times: 10001}
            - {meter_id: calls, quantity: 1, tims: 3}
        - {name: no total, proration: {billed_days: 3, period_days: 2}}
        """,
        plan=plan,
    )

    assert faults == [
        (
            "plan.yaml:8:7: plan.prices[0].dimensions.model: the meter calls does not keep it:"
            " its group_by lacks model"
        ),
        "plan.yaml:9:34: plan.prices[1].meter_id: the meter gone is none of the file's meters",
        "plan.yaml:11:3: examples[0].name: is required",
        (
            "plan.yaml:13:18: examples[0].usage[0].meter_id: no price of the plan counts the meter"
            " seats"
        ),
        "plan.yaml:13:35: examples[0].usage[0].quantity: must be at least 0",
        "plan.yaml:13:46: examples[0].usage[0].times: must be from 0 to 10000",
        "plan.yaml:14:38: examples[0].usage[1].tims: is no field here: did you mean times?",
        "plan.yaml:15:3: examples[1].total: a decimal number is required",
        "plan.yaml:15:61: examples[1].proration.period_days: must not be below billed_days",
    ]


def test_a_meter_whose_figures_do_not_add_up_is_priced_as_a_whole() -> None:
    """A maximum may be priced by tiers and by groups, but has no price of single hours or rows."""
    maximum = """\
    meters:
      - {meter_id: peak, event_type: a, aggregation: max, quantity: gpus, group_by: [region]}
    plan:
      plan_id: pro
      currency: USD
      prices:
        - {price_id: a, meter_id: peak, group_by: [region], volume: {tiers: [{unit_amount: 1}]}}
    """
    hours = "time_of_use: {other_amount: 1, windows: [{amount: 2, end_hour: 9}]}"
    parts = maximum.replace("volume: {tiers: [{unit_amount: 1}]}", hours)

    parse_plan_file(dedent(maximum).encode(), FILE)
    with pytest.raises(InvalidFile) as caught:
        parse_plan_file(dedent(parts).encode(), FILE)

    assert str(caught.value) == (
        "plan.yaml:7:31: plan.prices[0].meter_id: the figures of the meter peak do not add up, and"
        " the price adds parts"
    )


def test_meters_of_a_file_are_checked_as_their_service_would() -> None:
    """What the meter service refuses of a meter by itself needs no service to be found."""
    meters = """\
    meters:
      - {meter_id: calls, event_type: llm.call, aggregation: count, quantity: tokens}
      - {meter_id: calls, event_type: llm.call, aggregation: sum}
    plan: {plan_id: pro, currency: USD}
    """

    with pytest.raises(InvalidFile) as caught:
        parse_plan_file(dedent(meters).encode(), FILE)

    assert [f"{fault.place.line} {fault.field}" for fault in caught.value.faults] == [
        "2 meters[0].quantity",
        "3 meters[1].quantity",
        "3 meters[1].meter_id",
    ]


def test_the_commands_tell_the_faults_of_all_files(tmp_path: Path) -> None:
    """`validate` and `test` go through every file; one that is good is not named among faults."""
    bad, wrong = tmp_path / "bad.yaml", tmp_path / "wrong.yaml"
    bad.write_text("plan: {plan_id: pro, currency: EURO}\n")
    wrong.write_text(PLAN + "  - {name: a month, total: 9}\n")
    runner = CliRunner()
    good = str(EXAMPLES[0])

    valid = runner.invoke(app_for(["plans"]), ["plans", "validate", good, str(wrong)])
    tested = runner.invoke(app_for(["plans"]), ["plans", "test", good])
    refused = runner.invoke(app_for(["plans"]), ["plans", "test", str(bad), good, str(wrong)])

    assert valid.output.splitlines() == [
        f"{good}: plan credit_packs (prices: 3, meters: 3, examples: 1)",
        f"{wrong}: plan pro (prices: 1, meters: 1, examples: 1)",
    ]
    assert tested.output == f"{good}: 1 example holds\n"
    assert isinstance(refused.exception, CommandError)
    assert str(refused.exception).splitlines() == [
        f"{bad}:1:32: plan.currency: must be a currency of ISO 4217, such as EUR",
        f"{wrong}:10:28: examples[0].total: comes to 10, not to 9 (a month)",
    ]


def read_schema() -> dict[str, Any]:
    """Take the schema from the command that publishes it."""
    printed = CliRunner().invoke(app_for(["plans"]), ["plans", "schema"])
    schema: dict[str, Any] = json.loads(printed.output)
    return schema


def as_json(value: Any) -> Any:  # noqa: ANN401 - whatever YAML holds.
    """Write times as the texts that editors see."""
    return json.loads(json.dumps(value, default=datetime.isoformat))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_the_schema_takes_every_example(path: Path) -> None:
    """An editor that knows the schema has nothing to say against what can be applied."""
    text = path.read_text(encoding="utf-8")

    errors = list(Draft202012Validator(read_schema()).iter_errors(as_json(yaml.safe_load(text))))

    assert errors == []
    assert text.startswith("# yaml-language-server: $schema=../../../cli/schemas/")
    assert (path.parent / text.splitlines()[0].partition("=")[2]).exists()


@pytest.mark.parametrize(
    ("plan", "where"),
    [
        ({"plan_id": "pro"}, ["plan"]),
        ({"plan_id": "pro", "currency": "USD", "prises": []}, ["plan"]),
        ({"plan_id": "pro", "currency": "USD", "version": 3}, ["plan"]),
        ({"plan_id": "pro", "currency": "USD", "category": "goods"}, ["plan", "category"]),
        ({"plan_id": "pro", "currency": "USD", "base_fee": "ten"}, ["plan", "base_fee"]),
        (
            {"plan_id": "pro", "currency": "USD", "prices": [{"price_id": "a", "meter_id": "a"}]},
            ["plan", "prices", 0],
        ),
    ],
    ids=["no currency", "no field", "of the service", "no word", "no number", "no kind of price"],
)
def test_the_schema_finds_what_is_no_plan(plan: dict[str, Any], where: list[str | int]) -> None:
    """Missing and unknown fields, words and numbers are marked where they stand."""
    (error,) = Draft202012Validator(read_schema()).iter_errors({"plan": plan})

    assert list(error.absolute_path) == where
