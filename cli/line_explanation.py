"""How a line of an invoice came about, for people: the formula that the invoice keeps with it.

Refuses to compute anew what was billed: the steps are those of the invoice, added up to read.
"""

from collections.abc import Iterator
from decimal import Decimal

from cli.errors import CommandError
from cli.output import interval_text, money_text
from kit.decimals import exactly, parse_decimal, plain
from tollkeeper.api.invoicing.v1.invoice_pb2 import Invoice, InvoiceLine
from tollkeeper.api.rating.v1.rating_pb2 import FormulaStep, RatedLine, Stage, UsageReference

_DIGITS_MAX = 100


def find_line(invoice: Invoice, position: int) -> InvoiceLine:
    """Find a line by the number it has on the invoice.

    Raises:
        CommandError: there is no such line.
    """
    for line in invoice.lines:
        if line.position == position:
            return line
    raise CommandError(f"the invoice has no line {position}: it has {len(invoice.lines)} lines")


def explain_line(invoice: Invoice, line: InvoiceLine) -> Iterator[str]:
    """Tell what a line prices, by which plan, and the query that reproduces its quantity."""
    rated = line.rated
    yield f"{rated.description}, by version {invoice.plan_version} of the plan {invoice.plan_id}"
    yield f"quantity {plain(_number(rated.quantity.value))} {rated.unit}".rstrip()
    if rated.HasField("usage"):
        yield f"counted by {_query(rated.usage)}"


def step_rows(rated: RatedLine) -> list[list[str]]:
    """Write each step of a line with what the line comes to by then."""
    rows = []
    so_far = Decimal(0)
    with exactly():
        for step in rated.steps:
            so_far += _number(step.amount.value)
            rows.append([_stage(step), step.description, *_figures(step), plain(so_far)])
    return rows


def explain_amount(line: InvoiceLine) -> Iterator[str]:
    """Tell how a line was rounded, and converted where the invoice has another currency."""
    rated = line.rated
    unrounded = plain(_number(rated.unrounded_amount.value))
    yield f"{unrounded} rounded half up: {money_text(rated.amount)}"
    if rated.amount.currency_code != line.amount.currency_code:
        yield f"converted: {money_text(line.amount)}"


def _query(usage: UsageReference) -> str:
    filters = "".join(f", {name}={value}" for name, value in sorted(usage.dimensions.items()))
    excluded = "".join(
        f", not ({', '.join(f'{name}={value}' for name, value in sorted(each.dimensions.items()))})"
        for each in usage.excluded
    )
    return (
        f"the meter {usage.meter_id} for {usage.customer_id},"
        f" {interval_text(usage.interval)} UTC{filters}{excluded}"
    )


def _figures(step: FormulaStep) -> list[str]:
    return [plain(_number(each.value)) for each in (step.quantity, step.unit_amount, step.amount)]


def _stage(step: FormulaStep) -> str:
    """Name the stage; invoices of before stages were kept have none."""
    if not step.stage:
        return ""
    return Stage.Name(step.stage).removeprefix("STAGE_").lower().replace("_", " ")


def _number(text: str) -> Decimal:
    return parse_decimal(text, "line", max_digits=_DIGITS_MAX)
