"""Taxes by an engine outside, played back from a recorded calculation of Stripe Tax."""

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any
from urllib.parse import parse_qs

import pytest

from cli.signing_keys import SigningKeys
from kit.errors import Precondition, Unavailable
from kit.money import Money
from kit.rpc.wire import parse_money
from kit.settings import ServiceSettings
from tests.standin_web import StandIn, standing_in
from tests.tax_world import OSS, TaxWorld, a_registration, a_request, tax_world
from tollkeeper.api.tax.v1 import tax_pb2
from tollkeeper.api.tax.v1 import tax_service_pb2 as messages

CALCULATIONS = "POST /v1/tax/calculations"


def breakdown(**changes: Any) -> dict[str, Any]:  # noqa: ANN401 - as JSON.
    """Make one entry of a recorded tax breakdown."""
    return {
        "amount": 2000,
        "jurisdiction": {
            "country": "FR",
            "display_name": "France",
            "level": "country",
            "state": None,
        },
        "sourcing": "destination",
        "tax_rate_details": {
            "display_name": "VAT",
            "percentage_decimal": "20.0",
            "tax_type": "vat",
        },
        "taxability_reason": "standard_rated",
        "taxable_amount": 10000,
        **changes,
    }


def recorded(*breakdowns: dict[str, Any], amount_tax: int = 2000) -> tuple[int, Any]:
    """Make a calculation as Stripe Tax documents it."""
    item = {
        "id": "tax_li_N1",
        "object": "tax.calculation_line_item",
        "amount": 10000,
        "amount_tax": amount_tax,
        "reference": "1",
        "tax_behavior": "exclusive",
        "tax_breakdown": list(breakdowns or (breakdown(),)),
    }
    return 200, {
        "id": "taxcalc_1NPB9L2eZvKYlo2C",
        "object": "tax.calculation",
        "amount_total": 10000 + amount_tax,
        "currency": "eur",
        "line_items": {"object": "list", "data": [item], "has_more": False},
        "tax_amount_exclusive": amount_tax,
    }


@pytest.fixture
def engine() -> Iterator[StandIn]:
    """The engine, played back on loopback."""
    with standing_in() as running:
        yield running


@pytest.fixture
async def world(
    settings_for: Callable[..., ServiceSettings], keys: SigningKeys, engine: StandIn
) -> AsyncIterator[TaxWorld]:
    """A tax service with that engine."""
    overrides = {
        "tax_engine_url": engine.url,
        "tax_engine_key": "sk_test",
        "tax_engine_timeout_s": 0.5,
    }
    async with tax_world(settings_for, keys, **overrides) as running:
        yield running


async def use_engine(world: TaxWorld, tenant: str, *, fall_back: bool = False) -> None:
    """Register a seller that uses the engine."""
    await world.register(tenant, a_registration(), OSS)
    settings = tax_pb2.TaxSettings(engine=tax_pb2.TAX_ENGINE_OUTSIDE, fall_back=fall_back)
    request = messages.PutTaxSettingsRequest(request_id="engine", settings=settings)
    await world.ask("PutTaxSettings", request, tenant)


async def test_the_engine_determines_and_the_answer_says_so(
    world: TaxWorld, tenant: str, engine: StandIn
) -> None:
    """Amounts and rates are the engine's; rule, reason and source name it."""
    await use_engine(world, tenant)
    engine.answers[CALCULATIONS] = recorded()

    found = (await world.ask("DetermineTax", a_request("FR"), tenant)).determination

    (tax,) = found.totals
    assert (found.engine, found.fallback_reason, tax.rule_id, tax.reason, tax.source) == (
        "Stripe Tax",
        "",
        "engine.standard_rated",
        "Stripe Tax finds standard rated in FR.",
        "Stripe Tax, calculation taxcalc_1NPB9L2eZvKYlo2C",
    )
    assert (tax.rate_percent.value, parse_money(found.tax_total, "tax_total")) == (
        "20",
        Money("EUR", 2000),
    )
    ((_, headers, body),) = engine.asked
    assert headers["Authorization"] == "Bearer sk_test"
    assert parse_qs(body) == {
        "currency": ["eur"],
        "tax_date": ["1793448000"],
        "customer_details[address][country]": ["FR"],
        "customer_details[address_source]": ["billing"],
        "expand[]": ["line_items.data.tax_breakdown"],
        "line_items[0][reference]": ["1"],
        "line_items[0][amount]": ["10000"],
        "line_items[0][tax_behavior]": ["exclusive"],
        "line_items[0][tax_code]": ["txcd_10103001"],
    }


@pytest.mark.parametrize(
    ("reason", "treatment"),
    [
        ("reverse_charge", tax_pb2.TAX_TREATMENT_REVERSE_CHARGE),
        ("not_collecting", tax_pb2.TAX_TREATMENT_NOT_REGISTERED),
        ("product_exempt", tax_pb2.TAX_TREATMENT_NOT_TAXABLE),
        ("not_subject_to_tax", tax_pb2.TAX_TREATMENT_OUT_OF_SCOPE),
    ],
)
async def test_what_the_engine_does_not_charge_has_a_treatment(
    world: TaxWorld, tenant: str, engine: StandIn, reason: str, treatment: int
) -> None:
    """A reverse charge carries the words of the law."""
    await use_engine(world, tenant)
    engine.answers[CALCULATIONS] = recorded(
        breakdown(amount=0, taxability_reason=reason, tax_rate_details=None), amount_tax=0
    )

    found = (await world.ask("DetermineTax", a_request("FR"), tenant)).determination

    (tax,) = found.totals
    has_note = reason == "reverse_charge"
    assert (tax.treatment, bool(tax.invoice_note), tax.rate_percent.value) == (
        treatment,
        has_note,
        "0",
    )


UNUSABLE = [
    (402, {"error": {"code": "taxes_calculation_failed"}}),
    (500, {}),
    (200, "<html>"),
    (200, {"id": "taxcalc_1"}),
    recorded(amount_tax=1999),
    recorded(breakdown(amount="2000")),
]


@pytest.mark.parametrize("answer", UNUSABLE, ids=range(len(UNUSABLE)))
async def test_without_a_usable_answer_the_seller_decides(
    world: TaxWorld, tenant: str, engine: StandIn, answer: tuple[int, Any]
) -> None:
    """An error by default; where allowed, the tables determine, and the answer says why."""
    careful, easy = f"{tenant}-1", f"{tenant}-2"
    await use_engine(world, careful)
    await use_engine(world, easy, fall_back=True)
    engine.answers[CALCULATIONS] = answer

    refusal = await world.refusal("DetermineTax", a_request("FR"), careful)
    found = (await world.ask("DetermineTax", a_request("FR"), easy)).determination

    assert isinstance(refusal, Unavailable)
    assert (refusal.reason, refusal.metadata) == (
        "TAX_ENGINE_UNAVAILABLE",
        {"engine": "Stripe Tax"},
    )
    assert found.engine == ""
    assert found.fallback_reason
    assert found.totals[0].rule_id == "eu.b2c.non_union_oss"


async def test_a_silent_engine_keeps_nobody_waiting(
    world: TaxWorld, tenant: str, engine: StandIn
) -> None:
    """The time limit ends the call, and the tables determine."""
    await use_engine(world, tenant, fall_back=True)
    engine.silent.set()

    found = (await world.ask("DetermineTax", a_request("FR"), tenant)).determination

    assert found.fallback_reason == "no answer within 0.5 s"


async def test_a_place_that_the_engine_does_not_cover_is_an_error(
    world: TaxWorld, tenant: str, engine: StandIn
) -> None:
    """That is an answer: no fallback hides it, and it is never 0."""
    await use_engine(world, tenant, fall_back=True)
    engine.answers[CALCULATIONS] = recorded(
        breakdown(amount=0, taxability_reason="jurisdiction_unsupported"), amount_tax=0
    )

    refusal = await world.refusal("DetermineTax", a_request("FR"), tenant)

    assert isinstance(refusal, Precondition)
    assert refusal.metadata["missing"] == "rules of Stripe Tax: jurisdiction_unsupported"


async def test_other_sellers_do_not_reach_the_engine(
    world: TaxWorld, tenant: str, engine: StandIn
) -> None:
    """By default the tables determine, and nothing leaves the machine."""
    await world.register(tenant, a_registration(), OSS)

    await world.ask("DetermineTax", a_request("FR"), tenant)

    assert engine.asked == []
