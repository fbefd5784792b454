"""Every scope a key can carry, read from the contract of the five services."""

from functools import cache

from tollkeeper.api.auth.v1 import required_scope_pb2
from tollkeeper.api.invoicing.v1 import invoicing_service_pb2
from tollkeeper.api.meter.v1 import meter_service_pb2
from tollkeeper.api.quota.v1 import quota_service_pb2
from tollkeeper.api.rating.v1 import rating_service_pb2
from tollkeeper.api.tax.v1 import tax_service_pb2

_CONTRACTS = (
    quota_service_pb2,
    meter_service_pb2,
    rating_service_pb2,
    tax_service_pb2,
    invoicing_service_pb2,
)


@cache
def all_scopes() -> tuple[str, ...]:
    """Name every scope that some method requires, in alphabetical order."""
    methods = [
        method
        for contract in _CONTRACTS
        for service in contract.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    ]
    scopes = {
        method.GetOptions().Extensions[required_scope_pb2.required_scope] for method in methods
    }
    return tuple(sorted(scopes))
