"""The tax service over gRPC, on real PostgreSQL and Redis."""

from collections.abc import AsyncIterator, Callable
from datetime import date

import pytest
from google.type.decimal_pb2 import Decimal as DecimalMessage
from google.type.money_pb2 import Money as MoneyMessage

from cli.signing_keys import SigningKeys
from kit.errors import Conflict, InvalidInput, NotFound, Precondition
from kit.money import Money
from kit.rpc.wire import parse_money, render_time
from kit.settings import ServiceSettings
from tests.tax_world import (
    NOON,
    OSS,
    TaxWorld,
    a_conversion,
    a_registration,
    a_request,
    day,
    tax_world,
)
from tollkeeper.api.tax.v1 import tax_pb2
from tollkeeper.api.tax.v1 import tax_service_pb2 as messages

SEAT = a_registration()


@pytest.fixture
async def world(
    settings_for: Callable[..., ServiceSettings], keys: SigningKeys
) -> AsyncIterator[TaxWorld]:
    """A tax service that knows nothing of this tenant."""
    async with tax_world(settings_for, keys) as running:
        yield running


def put(
    registration: tax_pb2.Registration, request_id: str = "put"
) -> messages.PutRegistrationRequest:
    """Ask to put a registration."""
    return messages.PutRegistrationRequest(request_id=request_id, registration=registration)


async def test_the_four_customers_of_the_demo_are_taxed_by_law(
    world: TaxWorld, tenant: str
) -> None:
    """California, a German business, a French consumer and Japan: each with its treatment."""
    await world.register(tenant, SEAT, OSS)
    requests = [
        a_request("US-CA"),
        a_request("DE", kind="BUYER_KIND_BUSINESS", tax_ids=[("DE", "DE136695976")]),
        a_request("FR"),
        a_request("JP", kind="BUYER_KIND_BUSINESS"),
    ]

    batch = messages.BatchDetermineTaxRequest(requests=requests)
    answer = await world.ask("BatchDetermineTax", batch, tenant)

    found = [result.determination.totals[0] for result in answer.results]
    assert [
        (each.jurisdiction, each.name, each.rate_percent.value, each.treatment, each.rule_id)
        for each in found
    ] == [
        ("US-CA", "Sales tax", "0", tax_pb2.TAX_TREATMENT_NOT_TAXABLE, "us.ca.not_taxable"),
        ("DE", "VAT", "0", tax_pb2.TAX_TREATMENT_REVERSE_CHARGE, "eu.b2b.reverse_charge"),
        ("FR", "VAT", "20", tax_pb2.TAX_TREATMENT_TAXED, "eu.b2c.non_union_oss"),
        ("JP", "JCT", "0", tax_pb2.TAX_TREATMENT_REVERSE_CHARGE, "jp.b2b.reverse_charge"),
    ]


async def test_a_determination_carries_everything_an_invoice_needs(
    world: TaxWorld, tenant: str
) -> None:
    """Amounts, rate, rule, reason, source, note in the language asked for, and both tax ids."""
    await world.register(tenant, SEAT, OSS)
    request = a_request(
        "DE",
        kind="BUYER_KIND_BUSINESS",
        tax_ids=[("DE", "DE 136 695 976")],
        amounts=["19.99", "-0.99"],
        language="de",
    )

    answer = await world.ask("DetermineTax", request, tenant)

    zero = MoneyMessage(currency_code="EUR")
    total = tax_pb2.Tax(
        jurisdiction="DE",
        name="VAT",
        rate_percent=DecimalMessage(value="0"),
        taxable_amount=MoneyMessage(currency_code="EUR", units=19),
        tax_amount=zero,
        treatment=tax_pb2.TAX_TREATMENT_REVERSE_CHARGE,
        rule_id="eu.b2b.reverse_charge",
        reason=(
            "A business in Germany with the VAT id DE136695976 (format and checksum are right)"
            " buys from abroad and owes the VAT itself."
        ),
        source="Directive 2006/112/EC Art. 44 and 196",
        invoice_note=(
            "Steuerschuldnerschaft des Leistungsempfängers (Art. 196 der Richtlinie 2006/112/EG)"
        ),
        explanation=(
            "Ein Unternehmen kauft im Ausland ein: Es schuldet die Umsatzsteuer selbst,"
            " berechnet wird keine."
        ),
    )
    assert list(answer.determination.totals) == [total]
    assert [line.line_id for line in answer.determination.lines] == ["1", "2"]
    assert answer.determination.tax_total == zero
    assert answer.determination.buyer_tax_id == tax_pb2.TaxId(country="DE", number="DE136695976")
    assert answer.determination.buyer_tax_id_status == tax_pb2.TAX_ID_STATUS_FORMAT_VALID


async def test_each_of_a_batch_fails_by_itself(world: TaxWorld, tenant: str) -> None:
    """What cannot be read and what cannot be determined are errors in their place."""
    await world.register(tenant, SEAT)
    requests = [a_request("XX"), a_request("US-CA"), a_request("FR")]

    batch = messages.BatchDetermineTaxRequest(requests=requests)
    answer = await world.ask("BatchDetermineTax", batch, tenant)

    assert [result.WhichOneof("result") for result in answer.results] == [
        "error",
        "determination",
        "error",
    ]
    assert [answer.results[index].error.message for index in (0, 2)] == [
        ("buyer.address.country: must be a country's code of ISO 3166-1 alpha-2, such as DE"),
        (
            "the tax on a supply to FR cannot be determined: missing a NON_UNION_OSS registration"
            " of the seller, or one in FR"
        ),
    ]


async def test_a_seller_without_a_seat_is_told_so(world: TaxWorld, tenant: str) -> None:
    """Nothing is assumed of a tenant that has put no registration."""
    error = await world.refusal("DetermineTax", a_request("FR"), tenant)

    assert (type(error), error.reason) == (Precondition, "SELLER_NOT_ESTABLISHED")


async def test_a_registration_is_put_once_and_replaced_by_the_next(
    world: TaxWorld, tenant: str
) -> None:
    """A repeat gets the first answer; other content under the same request id is refused."""
    first = await world.ask("PutRegistration", put(SEAT), tenant)
    repeat = await world.ask("PutRegistration", put(SEAT), tenant)
    reused = await world.refusal("PutRegistration", put(OSS), tenant)
    moved = a_registration(number="999-999999")
    await world.ask("PutRegistration", put(moved, "again"), tenant)

    listed = await world.ask("ListRegistrations", messages.ListRegistrationsRequest(), tenant)

    stored = a_registration()
    stored.create_time.CopyFrom(render_time(NOON))
    moved.create_time.CopyFrom(render_time(NOON))
    assert first.registration == repeat.registration == stored
    assert (type(reused), reused.reason) == (Conflict, "REQUEST_ID_REUSED")
    assert list(listed.registrations) == [moved]


async def test_registrations_are_listed_in_pages(world: TaxWorld, tenant: str) -> None:
    """Ordered by id; a token continues its own list only."""
    states = [
        a_registration(registration_id=f"us-{region.lower()}", region=region, established=False)
        for region in ("NY", "CA", "TX")
    ]
    await world.register(tenant, *states)

    page = messages.ListRegistrationsRequest(page_size=2)
    first = await world.ask("ListRegistrations", page, tenant)
    page.page_token = first.next_page_token
    second = await world.ask("ListRegistrations", page, tenant)
    foreign = messages.ListRatesRequest(page_token=first.next_page_token)
    error = await world.refusal("ListRates", foreign, tenant)

    assert [each.registration_id for each in first.registrations] == ["us-ca", "us-ny"]
    assert [each.registration_id for each in second.registrations] == ["us-tx"]
    assert second.next_page_token == ""
    assert error.reason == "INVALID_PAGE_TOKEN"


async def test_tenants_never_meet(world: TaxWorld, tenant: str) -> None:
    """Another tenant sees no registration, and neither its tax nor its request ids."""
    await world.register(tenant, SEAT, OSS)
    other = f"{tenant}-other"

    listed = await world.ask("ListRegistrations", messages.ListRegistrationsRequest(), other)
    error = await world.refusal("DetermineTax", a_request("FR"), other)
    await world.ask("PutRegistration", put(OSS, "seat"), other)

    assert list(listed.registrations) == []
    assert error.reason == "SELLER_NOT_ESTABLISHED"


async def test_a_registration_that_contradicts_another_changes_nothing(
    world: TaxWorld, tenant: str
) -> None:
    """One clear error; the request id may be used again."""
    await world.register(tenant, SEAT)
    second_seat = a_registration(registration_id="second", region="NY")

    error = await world.refusal("PutRegistration", put(second_seat), tenant)
    await world.ask("PutRegistration", put(OSS), tenant)

    assert isinstance(error, InvalidInput)
    assert error.message == (
        "registration.established: must be false, since seat says so on the same days"
    )


async def test_rates_are_listed_by_country_and_day(world: TaxWorld, tenant: str) -> None:
    """In order, page by page, each with its source."""
    every_german = messages.ListRatesRequest(country="de", page_size=2)
    first = await world.ask("ListRates", every_german, tenant)
    every_german.page_token = first.next_page_token
    rest = await world.ask("ListRates", every_german, tenant)
    now = await world.ask("ListRates", messages.ListRatesRequest(country="DE", date=day()), tenant)
    everything = await world.ask("ListRates", messages.ListRatesRequest(page_size=1000), tenant)

    assert [rate.rate_percent.value for rate in (*first.rates, *rest.rates)] == ["19", "16", "19"]
    assert list(now.rates) == list(rest.rates)
    assert now.rates[0].source == "Umsatzsteuergesetz § 12(1)"
    assert len(everything.rates) > 100


async def test_a_tax_id_is_validated(world: TaxWorld, tenant: str) -> None:
    """Valid ids come back in their one spelling, others with what is wrong."""
    valid = messages.ValidateTaxIdRequest(tax_id=tax_pb2.TaxId(country="EL", number="094259216"))
    wrong = messages.ValidateTaxIdRequest(tax_id=tax_pb2.TaxId(country="DE", number="136695970"))

    assert await world.ask("ValidateTaxId", valid, tenant) == messages.ValidateTaxIdResponse(
        status=tax_pb2.TAX_ID_STATUS_FORMAT_VALID, canonical="EL094259216"
    )
    assert await world.ask("ValidateTaxId", wrong, tenant) == messages.ValidateTaxIdResponse(
        status=tax_pb2.TAX_ID_STATUS_INVALID, problem="the checksum is wrong"
    )


async def test_money_is_converted_at_the_rate_of_the_day_before_a_weekend(
    world: TaxWorld, tenant: str
) -> None:
    """31 October 2026 is a Saturday: Friday's rates of the sample that comes with the code."""
    answer = await world.ask("ConvertMoney", a_conversion("100", "USD", "JPY"), tenant)

    assert answer == messages.ConvertMoneyResponse(
        money=MoneyMessage(currency_code="JPY", units=15725),
        unrounded_amount=DecimalMessage(value="15725.0268528464"),
        rate=tax_pb2.ExchangeRate(
            base_currency="USD",
            quote_currency="JPY",
            rate=DecimalMessage(value="157.250268528464"),
            rate_date=day(date(2026, 10, 30)),
            source="ECB",
        ),
    )


async def test_a_rate_is_published_stale_or_unknown(world: TaxWorld, tenant: str) -> None:
    """As published against the euro; never one that is too old; never a guess."""

    def pair(base: str, quote: str, *on: int) -> messages.GetExchangeRateRequest:
        asked = day(date(*on))
        return messages.GetExchangeRateRequest(base_currency=base, quote_currency=quote, date=asked)

    published = await world.ask("GetExchangeRate", pair("EUR", "USD", 2026, 10, 30), tenant)
    stale = await world.refusal("GetExchangeRate", pair("EUR", "USD", 2026, 11, 20), tenant)
    early = await world.refusal("GetExchangeRate", pair("EUR", "USD", 2025, 12, 31), tenant)
    ended = await world.refusal("GetExchangeRate", pair("EUR", "BGN", 2026, 1, 2), tenant)

    assert published.rate.rate.value == "1.1172"
    assert (type(stale), stale.reason) == (Precondition, "EXCHANGE_RATE_STALE")
    assert (type(early), early.reason) == (NotFound, "EXCHANGE_RATE_NOT_FOUND")
    assert (type(ended), ended.reason) == (NotFound, "EXCHANGE_RATE_NOT_FOUND")


@pytest.mark.parametrize(
    ("method", "request_", "fields"),
    [
        ("DetermineTax", messages.DetermineTaxRequest(), ["lines"]),
        (
            "DetermineTax",
            a_request("", kind="BUYER_KIND_UNSPECIFIED", amounts=["1"], language="deutsch"),
            ["language", "buyer.kind", "buyer.address.country"],
        ),
        ("DetermineTax", a_request("US"), ["buyer.address.region"]),
        ("BatchDetermineTax", messages.BatchDetermineTaxRequest(), ["requests"]),
        ("ValidateTaxId", messages.ValidateTaxIdRequest(), ["tax_id.country", "tax_id.number"]),
        (
            "PutRegistration",
            messages.PutRegistrationRequest(),
            [
                "request_id",
                "registration.registration_id",
                "registration.scheme",
                "registration.start_date",
                "registration.country",
                "registration.number",
            ],
        ),
        (
            "GetExchangeRate",
            messages.GetExchangeRateRequest(base_currency="XXX"),
            ["base_currency", "quote_currency", "date"],
        ),
        (
            "ConvertMoney",
            a_conversion("1e18", "USD", "usd"),
            ["amount", "quote_currency"],
        ),
        ("ListRates", messages.ListRatesRequest(country="Germany"), ["country"]),
        ("ListRegistrations", messages.ListRegistrationsRequest(page_size=-1), ["page_size"]),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)  # fmt: skip
async def test_bad_input_names_every_field(
    world: TaxWorld, tenant: str, method: str, request_: object, fields: list[str]
) -> None:
    """One answer names all that is wrong, and nothing changes."""
    error = await world.refusal(method, request_, tenant)

    assert isinstance(error, InvalidInput)
    assert [violation.field for violation in error.violations] == fields


async def test_tax_stands_also_in_the_currency_of_its_country(world: TaxWorld, tenant: str) -> None:
    """A German invoice in dollars shows its VAT in euro, at the rate of the supply date."""
    seat = a_registration(country="DE", region="", number="DE136695976")
    await world.register(tenant, seat)
    request = a_request("DE", supply_date={"year": 2026, "month": 10, "day": 30})
    request.lines[0].amount.currency_code = "USD"

    answer = await world.ask("DetermineTax", request, tenant)

    (reported,) = answer.determination.reported_taxes
    assert (
        reported.jurisdiction,
        reported.rate_percent.value,
        parse_money(reported.taxable_amount, "taxable_amount"),
        parse_money(reported.tax_amount, "tax_amount"),
        reported.exchange_rate.rate.value,
        reported.source,
    ) == (
        "DE",
        "19",
        Money("EUR", 8951),
        Money("EUR", 1701),
        "0.895094880057286",
        "Directive 2006/112/EC Art. 230 and 91(2)",
    )


async def test_tax_that_cannot_be_reported_is_an_error(world: TaxWorld, tenant: str) -> None:
    """Without a rate of the day, nothing is guessed, and the rest of a batch goes on."""
    await world.register(tenant, a_registration(country="DE", region="", number="DE136695976"))
    request = a_request("DE", supply_date={"year": 2025, "month": 10, "day": 30})
    request.lines[0].amount.currency_code = "USD"
    batch = messages.BatchDetermineTaxRequest(requests=[request, a_request("DE")])

    answer = await world.ask("BatchDetermineTax", batch, tenant)

    assert [result.WhichOneof("result") for result in answer.results] == ["error", "determination"]
    assert (await world.refusal("DetermineTax", request, tenant)).reason == (
        "EXCHANGE_RATE_NOT_FOUND"
    )


async def test_prices_that_include_tax_are_taken_apart(world: TaxWorld, tenant: str) -> None:
    """The net amounts and the taxes of the lines sum to what was asked about."""
    await world.register(tenant, a_registration(), OSS)
    request = a_request("FR", amounts=("9.99", "9.99"), prices="PRICE_KIND_TAX_INCLUSIVE")

    answer = (await world.ask("DetermineTax", request, tenant)).determination

    assert (
        [parse_money(line.net_amount, "net").minor_units for line in answer.lines],
        parse_money(answer.net_total, "net_total"),
        parse_money(answer.tax_total, "tax_total"),
    ) == ([832, 833], Money("EUR", 1665), Money("EUR", 333))
