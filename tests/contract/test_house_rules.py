"""The rules of the house, read from the syntax tree: nobody has to remember them.

Every rule is a function from a parsed file to its offences, each written `path:line what`. The
rules run over every file of the repository; a table of guilty snippets proves that each can fail.
"""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
GENERATED = "client/tollkeeper/api/"
FUNCTION_LINES_MAX = 70
FILE_LINES_MAX = 500

SHELL_MODULES = frozenset(
    {"__init__", "__main__", "service", "runner", "convert", "usecases", "store", "counters"}
    | {"clients", "tables", "batcher", "catalogue", "redis_link", "sessions", "streams"}
    | {"audits", "cluster_link", "epochs", "open_holds", "expiry_index"}
    | {"reconciler", "recovery", "standby", "sweeper"}
    | {"alerts", "estimators", "rate_cards"}
    | {"cost_store", "cost_usecases", "margin_usecases", "simulating", "usage_streams"}
    | {"margin_store", "plan_versions"}
    | {"group_commit"}
    | {"closing", "drafting", "metering", "plan_limits", "snapshot", "typesetting"}
)
PURE_KIT_MODULES = ("money", "decimals", "interval", "errors", "paging")
EXACT_KIT_MODULES = ("money", "decimals")
VAGUE_NAMES = frozenset(
    {"utils", "util", "common", "helpers", "helper", "base", "mapper", "misc", "shared"}
)
CLOCK_READS = frozenset({"now", "utcnow", "today", "time", "time_ns", "monotonic", "perf_counter"})
CLOCKS = frozenset({"datetime", "date", "time"})
UNPUBLISHABLE = {
    "a path of one machine": re.compile(r"(?<![\w.~}-])/(?:home|work|root|Users)/\w"),
    "an issue number": re.compile(r"\bissue #?\d", re.IGNORECASE),
    "unfinished work": re.compile(r"\b(?:TO[D]O|FIX[M]E)\b"),
}

Rule = Callable[[ast.Module], Iterator[tuple[int, str]]]


@cache
def repository_files() -> tuple[str, ...]:
    """Name every file that is or would be committed, relative to the root."""
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],  # noqa: S607 - git is found on PATH everywhere
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    return tuple(name for name in sorted(listing.split("\0")) if name and (ROOT / name).is_file())


def python_files(*folders: str) -> list[str]:
    """Name the Python files that people write, all or those inside the folders."""
    return [
        name
        for name in repository_files()
        if name.endswith(".py")
        and not name.startswith(GENERATED)
        and name.startswith(folders or "")
    ]


def core_files(kit_modules: tuple[str, ...]) -> list[str]:
    """Name the core of every service and the given modules of kit."""
    cores = [
        name
        for name in python_files("services/")
        if len(Path(name).parts) == 3 and Path(name).stem not in SHELL_MODULES
    ]
    return cores + python_files(*(f"kit/{module}.py" for module in kit_modules))


def files_with_tests() -> list[str]:
    """Name the files that pytest collects tests from."""
    return [name for name in python_files("tests/") if Path(name).name.startswith("test_")]


@cache
def syntax_tree(name: str) -> ast.Module:
    """Parse one file of the repository."""
    return ast.parse((ROOT / name).read_text(encoding="utf-8"), filename=name)


def offences(rule: Rule, name: str) -> list[str]:
    """Apply a rule to one file and render what it finds as `path:line what`."""
    return [f"{name}:{line} {what}" for line, what in rule(syntax_tree(name))]


def floats(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Find float literals and every use of the name `float`."""
    for node in ast.walk(tree):
        match node:
            case ast.Constant(value=float(literal)):
                yield node.lineno, f"float literal {literal}"
            case ast.Name(id="float"):
                yield node.lineno, "the type float"


def hidden_inputs(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Find reads of a clock and draws of random numbers."""
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(
                attr=attribute, value=ast.Name(id=owner) | ast.Attribute(attr=owner)
            ):
                if owner in CLOCKS and attribute in CLOCK_READS:
                    yield node.lineno, f"{owner}.{attribute}"
                if owner in {"random", "secrets", "uuid"}:
                    yield node.lineno, f"{owner}.{attribute}"
            case ast.ImportFrom(module="random" | "secrets" | "time" | "uuid"):
                yield node.lineno, f"from {node.module} import"


def impure_kit(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Find imports of kit's modules other than the pure ones."""
    for node in ast.walk(tree):
        match node:
            case ast.ImportFrom(module="kit", names=aliases):
                names = [f"kit.{alias.name}" for alias in aliases]
            case ast.ImportFrom(module=str(module)):
                names = [module]
            case ast.Import(names=aliases):
                names = [alias.name for alias in aliases]
            case _:
                continue
        for name in names:
            root, _, module = name.partition(".")
            if root == "kit" and module not in PURE_KIT_MODULES:
                yield node.lineno, name


def commits(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Find calls of a `commit` method without arguments: the way a transaction is committed."""
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Attribute(attr="commit"), args=[], keywords=[]):
                yield node.lineno, "commit()"


def long_functions(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Find functions that do not fit a screen."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > FUNCTION_LINES_MAX:
                yield node.lineno, f"{node.name} has {lines} lines"


def silent_tests(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Find tests without the docstring that states their promise."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and (
            node.name.startswith("test_") and not ast.get_docstring(node)
        ):
            yield node.lineno, f"{node.name} has no docstring"


@pytest.mark.parametrize("name", core_files(EXACT_KIT_MODULES))
def test_money_never_floats(name: str) -> None:
    """The core and kit's money know Decimal and int; float appears in no form."""
    assert offences(floats, name) == []


@pytest.mark.parametrize("name", core_files(PURE_KIT_MODULES))
def test_the_core_is_told_the_time_and_never_rolls_dice(name: str) -> None:
    """What the core answers depends on its arguments alone."""
    assert offences(hidden_inputs, name) == []


@pytest.mark.parametrize("name", core_files(PURE_KIT_MODULES))
def test_the_core_stands_on_the_pure_half_of_kit(name: str) -> None:
    """The core imports money, decimals, intervals, errors and paging of kit, and nothing else."""
    assert offences(impure_kit, name) == []


@pytest.mark.parametrize("name", python_files("services/", "kit/"))
def test_one_place_commits(name: str) -> None:
    """A transaction is committed by `transaction()` in kit/postgres.py and nowhere else."""
    assert name == "kit/postgres.py" or offences(commits, name) == []


@pytest.mark.parametrize("name", python_files())
def test_functions_fit_a_screen(name: str) -> None:
    """No function is longer than 70 lines, its docstring included."""
    assert offences(long_functions, name) == []


@pytest.mark.parametrize("name", python_files())
def test_files_stay_readable(name: str) -> None:
    """No file that people write is longer than 500 lines."""
    lines = len((ROOT / name).read_text(encoding="utf-8").splitlines())

    assert lines <= FILE_LINES_MAX, f"{name}:{lines} is too long; split it by what it is about"


@pytest.mark.parametrize("name", python_files())
def test_modules_are_named_for_things(name: str) -> None:
    """No file or folder has a name that would take in anything."""
    path = Path(name)

    assert VAGUE_NAMES.isdisjoint({*path.parent.parts, path.stem}), name


@pytest.mark.parametrize("name", files_with_tests())
def test_every_test_states_its_promise(name: str) -> None:
    """Every test has a docstring."""
    assert offences(silent_tests, name) == []


@pytest.mark.parametrize(
    "service",
    sorted({Path(name).parts[1] for name in python_files("services/") if name.count("/") > 1}),
)
def test_every_service_says_what_it_owns(service: str) -> None:
    """Every service has a README beside its code."""
    assert f"services/{service}/README.md" in repository_files()


@pytest.mark.parametrize("what", UNPUBLISHABLE)
def test_files_hold_nothing_that_belongs_elsewhere(what: str) -> None:
    """No committed text names a path of one machine, an issue, or work left undone."""
    found = [
        f"{name}:{number} {line.strip()}"
        for name in repository_files()
        for number, line in enumerate(text_lines(name), start=1)
        if UNPUBLISHABLE[what].search(line)
    ]

    assert not found, "\n".join(found)


@pytest.mark.parametrize("lock", ["requirements.lock", "requirements-runtime.lock"])
def test_the_locks_pin_by_hash_and_name_no_host(lock: str) -> None:
    """Every entry is an exact version with hashes, and comes from wherever pip is told to look."""
    entries = (ROOT / lock).read_text(encoding="utf-8").replace("\\\n", " ").splitlines()
    exact = re.compile(r"[a-z0-9.-]+(\[[a-z,]+\])?==\S+( ; [^:]+)?(\s+--hash=sha256:[0-9a-f]{64})+")

    assert entries
    assert [entry for entry in entries if not exact.fullmatch(entry.strip())] == []


def test_an_image_runs_the_versions_that_are_tested() -> None:
    """Whatever requirements-runtime.lock pins, requirements.lock pins to the same version."""
    tested, runtime = (
        set(re.findall(r"^\S+==\S+", (ROOT / lock).read_text(encoding="utf-8"), re.MULTILINE))
        for lock in ("requirements.lock", "requirements-runtime.lock")
    )

    assert runtime - tested == set()


@cache
def text_lines(name: str) -> tuple[str, ...]:
    """Read the lines of a file, or nothing when it is not text."""
    try:
        return tuple((ROOT / name).read_text(encoding="utf-8").splitlines())
    except UnicodeDecodeError:
        return ()


@pytest.mark.parametrize(
    ("rule", "source", "expected"),
    [
        pytest.param(floats, "price = 0.1", [(1, "float literal 0.1")], id="float literal"),
        pytest.param(floats, "def f(x: float): ...", [(1, "the type float")], id="annotation"),
        pytest.param(floats, "x = float('1')", [(1, "the type float")], id="call"),
        pytest.param(floats, "x = Decimal('0.1') + 1", [], id="decimals are welcome"),
        pytest.param(hidden_inputs, "datetime.now(UTC)", [(1, "datetime.now")], id="clock"),
        pytest.param(
            hidden_inputs, "datetime.datetime.now(UTC)", [(1, "datetime.now")], id="qualified clock"
        ),
        pytest.param(hidden_inputs, "time.time()", [(1, "time.time")], id="time"),
        pytest.param(hidden_inputs, "random.random()", [(1, "random.random")], id="dice"),
        pytest.param(
            hidden_inputs, "from time import time", [(1, "from time import")], id="imported clock"
        ),
        pytest.param(hidden_inputs, "clock.now()", [], id="an injected clock is welcome"),
        pytest.param(
            impure_kit, "from kit.clock import Clock", [(1, "kit.clock")], id="impure import"
        ),
        pytest.param(impure_kit, "from kit import ids", [(1, "kit.ids")], id="impure module"),
        pytest.param(impure_kit, "import kit.rpc.wire", [(1, "kit.rpc.wire")], id="impure path"),
        pytest.param(impure_kit, "from kit.money import settle", [], id="money is welcome"),
        pytest.param(commits, "await connection.commit()", [(1, "commit()")], id="commit"),
        pytest.param(commits, "hold.commit(usage)", [], id="committing a hold is welcome"),
        pytest.param(
            long_functions,
            "async def f():\n" + "    x = 1\n" * FUNCTION_LINES_MAX,
            [(1, "f has 71 lines")],
            id="a line too long",
        ),
        pytest.param(
            long_functions,
            "def f():\n" + "    x = 1\n" * (FUNCTION_LINES_MAX - 1),
            [],
            id="exactly a screen",
        ),
        pytest.param(
            silent_tests,
            "async def test_x(): pass",
            [(1, "test_x has no docstring")],
            id="no promise",
        ),
    ],
)
def test_each_rule_finds_the_guilty_and_spares_the_innocent(
    rule: Rule, source: str, expected: list[tuple[int, str]]
) -> None:
    """A rule that finds nothing has proven nothing unless it can find something."""
    assert list(rule(ast.parse(source))) == expected


@pytest.mark.parametrize(
    ("what", "line"),
    [
        ("a path of one machine", "open('/" + "home/anna/usage.csv')"),
        ("an issue number", "as decided in Issue" + " #12"),
        ("unfinished work", "# TO" + "DO: later"),
    ],
)
def test_each_pattern_matches_what_it_is_for(what: str, line: str) -> None:
    """The patterns of what does not belong here recognise an example."""
    assert UNPUBLISHABLE[what].search(line)
