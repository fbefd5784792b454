"""Identifiers: made here, or given by users and checked here.

An identifier is safe in a URL, a file name, a log line and a Redis key. Refuses everything else.
"""

import re
import secrets
from datetime import UTC, datetime, timedelta

from kit.errors import InvalidInput

_ID = re.compile(r"[a-z0-9][a-z0-9_.-]{0,62}")
_TENANT = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_CROCKFORD = "0123456789abcdefghjkmnpqrstvwxyz"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
_ULID_LENGTH = 26
_RANDOM_BITS = 80


def new_id(prefix: str, now: datetime) -> str:
    """Make an identifier such as `inv_01hv…`: the prefix and a ULID in lower case.

    Identifiers of one prefix sort by the millisecond they were made in. The layout is that of
    https://github.com/ulid/spec: 48 bits of Unix milliseconds, then 80 random bits.
    """
    number = (now - _EPOCH) // _MILLISECOND << _RANDOM_BITS | secrets.randbits(_RANDOM_BITS)
    shifts = range(5 * (_ULID_LENGTH - 1), -1, -5)
    return f"{prefix}_" + "".join(_CROCKFORD[number >> shift & 31] for shift in shifts)


def parse_id(text: str, field: str) -> str:
    """Check an identifier that a caller gives.

    Raises:
        InvalidInput: naming `field`.
    """
    if _ID.fullmatch(text):
        return text
    if not text:
        raise InvalidInput.of(field, "is required")
    raise InvalidInput.of(
        field,
        "must be 1 to 63 characters of a-z, 0-9, '_', '.' and '-', starting with a letter or digit",
    )


def parse_tenant(text: str, field: str = "tenant") -> str:
    """Check the identifier of a tenant.

    Raises:
        InvalidInput: naming `field`.
    """
    if _TENANT.fullmatch(text):
        return text
    raise InvalidInput.of(
        field, "must be 1 to 63 characters of a-z, 0-9 and '-', starting with a letter or digit"
    )
