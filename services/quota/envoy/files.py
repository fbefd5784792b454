"""The files of the rules: read at the start, and again whenever they change.

A new version with a fault is not taken: the old one stays, and one line in the log names the
faults. Refuses to start without rules.
"""

import asyncio
from contextlib import suppress
from pathlib import Path

from kit import telemetry
from kit.ending import end
from kit.errors import CannotStart
from services.quota.envoy.configuration import read_rules
from services.quota.envoy.fields import BadConfiguration, Fault, File
from services.quota.envoy.rules import Rules

POLL_S = 1.0
FILE_BYTES_MAX = 16 * 2**20

_SUFFIXES = frozenset({".yaml", ".yml"})
_log = telemetry.get_logger()

Version = tuple[tuple[str, int, int, int], ...]
"""What tells one state of the files from another: their names, sizes, times and places."""


class RuleFiles:
    """The rules of one file, or of all YAML files of one folder.

    Args:
        merges_domains: Whether several files may hold rules of the same domain.
    """

    def __init__(self, path: Path, *, merges_domains: bool = False, poll_s: float = POLL_S) -> None:
        self.rules = Rules({})
        self._path = path
        self._merges_domains = merges_domains
        self._poll_s = poll_s
        self._version: Version = ()
        self._watching: asyncio.Task[None] | None = None

    async def connect(self) -> None:
        """Read the rules, and look for changes from now on.

        Raises:
            CannotStart: naming every fault.
        """
        self._version = await asyncio.to_thread(_version, self._path)
        try:
            self.rules = await asyncio.to_thread(self._load)
        except BadConfiguration as error:
            raise CannotStart(f"the rules for Envoy cannot be used:\n{error}") from error
        self._watching = asyncio.create_task(self._watch())

    async def close(self) -> None:
        """Look no more."""
        if self._watching is not None:
            await end(self._watching)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self._poll_s)
            version = await asyncio.to_thread(_version, self._path)
            if version == self._version:
                continue
            self._version = version
            try:
                self.rules = await asyncio.to_thread(self._load)
            except BadConfiguration as error:
                faults = [str(fault) for fault in error.faults]
                _log.error("envoy.rules.refused", path=str(self._path), faults=faults)
            else:
                _log.info("envoy.rules.loaded", path=str(self._path))

    def _load(self) -> Rules:
        return load_rules(self._path, merges_domains=self._merges_domains)


def load_rules(path: Path, *, merges_domains: bool = False) -> Rules:
    """Read the rules of a file or folder.

    Raises:
        BadConfiguration: naming every fault, also a file that cannot be read.
    """
    paths = _paths(path)
    if not paths:
        raise BadConfiguration([Fault(str(path), 1, "the folder holds no .yaml or .yml file")])
    files: list[File] = []
    faults: list[Fault] = []
    for each in paths:
        try:
            files.append(File(str(each), _text(each)))
        except OSError as error:
            faults.append(Fault(str(each), 1, f"cannot be read: {error.strerror}"))
        except ValueError as error:
            faults.append(Fault(str(each), 1, str(error)))
    try:
        rules = read_rules(files, merges_domains=merges_domains)
    except BadConfiguration as error:
        raise BadConfiguration([*faults, *error.faults]) from None
    if faults:
        raise BadConfiguration(faults)
    return rules


def _paths(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    return sorted(
        each
        for each in path.iterdir()
        if each.suffix in _SUFFIXES and not each.name.startswith(".") and each.is_file()
    )


def _text(path: Path) -> str:
    with path.open("rb") as file:
        data = file.read(FILE_BYTES_MAX + 1)
    if len(data) > FILE_BYTES_MAX:
        raise ValueError(f"is larger than {FILE_BYTES_MAX} bytes")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError("is not UTF-8 text") from None


def _version(path: Path) -> Version:
    found = []
    with suppress(OSError):
        for each in _paths(path):
            state = each.stat()
            found.append((str(each), state.st_size, state.st_mtime_ns, state.st_ino))
    return tuple(found)
