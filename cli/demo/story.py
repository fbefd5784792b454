"""Tells the demo as it goes: one function for each part of the report."""

from collections.abc import Mapping, Sequence
from datetime import date
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

from cli.demo.month import Usage
from cli.demo.reconcile import Reconciliation
from cli.demo.traffic import Traffic
from cli.demo.workload import GpuJob, PlannedCall
from cli.demo.world import CUSTOMERS, METERS, PLAN_FILES, SELLER
from cli.output import (
    Column,
    Output,
    interval_text,
    money_text,
    quantity_text,
    rate_text,
    tax_text,
)
from kit.decimals import parse_decimal
from kit.interval import Interval
from tollkeeper.api.invoicing.v1.invoice_pb2 import Invoice
from tollkeeper.api.quota.v1.quota_pb2 import Limit, LimitStatus

_DIFFERENCES_SHOWN_MAX = 20


def tell_world(output: Output, month: date) -> None:
    """Introduce the customers and the month."""
    output.section(f"{SELLER.legal_name} sells AI to four customers, {month:%B %Y}")
    output.table(
        [
            Column("customer", style="cyan"),
            Column("name"),
            Column("from"),
            Column("plan"),
            Column("pays in"),
            Column("time zone"),
        ],
        [
            [
                each.customer_id,
                each.customer.legal_name,
                _place(each.customer.address.country, each.customer.address.region),
                each.plan_id,
                each.customer.currency,
                each.customer.time_zone,
            ]
            for each in CUSTOMERS
        ],
    )
    output.say("Its month begins and ends at midnight where the customer is.")
    output.say("pro      100 USD a month, 1,000,000 tokens included, 0.02 USD per 1,000 beyond")
    output.say("starter  50 USD a month, 500,000 tokens included, 0.01 USD per 1,000 beyond,")
    output.say("         GPU hours in packs of 10 at 25 USD")
    for file in PLAN_FILES:
        output.say(f"applied {file}")
    output.say(
        "A call is one usage event with input_tokens, output_tokens and total_tokens, their sum, "
        "which the plans count."
    )


def tell_plan(output: Output, calls: Sequence[PlannedCall], jobs: Sequence[GpuJob]) -> None:
    """Describe the traffic that is to come."""
    sizes = sorted(call.total_tokens for call in calls)
    output.section("A month of traffic, through the client and the gate")
    output.say(
        f"{len(calls):,} calls and {len(jobs)} GPU jobs; half of the calls use at most "
        f"{sizes[len(sizes) // 2]:,} tokens, the largest {sizes[-1]:,}."
    )
    output.say(
        "The gate decides in real time, while the month is played within seconds; the usage "
        "events carry the month's times."
    )


def tell_traffic(output: Output, traffic: Traffic, elapsed_s: float) -> None:
    """Say what became of the calls."""
    calls = traffic.passed + traffic.failed + sum(traffic.refused.values())
    output.say(
        f"{calls:,} calls in {elapsed_s:.1f} s: {traffic.passed:,} passed, "
        f"{sum(traffic.refused.values()):,} refused, {traffic.failed:,} failed at the model and "
        "gave their hold back."
    )
    output.say(
        f"{traffic.overrun:,} used more than they had reserved, and are booked in full. "
        f"The meter took {traffic.reported.created:,} usage events."
    )


def tell_refusals(
    output: Output, limits: Sequence[Limit], traffic: Traffic, statuses: Sequence[LimitStatus]
) -> None:
    """Show each limit, what it admitted and what it refused."""
    output.section("Limits")
    names = {limit.limit_id: limit.display_name for limit in limits}
    output.table(
        [
            Column("limit", style="cyan"),
            Column("what it counts"),
            Column("capacity", right=True),
            Column("used", right=True),
            Column("refused calls", right=True, style="yellow"),
        ],
        [
            [
                status.limit_id,
                names[status.limit_id],
                f"{status.capacity:,}",
                f"{status.used:,}",
                f"{traffic.refused[status.limit_id]:,}",
            ]
            for status in statuses
        ],
    )
    if traffic.refusals:
        _, refusal = min(traffic.refusals.items())
        output.say("A gateway's developer sees, as tollkeeper.QuotaDenied:")
        output.say(f"  {refusal}", style="yellow")


def tell_usage(
    output: Output, usage: Usage, jobs: Sequence[GpuJob], periods: Mapping[str, Interval]
) -> None:
    """Show what each customer used, and what the bounds of the month leave out."""
    output.section("Usage, as the meter answers for each customer's month")
    output.table(
        [
            Column("customer", style="cyan"),
            *(Column(meter.title, right=True) for meter in METERS),
        ],
        [
            [
                each.customer_id,
                *(_figure(usage[each.customer_id, meter.meter_id]) for meter in METERS),
            ]
            for each in CUSTOMERS
        ],
    )
    outside = sum(not periods[job.customer_id].contains(job.time) for job in jobs)
    output.say(
        f"{outside} GPU jobs happened at the very end of their customer's month: that instant "
        "belongs to the next one."
    )


def tell_invoices(output: Output, invoices: Sequence[Invoice], files: Sequence[Path]) -> None:
    """Show the invoices, one line explained, and where the documents are."""
    output.section("The month is closed")
    output.table(
        [
            Column("invoice", style="cyan"),
            Column("customer"),
            Column("subtotal", right=True),
            Column("tax"),
            Column("tax amount", right=True),
            Column("total", right=True, style="bold"),
        ],
        [
            [
                invoice.number,
                invoice.customer.customer_id,
                money_text(invoice.subtotal),
                "; ".join(tax_text(tax) for tax in invoice.taxes),
                money_text(invoice.tax_total),
                money_text(invoice.total),
            ]
            for invoice in invoices
        ],
    )
    for invoice in invoices:
        if invoice.HasField("exchange_rate"):
            output.say(f"{invoice.number} is converted at {rate_text(invoice.exchange_rate)}")
    _explain(output, invoices)
    output.section("Documents")
    for file in files:
        output.say(str(file))


def tell_reconciliation(output: Output, result: Reconciliation) -> None:
    """Say whether every figure agrees with the one computed a second time."""
    output.section("Everything computed a second time, from the usage events")
    for difference in result.differences[:_DIFFERENCES_SHOWN_MAX]:
        output.say(f"difference: {difference}", style="red")
    hidden = len(result.differences) - _DIFFERENCES_SHOWN_MAX
    if hidden > 0:
        output.say(f"and {hidden:,} more differences", style="red")
    output.say(f"{result.event_count:,} usage events compared field by field with the meter's list")
    verdict = "yes" if result.is_clean else "no"
    output.say(
        f"reconciled: {verdict} ({result.figure_count:,} figures compared)",
        style="bold green" if result.is_clean else "bold red",
    )


def _explain(output: Output, invoices: Sequence[Invoice]) -> None:
    """Show how the largest line that has several steps came about."""
    lines = [
        (invoice, line)
        for invoice in invoices
        for line in invoice.lines
        if len(line.rated.steps) > 1
    ]
    if not lines:
        return
    invoice, line = max(lines, key=lambda each: Fraction(each[1].rated.unrounded_amount.value))
    rated, query = line.rated, line.rated.usage
    output.say()
    output.say(
        f"Line {line.position} of {invoice.number} explained: {rated.description}, "
        f"{_text(rated.quantity.value)} (unit: {rated.unit})"
    )
    output.table(
        [
            Column("step"),
            Column("quantity", right=True),
            Column("each", right=True),
            Column("amount", right=True),
        ],
        [
            [
                step.description,
                _text(step.quantity.value),
                _text(step.unit_amount.value),
                _text(step.amount.value),
            ]
            for step in rated.steps
        ],
    )
    output.say(
        f"Together {_text(rated.unrounded_amount.value)}, settled {money_text(rated.amount)}. "
        f"The quantity is what meter {query.meter_id} says of {query.customer_id} for "
        f"{interval_text(query.interval)} UTC."
    )


def _place(country: str, region: str) -> str:
    return f"{country}-{region}" if region else country


def _figure(value: Fraction) -> str:
    return quantity_text(Decimal(value.numerator) / Decimal(value.denominator))


def _text(decimal: str) -> str:
    return quantity_text(parse_decimal(decimal, "figure"))
