"""Gives every named text file exactly one newline at its end, and fails when it changed one."""

from __future__ import annotations

import sys
from pathlib import Path


def main(names: list[str]) -> int:
    """Mend the files and return 1 when any needed it."""
    mended = [name for name in names if mend(Path(name))]
    for name in mended:
        print(f"end of file: mended {name}")
    return 1 if mended else 0


def mend(path: Path) -> bool:
    """Rewrite the end of one file, and say whether that was needed; an empty file is fine."""
    content = path.read_bytes()
    ending = content.rstrip(b"\r\n") + b"\n" if content.strip(b"\r\n") else b""
    if content == ending:
        return False
    path.write_bytes(ending)
    return True


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
