"""Signing keys of one machine: the issuer's, which signs API keys, and the services' own.

Private keys are files that only their owner may read. The public halves go together into one JWKS
file, which every service reads to verify a token.
"""

import base64
import hashlib
import json
import os
import secrets
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from cli.errors import CommandError
from cli.private_file import write_private


@dataclass(frozen=True, slots=True)
class SigningKeys:
    """The files of the signing keys.

    Args:
        issuer_file: Private JWK that signs API keys.
        service_file: Private JWK with which a service calls another.
        public_file: JWKS of both public keys.
    """

    issuer_file: Path
    service_file: Path
    public_file: Path

    @classmethod
    def load_or_make(cls, folder: Path) -> "SigningKeys":
        """Find the keys in the folder, making those that are missing."""
        keys = cls(folder / "issuer.json", folder / "service.json", folder / "jwks.json")
        private = [_load_or_make(file) for file in (keys.issuer_file, keys.service_file)]
        public = {"keys": [_public_half(key) for key in private]}
        unfinished = keys.public_file.with_name(f"jwks.json.{secrets.token_hex(8)}")
        unfinished.write_text(json.dumps(public, indent=2) + "\n")
        unfinished.replace(keys.public_file)
        return keys

    def issuer_key(self) -> Mapping[str, str]:
        """Load the private JWK that signs API keys."""
        return _load(self.issuer_file)

    def service_key(self) -> Mapping[str, str]:
        """Load the private JWK with which a service calls another."""
        return _load(self.service_file)


def make_private_key() -> dict[str, str]:
    """Make an Ed25519 key as a private JWK (RFC 8037), named by its thumbprint (RFC 7638)."""
    key = Ed25519PrivateKey.generate()
    public = {"crv": "Ed25519", "kty": "OKP", "x": _base64url(key.public_key().public_bytes_raw())}
    canonical = json.dumps(public, sort_keys=True, separators=(",", ":")).encode()
    return {
        **public,
        "d": _base64url(key.private_bytes_raw()),
        "kid": _base64url(hashlib.sha256(canonical).digest()),
        "alg": "EdDSA",
        "use": "sig",
    }


def _public_half(private: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in private.items() if name != "d"}


def _base64url(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _load_or_make(file: Path) -> Mapping[str, str]:
    if not file.exists():
        unfinished = file.with_name(f"{file.name}.{secrets.token_hex(8)}")
        write_private(unfinished, json.dumps(make_private_key(), indent=2) + "\n")
        # Another run may be making the same key; whichever links first has made it.
        with suppress(FileExistsError):
            os.link(unfinished, file)
        unfinished.unlink()
    return _load(file)


def _load(file: Path) -> Mapping[str, str]:
    try:
        key = json.loads(file.read_text())
    except (OSError, ValueError):
        raise CommandError(f"cannot read the signing key {file}") from None
    if not (isinstance(key, dict) and {"kid", "x", "d"} <= key.keys()):
        raise CommandError(f"{file} is not a private Ed25519 JWK with a key id")
    return key
