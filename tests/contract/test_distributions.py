"""Promises about the two distributions: what the client brings, and what it leaves at home."""

from __future__ import annotations

import ast
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CLIENT_FILES = sorted(
    path
    for path in (ROOT / "client" / "tollkeeper").rglob("*.py")
    if "api" not in path.relative_to(ROOT / "client" / "tollkeeper").parts
)


def project(manifest: str) -> dict[str, object]:
    """Read the project table of one manifest."""
    table: dict[str, object] = tomllib.loads((ROOT / manifest).read_text())["project"]
    return table


def imported_roots(source: Path) -> set[str]:
    """Name the top-level packages that a file imports."""
    roots: set[str] = set()
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            roots |= {alias.name.split(".")[0] for alias in node.names}
        if isinstance(node, ast.ImportFrom) and node.level == 0:
            roots.add(str(node.module).split(".")[0])
    return roots


def test_a_gateway_installs_three_packages_with_the_client() -> None:
    """The client brings grpcio, protobuf and googleapis-common-protos, and nothing else."""
    assert project("client/pyproject.toml")["dependencies"] == [
        "googleapis-common-protos>=1.76,<2",
        "grpcio>=1.78.2,<2",
        "protobuf>=6.33.5,<8",
    ]


def test_both_distributions_carry_one_version() -> None:
    """The suite and its client are released together, so they say the same version."""
    assert project("client/pyproject.toml")["version"] == project("pyproject.toml")["version"]


def test_the_client_is_typed() -> None:
    """The marker file tells type checkers to trust the client's annotations."""
    assert (ROOT / "client" / "tollkeeper" / "py.typed").is_file()


@pytest.mark.parametrize("source", CLIENT_FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_client_imports_nothing_of_the_suite(source: Path) -> None:
    """The client runs where the suite and its dependencies are not installed."""
    at_home = {"bench", "cli", "kit", "services", "sqlalchemy", "redis", "structlog", "pydantic"}

    assert imported_roots(source) & at_home == set()
