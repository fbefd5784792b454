"""What the rating service does with the costs of providers: stores, lists and explains them.

Refuses to compute anything itself.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal

from kit.errors import InvalidInput, NotFound
from kit.idempotency import Answer, Once
from kit.paging import Page, decode_page_token, encode_page_token
from kit.postgres import Database
from kit.telemetry import traced
from services.rating import cost_store
from services.rating.costs import CostStep, ProviderCost, RateTable, StoredCost, in_effect


class ProviderCostUseCases:
    """The use cases of costs over one database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @traced("rating.put_provider_costs")
    async def put_provider_costs(
        self, tenant: str, costs: Sequence[ProviderCost], once: Once[tuple[int, int], Answer]
    ) -> Answer:
        """Store what is new of the costs, and answer how much is and how much was there.

        Raises:
            Conflict: REQUEST_ID_REUSED.
        """
        async with self._database.transaction(tenant) as transaction:

            async def put() -> tuple[int, int]:
                await cost_store.lock_costs(transaction, tenant)
                keys = {(cost.provider, cost.model) for cost in costs}
                stored = await cost_store.load_costs(transaction, tenant, keys)
                new: list[StoredCost] = []
                for cost in costs:
                    key = (cost.provider, cost.model)
                    known = stored.get(key, ())
                    same_time = [
                        each for each in known if each.cost.effective_time == cost.effective_time
                    ]
                    if same_time and same_time[-1].cost == cost:
                        continue
                    revision = known[-1].revision + 1 if known else 1
                    new.append(StoredCost(cost, revision, once.now))
                    stored[key] = (*known, new[-1])
                await cost_store.save_costs(transaction, tenant, new)
                return len(new), len(costs) - len(new)

            return await once.run(transaction, tenant, put)

    @traced("rating.get_provider_cost")
    async def get_provider_cost(
        self, tenant: str, provider: str, model: str, instant: datetime
    ) -> StoredCost:
        """Answer what a provider charges for a model at an instant.

        Raises:
            NotFound: PROVIDER_COST_NOT_FOUND.
        """
        async with self._database.transaction(tenant) as transaction:
            costs = await cost_store.load_costs_of_models(transaction, tenant, [model])
        offered = [stored for key, stored in costs.items() if provider in {"", key[0]}]
        exact = costs.get((provider, model))
        found = None
        if exact is not None or len(offered) == 1:
            found = in_effect(exact or offered[0], instant)
        if found is None:
            raise _not_found(provider, model, instant)
        return found

    @traced("rating.list_provider_costs")
    async def list_provider_costs(
        self, tenant: str, provider: str, model: str, page_size: int, page_token: str
    ) -> Page[StoredCost]:
        """Answer every revision, ordered by provider, model and revision.

        Raises:
            InvalidInput: INVALID_PAGE_TOKEN.
        """
        listed = f"provider costs {provider!r} {model!r}"
        last = decode_page_token(page_token, listed)
        async with self._database.transaction(tenant) as transaction:
            found = await cost_store.load_page(
                transaction,
                tenant,
                provider=provider,
                model=model,
                after=_key(last),
                limit=page_size + 1,
            )
        items = found[:page_size]
        token = ""
        if len(found) > page_size:
            cost = items[-1].cost
            token = encode_page_token(listed, [cost.provider, cost.model, str(items[-1].revision)])
        return Page(items, token)

    @traced("rating.explain_event_cost")
    async def explain_event_cost(
        self,
        tenant: str,
        wanted: tuple[str, str, datetime],
        service_tier: str,
        quantities: Mapping[str, Decimal],
    ) -> tuple[StoredCost, tuple[CostStep, ...]]:
        """Answer what one event cost, and by which rates.

        Raises:
            NotFound: PROVIDER_COST_NOT_FOUND.
            InvalidInput: the amount is too long.
        """
        stored = await self.get_provider_cost(tenant, *wanted)
        return stored, RateTable(stored.cost).steps_of(quantities, service_tier)


def _key(texts: tuple[str, ...] | None) -> tuple[str, str, int] | None:
    if texts is None:
        return None
    try:
        provider, model, revision = texts
        return provider, model, int(revision)
    except ValueError as error:
        raise InvalidInput.of("page_token", "is malformed", "INVALID_PAGE_TOKEN") from error


def _not_found(provider: str, model: str, instant: datetime) -> NotFound:
    time = instant.isoformat().replace("+00:00", "Z")
    by = f"the provider {provider}" if provider else "the only provider of it"
    return NotFound(
        "PROVIDER_COST_NOT_FOUND",
        f"it is not known what {by} charges for the model {model} at {time}",
        metadata={"provider": provider, "model": model, "time": time},
    )
