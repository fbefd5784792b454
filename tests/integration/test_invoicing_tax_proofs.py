"""What a customer shows goes along when its invoice is taxed, by the real tax service."""

from collections.abc import AsyncIterator, Callable

import pytest
from google.type.date_pb2 import Date

from cli.signing_keys import SigningKeys
from kit.settings import ServiceSettings
from tests.invoicing_world import World, a_french_consumer, billing_world, customer, euro
from tollkeeper.api.invoicing.v1 import customer_pb2
from tollkeeper.api.invoicing.v1 import invoicing_service_pb2 as messages
from tollkeeper.api.tax.v1 import tax_pb2, tax_service_pb2

START = Date(year=2020, month=1, day=1)


@pytest.fixture
async def world(
    settings_for: Callable[..., ServiceSettings], keys: SigningKeys, tenant: str
) -> AsyncIterator[World]:
    """Four servers on the morning of the first of February, a seller, and a plan in euro."""
    async with billing_world(settings_for, keys, tenant) as world:
        yield world


async def test_a_certificate_frees_the_invoice_of_its_tax(world: World) -> None:
    """A Texan business with a certificate pays the bare price, and the invoice says why."""
    texas = tax_pb2.Registration(
        registration_id="tx",
        country="US",
        region="TX",
        scheme=tax_pb2.REGISTRATION_SCHEME_DOMESTIC,
        number="32012345678",
        start_date=START,
    )
    await world.call(
        "tax.PutRegistration", tax_service_pb2.PutRegistrationRequest(registration=texas)
    )
    texan = customer(
        "lone-star",
        address=customer_pb2.PostalAddress(
            lines=["1 Main St"], city="Austin", region="TX", postal_code="78701", country="US"
        ),
        tax_ids=[],
        exemption_certificates=[
            tax_pb2.ExemptionCertificate(
                country="US", region="TX", number="01-339", start_date=START
            )
        ],
    )
    await world.call("invoicing.PutCustomer", messages.PutCustomerRequest(customer=texan))
    await world.subscribe("lone-star")

    await world.close()

    invoice = await world.get("INV-2026-000001")
    (tax,) = invoice.taxes
    assert (invoice.tax_total, tax.rule_id, tax.invoice_note) == (
        euro(0),
        "us.exemption_certificate",
        "No Sales tax charged: exemption certificate 01-339",
    )
    assert invoice.customer.exemption_certificates == texan.exemption_certificates


async def test_evidence_that_contradicts_the_address_stops_the_invoice(world: World) -> None:
    """Two pieces say Belgium, the address says France: nothing is guessed."""
    kinds = (
        tax_pb2.LOCATION_EVIDENCE_KIND_IP_ADDRESS,
        tax_pb2.LOCATION_EVIDENCE_KIND_BANK,
    )
    evidence = [tax_pb2.LocationEvidence(kind=kind, country="BE") for kind in kinds]
    await world.call(
        "invoicing.PutCustomer",
        messages.PutCustomerRequest(customer=a_french_consumer(location_evidence=evidence)),
    )
    await world.subscribe("dupont")

    answers = await world.close()

    (failed,) = [answer.error.message for answer in answers if answer.HasField("error")]
    assert "the address says FR, 2 pieces of evidence say BE" in failed
