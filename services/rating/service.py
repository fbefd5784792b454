"""The RPCs of rating: each is parse, call, render. Refuses to hold any rule of its own."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

import grpc.aio

from kit.clock import Clock
from kit.errors import DomainError
from kit.idempotency import Once, fingerprint
from kit.paging import page_size
from kit.rpc.auth import caller
from kit.rpc.status import render_status
from services.rating.convert.answers import (
    parse_estimate_cost,
    parse_explain_line,
    parse_get_rate_card,
    render_estimate,
    render_explanation,
    render_rate_card,
)
from services.rating.convert.costs import (
    parse_explain_event_cost,
    parse_get_provider_cost,
    parse_list_provider_costs,
    parse_put_provider_costs,
    render_event_cost,
    render_provider_cost,
    render_provider_costs,
    render_put_provider_costs,
)
from services.rating.convert.margins import (
    parse_get_margins,
    parse_report_margins,
    render_margin_alerts,
    render_margins,
    render_report_margins,
)
from services.rating.convert.plans import (
    parse_archive_plan,
    parse_get_plan,
    parse_put_plan,
    render_archive_plan,
    render_plan,
    render_plans,
    render_put_plan,
)
from services.rating.convert.ratings import parse_batch_rate, parse_rate, render_rating
from services.rating.convert.simulations import parse_simulate, render_step_of_simulation
from services.rating.cost_usecases import ProviderCostUseCases
from services.rating.explaining import find_line
from services.rating.margin_usecases import MarginUseCases
from services.rating.model import Rating
from services.rating.simulating import Simulating
from services.rating.usecases import RatingUseCases
from tollkeeper.api.rating.v1 import rating_service_pb2 as messages
from tollkeeper.api.rating.v1.rating_service_pb2_grpc import RatingServiceServicer

_DOMAIN = "tollkeeper.rating"


class RatingService(RatingServiceServicer):
    """Serves `tollkeeper.api.rating.v1.RatingService`."""

    def __init__(
        self,
        usecases: RatingUseCases,
        costs: ProviderCostUseCases,
        margins: MarginUseCases,
        simulating: Simulating,
        *,
        clock: Clock,
    ) -> None:
        self._usecases = usecases
        self._costs = costs
        self._margins = margins
        self._simulating = simulating
        self._clock = clock

    async def PutPlan(
        self,
        request: messages.PutPlanRequest,
        context: grpc.aio.ServicerContext[messages.PutPlanRequest, messages.PutPlanResponse],
    ) -> messages.PutPlanResponse:
        plan = parse_put_plan(request)
        once = Once(
            request.request_id,
            "PutPlan",
            fingerprint(request),
            messages.PutPlanResponse,
            render_put_plan,
            self._clock.now(),
        )
        return await self._usecases.put_plan(caller(context).tenant, plan, once)

    async def GetPlan(
        self,
        request: messages.GetPlanRequest,
        context: grpc.aio.ServicerContext[messages.GetPlanRequest, messages.GetPlanResponse],
    ) -> messages.GetPlanResponse:
        plan_id, version, time = parse_get_plan(request)
        stored = await self._usecases.get_plan(caller(context).tenant, plan_id, version, time)
        return messages.GetPlanResponse(plan=render_plan(stored))

    async def ListPlans(
        self,
        request: messages.ListPlansRequest,
        context: grpc.aio.ServicerContext[messages.ListPlansRequest, messages.ListPlansResponse],
    ) -> messages.ListPlansResponse:
        page = await self._usecases.list_plans(
            caller(context).tenant,
            page_size(request.page_size),
            request.page_token,
            show_archived=request.show_archived,
        )
        return render_plans(page)

    async def Rate(
        self,
        request: messages.RateRequest,
        context: grpc.aio.ServicerContext[messages.RateRequest, messages.RateResponse],
    ) -> messages.RateResponse:
        rating = await self._usecases.rate(caller(context).tenant, parse_rate(request))
        return messages.RateResponse(rating=render_rating(rating))

    async def ArchivePlan(
        self,
        request: messages.ArchivePlanRequest,
        context: grpc.aio.ServicerContext[
            messages.ArchivePlanRequest, messages.ArchivePlanResponse
        ],
    ) -> messages.ArchivePlanResponse:
        plan_id = parse_archive_plan(request)
        once = Once(
            request.request_id,
            "ArchivePlan",
            fingerprint(request),
            messages.ArchivePlanResponse,
            render_archive_plan,
            self._clock.now(),
        )
        return await self._usecases.archive_plan(caller(context).tenant, plan_id, once)

    async def ExplainLine(
        self,
        request: messages.ExplainLineRequest,
        context: grpc.aio.ServicerContext[
            messages.ExplainLineRequest, messages.ExplainLineResponse
        ],
    ) -> messages.ExplainLineResponse:
        to_rate, kind, price_id, group = parse_explain_line(request)
        rating = await self._usecases.rate(caller(context).tenant, to_rate)
        return render_explanation(rating, find_line(rating, kind, price_id, group))

    async def EstimateCost(
        self,
        request: messages.EstimateCostRequest,
        context: grpc.aio.ServicerContext[
            messages.EstimateCostRequest, messages.EstimateCostResponse
        ],
    ) -> messages.EstimateCostResponse:
        to_rate, call = parse_estimate_cost(request)
        estimate = await self._usecases.estimate_cost(
            caller(context).tenant, to_rate, call, alone=request.alone
        )
        return render_estimate(estimate)

    async def GetRateCard(
        self,
        request: messages.GetRateCardRequest,
        context: grpc.aio.ServicerContext[
            messages.GetRateCardRequest, messages.GetRateCardResponse
        ],
    ) -> messages.GetRateCardResponse:
        wanted = parse_get_rate_card(request, self._clock.now())
        return render_rate_card(
            *await self._usecases.get_rate_card(caller(context).tenant, *wanted)
        )

    async def PutProviderCosts(
        self,
        request: messages.PutProviderCostsRequest,
        context: grpc.aio.ServicerContext[
            messages.PutProviderCostsRequest, messages.PutProviderCostsResponse
        ],
    ) -> messages.PutProviderCostsResponse:
        costs = parse_put_provider_costs(request)
        once = Once(
            request.request_id,
            "PutProviderCosts",
            fingerprint(request),
            messages.PutProviderCostsResponse,
            render_put_provider_costs,
            self._clock.now(),
        )
        return await self._costs.put_provider_costs(caller(context).tenant, costs, once)

    async def GetProviderCost(
        self,
        request: messages.GetProviderCostRequest,
        context: grpc.aio.ServicerContext[
            messages.GetProviderCostRequest, messages.GetProviderCostResponse
        ],
    ) -> messages.GetProviderCostResponse:
        wanted = parse_get_provider_cost(request, self._clock.now())
        stored = await self._costs.get_provider_cost(caller(context).tenant, *wanted)
        return messages.GetProviderCostResponse(cost=render_provider_cost(stored))

    async def ListProviderCosts(
        self,
        request: messages.ListProviderCostsRequest,
        context: grpc.aio.ServicerContext[
            messages.ListProviderCostsRequest, messages.ListProviderCostsResponse
        ],
    ) -> messages.ListProviderCostsResponse:
        provider, model = parse_list_provider_costs(request)
        size = page_size(request.page_size)
        page = await self._costs.list_provider_costs(
            caller(context).tenant, provider, model, size, request.page_token
        )
        return render_provider_costs(page)

    async def ExplainEventCost(
        self,
        request: messages.ExplainEventCostRequest,
        context: grpc.aio.ServicerContext[
            messages.ExplainEventCostRequest, messages.ExplainEventCostResponse
        ],
    ) -> messages.ExplainEventCostResponse:
        event = parse_explain_event_cost(request, self._clock.now())
        return render_event_cost(
            *await self._costs.explain_event_cost(caller(context).tenant, *event)
        )

    async def BatchRate(
        self,
        request: messages.BatchRateRequest,
        context: grpc.aio.ServicerContext[messages.BatchRateRequest, messages.BatchRateResponse],
    ) -> AsyncGenerator[messages.BatchRateResponse, None]:
        ratings = self._usecases.rate_each(caller(context).tenant, parse_batch_rate(request))
        async with aclosing(ratings):
            index = 0
            async for rating in ratings:
                yield _render_result(index, rating)
                index += 1

    async def GetMargins(
        self,
        request: messages.GetMarginsRequest,
        context: grpc.aio.ServicerContext[messages.GetMarginsRequest, messages.GetMarginsResponse],
    ) -> messages.GetMarginsResponse:
        question = parse_get_margins(request)
        return render_margins(await self._margins.get_margins(caller(context).tenant, question))

    async def ReportMargins(
        self,
        request: messages.ReportMarginsRequest,
        context: grpc.aio.ServicerContext[
            messages.ReportMarginsRequest, messages.ReportMarginsResponse
        ],
    ) -> messages.ReportMarginsResponse:
        question, minimum_percent = parse_report_margins(request)
        once = Once(
            request.request_id,
            "ReportMargins",
            fingerprint(request),
            messages.ReportMarginsResponse,
            render_report_margins,
            self._clock.now(),
        )
        tenant = caller(context).tenant
        return await self._margins.report_margins(tenant, question, minimum_percent, once)

    async def ListMarginAlerts(
        self,
        request: messages.ListMarginAlertsRequest,
        context: grpc.aio.ServicerContext[
            messages.ListMarginAlertsRequest, messages.ListMarginAlertsResponse
        ],
    ) -> messages.ListMarginAlertsResponse:
        size = page_size(request.page_size)
        page = await self._margins.list_alerts(caller(context).tenant, size, request.page_token)
        return render_margin_alerts(page)

    async def Simulate(
        self,
        request: messages.SimulateRequest,
        context: grpc.aio.ServicerContext[messages.SimulateRequest, messages.SimulateResponse],
    ) -> AsyncGenerator[messages.SimulateResponse, None]:
        steps = self._simulating.simulate(caller(context).tenant, parse_simulate(request))
        async with aclosing(steps):
            async for step in steps:
                yield render_step_of_simulation(step)


def _render_result(index: int, rating: Rating | DomainError) -> messages.BatchRateResponse:
    if isinstance(rating, DomainError):
        return messages.BatchRateResponse(index=index, error=render_status(rating, _DOMAIN))
    return messages.BatchRateResponse(index=index, rating=render_rating(rating))
