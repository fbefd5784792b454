"""Runs the meter: `python -m services.meter serve | migrate | check | maintain`; no logic."""

import sys
from datetime import timedelta
from secrets import token_hex

from kit.clock import Clock
from kit.entrypoint import run
from kit.hosting import Foundation
from kit.rpc.server import Hosted
from kit.settings import ServiceSettings
from services.meter.convert.twins import REQUEST_TYPES
from services.meter.service import MeterService, Records
from services.meter.sources.listeners import add_sources
from services.meter.sources.settings import load_source_settings
from services.meter.store.rollups import Rollups
from services.meter.usecases.backfill import Backfill
from services.meter.usecases.closing import Closing
from services.meter.usecases.corrections import Corrections
from services.meter.usecases.erasure import Erasure
from services.meter.usecases.ingestion import Ingestion
from services.meter.usecases.known_meters import KnownMeters
from services.meter.usecases.meters import Meters
from services.meter.usecases.rejections import Rejections
from services.meter.usecases.retention import Retention, note
from services.meter.usecases.usage import Usage
from services.meter.usecases.verification import Verification
from tollkeeper.api.meter.v1 import meter_service_pb2

_SALT_BYTES = 16


async def build(settings: ServiceSettings, clock: Clock) -> Hosted:
    """Compose the service, opening nothing yet."""
    foundation = Foundation(settings, clock)
    database = foundation.database
    rollups = Rollups()
    known_meters = KnownMeters()
    ingestion = Ingestion(database, clock, rollups, known_meters)
    backfill = Backfill(database, rollups)
    servicer = MeterService(
        ingestion,
        Meters(database, backfill, clock),
        Usage(database, backfill, known_meters, clock),
        Records(
            Closing(database),
            Corrections(database, clock),
            Rejections(database, ingestion),
            Verification(database),
            Erasure(database, lambda: token_hex(_SALT_BYTES)),
        ),
        clock,
    )
    descriptor = meter_service_pb2.DESCRIPTOR.services_by_name["MeterService"]
    foundation.server.add(servicer, descriptor, request_types=REQUEST_TYPES)
    foundation.server.before_stop(servicer.drain)
    sources = add_sources(foundation, settings, load_source_settings(), ingestion, clock)
    retention = Retention(database, clock, retention_of(settings))
    return foundation.host(ingestion, backfill, retention, *sources)


async def maintain(settings: ServiceSettings, clock: Clock) -> None:
    """Do once what a serving meter does each hour: make months of events, let old ones go."""
    database = Foundation(settings, clock).database
    try:
        note(await Retention(database, clock, retention_of(settings)).maintain())
    finally:
        await database.close()


def retention_of(settings: ServiceSettings) -> timedelta:
    """Read for how long events are kept."""
    return timedelta(days=settings.meter_retention_days)


def main() -> int:
    """Run the command line."""
    return run("meter", build, {"maintain": maintain})


if __name__ == "__main__":
    sys.exit(main())
