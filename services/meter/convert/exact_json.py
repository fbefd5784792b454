"""JSON whose numbers stay the texts that they were written in, so that none passes through a float.

Refuses a key that stands twice in an object, since one of its values would be lost, and the words
for what is no number.
"""

import json
from typing import Final


class Number(str):
    """A number of JSON, as the text that it was written in."""

    __slots__ = ()


class NotJson(ValueError):
    """A text that is no JSON, and why."""


def read_json(text: str | bytes) -> object:
    """Read JSON; numbers become `Number`.

    Raises:
        NotJson: it is none, has a key twice, or nests too deep.
    """
    try:
        return _DECODER.decode(text if isinstance(text, str) else text.decode())
    except UnicodeDecodeError:
        raise NotJson("is not text in UTF-8") from None
    except NotJson:
        raise
    except (ValueError, RecursionError):
        raise NotJson("is not JSON") from None


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    entries = dict(pairs)
    if len(entries) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value] # The usual trick.
        raise NotJson(f"has the key {json.dumps(twice)[:80]} twice")
    return entries


def _no_constant(name: str) -> object:
    raise NotJson(f"holds {name}, which is not JSON")


_DECODER: Final = json.JSONDecoder(
    parse_int=Number,
    parse_float=Number,
    parse_constant=_no_constant,
    object_pairs_hook=_unique,
)
