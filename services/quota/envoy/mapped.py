"""Decides requests of domains that are mapped to Tollkeeper's limits.

The request before a call takes a hold of a name that is made of the call's id; the request after it
commits that hold with what was used. Ids of calls come from outside, so nothing depends on their
being unique: a call whose id is taken gets a hold that nobody can name, which ends by itself, and
whatever is settled is booked in full.
"""

import secrets
from collections.abc import Sequence
from hashlib import blake2b
from typing import NamedTuple

from kit.clock import Clock
from kit.errors import Conflict, InvalidInput, Precondition, Violations
from services.quota.convert.answers import render_check, render_record, render_reserve
from services.quota.convert.fields import (
    parse_amounts,
    parse_dimensions,
    parse_hold,
    parse_subject,
)
from services.quota.counters import Answer
from services.quota.envoy.convert import Decided, Descriptor
from services.quota.envoy.mapping import CallMapping, MappedCall, Unmappable, map_call
from services.quota.model import (
    Amounts,
    CheckCall,
    CommitCall,
    Dimensions,
    HoldId,
    MarkDispatchedCall,
    RecordCall,
    ReserveCall,
    Subject,
)
from services.quota.usecases import Gate
from tollkeeper.api.quota.v1 import quota_pb2, quota_service_pb2
from tollkeeper.api.type.v1 import subject_pb2
from tollkeeper.subject_ids import subject_id

DIMENSIONS_MAX = 16
_VALUE_CHARACTERS_MAX = 128
_FINGERPRINT_BYTES = 8
_NAME_BYTES = 16


class _Asked(NamedTuple):
    """A call in the words of the gate."""

    subject: Subject
    dimensions: Dimensions
    amounts: Amounts


class MappedCalls:
    """Holds and settles the calls of mapped domains."""

    def __init__(self, gate: Gate, clock: Clock) -> None:
        self._gate = gate
        self._clock = clock

    async def decide(
        self, tenant: str, mapping: CallMapping, descriptors: Sequence[Descriptor]
    ) -> Decided:
        """Hold a call, or settle it.

        Raises:
            InvalidInput: naming the descriptors that cannot be a call.
            Unavailable: COUNTERS_UNAVAILABLE.
        """
        mapped = read_call(mapping, descriptors)
        if not mapped.is_settlement:
            return await self._hold(tenant, mapping, mapped)
        if not mapped.call_id:
            return await self._record(tenant, mapped)
        asked = _asked(mapped)
        hold = HoldId(_name(mapped.call_id), asked.subject.customer)
        await self._settle(tenant, asked, hold)
        return Decided(is_over=False, limits=(), units=mapped.units, now=self._clock.now())

    async def check(
        self, tenant: str, mapping: CallMapping, descriptors: Sequence[Descriptor]
    ) -> Decided:
        """Tell whether one more of each unit would pass; nothing is counted.

        Raises:
            InvalidInput: as `decide`.
            Unavailable: as `decide`.
        """
        mapped = read_call(mapping, [each._replace(addend=1) for each in descriptors])
        answer = await self._gate.decide(tenant, CheckCall(*_asked(mapped)))
        response = quota_service_pb2.CheckResponse.FromString(render_check(answer))
        is_over = response.decision == quota_pb2.DECISION_DENY
        return Decided(is_over, response.limits, mapped.units, self._clock.now())

    async def report(
        self, tenant: str, mapping: CallMapping, descriptors: Sequence[Descriptor]
    ) -> Decided:
        """Book what was used without a hold.

        Raises:
            InvalidInput: as `decide`.
            Unavailable: as `decide`.
        """
        return await self._record(tenant, read_call(mapping, descriptors))

    async def reserve(
        self, tenant: str, mapping: CallMapping, descriptors: Sequence[Descriptor], ttl_ms: int
    ) -> str:
        """Hold a call for whoever commits by the hold's id; empty when it is refused.

        Raises:
            InvalidInput: as `decide`.
            Unavailable: as `decide`.
        """
        asked = _asked(read_call(mapping, descriptors))
        call = ReserveCall(
            *_once(), asked.subject, asked.dimensions, asked.amounts, ttl_ms or mapping.ttl_ms
        )
        answer = await self._gate.decide(tenant, call)
        response = quota_service_pb2.ReserveResponse.FromString(render_reserve(answer, call))
        return response.reservation_id

    async def commit(
        self,
        tenant: str,
        mapping: CallMapping,
        descriptors: Sequence[Descriptor],
        reservation_id: str,
    ) -> bool:
        """Book what a call used, in full, and tell whether its hold was open.

        Raises:
            InvalidInput: as `decide`, or the hold is of another customer.
            Unavailable: as `decide`.
        """
        asked = _asked(read_call(mapping, descriptors))
        hold = parse_hold(reservation_id, "reservation_id") if reservation_id else None
        if hold is not None and hold.customer != asked.subject.customer:
            raise InvalidInput.of("reservation_id", "is of another customer")
        return await self._settle(tenant, asked, hold)

    async def _hold(self, tenant: str, mapping: CallMapping, mapped: MappedCall) -> Decided:
        """Hold a call; one without an id is booked at once, as nobody could settle it."""
        asked = _asked(mapped)
        answer, call, name = await self._reserve(tenant, mapping, mapped.call_id, asked)
        response = quota_service_pb2.ReserveResponse.FromString(render_reserve(answer, call))
        is_over = response.decision == quota_pb2.DECISION_DENY
        hold = HoldId(name, asked.subject.customer)
        if not is_over and response.reservation_id:
            if not mapped.call_id:
                await self._settle(tenant, asked, hold)
            elif mapping.books_unsettled:
                await self._gate.decide(tenant, MarkDispatchedCall(*_once(), hold))
        return Decided(is_over, response.limits, mapped.units, self._clock.now())

    async def _settle(self, tenant: str, asked: _Asked, hold: HoldId | None) -> bool:
        """Book a call in full, and end its hold if that is open; tell whether it was."""
        commit = CommitCall(*_once(), hold, asked.subject, asked.dimensions, asked.amounts)
        try:
            return bool((await self._gate.decide(tenant, commit)).detail)
        except Precondition:
            # The hold was settled by another call of the same id.
            await self._gate.decide(tenant, commit._replace(hold=None))
            return False

    async def _record(self, tenant: str, mapped: MappedCall) -> Decided:
        """Book what a call used that nobody has held."""
        asked = _asked(mapped)
        call = RecordCall(*_once(), asked.subject, asked.dimensions, asked.amounts, 0)
        answer = await self._gate.decide(tenant, call)
        limits = quota_service_pb2.RecordResponse.FromString(render_record(answer)).limits
        return Decided(is_over=False, limits=limits, units=mapped.units, now=self._clock.now())

    async def _reserve(
        self, tenant: str, mapping: CallMapping, call_id: str, asked: _Asked
    ) -> tuple[Answer, ReserveCall, str]:
        request_id, fingerprint = _once()
        name = _name(call_id or request_id)
        call = ReserveCall(
            f"envoy-{name}",
            fingerprint,
            asked.subject,
            asked.dimensions,
            asked.amounts,
            mapping.ttl_ms,
        )
        try:
            return await self._gate.reserve_as(tenant, call, name), call, name
        except Conflict:
            # Another call had this id within minutes.
            name = _name(request_id)
            call = call._replace(request_id=request_id)
            return await self._gate.reserve_as(tenant, call, name), call, name


def read_call(mapping: CallMapping, descriptors: Sequence[Descriptor]) -> MappedCall:
    """Read descriptors as a call.

    Raises:
        InvalidInput: naming the descriptor at fault.
    """
    try:
        return map_call(mapping, [(each.entries, each.addend) for each in descriptors])
    except Unmappable as error:
        raise InvalidInput.of(f"descriptors[{error.place}]", str(error)) from None


def _asked(mapped: MappedCall) -> _Asked:
    violations = Violations()
    customer, project, user, key, run = (subject_id(each) if each else "" for each in mapped.path)
    subject = subject_pb2.Subject(
        customer_id=customer, project_id=project, user_id=user, key_id=key, run_id=run
    )
    dimensions = {name: value[:_VALUE_CHARACTERS_MAX] for name, value in mapped.dimensions.items()}
    amounts = [quota_pb2.Amount(unit=unit, quantity=each) for unit, each in mapped.amounts.items()]
    read = _Asked(
        violations.take("descriptors", lambda: parse_subject(subject, "descriptors")),
        violations.take(
            "descriptors",
            lambda: parse_dimensions(dimensions, "descriptors", count_max=DIMENSIONS_MAX),
        ),
        violations.take("descriptors", lambda: parse_amounts(amounts, "descriptors")),
    )
    violations.raise_if_any()
    return read


def _once() -> tuple[str, bytes]:
    """Make a request id and a fingerprint that nobody repeats: Envoy does not either."""
    return f"envoy-{secrets.token_hex(_NAME_BYTES)}", secrets.token_bytes(_FINGERPRINT_BYTES)


def _name(text: str) -> str:
    """Name a hold."""
    return blake2b(text.encode(), digest_size=_NAME_BYTES).hexdigest()
