"""Commands against five real services: what they show, and how they say what went wrong."""

import json
import re
from datetime import UTC, datetime
from pathlib import Path

from google.protobuf.timestamp_pb2 import Timestamp

from cli.demo.world import MANON, REGISTRATIONS, SELLER
from tests.e2e.world import World
from tests.shell import MARCH, Shell
from tollkeeper.api.invoicing.v1.invoicing_service_pb2 import (
    CreateSubscriptionRequest,
    PutCustomerRequest,
    PutSellerRequest,
)
from tollkeeper.api.meter.v1.meter_service_pb2 import ListEventsRequest, VoidEventRequest
from tollkeeper.api.tax.v1.tax_service_pb2 import PutRegistrationRequest

EXAMPLES = Path(__file__).resolve().parents[2] / "docs" / "examples"
# The contract gives every replica of the gate a second to learn of a limit.
LIMIT_REACHES_ALL_S = 1.0
APRIL_NOON = datetime(2026, 4, 1, 12, tzinfo=UTC)


async def sell_to_manon(world: World) -> None:
    """Put the demo's seller and its French customer, on the starter plan since 1 March."""
    new_id = world.request_id
    await world.call("invoicing.PutSeller", PutSellerRequest(request_id=new_id(), seller=SELLER))
    for registration in REGISTRATIONS:
        await world.call(
            "tax.PutRegistration",
            PutRegistrationRequest(request_id=new_id(), registration=registration),
        )
    await world.call(
        "invoicing.PutCustomer", PutCustomerRequest(request_id=new_id(), customer=MANON.customer)
    )
    start = Timestamp()
    start.FromDatetime(MARCH)
    await world.call(
        "invoicing.CreateSubscription",
        CreateSubscriptionRequest(request_id=new_id(), subscription=MANON.subscription(start)),
    )


async def test_plans_are_applied_once_and_shown(shell: Shell) -> None:
    """The same file again is the same version; every price is shown as the file has it."""
    file = EXAMPLES / "plans" / "starter.yaml"

    first = await shell.lines("plans", "apply", file)
    second = await shell.lines("plans", "apply", file)

    assert first == second == ["plan starter is at version 1"]
    assert await shell.lines("plans", "list") == [
        "plan     version  name     base fee  prices",
        "starter        1  Starter    50 USD       2",
    ]
    assert await shell.lines("plans", "show", "starter") == [
        "",
        "== Starter (starter, version 1)",
        "base fee 50 USD for each billing period",
        "price      on the invoice         meter       included  price in USD",
        "tokens     Tokens                 llm_tokens   500,000  0.01 per 1,000",
        "gpu_packs  Packs of 10 GPU hours  gpu_hours          0  25 per begun 10",
    ]
    shown = await shell.json("plans", "show", "starter", "--version", 1)
    assert (shown["plan_id"], shown["base_fee"]) == ("starter", {"value": "50"})


async def test_a_new_version_is_compared_with_the_last_and_names_who_it_rates(
    shell: Shell,
) -> None:
    """`diff` asks what is there and who is on it, `apply` keeps what was, `history` shows both."""
    await shell.lines("plans", "apply", EXAMPLES / "plans" / "starter.yaml")
    await sell_to_manon(shell.world)
    text = (EXAMPLES / "plans" / "starter.yaml").read_text().split("\nexamples:")[0]
    file = shell.folder / "starter.yaml"
    file.write_text(
        text.replace("base_fee: 50", "base_fee: 60\n  effective_time: 2026-04-01T00:00:00Z")
    )

    later = await shell.lines("plans", "diff", file)
    applied = await shell.lines("plans", "apply", file)
    history = await shell.lines("plans", "history", "starter")

    assert [re.split(" {2,}", line) for line in later if line] == [
        [f"applying {file} makes a new version"],
        ["== compared with version 1"],
        ["field", "before", "after"],
        ["base_fee", "50", "60"],
        ["effective_time", "-", "2026-04-01T00:00:00Z"],
        ["== 1 of 1 subscriptions change"],
        ["subscription", "customer", "from"],
        ["manon-starter", "manon", "its first period from 2026-04-01 00:00 UTC"],
    ]
    assert applied == ["plan starter is at version 2"]
    assert [line for line in history if line.startswith(("==", "base_fee", "nothing"))] == [
        "== version 1, since ever, put 2026-03-01 00:00 UTC",
        "nothing before it",
        "== version 2, since 2026-04-01 00:00 UTC, put 2026-03-01 00:00 UTC",
        "base_fee        50      60",
    ]


async def test_what_a_service_refuses_of_a_plan_file_is_told_with_its_line(shell: Shell) -> None:
    """Only the service knows that a meter exists already and counts otherwise."""
    await shell.lines("plans", "apply", EXAMPLES / "plans" / "pro.yaml")
    file = shell.folder / "other.yaml"
    text = (EXAMPLES / "plans" / "pro.yaml").read_text()
    file.write_text(text.replace("sum\n    quantity: total_tokens", "count"))

    outcome = await shell.run("plans", "apply", file)

    assert outcome.status == 1
    assert outcome.errors.startswith("tollkeeper: the meter service refused: ")
    assert "llm_tokens" in outcome.errors


async def test_limits_of_every_window_are_put_from_options(shell: Shell) -> None:
    """A balance with an overdraft, a billing period, and holds at once; some do not refuse."""
    put = [
        await shell.lines("limits", "put", *words)
        for words in (
            ("balance", "--capacity", 20, "--lifetime", "--overdraft", 5),
            ("bill", "--capacity", 9, "--per", "billing", "--anchor", "2026-01-31"),
            ("flying", "--capacity", 2, "--per", "concurrency", "--enforcement", "shadow"),
            (
                *("leased", "--capacity", 9, "--per", "day"),
                *("--outage", "leased", "--outage-allowance", 3),
            ),
        )
    ]

    assert put == [
        ["limit balance: 20 requests once, and 5 beyond"],
        ["limit bill: 9 requests each month from the 31., UTC"],
        ["limit flying: 2 holds at once"],
        ["limit leased: 9 requests each day, UTC; in an outage 3 at each replica"],
    ]


async def test_holds_and_refusals_are_shown(shell: Shell) -> None:
    """Who holds what, and why a call was refused, in words."""
    await shell.lines("limits", "put", "few", "--capacity", 3, "--per", "day")
    nothing = await shell.lines("quota", "holds", "acme")
    unknown = await shell.run("quota", "explain", "acme", "never-asked")

    assert nothing == ["there are no open holds"]
    assert "no decision on the request never-asked is remembered" in unknown.errors


async def test_limits_are_put_from_options_and_files_and_listed(shell: Shell) -> None:
    """Amounts are in units on the command line; the list shows them so."""
    put = await shell.lines(
        *("limits", "put", "spend", "--customer", "acme", "--unit", "USD"),
        *("--capacity", "12.50", "--per", "month", "--time-zone", "Asia/Tokyo"),
    )
    await shell.lines("limits", "put", "--file", EXAMPLES / "limits.yaml")
    await shell.lines(
        *("limits", "put", "more", "--customer", "acme", "--capacity", 9, "--per", "day"),
        *("--dimension", "model=large*", "--filter", 'key != "k1"', "--overrides", "acme-month"),
        *("--until", "2099-12-31"),
    )

    assert put == ["limit spend: 12.5 USD each month, Asia/Tokyo"]
    listed = await shell.lines("limits", "list", "--customer", "acme")
    assert [re.split(" {2,}", line) for line in listed] == [
        ["limit", "counts for each", "covers", "capacity", "window"],
        [
            *("acme-month", "customer", "customer acme"),
            *("10,000,000 input_tokens+output_tokens", "each month, Europe/Berlin"),
        ],
        [
            *("launch-large-rate", "key"),
            (
                "customer acme, key launch, model atlas-large, in the stead of key-large-rate,"
                " until 2027-01-01T00:00:00Z"
            ),
            *("600 requests", "rolling 0:01:00, at most 600 at once"),
        ],
        [
            *("more", "customer"),
            (
                'customer acme, model large*, where key != "k1", in the stead of acme-month, until'
                " 2099-12-31T00:00:00Z"
            ),
            *("9 requests", "each day, UTC"),
        ],
        ["spend", "customer", "customer acme", "12.5 USD", "each month, Asia/Tokyo"],
    ]
    limits = (await shell.json("limits", "list"))["limits"]
    assert [limit["limit_id"] for limit in limits] == [
        "acme-month",
        "key-large-rate",
        "launch-large-rate",
        "more",
        "project-day",
        "spend",
        "user-small-day",
    ]


async def test_alerts_are_listed(shell: Shell) -> None:
    """Nothing was crossed; what there is to see is tried where there is a gate to cross."""
    await shell.lines(
        *("limits", "put", "watched", "--capacity", 10, "--per", "year", "--alert", 80),
        *("--alert", 50),
    )
    limits = (await shell.json("limits", "list"))["limits"]

    assert limits[0]["alert_thresholds"] == [50, 80]
    assert await shell.lines("quota", "alerts", "--customer", "acme") == [
        "no threshold was crossed"
    ]
    assert await shell.json("quota", "alerts") == {"alerts": []}


async def test_a_prepaid_balance_is_topped_up(shell: Shell) -> None:
    """In units of its currency, as it was put."""
    await shell.lines(
        *("limits", "put", "prepaid", "--customer", "acme", "--unit", "USD"),
        *("--capacity", "20", "--lifetime"),
    )
    paid = await shell.lines("limits", "top-up", "prepaid", "12.50")

    assert paid == ["limit prepaid: 32.5 USD once"]


async def test_what_the_gate_refuses_of_a_limit_file_is_told_with_its_line(shell: Shell) -> None:
    """The field of the request is found in the file."""
    file = shell.folder / "limits.yaml"
    text = (EXAMPLES / "limits.yaml").read_text()
    file.write_text(text.replace("Europe/Berlin", "Europe/Bonn"))

    outcome = await shell.run("limits", "put", "--file", file)

    assert (outcome.status, outcome.output) == (1, "")
    assert outcome.errors.startswith(f"tollkeeper: {file}:11:42: limits[0].calendar.time_zone: ")


async def test_usage_is_verified_exported_and_asked_for_what_came_late(
    shell: Shell, tmp_path: Path
) -> None:
    """Nothing differs; a customer's events come out whole, with what they were; none was late."""
    await shell.lines("replay", EXAMPLES / "usage-events.jsonl")
    stored = await shell.world.call("meter.ListEvents", ListEventsRequest(customer_id="acme"))
    taken_back = stored.events[0].event
    await shell.world.call(
        "meter.VoidEvent",
        VoidEventRequest(
            request_id=shell.world.request_id(),
            source=taken_back.source,
            event_id=taken_back.event_id,
            reason="sent twice",
        ),
    )

    verified = await shell.lines("usage", "verify")
    facts = await shell.json("usage", "verify", "--from", "2026-01-01", "--to", "2026-02-01")
    file = tmp_path / "acme.jsonl"
    exported = await shell.lines("usage", "export", "acme", "--file", file)
    late = await shell.lines("usage", "late")

    lines = [json.loads(line) for line in file.read_text().splitlines()]
    written, revisions = ([x[key] for x in lines if key in x] for key in ("event", "revision"))
    assert verified[-1].endswith(": 0 differences")
    assert (facts["differences"], facts["events"] > 0, facts["rollups"] > 0) == (0, True, True)
    assert exported == [f"{len(written)} events of acme in {file}"]
    assert len(written) == len(stored.events) - 1
    assert {each["event"]["subject"]["customerId"] for each in written} == {"acme"}
    assert [(each["kind"], each["event"]["eventId"]) for each in revisions] == [
        ("REVISION_KIND_ORIGINAL", taken_back.event_id),
        ("REVISION_KIND_VOIDED", taken_back.event_id),
    ]
    assert late == ["nothing came late"]


async def test_usage_is_shown_by_meter_customer_group_and_window(shell: Shell) -> None:
    """Of the example events; figures are exact, windows half-open."""
    await shell.lines("plans", "apply", EXAMPLES / "plans" / "starter.yaml")
    await shell.lines("replay", EXAMPLES / "usage-events.jsonl")
    in_january = ("--from", "2026-01-01", "--to", "2026-02-01")

    assert await shell.lines(
        "usage", *in_january, "--meter", "llm_tokens", "--by", "model", "--window", "day"
    ) == [
        "usage from 2026-01-01 00:00 to 2026-02-01 00:00 UTC",
        "meter       customer  from              to                model        usage  events",
        "llm_tokens  acme      2026-01-31 00:00  2026-02-01 00:00  atlas-large  2,199       1",
        "llm_tokens  acme      2026-01-31 00:00  2026-02-01 00:00  atlas-small    101       1",
    ]
    rows = (await shell.json("usage", *in_january, "--customer", "acme"))["rows"]
    assert {row["meter_id"]: row["quantity"] for row in rows} == {
        "calls": "2",
        "gpu_hours": "0.375",
        "input_tokens": "1277",
        "llm_tokens": "2300",
        "output_tokens": "1023",
    }
    assert await shell.lines("usage", *in_january, "--customer", "nobody") == [
        "usage from 2026-01-01 00:00 to 2026-02-01 00:00 UTC",
        "nothing was used",
    ]


async def test_a_period_is_closed_once_and_its_invoice_shown_and_saved(shell: Shell) -> None:
    """Manon's March: the base fee and French VAT; closing again finds nothing to do."""
    # given
    await shell.lines("plans", "apply", EXAMPLES / "plans" / "starter.yaml")
    await sell_to_manon(shell.world)
    shell.world.clock.set(APRIL_NOON)
    until = ("--until", "2026-04-01T12:00Z")

    # when
    closed = (await shell.json("invoices", "close", *until))["invoices"]
    again = await shell.lines("invoices", "close", *until)

    # then
    assert [(each["number"], each["customer_id"], each["total"]["units"]) for each in closed] == [
        ("NWI-2026-000001", "manon", "60")
    ]
    assert again == ["no billing period was left to close"]
    listed = (await shell.json("invoices", "list", "--customer", "manon"))["invoices"]
    assert [each["number"] for each in listed] == ["NWI-2026-000001"]
    assert await shell.lines("invoices", "list", "--state", "draft") == ["there are no invoices"]
    shown = await shell.lines("invoices", "show", "NWI-2026-000001")
    assert shown[1] == "== Invoice NWI-2026-000001, finalized"
    assert "to be paid   60.00 USD" in shown
    explained = await shell.lines("invoices", "explain", "NWI-2026-000001", "2")
    assert [" ".join(line.split()) for line in explained] == [
        "Tokens, by version 1 of the plan starter",
        "quantity 0 token",
        "counted by the meter llm_tokens for manon, 2026-02-28 23:00 to 2026-03-31 22:00 UTC",
        "stage step quantity each amount so far",
        "included included: up to 500000 0 0 0 0",
        "price 0.01 per 1000 0 0.00001 0 0",
        "0 rounded half up: 0.00 USD",
    ]
    missing = await shell.run("invoices", "explain", "NWI-2026-000001", "9")
    assert missing.errors == "tollkeeper: the invoice has no line 9: it has 3 lines\n"
    saved = await shell.lines("invoices", "pdf", "NWI-2026-000001")
    assert saved == ["NWI-2026-000001.pdf"]
    assert (shell.folder / saved[0]).read_bytes().startswith(b"%PDF-")


async def test_a_draft_stays_a_draft(shell: Shell) -> None:
    """It has no number, and so no document."""
    await shell.lines("plans", "apply", EXAMPLES / "plans" / "starter.yaml")
    await sell_to_manon(shell.world)
    shell.world.clock.set(APRIL_NOON)

    closed = await shell.json("invoices", "close", "--draft", "--until", "2026-04-01T12:00Z")
    (draft,) = closed["invoices"]
    refused = await shell.run("invoices", "pdf", draft["invoice_id"])

    assert draft["state"] == "INVOICE_STATE_DRAFT"
    assert refused.status == 1
    assert refused.errors.startswith("tollkeeper: the invoicing service refused: ")
    assert list(shell.folder.glob("*.pdf")) == []


async def test_what_does_not_exist_is_one_sentence(shell: Shell) -> None:
    """Named as it was asked for."""
    outcomes = [
        await shell.run("plans", "show", "nope"),
        await shell.run("invoices", "show", "nope"),
        await shell.run("usage", "--meter", "nope"),
    ]

    assert [outcome.status for outcome in outcomes] == [1, 1, 1]
    assert all(outcome.errors.count("\n") == 1 for outcome in outcomes)
    assert all("nope" in outcome.errors for outcome in outcomes)


async def test_a_wrong_scope_is_named(shell: Shell) -> None:
    """And nothing changes."""
    token = shell.world.token("quota.read")

    outcome = await shell.run(
        *("limits", "put", "a", "--capacity", 1, "--per", "day"), TOLLKEEPER_TOKEN=token
    )

    assert (outcome.status, outcome.output) == (1, "")
    assert outcome.errors.startswith("tollkeeper: the quota service refused: ")
    assert "quota.write" in outcome.errors
    assert await shell.lines("limits", "list") == [
        "there are no limits; put one by `tollkeeper limits put`"
    ]


async def test_a_malformed_token_is_one_sentence(shell: Shell) -> None:
    """The service says why, never what the token was."""
    outcome = await shell.run("plans", "list", TOLLKEEPER_TOKEN="not.a.token")

    assert (outcome.status, outcome.output) == (1, "")
    assert outcome.errors.startswith("tollkeeper: the rating service does not accept the token: ")
    assert "not.a.token" not in outcome.errors


async def test_another_tenant_sees_nothing(shell: Shell) -> None:
    """Same services, same ids, another key."""
    await shell.lines("plans", "apply", EXAMPLES / "plans" / "pro.yaml")
    stranger = shell.world.token(tenant="somebody-else")

    listed = await shell.run("plans", "list", TOLLKEEPER_TOKEN=stranger)
    shown = await shell.run("plans", "show", "pro", TOLLKEEPER_TOKEN=stranger)

    assert listed.output == "there are no plans; put one by `tollkeeper plans apply FILE`\n"
    assert (shown.status, shown.errors.count("\n")) == (1, 1)
