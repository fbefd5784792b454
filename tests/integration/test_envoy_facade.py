"""The facade for Envoy over gRPC on a real Redis: counting, tenants, new rules, faults."""

import asyncio
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from google.protobuf.json_format import MessageToDict
from grpc import StatusCode
from grpc_health.v1 import health_pb2, health_pb2_grpc

from cli.embedded.loopback import choose_ports
from cli.signing_keys import SigningKeys
from kit.errors import CannotStart, InvalidInput
from kit.rpc.auth import TokenIssuer
from kit.rpc.channel import open_channel
from kit.settings import BadSettings, ServiceSettings
from services.quota.envoy import counters as counters_module
from services.quota.envoy.files import RuleFiles
from services.quota.envoy.messages import METHOD, RateLimitResponse
from services.quota.envoy.settings import load_envoy_settings
from tests.command_line import Tollkeeper
from tests.envoy_world import EnvoyWorld, Said, asking, envoy_world, said, stopped_clock
from tests.hosting import hosted

CHANGE_TAKES_AT_MOST_S = 10
RULES: Mapping[str, Any] = {
    "domain": "api",
    "descriptors": [
        {"key": "key", "rate_limit": {"unit": "year", "requests_per_unit": 100}},
        {"key": "few", "rate_limit": {"unit": "year", "requests_per_unit": 2}},
        {
            "key": "told",
            "rate_limit": {"unit": "year", "requests_per_unit": 2},
            "metadata": {"team": "web"},
        },
    ],
}
KEY, FEW = {"key": "k"}, {"few": "f"}

World = Callable[..., Any]


@pytest.fixture
def world(redis_url: str, keys: SigningKeys, tenant: str, tmp_path: Path) -> World:
    """Answer what runs a facade with the rules above; keyword arguments are its settings."""
    rules = tmp_path / "rules"
    rules.mkdir()

    def run(**settings: object) -> Any:  # noqa: ANN401 - an asynchronous context.
        given = {"tenant": tenant, **settings}
        of = str(given.pop("tenant") or "")
        return envoy_world(redis_url, keys, of, rules, [RULES], **given)

    return run


def codes(answers: list[Any]) -> list[str]:
    """Reduce answers to their overall codes."""
    return [RateLimitResponse.Code.Name(answer.overall_code) for answer in answers]


async def left(world: EnvoyWorld, *descriptors: Mapping[str, str]) -> list[int]:
    """Look, without counting, at what is left of limits."""
    request = asking("api", *descriptors)
    for descriptor in request.descriptors:
        descriptor.hits_addend.value = 0
    return [status.limit_remaining for status in (await world.ask(request)).statuses]


async def test_of_many_callers_exactly_as_many_pass_as_the_limit_admits(world: World) -> None:
    """250 calls at once race for a limit of 100, over two facades: 100 pass."""
    async with world() as one, world() as other:
        asked = [each.ask(asking("api", KEY)) for each in (one, other) for _ in range(125)]
        answers = codes(await asyncio.gather(*asked))

        assert sorted(answers) == ["OK"] * 100 + ["OVER_LIMIT"] * 150
        assert await left(one, KEY) == [0]


async def test_hits_of_many_weights_are_all_counted(world: World) -> None:
    """What many calls add at once, each its own number, adds up; a look adds nothing."""
    async with world() as running:
        asked = [running.ask(asking("api", KEY, hits_addend=n)) for n in (1, 2, 3, 4)] * 1
        await asyncio.gather(*asked, *(left(running, KEY) for _ in range(20)))

        assert await left(running, KEY) == [90]


async def test_a_descriptors_own_number_goes_before_that_of_the_request(world: World) -> None:
    """Where it has none, the request's counts; one alone may be a look."""
    request = asking("api", KEY, {"few": "f"}, {"key": "other"}, hits_addend=2)
    request.descriptors[1].hits_addend.value = 0
    request.descriptors[2].hits_addend.value = 30
    async with world() as running:
        await running.ask(request)

        assert await left(running, KEY, FEW, {"key": "other"}) == [98, 2, 70]


async def test_a_refused_call_is_charged_on_its_other_limits(world: World) -> None:
    """Envoy's own rule: refused calls count everywhere."""
    async with world() as running:
        answers = [await running.ask(asking("api", KEY, FEW)) for _ in range(4)]

        assert codes(answers) == ["OK", "OK", "OVER_LIMIT", "OVER_LIMIT"]
        assert await left(running, KEY, FEW) == [96, 0]


async def test_a_refused_call_spares_its_other_limits_where_that_is_set(world: World) -> None:
    """Also when many arrive at once: what refuses is decided before anything is charged."""
    async with world(stops=True) as running:
        asked = [running.ask(asking("api", KEY, FEW)) for _ in range(20)]
        answers = codes(await asyncio.gather(*asked))

        assert sorted(answers) == ["OK"] * 2 + ["OVER_LIMIT"] * 18
        assert await left(running, KEY, FEW) == [98, 0]


async def test_a_window_that_is_over_is_remembered_and_not_charged(world: World) -> None:
    """With a local cache Redis is not asked again; the other limits of a call still are."""
    async with world(local_cache_size=10) as running:
        answers = [await running.ask(asking("api", KEY, FEW)) for _ in range(5)]
        keys = [key async for key in running.redis.client.scan_iter(f"*{running.tenant}*few*")]
        counted = [(await running.redis.client.get(key)).split()[1] for key in keys]

        assert codes(answers) == ["OK"] * 2 + ["OVER_LIMIT"] * 3
        assert counted == [b"3"]
        assert await left(running, KEY) == [95]


@pytest.mark.parametrize("stops", [False, True])
async def test_a_window_turns_at_multiples_of_its_length(
    world: World, tenant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, stops: bool
) -> None:
    """What was used in one window is forgotten in the next, not a second before."""
    monkeypatch.setattr(counters_module, "SCRIPT", stopped_clock(tmp_path, tenant))
    year_s = 365 * 86_400
    async with world(stops=stops) as running:
        seen = []
        for now_s in (year_s, 2 * year_s - 1, 2 * year_s, 2 * year_s + 1):
            await running.set_clock(now_s)
            (status,) = (await running.ask(asking("api", FEW))).statuses
            seen.append((status.limit_remaining, status.duration_until_reset.seconds))

    assert seen == [(1, year_s), (0, 1), (1, year_s), (0, year_s - 1)]


async def test_counters_go_when_their_window_ends(world: World) -> None:
    """Nothing stays in Redis for ever."""
    async with world() as running:
        (status,) = (await running.ask(asking("api", KEY))).statuses
        (key,) = [key async for key in running.redis.client.scan_iter(f"*{running.tenant}*")]
        lives_s = await running.redis.client.ttl(key)

    assert 0 <= status.duration_until_reset.seconds - lives_s <= 5


async def test_a_token_names_the_tenant_and_keeps_its_counters_apart(
    world: World, keys: SigningKeys
) -> None:
    """Calls without a token are the set tenant's; what one tenant used another does not see."""
    async with world() as running:
        token = a_token(keys, f"{running.tenant}-other", "quota.decide")
        await running.ask(asking("api", KEY, hits_addend=10))
        (status,) = (await running.ask(asking("api", KEY), token)).statuses

        assert status.limit_remaining == 99
        assert await left(running, KEY) == [90]


async def test_a_token_must_be_good_and_may_be_required(world: World, keys: SigningKeys) -> None:
    """A bad token is refused although none would do; without a set tenant each call needs one."""
    async with world() as running:
        bad = await code_of(running, (("authorization", "Bearer nonsense"),))
        unfit = await code_of(running, a_token(keys, running.tenant, "quota.read"))
    async with world(tenant=None) as running:
        missing = await code_of(running, None)
        good = await running.ask(asking("api", KEY), a_token(keys, "somebody", "quota.decide"))

    assert (bad, unfit) == (StatusCode.UNAUTHENTICATED, StatusCode.PERMISSION_DENIED)
    assert missing == StatusCode.UNAUTHENTICATED
    assert codes([good]) == ["OK"]


async def code_of(world: EnvoyWorld, metadata: object) -> StatusCode:
    """Ask what must be refused; answer gRPC's code."""
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await world.call(asking("api", KEY), metadata)
    return refused.value.code()


def a_token(keys: SigningKeys, tenant: str, scope: str) -> tuple[tuple[str, str], ...]:
    """Make the metadata of a caller."""
    expires = datetime.now(UTC) + timedelta(hours=1)
    token = TokenIssuer(keys.issuer_key()).issue(tenant, [scope], "key", expires)
    return (("authorization", f"Bearer {token}"),)


async def test_a_bad_request_names_every_bad_field(world: World) -> None:
    """And counts nothing."""
    unknown_unit = asking("api", KEY, KEY)
    for descriptor in unknown_unit.descriptors:
        descriptor.limit.requests_per_unit = 1
    async with world() as running:
        empty = await running.refusal(asking(""))
        unit = await running.refusal(unknown_unit)
        many = await running.refusal(asking("api", *[KEY] * 1001))

        assert await left(running, KEY) == [100]
    assert isinstance(empty, InvalidInput)
    assert [each.field for each in empty.violations] == ["domain", "descriptors"]
    assert [each.field for each in unit.violations] == [
        "descriptors[0].limit.unit",
        "descriptors[1].limit.unit",
    ]
    assert [each.description for each in many.violations] == ["must be at most 1000"]


async def test_a_caller_may_bring_its_own_limit(world: World) -> None:
    """Envoy's descriptors may carry one; it counts by itself."""
    request = asking("api", {"free": "x"})
    request.descriptors[0].limit.requests_per_unit = 1
    request.descriptors[0].limit.unit = 6
    async with world() as running:
        answers = [await running.ask(request) for _ in range(2)]

    assert [said(answer) for answer in answers] == [
        [Said("OK", "1 YEAR", 0)],
        [Said("OVER_LIMIT", "1 YEAR", 0)],
    ]


async def test_answers_carry_headers_and_metadata_where_that_is_set(world: World) -> None:
    """Headers of the limit with the least left, and the metadata of the rules with room."""
    request = asking("api", {"told": "x"}, KEY, hits_addend=2)
    request.descriptors[1].hits_addend.value = 1
    async with world(has_headers=True, has_metadata=True) as running:
        answer = await running.ask(request)

    headers = {each.key: each.value for each in answer.response_headers_to_add}
    assert {**headers, "RateLimit-Reset": ""} == {
        "RateLimit-Limit": "2",
        "RateLimit-Remaining": "0",
        "RateLimit-Reset": "",
    }
    assert headers["RateLimit-Reset"] == str(answer.statuses[0].duration_until_reset.seconds)
    assert MessageToDict(answer.dynamic_metadata) == {
        "domain": "api",
        "descriptors": [
            {"entries": ["told=x"]},
            {"entries": ["key=k"], "hitsAddend": 1.0},
        ],
        "hitsAddend": 2.0,
        "metadata": {"team": "web"},
    }


async def test_a_change_of_the_rules_is_taken_and_a_bad_one_is_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The old rules stay while a new version has a fault, and one line names the faults."""
    file = tmp_path / "rules.yaml"
    file.write_text("domain: first\n")
    files = RuleFiles(file, poll_s=0.01)
    await files.connect()
    try:
        file.write_text("domain: broken\ndescriptors:\n  - {key: k}\n  - {key: k}\n")
        printed = await printed_with("duplicate descriptor", capsys)
        await asyncio.sleep(0.1)
        again = capsys.readouterr()
        kept = list(files.rules.domains)
        file.write_text("domain: second\n")
        async with asyncio.timeout(CHANGE_TAKES_AT_MOST_S):
            while list(files.rules.domains) == kept:  # noqa: ASYNC110 - nobody tells.
                await asyncio.sleep(0.01)
    finally:
        await files.close()

    assert (printed.count("envoy.rules.refused"), kept) == (1, ["first"])
    assert "envoy.rules.refused" not in again.out + again.err
    assert list(files.rules.domains) == ["second"]


async def printed_with(text: str, capsys: pytest.CaptureFixture[str]) -> str:
    """Wait until something was printed; answer all that was."""
    printed = ""
    async with asyncio.timeout(CHANGE_TAKES_AT_MOST_S):
        while text not in printed:
            await asyncio.sleep(0.01)
            found = capsys.readouterr()
            printed += found.out + found.err
    return printed


async def test_rules_that_cannot_be_used_prevent_the_start(tmp_path: Path) -> None:
    """A missing file, an empty folder, and every fault of every file."""
    with pytest.raises(CannotStart, match=r"missing\.yaml:1: cannot be read: No such file"):
        await RuleFiles(tmp_path / "missing.yaml").connect()
    with pytest.raises(CannotStart, match=r"the folder holds no \.yaml"):
        await RuleFiles(tmp_path).connect()
    (tmp_path / "a.yaml").write_text("domain: a\nfoo: 1\n")
    (tmp_path / "b.yml").write_bytes(b"\xff")
    with pytest.raises(CannotStart, match=r"(?s)b.yml:1: is not UTF-8.*a.yaml:2: unknown field"):
        await RuleFiles(tmp_path).connect()


def test_a_file_is_checked_without_a_server(tollkeeper: Tollkeeper, tmp_path: Path) -> None:
    """`tollkeeper quota check-config` names every fault, or says what is in the file."""
    good, bad = tmp_path / "good.yaml", tmp_path / "bad.yaml"
    limit = "rate_limit: {unit: day, requests_per_unit: 1}"
    good.write_text(f"domain: d\ndescriptors:\n  - {{key: k, {limit}}}\n")
    bad.write_text(f"domain: d\ndescriptors:\n  - {{key: k, {limit}}}\n  - {{key: k}}\n  - {{}}\n")

    accepted = tollkeeper("quota", "check-config", good)
    refused = tollkeeper("quota", "check-config", bad)

    assert (accepted.status, accepted.output) == (0, f"{good}: good, 1 domains, 1 limits\n")
    assert refused.status == 1
    assert refused.errors.splitlines()[1:] == [
        f"{bad}:4: duplicate descriptor 'd.k'",
        f"{bad}:5: the descriptor has no key",
    ]


async def test_the_service_serves_the_facade_beside_its_contract(
    settings_for: Callable[..., ServiceSettings],
    tenant: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where an address is set, the facade has health and answers; the gate's server has it not."""
    (port,) = choose_ports(1)
    file = tmp_path / "rules.yaml"
    file.write_text("domain: api\n")
    monkeypatch.setenv("TOLLKEEPER_ENVOY_LISTEN", f"127.0.0.1:{port}")
    monkeypatch.setenv("TOLLKEEPER_ENVOY_CONFIG", str(file))
    monkeypatch.setenv("TOLLKEEPER_ENVOY_TENANT", tenant)
    async with (
        hosted("quota", settings_for("quota")) as address,
        open_channel(f"127.0.0.1:{port}") as own,
        open_channel(address) as gate,
    ):
        name = "envoy.service.ratelimit.v3.RateLimitService"
        request = health_pb2.HealthCheckRequest(service=name)
        healthy = await health_pb2_grpc.HealthStub(own).Check(request)
        with pytest.raises(grpc.aio.AioRpcError) as absent:
            await gate.unary_unary(METHOD)(asking("api", KEY).SerializeToString())

    assert healthy.status == health_pb2.HealthCheckResponse.SERVING
    assert absent.value.code() == grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize(
    ("variables", "fault"),
    [
        ({"LISTEN": "127.0.0.1:1"}, "TOLLKEEPER_ENVOY_CONFIG is required"),
        ({"LISTEN": "nowhere"}, "TOLLKEEPER_ENVOY_LISTEN must be a host and a port"),
        (
            {"LISTEN": "0.0.0.0:1", "CONFIG": "x", "TENANT": "acme"},
            "TOLLKEEPER_ENVOY_LISTEN must be on loopback",
        ),
        ({"LISTEN": "[::1]:1", "CONFIG": "x", "TENANT": "A B"}, "TOLLKEEPER_ENVOY_TENANT is no"),
        ({"NEAR_LIMIT_RATIO": "2"}, "TOLLKEEPER_ENVOY_NEAR_LIMIT_RATIO"),
    ],
)
def test_bad_settings_name_their_variables(
    variables: dict[str, str], fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Calls without a token are taken on loopback only."""
    for name, value in variables.items():
        monkeypatch.setenv(f"TOLLKEEPER_ENVOY_{name}", value)
    with pytest.raises(BadSettings, match=fault):
        load_envoy_settings()


def test_the_facade_is_off_unless_it_has_an_address() -> None:
    """Nothing listens by default."""
    assert load_envoy_settings().listen is None


async def test_redis_may_forget_the_script(world: World) -> None:
    """After a restart of Redis the script is loaded again, and nothing is counted twice."""
    async with world() as running:
        await running.ask(asking("api", KEY))
        await running.redis.client.script_flush()
        await running.ask(asking("api", KEY))

        assert await left(running, KEY) == [98]
