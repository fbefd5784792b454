"""A seller tries plans on what customers really used, through the command and all five services."""

from __future__ import annotations

import csv
import json
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from google.protobuf.text_format import Parse
from google.type.decimal_pb2 import Decimal as DecimalMessage
from pyarrow import parquet

from cli.demo.world import CUSTOMERS, SELLER
from cli.signing_keys import SigningKeys
from kit.interval import Interval
from kit.rpc.wire import parse_money, render_interval, render_time
from kit.settings import ServiceSettings
from tests.e2e.world import World, running_world
from tests.shell import Shell
from tollkeeper.api.invoicing.v1.customer_pb2 import (
    BILLING_ANCHOR_ANNIVERSARY,
    Customer,
    PostalAddress,
    Subscription,
)
from tollkeeper.api.invoicing.v1.invoicing_service_pb2 import (
    CreateSubscriptionRequest,
    PutCustomerRequest,
    PutSellerRequest,
)
from tollkeeper.api.meter.v1.meter_pb2 import UsageEvent
from tollkeeper.api.meter.v1.meter_service_pb2 import IngestEventsRequest
from tollkeeper.api.rating.v1.rating_service_pb2 import (
    PlanOverrides,
    PutProviderCostsRequest,
    RateRequest,
)
from tollkeeper.api.tax.v1.tax_pb2 import BUYER_KIND_BUSINESS

PLANS = Path(__file__).resolve().parents[2] / "docs/examples/plans"
JANUARY, FEBRUARY, MARCH = (datetime(2026, month, 1, tzinfo=UTC) for month in (1, 2, 3))
UTC_MONTHS = "UTC"
CHEAPER = """
plan:
  plan_id: cheaper
  currency: USD
  base_fee: 20
  prices:
    - price_id: tokens
      meter_id: llm_tokens
      graduated:
        tiers:
          - {up_to: 1000000, unit_amount: 0.00002}
          - {unit_amount: 0.00001}
    - price_id: gpu
      meter_id: gpu_hours
      standard: {amount: 2.7}
"""


def events() -> list[UsageEvent]:
    """Make what the customers of the demo used in two months."""
    made = []
    for number in range(400):
        event = UsageEvent(
            event_id=f"e{number}",
            source="test",
            type="gpu.session" if number % 7 == 0 else "llm.call",
            time=render_time(JANUARY + timedelta(hours=3.4 * number)),
            dimensions={"gpu": "h100"} if number % 7 == 0 else {"model": "large"},
            quantities={"gpu_hours": "1.25"}
            if number % 7 == 0
            else {"total_tokens": str(1009 * number % 90_000)},
        )
        event.subject.customer_id = CUSTOMERS[number * number % 4].customer.customer_id
        made.append(event)
    return made


@pytest.fixture
async def shell(
    settings_for: Callable[..., ServiceSettings], keys: SigningKeys, tenant: str, tmp_path: Path
) -> AsyncIterator[Shell]:
    """Five servers with customers on a plan and their usage, and a shell."""
    async with running_world(settings_for, keys, tenant, MARCH) as world:
        shell = Shell(world, tmp_path)
        for plan in ("pro", "starter"):
            await shell.lines("plans", "apply", PLANS / f"{plan}.yaml")
        await world.call("meter.IngestEvents", IngestEventsRequest(events=events()))
        await world.call(
            "invoicing.PutSeller", PutSellerRequest(request_id=world.request_id(), seller=SELLER)
        )
        for each in CUSTOMERS:
            await world.call(
                "invoicing.PutCustomer",
                PutCustomerRequest(request_id=world.request_id(), customer=each.customer),
            )
            await world.call(
                "invoicing.CreateSubscription",
                CreateSubscriptionRequest(
                    request_id=world.request_id(),
                    subscription=each.subscription(render_time(JANUARY)),
                ),
            )
        yield shell


async def rated(
    world: World, customer_id: str, plan_id: str, time_zone: str = UTC_MONTHS
) -> Decimal:
    """Rate January and February of a customer one by one, as a time zone has them."""
    total = Decimal(0)
    first, second, third = (
        month.replace(tzinfo=ZoneInfo(time_zone)).astimezone(UTC)
        for month in (JANUARY, FEBRUARY, MARCH)
    )
    for period in (Interval(first, second), Interval(second, third)):
        request = RateRequest(
            customer_id=customer_id, plan_id=plan_id, period=render_interval(period)
        )
        answer = await world.call("rating.Rate", request)
        total += parse_money(answer.rating.total, "total").to_decimal()
    return total


async def test_trying_a_plan_says_what_everybody_would_pay(shell: Shell) -> None:
    """Every row of every export equals rating its customer, and the report adds the rows up."""
    file = shell.folder / "cheaper.yaml"
    file.write_text(CHEAPER)
    written: dict[str, Any] = {
        name: shell.folder / f"out.{name}" for name in ("csv", "parquet", "svg", "png")
    }

    options = ("--since", "2026-01-01", "--until", "2026-03-01", "--segment", "country")
    outcome = await shell.run(
        "plans", "simulate", file, PLANS / "pro.yaml", *options, "--csv", written["csv"],
        "--parquet", written["parquet"], "--plot", written["svg"], "--json",
    )  # fmt: skip
    shown = await shell.lines("plans", "simulate", file, *options, "--plot", written["png"])

    assert (outcome.status, outcome.errors) == (0, "")
    await shell.lines("plans", "apply", file)
    expected = {
        (each.customer.customer_id, plan_id): (
            await rated(
                shell.world, each.customer.customer_id, each.plan_id, each.customer.time_zone
            ),
            await rated(shell.world, each.customer.customer_id, plan_id, each.customer.time_zone),
        )
        for each in CUSTOMERS
        for plan_id in ("cheaper", "pro")
    }
    rows = list(csv.DictReader(written["csv"].read_text().splitlines()))
    assert {
        (row["customer_id"], row["plan_id"]): (
            Decimal(row["current_amount"]),
            Decimal(row["simulated_amount"]),
        )
        for row in rows
    } == expected
    columns = parquet.read_table(written["parquet"]).to_pylist()
    assert [
        (row["customer_id"], row["plan_id"], row["simulated_amount"], row["change_amount"])
        for row in columns
    ] == [
        (
            row["customer_id"],
            row["plan_id"],
            Decimal(row["simulated_amount"]),
            Decimal(row["change_amount"]),
        )
        for row in rows
    ]
    report = json.loads(outcome.output)
    assert [candidate["plan_id"] for candidate in report["candidates"]] == ["cheaper", "pro"]
    assert {segment["segment"] for segment in report["candidates"][0]["segments"]} == {
        each.customer.address.country for each in CUSTOMERS
    }
    assert (
        Decimal(report["candidates"][0]["total"]["simulated"]["units"])
        == sum(
            then for (_, plan_id), (_, then) in expected.items() if plan_id == "cheaper"
        ).__floor__()
    )
    assert written["svg"].read_bytes().startswith(b"<svg")
    assert written["png"].read_bytes().startswith(b"\x89PNG")
    assert "customers: 4 of 4" in shown
    assert "== cheaper: 4 customers" in shown


async def test_subscriptions_are_simulated_by_their_own_billing_periods(shell: Shell) -> None:
    """Those that end in between, as agreed; or the months of UTC where that is asked for."""
    monthly, cut = CUSTOMERS[0].customer.customer_id, "paris"
    agreed = PlanOverrides(base_fee=DecimalMessage(value="7"))
    await shell.world.call(
        "invoicing.PutCustomer",
        PutCustomerRequest(
            request_id=shell.world.request_id(),
            customer=Customer(
                customer_id=cut,
                legal_name="Paris SARL",
                kind=BUYER_KIND_BUSINESS,
                currency="USD",
                time_zone="Europe/Paris",
                address=PostalAddress(
                    lines=["1 quai"], city="Paris", postal_code="75001", country="FR"
                ),
            ),
        ),
    )
    await shell.world.call(
        "invoicing.CreateSubscription",
        CreateSubscriptionRequest(
            request_id=shell.world.request_id(),
            subscription=Subscription(
                subscription_id="paris",
                customer_id=cut,
                plan_id="pro",
                start_time=render_time(JANUARY + timedelta(days=19)),
                anchor=BILLING_ANCHOR_ANNIVERSARY,
                overrides=agreed,
            ),
        ),
    )
    written = shell.folder / "out.csv"
    options = ("--since", "2026-02-01", "--until", "2026-03-01", "--csv", written)

    async def fees(*more: str) -> dict[str, str]:
        await shell.lines("plans", "simulate", PLANS / "pro.yaml", *options, *more)
        rows = csv.DictReader(written.read_text().splitlines())
        return {row["customer_id"]: row["simulated_amount"] for row in rows}

    own, months = await fees(), await fees("--months")

    period = Interval(datetime(2026, 1, 19, 23, tzinfo=UTC), datetime(2026, 2, 19, 23, tzinfo=UTC))
    requests = [
        RateRequest(
            customer_id=cut, plan_id="pro", period=render_interval(period), overrides=agreed
        ),
        RateRequest(
            customer_id=monthly, plan_id="pro", period=render_interval(Interval(FEBRUARY, MARCH))
        ),
    ]
    answers = [await shell.world.call("rating.Rate", request) for request in requests]
    expected = [parse_money(each.rating.total, "total").to_decimal() for each in answers]
    assert [Decimal(own[cut]), Decimal(months[monthly])] == expected
    assert own.keys() == months.keys()
    assert own[monthly] != months[monthly]


A_COST = """
    request_id: "costs"
    costs {
      model: "large" currency: "USD"
      rates { quantity: "total_tokens" unit_amount { value: "0.0000071" } }
    }
"""


async def test_the_command_tells_margins_and_reports_thin_ones(shell: Shell) -> None:
    """Revenue is what every customer is rated at, cost what the events come to by themselves."""
    costs = Parse(A_COST, PutProviderCostsRequest())
    await shell.world.call("rating.PutProviderCosts", costs)
    options = ("margins", "--since", "2026-01-01", "--until", "2026-03-01")

    outcome = await shell.run(*options, "--below", "99", "--json")
    again = await shell.run(*options, "--below", "99", "--by", "model")

    told = json.loads(outcome.output)
    tokens = sum(int(event.quantities.get("total_tokens", "0")) for event in events())
    billed = [
        await rated(shell.world, each.customer.customer_id, each.plan_id) for each in CUSTOMERS
    ]
    assert Decimal(told["total"]["revenue"]) == sum(billed)
    assert Decimal(told["total"]["cost"]) == Decimal("0.0000071") * tokens
    assert {margin["name"] for margin in told["margins"]} == {
        each.customer.customer_id for each in CUSTOMERS
    }
    assert told["new_alerts"] > 0
    warning = f"the cost of {told['uncosted_events']} events is not known: no model"
    assert outcome.errors == again.errors == f"tollkeeper: {warning}\n"
    lines = again.output.splitlines()
    assert [line.split()[0] for line in lines] == ["model", "large", "(none)", "all", "0"]
    assert lines[-1] == "0 margins are reported for the first time"


async def test_a_candidate_that_does_not_fit_is_told_by_its_line(shell: Shell) -> None:
    """Only the rating service knows which meters there are."""
    file = shell.folder / "cheaper.yaml"
    file.write_text(CHEAPER.replace("gpu_hours", "tpu_hours"))

    outcome = await shell.run(
        "plans", "simulate", file, "--since", "2026-01-01", "--until", "2026-02-01"
    )

    assert (outcome.status, outcome.output) == (1, "")
    assert f"{file}:14:" in outcome.errors
    assert "there is no meter tpu_hours" in outcome.errors
