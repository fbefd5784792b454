"""How a command ends early: by a failure that a person understands, or because it was told to.

Of a failure the command prints the text and exits with status 1. Any other exception is a defect
and may show its traceback.
"""


class CommandError(Exception):
    """Something the person at the terminal can understand and put right."""


class Interrupted(Exception):
    """A stop was requested while everything was still starting."""
