"""What the gate can be asked: decisions over calls, and the limits they are decided by.

A decision finds what covers the call, in memory, and leaves the rest to the batcher. A change of a
limit is one transaction; every replica is told after its commit.
"""

import secrets
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import count
from typing import TypeVar, assert_never, cast

from kit.clock import Clock
from kit.errors import InvalidInput, NotFound, Precondition
from kit.idempotency import Once
from kit.paging import Page, decode_page_token, encode_page_token
from kit.postgres import Database
from kit.telemetry import traced
from services.quota import store
from services.quota.auditing import Audit
from services.quota.audits import Audits
from services.quota.batcher import Batcher
from services.quota.catalogue import LimitCatalogue
from services.quota.counters import Answer, Root
from services.quota.coverage import overridden_in_turn
from services.quota.estimators import Estimators
from services.quota.holdings import Holding, holders_of
from services.quota.inspection import Inspection
from services.quota.learning import series_in
from services.quota.model import (
    Alert,
    Call,
    CheckCall,
    CommitCall,
    ExtendCall,
    Limit,
    MarkDispatchedCall,
    RecordCall,
    ReleaseCall,
    ReserveCall,
    StoredLimit,
)
from services.quota.operations import (
    Asked,
    OfHold,
    check_operation,
    commit_operation,
    extend_operation,
    record_operation,
    release_operation,
    reserve_operation,
)
from services.quota.rate_cards import RateCards
from services.quota.reconciler import Reconciled, Reconciler
from tollkeeper.api.quota.v1 import quota_service_pb2 as wire

Ticket = TypeVar("Ticket")


# As the class itself, without what Python does for names of arguments.
_new_root = cast("Callable[[tuple[str, str]], Root]", partial(tuple.__new__, Root))


class Gate:
    """Decides over calls; sessions submit, unary calls wait.

    Every operation may fail with TOO_MANY_LIMITS. While the counters cannot be reached the standby
    answers, and what it cannot answer fails with COUNTERS_UNAVAILABLE.
    """

    def __init__(self, catalogue: LimitCatalogue, batcher: Batcher, estimators: Estimators) -> None:
        self._catalogue = catalogue
        self._batcher = batcher
        self._estimators = estimators
        # Unique among all replicas and restarts, and short, as each hold's record carries it.
        self._hold_prefix = secrets.token_hex(6)
        self._hold_numbers = count(1)

    async def open(self, tenant: str) -> None:
        """Make sure that the limits of a tenant are in memory; to be awaited before `submit`."""
        await self._catalogue.load(tenant)

    def submit(
        self,
        tenant: str,
        call: Call,
        deliver: Callable[[Ticket, Answer | Exception], None],
        ticket: Ticket,
    ) -> None:
        """Have a call decided; `deliver` gets its ticket back, and the answer or why there is none.

        Calls of one customer are decided in the order of submission.

        Raises:
            Precondition: TOO_MANY_LIMITS.
        """
        if isinstance(call, CommitCall) and _is_estimated(call):
            deliver = partial(self._learn, tenant, call, deliver)
        self._batcher.submit(*self._asked(tenant, call), deliver, ticket)

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
        answer = await self._batcher.decide(*self._asked(tenant, call))
        if isinstance(call, CommitCall) and _is_estimated(call):
            self._estimators.learn(tenant, call)
        return answer

    def _learn(
        self,
        tenant: str,
        call: CommitCall,
        deliver: Callable[[Ticket, Answer | Exception], None],
        ticket: Ticket,
        answer: Answer | Exception,
    ) -> None:
        if isinstance(answer, Answer):
            self._estimators.learn(tenant, call)
        deliver(ticket, answer)

    async def show(self, tenant: str, call: CheckCall) -> Answer:
        """Show how limits stand, which only the counters can say.

        Raises:
            Precondition: TOO_MANY_LIMITS.
            Unavailable: COUNTERS_UNAVAILABLE.
        """
        if not self._catalogue.is_loaded(tenant):
            await self._catalogue.load(tenant)
        return await self._batcher.decide(*self._asked(tenant, call), may_stand_by=False)

    @traced("quota.reserve_as")
    async def reserve_as(self, tenant: str, call: ReserveCall, name: str) -> Answer:
        """Hold under a name that was made beforehand, so that who knows how can commit by it.

        The caller sees to it that no two holds of a customer have one name at the same time.

        Raises:
            Conflict: REQUEST_ID_REUSED.
            Precondition: TOO_MANY_LIMITS.
            Unavailable: COUNTERS_UNAVAILABLE.
        """
        if not self._catalogue.is_loaded(tenant):
            await self._catalogue.load(tenant)
        coverage = self._catalogue.cover(tenant, call.subject, call.dimensions)
        root = Root(tenant, call.subject.customer)
        return await self._batcher.decide(root, reserve_operation(call, coverage, name))

    def _asked(self, tenant: str, call: Call) -> tuple[Root, Asked]:
        cover = self._catalogue.cover
        match call:
            case ReserveCall():
                coverage = cover(tenant, call.subject, call.dimensions)
                name = f"{self._hold_prefix}-{next(self._hold_numbers):x}"
                if call.estimates:
                    call, name = self._estimators.estimated(tenant, call, name)
                root = _new_root((tenant, call.subject.customer))
                return root, reserve_operation(call, coverage, name)
            case CommitCall() | ExtendCall():
                return self._asked_of_hold(tenant, call)
            case CheckCall():
                coverage = cover(tenant, call.subject, call.dimensions)
                return Root(tenant, call.subject.customer), check_operation(call, coverage)
            case RecordCall():
                coverage = cover(tenant, call.subject, call.dimensions)
                return Root(tenant, call.subject.customer), record_operation(call, coverage)
            case ReleaseCall() | MarkDispatchedCall():
                return Root(tenant, call.hold.customer), release_operation(call)
            case _:
                assert_never(call)

    def _asked_of_hold(self, tenant: str, call: CommitCall | ExtendCall) -> tuple[Root, Asked]:
        if call.subject is None:
            assert call.hold is not None, "the converter refuses a commit of neither"
            return Root(tenant, call.hold.customer), OfHold(call, call.hold)
        coverage = self._catalogue.cover(tenant, call.subject, call.dimensions)
        root = Root(tenant, call.subject.customer)
        if isinstance(call, ExtendCall):
            return root, extend_operation(call, coverage)
        return root, commit_operation(call, coverage)


def _is_estimated(call: CommitCall) -> bool:
    return call.hold is not None and bool(call.amounts) and bool(series_in(call.hold.name))


class HoldUseCases:
    """Shows who holds what, and why calls were decided as they were."""

    def __init__(self, inspection: Inspection) -> None:
        self._inspection = inspection

    @traced("quota.list_reservations")
    async def list_reservations(
        self, tenant: str, customer: str, limit_id: str, page_token: str, page_size: int
    ) -> Page[Holding]:
        """List the holds of a customer that have not ended, all or those on a limit.

        Raises:
            InvalidInput: INVALID_PAGE_TOKEN.
            Unavailable: COUNTERS_UNAVAILABLE.
        """
        filtered = f"quota.reservations {customer} {limit_id}"
        last = decode_page_token(page_token, filtered)
        after = (int(last[0]), last[1]) if last else (0, "")
        found = [
            each
            for each in await self._inspection.holdings(Root(tenant, customer))
            if (each.expire_ms, each.name) > after
            and (not limit_id or any(held.limit_id == limit_id for held in each.held))
        ]
        items = tuple(found[:page_size])
        if len(found) <= page_size:
            return Page(items, "")
        token = encode_page_token(filtered, (str(items[-1].expire_ms), items[-1].name))
        return Page(items, token)

    @traced("quota.explain_decision")
    async def explain_decision(
        self, tenant: str, customer: str, request_id: str
    ) -> tuple[Answer, Sequence[Holding]]:
        """Recall how a call was decided, and find who held most on the limits that refused it.

        Raises:
            NotFound: DECISION_NOT_FOUND.
            Unavailable: COUNTERS_UNAVAILABLE.
        """
        root = Root(tenant, customer)
        answer = await self._inspection.decision(root, request_id)
        if answer is None:
            raise NotFound(
                "DECISION_NOT_FOUND",
                f"no decision on the request {request_id} is remembered",
                metadata={"request_id": request_id},
            )
        refusing = frozenset(
            (limit.limit_id, limit.scope)
            for limit, wait_ms in zip(answer.coverage.limits, answer.waits_ms(), strict=True)
            if wait_ms >= 0
        )
        if not refusing:
            return answer, ()
        return answer, holders_of(await self._inspection.holdings(root), refusing, answer.now_ms)


class CounterUseCases:
    """Checks counters, and sets them anew."""

    def __init__(self, database: Database, audits: Audits, reconciler: Reconciler) -> None:
        self._database = database
        self._audits = audits
        self._reconciler = reconciler

    @traced("quota.audit")
    async def audit(self, tenant: str, customer: str) -> Audit:
        """Audit the counters of a customer, or with an empty id of every one.

        Raises:
            Unavailable: COUNTERS_UNAVAILABLE.
        """
        return await self._audits.audit(tenant, customer)

    @traced("quota.rebuild")
    async def rebuild(
        self, tenant: str, customer: str, once: Once[Reconciled, wire.RebuildCountersResponse]
    ) -> wire.RebuildCountersResponse:
        """Set the counters of a customer anew, from the meter and from the open holds.

        Raises:
            Precondition: TOO_MANY_LIMITS, EVENTS_EXPIRED.
            Conflict: REQUEST_ID_REUSED.
            Unavailable: COUNTERS_UNAVAILABLE, METER_UNAVAILABLE or RATE_CARD_UNAVAILABLE; to be
                repeated.
        """

        async def reconcile() -> Reconciled:
            return await self._reconciler.reconcile(tenant, customer)

        async with self._database.transaction(tenant) as transaction:
            return await once.run(transaction, tenant, reconcile)


class LimitUseCases:
    """Puts, shows and deletes limits."""

    def __init__(
        self, database: Database, catalogue: LimitCatalogue, cards: RateCards, clock: Clock
    ) -> None:
        self._database = database
        self._catalogue = catalogue
        self._cards = cards
        self._clock = clock

    @traced("quota.put_limit")
    async def put_limit(
        self, tenant: str, limit: Limit, once: Once[StoredLimit, wire.PutLimitResponse]
    ) -> wire.PutLimitResponse:
        """Create a limit, or replace the one of the same id.

        Raises:
            InvalidInput: it overrides a limit that is not there, or in turn itself; or its plan is
                not there, or in another currency.
            Conflict: REQUEST_ID_REUSED.
            Unavailable: COUNTERS_UNAVAILABLE, the limit is stored but not every replica knows;
                to be repeated with the same request id. RATE_CARD_UNAVAILABLE, nothing is stored.
        """
        if limit.plan_id:
            await self._check_plan(tenant, limit)
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

    @traced("quota.top_up_limit")
    async def top_up_limit(
        self,
        tenant: str,
        limit_id: str,
        quantity: int,
        once: Once[StoredLimit, wire.TopUpLimitResponse],
    ) -> wire.TopUpLimitResponse:
        """Add to the capacity of a limit with a lifetime.

        Raises:
            NotFound: LIMIT_NOT_FOUND.
            Precondition: LIMIT_NOT_TOPPABLE.
            Conflict: REQUEST_ID_REUSED.
            Unavailable: COUNTERS_UNAVAILABLE, as `put_limit`.
        """

        async def top_up() -> StoredLimit:
            now = self._clock.now()
            stored = await store.top_up(transaction, tenant, limit_id, quantity, now)
            if stored is None:
                if await store.load_limit(transaction, tenant, limit_id) is None:
                    raise _limit_not_found(limit_id)
                raise _limit_not_toppable(limit_id)
            return stored

        async with self._database.transaction(tenant) as transaction:
            answer = await once.run(transaction, tenant, top_up)
        await self._catalogue.announce(tenant)
        return answer

    async def _check_plan(self, tenant: str, limit: Limit) -> None:
        field = "limit.plan_id"
        try:
            card = await self._cards.get(tenant, limit.plan_id)
        except NotFound as error:
            raise InvalidInput.of(field, error.message) from error
        if card.currency not in limit.units:
            raise InvalidInput.of(field, f"is a plan in {card.currency}, not {limit.units[0]}")

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

    @traced("quota.list_alerts")
    async def list_alerts(
        self, tenant: str, customer: str, after: int, page_token: str, page_size: int
    ) -> Page[Alert]:
        """List the thresholds that were crossed, the oldest first, all or those of a customer.

        Raises:
            InvalidInput: INVALID_PAGE_TOKEN.
        """
        filtered = f"quota.alerts {customer} {after}"
        last = decode_page_token(page_token, filtered)
        async with self._database.transaction(tenant) as transaction:
            found = await store.load_alerts(
                transaction,
                tenant,
                customer,
                after=int(last[0]) if last else after,
                count=page_size + 1,
            )
        items = found[:page_size]
        is_last = len(found) <= page_size
        token = "" if is_last else encode_page_token(filtered, (str(items[-1].alert_id),))
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


def _limit_not_toppable(limit_id: str) -> Precondition:
    return Precondition(
        "LIMIT_NOT_TOPPABLE",
        f"{limit_id} has a window instead of a lifetime, or its capacity would pass 10^15",
        metadata={"limit_id": limit_id},
    )
