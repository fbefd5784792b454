"""Audits, and counters set anew, between the wire and the domain."""

from kit.errors import Violations
from kit.idempotency import parse_request_id
from services.quota.auditing import Audit
from services.quota.convert.fields import parse_customer_id
from services.quota.convert.limits import parse_customer
from services.quota.reconciler import Reconciled
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


def parse_rebuild(request: wire.RebuildCountersRequest) -> str:
    """Read whose counters are to be set anew."""
    violations = Violations()
    violations.take("request_id", lambda: parse_request_id(request.request_id))
    customer = violations.take("customer_id", lambda: parse_customer_id(request.customer_id))
    violations.raise_if_any()
    return customer


def render_rebuilt(reconciled: Reconciled) -> wire.RebuildCountersResponse:
    """Write what was set anew."""
    return wire.RebuildCountersResponse(
        counter_count=reconciled.counters_count,
        hold_count=reconciled.holds_count,
        changed=[
            wire.RebuiltCounter(
                limit_id=change.limit_id,
                scope=change.scope,
                used_before=change.used_before,
                used_after=change.used_after,
                reserved_before=change.held_before,
                reserved_after=change.held_after,
            )
            for change in reconciled.changed
        ],
    )
