"""Options of gRPC: one that it does not know is ignored without a word, so none may be misspelt."""

import re
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
OPTION = re.compile(r'"(grpc\.[a-z0-9_.]+)"')
NAMED_IN = ("kit/rpc/server.py", "kit/rpc/channel.py", "client/tollkeeper")


def sources(place: str) -> list[Path]:
    """List a file, or the files of a package that people write."""
    path = ROOT / place
    return [path] if path.is_file() else sorted(path.glob("*.py"))


@pytest.mark.parametrize("place", NAMED_IN)
def test_every_option_is_one_of_grpcs(place: str) -> None:
    """Its name stands in the library."""
    spec = find_spec("grpc._cython.cygrpc")
    assert spec is not None
    assert spec.origin is not None
    library = Path(spec.origin).read_bytes()
    named = {name for path in sources(place) for name in OPTION.findall(path.read_text("utf-8"))}

    assert {name for name in named if name.encode() not in library} == set()
