"""Tax: how many lines in a second are determined, and how many amounts converted.

`lines_per_s` is `BatchDetermineTax` through gRPC by 4 callers: the service runs as its own process,
a batch has 100 invoices of 10 lines to consumers and businesses in six countries.
`conversions_per_s` is `BatchConvert` of 1,000 amounts over 10 days by 4 callers, and
`single_conversions_per_s` is `ConvertMoney` by 64. `pure_lines_per_s` is the determination by
itself, in this process on one core, with the same invoices; `wire_lines_per_s` adds reading the
request and writing the answer, which is most of what gRPC costs.
"""

import argparse
import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable
from datetime import date
from typing import Any

import uvloop
from google.type.date_pb2 import Date
from google.type.decimal_pb2 import Decimal as DecimalMessage
from google.type.money_pb2 import Money as MoneyMessage

from bench.rig import Rig, running
from kit.rpc.channel import open_channel
from services.tax.convert.registrations import parse_registration
from services.tax.convert.supplies import parse_supply, render_determination
from services.tax.determination import determine
from services.tax.model import Seller
from services.tax.reporting import Determined
from services.tax.rulebook_files import load_rulebook
from tollkeeper.api.tax.v1 import tax_pb2
from tollkeeper.api.tax.v1 import tax_service_pb2 as messages
from tollkeeper.api.tax.v1.tax_service_pb2_grpc import TaxServiceStub

_TENANT = "bench"
_CASE_S = 3.0
_INVOICES = 100
_LINES = 10
_CONVERSIONS = 1_000
_DAYS = 10
_DAY = date(2026, 10, 30)
_BATCH_CALLERS = 4
_CONVERTING_CALLERS = 64
_START = Date(year=2020, month=1, day=1)
_REGISTRATIONS = (
    tax_pb2.Registration(
        registration_id="seat",
        country="US",
        region="CA",
        scheme=tax_pb2.REGISTRATION_SCHEME_DOMESTIC,
        number="102-123456",
        established=True,
        start_date=_START,
    ),
    tax_pb2.Registration(
        registration_id="oss",
        country="IE",
        scheme=tax_pb2.REGISTRATION_SCHEME_NON_UNION_OSS,
        number="EU372022452",
        start_date=_START,
    ),
    tax_pb2.Registration(
        registration_id="canada",
        country="CA",
        scheme=tax_pb2.REGISTRATION_SCHEME_SIMPLIFIED,
        number="9999-00001",
        start_date=_START,
    ),
)
_BUYERS = (
    ("FR", "", "", "EUR"),
    ("DE", "", "DE136695976", "EUR"),
    ("US", "CA", "", "USD"),
    ("CH", "", "", "CHF"),
    ("JP", "", "", "JPY"),
    ("CA", "ON", "", "CAD"),
)


def run(arguments: list[str]) -> dict[str, Any]:
    """Measure, and answer the figures."""
    argparse.ArgumentParser(prog="python -m bench tax", description=__doc__).parse_args(arguments)
    pure, wire = _measure_core()
    with running("tax") as rig, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        over_grpc = runner.run(_measure_service(rig))
        peak_mb = rig.peak_memory_mb()
    return {
        **over_grpc,
        "pure_lines_per_s": pure,
        "wire_lines_per_s": wire,
        "lines_per_invoice": _LINES,
        "invoices_per_batch": _INVOICES,
        "service_peak_mb": peak_mb,
    }


def _requests() -> list[messages.DetermineTaxRequest]:
    buyers = itertools.islice(itertools.cycle(_BUYERS), _INVOICES)
    return [_request(*buyer) for buyer in buyers]


def _request(country: str, region: str, vat_id: str, currency: str) -> messages.DetermineTaxRequest:
    request = messages.DetermineTaxRequest(
        supply_date=Date(year=_DAY.year, month=_DAY.month, day=_DAY.day)
    )
    request.buyer.address.country = country
    request.buyer.address.region = region
    request.buyer.kind = tax_pb2.BUYER_KIND_CONSUMER
    if vat_id:
        request.buyer.kind = tax_pb2.BUYER_KIND_BUSINESS
        request.buyer.tax_ids.add(country=country, number=vat_id)
    for number in range(_LINES):
        amount = MoneyMessage(currency_code=currency, units=17 * number + 3)
        request.lines.add(line_id=str(number), amount=amount)
    return request


def _measure_core() -> tuple[int, int]:
    book = load_rulebook()
    seller = Seller(tuple(parse_registration(each, "registration") for each in _REGISTRATIONS))
    requests = _requests()
    supplies = [parse_supply(request) for request in requests]

    def through_core() -> None:
        for supply in supplies:
            determine(seller, supply, book)

    def through_wire() -> None:
        for request in requests:
            determined = determine(seller, parse_supply(request), book)
            render_determination(Determined(determined)).SerializeToString()

    return _rate(through_core), _rate(through_wire)


def _rate(once: Callable[[], None]) -> int:
    once()
    rounds = 0
    started_s = time.perf_counter()
    while time.perf_counter() - started_s < _CASE_S:
        once()
        rounds += 1
    return round(rounds * _INVOICES * _LINES / (time.perf_counter() - started_s))


async def _measure_service(rig: Rig) -> dict[str, Any]:
    metadata = rig.metadata(_TENANT, "tax.read", "tax.write")
    batch = messages.BatchDetermineTaxRequest(requests=_requests())
    conversions = [
        messages.ConvertMoneyRequest(
            amount=DecimalMessage(value=f"{number}.5678"),
            base_currency="USD",
            quote_currency="JPY",
            date=Date(year=_DAY.year, month=_DAY.month, day=1 + number % _DAYS),
        )
        for number in range(_CONVERSIONS)
    ]
    many = messages.BatchConvertRequest(requests=conversions)
    async with open_channel(rig.address) as channel:
        stub = TaxServiceStub(channel)
        for registration in _REGISTRATIONS:
            put = messages.PutRegistrationRequest(
                request_id=registration.registration_id, registration=registration
            )
            await stub.PutRegistration(put, metadata=metadata)
        answer = await stub.BatchDetermineTax(batch, metadata=metadata)
        failed = [each.error.message for each in answer.results if each.HasField("error")]
        assert not failed, failed
        batches = await _calls_per_s(
            lambda: stub.BatchDetermineTax(batch, metadata=metadata), _BATCH_CALLERS
        )
        converted = await _calls_per_s(
            lambda: stub.BatchConvert(many, metadata=metadata), _BATCH_CALLERS
        )
        single = await _calls_per_s(
            lambda: stub.ConvertMoney(conversions[0], metadata=metadata), _CONVERTING_CALLERS
        )
    return {
        "lines_per_s": round(batches * _INVOICES * _LINES),
        "conversions_per_s": round(converted * _CONVERSIONS),
        "single_conversions_per_s": round(single),
    }


async def _calls_per_s(call: Callable[[], Awaitable[object]], callers: int) -> float:
    calls = 0
    started_s = time.perf_counter()

    async def call_in_turn() -> None:
        nonlocal calls
        while time.perf_counter() - started_s < _CASE_S:
            await call()
            calls += 1

    await asyncio.gather(*(call_in_turn() for _ in range(callers)))
    return calls / (time.perf_counter() - started_s)
