"""Tax ids confirmed by recorded answers of VIES and HMRC, and what is done without an answer."""

import json
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from cli.signing_keys import SigningKeys
from kit.rpc.wire import render_time
from kit.settings import ServiceSettings
from tests.standin_web import StandIn, standing_in
from tests.tax_world import NOON, OSS, TaxWorld, a_registration, a_request, tax_world
from tollkeeper.api.tax.v1 import tax_pb2
from tollkeeper.api.tax.v1 import tax_service_pb2 as messages

VIES = "POST /check-vat-number"
HMRC_TOKEN = "POST /oauth/token"
HMRC = "GET /organisations/vat/check-vat-number/lookup"
# Recorded from the documented examples of both services.
VIES_VALID: dict[str, Any] = {
    "countryCode": "DE",
    "vatNumber": "136695976",
    "requestDate": "2026-10-31T11:59:58.123Z",
    "valid": True,
    "requestIdentifier": "WAPIAAAAZqX1y2z3",
    "name": "---",
    "address": "---",
}
VIES_BUSY = {
    "actionSucceed": False,
    "errorWrappers": [{"error": "MS_MAX_CONCURRENT_REQ", "message": "busy"}],
}
HMRC_VALID = {
    "target": {
        "name": "Credite Sberger Donal Inc.",
        "vatNumber": "980780684",
        "address": {"line1": "131B Barton Hamlet", "postcode": "SW97 5CK", "countryCode": "GB"},
    },
    "requester": "980780684",
    "consultationNumber": "Xp5-8GY-7cC",
    "processingDate": "2026-10-31T11:59:58+00:00",
}
HMRC_UNKNOWN = {"code": "NOT_FOUND", "message": "targetVrn does not match a registered company"}


@pytest.fixture
def registers() -> Iterator[StandIn]:
    """The registers, played back on loopback."""
    with standing_in() as running:
        running.answers[HMRC_TOKEN] = (200, {"access_token": "token", "expires_in": 14400})
        yield running


@pytest.fixture
async def world(
    settings_for: Callable[..., ServiceSettings], keys: SigningKeys, registers: StandIn
) -> AsyncIterator[TaxWorld]:
    """A tax service that asks the stand-in."""
    overrides = {
        "tax_vies_url": registers.url,
        "tax_hmrc_url": registers.url,
        "tax_hmrc_client_id": "client",
        "tax_hmrc_client_secret": "secret",
        "tax_register_timeout_s": 0.5,
    }
    async with tax_world(settings_for, keys, **overrides) as running:
        yield running


def confirm(country: str = "DE", number: str = "DE136695976") -> messages.ValidateTaxIdRequest:
    """Ask to confirm a tax id."""
    return messages.ValidateTaxIdRequest(
        tax_id=tax_pb2.TaxId(country=country, number=number), confirm=True
    )


async def settle(world: TaxWorld, tenant: str, policy: str) -> None:
    """Say what unconfirmed tax ids are worth."""
    settings = tax_pb2.TaxSettings(
        unconfirmed_tax_ids=tax_pb2.UnconfirmedTaxIds.Value(f"UNCONFIRMED_TAX_IDS_{policy}")
    )
    request = messages.PutTaxSettingsRequest(request_id=policy, settings=settings)
    await world.ask("PutTaxSettings", request, tenant)


async def treated(world: TaxWorld, tenant: str) -> tax_pb2.Tax:
    """Answer how a German business with a VAT id is taxed."""
    request = a_request("DE", kind="BUYER_KIND_BUSINESS", tax_ids=[("DE", "DE136695976")])
    answer: messages.DetermineTaxResponse = await world.ask("DetermineTax", request, tenant)
    return answer.determination.totals[0]


async def test_vies_confirms_with_a_consultation_number(
    world: TaxWorld, tenant: str, registers: StandIn
) -> None:
    """The seller's own VAT id is sent along, since only then VIES gives a proof."""
    await world.register(tenant, a_registration(country="FR", region="", number="FR40303265045"))
    registers.answers[VIES] = (200, VIES_VALID)

    answer = await world.ask("ValidateTaxId", confirm(), tenant)

    assert answer == messages.ValidateTaxIdResponse(
        status=tax_pb2.TAX_ID_STATUS_CONFIRMED,
        canonical="DE136695976",
        confirmation=tax_pb2.TaxIdConfirmation(
            register="VIES",
            is_valid=True,
            consultation_number="WAPIAAAAZqX1y2z3",
            check_time=render_time(NOON),
        ),
    )
    ((_, _, body),) = registers.asked
    assert json.loads(body) == {
        "countryCode": "DE",
        "vatNumber": "136695976",
        "requesterMemberStateCode": "FR",
        "requesterNumber": "40303265045",
    }


async def test_hmrc_confirms_with_a_consultation_number(
    world: TaxWorld, tenant: str, registers: StandIn
) -> None:
    """With a token of the application, and the seller's own number in the path."""
    await world.register(tenant, a_registration(country="GB", region="", number="GB980780684"))
    path = f"{HMRC}/980780684/980780684"
    registers.answers[path] = (200, HMRC_VALID)

    answer = await world.ask("ValidateTaxId", confirm("GB", "GB980780684"), tenant)

    assert (answer.status, answer.confirmation.name, answer.confirmation.consultation_number) == (
        tax_pb2.TAX_ID_STATUS_CONFIRMED,
        "Credite Sberger Donal Inc.",
        "Xp5-8GY-7cC",
    )
    assert registers.paths() == [HMRC_TOKEN, path]
    assert registers.asked[1][1]["Authorization"] == "Bearer token"


@pytest.mark.parametrize(
    ("request_", "path", "recorded", "problem"),
    [
        (confirm(), VIES, (200, {**VIES_VALID, "valid": False}), "VIES did not know it on "),
        (
            confirm("GB", "GB980780684"),
            f"{HMRC}/980780684",
            (404, HMRC_UNKNOWN),
            "HMRC did not know it on ",
        ),
    ],
    ids=["VIES", "HMRC"],
)
async def test_an_id_that_the_register_does_not_know_is_invalid(  # noqa: PLR0917 - one for each part of a case.
    world: TaxWorld,
    tenant: str,
    registers: StandIn,
    request_: object,
    path: str,
    recorded: tuple[int, Any],
    problem: str,
) -> None:
    """Format and checksum alone do not save it."""
    registers.answers[path] = recorded

    answer = await world.ask("ValidateTaxId", request_, tenant)

    assert (answer.status, answer.canonical, answer.problem) == (
        tax_pb2.TAX_ID_STATUS_INVALID,
        "",
        f"{problem}2026-10-31",
    )


async def test_an_answer_of_the_last_day_is_not_asked_for_again(
    world: TaxWorld, tenant: str, registers: StandIn
) -> None:
    """Another seller asks for itself."""
    registers.answers[VIES] = (200, VIES_VALID)

    first = await world.ask("ValidateTaxId", confirm(), tenant)
    second = await world.ask("ValidateTaxId", confirm(), tenant)
    await world.ask("ValidateTaxId", confirm(), f"{tenant}-2")

    assert (first, len(registers.asked)) == (second, 2)


@pytest.mark.parametrize(
    ("recorded", "reason"),
    [
        ((200, VIES_BUSY), "VIES says MS_MAX_CONCURRENT_REQ"),
        ((500, {}), "VIES says 500"),
        ((200, "<html>"), "no answer: Expecting value: line 1 column 1 (char 0)"),
        ((200, {"valid": "yes"}), "VIES says 200"),
        ((200, [1]), "VIES says 200"),
    ],
)
async def test_what_is_no_answer_is_never_a_no(
    world: TaxWorld, tenant: str, registers: StandIn, recorded: tuple[int, Any], reason: str
) -> None:
    """The format is valid, not confirmed, and the reason says why."""
    registers.answers[VIES] = recorded

    answer = await world.ask("ValidateTaxId", confirm(), tenant)

    assert (answer.status, answer.unconfirmed_reason) == (
        tax_pb2.TAX_ID_STATUS_FORMAT_VALID,
        reason,
    )


async def test_a_silent_register_keeps_nobody_waiting(
    world: TaxWorld, tenant: str, registers: StandIn
) -> None:
    """The time limit ends the call, and the next one asks again."""
    registers.silent.set()

    answer = await world.ask("ValidateTaxId", confirm(), tenant)

    assert (answer.status, answer.unconfirmed_reason) == (
        tax_pb2.TAX_ID_STATUS_FORMAT_VALID,
        "no answer within 0.5 s",
    )
    registers.silent.clear()
    registers.answers[VIES] = (200, VIES_VALID)
    again = await world.ask("ValidateTaxId", confirm(), tenant)
    assert again.status == tax_pb2.TAX_ID_STATUS_CONFIRMED


async def test_without_a_register_the_reason_says_so(
    world: TaxWorld, tenant: str, registers: StandIn
) -> None:
    """Nobody keeps a register for Switzerland here; nothing is asked."""
    answer = await world.ask("ValidateTaxId", confirm("CH", "CHE-107.787.577 MWST"), tenant)

    assert (answer.unconfirmed_reason, registers.asked) == ("no register is set up for CH", [])


async def test_the_seller_decides_what_an_unconfirmed_id_is_worth(
    world: TaxWorld, tenant: str, registers: StandIn
) -> None:
    """Accepted by default; refused it makes a consumer, until VIES confirms it."""
    await world.register(tenant, a_registration(), OSS)
    accepted = await treated(world, tenant)
    await settle(world, tenant, "REFUSED")
    refused = await treated(world, tenant)
    registers.answers[VIES] = (200, VIES_VALID)

    await world.ask("ValidateTaxId", confirm(), tenant)

    confirmed = await treated(world, tenant)
    assert [tax.treatment for tax in (accepted, refused, confirmed)] == [
        tax_pb2.TAX_TREATMENT_REVERSE_CHARGE,
        tax_pb2.TAX_TREATMENT_TAXED,
        tax_pb2.TAX_TREATMENT_REVERSE_CHARGE,
    ]
    assert refused.reason.endswith("no register has confirmed it, and the seller asks for that.")
    assert confirmed.reason == (
        "A business in Germany with the VAT id DE136695976 (confirmed by VIES on 2026-10-31,"
        " consultation WAPIAAAAZqX1y2z3) buys from abroad and owes the VAT itself."
    )


async def test_an_id_that_vies_denied_makes_a_consumer(
    world: TaxWorld, tenant: str, registers: StandIn
) -> None:
    """Also where unconfirmed ids are accepted: this one is known to be wrong."""
    await world.register(tenant, a_registration(), OSS)
    registers.answers[VIES] = (200, {**VIES_VALID, "valid": False})

    await world.ask("ValidateTaxId", confirm(), tenant)

    assert (await treated(world, tenant)).treatment == tax_pb2.TAX_TREATMENT_TAXED
