"""Remembers the meters of tenants, so that they are read again only when they have changed."""

from collections.abc import Mapping
from typing import Final, NamedTuple

from sqlalchemy.ext.asyncio import AsyncConnection

from services.meter.aggregation import MeterSet
from services.meter.model import Meter
from services.meter.store.meters import load_revision, load_versions

_TENANTS_REMEMBERED_MAX: Final = 10_000


class _Known(NamedTuple):
    revision: int
    meters: MeterSet
    versions: Mapping[str, tuple[Meter, ...]]


class KnownMeters:
    """Answers a tenant's meters as they are at a revision, or newer."""

    def __init__(self) -> None:
        self._known: dict[str, _Known] = {}

    async def at(self, transaction: AsyncConnection, tenant: str, revision: int) -> MeterSet:
        """Answer all versions at the revision that a transaction has seen."""
        return (await self._at(transaction, tenant, revision)).meters

    async def versions(
        self, transaction: AsyncConnection, tenant: str, meter_id: str
    ) -> tuple[Meter, ...]:
        """Answer the versions of one meter, the newest last; none where there is no such meter."""
        revision = await load_revision(transaction, tenant)
        return (await self._at(transaction, tenant, revision)).versions.get(meter_id, ())

    async def _at(self, transaction: AsyncConnection, tenant: str, revision: int) -> _Known:
        known = self._known.get(tenant)
        if known and known.revision == revision:
            return known
        meters = MeterSet(await load_versions(transaction, tenant) if revision else ())
        versions: dict[str, tuple[Meter, ...]] = {}
        for meter in meters.meters:
            versions[meter.meter_id] = (*versions.get(meter.meter_id, ()), meter)
        if len(self._known) >= _TENANTS_REMEMBERED_MAX:
            self._known.clear()
        self._known[tenant] = _Known(revision, meters, versions)
        return self._known[tenant]
