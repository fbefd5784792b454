"""Who is on a plan, and from when a new version rates them."""

from dataclasses import dataclass
from datetime import UTC, datetime

from cli.output import time_text
from cli.services import Services
from kit.rpc.wire import parse_time
from tollkeeper.api.invoicing.v1.customer_pb2 import Subscription
from tollkeeper.api.invoicing.v1.invoicing_service_pb2 import ListSubscriptionsRequest
from tollkeeper.api.rating.v1.plan_pb2 import Plan

_PER_PAGE = 1000
_EVER = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Subscriber:
    """A subscription, and why or from when a new version of its plan rates it."""

    subscription_id: str
    customer_id: str
    is_affected: bool
    from_text: str

    def facts(self) -> dict[str, object]:
        """What JSON says of it."""
        return {
            "subscription_id": self.subscription_id,
            "customer_id": self.customer_id,
            "is_affected": self.is_affected,
            "from": self.from_text,
        }


async def load_subscribers(services: Services, plan: Plan) -> list[Subscriber]:
    """Ask invoicing who is on a plan, ordered by id.

    Raises:
        CommandError: invoicing refused or does not answer.
    """
    found = list[Subscriber]()
    request = ListSubscriptionsRequest(page_size=_PER_PAGE)
    async for page in services.pages(services.invoicing.ListSubscriptions, request):
        found += [
            _subscriber(each, plan) for each in page.subscriptions if each.plan_id == plan.plan_id
        ]
    return found


def _subscriber(subscription: Subscription, plan: Plan) -> Subscriber:
    """Tell when the first billing period begins that the plan, as a new version, rates."""
    effective = _EVER
    if plan.HasField("effective_time"):
        effective = parse_time(plan.effective_time, "effective_time")
    start = parse_time(subscription.start_time, "start_time")
    ends = subscription.HasField("end_time")
    is_affected, text = True, "its first period"
    if ends and parse_time(subscription.end_time, "end_time") <= effective:
        is_affected, text = False, "never: it ends before"
    elif start < effective and plan.keeps_contracts:
        is_affected, text = False, "never: it keeps the version it has"
    elif start < effective:
        text = f"its first period from {time_text(effective)} UTC"
    return Subscriber(subscription.subscription_id, subscription.customer_id, is_affected, text)
