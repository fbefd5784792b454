"""Page tokens: opaque, bound to their filter, and robust against whatever is sent back."""

import base64
import json

import pytest

from kit.errors import InvalidInput, Violation
from kit.paging import decode_page_token, encode_page_token, page_size


def encoded(content: object) -> str:
    """Encode any JSON as a token is encoded."""
    return base64.urlsafe_b64encode(json.dumps(content).encode()).decode()


@pytest.mark.parametrize(
    "last", [("a",), ("2026-03-01T00:00:00Z", "evt_1"), (), ("ключ", "🔑", 'with "quotes"')]
)
def test_a_token_continues_where_it_was_made(last: tuple[str, ...]) -> None:
    """The sort key of the last row comes back, whatever it holds."""
    token = encode_page_token("customer=acme", last)

    assert decode_page_token(token, "customer=acme") == last


def test_the_first_page_has_no_token() -> None:
    """An empty token asks for the first page."""
    assert decode_page_token("", "customer=acme") is None


def test_a_token_continues_no_other_list() -> None:
    """A token of one filter is refused by every other."""
    token = encode_page_token("customer=acme", ["a"])

    with pytest.raises(InvalidInput) as refused:
        decode_page_token(token, "customer=globex")

    assert (refused.value.reason, refused.value.violations) == (
        "INVALID_PAGE_TOKEN",
        (Violation("page_token", "belongs to a list with another filter"),),
    )


@pytest.mark.parametrize(
    "token",
    [
        pytest.param("!", id="no Base64"),
        pytest.param("a", id="half a byte"),
        pytest.param("é", id="no ASCII"),
        pytest.param(base64.urlsafe_b64encode(b"\xff\xfe").decode(), id="no text"),
        pytest.param(encoded("text"), id="no list"),
        pytest.param(encoded([]), id="an empty list"),
        pytest.param(encoded(["digest", 1]), id="a number"),
        pytest.param(encoded({"a": 1}), id="an object"),
        pytest.param("[" * 3000, id="brackets"),
        pytest.param(base64.urlsafe_b64encode(b"[" * 3000).decode(), id="deep nesting"),
        pytest.param("A" * 9000, id="too long"),
    ],
)
def test_a_token_that_was_not_ours_is_refused(token: str) -> None:
    """Whatever a caller makes up is an invalid page token, and never an internal error."""
    with pytest.raises(InvalidInput) as refused:
        decode_page_token(token, "")

    assert refused.value.reason == "INVALID_PAGE_TOKEN"
    assert refused.value.violations == (Violation("page_token", "is malformed"),)


@pytest.mark.parametrize(
    ("requested", "size"),
    [
        pytest.param(0, 50, id="zero is the default"),
        pytest.param(1, 1, id="as asked"),
        pytest.param(1000, 1000, id="the maximum"),
        pytest.param(1001, 1000, id="more than the maximum"),
    ],
)
def test_the_page_size_is_bounded(requested: int, size: int) -> None:
    """A caller gets at most what it asks for, and at most the maximum."""
    assert page_size(requested) == size


def test_a_negative_page_size_is_refused() -> None:
    """Nobody can ask for fewer than no items."""
    with pytest.raises(InvalidInput) as refused:
        page_size(-1)

    assert refused.value.violations == (Violation("page_size", "must not be negative"),)
