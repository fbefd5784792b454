"""Rates that a seller uploads, between the wire and the domain."""

import re
from functools import partial

from kit.decimals import parse_decimal
from kit.errors import InvalidInput, Violations
from kit.idempotency import parse_request_id
from kit.rpc.wire import render_decimal
from services.tax.convert.fields import (
    NUMBER_LENGTH_MAX,
    POSTAL_CODE_LENGTH_MAX,
    check_at_most,
    check_length,
    parse_date,
    render_date,
)
from services.tax.model import HUNDRED, ZERO, DateRange
from services.tax.places import parse_country, parse_region
from services.tax.uploads import UploadedRate
from tollkeeper.api.tax.v1 import tax_pb2, tax_service_pb2

UPLOADS_MAX = 5000
POSTAL_CODES_MAX = 1000
POSTAL_CODES_IN_ALL_MAX = 20_000
SOURCE_LENGTH_MAX = 512
_POSTAL_CODE = re.compile(r"[0-9A-Za-z -]+")


def parse_uploads(request: tax_service_pb2.PutUploadedRatesRequest) -> tuple[UploadedRate, ...]:
    """Read the rates that are uploaded, and make sure that the request has an id."""
    check_at_most(len(request.rates), UPLOADS_MAX, "rates")
    v = Violations()
    v.take("request_id", lambda: parse_request_id(request.request_id))
    uploads = tuple(
        v.take(f"rates[{index}]", partial(_upload, message, f"rates[{index}]"))
        for index, message in enumerate(request.rates)
    )
    v.raise_if_any()
    codes = sum(len(upload.postal_codes) for upload in uploads)
    check_at_most(codes, POSTAL_CODES_IN_ALL_MAX, "rates.postal_codes")
    return uploads


def render_upload(upload: UploadedRate) -> tax_pb2.UploadedRate:
    """Write a rate as it was uploaded."""
    valid = upload.valid
    return tax_pb2.UploadedRate(
        jurisdiction=upload.jurisdiction,
        name=upload.name,
        rate_percent=render_decimal(upload.rate_percent),
        postal_codes=upload.postal_codes,
        start_date=render_date(valid.start),
        end_date=render_date(valid.end) if valid.end else None,
        source=upload.source,
    )


def _upload(message: tax_pb2.UploadedRate, field: str) -> UploadedRate:
    v = Violations()
    jurisdiction = v.take(
        f"{field}.jurisdiction",
        lambda: _jurisdiction(message.jurisdiction, f"{field}.jurisdiction"),
    )
    for text, maximum, name in (
        (message.name, NUMBER_LENGTH_MAX, "name"),
        (message.source, SOURCE_LENGTH_MAX, "source"),
    ):
        if not text.strip():
            v.add(f"{field}.{name}", "is required")
        check_length(v, text, maximum, f"{field}.{name}")
    rate_percent = v.take(
        f"{field}.rate_percent",
        lambda: parse_decimal(
            message.rate_percent.value, f"{field}.rate_percent", minimum=ZERO, max_digits=12
        ),
    )
    if len(message.postal_codes) > POSTAL_CODES_MAX:
        v.add(f"{field}.postal_codes", f"must be at most {POSTAL_CODES_MAX}")
    for index, code in enumerate(message.postal_codes[:POSTAL_CODES_MAX]):
        if not _POSTAL_CODE.fullmatch(code) or len(code) > POSTAL_CODE_LENGTH_MAX:
            v.add(
                f"{field}.postal_codes[{index}]",
                f"must be 1 to {POSTAL_CODE_LENGTH_MAX} letters, digits, blanks and hyphens",
            )
    start = v.take(
        f"{field}.start_date", lambda: parse_date(message.start_date, f"{field}.start_date")
    )
    end = (
        v.take(f"{field}.end_date", lambda: parse_date(message.end_date, f"{field}.end_date"))
        if message.HasField("end_date")
        else None
    )
    v.raise_if_any()
    if rate_percent > HUNDRED:
        raise InvalidInput.of(f"{field}.rate_percent", "must be at most 100")
    if end is not None and end <= start:
        raise InvalidInput.of(f"{field}.end_date", "must be after the start date")
    return UploadedRate(
        jurisdiction=jurisdiction,
        name=message.name.strip(),
        rate_percent=rate_percent,
        postal_codes=tuple(message.postal_codes),
        valid=DateRange(start, end),
        source=message.source.strip(),
    )


def _jurisdiction(text: str, field: str) -> str:
    country_text, _, region_text = text.partition("-")
    country = parse_country(country_text, field)
    region = parse_region(region_text, country, field)
    return f"{country}-{region}" if region else country
