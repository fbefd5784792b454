"""What a converter refuses, as lines of text that a table of bad input can hold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from kit.errors import InvalidInput


@dataclass(frozen=True, slots=True)
class Bad:
    """Something written over a good message, and every field that is named for it."""

    id: str
    written: str
    named: tuple[str, ...]


def refusal_of(parse: Callable[..., object], *written: object) -> list[str]:
    """Parse, and write each violation as `field: description`; none when it is taken."""
    try:
        parse(*written)
    except InvalidInput as error:
        return [f"{violation.field}: {violation.description}" for violation in error.violations]
    return []
