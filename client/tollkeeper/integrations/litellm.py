"""The gate inside the LiteLLM proxy: name an instance under `litellm_settings: callbacks`.

    from tollkeeper.integrations.litellm import TollkeeperLogger

    tollkeeper = TollkeeperLogger.from_environment()

One logical call, with all its retries and fallbacks, has one hold and makes one usage event. The
hold is taken before the first provider is asked. It is committed when LiteLLM has logged the
answer, streamed or not, or gives up a stream that has delivered something; it is given back when
the call has failed without that. A call whose end LiteLLM never tells is booked at what it held.

It asks the gate of the call types in `GATED_CALLS`. What other calls of a key used, and what ran
without a hold, is booked and reported all the same.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal, Self, get_args

import litellm
from fastapi import HTTPException
from litellm.integrations.custom_logger import CustomLogger

from tollkeeper import (
    Hold,
    QuotaDenied,
    Reservation,
    SpoolUnusable,
    Tollkeeper,
    TollkeeperError,
    denial_headers,
    rate_limit_headers,
)
from tollkeeper.api.quota.v1.quota_service_pb2 import ReserveRequest
from tollkeeper.api.type.v1.subject_pb2 import Subject
from tollkeeper.client import METER_ADDRESS_DEFAULT, QUOTA_ADDRESS_DEFAULT
from tollkeeper.integrations.litellm_mapping import (
    GATED_CALLS,
    STREAMED_CALLS,
    Identity,
    SubjectPath,
    dimensions_of,
    facts_of_key,
    facts_of_log,
    is_of_a_caller,
    output_tokens_bound,
    prompt_text,
    quantities_of,
)
from tollkeeper.subject_ids import subject_id

WhenUnavailable = Literal["open", "closed"]

TTL_DEFAULT = timedelta(minutes=10)
OUTPUT_TOKENS_DEFAULT = 1000
CHARACTERS_PER_TOKEN = 4
COUNTED_CALLS_MAX = 100_000
WORKERS_MAX = 64

logger = logging.getLogger("tollkeeper")


@dataclass(slots=True)
class _Call:
    """A call that LiteLLM has begun and not ended."""

    event_id: str
    path: SubjectPath
    dimensions: dict[str, str]
    forgotten_at: float = 0.0
    reservation: Reservation | None = None
    hold: Hold | None = None


class TollkeeperLogger(CustomLogger):  # type: ignore[misc]  # LiteLLM is not installed with the client.
    """Holds before each call of the proxy, books after it, and reports what it used.

    Args:
        open_client: makes the client of this process, with the folder of its spool if it has one.
        spool: folder in which usage events wait for the meter, so that they survive the process;
            each worker process of the proxy takes a folder of its own inside it.
        identity: who pays for a call, and on whose behalf it runs.
        when_unavailable: whether calls pass when the gate cannot decide: `open` lets them pass and
            books them afterwards, `closed` answers 503.
        output_tokens_default: what is held for the answer of a call that sets no bound itself.
        ttl: how long a hold lives when the proxy never tells the end of its call.
    """

    def __init__(
        self,
        open_client: Callable[[Path | None], Tollkeeper],
        *,
        spool: Path | None = None,
        identity: Identity | None = None,
        when_unavailable: WhenUnavailable = "open",
        output_tokens_default: int = OUTPUT_TOKENS_DEFAULT,
        ttl: timedelta = TTL_DEFAULT,
    ) -> None:
        super().__init__()
        self._open_client = open_client
        self._spool = spool
        self._identity = identity or Identity()
        self._when_unavailable = when_unavailable
        self._output_tokens_default = output_tokens_default
        self._ttl = ttl
        self._client: Tollkeeper | None = None
        self._connecting = asyncio.Lock()
        # A caller may choose its call id, so several calls may share one.
        self._open: dict[str, list[_Call]] = {}
        self._counted: dict[str, None] = {}

    @classmethod
    def from_environment(cls, **options: Any) -> Self:  # noqa: ANN401 - those of the class.
        """Make the callback from TOLLKEEPER_* variables; options are those of the class and win.

        TOLLKEEPER_TOKEN is required. TOLLKEEPER_QUOTA_ADDRESS, TOLLKEEPER_METER_ADDRESS,
        TOLLKEEPER_SPOOL and TOLLKEEPER_WHEN_UNAVAILABLE have defaults.

        Raises:
            TollkeeperError: there is no token, or a variable has no such value.
        """
        token = os.environ.get("TOLLKEEPER_TOKEN", "")
        if not token:
            raise TollkeeperError("TOLLKEEPER_TOKEN is not set")
        policy = os.environ.get("TOLLKEEPER_WHEN_UNAVAILABLE", "open")
        if policy not in get_args(WhenUnavailable):
            raise TollkeeperError(f"TOLLKEEPER_WHEN_UNAVAILABLE is {policy!r}, not open or closed")
        spool = os.environ.get("TOLLKEEPER_SPOOL", "")

        def open_client(spool: Path | None) -> Tollkeeper:
            return Tollkeeper(
                token=token,
                quota=os.environ.get("TOLLKEEPER_QUOTA_ADDRESS", QUOTA_ADDRESS_DEFAULT),
                meter=os.environ.get("TOLLKEEPER_METER_ADDRESS", METER_ADDRESS_DEFAULT),
                source="litellm",
                spool=spool,
            )

        defaults = {"spool": Path(spool) if spool else None, "when_unavailable": policy}
        return cls(open_client, **{**defaults, **options})

    async def async_pre_call_hook(
        self,
        user_api_key_dict: object,
        cache: object,  # noqa: ARG002 - LiteLLM passes it by this name.
        data: dict[str, Any],
        call_type: str,
    ) -> None:
        """Hold what the call may use, or refuse it.

        Raises:
            HTTPException: 429 when a limit has no room; 503 when the gate cannot decide and calls
                do not pass then.
        """
        if call_type not in GATED_CALLS:
            return
        call_id = data["litellm_call_id"]
        call = _Call(
            _event_id(call_id),
            self._identity.path(facts_of_key(user_api_key_dict)),
            dimensions_of(data.get("model")),
            time.monotonic() + self._ttl.total_seconds(),
        )
        bound = output_tokens_bound(call_type, data, self._output_tokens_default)
        grows = bool(data.get("stream")) and call_type in STREAMED_CALLS
        amounts = {
            "requests": 1,
            "input_tokens": await asyncio.to_thread(_count_input_tokens, data),
        }
        output = {"output_tokens": bound}
        try:
            if grows:
                await self._reserve(call, amounts, estimates=output)
            else:
                await self._reserve(call, {**amounts, **output}, estimates={})
        except QuotaDenied as denied:
            raise HTTPException(
                status_code=429,
                detail={"error": str(denied), "limit_id": denied.limit.limit_id},
                headers=denial_headers(denied, datetime.now(UTC)),
            ) from None
        except TollkeeperError as error:
            logger.warning("the gate did not decide (%s): %s", self._when_unavailable, error)
            if not self._passes:
                raise HTTPException(
                    status_code=503,
                    detail={"error": "the quota gate gave no answer"},
                    headers={"Retry-After": "1"},
                ) from None
        self._remember(call_id, call)

    async def async_post_call_response_headers_hook(
        self,
        data: dict[str, Any],
        user_api_key_dict: object,  # noqa: ARG002 - LiteLLM passes it by this name.
        response: object,  # noqa: ARG002 - as above.
        request_headers: object = None,  # noqa: ARG002 - as above.
        litellm_call_info: object = None,  # noqa: ARG002 - as above.
    ) -> dict[str, str]:
        """Tell the caller in the headers how its limits stand."""
        calls = self._open.get(data.get("litellm_call_id", ""))
        hold = calls[-1].hold if calls else None
        return rate_limit_headers(hold.limits, datetime.now(UTC)) if hold else {}

    async def async_post_call_streaming_iterator_hook(
        self,
        user_api_key_dict: object,  # noqa: ARG002 - LiteLLM passes it by this name.
        response: AsyncIterator[Any],
        request_data: dict[str, Any],
    ) -> AsyncIterator[Any]:
        """Pass a stream on, and let its hold grow with it; a part of it is about a token."""
        calls = self._open.get(request_data.get("litellm_call_id", ""))
        hold = calls[-1].hold if calls else None
        streamed = 0
        async for part in response:
            streamed += 1
            if hold is not None and hold.max_amounts:
                hold.used_so_far(output_tokens=streamed)
            yield part

    async def async_log_success_event(
        self,
        kwargs: dict[str, Any],
        response_obj: object,  # noqa: ARG002 - LiteLLM passes it by this name.
        start_time: object,  # noqa: ARG002 - as above.
        end_time: object,  # noqa: ARG002 - as above.
    ) -> None:
        """Book and report what an answer used, also that of a stream whose caller hung up."""
        log = kwargs.get("standard_logging_object")
        if log is None:
            return
        # What LiteLLM answers out of its own cache costs no tokens.
        usage = None if log.get("cache_hit") else log["metadata"].get("usage_object")
        await self._settle(log["litellm_call_id"] or log["id"], quantities_of(usage), log)

    async def async_post_call_failure_hook(
        self,
        request_data: dict[str, Any],
        original_exception: Exception,  # noqa: ARG002 - LiteLLM passes it by this name.
        user_api_key_dict: object,  # noqa: ARG002 - as above.
        traceback_str: str | None = None,  # noqa: ARG002 - as above.
    ) -> None:
        """Give the hold of a call back that has failed, or book what its stream had delivered."""
        call_id = request_data.get("litellm_call_id", "")
        # LiteLLM guesses the input tokens of any failure; output tokens it has seen.
        used = quantities_of(request_data.get("combined_usage_object"))
        if "output_tokens" in used:
            await self._settle(call_id, used, request_data.get("standard_logging_object") or {})
            return
        call = self._forget(call_id)
        if call is not None and call.reservation is not None:
            await _leave(call_id, call.reservation)

    @property
    def _passes(self) -> bool:
        return self._when_unavailable == "open"

    async def _reserve(
        self, call: _Call, amounts: Mapping[str, int], *, estimates: Mapping[str, int]
    ) -> None:
        client = await self._connect()
        path = call.path
        reservation = client.reserve(
            path.customer,
            amounts,
            project=path.project,
            user=path.user,
            key=path.key,
            run=path.run,
            dimensions=call.dimensions,
            ttl=self._ttl,
            estimates=estimates,
            route="litellm",
        )
        call.hold = await reservation.__aenter__()
        call.reservation = reservation
        # LiteLLM asks the provider next, and need not wait until the gate has heard of it.
        client.begin(_mark_dispatched(call.hold))

    async def _settle(self, call_id: str, used: dict[str, int], log: Mapping[str, Any]) -> None:
        """Book and report a call, once; without a hold where there is none."""
        call = self._forget(call_id) or self._call_without_a_hold(call_id, used, log)
        if call is None:
            return
        self._counted[call_id] = None
        if len(self._counted) > COUNTED_CALLS_MAX:
            del self._counted[next(iter(self._counted))]
        served = dimensions_of(log.get("model_group"), log.get("custom_llm_provider"))
        if call.hold is not None and call.reservation is not None:
            call.hold.commit(used, event_id=call.event_id, dimensions=served)
            await _leave(call_id, call.reservation)
        else:
            await self._book_without_a_hold(call, used, served)

    def _call_without_a_hold(
        self, call_id: str, used: Mapping[str, int], log: Mapping[str, Any]
    ) -> _Call | None:
        """Return a call that was not held as its log tells it.

        None when it is nobody's, used nothing, or was counted when its stream failed.
        """
        facts = facts_of_log(log.get("metadata") or {})
        if log.get("call_type") in GATED_CALLS:
            is_usage = call_id not in self._counted
        else:
            is_usage = used.keys() > {"requests"}
        if not (is_usage and is_of_a_caller(facts)):
            return None
        path, model = self._identity.path(facts), log.get("model_group")
        return _Call(_event_id(call_id), path, dimensions_of(model))

    async def _book_without_a_hold(
        self, call: _Call, used: Mapping[str, int], served: Mapping[str, str]
    ) -> None:
        path = call.path
        subject = Subject(
            customer_id=path.customer,
            project_id=path.project,
            user_id=path.user,
            key_id=path.key,
            run_id=path.run,
        )
        request_id = call.event_id
        request = ReserveRequest(request_id=request_id, subject=subject, dimensions=call.dimensions)
        hold = Hold("", {}, datetime.now(UTC), (), request)
        hold.commit(used, event_id=request_id, dimensions=served)
        try:
            client = await self._connect()
            await asyncio.shield(client.settle(hold))
        except TollkeeperError as error:
            logger.warning("call %s is not booked: %s", request_id, error)

    def _remember(self, call_id: str, call: _Call) -> None:
        """Keep a call until it ends, and drop those whose holds have expired."""
        now = time.monotonic()
        for oldest in tuple(self._open):
            if self._open[oldest][-1].forgotten_at > now:
                break
            del self._open[oldest]
        calls = self._open.pop(call_id, [])
        self._open[call_id] = [*calls, call]

    def _forget(self, call_id: str) -> _Call | None:
        """Return a call that has ended, and keep it no longer."""
        calls = self._open.get(call_id)
        if not calls:
            return None
        call = calls.pop(0)
        if not calls:
            del self._open[call_id]
        return call

    async def _connect(self) -> Tollkeeper:
        """Return the client, which lives as long as the process."""
        async with self._connecting:
            if self._client is None:
                self._client = await self._open_in_a_free_spool()
            return self._client

    async def _open_in_a_free_spool(self) -> Tollkeeper:
        if self._spool is None:
            return await self._open_client(None).__aenter__()
        for number in range(WORKERS_MAX):
            try:
                return await self._open_client(self._spool / f"worker-{number}").__aenter__()
            except SpoolUnusable as error:
                problem = error
        raise problem


def _event_id(call_id: str) -> str:
    """Return an identity that starts as the call id does, and that no caller can choose."""
    return f"{subject_id(call_id)}.{secrets.token_hex(8)}"


async def _mark_dispatched(hold: Hold) -> None:
    try:
        await hold.mark_dispatched()
    except TollkeeperError as error:
        logger.warning("hold %s is not marked: %s", hold.reservation_id, error)


async def _leave(call_id: str, reservation: Reservation) -> None:
    """Settle a hold: book what was committed, or give it back."""
    try:
        await reservation.__aexit__(None, None, None)
    except TollkeeperError as error:
        logger.warning("call %s is not settled: %s", call_id, error)


def _count_input_tokens(request: Mapping[str, Any]) -> int:
    """Return about how many tokens a request has; exactness comes with the commit."""
    messages, text = request.get("messages"), prompt_text(request)
    try:
        count = litellm.token_counter(request.get("model"), text=text) if text else 0
        if messages:
            count += litellm.token_counter(
                request.get("model"),
                messages=messages,
                tools=request.get("tools"),
                use_default_image_token_count=True,
            )
    except Exception:  # noqa: BLE001 - a request that cannot be counted is for the model to refuse.
        return len(f"{messages}{text}") // CHARACTERS_PER_TOKEN
    return int(count)
