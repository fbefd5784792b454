"""Usage by HTTP: CloudEvents in every mode, and OpenTelemetry's exports, with the rules of gRPC.

Answers follow the commit. Errors are problem details (RFC 9457) with the reason of `errors.proto`
and every bad field.
"""

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from functools import partial
from http import HTTPStatus
from math import ceil
from typing import Any
from urllib.parse import unquote

from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from kit import telemetry
from kit.errors import (
    Denied,
    DomainError,
    Exhausted,
    InvalidInput,
    NotFound,
    Unauthenticated,
    Unavailable,
    Violation,
)
from kit.rpc.auth import Admission, Caller, TokenVerifier
from services.meter.convert.events import check_event_count
from services.meter.convert.exact_json import NotJson
from services.meter.model import Fate, Outcome
from services.meter.sources import otlp_json
from services.meter.sources.bodies import Bodies, UnsupportedFormat, read_object
from services.meter.sources.cloudevents import (
    Given,
    draft_of,
    given_batch,
    given_binary,
    given_structured,
)
from services.meter.sources.intake import Intake, draft_all
from services.meter.sources.otlp_service import SpanTaker

PATH = "/v1/events"
TRACES_PATH = "/v1/traces"
SCOPE = "meter.ingest"

_STRUCTURED = "application/cloudevents+json"
_BATCH = "application/cloudevents-batch+json"
_PROTOBUF = "application/x-protobuf"
_JSON = "application/json"
_ATTRIBUTE_PREFIX = "ce-"
_STATUSES: Mapping[type[DomainError], HTTPStatus] = {
    InvalidInput: HTTPStatus.BAD_REQUEST,
    Unauthenticated: HTTPStatus.UNAUTHORIZED,
    Denied: HTTPStatus.FORBIDDEN,
    NotFound: HTTPStatus.NOT_FOUND,
    Exhausted: HTTPStatus.TOO_MANY_REQUESTS,
    Unavailable: HTTPStatus.SERVICE_UNAVAILABLE,
}
_REASON_STATUSES = {"PAYLOAD_TOO_LARGE": HTTPStatus.REQUEST_ENTITY_TOO_LARGE}
_OUTCOME_STATUSES = {
    Outcome.CONFLICT: HTTPStatus.CONFLICT,
    Outcome.REJECTED: HTTPStatus.BAD_REQUEST,
}


class HttpFront:
    """Answers HTTP requests; `app` is the ASGI application."""

    def __init__(
        self,
        intake: Intake,
        spans: SpanTaker,
        verifier: TokenVerifier,
        *,
        nameless: Caller | None,
        body_bytes_max: int,
        deadline_s: float,
    ) -> None:
        self._intake = intake
        self._spans = spans
        self._verifier = verifier
        self._nameless = None if nameless is None else Admission(nameless)
        self._bodies = Bodies(body_bytes_max)
        self._deadline_s = deadline_s
        self.app = Starlette(
            routes=[
                Route(PATH, partial(self._post, self._take_events), methods=["POST"]),
                Route(TRACES_PATH, partial(self._post, self._take_spans), methods=["POST"]),
            ],
            exception_handlers={HTTPException: _refused_by_the_router},
        )

    async def _post(
        self, take: Callable[[Request], Awaitable[Response]], request: Request
    ) -> Response:
        try:
            async with asyncio.timeout(self._deadline_s):
                return await take(request)
        except TimeoutError:
            return _problem(
                HTTPStatus.GATEWAY_TIMEOUT, "DEADLINE_EXCEEDED", "the call did not end in time"
            )
        except ClientDisconnect:
            return Response(status_code=HTTPStatus.BAD_REQUEST)
        except DomainError as error:
            return _render_error(error)
        except Exception as error:  # noqa: BLE001 - rendered without a word of it, and logged.
            trace_id = telemetry.trace_id() or secrets.token_hex(16)
            telemetry.get_logger().error("call.failed", trace_id=trace_id, exc_info=error)
            return _problem(
                HTTPStatus.INTERNAL_SERVER_ERROR, "INTERNAL", f"internal error {trace_id}"
            )

    async def _take_spans(self, request: Request) -> Response:
        """Take an export in one of OTLP's formats, and answer in it."""
        admission = self._admit(request)
        content_type = _content_type(request)
        if content_type not in {_PROTOBUF, _JSON}:
            raise UnsupportedFormat.of("content-type", f"must be {_PROTOBUF} or {_JSON}")
        async with self._bodies.read(request) as body:
            is_json = content_type == _JSON
            export = await otlp_json.read_export(body) if is_json else _binary_export(body)
            answer = await self._spans.take(admission.caller.tenant, export)
        if is_json:
            return JSONResponse(otlp_json.written_answer(answer))
        return Response(answer.SerializeToString(), media_type=_PROTOBUF)

    def _admit(self, request: Request) -> Admission:
        authorization = request.headers.get("authorization")
        return self._verifier.admit_call(authorization, SCOPE, self._nameless)

    async def _take_events(self, request: Request) -> Response:
        admission = self._admit(request)
        content_type = _content_type(request)
        _check_format(request, content_type)
        async with self._bodies.read(request) as body:
            if content_type == _BATCH:
                given = _batch(body)
                check_event_count(len(given))
            elif content_type == _STRUCTURED:
                given = [given_structured(read_object(body))]
            else:
                given = [given_binary(_attributes(request), body)]
            drafts = await draft_all(given, draft_of)
            fates = await self._intake.store(admission.caller.tenant, drafts)
        return _render_batch(fates) if content_type == _BATCH else _render_one(fates[0])


def _binary_export(body: bytes) -> ExportTraceServiceRequest:
    try:
        return ExportTraceServiceRequest.FromString(body)
    except DecodeError as error:
        raise InvalidInput.of("body", "is no ExportTraceServiceRequest") from error


def _content_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def _check_format(request: Request, content_type: str) -> None:
    if content_type in {_STRUCTURED, _BATCH}:
        return
    if content_type.startswith("application/cloudevents"):
        raise UnsupportedFormat.of("content-type", f"must be {_STRUCTURED} or {_BATCH}")
    if f"{_ATTRIBUTE_PREFIX}id" not in request.headers and content_type != _JSON:
        text = f"must be {_STRUCTURED}, {_BATCH}, or JSON with the headers ce-id, ce-source, …"
        raise UnsupportedFormat.of("content-type", text)


def _attributes(request: Request) -> dict[str, str]:
    """Answer the attributes in headers, which are percent-encoded (HTTP binding, 3.1.3.2)."""
    attributes = {
        name.removeprefix(_ATTRIBUTE_PREFIX): unquote(value, errors="surrogateescape")
        for name, value in request.headers.items()
        if name.startswith(_ATTRIBUTE_PREFIX)
    }
    return {"datacontenttype": request.headers.get("content-type", ""), **attributes}


def _batch(body: bytes) -> list[Given]:
    try:
        return list(given_batch(body))
    except NotJson as error:
        raise InvalidInput.of("body", str(error)) from error


def _render_one(fate: Fate) -> Response:
    if not fate.violations:
        return JSONResponse({"outcome": fate.outcome.value})
    first = fate.violations[0]
    return _problem(
        _OUTCOME_STATUSES[fate.outcome],
        fate.outcome.value,
        f"{first.field}: {first.description}",
        violations=fate.violations,
    )


def _render_batch(fates: Sequence[Fate]) -> Response:
    problems = [
        {
            "index": index,
            "outcome": fate.outcome.value,
            "violations": _violations(
                Violation(f"events[{index}].{each.field}".rstrip("."), each.description)
                for each in fate.violations
            ),
        }
        for index, fate in enumerate(fates)
        if fate.violations
    ]
    answer = {"outcomes": [fate.outcome.value for fate in fates], "problems": problems}
    return JSONResponse(answer, HTTPStatus.MULTI_STATUS if problems else HTTPStatus.OK)


def _violations(violations: Iterable[Violation]) -> list[dict[str, str]]:
    return [{"field": each.field, "description": each.description} for each in violations]


def _render_error(error: DomainError) -> Response:
    status = _REASON_STATUSES.get(error.reason)
    if isinstance(error, UnsupportedFormat):
        status = HTTPStatus.UNSUPPORTED_MEDIA_TYPE
    if status is None:
        status = next(code for kind, code in _STATUSES.items() if isinstance(error, kind))
    headers = {}
    if error.retry_after is not None:
        headers["Retry-After"] = str(max(1, ceil(error.retry_after.total_seconds())))
    if isinstance(error, Unauthenticated):
        headers["WWW-Authenticate"] = "Bearer"
    return _problem(
        status, error.reason, error.message, violations=error.violations, headers=headers
    )


def _problem(
    status: HTTPStatus,
    reason: str,
    detail: str,
    *,
    violations: Sequence[Violation] = (),
    headers: Mapping[str, str] | None = None,
) -> Response:
    members: dict[str, Any] = {
        "title": status.phrase,
        "status": int(status),
        "reason": reason,
        "detail": detail,
    }
    if violations:
        members["violations"] = _violations(violations)
    return JSONResponse(members, status, headers, media_type="application/problem+json")


async def _refused_by_the_router(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    status = HTTPStatus(error.status_code)
    detail = f"events are sent with POST {PATH}, spans with POST {TRACES_PATH}"
    return _problem(status, status.name, detail, headers=error.headers)
