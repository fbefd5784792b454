"""Files with secrets: readable by their owner alone, and never seen half written."""

import os
from pathlib import Path


def write_private(file: Path, content: str) -> None:
    """Write or replace a file at once, with permissions for its owner alone."""
    unfinished = file.with_name(f"{file.name}.new")
    unfinished.unlink(missing_ok=True)
    # Not even for a moment may others open it.
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as output:
        output.write(content)
    unfinished.replace(file)
