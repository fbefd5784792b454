"""Who is calling: signed tokens, checked here without asking anybody.

A token is a JWT signed with Ed25519 (RFC 8037): header `kid` names the signing key; claims are
`tid` the tenant, `scp` the scopes separated by spaces, `jti` the id of the API key, `iat`, `exp`
and `iss` = "tollkeeper". Refuses every other algorithm. No error repeats a part of a token.
"""

import json
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NoReturn, cast

import jwt

from kit.clock import Clock, SystemClock
from kit.errors import CannotStart, Denied, InvalidInput, Unauthenticated
from kit.ids import parse_tenant
from kit.rpc.revocations import Revocations

ISSUER = "tollkeeper"
ALGORITHM = "EdDSA"

_BEARER = "bearer "
_TOKEN_LENGTH_MAX = 8192
_NEVER = datetime.max.replace(tzinfo=UTC)
_REMEMBERED_MAX = 10_000
_CLOCK_SKEW_MAX = timedelta(seconds=60)
_SERVICE_TOKEN_LIFETIME = timedelta(minutes=5)
_SERVICE_TOKEN_RENEWAL = timedelta(minutes=1)
# Everything is checked here: against the injected clock, and with one message for each fault.
_UNCHECKED = {f"verify_{claim}": False for claim in ("exp", "iat", "nbf", "aud", "sub", "jti")}
_SYSTEM_CLOCK = SystemClock()

_caller: ContextVar["Caller"] = ContextVar("caller")


@dataclass(frozen=True, slots=True)
class Caller:
    """The verified caller of a method: its tenant, what it may do, and the key it holds."""

    tenant: str
    scopes: frozenset[str]
    key_id: str


@dataclass(frozen=True, slots=True)
class Admission:
    """A caller whose token was verified, and until when it holds."""

    caller: Caller
    expire_time: datetime = _NEVER


def caller(context: object) -> Caller:  # noqa: ARG001 - a call's caller belongs to its context.
    """Answer who makes the running call. `context` is the servicer's, in whose task this runs."""
    return _caller.get()


def set_caller(of_call: Caller) -> None:
    """Note who makes the call that this task serves."""
    _caller.set(of_call)


class TokenVerifier:
    """Verifies tokens by the public keys of a JWKS, and remembers those it has verified."""

    def __init__(
        self, jwks: Mapping[str, Any], revocations: Revocations, clock: Clock = _SYSTEM_CLOCK
    ) -> None:
        self._keys = _public_keys(jwks)
        self._revocations = revocations
        self._clock = clock
        self._remembered: OrderedDict[str, Admission] = OrderedDict()

    def verify(self, token: str) -> Caller:
        """Answer whose token it is.

        Raises:
            Unauthenticated: it is malformed, not signed by a known key, expired or revoked.
        """
        return self.admit(token).caller

    def admit(self, token: str) -> Admission:
        """Verify a token as `verify` does, and answer until when it holds as well."""
        admission = self._remembered.get(token)
        if admission is None:
            admission = self._read(token)
            self._remembered[token] = admission
            if len(self._remembered) > _REMEMBERED_MAX:
                self._remembered.popitem(last=False)
        else:
            self._remembered.move_to_end(token)
        self.check(admission)
        return admission

    def admit_call(
        self, authorization: str | None, scope: str, nameless: Admission | None = None
    ) -> Admission:
        """Verify what a call says of its caller, `Bearer <token>`, and that it has the scope.

        Raises:
            Unauthenticated: as `verify`, or nothing is said and there is no `nameless` caller.
            Denied: the caller lacks the scope.
        """
        if authorization is not None:
            if authorization[: len(_BEARER)].lower() != _BEARER:
                _refuse("authorization must read: Bearer <token>")
            admission = self.admit(authorization[len(_BEARER) :])
        elif nameless is not None:
            admission = nameless
        else:
            _refuse("the metadata authorization is missing")
        if scope not in admission.caller.scopes:
            raise Denied(
                "PERMISSION_DENIED",
                f"the token lacks the scope {scope}",
                metadata={"required_scope": scope},
            )
        return admission

    def check(self, admission: Admission) -> None:
        """Make sure that an admission still holds, as a long stream must again and again.

        Raises:
            Unauthenticated: the token has expired or its key was revoked meanwhile.
        """
        if self._clock.now() >= admission.expire_time:
            _refuse("the token has expired")
        if self._revocations.is_revoked(admission.caller.key_id):
            _refuse("the key of the token was revoked")

    def _read(self, token: str) -> Admission:
        if len(token) > _TOKEN_LENGTH_MAX:
            _refuse("the token is malformed")
        try:
            header = jwt.get_unverified_header(token)
        except jwt.InvalidTokenError:
            _refuse("the token is malformed")
        if header.get("alg") != ALGORITHM:
            _refuse("the token must be signed with EdDSA")
        key_id = header.get("kid")
        key = self._keys.get(key_id) if isinstance(key_id, str) else None
        if key is None:
            _refuse("the token is signed with an unknown key")
        try:
            claims = jwt.decode(token, key, algorithms=[ALGORITHM], options=cast("Any", _UNCHECKED))
        except jwt.InvalidSignatureError:
            _refuse("the signature of the token is wrong")
        except jwt.InvalidTokenError:
            _refuse("the token is malformed")
        return self._admission(claims)

    def _admission(self, claims: Mapping[str, object]) -> Admission:
        if claims.get("iss") != ISSUER:
            _refuse("the token is of another issuer")
        try:
            tenant = parse_tenant(_text(claims, "tid"))
        except InvalidInput:
            _refuse("the token lacks a valid claim tid")
        if _time(claims, "iat") > self._clock.now() + _CLOCK_SKEW_MAX:
            _refuse("the token was issued in the future")
        scopes = frozenset(_text(claims, "scp").split())
        verified = Caller(tenant, scopes, _text(claims, "jti"))
        return Admission(verified, _time(claims, "exp"))


class TokenIssuer:
    """Signs tokens with a private JWK."""

    def __init__(self, private_jwk: Mapping[str, str], clock: Clock = _SYSTEM_CLOCK) -> None:
        self._key = jwt.PyJWK(dict(private_jwk), algorithm=ALGORITHM)
        self._key_id = private_jwk["kid"]
        self._clock = clock

    def issue(self, tenant: str, scopes: Iterable[str], key_id: str, expires: datetime) -> str:
        """Sign a token for an API key of a tenant; times are whole seconds, rounded down."""
        claims = {
            "iss": ISSUER,
            "tid": tenant,
            "scp": " ".join(sorted(scopes)),
            "jti": key_id,
            "iat": int(self._clock.now().timestamp()),
            "exp": int(expires.timestamp()),
        }
        return jwt.encode(claims, self._key, algorithm=ALGORITHM, headers={"kid": self._key_id})


class ServiceIdentity:
    """The identity of a service that calls another on behalf of a tenant.

    Its tokens are ordinary ones: for one tenant, with the scopes the call needs, for five minutes.
    """

    def __init__(
        self, private_jwk: Mapping[str, str], name: str, clock: Clock = _SYSTEM_CLOCK
    ) -> None:
        self._issuer = TokenIssuer(private_jwk, clock)
        self._key_id = f"service-{name}"
        self._clock = clock
        self._tokens: OrderedDict[tuple[str, frozenset[str]], tuple[str, datetime]] = OrderedDict()

    def metadata(self, tenant: str, scopes: Iterable[str]) -> tuple[tuple[str, str], ...]:
        """Make the metadata of a call for a tenant."""
        wanted = (tenant, frozenset(scopes))
        now = self._clock.now()
        token, expires = self._tokens.get(wanted, ("", now))
        if expires - now < _SERVICE_TOKEN_RENEWAL:
            expires = now + _SERVICE_TOKEN_LIFETIME
            token = self._issuer.issue(*wanted, self._key_id, expires)
            self._tokens[wanted] = (token, expires)
            if len(self._tokens) > _REMEMBERED_MAX:
                self._tokens.popitem(last=False)
        return (("authorization", f"Bearer {token}"),)


def load_jwk(file: Path) -> dict[str, Any]:
    """Read a JWK or a JWKS from a file.

    Raises:
        CannotStart: the file cannot be read, or is not a JSON object.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CannotStart(f"cannot read the keys in {file}: {type(error).__name__}") from error
    if not isinstance(content, dict):
        raise CannotStart(f"cannot read the keys in {file}: not a JSON object")
    return content


def _public_keys(jwks: Mapping[str, Any]) -> dict[str, jwt.PyJWK]:
    listed = jwks.get("keys")
    if not isinstance(listed, list) or not listed:
        raise CannotStart("the JWKS of public keys holds no key")
    return dict(_public_key(jwk) for jwk in listed)


def _public_key(jwk: object) -> tuple[str, jwt.PyJWK]:
    if not isinstance(jwk, dict) or (jwk.get("kty"), jwk.get("crv")) != ("OKP", "Ed25519"):
        raise CannotStart("the JWKS must hold public Ed25519 keys (kty OKP, crv Ed25519) only")
    if "d" in jwk:
        raise CannotStart("the JWKS of public keys holds a private key: replace that key")
    key_id = jwk.get("kid")
    if not isinstance(key_id, str) or not key_id:
        raise CannotStart("each key of the JWKS needs a kid")
    try:
        return key_id, jwt.PyJWK(jwk, algorithm=ALGORITHM)
    except jwt.PyJWTError as error:
        raise CannotStart("the JWKS holds a malformed key") from error


def _text(claims: Mapping[str, object], claim: str) -> str:
    value = claims.get(claim)
    if not isinstance(value, str):
        _refuse(f"the token lacks a valid claim {claim}")
    return value


def _time(claims: Mapping[str, object], claim: str) -> datetime:
    value = claims.get(claim)
    if type(value) is not int:
        _refuse(f"the token lacks a valid claim {claim}")
    try:
        return datetime.fromtimestamp(value, UTC)
    except (OverflowError, OSError, ValueError):
        _refuse(f"the token lacks a valid claim {claim}")


def _refuse(message: str) -> NoReturn:
    raise Unauthenticated("UNAUTHENTICATED", message)
