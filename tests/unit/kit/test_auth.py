"""Tokens: whose they are, and everything that makes one worthless."""

import base64
import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jwt
import pytest

from cli.signing_keys import make_private_key
from kit.clock import ManualClock
from kit.errors import CannotStart, Unauthenticated
from kit.redis_pool import RedisPool
from kit.rpc.auth import Caller, ServiceIdentity, TokenIssuer, TokenVerifier, load_jwk
from kit.rpc.revocations import Revocations

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
KEY = make_private_key()
NEXT_KEY = make_private_key()
STRANGERS_KEY = make_private_key()


def public(key: Mapping[str, str]) -> dict[str, str]:
    """Leave the private part of a key out."""
    return {name: value for name, value in key.items() if name != "d"}


def a_verifier(*keys: Mapping[str, str], clock: ManualClock | None = None) -> TokenVerifier:
    """Make a verifier of tokens of these keys; by default of one, at noon."""
    clock = clock or ManualClock(NOON)
    revocations = Revocations(RedisPool("redis://nowhere"), clock)
    return TokenVerifier({"keys": [public(key) for key in keys or (KEY,)]}, revocations, clock)


def a_token(key: Mapping[str, str] = KEY, **claims: object) -> str:
    """Sign the claims of a good token, with those given instead."""
    good = {
        "iss": "tollkeeper",
        "tid": "acme",
        "scp": "meter.read quota.decide",
        "jti": "key-1",
        "iat": int(NOON.timestamp()),
        "exp": int((NOON + HOUR).timestamp()),
    }
    payload = {name: value for name, value in {**good, **claims}.items() if value is not None}
    signing = jwt.PyJWK(dict(key), algorithm="EdDSA")
    return jwt.encode(payload, signing, algorithm="EdDSA", headers={"kid": key["kid"]})


def forged(header: Mapping[str, object], signature: bytes = b"") -> str:
    """Put a good token's claims under another header and signature."""
    claims = a_token().split(".")[1]
    return ".".join((segment(json.dumps(header).encode()), claims, segment(signature)))


def segment(raw: bytes) -> str:
    """Encode a part of a token."""
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def with_last_byte_changed(token: str) -> str:
    """Change the signature of a token."""
    head, _, signature = token.rpartition(".")
    raw = bytearray(base64.urlsafe_b64decode(signature + "=="))
    raw[-1] ^= 1
    return f"{head}.{segment(bytes(raw))}"


def test_an_issued_token_says_who_is_calling() -> None:
    """Tenant, scopes and key come back as they were signed."""
    issuer = TokenIssuer(KEY, ManualClock(NOON))
    token = issuer.issue("acme", ["quota.decide", "meter.read"], "key-1", NOON + HOUR)

    assert a_verifier().verify(token) == Caller(
        tenant="acme", scopes=frozenset({"meter.read", "quota.decide"}), key_id="key-1"
    )


def test_keys_are_rotated_without_refusing_anybody() -> None:
    """While both keys are published, tokens of the old and of the new one hold."""
    verifier = a_verifier(KEY, NEXT_KEY)

    callers = [verifier.verify(a_token(key, jti=f"k{i}")) for i, key in enumerate((KEY, NEXT_KEY))]

    assert [caller.key_id for caller in callers] == ["k0", "k1"]


def hs256_with_the_public_key() -> str:
    """Sign with the published key as if it were a shared secret."""
    header = {"alg": "HS256", "kid": KEY["kid"], "typ": "JWT"}
    body = forged(header).rpartition(".")[0]
    secret = base64.urlsafe_b64decode(KEY["x"] + "=")
    signature = jwt.get_algorithm_by_name("HS256").sign(body.encode(), secret)
    return f"{body}.{segment(signature)}"


@pytest.mark.parametrize(
    ("token", "message"),
    [
        pytest.param("", "the token is malformed", id="empty"),
        pytest.param("a.b.c", "the token is malformed", id="no JSON"),
        pytest.param("é.é.é", "the token is malformed", id="no ASCII"),
        pytest.param("x" * 9000, "the token is malformed", id="too long"),
        pytest.param(a_token() + ".x", "the token is malformed", id="four parts"),
        pytest.param(
            forged({"alg": "none", "kid": KEY["kid"]}),
            "the token must be signed with EdDSA",
            id="no signature",
        ),
        pytest.param(
            hs256_with_the_public_key(), "the token must be signed with EdDSA", id="HMAC confusion"
        ),
        pytest.param(
            forged({"alg": "EdDSA"}), "the token is signed with an unknown key", id="no key id"
        ),
        pytest.param(
            forged({"alg": "EdDSA", "kid": 7}), "the token is malformed", id="a number as key id"
        ),
        pytest.param(
            a_token(STRANGERS_KEY), "the token is signed with an unknown key", id="a stranger"
        ),
        pytest.param(
            a_token({**STRANGERS_KEY, "kid": KEY["kid"]}),
            "the signature of the token is wrong",
            id="a stranger under our key id",
        ),
        pytest.param(
            with_last_byte_changed(a_token()),
            "the signature of the token is wrong",
            id="a changed signature",
        ),
        pytest.param(a_token(iss="another"), "the token is of another issuer", id="another issuer"),
        pytest.param(a_token(iss=None), "the token is of another issuer", id="no issuer"),
        pytest.param(a_token(tid=None), "the token lacks a valid claim tid", id="no tenant"),
        pytest.param(a_token(tid="A B"), "the token lacks a valid claim tid", id="no such tenant"),
        pytest.param(a_token(tid=7), "the token lacks a valid claim tid", id="a number as tenant"),
        pytest.param(a_token(scp=None), "the token lacks a valid claim scp", id="no scopes"),
        pytest.param(
            a_token(scp=["a"]), "the token lacks a valid claim scp", id="a list of scopes"
        ),
        pytest.param(a_token(jti=None), "the token lacks a valid claim jti", id="no key"),
        pytest.param(a_token(exp=None), "the token lacks a valid claim exp", id="no expiry"),
        pytest.param(a_token(exp=10**20), "the token lacks a valid claim exp", id="expiry too far"),
        pytest.param(a_token(iat=None), "the token lacks a valid claim iat", id="no issue time"),
        pytest.param(
            a_token(iat=int(NOON.timestamp()) + 61),
            "the token was issued in the future",
            id="from the future",
        ),
        pytest.param(
            a_token(exp=int(NOON.timestamp())), "the token has expired", id="expires this second"
        ),
    ],
)
def test_a_worthless_token_is_refused_and_not_repeated(token: str, message: str) -> None:
    """Each fault has its own message, and none shows a part of the token."""
    with pytest.raises(Unauthenticated) as refused:
        a_verifier().verify(token)

    assert (refused.value.reason, str(refused.value)) == ("UNAUTHENTICATED", message)


def test_a_remembered_token_still_expires() -> None:
    """Verifying once does not make a token immortal."""
    clock = ManualClock(NOON)
    verifier = a_verifier(clock=clock)
    token = a_token()
    verifier.verify(token)

    clock.set(NOON + HOUR)

    with pytest.raises(Unauthenticated, match="the token has expired"):
        verifier.verify(token)


def test_clocks_may_differ_by_a_minute() -> None:
    """A token from a machine whose clock is a little ahead is good."""
    token = a_token(iat=int(NOON.timestamp()) + 60)

    assert a_verifier().verify(token).tenant == "acme"


def test_a_service_calls_for_a_tenant_with_the_scopes_it_needs() -> None:
    """A service's token is an ordinary one, and names the service as its key."""
    identity = ServiceIdentity(KEY, "invoicing", ManualClock(NOON))

    ((name, value),) = identity.metadata("acme", ["rating.read"])

    assert name == "authorization"
    assert a_verifier().verify(value.removeprefix("Bearer ")) == Caller(
        tenant="acme", scopes=frozenset({"rating.read"}), key_id="service-invoicing"
    )


def test_a_services_token_is_used_again_until_it_is_about_to_expire() -> None:
    """Signing once serves many calls of one tenant and scope, and never another's."""
    clock = ManualClock(NOON)
    identity = ServiceIdentity(KEY, "invoicing", clock)
    first = identity.metadata("acme", ["rating.read"])
    others = {identity.metadata("globex", ["rating.read"]), identity.metadata("acme", ["tax.read"])}

    clock.set(NOON + timedelta(minutes=4))
    again = identity.metadata("acme", ["rating.read"])
    clock.set(NOON + timedelta(minutes=4, seconds=1))
    renewed = identity.metadata("acme", ["rating.read"])

    assert first not in others
    assert again == first
    assert renewed != first
    token = renewed[0][1].removeprefix("Bearer ")
    later = ManualClock(NOON + timedelta(minutes=9))
    assert a_verifier(clock=later).verify(token).tenant == "acme"


@pytest.mark.parametrize(
    ("jwks", "message"),
    [
        pytest.param({}, "the JWKS of public keys holds no key", id="no list"),
        pytest.param({"keys": []}, "the JWKS of public keys holds no key", id="an empty list"),
        pytest.param(
            {"keys": [KEY]},
            "the JWKS of public keys holds a private key: replace that key",
            id="a private key",
        ),
        pytest.param(
            {"keys": [{**public(KEY), "kty": "RSA"}]},
            "the JWKS must hold public Ed25519 keys (kty OKP, crv Ed25519) only",
            id="another kind",
        ),
        pytest.param(
            {"keys": [{**public(KEY), "kid": ""}]}, "each key of the JWKS needs a kid", id="no kid"
        ),
        pytest.param(
            {"keys": [{**public(KEY), "x": "AA"}]}, "the JWKS holds a malformed key", id="short"
        ),
    ],
)
def test_a_bad_set_of_keys_stops_the_start(jwks: dict[str, Any], message: str) -> None:
    """A service does not start with keys it cannot use or must not have."""
    revocations = Revocations(RedisPool("redis://nowhere"))

    with pytest.raises(CannotStart) as refused:
        TokenVerifier(jwks, revocations)

    assert str(refused.value) == message


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        pytest.param(None, "FileNotFoundError", id="no file"),
        pytest.param("{", "JSONDecodeError", id="no JSON"),
        pytest.param("[]", "not a JSON object", id="no object"),
    ],
)
def test_a_file_of_keys_that_cannot_be_read_stops_the_start(
    tmp_path: Path, content: str | None, problem: str
) -> None:
    """The error names the file and shows nothing of its content."""
    file = tmp_path / "jwks.json"
    file.write_text(content or "")
    missing = tmp_path / "missing.json" if content is None else file

    with pytest.raises(CannotStart) as refused:
        load_jwk(missing)

    assert str(refused.value) == f"cannot read the keys in {missing}: {problem}"
