"""API keys: given out once, known by what they may do, and revoked for ever."""

import asyncio
import json
import stat
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import redis

from cli.errors import CommandError
from cli.keys import ApiKeys, parse_lifetime, tell_services
from cli.scopes import all_scopes
from cli.signing_keys import SigningKeys, make_private_key
from kit.clock import ManualClock
from kit.errors import Unauthenticated
from kit.redis_pool import RedisPool
from kit.rpc.auth import Caller, TokenVerifier, load_jwk
from kit.rpc.revocations import REVOKED_KEYS, Revocations
from tests.command_line import Outcome, Tollkeeper

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)

Keys = Callable[..., Outcome]


@pytest.fixture
def keys_command(
    tollkeeper: Tollkeeper, tmp_path: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> Keys:
    """Run `tollkeeper keys …` on a data directory of its own and the Redis of the session."""
    monkeypatch.setenv("REDIS_URL", redis_url)
    monkeypatch.setenv("TOLLKEEPER_DATA_DIR", str(tmp_path / "data"))
    return lambda *arguments: tollkeeper("keys", *arguments)


@pytest.fixture
def api_keys(tmp_path: Path) -> ApiKeys:
    """A ledger at noon."""
    issuer = SigningKeys.load_or_make(tmp_path).issuer_key()
    return ApiKeys(tmp_path, issuer, ManualClock(NOON))


def created(keys_command: Keys, *arguments: str) -> dict[str, str]:
    """Create a key and read what the command says about it."""
    defaults = ("--tenant", "acme", "--scope", "quota.decide")
    outcome = keys_command("create", "--json", *(arguments or defaults))
    assert outcome.status == 0
    return dict(json.loads(outcome.output))


def verified(token: str, data_dir: Path, redis_url: str) -> Caller:
    """Verify a token exactly as a service does."""

    async def verify() -> Caller:
        pool = RedisPool(redis_url)
        revocations = Revocations(pool)
        await revocations.connect()
        try:
            jwks = load_jwk(data_dir / "keys" / "jwks.json")
            return TokenVerifier(jwks, revocations).verify(token)
        finally:
            await revocations.close()
            await pool.close()

    return asyncio.run(verify())


def test_a_created_key_opens_what_its_scopes_say(
    keys_command: Keys, tmp_path: Path, redis_url: str
) -> None:
    """A service takes the token for its tenant, its scopes and its key id, and nothing else."""
    key = created(
        keys_command, "--tenant", "acme", "--scope", "quota.decide", "--scope", "meter.ingest"
    )

    assert verified(key["token"], tmp_path / "data", redis_url) == Caller(
        "acme", frozenset({"quota.decide", "meter.ingest"}), key["key_id"]
    )


def test_a_revoked_key_opens_nothing(keys_command: Keys, tmp_path: Path, redis_url: str) -> None:
    """Revoking reaches the services through Redis, and repeating it is harmless."""
    key = created(keys_command)

    outcomes = [keys_command("revoke", key["key_id"]), keys_command("revoke", key["key_id"])]

    said = Outcome(0, f"key {key['key_id']} of tenant acme is revoked\n", "")
    assert outcomes == [said, said]
    with pytest.raises(Unauthenticated, match="was revoked"):
        verified(key["token"], tmp_path / "data", redis_url)


def test_revocations_outlive_redis(keys_command: Keys, redis_url: str, tmp_path: Path) -> None:
    """Redis is a copy: after it was emptied, the ledger tells the services again."""
    key = created(keys_command)
    keys_command("revoke", key["key_id"])
    with redis.Redis.from_url(redis_url) as client:
        client.zrem(REVOKED_KEYS, key["key_id"])

    ledger = ApiKeys(tmp_path / "data" / "keys", make_private_key())
    tell_services(redis_url, ledger.revoked())

    with pytest.raises(Unauthenticated, match="was revoked"):
        verified(key["token"], tmp_path / "data", redis_url)


def test_revoking_without_redis_is_remembered_and_says_what_to_do(
    keys_command: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ledger knows already; the services have to be told by repeating the command."""
    key = created(keys_command)
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1/0")

    outcome = keys_command("revoke", key["key_id"])

    assert outcome.status == 1
    assert outcome.errors.startswith(
        f"tollkeeper: key {key['key_id']} is revoked in the ledger, but the services do not know"
    )
    (listed,) = json.loads(keys_command("list", "--json").output)["keys"]
    assert listed["state"] == "revoked"


def test_the_token_is_shown_once_and_kept_nowhere(keys_command: Keys, tmp_path: Path) -> None:
    """Whoever reads the ledger or the list learns no token."""
    key = created(keys_command)

    listed = keys_command("list", "--json").output
    kept = "".join(path.read_text() for path in (tmp_path / "data").rglob("*") if path.is_file())

    assert key["key_id"] in listed
    assert key["token"] not in listed
    assert key["token"] not in kept


def test_the_list_names_every_key_and_its_state(keys_command: Keys) -> None:
    """One line for each key, the oldest first."""
    first = created(
        keys_command, "--tenant", "acme", "--scope", "tax.read", "--name", "ci", "--expires", "2h"
    )
    second = created(keys_command)
    keys_command("revoke", second["key_id"])

    lines = keys_command("list").output.splitlines()

    assert [line.split("\t")[:4] for line in lines] == [
        [first["key_id"], "ci", "acme", "active"],
        [second["key_id"], "", "acme", "revoked"],
    ]
    assert [line.split("\t")[5] for line in lines] == ["tax.read", "quota.decide"]


def test_private_keys_are_readable_by_their_owner_alone(keys_command: Keys, tmp_path: Path) -> None:
    """The public half holds no private one."""
    created(keys_command)
    folder = tmp_path / "data" / "keys"

    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.glob("*.json")}
    public = json.loads((folder / "jwks.json").read_text())["keys"]

    assert (modes["issuer.json"], modes["service.json"], modes["issued.json"]) == (0o600,) * 3
    assert [set(key) for key in public] == [{"kty", "crv", "x", "kid", "alg", "use"}] * 2


def test_signing_keys_stay_the_same(tmp_path: Path) -> None:
    """A second start must not void every key that was given out."""
    first = SigningKeys.load_or_make(tmp_path)
    before = (first.issuer_key(), first.service_key(), first.public_file.read_text())

    second = SigningKeys.load_or_make(tmp_path)

    assert (second.issuer_key(), second.service_key(), second.public_file.read_text()) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(
            ["create", "--tenant", "acme", "--scope", "quota.all"],
            f"there is no scope quota.all; there are {', '.join(all_scopes())}",
            id="unknown scope",
        ),
        pytest.param(
            ["create", "--tenant", "Acme Ltd", "--scope", "quota.decide"],
            "tenant: must be 1 to 63 characters of a-z, 0-9 and '-', starting with a letter or "
            "digit",
            id="bad tenant",
        ),
        pytest.param(
            ["create", "--tenant", "acme", "--scope", "quota.decide", "--expires", "soon"],
            "'soon' is no lifetime; write for example 90d, 12h, 30m or 45s",
            id="no lifetime",
        ),
        pytest.param(
            ["create", "--tenant", "acme", "--scope", "quota.decide", "--expires", "0d"],
            "a key lives at least one second and at most 3650d",
            id="no time at all",
        ),
        pytest.param(
            ["create", "--tenant", "acme", "--scope", "quota.decide", "--expires", "999999999d"],
            "a key lives at least one second and at most 3650d",
            id="for ever",
        ),
    ],
)
def test_what_cannot_be_is_refused_in_one_sentence(
    keys_command: Keys, tmp_path: Path, arguments: list[str], message: str
) -> None:
    """No key is given out, no traceback is shown, and the exit status tells."""
    outcome = keys_command(*arguments)

    assert outcome == Outcome(1, "", f"tollkeeper: {message}\n")
    assert not (tmp_path / "data" / "keys" / "issued.json").exists()


def test_an_unknown_key_cannot_be_revoked(keys_command: Keys) -> None:
    """A mistyped id must not look like a success."""
    created(keys_command)

    assert keys_command("revoke", "key_unknown") == Outcome(
        1, "", "tollkeeper: no key key_unknown was given out here\n"
    )


@pytest.mark.parametrize("arguments", [["list"], ["revoke", "key_unknown"]])
def test_where_no_key_was_given_out_nothing_is_made(
    keys_command: Keys, tmp_path: Path, arguments: list[str]
) -> None:
    """A look into the wrong folder must not leave a data directory there."""
    data_dir = tmp_path / "data"

    outcome = keys_command(*arguments)

    assert outcome == Outcome(1, "", f"tollkeeper: no keys were given out in {data_dir}\n")
    assert not data_dir.exists()


def test_a_damaged_ledger_is_refused_and_left_alone(keys_command: Keys, tmp_path: Path) -> None:
    """It may still be read by a person; overwriting it would lose revocations."""
    created(keys_command)
    ledger = tmp_path / "data" / "keys" / "issued.json"
    ledger.write_text("{")

    outcome = keys_command("create", "--tenant", "acme", "--scope", "quota.decide")

    assert outcome == Outcome(1, "", f"tollkeeper: cannot read {ledger}\n")
    assert ledger.read_text() == "{"


@pytest.mark.parametrize(
    ("text", "lifetime"),
    [
        ("45s", timedelta(seconds=45)),
        ("30m", timedelta(minutes=30)),
        ("12h", timedelta(hours=12)),
        ("3650d", timedelta(days=3650)),
    ],
)
def test_lifetimes_are_read_in_four_units(text: str, lifetime: timedelta) -> None:
    """Seconds, minutes, hours and days; months have no fixed length."""
    assert parse_lifetime(text) == lifetime


def test_the_admin_key_has_every_scope_and_stays_the_same(api_keys: ApiKeys) -> None:
    """A restart prints the key that people have already copied."""
    first = api_keys.admin_token("acme")

    assert api_keys.admin_token("acme") == first
    (key,) = api_keys.given_out()
    assert (key.name, key.tenant, key.scopes) == ("admin", "acme", all_scopes())


def test_a_new_admin_key_replaces_one_that_is_revoked_old_or_of_another_tenant(
    api_keys: ApiKeys, tmp_path: Path
) -> None:
    """The printed key always works, and for days to come."""
    tokens = [api_keys.admin_token("acme")]

    api_keys.revoke(api_keys.given_out()[-1].key_id, None)
    tokens.append(api_keys.admin_token("acme"))
    later = ApiKeys(tmp_path, api_keys.issuer_key, ManualClock(NOON + timedelta(days=84)))
    tokens.append(later.admin_token("acme"))
    tokens.append(later.admin_token("globex"))
    other_issuer = ApiKeys(tmp_path, make_private_key(), ManualClock(NOON + timedelta(days=84)))
    tokens.append(other_issuer.admin_token("globex"))

    assert len(set(tokens)) == 5


def test_keys_made_at_once_are_all_remembered(api_keys: ApiKeys, tmp_path: Path) -> None:
    """A key that the ledger forgot could never be revoked."""
    script = (
        "import sys; from datetime import timedelta; from pathlib import Path\n"
        "from cli.keys import ApiKeys; from cli.signing_keys import SigningKeys\n"
        "folder = Path(sys.argv[1])\n"
        "keys = ApiKeys(folder, SigningKeys.load_or_make(folder).issuer_key())\n"
        "for _ in range(20):\n"
        "    keys.create(tenant='acme', scopes=['tax.read'], lifetime=timedelta(1), name='')"
    )
    makers = [subprocess.Popen([sys.executable, "-c", script, tmp_path]) for _ in range(3)]

    assert [maker.wait() for maker in makers] == [0, 0, 0]
    assert len(api_keys.given_out()) == 60


def test_a_broken_signing_key_is_one_clear_error(tmp_path: Path) -> None:
    """Making a new one silently would void every key that was given out."""
    (tmp_path / "issuer.json").write_text("{}")

    with pytest.raises(CommandError, match=r"issuer\.json is not a private Ed25519 JWK"):
        SigningKeys.load_or_make(tmp_path)
