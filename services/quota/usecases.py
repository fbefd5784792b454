"""What the gate can be asked: decisions over calls, and the limits they are decided by.

A decision finds what covers the call, in memory, and leaves the rest to the batcher. A change of a
limit is one transaction; every replica is told after its commit.
"""

import secrets
from collections.abc import Callable, Mapping
from itertools import count

from kit.clock import Clock
from kit.errors import InvalidInput, NotFound
from kit.idempotency import Once
from kit.paging import Page, decode_page_token, encode_page_token
from kit.postgres import Database
from kit.telemetry import traced
from services.quota import store
from services.quota.batcher import Batcher, CommitOfHold
from services.quota.catalogue import LimitCatalogue
from services.quota.counters import Answer, Operation, Root
from services.quota.coverage import NOTHING, overridden_in_turn
from services.quota.model import (
    Call,
    CheckCall,
    CommitCall,
    Kind,
    Limit,
    ReserveCall,
    StoredLimit,
)
from tollkeeper.api.quota.v1 import quota_service_pb2 as wire

Deliver = Callable[[Answer | Exception], None]

_NO_FINGERPRINT = bytes(8)
# Plain numbers, since looking up a member of an enumeration takes a while.
_CHECK, _RESERVE, _COMMIT, _RELEASE = map(int, Kind)


class Gate:
    """Decides over calls; sessions submit, unary calls wait.

    Every operation may fail with COUNTERS_UNAVAILABLE and TOO_MANY_LIMITS.
    """

    def __init__(self, catalogue: LimitCatalogue, batcher: Batcher) -> None:
        self._catalogue = catalogue
        self._batcher = batcher
        # Unique among all replicas and restarts, and short, as each hold's record carries it.
        self._hold_prefix = secrets.token_hex(6)
        self._hold_numbers = count(1)

    async def open(self, tenant: str) -> None:
        """Make sure that the limits of a tenant are in memory; to be awaited before `submit`."""
        await self._catalogue.load(tenant)

    def submit(self, tenant: str, call: Call, deliver: Deliver) -> None:
        """Have a call decided; `deliver` is told the answer, or why there is none.

        Calls of one customer are decided in the order of submission.

        Raises:
            Precondition: TOO_MANY_LIMITS.
        """
        self._batcher.submit(*self._asked(tenant, call), deliver)

    @traced("quota.decide")
    async def decide(self, tenant: str, call: Call) -> Answer:
        """Decide over one call.

        Raises:
            Conflict: REQUEST_ID_REUSED.
            NotFound: RESERVATION_NOT_FOUND.
            Precondition: RESERVATION_ENDED, TOO_MANY_LIMITS.
            Unavailable: COUNTERS_UNAVAILABLE.
        """
        if not self._catalogue.is_loaded(tenant):
            await self._catalogue.load(tenant)
        return await self._batcher.decide(*self._asked(tenant, call))

    def _asked(self, tenant: str, call: Call) -> tuple[Root, Operation | CommitOfHold]:
        # Unpacking is several times as fast as matching the fields of each class.
        if isinstance(call, ReserveCall):
            request_id, fingerprint, subject, dimensions, amounts, ttl_ms = call
            coverage = self._catalogue.cover(tenant, subject, dimensions)
            name = f"{self._hold_prefix}-{next(self._hold_numbers):x}"
            sums = coverage.sums(amounts)
            operation = Operation(_RESERVE, coverage, request_id, fingerprint, name, ttl_ms, sums)
            return Root(tenant, subject.customer), operation
        if isinstance(call, CommitCall):
            return self._asked_commit(tenant, call)
        if isinstance(call, CheckCall):
            subject, dimensions, amounts = call
            coverage = self._catalogue.cover(tenant, subject, dimensions)
            sums = coverage.sums(amounts)
            operation = Operation(_CHECK, coverage, "", _NO_FINGERPRINT, "", 0, sums)
            return Root(tenant, subject.customer), operation
        request_id, fingerprint, hold = call
        operation = Operation(_RELEASE, NOTHING, request_id, fingerprint, hold.name, 0, ())
        return Root(tenant, hold.customer), operation

    def _asked_commit(self, tenant: str, call: CommitCall) -> tuple[Root, Operation | CommitOfHold]:
        request_id, fingerprint, hold, subject, dimensions, amounts = call
        if subject is None:
            assert hold is not None, "the converter refuses a commit of neither"
            of_hold = CommitOfHold(request_id, fingerprint, hold.name, amounts)
            return Root(tenant, hold.customer), of_hold
        coverage = self._catalogue.cover(tenant, subject, dimensions)
        name = hold.name if hold else ""
        sums = coverage.sums(amounts)
        operation = Operation(_COMMIT, coverage, request_id, fingerprint, name, 1, sums)
        return Root(tenant, subject.customer), operation


class LimitUseCases:
    """Puts, shows and deletes limits."""

    def __init__(self, database: Database, catalogue: LimitCatalogue, clock: Clock) -> None:
        self._database = database
        self._catalogue = catalogue
        self._clock = clock

    @traced("quota.put_limit")
    async def put_limit(
        self, tenant: str, limit: Limit, once: Once[StoredLimit, wire.PutLimitResponse]
    ) -> wire.PutLimitResponse:
        """Create a limit, or replace the one of the same id.

        Raises:
            InvalidInput: it overrides a limit that is not there, or in turn itself.
            Conflict: REQUEST_ID_REUSED.
            Unavailable: COUNTERS_UNAVAILABLE, the limit is stored but not every replica knows;
                to be repeated with the same request id.
        """
        now = self._clock.now()
        stored = StoredLimit(limit, now, now)

        async def save() -> StoredLimit:
            if limit.overrides:
                _check_overrides(limit, await store.load_overrides(transaction, tenant))
            return await store.save_limit(transaction, tenant, stored)

        async with self._database.transaction(tenant) as transaction:
            answer = await once.run(transaction, tenant, save)
        await self._catalogue.announce(tenant)
        return answer

    @traced("quota.get_limit")
    async def get_limit(self, tenant: str, limit_id: str) -> StoredLimit:
        """Show a limit.

        Raises:
            NotFound: LIMIT_NOT_FOUND.
        """
        async with self._database.transaction(tenant) as transaction:
            stored = await store.load_limit(transaction, tenant, limit_id)
        if stored is None:
            raise _limit_not_found(limit_id)
        return stored

    @traced("quota.list_limits")
    async def list_limits(
        self, tenant: str, customer: str, page_token: str, page_size: int
    ) -> Page[StoredLimit]:
        """List limits by id, all or those that name a customer.

        Raises:
            InvalidInput: INVALID_PAGE_TOKEN.
        """
        filtered = f"quota.limits {customer}"
        last = decode_page_token(page_token, filtered)
        async with self._database.transaction(tenant) as transaction:
            found = await store.load_limits(
                transaction,
                tenant,
                customer=customer,
                after=last[0] if last else "",
                count=page_size + 1,
            )
        items = found[:page_size]
        is_last = len(found) <= page_size
        token = "" if is_last else encode_page_token(filtered, (items[-1].limit.limit_id,))
        return Page(items, token)

    @traced("quota.delete_limit")
    async def delete_limit(
        self, tenant: str, limit_id: str, once: Once[None, wire.DeleteLimitResponse]
    ) -> wire.DeleteLimitResponse:
        """Delete a limit.

        Raises:
            NotFound: LIMIT_NOT_FOUND.
            Conflict: REQUEST_ID_REUSED.
            Unavailable: COUNTERS_UNAVAILABLE, as `put_limit`.
        """

        async def delete() -> None:
            if not await store.delete_limit(transaction, tenant, limit_id):
                raise _limit_not_found(limit_id)

        async with self._database.transaction(tenant) as transaction:
            answer = await once.run(transaction, tenant, delete)
        await self._catalogue.announce(tenant)
        return answer


def _check_overrides(limit: Limit, overrides: Mapping[str, str]) -> None:
    field = "limit.overrides"
    if limit.overrides not in (*overrides, limit.limit_id):
        raise InvalidInput.of(field, f"there is no limit {limit.overrides}")
    overridden = overridden_in_turn(limit, overrides)
    if overridden[-1] == limit.limit_id:
        path = " overrides ".join((limit.limit_id, *overridden))
        raise InvalidInput.of(field, f"must not lead back to the limit: {path}")


def _limit_not_found(limit_id: str) -> NotFound:
    return NotFound(
        "LIMIT_NOT_FOUND", f"there is no limit {limit_id}", metadata={"limit_id": limit_id}
    )
