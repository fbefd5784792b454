"""`tollkeeper tax`: explain what the law says of a case, and import rates."""

import asyncio
import os
from datetime import UTC, datetime
from datetime import date as date_type
from pathlib import Path
from typing import Annotated

import typer
from google.protobuf.json_format import MessageToDict

from cli.embedded.data_directory import DEFAULT
from cli.errors import CommandError
from cli.options import AsJson, DataDir
from cli.output import Column, Output, date_text, money_text, rate_text, tax_text
from cli.running import Running
from cli.services import Addresses, Services, new_request_id, run
from cli.tax_files import is_exchange_rates, parse_day, read_tax_rates
from kit.decimals import parse_decimal
from kit.errors import DomainError
from kit.money import Rounding, settle
from kit.rpc.wire import render_money
from services.tax.__main__ import import_rates
from services.tax.convert.supplies import parse_supply, render_determination
from services.tax.determination import determine
from services.tax.model import DateRange, Registration, RegistrationScheme, Seller
from services.tax.places import parse_country, parse_region
from services.tax.reference_rates import SOURCE_ECB, SOURCE_NAME
from services.tax.reporting import Determined
from services.tax.rulebook_files import load_rulebook
from tollkeeper.api.tax.v1.tax_pb2 import (
    BuyerKind,
    ProductCategory,
    Tax,
    TaxIdStatus,
)
from tollkeeper.api.tax.v1.tax_service_pb2 import (
    Determination,
    DetermineTaxRequest,
    PriceKind,
    PutUploadedRatesRequest,
)

app = typer.Typer(no_args_is_help=True, help="Explain taxes, and import rates.")

_CATEGORIES = ("electronic-service", "professional-service", "goods", "exempt")
_LONG_AGO = date_type.min


@app.command()
def check(
    *,
    buyer: Annotated[str, typer.Option(help="Where the buyer is, as FR or US-CA.")],
    seller: Annotated[
        str,
        typer.Option(
            help="Where a seller is established, as DE or US-CA, to try a case without any "
            "service. By default the seller is who is registered with the running suite."
        ),
    ] = "",
    registration: Annotated[
        list[str] | None,
        typer.Option(
            help="A further registration of that seller, as FR or IE:non-union-oss; repeatable."
        ),
    ] = None,
    date: Annotated[str, typer.Option(help="The day of the supply. By default today.")] = "",
    postal_code: Annotated[str, typer.Option(help="The postal code of the buyer.")] = "",
    business: Annotated[
        bool, typer.Option("--business", help="The buyer acts as a business.")
    ] = False,
    tax_id: Annotated[
        str, typer.Option(help="The tax id of a business, as DE136695976; country first.")
    ] = "",
    category: Annotated[
        str, typer.Option(help=f"What is sold: {', '.join(_CATEGORIES)}.")
    ] = _CATEGORIES[0],
    amount: Annotated[str, typer.Option(help="The price.")] = "100",
    currency: Annotated[str, typer.Option(help="The currency of the price.")] = "EUR",
    inclusive: Annotated[bool, typer.Option("--inclusive", help="The price includes tax.")] = False,
    language: Annotated[str, typer.Option(help="The language of the wording, as de.")] = "en",
    data_dir: DataDir = DEFAULT,
    address: Addresses = None,
    as_json: AsJson = False,
) -> None:
    """Say which tax is owed in a case, by which law, and with which words."""
    if category not in _CATEGORIES:
        raise CommandError(f"--category {category!r} is none of {', '.join(_CATEGORIES)}")
    if registration and not seller:
        raise CommandError("--registration needs --seller: a seller to try")
    today = datetime.now(UTC).date().isoformat()
    request = DetermineTaxRequest(supply_date=parse_day(date or today, "--date"), language=language)
    request.buyer.address.country, _, request.buyer.address.region = buyer.partition("-")
    request.buyer.address.postal_code = postal_code
    is_business = business or tax_id
    request.buyer.kind = (
        BuyerKind.BUYER_KIND_BUSINESS if is_business else BuyerKind.BUYER_KIND_CONSUMER
    )
    if tax_id:
        request.buyer.tax_ids.add(country=tax_id[:2], number=tax_id)
    if inclusive:
        request.prices = PriceKind.PRICE_KIND_TAX_INCLUSIVE
    try:
        money = settle(parse_decimal(amount, "--amount"), currency, Rounding.HALF_UP)
    except DomainError as error:
        raise CommandError(error.message) from None
    name = f"PRODUCT_CATEGORY_{category.upper().replace('-', '_')}"
    request.lines.add(line_id="1", amount=render_money(money), category=ProductCategory.Value(name))
    if seller:
        answer = _determine_here(request, [seller, *(registration or ())])
    else:
        answer = run(data_dir, address, lambda services: _determine(services, request))
    _show(Output(as_json=as_json), answer)


@app.command("import")
def import_(
    file: Annotated[
        Path,
        typer.Argument(
            help="A CSV or zip of exchange rates as the ECB publishes them, or a CSV of tax rates.",
            show_default=False,
        ),
    ],
    *,
    source: Annotated[str, typer.Option(help="Who published the exchange rates.")] = SOURCE_ECB,
    data_dir: DataDir = DEFAULT,
    address: Addresses = None,
    as_json: AsJson = False,
) -> None:
    """Import exchange rates, for everybody, or the tax rates of this seller, in place of before.

    Exchange rates are written to the database of DATABASE_URL, or of the running suite.
    """
    output = Output(as_json=as_json)
    if is_exchange_rates(file):
        if not SOURCE_NAME.fullmatch(source):
            raise CommandError(
                f"--source {source!r} is not 1 to 32 upper-case letters, digits and underscores"
            )
        database_url = os.environ.get("DATABASE_URL") or Running.load(data_dir).database_url
        new = asyncio.run(import_rates(database_url, file, source))
        output.value({"new_exchange_rates": new, "source": source})
        output.say(f"{new:,} new exchange rates of {source}")
        return
    request = PutUploadedRatesRequest(request_id=new_request_id(), rates=read_tax_rates(file))

    async def work(services: Services) -> int:
        return (await services.ask(services.tax.PutUploadedRates, request)).rate_count

    count = run(data_dir, address, work)
    output.value({"tax_rates": count})
    output.say(f"{count:,} tax rates, in place of those before")


async def _determine(services: Services, request: DetermineTaxRequest) -> Determination:
    return (await services.ask(services.tax.DetermineTax, request)).determination


def _determine_here(request: DetermineTaxRequest, places: list[str]) -> Determination:
    """Ask the core itself, with a seller made of its registrations; the first is its seat."""
    try:
        registrations = tuple(
            _registration(place, is_seat=not index) for index, place in enumerate(places)
        )
        determination = determine(Seller(registrations), parse_supply(request), load_rulebook())
    except DomainError as error:
        raise CommandError(error.message) from None
    return render_determination(Determined(determination))


def _registration(text: str, *, is_seat: bool) -> Registration:
    place, _, scheme = text.partition(":")
    country_text, _, region_text = place.partition("-")
    name = (scheme or "domestic").upper().replace("-", "_")
    if name not in RegistrationScheme.__members__:
        raise CommandError(f"{text!r} names no scheme; write it as IE:non-union-oss")
    country = parse_country(country_text, text)
    return Registration(
        registration_id=text,
        country=country,
        region=parse_region(region_text, country, text),
        scheme=RegistrationScheme[name],
        number=text,
        established=is_seat,
        valid=DateRange(_LONG_AGO),
    )


def _show(output: Output, answer: Determination) -> None:
    output.value(MessageToDict(answer, preserving_proto_field_name=True))
    output.table(
        [
            Column("tax", style="cyan"),
            Column("on", right=True),
            Column("amount", right=True, style="bold"),
        ],
        [
            [tax_text(tax), money_text(tax.taxable_amount), money_text(tax.tax_amount)]
            for tax in answer.totals
        ],
    )
    output.say(f"net {money_text(answer.net_total)}, tax {money_text(answer.tax_total)}")
    for tax in answer.totals:
        output.section(tax_text(tax))
        for label, text in _facts(tax):
            output.say(f"{label:<12} {text}")
    if answer.buyer_tax_id_status:
        status = TaxIdStatus.Name(answer.buyer_tax_id_status).removeprefix("TAX_ID_STATUS_")
        output.say(
            f"{'tax id':<12} {answer.buyer_tax_id.number} {status.lower().replace('_', ' ')}"
        )
    for note in answer.withholding_notes:
        output.say(f"{'withholding':<12} {note.note} ({note.source})")
    for reported in answer.reported_taxes:
        output.say(
            f"{'reported':<12} {money_text(reported.tax_amount)} on"
            f" {money_text(reported.taxable_amount)}, at {rate_text(reported.exchange_rate)}"
        )


def _facts(tax: Tax) -> list[tuple[str, str]]:
    dates = ""
    if tax.HasField("rate_start_date"):
        end = f" to {date_text(tax.rate_end_date)}" if tax.HasField("rate_end_date") else " on"
        dates = f"from {date_text(tax.rate_start_date)}{end}"
    facts = [
        ("rule", tax.rule_id),
        ("reason", tax.reason),
        ("source", tax.source),
        ("rate holds", dates),
        ("on invoice", tax.invoice_note),
        ("for buyer", tax.explanation),
        ("declared as", tax.seller_tax_id),
    ]
    return [(label, text) for label, text in facts if text]
