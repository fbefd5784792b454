"""Collects the arguments of a statement while its text is written, so that none is in the text."""

from collections.abc import Sequence


class Parameters:
    """The arguments of one statement, in the order of their numbers."""

    def __init__(self) -> None:
        self.values: list[object] = []

    def add(self, value: object, kind: str) -> str:
        """Take an argument of a type of PostgreSQL, and answer what stands for it in the text."""
        self.values.append(value)
        return f"${len(self.values)}::{kind}"

    def texts(self, values: Sequence[str]) -> str:
        """Take several texts as one array."""
        return self.add(list(values), "text[]")
