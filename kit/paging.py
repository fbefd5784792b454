"""Pages of a list and the opaque tokens that continue them.

A token names the last row sent and is bound to the filter it was made for. It refuses to
continue another list. It holds no secret: what it may show is decided by the caller's tenant.
"""

import base64
import binascii
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from kit.errors import InvalidInput

Item = TypeVar("Item")

# Eight group values of 128 characters, four bytes each, and more than enough for the rest.
_TOKEN_LENGTH_MAX = 8192
_INVALID_PAGE_TOKEN = "INVALID_PAGE_TOKEN"  # noqa: S105 - a reason, not a secret.


@dataclass(frozen=True, slots=True)
class Page(Generic[Item]):
    """Some items of a list; an empty token says that nothing follows."""

    items: tuple[Item, ...]
    next_page_token: str


def page_size(requested: int, default: int = 50, maximum: int = 1000) -> int:
    """Answer how many items to send: zero means the default, more than the maximum the maximum.

    Raises:
        InvalidInput: the number is negative.
    """
    if requested < 0:
        raise InvalidInput.of("page_size", "must not be negative")
    return min(requested or default, maximum)


def encode_page_token(filter: str, last: Sequence[str]) -> str:  # noqa: A002 - the list's own word.
    """Make the token that continues after the row whose sort key is `last`."""
    content = json.dumps([_digest(filter), *last], ensure_ascii=False, separators=(",", ":"))
    return base64.urlsafe_b64encode(content.encode()).decode().rstrip("=")


def decode_page_token(token: str, filter: str) -> tuple[str, ...] | None:  # noqa: A002 - as above.
    """Answer the sort key to continue after, or nothing for the first page.

    Raises:
        InvalidInput: with the reason INVALID_PAGE_TOKEN.
    """
    if not token:
        return None
    digest, *last = _read(token)
    if digest != _digest(filter):
        raise _invalid("belongs to a list with another filter")
    return tuple(last)


def _read(token: str) -> list[str]:
    if len(token) > _TOKEN_LENGTH_MAX:
        raise _invalid("is malformed")
    try:
        content = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
        parts = json.loads(content)
    except (binascii.Error, ValueError, RecursionError) as error:
        raise _invalid("is malformed") from error
    if not isinstance(parts, list) or not parts or not all(isinstance(p, str) for p in parts):
        raise _invalid("is malformed")
    return parts


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _invalid(description: str) -> InvalidInput:
    return InvalidInput.of("page_token", description, _INVALID_PAGE_TOKEN)
