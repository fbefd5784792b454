"""Filters: what a limit says about the calls that it covers, in CEL.

A filter speaks of the path and the dimensions of a call and of nothing else. Refuses loops (the
macros of CEL) and functions beyond those that compare texts, so that no filter takes long.
"""

from collections.abc import Mapping
from functools import lru_cache

import cel

from services.quota.model import Dimensions, Level, Subject

_DIMENSIONS = "dimensions"
_LEVELS = tuple(level.name.lower() for level in Level)
_NAMES = frozenset((_DIMENSIONS, *_LEVELS))
# Without addition and without `@not_strictly_false` there is none of the macros that repeat.
_FUNCTIONS = frozenset(
    [
        "!_",
        "_&&_",
        "_||_",
        "_?_:_",
        "_==_",
        "_!=_",
        "_<_",
        "_<=_",
        "_>_",
        "_>=_",
        "@in",
        "_[_]",
        "startsWith",
        "endsWith",
        "contains",
        "matches",
        "size",
    ]
)
_PROBES_MAX = 32
_COMPILED_MAX = 4096
_REASON_LENGTH_MAX = 200


class BadFilter(ValueError):
    """A filter cannot be understood, or not be applied to a call."""


class Filter:
    """A filter that was compiled; it can be asked about any number of calls.

    Raises:
        BadFilter: It does not compile, or speaks of what calls do not have.
    """

    __slots__ = ("_levels", "_program")

    def __init__(self, text: str) -> None:
        try:
            self._program = cel.compile(text)
        except ValueError as error:
            told = str(error).replace(f"Failed to parse expression '{text}': ", "")
            raise BadFilter(_in_a_line(told.partition("\n")[0])) from error
        spoken_of = set(self._program.variables())
        if unknown := sorted(spoken_of - _NAMES):
            raise BadFilter(f"{unknown[0]} is no name here: there are {', '.join(sorted(_NAMES))}")
        if unknown := sorted(set(self._program.functions()) - _FUNCTIONS):
            raise BadFilter(
                f"{unknown[0].strip('_@')} cannot be used here: texts can be compared, no more"
            )
        self._levels = [(name, place) for place, name in enumerate(_LEVELS) if name in spoken_of]

    def is_true_of(self, subject: Subject, dimensions: Dimensions) -> bool:
        """Tell whether it is true of a call; what speaks of a name that is missing is not.

        Raises:
            BadFilter: It cannot be applied to this call.
        """
        names: dict[str, object] = {_DIMENSIONS: dict(dimensions)}
        missing = [name for name, place in self._levels if not subject[place]]
        names.update((name, subject[place]) for name, place in self._levels if subject[place])
        try:
            return self._answer(names)
        except KeyError:
            return False
        except BadFilter as error:
            # Of a variable that is missing the library says nothing more specific.
            if missing and isinstance(error.__cause__, RuntimeError):
                return False
            raise

    def check(self) -> None:
        """Make sure that it can be applied: to a call all of whose names are empty.

        Raises:
            BadFilter: Why not.
        """
        dimensions = dict[str, str]()
        for _ in range(_PROBES_MAX):
            names = {**dict.fromkeys(_LEVELS, ""), _DIMENSIONS: dimensions}
            try:
                self._answer(names)
            except KeyError as missing:
                dimensions[str(missing.args[0])] = ""
            else:
                return

    def _answer(self, names: Mapping[str, object]) -> bool:
        try:
            answer = self._program.execute(dict(names))
        except KeyError:
            raise
        except Exception as error:
            raise BadFilter(_in_a_line(str(error))) from error
        if not isinstance(answer, bool):
            raise BadFilter("it is neither true nor false")
        return answer


@lru_cache(maxsize=_COMPILED_MAX)
def compiled(text: str) -> Filter:
    """Compile a filter, once however many limits have it.

    Raises:
        BadFilter: As `Filter`.
    """
    return Filter(text)


def check_filter(text: str) -> None:
    """Make sure that a filter compiles and can be applied to calls.

    Raises:
        BadFilter: Why not.
    """
    compiled(text).check()


def _in_a_line(told: str) -> str:
    line = " ".join(told.removeprefix("ERROR: <input>:").split())
    return line if len(line) <= _REASON_LENGTH_MAX else f"{line[:_REASON_LENGTH_MAX]}…"
