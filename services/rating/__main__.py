"""Puts the rating service together: `python -m services.rating serve | migrate | check`."""

import sys

from kit.clock import Clock
from kit.entrypoint import run
from kit.hosting import Foundation
from kit.rpc.channel import open_channel
from kit.rpc.server import Hosted
from kit.settings import ServiceSettings
from services.rating.clients import MeterClient
from services.rating.cost_usecases import ProviderCostUseCases
from services.rating.margin_usecases import MarginUseCases
from services.rating.service import RatingService
from services.rating.simulating import Simulating
from services.rating.usecases import RatingUseCases
from tollkeeper.api.rating.v1 import rating_service_pb2


async def build(settings: ServiceSettings, clock: Clock) -> Hosted:
    """Compose the service; nothing is opened yet."""
    foundation = Foundation(settings, clock)
    channel = open_channel(settings.meter_address)
    meters = MeterClient(channel, foundation.identity())
    usecases = RatingUseCases(foundation.database, meters)
    foundation.server.add(
        RatingService(
            usecases,
            ProviderCostUseCases(foundation.database),
            MarginUseCases(foundation.database, meters),
            Simulating(foundation.database, meters),
            clock=clock,
        ),
        rating_service_pb2.DESCRIPTOR.services_by_name["RatingService"],
    )
    return foundation.host(channels=[channel])


if __name__ == "__main__":
    sys.exit(run("rating", build))
