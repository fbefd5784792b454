"""The composition root of the quota service: `python -m services.quota serve | migrate | check`."""

import sys

from kit.clock import Clock
from kit.entrypoint import run
from kit.hosting import Foundation
from kit.redis_pool import is_cluster
from kit.rpc.channel import open_channel
from kit.rpc.server import Hosted
from kit.settings import ServiceSettings
from services.quota.alerts import Alerts
from services.quota.audits import Audits
from services.quota.batcher import Batcher
from services.quota.catalogue import LimitCatalogue
from services.quota.clients import CardClient, UsageClient
from services.quota.cluster_link import ClusterLink
from services.quota.convert.twins import SessionRequest
from services.quota.counters import Counters
from services.quota.envoy.facade import facade
from services.quota.envoy.settings import load_envoy_settings
from services.quota.epochs import Epochs
from services.quota.estimators import Estimators
from services.quota.expiry_index import ExpiryIndex
from services.quota.inspection import Inspection
from services.quota.rate_cards import RateCards
from services.quota.reconciler import Reconciler
from services.quota.recovery import Recovery
from services.quota.redis_link import Link, RedisLink
from services.quota.service import QuotaService
from services.quota.standby import Standby
from services.quota.sweeper import Sweeper
from services.quota.usecases import CounterUseCases, Gate, HoldUseCases, LimitUseCases
from tollkeeper.api.quota.v1 import quota_service_pb2


async def build(settings: ServiceSettings, clock: Clock) -> Hosted:
    """Put the service together."""
    foundation = Foundation(settings, clock)
    rating, meter = open_channel(settings.rating_address), open_channel(settings.meter_address)
    client = CardClient(rating, meter, foundation.identity())
    cards = RateCards(client, refresh_s=settings.quota_rate_card_refresh_s)
    catalogue = LimitCatalogue(foundation.database, foundation.redis, cards, clock)
    link = _link(settings)
    wait_s = settings.startup_timeout_s
    epochs = Epochs(foundation.database, link, clock, startup_timeout_s=wait_s)
    index = ExpiryIndex(link, epochs.installation)
    usage = UsageClient(meter, foundation.identity())
    recovery = Recovery(link, index, epochs, catalogue, usage=usage, clock=clock)
    counters = Counters(link, index, recovery, startup_timeout_s=wait_s)
    alerts = Alerts(foundation.database, clock)
    standby = Standby(clock)
    batcher = Batcher(counters, catalogue.cover, standby, alerts.see)
    standby.serve(batcher.book, counters.probe, recovery.is_lost)
    estimators = Estimators(foundation.redis)
    limits = LimitUseCases(foundation.database, catalogue, cards, clock)
    gate = Gate(catalogue, batcher, estimators)
    holds = HoldUseCases(Inspection(link))
    reconciler = Reconciler(link, epochs, recovery, catalogue, usage=usage, clock=clock)
    recovery.serve(reconciler.reconcile, standby.owes)
    kept = CounterUseCases(foundation.database, Audits(link), reconciler)
    service = QuotaService(gate, holds, limits, kept, clock)
    descriptor = quota_service_pb2.DESCRIPTOR.services_by_name["QuotaService"]
    foundation.server.add(service, descriptor, request_types={"Session": SessionRequest})
    foundation.server.before_stop(service.drain)
    envoy = facade(foundation, settings, load_envoy_settings(), gate, clock)
    sweeper = Sweeper(link, index, counters)
    own = (catalogue, counters, epochs, recovery, alerts, batcher, standby, sweeper, estimators)
    return foundation.host(*own, *envoy, channels=(rating, meter))


def _link(settings: ServiceSettings) -> Link:
    kind = ClusterLink if is_cluster(settings.redis_url) else RedisLink
    return kind(settings.redis_url, timeout_s=settings.quota_decision_timeout_s)


if __name__ == "__main__":
    sys.exit(run("quota", build))
