"""Composes the tax service: `python -m services.tax serve | migrate | check | import-rates FILE`.

`import-rates FILE [SOURCE]` stores a CSV of the European Central Bank's reference rates, its zip,
or a CSV of the same form from another source. A sample of the former comes with the code and is
stored at each start, so that conversions work without a network.
"""

import asyncio
import sys
import zipfile
from pathlib import Path

from kit.clock import Clock
from kit.entrypoint import run
from kit.errors import CannotStart, DomainError
from kit.hosting import Foundation
from kit.postgres import Database
from kit.rpc.server import Hosted
from kit.settings import ServiceSettings, load_migration_settings
from services.tax.clients.engines import Engine, StripeTax
from services.tax.clients.registers import Hmrc, Register, Vies
from services.tax.reference_rates import SOURCE_ECB, SOURCE_NAME
from services.tax.rulebook_files import ECB_SAMPLE, load_ended_currencies, load_rulebook
from services.tax.service import TaxService
from services.tax.usecases.engines import EngineUseCases
from services.tax.usecases.exchange import ExchangeUseCases
from services.tax.usecases.tax_ids import TaxIdUseCases
from services.tax.usecases.taxes import TaxUseCases
from tollkeeper.api.tax.v1 import tax_service_pb2

SERVICE = "tax"
_IMPORT_RATES = "import-rates"
_FILE_BYTES_MAX = 100_000_000


async def build(settings: ServiceSettings, clock: Clock) -> Hosted:
    """Compose the service; nothing is opened yet.

    Raises:
        CannotStart: a table of the law cannot be read.
    """
    foundation = Foundation(settings, clock)
    exchange = ExchangeUseCases(foundation.database, load_ended_currencies())
    engines = EngineUseCases(_engine(settings))
    taxes = TaxUseCases(foundation.database, load_rulebook(), exchange, engines)
    tax_ids = TaxIdUseCases(foundation.database, _registers(settings, clock))
    foundation.server.add(
        TaxService(taxes, exchange, tax_ids, clock),
        tax_service_pb2.DESCRIPTOR.services_by_name["TaxService"],
    )
    return foundation.host(_SampleRates(exchange))


def _registers(settings: ServiceSettings, clock: Clock) -> list[Register]:
    """Make the registers that are set up; without any, tax ids stay unconfirmed."""
    timeout_s = settings.tax_register_timeout_s
    registers: list[Register] = []
    if settings.tax_vies_url:
        registers.append(Vies(settings.tax_vies_url, timeout_s, clock))
    if settings.tax_hmrc_url:
        registers.append(
            Hmrc(
                settings.tax_hmrc_url,
                settings.tax_hmrc_client_id,
                settings.tax_hmrc_client_secret,
                timeout_s,
                clock,
            )
        )
    return registers


def _engine(settings: ServiceSettings) -> Engine | None:
    """Make the tax engine that is set up, if any."""
    if not settings.tax_engine_url:
        return None
    return StripeTax(
        settings.tax_engine_url, settings.tax_engine_key, settings.tax_engine_timeout_s
    )


class _SampleRates:
    """Stores the reference rates that come with the code, before the service serves."""

    def __init__(self, use_cases: ExchangeUseCases) -> None:
        self._use_cases = use_cases

    async def connect(self) -> None:
        with ECB_SAMPLE.open(encoding="utf-8") as lines:
            await self._use_cases.import_reference_rates(lines)

    async def close(self) -> None:
        """Nothing was opened."""


async def import_rates(database_url: str, file: Path, source: str = SOURCE_ECB) -> int:
    """Store the exchange rates of a CSV, or of the one CSV in a zip; answer how many were new.

    Raises:
        CannotStart: the database does not answer, or the file cannot be read.
    """
    database = Database(database_url, SERVICE)
    await database.connect()
    try:
        lines = _read_lines(file)
        exchange = ExchangeUseCases(database, load_ended_currencies())
        return await exchange.import_reference_rates(lines, source)
    except (OSError, UnicodeDecodeError, ValueError, zipfile.BadZipFile) as error:
        raise CannotStart(f"cannot read {file}: {error}") from error
    except DomainError as error:
        raise CannotStart(f"{file}: {error.message}") from error
    finally:
        await database.close()


def _read_lines(file: Path) -> list[str]:
    if not zipfile.is_zipfile(file):
        return file.read_text(encoding="utf-8").splitlines()
    with zipfile.ZipFile(file) as archive:
        (name,) = archive.namelist()
        if archive.getinfo(name).file_size > _FILE_BYTES_MAX:
            raise ValueError(f"{name} has over {_FILE_BYTES_MAX} bytes")
        return archive.read(name).decode("utf-8").splitlines()


def _import_rates(arguments: list[str]) -> int:
    if len(arguments) not in {1, 2} or not SOURCE_NAME.fullmatch((*arguments, SOURCE_ECB)[1]):
        print(f"usage: python -m services.tax {_IMPORT_RATES} FILE [SOURCE]", file=sys.stderr)  # noqa: T201 - for the person who calls it.
        return 2
    try:
        settings = load_migration_settings(SERVICE)
        new = asyncio.run(import_rates(settings.database_url, Path(arguments[0]), *arguments[1:]))
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
