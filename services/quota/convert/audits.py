"""Audits between the wire and the domain."""

from services.quota.auditing import Audit
from services.quota.convert.limits import parse_customer
from tollkeeper.api.quota.v1 import quota_service_pb2 as wire


def parse_audit(request: wire.GetCounterAuditRequest) -> str:
    """Read whose counters are to be audited; empty for all."""
    return parse_customer(request.customer_id)


def render_audit(audit: Audit) -> wire.GetCounterAuditResponse:
    """Write what an audit found."""
    return wire.GetCounterAuditResponse(
        hold_count=audit.holds_count,
        counter_count=audit.counters_count,
        drifts=[
            wire.CounterDrift(
                limit_id=drift.limit_id,
                scope=drift.scope,
                counted=drift.counted,
                derived=drift.derived,
            )
            for drift in audit.drifts
        ],
    )
