"""Brings the schemas of all services to their newest revisions, one service after the other."""

from collections.abc import Callable
from pathlib import Path

import services
from kit.migrations import migrate


def services_with_migrations() -> tuple[str, ...]:
    """Name the services that have a schema, in alphabetical order."""
    folder = Path(services.__path__[0])
    return tuple(sorted(path.parent.name for path in folder.glob("*/migrations/")))


def migrate_all(url: str, report: Callable[[str], None]) -> None:
    """Migrate every service that has a schema.

    Raises:
        CannotStart: PostgreSQL does not answer, the login may not do this, or a schema is newer.
    """
    for service in services_with_migrations():
        migrate(url, service)
        report(f"{service} is migrated")
