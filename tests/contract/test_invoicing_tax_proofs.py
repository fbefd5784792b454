"""What customers show to the tax service, on the wire: kept whole, bounded, every fault named."""

from datetime import UTC, datetime

import pytest
from google.protobuf.text_format import Merge, Parse

from services.invoicing.convert.parties import parse_put_customer
from services.invoicing.snapshot import render_customer, written_each
from tests.invoicing_builders import a_customer
from tests.refusals import Bad, refusal_of
from tollkeeper.api.invoicing.v1 import invoicing_service_pb2 as messages
from tollkeeper.api.tax.v1 import tax_pb2

NOW = datetime(2026, 3, 1, 12, 30, tzinfo=UTC)
CERTIFICATE = Parse(
    "country: 'US' region: 'TX' number: '01-339' start_date { year: 2020 month: 1 day: 1 }",
    tax_pb2.ExemptionCertificate(),
)
EVIDENCE = Parse("kind: LOCATION_EVIDENCE_KIND_BANK country: 'FR'", tax_pb2.LocationEvidence())
FIRST = "customer.exemption_certificates[0]"
BAD = [
    Bad(
        "a certificate of nowhere",
        "customer { exemption_certificates { country: 'DE' number: '1' start_date { year: 1 } } }",
        (f"{FIRST}.country", f"{FIRST}.start_date"),
    ),
    Bad(
        "a certificate of no state",
        "customer { exemption_certificates { country: 'US' end_date { year: 2026 } } }",
        (f"{FIRST}.region", f"{FIRST}.number", f"{FIRST}.start_date", f"{FIRST}.end_date"),
    ),
    Bad(
        "a certificate that ends before it starts",
        "customer { exemption_certificates { country: 'CA' number: '1'"
        " start_date { year: 2026 month: 1 day: 2 } end_date { year: 2026 month: 1 day: 1 } } }",
        (f"{FIRST}.end_date",),
    ),
    Bad(
        "too many certificates",
        "customer { " + "exemption_certificates {} " * 51 + "}",
        ("customer.exemption_certificates",),
    ),
    Bad(
        "evidence of nothing",
        "customer { location_evidence {} }",
        ("customer.location_evidence[0].country", "customer.location_evidence[0].kind"),
    ),
    Bad(
        "too much evidence",
        "customer { " + "location_evidence {} " * 9 + "}",
        ("customer.location_evidence",),
    ),
]


def put() -> messages.PutCustomerRequest:
    """Ask to put a customer with a certificate and evidence."""
    customer = a_customer(
        exemption_certificates=written_each([CERTIFICATE]),
        location_evidence=written_each([EVIDENCE]),
    )
    message = render_customer(customer)
    message.ClearField("create_time")
    return messages.PutCustomerRequest(customer=message)


def test_what_a_customer_shows_is_kept_whole() -> None:
    """Written and read, it is the same."""
    customer = parse_put_customer(put(), NOW)

    message = render_customer(customer)
    assert list(message.exemption_certificates) == [CERTIFICATE]
    assert list(message.location_evidence) == [EVIDENCE]


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: bad.id)
def test_what_tax_could_not_use_is_refused_when_it_is_put(bad: Bad) -> None:
    """Not when an invoice is due."""
    request = put()
    request.customer.ClearField("exemption_certificates")
    request.customer.ClearField("location_evidence")
    Merge(bad.written, request)

    refusals = refusal_of(parse_put_customer, request, NOW)

    assert tuple(refusal.partition(":")[0] for refusal in refusals) == bad.named
