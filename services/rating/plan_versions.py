"""The versions of plans that ratings of many customers choose from, loaded once.

Refuses to rate.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime

from kit.errors import InvalidInput, NotFound, Precondition
from kit.postgres import Database
from services.rating import store
from services.rating.model import NO_OVERRIDES, Overrides, Plan, PlanVersion, Price
from services.rating.overrides import override
from services.rating.simulation import version_in_effect


class PlanVersions:
    """Every version of some plans."""

    def __init__(self, versions: Mapping[str, Sequence[PlanVersion]]) -> None:
        self._versions = versions

    @classmethod
    async def load(
        cls, database: Database, tenant: str, plan_ids: Iterable[str | None]
    ) -> "PlanVersions":
        """Load every version of plans; those that do not exist have none."""
        async with database.transaction(tenant) as transaction:
            return cls(
                {
                    plan_id: await store.load_versions(transaction, tenant, plan_id)
                    for plan_id in sorted(filter(None, set(plan_ids)))
                }
            )

    @property
    def all(self) -> tuple[PlanVersion, ...]:
        """Every version that was loaded."""
        return tuple(version for several in self._versions.values() for version in several)

    @property
    def plans(self) -> tuple[Plan, ...]:
        """The plan of every version that was loaded."""
        return tuple(version.plan for version in self.all)

    def agreed(self, plan_id: str | None, overrides: Overrides) -> tuple[Plan, ...]:
        """Answer every version as it was agreed, but for those that it does not fit."""
        plans = []
        for version in self._versions.get(plan_id or "", ()) if overrides != NO_OVERRIDES else ():
            with suppress(InvalidInput):
                plans.append(override(version.plan, overrides))
        return tuple(plans)

    def alike(self, prices: dict[Price, Price]) -> "PlanVersions":
        """Answer the same versions; prices that say the same are the same object, as `prices`."""
        return PlanVersions(
            {
                plan_id: [with_alike(version, prices) for version in versions]
                for plan_id, versions in self._versions.items()
            }
        )

    def at(self, plan_id: str, instant: datetime, contract_start: datetime | None) -> PlanVersion:
        """Answer the version that rates a contract at an instant.

        Raises:
            NotFound: PLAN_NOT_FOUND.
            Precondition: PLAN_NOT_IN_EFFECT.
        """
        versions = self._versions[plan_id]
        if not versions:
            raise NotFound(
                "PLAN_NOT_FOUND", f"there is no plan {plan_id}", metadata={"plan_id": plan_id}
            )
        found = version_in_effect(versions, instant, contract_start or instant)
        if found is None:
            time = instant.isoformat().replace("+00:00", "Z")
            raise Precondition(
                "PLAN_NOT_IN_EFFECT",
                f"no version of the plan {plan_id} is in effect at {time}",
                metadata={"plan_id": plan_id, "time": time},
            )
        return found


def with_alike(version: PlanVersion, prices: dict[Price, Price]) -> PlanVersion:
    """Answer a version whose prices are those of `prices` that say the same; new ones join them."""
    alike = tuple(prices.setdefault(price, price) for price in version.plan.prices)
    return replace(version, plan=replace(version.plan, prices=alike))
