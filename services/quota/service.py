"""The quota service on the wire: each method parses, calls and renders."""

from collections.abc import AsyncGenerator, AsyncIterator
from datetime import datetime
from typing import Any

import grpc.aio

from kit.clock import Clock
from kit.idempotency import Once, fingerprint
from kit.ids import parse_id
from kit.paging import page_size
from kit.rpc.auth import caller
from services.quota.convert.answers import (
    WrittenMessage,
    render_balances,
    render_check,
    render_commit,
    render_extend,
    render_mark_dispatched,
    render_record,
    render_release,
    render_reserve,
)
from services.quota.convert.audits import (
    parse_audit,
    parse_rebuild,
    render_audit,
    render_rebuilt,
)
from services.quota.convert.calls import (
    parse_check,
    parse_commit,
    parse_extend,
    parse_get_balances,
    parse_mark_dispatched,
    parse_record,
    parse_release,
    parse_reserve,
)
from services.quota.convert.inspection import (
    parse_explain_decision,
    parse_list_reservations,
    render_explanation,
    render_reservations,
)
from services.quota.convert.limits import (
    parse_customer,
    parse_delete_limit,
    parse_list_alerts,
    parse_put_limit,
    parse_top_up,
    render_alerts,
    render_limit,
    render_limits,
    render_put_limit,
    render_top_up,
)
from services.quota.sessions import Session
from services.quota.usecases import CounterUseCases, Gate, HoldUseCases, LimitUseCases
from tollkeeper.api.quota.v1 import quota_service_pb2 as wire

Context = grpc.aio.ServicerContext[Any, Any]


class QuotaService:
    """Serves `tollkeeper.api.quota.v1.QuotaService`."""

    def __init__(
        self,
        gate: Gate,
        holds: HoldUseCases,
        limits: LimitUseCases,
        counters: CounterUseCases,
        clock: Clock,
    ) -> None:
        self._gate = gate
        self._holds = holds
        self._limits = limits
        self._counters = counters
        self._clock = clock
        self._sessions: set[Session] = set()

    async def Check(self, request: wire.CheckRequest, context: Context) -> WrittenMessage:
        answer = await self._gate.decide(caller(context).tenant, parse_check(request))
        return WrittenMessage(render_check(answer))

    async def Reserve(self, request: wire.ReserveRequest, context: Context) -> WrittenMessage:
        call = parse_reserve(request)
        answer = await self._gate.decide(caller(context).tenant, call)
        return WrittenMessage(render_reserve(answer, call))

    async def Extend(self, request: wire.ExtendRequest, context: Context) -> WrittenMessage:
        call = parse_extend(request)
        answer = await self._gate.decide(caller(context).tenant, call)
        return WrittenMessage(render_extend(answer, call))

    async def MarkDispatched(
        self, request: wire.MarkDispatchedRequest, context: Context
    ) -> WrittenMessage:
        answer = await self._gate.decide(caller(context).tenant, parse_mark_dispatched(request))
        return WrittenMessage(render_mark_dispatched(answer))

    async def Record(self, request: wire.RecordRequest, context: Context) -> WrittenMessage:
        answer = await self._gate.decide(caller(context).tenant, parse_record(request))
        return WrittenMessage(render_record(answer))

    async def Commit(self, request: wire.CommitRequest, context: Context) -> WrittenMessage:
        answer = await self._gate.decide(caller(context).tenant, parse_commit(request))
        return WrittenMessage(render_commit(answer))

    async def Release(self, request: wire.ReleaseRequest, context: Context) -> WrittenMessage:
        answer = await self._gate.decide(caller(context).tenant, parse_release(request))
        return WrittenMessage(render_release(answer))

    async def Session(
        self, requests: AsyncIterator[wire.SessionRequest], context: Context
    ) -> AsyncGenerator[WrittenMessage, None]:
        tenant = caller(context).tenant
        await self._gate.open(tenant)
        session = Session(self._gate, tenant)
        self._sessions.add(session)
        try:
            async for response in session.answers(requests):
                yield response
        finally:
            self._sessions.discard(session)

    async def GetBalances(
        self, request: wire.GetBalancesRequest, context: Context
    ) -> WrittenMessage:
        answer = await self._gate.show(caller(context).tenant, parse_get_balances(request))
        return WrittenMessage(render_balances(answer))

    async def ListReservations(
        self, request: wire.ListReservationsRequest, context: Context
    ) -> wire.ListReservationsResponse:
        customer, limit_id = parse_list_reservations(request)
        page = await self._holds.list_reservations(
            caller(context).tenant,
            customer,
            limit_id,
            request.page_token,
            page_size(request.page_size),
        )
        return render_reservations(page)

    async def ExplainDecision(
        self, request: wire.ExplainDecisionRequest, context: Context
    ) -> wire.ExplainDecisionResponse:
        customer, request_id = parse_explain_decision(request)
        answer, holders = await self._holds.explain_decision(
            caller(context).tenant, customer, request_id
        )
        return render_explanation(answer, holders)

    async def GetCounterAudit(
        self, request: wire.GetCounterAuditRequest, context: Context
    ) -> wire.GetCounterAuditResponse:
        return render_audit(
            await self._counters.audit(caller(context).tenant, parse_audit(request))
        )

    async def RebuildCounters(
        self, request: wire.RebuildCountersRequest, context: Context
    ) -> wire.RebuildCountersResponse:
        customer = parse_rebuild(request)
        once = Once(
            request.request_id,
            "RebuildCounters",
            fingerprint(request),
            wire.RebuildCountersResponse,
            render_rebuilt,
            self._now(),
        )
        return await self._counters.rebuild(caller(context).tenant, customer, once)

    async def PutLimit(
        self, request: wire.PutLimitRequest, context: Context
    ) -> wire.PutLimitResponse:
        limit = parse_put_limit(request)
        once = Once(
            request.request_id,
            "PutLimit",
            fingerprint(request),
            wire.PutLimitResponse,
            render_put_limit,
            self._now(),
        )
        return await self._limits.put_limit(caller(context).tenant, limit, once)

    async def TopUpLimit(
        self, request: wire.TopUpLimitRequest, context: Context
    ) -> wire.TopUpLimitResponse:
        limit_id, quantity = parse_top_up(request)
        once = Once(
            request.request_id,
            "TopUpLimit",
            fingerprint(request),
            wire.TopUpLimitResponse,
            render_top_up,
            self._now(),
        )
        return await self._limits.top_up_limit(caller(context).tenant, limit_id, quantity, once)

    async def GetLimit(
        self, request: wire.GetLimitRequest, context: Context
    ) -> wire.GetLimitResponse:
        limit_id = parse_id(request.limit_id, "limit_id")
        stored = await self._limits.get_limit(caller(context).tenant, limit_id)
        return wire.GetLimitResponse(limit=render_limit(stored))

    async def ListLimits(
        self, request: wire.ListLimitsRequest, context: Context
    ) -> wire.ListLimitsResponse:
        page = await self._limits.list_limits(
            caller(context).tenant,
            parse_customer(request.customer_id),
            request.page_token,
            page_size(request.page_size),
        )
        return render_limits(page)

    async def ListAlerts(
        self, request: wire.ListAlertsRequest, context: Context
    ) -> wire.ListAlertsResponse:
        customer, after = parse_list_alerts(request)
        page = await self._limits.list_alerts(
            caller(context).tenant,
            customer,
            after,
            request.page_token,
            page_size(request.page_size),
        )
        return render_alerts(page)

    async def DeleteLimit(
        self, request: wire.DeleteLimitRequest, context: Context
    ) -> wire.DeleteLimitResponse:
        limit_id = parse_delete_limit(request)
        once = Once(
            request.request_id,
            "DeleteLimit",
            fingerprint(request),
            wire.DeleteLimitResponse,
            _render_deleted,
            self._now(),
        )
        return await self._limits.delete_limit(caller(context).tenant, limit_id, once)

    def drain(self) -> None:
        """Let every session end as soon as its calls are answered."""
        for session in self._sessions:
            session.drain()

    def _now(self) -> datetime:
        return self._clock.now()


def _render_deleted(_: None) -> wire.DeleteLimitResponse:
    return wire.DeleteLimitResponse()
