"""What `tollkeeper limits put` can be told about a limit."""

from pathlib import Path
from typing import Annotated

import typer

LEVELS = ("customer", "project", "user", "key", "run")
PERIODS = ("hour", "day", "week", "month", "year")
BILLING, CONCURRENCY = "billing", "concurrency"
WINDOWS = (*PERIODS, BILLING, CONCURRENCY)
ENFORCEMENTS = ("hard", "soft", "shadow")
OUTAGE_POLICIES = ("closed", "open", "leased")

LimitId = Annotated[
    str, typer.Argument(help="The limit; leave it out with --file.", show_default=False)
]
LimitsFile = Annotated[
    Path | None, typer.Option("--file", help="Put every limit of a YAML or JSON file.")
]
Level = Annotated[str, typer.Option(help=f"Where it counts: {', '.join(LEVELS)}.")]
Unit = Annotated[
    list[str] | None, typer.Option(help="What counts, as input_tokens; several add up.")
]
Capacity = Annotated[
    str, typer.Option(help="How much each window admits, in units, as 1000000 or 12.50.")
]
Per = Annotated[
    str,
    typer.Option(
        help=f"Start afresh each {', '.join(PERIODS)} of the calendar or each {BILLING} period; or"
        f" {CONCURRENCY}: count the holds that are open at once."
    ),
]
Anchor = Annotated[str, typer.Option(help="A day on which a billing period starts, as 2026-01-31.")]
Months = Annotated[int, typer.Option(help="How many months a billing period has.")]
Overdraft = Annotated[str, typer.Option(help="How much beyond the capacity calls may take.")]
Enforcement = Annotated[
    str, typer.Option(help=f"What happens without room: {', '.join(ENFORCEMENTS)}.")
]
Outage = Annotated[
    str,
    typer.Option(
        help=f"What happens while counters cannot be reached: {', '.join(OUTAGE_POLICIES)}."
    ),
]
OutageAllowance = Annotated[
    str,
    typer.Option(help="How much each replica lets pass in an outage with --outage leased."),
]
TimeZone = Annotated[str, typer.Option(help="Whose calendar; by default UTC.")]
Rolling = Annotated[
    str, typer.Option(help="Refill continuously within this time, as 60s, 15m or 1h.")
]
Burst = Annotated[
    str, typer.Option(help="The most at once with --rolling; by default the capacity.")
]
Lifetime = Annotated[
    bool, typer.Option("--lifetime", help="The capacity is there once: a prepaid balance.")
]
Customer = Annotated[str, typer.Option(help="Only this customer.")]
Project = Annotated[str, typer.Option(help="Only this project.")]
User = Annotated[str, typer.Option(help="Only this user.")]
Key = Annotated[str, typer.Option(help="Only this API key.")]
Dimension = Annotated[
    list[str] | None,
    typer.Option(help="Only such calls, as model=large or model=gpt-4*; repeatable."),
]
Alerts = Annotated[
    list[int] | None,
    typer.Option("--alert", help="Tell when this per cent is used, as 80; repeatable."),
]
OnlyIf = Annotated[
    str, typer.Option("--filter", help="Only calls of which this expression of CEL is true.")
]
Overrides = Annotated[
    str, typer.Option(help="The limit in whose stead this one applies to what it covers.")
]
Plan = Annotated[
    str, typer.Option(help="Count other units as money, by the rate card of this plan.")
]
Until = Annotated[
    str,
    typer.Option(help="When it ends, as 2026-12-31 or 2026-12-31T12:00Z; by default never."),
]
Name = Annotated[str, typer.Option(help="What people read in refusals.")]
