"""Turns the contract in protos/ into Python, and guards it with buf.

`generate` writes client/tollkeeper/api and the schemas of the files that people write, `check`
fails when these are not what protos/ says, `lint` runs buf's lint, format and breaking-change
rules. Nothing here reaches the network: protoc builds an image and buf reads the image.
"""

from __future__ import annotations

import argparse
import filecmp
import io
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
from importlib import resources
from pathlib import Path

from google.protobuf.descriptor_pb2 import FileDescriptorSet

from tools.schemas import write_schema

ROOT = Path(__file__).resolve().parent.parent
PROTOS = ROOT / "protos"
GENERATED = ROOT / "client" / "tollkeeper" / "api"
SCRIPTS = Path(sysconfig.get_path("scripts"))
SITE_PACKAGES = Path(sysconfig.get_path("purelib"))
SCHEMAS = ROOT / "cli" / "schemas"
# By the name of the schema: the message that a file holds, and a title.
FILES = {"plan-file": ("tollkeeper.api.rating.v1.PlanFile", "A plan file of Tollkeeper")}
PACKAGE_DOCSTRING = '"""Generated from protos/ by `make proto`; never edited."""\n'


def main() -> int:
    """Run one of the three commands and return its exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("command", choices=["generate", "check", "lint"])
    command = parser.parse_args().command
    if command == "generate":
        return generate()
    if command == "check":
        return check()
    return lint()


def generate() -> int:
    """Bring client/tollkeeper/api up to date, touching only the files that differ."""
    with tempfile.TemporaryDirectory() as scratch:
        fresh = _compile(Path(scratch))
        stale = _differences(fresh, GENERATED)
        for name in stale:
            source, target = fresh / name, GENERATED / name
            if source.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, target)
            else:
                target.unlink()
        schemas = _stale_schemas(Path(scratch))
        for path, text in schemas.items():
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
    print(f"protos: {len(stale) + len(schemas)} generated files changed")
    return 0


def check() -> int:
    """Fail, naming each file, when the committed code is not what protoc makes today."""
    with tempfile.TemporaryDirectory() as scratch:
        fresh = _compile(Path(scratch))
        stale = [f"client/tollkeeper/api/{name}" for name in _differences(fresh, GENERATED)]
        stale += [str(path.relative_to(ROOT)) for path in _stale_schemas(Path(scratch))]
    for name in stale:
        print(f"protos: {name} is not what protos/ says")
    print("protos: run `make proto`" if stale else "protos: generated code is current")
    return 1 if stale else 0


def lint() -> int:
    """Run buf lint, buf format and buf breaking; every finding is printed."""
    with tempfile.TemporaryDirectory() as scratch:
        image = _image(PROTOS, Path(scratch) / "image.binpb")
        statuses = [
            _buf("lint", str(image), "--path", "tollkeeper"),
            _buf("format", "--diff", "--exit-code"),
            _breaking(image, Path(scratch)),
        ]
    return max(statuses)


def _compile(scratch: Path) -> Path:
    sources = _sources(PROTOS)
    _protoc(
        PROTOS,
        sources,
        f"--plugin=protoc-gen-mypy={SCRIPTS / 'protoc-gen-mypy'}",
        f"--python_out={scratch}",
        f"--mypy_out=quiet:{scratch}",
    )
    _protoc(
        PROTOS,
        [source for source in sources if source.endswith("_service.proto")],
        f"--plugin=protoc-gen-mypy_grpc={SCRIPTS / 'protoc-gen-mypy_grpc'}",
        f"--grpc_python_out={scratch}",
        f"--mypy_grpc_out=quiet:{scratch}",
    )
    api = scratch / "tollkeeper" / "api"
    for package in [api, *(folder for folder in api.rglob("*") if folder.is_dir())]:
        (package / "__init__.py").write_text(PACKAGE_DOCSTRING)
    return api


def _stale_schemas(scratch: Path) -> dict[Path, str]:
    """Find the schemas that are not what protos/ says, each with what it should be."""
    image = FileDescriptorSet.FromString(_image(PROTOS, scratch / "image.binpb").read_bytes())
    schemas = {
        SCHEMAS / f"{name}.schema.json": write_schema(image, message, title)
        for name, (message, title) in FILES.items()
    }
    return {
        path: text
        for path, text in schemas.items()
        if not path.exists() or path.read_text(encoding="utf-8") != text
    }


def _image(protos: Path, image: Path) -> Path:
    _protoc(
        protos,
        _sources(protos),
        "--include_imports",
        "--include_source_info",
        f"--descriptor_set_out={image}",
    )
    return image


def _sources(protos: Path) -> list[str]:
    return sorted(path.relative_to(protos).as_posix() for path in protos.rglob("*.proto"))


def _protoc(protos: Path, sources: list[str], *options: str) -> None:
    includes = [protos, resources.files("grpc_tools") / "_proto", SITE_PACKAGES]
    protoc = [sys.executable, "-m", "grpc_tools.protoc", *(f"-I{path}" for path in includes)]
    if subprocess.run([*protoc, *options, *sources], check=False, cwd=ROOT).returncode != 0:
        sys.exit("protos: protoc refused the files, as said above")


def _differences(fresh: Path, committed: Path) -> list[str]:
    names = {
        str(path.relative_to(folder))
        for folder in (fresh, committed)
        for path in folder.rglob("*")
        if path.suffix in {".py", ".pyi"}
    }
    return sorted(name for name in names if not _same(fresh / name, committed / name))


def _same(one: Path, other: Path) -> bool:
    return one.exists() and other.exists() and filecmp.cmp(one, other, shallow=False)


def _buf(command: str, *arguments: str) -> int:
    completed = subprocess.run([SCRIPTS / "buf", command, *arguments], check=False, cwd=PROTOS)
    print(f"buf {command}: {'ok' if completed.returncode == 0 else 'findings above'}")
    return completed.returncode


def _breaking(image: Path, scratch: Path) -> int:
    reference = _reference()
    if reference is None:
        print("buf breaking: skipped, since no earlier commit is here to compare with")
        return 0
    earlier = _protos_of(reference, scratch / "earlier")
    if not _sources(earlier):
        print(f"buf breaking: skipped, since {reference[:12]} has no protos")
        return 0
    against = _image(earlier, scratch / "earlier.binpb")
    return _buf("breaking", str(image), "--against", str(against), "--path", "tollkeeper")


def _protos_of(reference: str, target: Path) -> Path:
    archive = subprocess.run(
        ["git", "archive", "--format=zip", reference, "protos"],
        check=False,
        cwd=ROOT,
        capture_output=True,
    )
    if archive.returncode == 0:
        with zipfile.ZipFile(io.BytesIO(archive.stdout)) as tree:
            tree.extractall(target)
    return target / "protos"


def _reference() -> str | None:
    """Name the commit to compare with: AGAINST, else where main was left, else the one before."""
    head = _commit("HEAD")
    candidates = [os.environ.get("AGAINST"), _merge_base(), "HEAD~1"]
    commits = (_commit(candidate) for candidate in candidates if candidate)
    return next((commit for commit in commits if commit and commit != head), None)


def _merge_base() -> str | None:
    return _git("merge-base", "HEAD", "origin/main")


def _commit(name: str) -> str | None:
    return _git("rev-parse", "--verify", "--quiet", f"{name}^{{commit}}")


def _git(*arguments: str) -> str | None:
    completed = subprocess.run(
        ["git", *arguments], check=False, cwd=ROOT, capture_output=True, text=True
    )
    return completed.stdout.strip() if completed.returncode == 0 else None


if __name__ == "__main__":
    sys.exit(main())
