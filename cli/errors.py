"""The one kind of failure that a command explains to a person in one sentence.

The command prints its text and exits with status 1; any other exception is a defect and may show
its traceback.
"""


class CommandError(Exception):
    """Something the person at the terminal can understand and put right."""
