"""Composes the tax service: `python -m services.tax serve | migrate | check | import-rates FILE`.

`import-rates` stores a CSV of the European Central Bank's reference rates. A sample of them comes
with the code and is stored at each start, so that conversions work without a network.
"""

import asyncio
import sys
from pathlib import Path

from kit.clock import Clock
from kit.entrypoint import run
from kit.errors import CannotStart, DomainError
from kit.hosting import Foundation
from kit.postgres import Database
from kit.rpc.server import Hosted
from kit.settings import ServiceSettings, load_migration_settings
from services.tax.rulebook_files import ECB_SAMPLE, load_ended_currencies, load_rulebook
from services.tax.service import TaxService
from services.tax.usecases import TaxUseCases
from tollkeeper.api.tax.v1 import tax_service_pb2

SERVICE = "tax"
_IMPORT_RATES = "import-rates"


async def build(settings: ServiceSettings, clock: Clock) -> Hosted:
    """Compose the service; nothing is opened yet.

    Raises:
        CannotStart: a table of the law cannot be read.
    """
    foundation = Foundation(settings, clock)
    use_cases = _use_cases(foundation.database)
    foundation.server.add(
        TaxService(use_cases, clock),
        tax_service_pb2.DESCRIPTOR.services_by_name["TaxService"],
    )
    return foundation.host(_SampleRates(use_cases))


class _SampleRates:
    """Stores the reference rates that come with the code, before the service serves."""

    def __init__(self, use_cases: TaxUseCases) -> None:
        self._use_cases = use_cases

    async def connect(self) -> None:
        with ECB_SAMPLE.open(encoding="utf-8") as lines:
            await self._use_cases.import_reference_rates(lines)

    async def close(self) -> None:
        """Nothing was opened."""


async def import_rates(database_url: str, file: Path) -> int:
    """Store the reference rates of a file; answer how many were new.

    Raises:
        CannotStart: the database does not answer, or the file cannot be read.
    """
    database = Database(database_url, SERVICE)
    await database.connect()
    try:
        with file.open(encoding="utf-8") as lines:
            return await _use_cases(database).import_reference_rates(lines)
    except (OSError, UnicodeDecodeError) as error:
        raise CannotStart(f"cannot read {file}: {error}") from error
    except DomainError as error:
        raise CannotStart(f"{file}: {error.message}") from error
    finally:
        await database.close()


def _use_cases(database: Database) -> TaxUseCases:
    return TaxUseCases(database, load_rulebook(), load_ended_currencies())


def _import_rates(arguments: list[str]) -> int:
    if len(arguments) != 1:
        print(f"usage: python -m services.tax {_IMPORT_RATES} FILE", file=sys.stderr)  # noqa: T201 - for the person who calls it.
        return 2
    try:
        settings = load_migration_settings(SERVICE)
        new = asyncio.run(import_rates(settings.database_url, Path(arguments[0])))
    except CannotStart as error:
        print(f"{SERVICE}: {error}", file=sys.stderr)  # noqa: T201 - for the person who calls it.
        return 1
    print(f"{new} new rates")  # noqa: T201 - for the person who calls it.
    return 0


def main() -> int:
    """Do what the command line asks, and answer the exit code."""
    if sys.argv[1:2] == [_IMPORT_RATES]:
        return _import_rates(sys.argv[2:])
    return run(SERVICE, build)


if __name__ == "__main__":
    sys.exit(main())
