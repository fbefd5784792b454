"""Plan files: what they say, and what is refused with its line and column, all at once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from textwrap import dedent

import pytest
from google.protobuf.text_format import Parse

from cli.contract_files import InvalidFile
from cli.errors import CommandError
from cli.plan_files import PlanFile, read_plan_file
from cli.yaml_tree import BYTES_MAX
from kit.errors import Violation
from tollkeeper.api.meter.v1.meter_pb2 import Meter
from tollkeeper.api.rating.v1.plan_pb2 import Plan

EXAMPLES = Path(__file__).resolve().parents[3] / "docs" / "examples" / "plans"

Reader = Callable[[str], PlanFile]


@pytest.fixture
def read(tmp_path: Path) -> Reader:
    """Write a text to a file and read it as a plan file."""

    def write_and_read(text: str) -> PlanFile:
        path = tmp_path / "plan.yaml"
        path.write_text(dedent(text))
        return read_plan_file(path)

    return write_and_read


def faults_of(read: Reader, text: str) -> list[str]:
    """Read a file that must have faults, and write each as `line:column field: description`."""
    with pytest.raises(InvalidFile) as caught:
        read(text)
    return [
        f"{fault.place.line}:{fault.place.column} {fault.field}: {fault.description}"
        for fault in caught.value.faults
    ]


def a_plan_of(prices: str) -> str:
    """Write a plan file around prices in flow style, which stand on line 4."""
    return f"plan:\n  plan_id: pro\n  currency: USD\n  prices: {prices}\n"


def test_a_file_holds_meters_and_a_plan(read: Reader) -> None:
    """The fields are those of the contract, and numbers are kept as they are written."""
    file = read(
        """\
        meters:
          - meter_id: input
            event_type: llm.call
            aggregation: sum
            quantity: input_tokens
            filters: {model: [large, small], region: eu}
            group_by: [model]
        plan:
          plan_id: pro
          display_name: "Pro: 2026"
          currency: USD
          base_fee: 99.90
          effective_time: 2026-04-01T02:00:00+02:00
          category: professional_service
          prices:
            - price_id: input
              meter_id: input
              dimensions: {model: large}
              included_quantity: 1e6
              graduated:
                tiers:
                  - {up_to: 1000000, unit_amount: 0.000000000000000000000001}
                  - {up_to: null, flat_amount: '7'}
        """
    )

    meter = """
        meter_id: "input" event_type: "llm.call" aggregation: AGGREGATION_SUM
        quantity: "input_tokens" group_by: "model"
        filters { key: "model" value { values: "large" values: "small" } }
        filters { key: "region" value { values: "eu" } }
    """
    plan = """
        plan_id: "pro" display_name: "Pro: 2026" currency: "USD" base_fee { value: "99.90" }
        effective_time { seconds: 1775001600 } category: PRODUCT_CATEGORY_PROFESSIONAL_SERVICE
        prices {
          price_id: "input" meter_id: "input" dimensions { key: "model" value: "large" }
          included_quantity { value: "1e6" }
          graduated {
            tiers {
              up_to { value: "1000000" } unit_amount { value: "0.000000000000000000000001" }
            }
            tiers { flat_amount { value: "7" } }
          }
        }
    """
    assert file.meters == (Parse(meter, Meter()),)
    assert file.plan == Parse(plan, Plan())


@pytest.mark.parametrize("name", ["pro", "starter"])
def test_the_examples_are_plans(name: str) -> None:
    """What the documentation shows can be applied as it stands."""
    assert read_plan_file(EXAMPLES / f"{name}.yaml").plan.plan_id == name


def test_every_fault_is_told_at_once_where_it_stands(read: Reader) -> None:
    """Faults of the file and of the plan come together, in the order of the file."""
    faults = faults_of(
        read,
        """\
        meters:
          - {meter_id: tokens, event_typ: llm.call, aggregation: count}
        plan:
          plan_id: Pro!
          currency: EURO
          base_fee: -1
          base_fee: 2
          category: goods
          effective_time: 2026-04-01
          version: first
          prices:
            - price_id: tokens
              meter_id: tokens
              standard: {amount: 0.02, per_quantity: 0}
              package: {amount: 1}
            - price_id: tokens
              meter_id: tokens
              graduated:
                tiers: [{up_to: 10}, {up_to: 10, unit_amount: nan}, {}, {up_to: 30}]
            - tokens
          quotas: {}
        """,
    )

    assert faults == [
        "2:5 meters[0].event_type: is required",
        "2:24 meters[0].event_typ: is no field here: did you mean event_type?",
        (
            "4:12 plan.plan_id: must be 1 to 63 characters of a-z, 0-9, '_', '.' and '-',"
            " starting with a letter or digit"
        ),
        "5:13 plan.currency: must be a currency of ISO 4217, such as EUR",
        "7:3 plan.base_fee: is given twice",
        "8:13 plan.category: must be one of electronic_service, professional_service",
        "9:19 plan.effective_time: must be a time such as 2026-04-01T00:00:00Z",
        "10:12 plan.version: must be a whole number",
        "14:46 plan.prices[0].standard.per_quantity: must be above 0",
        "15:16 plan.prices[0].package: cannot stand beside standard: choose one",
        (
            "16:7 plan.prices[1].dimensions: may match usage that plan.prices[0] bills as well:"
            " name more dimensions, or give both another value of the same one"
        ),
        "16:17 plan.prices[1].price_id: is the id of plan.prices[0] as well",
        (
            "19:38 plan.prices[1].graduated.tiers[1].up_to: must be above 10,"
            " where the tier before ends"
        ),
        (
            "19:55 plan.prices[1].graduated.tiers[1].unit_amount:"
            " must be a decimal number such as 12.5"
        ),
        "19:61 plan.prices[1].graduated.tiers[2].up_to: is required: only the last tier has no end",
        "19:73 plan.prices[1].graduated.tiers[3].up_to: must be absent: the last tier has no end",
        "20:7 plan.prices[2]: must be a mapping of fields to values",
        (
            "21:3 plan.quotas: is no field here: there is plan_id, version, display_name, currency,"
            " base_fee, prices, effective_time, category, base_fees, commitment, trial,"
            " keeps_contracts, limits, create_time, archive_time"
        ),
    ]


A_WEEK = "monday, tuesday, wednesday, thursday, friday, saturday, sunday"
A_NIGHT = (
    "{price_id: a, meter_id: a, time_of_use: {other_amount: 1, windows: [{weekdays: [monday,"
    " montag], end_hour: 1, amount: 1}]}}"
)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "1:1 : is empty"),
        ("# only a remark\n", "1:1 : is empty"),
        ("plan: {", "2:1 : is no YAML: did not find expected node content"),
        ("plan:\n\tplan_id: 1\n", "2:1 : is no YAML: found character that cannot start any token"),
        ("plan: \x07\n", "1:7 : holds a character that YAML forbids"),
        ("plan: 1\n---\nplan: 2\n", "2:1 : begins a second document: one is read"),
        ("plan: &plan {plan_id: *plan}\n",
         "1:7 : anchors and aliases are not read: write the value out"),
        ("plan: !system x\n", "1:7 : the tag !system is not read: write the plain value"),
        ("plan: {plan_id: !!str pro}\n",
         "1:17 : the tag tag:yaml.org,2002:str is not read: write the plain value"),
        ("plan: " + "[" * 20, "1:22 : is nested deeper than 16 levels"),
        ("? [plan]\n: 1\n", "1:3 : a key must be a plain text"),
        ("plan: pro\n", "1:7 plan: must be a mapping of fields to values"),
        ("- plan\n", "1:1 : must be a mapping of fields to values"),
        ("meters: []\n", "1:1 plan: is required"),
        ("plan: {plan_id: pro, currency: USD}\nplans: 1\n",
         "2:1 plans: is no field here: did you mean plan?"),
        ("plan: {plan_id: [pro], currency: USD}\n", "1:17 plan.plan_id: must be a single value"),
        ("plan: {plan_id: pro}\n",
         "1:7 plan.currency: must be a currency of ISO 4217, such as EUR"),
        ("plan: {plan_id: pro, currency: USD, version: 3}\n",
         "1:46 plan.version: must be absent: the service sets it"),
        ("meters: {a: b}\nplan: {plan_id: pro, currency: USD}\n", "1:9 meters: must be a list"),
        ("plan: {plan_id: pro, currency: USD, keeps_contracts: yes}\n",
         "1:54 plan.keeps_contracts: must be true or false"),
        (f"plan: {{plan_id: pro, currency: USD, prices: [\n{A_NIGHT}\n]}}\n",
         f"2:89 plan.prices[0].time_of_use.windows[0].weekdays[1]: must be one of {A_WEEK}"),
    ],
)  # fmt: skip
def test_what_is_no_plan_file_is_refused(read: Reader, text: str, fault: str) -> None:
    """One clear fault with its place, whatever the file is."""
    assert faults_of(read, text) == [fault]


def test_a_bomb_of_aliases_is_refused_before_it_goes_off(read: Reader) -> None:
    """Nine lines that would mean a billion values are refused at the first anchor."""
    bomb = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n"
        for before, name in zip("abcdefgh", "bcdefghi", strict=True)
    )

    assert faults_of(read, bomb) == ["1:4 : anchors and aliases are not read: write the value out"]


@pytest.mark.parametrize(
    ("number", "description"),
    [
        ("0.30000000000000004", "write 0.3, or quote"),
        ("2.9999999999999997e-07", "write 0.0000003, or quote"),
        ("7.500000000000001e-08", "write 0.000000075, or quote"),
        ("0.1000000000000000055511151231257827", "must have at most 24 digits after the point"),
        ("1_000", "must be a decimal number such as 12.5"),
        ("0x10", "must be a decimal number such as 12.5"),
        ("1:30", "must be a decimal number such as 12.5"),
        (".inf", "must be a decimal number such as 12.5"),
        ("1" + "0" * 39, "must have at most 38 digits"),
        ("1000000000000.01", "must be at most 1000000000000"),
    ],
)
def test_a_number_that_nobody_meant_is_refused(read: Reader, number: str, description: str) -> None:
    """The noise of binary fractions, and what is no decimal, is told with its place."""
    prices = f"[{{price_id: a, meter_id: a, standard: {{amount: {number}}}}}]"

    (fault,) = faults_of(read, a_plan_of(prices))

    assert fault.startswith("4:58 plan.prices[0].standard.amount: ")
    assert description in fault


@pytest.mark.parametrize(
    "number",
    ["0.1", "0.000000000000000000000001", "1234567890.123456", "0.12345678901234567",
     "'0.30000000000000004'", "12e-7"],
)  # fmt: skip
def test_a_number_that_somebody_meant_is_taken(read: Reader, number: str) -> None:
    """Long numbers without noise are fine, and quotes say that every digit is meant."""
    prices = f"[{{price_id: a, meter_id: a, standard: {{amount: {number}}}}}]"

    file = read(a_plan_of(prices))

    assert file.plan.prices[0].standard.amount.value == number.strip("'")


def test_ten_thousand_tiers_are_refused_in_one_line(read: Reader) -> None:
    """A plan far beyond the bounds is one fault, not one for each tier."""
    tiers = ", ".join(f"{{up_to: {bound}}}" for bound in range(1, 10_000)) + ", {}"

    assert faults_of(
        read, a_plan_of(f"[{{price_id: a, meter_id: a, graduated: {{tiers: [{tiers}]}}}}]")
    ) == ["4:58 plan.prices[0].graduated.tiers: must have at most 100 entries"]


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    """Bytes that are not UTF-8 are told with their place."""
    path = tmp_path / "plan.yaml"
    path.write_bytes("plan:\n  plan_id: é".encode("latin-1"))

    with pytest.raises(InvalidFile) as caught:
        read_plan_file(path)

    assert str(caught.value) == f"{path}:2:12: is not UTF-8 text"


def test_a_file_that_is_missing_or_too_large_is_refused(tmp_path: Path) -> None:
    """The path and the reason stand in one sentence."""
    large = tmp_path / "large.yaml"
    large.write_bytes(b"#" * (BYTES_MAX + 1))

    with pytest.raises(CommandError, match=r"cannot read .*missing\.yaml: No such file"):
        read_plan_file(tmp_path / "missing.yaml")
    with pytest.raises(CommandError, match=r"large\.yaml is too large: at most 1048576 bytes"):
        read_plan_file(large)


def test_what_a_service_refuses_is_found_in_the_file(read: Reader) -> None:
    """A field that a service names is shown where it, or the field around it, stands."""
    file = read(a_plan_of("[{price_id: a, meter_id: tokens, standard: {amount: 1}}]"))

    refused = file.refused(
        [
            Violation("plan.prices[0].dimensions.model", "the meter does not keep it"),
            Violation("plan.prices[0].meter_id", "there is no meter tokens"),
        ]
    )

    assert str(refused) == (
        f"{file.path}:4:12: plan.prices[0].dimensions.model: the meter does not keep it\n"
        f"{file.path}:4:36: plan.prices[0].meter_id: there is no meter tokens"
    )
