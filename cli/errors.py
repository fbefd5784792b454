"""How a command ends early: by a failure that a person understands, or because it was told to.

Of a failure the command prints the text and exits with status 1. Any other exception is a defect
and may show its traceback.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class CommandError(Exception):
    """Something the person at the terminal can understand and put right."""


class Interrupted(Exception):
    """A stop was requested while everything was still starting."""


@contextmanager
def writing(file: Path) -> Iterator[None]:
    """Say why a file cannot be written, where that fails inside.

    Raises:
        CommandError: It cannot be written.
    """
    try:
        yield
    except OSError as error:
        raise CommandError(f"cannot write {file}: {error.strerror}") from None
