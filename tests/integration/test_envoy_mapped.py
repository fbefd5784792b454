"""Requests of Envoy mapped to Tollkeeper's limits: held before a call, settled after it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
import yaml
from google.protobuf.message_factory import GetMessageClass

from cli.embedded.loopback import choose_ports
from cli.signing_keys import SigningKeys
from kit.errors import DomainError
from kit.rpc.channel import open_channel
from kit.rpc.status import read_error
from kit.settings import ServiceSettings
from services.quota.envoy.messages import (
    KUADRANT_SERVICE,
    METHOD,
    RateLimitRequest,
    RateLimitResponse,
)
from tests.quota_world import QuotaWorld, Standing, a_limit, quota_world

MAPPING: Mapping[str, Any] = {
    "subject": {"customer": {"value": "acme"}, "key": "api_key"},
    "dimensions": {"model": "model"},
    "call_id": "request_id",
    "unit": "unit",
    "phase": {"key": "phase", "settle": "done"},
    "each_call": {"requests": 1},
    "ttl_seconds": 30,
}
HOLDING = {"api_key": "k-1", "request_id": "r-1", "unit": "tokens", "model": "large"}
DONE = {**HOLDING, "phase": "done"}


@dataclass(frozen=True)
class Place:
    """A gate with 100 tokens for each key, and its facade for Envoy."""

    gate: QuotaWorld
    channel: grpc.aio.Channel

    async def ask(self, addend: int, *descriptors: Mapping[str, str]) -> Any:  # noqa: ANN401 - made at run time.
        """Ask as Envoy does; a failure is raised as the domain error it was."""
        request = RateLimitRequest(domain="calls")
        for entries in descriptors:
            descriptor = request.descriptors.add()
            descriptor.hits_addend.value = addend
            for key, value in entries.items():
                descriptor.entries.add(key=key, value=value)
        call: Any = self.channel.unary_unary(
            METHOD,
            request_serializer=RateLimitRequest.SerializeToString,
            response_deserializer=RateLimitResponse.FromString,
        )
        try:
            return await call(request, timeout=10)
        except grpc.aio.AioRpcError as error:
            raise read_error(error) from error

    async def kuadrant(self, method: str, entries: Mapping[str, str], **fields: Any) -> Any:  # noqa: ANN401 - as above.
        """Ask as Kuadrant's filter does; a failure is raised as the domain error it was."""
        described = KUADRANT_SERVICE.methods_by_name[method]
        request = GetMessageClass(described.input_type)(**{"domain": "calls", **fields})
        descriptor = request.descriptors.add()  # type: ignore[attr-defined]  # as above.
        for key, value in entries.items():
            descriptor.entries.add(key=key, value=value)
        call: Any = self.channel.unary_unary(
            f"/{KUADRANT_SERVICE.full_name}/{method}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=GetMessageClass(described.output_type).FromString,
        )
        try:
            return await call(request, timeout=10)
        except grpc.aio.AioRpcError as error:
            raise read_error(error) from error

    async def standing(self, key: str = "k-1") -> Standing:
        """Say how the limit of a key stands."""
        (stood,) = await self.gate.balances(key=key)
        return stood


def standing(used: int, reserved: int, key: str = "k-1") -> Standing:
    """Return how the limit of a key stands."""
    return Standing("tokens", f"acme/{key}", used, reserved, max(0, 100 - used - reserved))


@pytest.fixture
async def place(
    settings_for: Callable[..., ServiceSettings],
    keys: SigningKeys,
    tenant: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[Place]:
    """A gate that serves a mapped domain to Envoy."""
    (port,) = choose_ports(1)
    (tmp_path / "calls.yaml").write_text(yaml.safe_dump({"domain": "calls", "mapping": MAPPING}))
    monkeypatch.setenv("TOLLKEEPER_ENVOY_LISTEN", f"127.0.0.1:{port}")
    monkeypatch.setenv("TOLLKEEPER_ENVOY_CONFIG", str(tmp_path))
    monkeypatch.setenv("TOLLKEEPER_ENVOY_TENANT", tenant)
    async with (
        quota_world(settings_for, keys, tenant, quota_decision_timeout_s=5.0) as gate,
        open_channel(f"127.0.0.1:{port}") as channel,
    ):
        await gate.put(a_limit(level="LEVEL_KEY"))
        yield Place(gate, channel)


async def test_a_call_is_held_before_and_settled_after(place: Place) -> None:
    """The settlement finds the hold by the id of the call, and books what was really used."""
    held = await place.ask(60, HOLDING)
    while_held = await place.standing()
    await place.ask(25, DONE)

    (status,) = held.statuses
    assert held.overall_code == RateLimitResponse.OK
    assert (status.current_limit.name, status.limit_remaining) == ("tokens", 40)
    assert while_held == standing(0, reserved=60)
    assert await place.standing() == standing(25, reserved=0)


async def test_a_call_that_does_not_fit_is_refused_with_headers(place: Place) -> None:
    """Nothing is charged, and the headers say what is left and when to come again."""
    await place.ask(60, HOLDING)
    refused = await place.ask(41, {**HOLDING, "request_id": "r-2"})

    (status,) = refused.statuses
    headers = {each.key: each.value for each in refused.response_headers_to_add}
    assert (refused.overall_code, status.code) == (RateLimitResponse.OVER_LIMIT,) * 2
    assert headers["RateLimit"].startswith('"tokens";r=40;t=')
    assert int(headers["Retry-After"]) > 0
    assert await place.standing() == standing(0, reserved=60)


async def test_calls_of_one_id_are_held_and_booked_each(place: Place) -> None:
    """Whoever repeats the id of a call gets nothing for free."""
    await place.ask(30, HOLDING)
    await place.ask(30, HOLDING)
    while_held = await place.standing()
    await place.ask(20, DONE)
    await place.ask(20, DONE)

    assert while_held == standing(0, reserved=60)
    assert (await place.standing()).used == 40


async def test_what_nobody_held_is_booked(place: Place) -> None:
    """A settlement without a hold, and one without the id of a call, count all the same."""
    await place.ask(20, DONE)
    await place.ask(15, {"api_key": "k-1", "unit": "tokens", "phase": "done"})

    assert await place.standing() == standing(35, reserved=0)


async def test_a_call_without_an_id_is_booked_at_once(place: Place) -> None:
    """Nobody could settle it."""
    await place.ask(20, {"api_key": "k-1", "unit": "tokens"})

    assert await place.standing() == standing(20, reserved=0)


async def test_keys_that_are_no_ids_get_counters_of_their_own(place: Place) -> None:
    """A bearer token with foreign characters is a subject too."""
    for token in ("Bearer a b", "Bearer a+b"):
        answer = await place.ask(80, {**HOLDING, "request_id": token, "api_key": token})
        assert answer.overall_code == RateLimitResponse.OK


async def test_several_descriptors_are_one_call(place: Place) -> None:
    """Of hits in one unit the most counts; each descriptor has its status."""
    answer = await place.ask(10, HOLDING, {"unit": "requests"}, {**HOLDING, "unit": "tokens"})

    assert [status.current_limit.name for status in answer.statuses] == ["tokens", "", "tokens"]
    assert await place.standing() == standing(0, reserved=10)


async def test_kuadrant_holds_and_commits(place: Place) -> None:
    """Amounts stand in for hits; a commit books in full, and says whether the hold was open."""
    entries = {"api_key": "k-1", "unit": "tokens"}
    held = await place.kuadrant("Reserve", entries, amount=60)
    refused = await place.kuadrant("Reserve", entries, amount=41)
    while_held = await place.standing()
    ended = [
        await place.kuadrant(
            "Commit", entries, reservation_id=held.reservation_id, actual_amount=25
        )
        for _ in range(2)
    ]

    assert (held.code, bool(held.reservation_id)) == (RateLimitResponse.OK, True)
    assert (refused.code, refused.reservation_id) == (RateLimitResponse.OVER_LIMIT, "")
    assert while_held == standing(0, reserved=60)
    assert [each.reservation_released for each in ended] == [True, False]
    assert await place.standing() == standing(50, reserved=0)


async def test_kuadrant_checks_and_reports(place: Place) -> None:
    """A check is for one and counts nothing; a report counts and refuses nothing."""
    entries = {"api_key": "k-1", "unit": "tokens"}
    before = await place.kuadrant("CheckRateLimit", entries, hits_addend=500)
    await place.kuadrant("Report", entries, hits_addend=100)
    after = await place.kuadrant("CheckRateLimit", entries)

    assert before.overall_code == RateLimitResponse.OK
    assert after.overall_code == RateLimitResponse.OVER_LIMIT
    assert await place.standing() == standing(100, reserved=0)


@pytest.mark.parametrize(
    ("method", "fields", "violation"),
    [
        ("Reserve", {"domain": "shop"}, ("domain", "is not mapped to Tollkeeper's limits")),
        (
            "Reserve",
            {"ttl": timedelta(days=2)},
            ("ttl", "must be from 100 milliseconds to 24 hours"),
        ),
        (
            "Commit",
            {"reservation_id": "a-1.somebody"},
            ("reservation_id", "is of another customer"),
        ),
        (
            "Commit",
            {"reservation_id": "?"},
            ("reservation_id", "must be the reservation_id of a ReserveResponse"),
        ),
    ],
)
async def test_kuadrant_is_refused_what_makes_no_sense(
    place: Place, method: str, fields: Mapping[str, Any], violation: tuple[str, str]
) -> None:
    """The error names the field, and nothing is held or booked."""
    with pytest.raises(DomainError) as refused:
        await place.kuadrant(method, {"api_key": "k-1", "unit": "tokens"}, **fields)

    (found,) = refused.value.violations
    assert (found.field, found.description) == violation
    assert await place.standing() == standing(0, reserved=0)


@pytest.mark.parametrize(
    ("descriptors", "violation"),
    [
        pytest.param(
            [HOLDING, {**HOLDING, "api_key": "k-2"}],
            ("descriptors[1]", "has another api_key than a descriptor before it"),
            id="two keys",
        ),
        pytest.param(
            [{**HOLDING, "unit": "Token!"}],
            (
                "descriptors[1].unit",
                "must be 1 to 63 characters of a-z, 0-9 and '_', or a currency such as USD",
            ),
            id="no unit",
        ),
    ],
)
async def test_descriptors_that_are_no_call_are_refused(
    place: Place, descriptors: list[Mapping[str, str]], violation: tuple[str, str]
) -> None:
    """The error names the descriptor, and nothing is held."""
    with pytest.raises(DomainError) as refused:
        await place.ask(10, *descriptors)

    (found,) = refused.value.violations
    assert (found.field, found.description) == violation
    assert await place.standing() == standing(0, reserved=0)
