"""Times as people write them on a command line."""

from datetime import UTC, datetime

from cli.errors import CommandError


def parse_time_option(option: str, text: str) -> datetime:
    """Read a time such as 2026-01-31, 2026-01-31T12:00Z or 2026-01-31T12:00+09:00.

    A time that names no zone is in UTC.

    Raises:
        CommandError: It is no time.
    """
    try:
        time = datetime.fromisoformat(text)
        return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
    except (ValueError, OverflowError):
        raise CommandError(
            f"{option} {text!r} is not a time; write it as 2026-01-31 or 2026-01-31T12:00Z"
        ) from None
