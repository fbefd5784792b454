"""What a customer shows to the tax service: exemption certificates, and evidence of its place.

Both are kept as the messages that they came as, with everything that tax will look at checked.
"""

from collections.abc import Sequence
from datetime import date

from google.protobuf.message import Message
from google.type.date_pb2 import Date

from kit.errors import InvalidInput, Violations
from services.invoicing.convert.fields import parse_country, parse_text, take
from services.invoicing.snapshot import written_each
from tollkeeper.api.tax.v1 import tax_pb2

CERTIFICATES_MAX = 50
EVIDENCE_MAX = 8
CERTIFICATE_NUMBER_LENGTH_MAX = 64

_COUNTRIES_WITH_CERTIFICATES = ("US", "CA")


def parse_certificates(
    certificates: Sequence[tax_pb2.ExemptionCertificate], field: str
) -> tuple[bytes, ...]:
    """Read the certificates by which a customer is exempt."""
    _check_count(certificates, CERTIFICATES_MAX, field)
    v = Violations()
    for index, certificate in enumerate(certificates):
        take(v, f"{field}[{index}]", _check_certificate, certificate)
    v.raise_if_any()
    return written_each(certificates)


def parse_evidence(evidence: Sequence[tax_pb2.LocationEvidence], field: str) -> tuple[bytes, ...]:
    """Read what shows where a customer is."""
    _check_count(evidence, EVIDENCE_MAX, field)
    v = Violations()
    for index, each in enumerate(evidence):
        take(v, f"{field}[{index}].country", parse_country, each.country)
        known = tax_pb2.LocationEvidenceKind.values()
        if not each.kind or each.kind not in known:
            v.add(f"{field}[{index}].kind", "is required")
    v.raise_if_any()
    return written_each(evidence)


def _check_certificate(certificate: tax_pb2.ExemptionCertificate, field: str) -> None:
    v = Violations()
    if certificate.country not in _COUNTRIES_WITH_CERTIFICATES:
        v.add(f"{field}.country", f"must be one of {', '.join(_COUNTRIES_WITH_CERTIFICATES)}")
    if certificate.country == "US" and not certificate.region:
        v.add(f"{field}.region", "is required in the US")
    v.take(
        f"{field}.number",
        lambda: parse_text(
            certificate.number,
            f"{field}.number",
            length_max=CERTIFICATE_NUMBER_LENGTH_MAX,
            required=True,
        ),
    )
    start = take(v, f"{field}.start_date", _day, certificate.start_date)
    has_end = certificate.HasField("end_date")
    end = take(v, f"{field}.end_date", _day, certificate.end_date) if has_end else None
    v.raise_if_any()
    if end is not None and end <= start:
        raise InvalidInput.of(f"{field}.end_date", "must be after the start date")


def _day(message: Date, field: str) -> date:
    try:
        return date(message.year, message.month, message.day)
    except ValueError:
        raise InvalidInput.of(field, "must be a day of the calendar") from None


def _check_count(messages: Sequence[Message], maximum: int, field: str) -> None:
    if len(messages) > maximum:
        raise InvalidInput.of(field, f"must have at most {maximum} entries")
