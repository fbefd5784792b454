"""The rate cards of the plans that limits name, kept in memory and looked at anew now and then.

A card that was loaded once is used until another can be had, however long rating is away. Refuses
to make one up: a card that was never loaded is missing, and is asked for again every second.
"""

import asyncio
from collections.abc import Iterable, Mapping
from contextlib import suppress

from kit.errors import DomainError
from kit.telemetry import get_logger
from services.quota.clients import CardClient
from services.quota.weights import RateCard

REFRESH_S = 60.0
RETRY_S = 1.0

_FIRST_LOAD_S = 1.0
_CALLS_AT_ONCE_MAX = 16


class RateCards:
    """One for each replica.

    Args:
        refresh_s: After how long a card is asked for again.
    """

    def __init__(self, client: CardClient, *, refresh_s: float = REFRESH_S) -> None:
        self._client = client
        self._refresh_s = refresh_s
        self._cards: dict[str, dict[str, RateCard]] = {}
        self._due_s: dict[str, dict[str, float]] = {}
        self._vacancies = asyncio.Semaphore(_CALLS_AT_ONCE_MAX)

    def of(self, tenant: str) -> Mapping[str, RateCard]:
        """Answer the cards of a tenant by plan, those that could be had."""
        return dict(self._cards.get(tenant, {}))

    async def want(self, tenant: str, plan_ids: Iterable[str]) -> None:
        """Keep just the cards of these plans; wait a moment for those that are new."""
        wanted = frozenset(plan_ids)
        known = self._due_s.get(tenant, {})
        new = [plan_id for plan_id in wanted if plan_id not in known]
        self._due_s[tenant] = {
            plan_id: known.get(plan_id, _loop_s() + RETRY_S) for plan_id in wanted
        }
        cards = self._cards.get(tenant, {})
        self._cards[tenant] = {
            plan_id: card for plan_id, card in cards.items() if plan_id in wanted
        }
        with suppress(TimeoutError):
            async with asyncio.timeout(_FIRST_LOAD_S):
                await asyncio.gather(*(self._load(tenant, plan_id) for plan_id in new))

    async def get(self, tenant: str, plan_id: str) -> RateCard:
        """Ask for a card as it is now.

        Raises:
            NotFound: there is no such plan, or a meter of it is gone.
            Unavailable: RATE_CARD_UNAVAILABLE.
        """
        return await self._client.get_card(tenant, plan_id)

    async def refresh(self) -> frozenset[str]:
        """Ask for all cards that are due; answer the tenants of which one has changed."""
        now_s = _loop_s()
        due = [
            (tenant, plan_id)
            for tenant, plans in self._due_s.items()
            for plan_id, due_s in plans.items()
            if due_s <= now_s
        ]
        changes = await asyncio.gather(*(self._load(*each) for each in due))
        return frozenset(
            tenant for (tenant, _), is_other in zip(due, changes, strict=True) if is_other
        )

    async def _load(self, tenant: str, plan_id: str) -> bool:
        """Ask for a card; tell whether it is another than before."""
        former = self._cards[tenant].get(plan_id)
        try:
            async with self._vacancies:
                card = await self._client.get_card(tenant, plan_id)
        except DomainError as error:
            get_logger().warning(
                "rate_card.stale" if former else "rate_card.missing",
                tenant=tenant,
                plan_id=plan_id,
                cause=error.reason,
            )
            self._put_off(tenant, plan_id, self._refresh_s if former else RETRY_S)
            return False
        self._put_off(tenant, plan_id, self._refresh_s)
        if plan_id not in self._due_s[tenant] or card == former:
            return False
        self._cards[tenant][plan_id] = card
        return True

    def _put_off(self, tenant: str, plan_id: str, pause_s: float) -> None:
        if plan_id in self._due_s[tenant]:
            self._due_s[tenant][plan_id] = _loop_s() + pause_s


def _loop_s() -> float:
    return asyncio.get_running_loop().time()
