"""Where a running suite is and how to call it: what `up` writes down and other commands read."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import TypeAdapter

from cli.embedded.data_directory import holder
from cli.errors import CommandError
from cli.private_file import write_private


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """One running suite.

    Args:
        data_dir: Its data directory.
        addresses: Host and port by service name.
        database_url: With a password; for tools, never for messages.
        redis_url: As `database_url`.
        tenant: Whom the admin token speaks for.
        admin_token: A key with every scope.
        keys_file: JWKS of the public keys.
        issuer_key_file: Private JWK that signs API keys.
        service_key_file: Private JWK with which a service calls another.
    """

    data_dir: Path
    addresses: Mapping[str, str]
    database_url: str = field(repr=False)
    redis_url: str = field(repr=False)
    tenant: str
    admin_token: str = field(repr=False)
    keys_file: Path
    issuer_key_file: Path
    service_key_file: Path

    @classmethod
    def load(cls, data_dir: Path) -> "Running":
        """Read what the suite in this data directory wrote down.

        Raises:
            CommandError: None is running there.
        """
        file = _file(data_dir)
        # A killed supervisor leaves its note behind.
        if not (file.exists() and holder(data_dir)):
            raise CommandError(
                f"nothing is running in {data_dir.resolve()}; start it by `tollkeeper up`"
            )
        try:
            return _FORM.validate_json(file.read_bytes())
        except (OSError, ValueError):
            raise CommandError(f"cannot read {file}") from None

    def save(self) -> None:
        """Write this down for other commands of the same user."""
        write_private(_file(self.data_dir), _FORM.dump_json(self, indent=2).decode())

    def forget(self) -> None:
        """Take the note away once the suite has stopped."""
        _file(self.data_dir).unlink(missing_ok=True)


_FORM = TypeAdapter(Running)


def _file(data_dir: Path) -> Path:
    return data_dir / "run" / "suite.json"
