"""Uploaded rates over gRPC: put once, listed in pages, used for their seller alone."""

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from google.protobuf.json_format import ParseDict

from cli.signing_keys import SigningKeys
from kit.errors import Conflict, InvalidInput
from kit.settings import ServiceSettings
from tests.tax_world import TaxWorld, a_registration, a_request, tax_world
from tollkeeper.api.tax.v1 import tax_pb2
from tollkeeper.api.tax.v1 import tax_service_pb2 as messages


@pytest.fixture
async def world(
    settings_for: Callable[..., ServiceSettings], keys: SigningKeys
) -> AsyncIterator[TaxWorld]:
    """A tax service."""
    async with tax_world(settings_for, keys) as running:
        yield running


def an_upload(**fields: Any) -> tax_pb2.UploadedRate:  # noqa: ANN401 - as JSON.
    """Make the rate of a city; fields replace or add."""
    defaults: dict[str, Any] = {
        "jurisdiction": "US-NY",
        "name": "New York City sales tax",
        "rate_percent": {"value": "4.5"},
        "postal_codes": ["100", "101"],
        "start_date": {"year": 2026, "month": 1, "day": 1},
        "source": "Publication 718",
    }
    return ParseDict({**defaults, **fields}, tax_pb2.UploadedRate())


def put(*rates: tax_pb2.UploadedRate, request_id: str = "put") -> object:
    """Ask to put rates."""
    return messages.PutUploadedRatesRequest(request_id=request_id, rates=rates)


async def test_uploaded_rates_are_charged_for_their_seller_alone(
    world: TaxWorld, tenant: str
) -> None:
    """The city's tax stands beside the state's until the upload is replaced by nothing."""
    other = f"{tenant}-2"
    new_york = a_registration(registration_id="ny", region="NY", established=False)
    for seller in (tenant, other):
        await world.register(seller, a_registration(), new_york)
    request = a_request("US-NY")
    request.buyer.address.postal_code = "10001"

    async def names(seller: str) -> list[str]:
        answer = await world.ask("DetermineTax", request, seller)
        return [tax.name for tax in answer.determination.totals]

    put_answer = await world.ask("PutUploadedRates", put(an_upload()), tenant)

    assert put_answer.rate_count == 1
    assert await names(tenant) == ["Sales tax", "New York City sales tax"]
    assert await names(other) == ["Sales tax"]
    await world.ask("PutUploadedRates", put(request_id="none"), tenant)
    assert await names(tenant) == ["Sales tax"]


async def test_uploaded_rates_are_put_once_and_listed_in_pages(
    world: TaxWorld, tenant: str
) -> None:
    """Pages keep the order of the upload; other content under the same id is refused."""
    rates = [an_upload(postal_codes=[f"10{number}"]) for number in range(3)]

    for _ in range(2):
        await world.ask("PutUploadedRates", put(*rates), tenant)

    first = await world.ask(
        "ListUploadedRates", messages.ListUploadedRatesRequest(page_size=2), tenant
    )
    second = await world.ask(
        "ListUploadedRates",
        messages.ListUploadedRatesRequest(page_size=2, page_token=first.next_page_token),
        tenant,
    )
    assert [*first.rates, *second.rates] == rates
    assert second.next_page_token == ""
    assert isinstance(await world.refusal("PutUploadedRates", put(), tenant), Conflict)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"jurisdiction": "ZZ"}, "rates[0].jurisdiction"),
        ({"jurisdiction": "US-ZZ"}, "rates[0].jurisdiction"),
        ({"name": " "}, "rates[0].name"),
        ({"rate_percent": {"value": "101"}}, "rates[0].rate_percent"),
        ({"rate_percent": {"value": "-1"}}, "rates[0].rate_percent"),
        ({"rate_percent": {"value": "NaN"}}, "rates[0].rate_percent"),
        ({"postal_codes": ["1%"]}, "rates[0].postal_codes[0]"),
        ({"start_date": {}}, "rates[0].start_date"),
        ({"end_date": {"year": 2026, "month": 1, "day": 1}}, "rates[0].end_date"),
        ({"source": ""}, "rates[0].source"),
    ],
)
async def test_a_bad_upload_names_its_field_and_changes_nothing(
    world: TaxWorld, tenant: str, fields: dict[str, Any], field: str
) -> None:
    """All of an upload is taken, or none of it."""
    refusal = await world.refusal("PutUploadedRates", put(an_upload(**fields)), tenant)

    assert isinstance(refusal, InvalidInput)
    assert [each.field for each in refusal.violations] == [field]
    listed = await world.ask("ListUploadedRates", messages.ListUploadedRatesRequest(), tenant)
    assert not listed.rates
