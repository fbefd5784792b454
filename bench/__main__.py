"""`python -m bench [NAME] [--json]`: measures what the design promises, beside the raw limits.

Every module beside this one with a function `run(arguments) -> dict` is a measurement; without a
name all of them run. With `--table` a measurement that has a function `table(figures)` is written
as one for a README. Refuses to compare with figures of another machine.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

NAMES = ("call", "ingest", "query", "quota", "envoy", "lease", "rating", "tax")
_INDENT = "  "


def main(arguments: Sequence[str]) -> int:
    """Run measurements and print their figures."""
    as_json, as_table = "--json" in arguments, "--table" in arguments
    rest = [argument for argument in arguments if argument not in ("--json", "--table")]
    if rest and rest[0] not in NAMES and not rest[0].startswith("-"):
        print(
            f"bench: there is no measurement {rest[0]!r}, but {', '.join(NAMES)}", file=sys.stderr
        )
        return 2
    names = rest[:1] if rest and rest[0] in NAMES else NAMES
    figures = {name: import_module(f"bench.{name}").run(rest[1:]) for name in names}
    if as_table:
        for name in names:
            table = getattr(import_module(f"bench.{name}"), "table", None)
            if table is not None:
                print(table(figures[name]))
    elif as_json:
        print(json.dumps(figures if len(names) > 1 else figures[names[0]], indent=2))
    else:
        _print(figures, "")
    return 0


def _print(figures: Mapping[str, Any], indent: str) -> None:
    for name, figure in figures.items():
        match figure:
            case dict():
                print(f"{indent}{name}")
                _print(figure, indent + _INDENT)
            case [*rows]:
                print(f"{indent}{name}")
                for row in rows:
                    print(indent + _INDENT + "  ".join(f"{key} {row[key]}" for key in row))
            case _:
                print(f"{indent}{name}: {figure}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
