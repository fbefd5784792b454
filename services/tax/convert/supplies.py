"""Supplies whose tax is asked for, and what was determined, between the wire and the domain."""

import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

from google.protobuf.internal.containers import RepeatedCompositeFieldContainer
from google.protobuf.message import Message

from kit.errors import DomainError, InvalidInput, Violations
from kit.money import Money
from kit.rpc.status import render_status
from kit.rpc.wire import parse_money, render_decimal, render_money
from services.tax.assessment import AMOUNT_DIGITS_MAX
from services.tax.convert.exchange import render_exchange_rate
from services.tax.convert.fields import (
    BATCH_MAX,
    DOMAIN,
    NUMBER_LENGTH_MAX,
    check_count,
    check_length,
    parse_address,
    parse_date,
    parse_tax_id,
    render_date,
)
from services.tax.convert.registrations import TAX_ID_STATUSES
from services.tax.model import (
    Address,
    Buyer,
    BuyerKind,
    DateRange,
    EvidenceKind,
    EvidenceStatus,
    ExemptionCertificate,
    LocationEvidence,
    PriceKind,
    ProductCategory,
    Supply,
    Tax,
    TaxableLine,
    TaxRounding,
    Treatment,
)
from services.tax.places import parse_country
from services.tax.reporting import Determined, ReportedTax
from services.tax.rules import certificates
from services.tax.tax_ids import check_tax_id
from tollkeeper.api.tax.v1 import tax_pb2, tax_service_pb2

LINES_MAX = 1000
TAX_IDS_MAX = 8
CERTIFICATES_MAX = 50
EVIDENCE_MAX = 8
LINE_ID_LENGTH_MAX = 128

_LANGUAGE = re.compile(r"[a-z]{2}")
_COUNTRIES_WITH_REGIONS = ("CA", "US")
_KINDS = {
    tax_pb2.BUYER_KIND_CONSUMER: BuyerKind.CONSUMER,
    tax_pb2.BUYER_KIND_BUSINESS: BuyerKind.BUSINESS,
}
_CATEGORIES = {
    tax_pb2.PRODUCT_CATEGORY_UNSPECIFIED: ProductCategory.ELECTRONIC_SERVICE,
    tax_pb2.PRODUCT_CATEGORY_ELECTRONIC_SERVICE: ProductCategory.ELECTRONIC_SERVICE,
    tax_pb2.PRODUCT_CATEGORY_PROFESSIONAL_SERVICE: ProductCategory.PROFESSIONAL_SERVICE,
    tax_pb2.PRODUCT_CATEGORY_GOODS: ProductCategory.GOODS,
    tax_pb2.PRODUCT_CATEGORY_EXEMPT: ProductCategory.EXEMPT,
}
_TAX_ROUNDINGS = {
    tax_service_pb2.TAX_ROUNDING_UNSPECIFIED: TaxRounding.PER_RATE,
    tax_service_pb2.TAX_ROUNDING_PER_RATE: TaxRounding.PER_RATE,
    tax_service_pb2.TAX_ROUNDING_PER_LINE: TaxRounding.PER_LINE,
}
_PRICE_KINDS = {
    tax_service_pb2.PRICE_KIND_UNSPECIFIED: PriceKind.TAX_EXCLUSIVE,
    tax_service_pb2.PRICE_KIND_TAX_EXCLUSIVE: PriceKind.TAX_EXCLUSIVE,
    tax_service_pb2.PRICE_KIND_TAX_INCLUSIVE: PriceKind.TAX_INCLUSIVE,
}
_EVIDENCE_KINDS = {
    tax_pb2.LOCATION_EVIDENCE_KIND_BILLING_ADDRESS: EvidenceKind.BILLING_ADDRESS,
    tax_pb2.LOCATION_EVIDENCE_KIND_IP_ADDRESS: EvidenceKind.IP_ADDRESS,
    tax_pb2.LOCATION_EVIDENCE_KIND_BANK: EvidenceKind.BANK,
    tax_pb2.LOCATION_EVIDENCE_KIND_SIM_CARD: EvidenceKind.SIM_CARD,
    tax_pb2.LOCATION_EVIDENCE_KIND_LANDLINE: EvidenceKind.LANDLINE,
    tax_pb2.LOCATION_EVIDENCE_KIND_OTHER: EvidenceKind.OTHER,
}
_EVIDENCE_KIND_NUMBERS = {kind: number for number, kind in _EVIDENCE_KINDS.items()}
_EVIDENCE_STATUSES = {
    EvidenceStatus.NOT_REQUIRED: tax_pb2.LOCATION_EVIDENCE_STATUS_NOT_REQUIRED,
    EvidenceStatus.SUFFICIENT: tax_pb2.LOCATION_EVIDENCE_STATUS_SUFFICIENT,
    EvidenceStatus.INSUFFICIENT: tax_pb2.LOCATION_EVIDENCE_STATUS_INSUFFICIENT,
}
_TREATMENTS = {
    Treatment.TAXED: tax_pb2.TAX_TREATMENT_TAXED,
    Treatment.REVERSE_CHARGE: tax_pb2.TAX_TREATMENT_REVERSE_CHARGE,
    Treatment.NOT_TAXABLE: tax_pb2.TAX_TREATMENT_NOT_TAXABLE,
    Treatment.NOT_REGISTERED: tax_pb2.TAX_TREATMENT_NOT_REGISTERED,
    Treatment.OUT_OF_SCOPE: tax_pb2.TAX_TREATMENT_OUT_OF_SCOPE,
}

Item = TypeVar("Item", bound=Message)
Parsed = TypeVar("Parsed")


def parse_supply(request: tax_service_pb2.DetermineTaxRequest) -> Supply:
    """Read what the taxes are asked for."""
    check_count(len(request.lines), LINES_MAX, "lines")
    v = Violations()
    seen: set[str] = set()
    lines = tuple(
        v.take(f"lines[{index}]", partial(_line, line, f"lines[{index}]", seen))
        for index, line in enumerate(request.lines)
    )
    rounding = _TAX_ROUNDINGS.get(request.rounding)
    if rounding is None:
        v.add("rounding", "is not known")
    prices = _PRICE_KINDS.get(request.prices)
    if prices is None:
        v.add("prices", "is not known")
    language = request.language or "en"
    if not _LANGUAGE.fullmatch(language):
        v.add("language", "must be a code of ISO 639-1, such as de")
    buyer = v.take("buyer", lambda: _buyer(request.buyer, "buyer"))
    day = v.take("supply_date", lambda: parse_date(request.supply_date, "supply_date"))
    v.raise_if_any()
    assert rounding is not None, "an unknown rounding was noted"
    assert prices is not None, "an unknown kind of price was noted"
    return Supply(buyer, lines, day, rounding, language, prices)


def parse_batch(request: tax_service_pb2.BatchDetermineTaxRequest) -> list[Supply | DomainError]:
    """Read many; what cannot be read is its own error."""
    check_count(len(request.requests), BATCH_MAX, "requests")
    return [_supply_or_error(each) for each in request.requests]


def render_determination(determined: Determined) -> tax_service_pb2.Determination:
    """Write what was determined."""
    determination = determined.determination
    tax_id, status = determination.buyer_tax_id, determination.buyer_tax_id_status
    return tax_service_pb2.Determination(
        lines=[
            tax_service_pb2.LineTax(
                line_id=line.line_id,
                taxes=map(_render_tax, line.taxes),
                net_amount=render_money(line.net_amount),
            )
            for line in determination.lines
        ],
        totals=map(_render_tax, determination.totals),
        tax_total=render_money(determination.tax_total),
        buyer_tax_id=(
            tax_pb2.TaxId(country=tax_id.country, number=tax_id.canonical) if tax_id else None
        ),
        buyer_tax_id_status=(
            TAX_ID_STATUSES[status] if status else tax_pb2.TAX_ID_STATUS_UNSPECIFIED
        ),
        net_total=render_money(determination.net_total),
        location_evidence=[
            tax_pb2.LocationEvidence(kind=_EVIDENCE_KIND_NUMBERS[each.kind], country=each.country)
            for each in determination.evidence
        ],
        location_evidence_status=_EVIDENCE_STATUSES[determination.evidence_status],
        reported_taxes=map(_render_reported, determined.reported),
        engine=determined.engine,
        fallback_reason=determined.fallback_reason,
        withholding_notes=[
            tax_pb2.WithholdingNote(country=each.country, note=each.note, source=each.source)
            for each in determination.withholding_notes
        ],
    )


def render_batch(
    results: Sequence[Determined | DomainError],
) -> tax_service_pb2.BatchDetermineTaxResponse:
    """Write many, each a determination or an error."""
    return tax_service_pb2.BatchDetermineTaxResponse(results=map(_render_result, results))


def _supply_or_error(request: tax_service_pb2.DetermineTaxRequest) -> Supply | DomainError:
    try:
        return parse_supply(request)
    except DomainError as error:
        return error


def _line(message: tax_service_pb2.TaxableLine, field: str, seen: set[str]) -> TaxableLine:
    v = Violations()
    line_id = message.line_id
    if not line_id:
        v.add(f"{field}.line_id", "is required")
    elif line_id in seen:
        v.add(f"{field}.line_id", "must be unique in the request")
    seen.add(line_id)
    check_length(v, line_id, LINE_ID_LENGTH_MAX, f"{field}.line_id")
    amount = v.take(f"{field}.amount", lambda: _amount(message, f"{field}.amount"))
    category = _CATEGORIES.get(message.category)
    if category is None:
        v.add(f"{field}.category", "is not known")
    v.raise_if_any()
    assert category is not None, "an unknown category was noted"
    return TaxableLine(line_id, amount, category)


def _amount(message: tax_service_pb2.TaxableLine, field: str) -> Money:
    amount = parse_money(message.amount, field)
    if abs(amount.minor_units) >= 10**AMOUNT_DIGITS_MAX:
        raise InvalidInput.of(field, f"must have at most {AMOUNT_DIGITS_MAX} digits")
    return amount


def _buyer(message: tax_pb2.Buyer, field: str) -> Buyer:
    v = Violations()
    kind = _KINDS.get(message.kind)
    if kind is None:
        v.add(f"{field}.kind", "must be BUYER_KIND_CONSUMER or BUYER_KIND_BUSINESS")
    place = f"{field}.address"
    address = v.take(place, lambda: _buyer_address(message.address, place))
    tax_ids = _each(v, message.tax_ids, TAX_IDS_MAX, f"{field}.tax_ids", parse_tax_id)
    exemptions = _each(
        v,
        message.exemption_certificates,
        CERTIFICATES_MAX,
        f"{field}.exemption_certificates",
        _certificate,
    )
    evidence = _each(
        v, message.location_evidence, EVIDENCE_MAX, f"{field}.location_evidence", _evidence
    )
    v.raise_if_any()
    assert kind is not None, "an unknown kind was noted"
    return Buyer(kind, address, tuple(map(check_tax_id, tax_ids)), exemptions, evidence)


def _each(
    v: Violations,
    messages: "RepeatedCompositeFieldContainer[Item]",
    maximum: int,
    field: str,
    parse: Callable[[Item, str], Parsed],
) -> tuple[Parsed, ...]:
    if len(messages) > maximum:
        v.add(field, f"must be at most {maximum}")
    return tuple(
        v.take(f"{field}[{index}]", partial(parse, message, f"{field}[{index}]"))
        for index, message in enumerate(messages[:maximum])
    )


def _buyer_address(message: tax_pb2.TaxAddress, field: str) -> Address:
    address = parse_address(message, field)
    if address.country in _COUNTRIES_WITH_REGIONS and not address.region:
        raise InvalidInput.of(f"{field}.region", f"is required in {address.country}")
    return address


def _certificate(message: tax_pb2.ExemptionCertificate, field: str) -> ExemptionCertificate:
    v = Violations()
    place = v.take(
        field,
        lambda: parse_address(
            tax_pb2.TaxAddress(country=message.country, region=message.region), field
        ),
    )
    number = message.number.strip()
    if not number:
        v.add(f"{field}.number", "is required")
    check_length(v, number, NUMBER_LENGTH_MAX, f"{field}.number")
    start = v.take(
        f"{field}.start_date", lambda: parse_date(message.start_date, f"{field}.start_date")
    )
    end = (
        v.take(f"{field}.end_date", lambda: parse_date(message.end_date, f"{field}.end_date"))
        if message.HasField("end_date")
        else None
    )
    v.raise_if_any()
    if place.country not in certificates.COUNTRIES:
        raise InvalidInput.of(
            f"{field}.country", f"must be one of {', '.join(certificates.COUNTRIES)}"
        )
    if place.country == "US" and not place.region:
        raise InvalidInput.of(f"{field}.region", "is required in the US")
    if end is not None and end <= start:
        raise InvalidInput.of(f"{field}.end_date", "must be after the start date")
    return ExemptionCertificate(place.country, place.region, number, DateRange(start, end))


def _evidence(message: tax_pb2.LocationEvidence, field: str) -> LocationEvidence:
    v = Violations()
    kind = _EVIDENCE_KINDS.get(message.kind)
    if kind is None:
        v.add(f"{field}.kind", "is required")
    country = v.take(f"{field}.country", lambda: parse_country(message.country, f"{field}.country"))
    v.raise_if_any()
    assert kind is not None, "a missing kind was noted"
    return LocationEvidence(kind, country)


def _render_result(
    result: Determined | DomainError,
) -> tax_service_pb2.BatchDetermineTaxResult:
    if isinstance(result, DomainError):
        return tax_service_pb2.BatchDetermineTaxResult(error=render_status(result, DOMAIN))
    return tax_service_pb2.BatchDetermineTaxResult(determination=render_determination(result))


def _render_tax(tax: Tax) -> tax_pb2.Tax:
    ruling = tax.ruling
    valid = ruling.rate_valid
    return tax_pb2.Tax(
        jurisdiction=ruling.jurisdiction,
        name=ruling.name,
        rate_percent=render_decimal(ruling.rate_percent),
        taxable_amount=render_money(tax.taxable_amount),
        tax_amount=render_money(tax.tax_amount),
        treatment=_TREATMENTS[ruling.treatment],
        rule_id=ruling.rule_id,
        reason=ruling.reason,
        source=ruling.source,
        invoice_note=ruling.invoice_note,
        seller_tax_id=ruling.seller_tax_id,
        explanation=ruling.explanation,
        rate_start_date=render_date(valid.start) if valid else None,
        rate_end_date=render_date(valid.end) if valid and valid.end else None,
    )


def _render_reported(reported: ReportedTax) -> tax_pb2.ReportedTax:
    ruling = reported.tax.ruling
    return tax_pb2.ReportedTax(
        jurisdiction=ruling.jurisdiction,
        name=ruling.name,
        rate_percent=render_decimal(ruling.rate_percent),
        taxable_amount=render_money(reported.taxable_amount),
        tax_amount=render_money(reported.tax_amount),
        exchange_rate=render_exchange_rate(reported.exchange_rate),
        source=reported.source,
    )
