"""Puts the invoicing service together: `python -m services.invoicing serve | migrate | check`."""

import sys

from kit.clock import Clock
from kit.entrypoint import run
from kit.hosting import Foundation
from kit.rpc.channel import open_channel
from kit.rpc.server import Hosted
from kit.settings import ServiceSettings
from services.invoicing.clients import MeterClient, PlanLimits, RatingClient, TaxClient
from services.invoicing.closing import PeriodCloser
from services.invoicing.drafting import Drafter
from services.invoicing.service import InvoicingService
from services.invoicing.typesetting import Typesetter
from services.invoicing.usecases.invoices import InvoiceUseCases
from services.invoicing.usecases.parties import PartyUseCases
from tollkeeper.api.invoicing.v1 import invoicing_service_pb2


async def build(settings: ServiceSettings, clock: Clock) -> Hosted:
    """Compose the service; nothing is opened yet."""
    foundation = Foundation(settings, clock)
    identity, database = foundation.identity(), foundation.database
    addresses = (
        settings.rating_address,
        settings.tax_address,
        settings.quota_address,
        settings.meter_address,
    )
    channels = [open_channel(address) for address in addresses]
    rating, tax = RatingClient(channels[0], identity), TaxClient(channels[1], identity)
    limits = PlanLimits(channels[0], channels[2], identity)
    drafter = Drafter(rating, tax, clock)
    closer = PeriodCloser(database, drafter, MeterClient(channels[3], identity), clock)
    service = InvoicingService(
        PartyUseCases(database, rating, limits, clock),
        InvoiceUseCases(database, drafter, closer, Typesetter(), clock),
        clock,
    )
    foundation.server.add(
        service, invoicing_service_pb2.DESCRIPTOR.services_by_name["InvoicingService"]
    )
    return foundation.host(channels=channels)


if __name__ == "__main__":
    sys.exit(run("invoicing", build))
