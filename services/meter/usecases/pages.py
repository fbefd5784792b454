"""Pages of what the meter lists: from a token to the key of a row, and from rows to a page."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from kit.errors import InvalidInput
from kit.paging import Page, decode_page_token, encode_page_token

Item = TypeVar("Item")
Key = TypeVar("Key")


def read_page_token(token: str, listing: str, key: Callable[..., Key]) -> Key | None:
    """Answer the key to continue after, made by `key` from its texts; nothing on the first page.

    Raises:
        InvalidInput: INVALID_PAGE_TOKEN, also where `key` does not take what the token holds.
    """
    texts = decode_page_token(token, listing)
    if texts is None:
        return None
    try:
        if any("\0" in text for text in texts):
            raise ValueError("PostgreSQL has no such text")
        return key(*texts)
    except (TypeError, ValueError) as error:
        raise InvalidInput.of("page_token", "is malformed", "INVALID_PAGE_TOKEN") from error


def page_of(
    found: Sequence[Item], size: int, listing: str, key: Callable[[Item], Sequence[str]]
) -> Page[Item]:
    """Make a page of up to `size` items; one more was looked for, to see whether any follow."""
    items = tuple(found[:size])
    token = encode_page_token(listing, key(items[-1])) if len(found) > size else ""
    return Page(items, token)
