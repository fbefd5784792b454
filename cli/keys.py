"""API keys: signed tokens, and the ledger that remembers which were given out.

A key is known only to whom it was given; the ledger keeps its id, never the token. Revoking writes
the ledger first, which lasts, and then Redis, from which the services learn.
"""

import fcntl
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path

import redis
from pydantic import TypeAdapter

from cli.errors import CommandError
from cli.given_servers import open_redis
from cli.private_file import write_private
from cli.scopes import all_scopes
from kit.clock import Clock, SystemClock
from kit.errors import InvalidInput
from kit.ids import new_id, parse_tenant
from kit.rpc.auth import TokenIssuer
from kit.rpc.revocations import REVOKED_KEYS

_UNITS: Mapping[str, timedelta] = {
    "s": timedelta(seconds=1),
    "m": timedelta(minutes=1),
    "h": timedelta(hours=1),
    "d": timedelta(days=1),
}
_LIFETIME_MAX = timedelta(days=3650)
_ADMIN_LIFETIME = timedelta(days=90)
_ADMIN_RENEWAL = timedelta(days=7)
_REDIS_WAIT_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """What the ledger knows of a key: everything but the token."""

    key_id: str
    name: str
    tenant: str
    scopes: tuple[str, ...]
    create_time: datetime
    expire_time: datetime
    revoke_time: datetime | None = None

    def state(self, now: datetime) -> str:
        """Say in one word whether the key opens anything."""
        if self.revoke_time:
            return "revoked"
        return "active" if now < self.expire_time else "expired"


@dataclass(frozen=True, slots=True)
class ApiKeys:
    """The keys that one issuer gave out, remembered in `folder`."""

    folder: Path
    issuer_key: Mapping[str, str]
    clock: Clock = field(default_factory=SystemClock)

    def create(
        self, *, tenant: str, scopes: Sequence[str], lifetime: timedelta, name: str
    ) -> tuple[ApiKey, str]:
        """Make a key and give it with its token, which nobody can ask for again.

        Raises:
            CommandError: The tenant or a scope cannot be, or the lifetime is out of bounds.
        """
        now = self.clock.now()
        key = ApiKey(
            key_id=new_id("key", now),
            name=name,
            tenant=_tenant(tenant),
            scopes=_scopes(scopes),
            create_time=now,
            expire_time=now + lifetime,
        )
        token = TokenIssuer(self.issuer_key, self.clock).issue(
            tenant=key.tenant, scopes=key.scopes, key_id=key.key_id, expires=key.expire_time
        )
        with self._changing():
            self._save((*self.given_out(), key))
        return key, token

    def given_out(self) -> tuple[ApiKey, ...]:
        """List every key, the oldest first."""
        try:
            return _LEDGER.validate_json(self._file.read_bytes())
        except FileNotFoundError:
            return ()
        except (OSError, ValueError):
            raise CommandError(f"cannot read {self._file}") from None

    def revoke(self, key_id: str, redis_url: str | None) -> ApiKey:
        """Revoke a key for ever; harmless when it is revoked already.

        Args:
            key_id: The key, as `create` named it.
            redis_url: Tells the running services; None when none run, which then learn at start.

        Raises:
            CommandError: No such key was given out, or Redis does not answer.
        """
        with self._changing():
            keys = {key.key_id: key for key in self.given_out()}
            if key_id not in keys:
                raise CommandError(f"no key {key_id} was given out here")
            key = keys[key_id]
            if key.revoke_time is None:
                key = replace(key, revoke_time=self.clock.now())
                self._save(tuple({**keys, key_id: key}.values()))
        if redis_url:
            try:
                tell_services(redis_url, [key])
            except redis.RedisError as error:
                raise CommandError(
                    f"key {key_id} is revoked in the ledger, but the services do not know yet, "
                    f"because Redis does not answer ({error}); repeat the command"
                ) from None
        return key

    def revoked(self) -> tuple[ApiKey, ...]:
        """List the revoked keys that have not expired by themselves."""
        now = self.clock.now()
        return tuple(key for key in self.given_out() if key.revoke_time and now < key.expire_time)

    def admin_token(self, tenant: str) -> str:
        """Give a key with every scope; the same one again while it is good for some days more."""
        kept = self.folder / "admin.json"
        with suppress(FileNotFoundError, ValueError):
            admin = _ADMIN.validate_json(kept.read_bytes())
            if admin.issuer == self.issuer_key["kid"] and self._is_good(admin.key_id, tenant):
                return admin.token
        key, token = self.create(
            tenant=tenant, scopes=all_scopes(), lifetime=_ADMIN_LIFETIME, name="admin"
        )
        admin = _Admin(key_id=key.key_id, issuer=self.issuer_key["kid"], token=token)
        write_private(kept, _ADMIN.dump_json(admin).decode())
        return token

    def _is_good(self, key_id: str, tenant: str) -> bool:
        soon = self.clock.now() + _ADMIN_RENEWAL
        return any(
            key.key_id == key_id
            and key.tenant == tenant
            and key.scopes == all_scopes()
            and key.state(soon) == "active"
            for key in self.given_out()
        )

    @property
    def _file(self) -> Path:
        return self.folder / "issued.json"

    def _save(self, keys: tuple[ApiKey, ...]) -> None:
        write_private(self._file, _LEDGER.dump_json(keys, indent=2).decode())

    @contextmanager
    def _changing(self) -> Iterator[None]:
        descriptor = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Admin:
    key_id: str
    issuer: str
    token: str


_LEDGER = TypeAdapter(tuple[ApiKey, ...])
_ADMIN = TypeAdapter(_Admin)


def tell_services(redis_url: str, keys: Sequence[ApiKey]) -> None:
    """Let every service know which keys are revoked; harmless when they know."""
    if not keys:
        return
    with open_redis(redis_url, timeout_s=_REDIS_WAIT_S) as client:
        client.zadd(
            REVOKED_KEYS, {key.key_id: int(key.expire_time.timestamp()) + 1 for key in keys}
        )


def parse_lifetime(text: str) -> timedelta:
    """Read a lifetime such as 90d, 12h, 30m or 45s.

    Raises:
        CommandError: It is none, or not between one second and ten years.
    """
    match = re.fullmatch(r"([0-9]{1,9})([smhd])", text)
    if not match:
        raise CommandError(f"{text!r} is no lifetime; write for example 90d, 12h, 30m or 45s")
    try:
        lifetime = int(match[1]) * _UNITS[match[2]]
    except OverflowError:
        lifetime = timedelta.max
    if not timedelta(seconds=1) <= lifetime <= _LIFETIME_MAX:
        raise CommandError("a key lives at least one second and at most 3650d")
    return lifetime


def _tenant(text: str) -> str:
    try:
        return parse_tenant(text)
    except InvalidInput as error:
        raise CommandError(error.message) from None


def _scopes(scopes: Sequence[str]) -> tuple[str, ...]:
    unknown = sorted(set(scopes) - set(all_scopes()))
    if unknown:
        raise CommandError(
            f"there is no scope {', '.join(unknown)}; there are {', '.join(all_scopes())}"
        )
    if not scopes:
        raise CommandError(f"name at least one scope of {', '.join(all_scopes())}")
    return tuple(sorted(set(scopes)))
