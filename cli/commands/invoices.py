"""`tollkeeper invoices`: close billing periods, and look at what they came to."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

from cli.embedded.data_directory import DEFAULT
from cli.errors import CommandError, writing
from cli.line_explanation import explain_amount, explain_line, find_line, step_rows
from cli.options import AsJson, DataDir
from cli.output import (
    Column,
    Output,
    date_text,
    interval_text,
    money_text,
    quantity_text,
    rate_text,
    tax_text,
)
from cli.services import Addresses, Services, new_request_id, run
from cli.times import parse_time_option
from kit.decimals import parse_decimal
from kit.rpc.wire import render_time
from tollkeeper.api.invoicing.v1.invoice_pb2 import (
    Invoice,
    InvoiceLine,
    InvoiceState,
    InvoiceSummary,
)
from tollkeeper.api.invoicing.v1.invoicing_service_pb2 import (
    CloseBillingPeriodRequest,
    CloseBillingPeriodResponse,
    DocumentFormat,
    GetInvoiceDocumentRequest,
    GetInvoiceDocumentResponse,
    GetInvoiceRequest,
    ListInvoicesRequest,
)

app = typer.Typer(no_args_is_help=True, help="Close billing periods, and look at invoices.")

_STATES = ("draft", "finalized", "voided")
_INVOICES_PER_PAGE = 1000

InvoiceId = Annotated[str, typer.Argument(help="The id or the number.", show_default=False)]


@app.command("list")
def list_invoices(
    *,
    customer: Annotated[str, typer.Option(help="Only those of this customer.")] = "",
    state: Annotated[str, typer.Option(help=f"Only those that are {', '.join(_STATES)}.")] = "",
    data_dir: DataDir = DEFAULT,
    address: Addresses = None,
    as_json: AsJson = False,
) -> None:
    """List invoices, newest first."""
    if state and state not in _STATES:
        raise CommandError(f"--state {state!r} is none of {', '.join(_STATES)}")
    request = ListInvoicesRequest(
        customer_id=customer,
        state=InvoiceState.Value(f"INVOICE_STATE_{(state or 'unspecified').upper()}"),
        page_size=_INVOICES_PER_PAGE,
    )

    async def work(services: Services) -> list[InvoiceSummary]:
        found: list[InvoiceSummary] = []
        async for page in services.pages(services.invoicing.ListInvoices, request):
            found += page.invoices
        return found

    invoices = run(data_dir, address, work)
    output = Output(as_json=as_json)
    output.value({"invoices": [_facts(invoice) for invoice in invoices]})
    _show_summaries(output, invoices, empty="there are no invoices")


@app.command()
def show(
    invoice_id: InvoiceId,
    *,
    data_dir: DataDir = DEFAULT,
    address: Addresses = None,
    as_json: AsJson = False,
) -> None:
    """Show an invoice with its lines and taxes."""

    async def work(services: Services) -> Invoice:
        request = GetInvoiceRequest(invoice_id=invoice_id)
        return (await services.ask(services.invoicing.GetInvoice, request)).invoice

    _show_invoice(Output(as_json=as_json), run(data_dir, address, work))


@app.command()
def explain(
    invoice_id: InvoiceId,
    position: Annotated[int, typer.Argument(help="The number of the line.", show_default=False)],
    *,
    data_dir: DataDir = DEFAULT,
    address: Addresses = None,
    as_json: AsJson = False,
) -> None:
    """Explain a line of an invoice: what was counted, every step of its price, the rounding."""

    async def work(services: Services) -> Invoice:
        request = GetInvoiceRequest(invoice_id=invoice_id)
        return (await services.ask(services.invoicing.GetInvoice, request)).invoice

    invoice = run(data_dir, address, work)
    _explain_line(Output(as_json=as_json), invoice, find_line(invoice, position))


@app.command()
def pdf(
    invoice_id: InvoiceId,
    *,
    output_path: Annotated[
        Path | None,
        typer.Option("--output", help="A file or a folder. By default this folder."),
    ] = None,
    data_dir: DataDir = DEFAULT,
    address: Addresses = None,
    as_json: AsJson = False,
) -> None:
    """Save the PDF of an issued invoice."""

    async def work(services: Services) -> GetInvoiceDocumentResponse:
        request = GetInvoiceDocumentRequest(
            invoice_id=invoice_id, format=DocumentFormat.DOCUMENT_FORMAT_PDF
        )
        return await services.ask(services.invoicing.GetInvoiceDocument, request)

    document = run(data_dir, address, work)
    # The service suggests a name, never a folder.
    name = Path(document.file_name).name
    file = output_path or Path(name)
    if file.is_dir():
        file /= name
    with writing(file):
        file.write_bytes(document.content)
    output = Output(as_json=as_json)
    output.value({"file": str(file), "bytes": len(document.content)})
    output.say(str(file))


@app.command()
def close(
    *,
    until: Annotated[
        str, typer.Option(help="Close what ended by then, as 2026-02-01. By default by now.")
    ] = "",
    customer: Annotated[str, typer.Option(help="Only periods of this customer.")] = "",
    draft: Annotated[
        bool, typer.Option("--draft", help="Leave drafts instead of issuing invoices.")
    ] = False,
    data_dir: DataDir = DEFAULT,
    address: Addresses = None,
    as_json: AsJson = False,
) -> None:
    """Make the invoice of every billing period that has ended; safe to repeat."""
    end = parse_time_option("--until", until) if until else datetime.now(UTC)
    request = CloseBillingPeriodRequest(
        request_id=new_request_id(),
        until=render_time(end),
        customer_id=customer,
        finalize=not draft,
    )
    output = Output(as_json=as_json)

    async def work(services: Services) -> list[CloseBillingPeriodResponse]:
        answers = services.stream(services.invoicing.CloseBillingPeriod, request)
        first = await anext(answers, CloseBillingPeriodResponse())
        closed = [first] if first.subscription_id else []
        with output.progress("billing periods", first.total) as advance:
            advance(len(closed))
            async for answer in answers:
                closed.append(answer)
                advance(1)
        return closed

    closed = run(data_dir, address, work)
    invoices = [each.invoice for each in closed if each.HasField("invoice")]
    failed = [each for each in closed if each.HasField("error")]
    output.value(
        {
            "invoices": [_facts(invoice) for invoice in invoices],
            "failed": [
                {"subscription_id": each.subscription_id, "error": each.error.message}
                for each in failed
            ],
        }
    )
    _show_summaries(output, invoices, empty="no billing period was left to close")
    if failed:
        reasons = "; ".join(f"{each.subscription_id}: {each.error.message}" for each in failed)
        raise CommandError(f"{len(failed)} of {len(closed)} periods could not be closed: {reasons}")


def _show_summaries(output: Output, invoices: list[InvoiceSummary], *, empty: str) -> None:
    output.table(
        [
            Column("invoice", style="cyan"),
            Column("number"),
            Column("state"),
            Column("customer"),
            Column("period, in UTC"),
            Column("subtotal", right=True),
            Column("tax", right=True),
            Column("total", right=True, style="bold"),
        ],
        [
            [
                invoice.invoice_id,
                invoice.number,
                _state(invoice.state),
                invoice.customer_id,
                interval_text(invoice.period),
                money_text(invoice.subtotal),
                money_text(invoice.tax_total),
                money_text(invoice.total),
            ]
            for invoice in invoices
        ],
        empty=empty,
    )


def _show_invoice(output: Output, invoice: Invoice) -> None:
    output.value(_facts(invoice))
    title = invoice.number or invoice.invoice_id
    output.section(f"Invoice {title}, {_state(invoice.state)}")
    output.say(f"{invoice.seller.legal_name} to {invoice.customer.legal_name}")
    output.say(f"period {interval_text(invoice.period)} UTC")
    output.say(f"plan {invoice.plan_id}, version {invoice.plan_version}")
    if invoice.HasField("issue_date"):
        output.say(f"issued {date_text(invoice.issue_date)}, due {date_text(invoice.due_date)}")
    if invoice.buyer_tax_id:
        output.say(f"tax id of the buyer {invoice.buyer_tax_id}")
    output.table(
        [
            Column("line", right=True),
            Column("description"),
            Column("quantity", right=True),
            Column("unit"),
            Column("amount", right=True),
            Column("tax"),
        ],
        [
            [
                str(line.position),
                line.rated.description,
                quantity_text(parse_decimal(line.rated.quantity.value, "quantity")),
                line.rated.unit,
                money_text(line.amount),
                "; ".join(map(tax_text, line.taxes)),
            ]
            for line in invoice.lines
        ],
    )
    if invoice.HasField("exchange_rate"):
        output.say(f"converted at {rate_text(invoice.exchange_rate)}")
    output.table(
        [Column("total"), Column("", right=True)],
        [
            ["subtotal", money_text(invoice.subtotal)],
            *([tax_text(tax), money_text(tax.tax_amount)] for tax in invoice.taxes),
            ["to be paid", money_text(invoice.total)],
        ],
    )
    for note in dict.fromkeys(tax.invoice_note for tax in invoice.taxes if tax.invoice_note):
        output.say(note)


def _explain_line(output: Output, invoice: Invoice, line: InvoiceLine) -> None:
    output.value(_facts(line.rated))
    for text in explain_line(invoice, line):
        output.say(text)
    output.table(
        [
            Column("stage"),
            Column("step"),
            Column("quantity", right=True),
            Column("each", right=True),
            Column("amount", right=True),
            Column("so far", right=True),
        ],
        step_rows(line.rated),
    )
    for text in explain_amount(line):
        output.say(text)


def _facts(message: Message) -> dict[str, object]:
    return dict(MessageToDict(message, preserving_proto_field_name=True))


def _state(state: InvoiceState.ValueType) -> str:
    return InvoiceState.Name(state).removeprefix("INVOICE_STATE_").lower()
