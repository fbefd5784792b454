"""Channels to other services.

A call that finds nobody is repeated up to three times within about a second; that is safe, since
every mutation carries a `request_id`. Refuses to wait longer: that is for the caller to decide.
"""

import json

import grpc.aio

from kit import telemetry

MESSAGE_BYTES_MAX = 16 * 2**20
KEEPALIVE_S = 30

_SERVICE_CONFIG = json.dumps(
    {
        # A name may stand for several replicas; calls are spread over all of them.
        "loadBalancingConfig": [{"round_robin": {}}],
        "methodConfig": [
            {
                "name": [{}],
                "retryPolicy": {
                    "maxAttempts": 4,
                    "initialBackoff": "0.1s",
                    "maxBackoff": "1s",
                    "backoffMultiplier": 2,
                    "retryableStatusCodes": ["UNAVAILABLE"],
                },
            }
        ],
    }
)


def open_channel(address: str, *, message_bytes_max: int = MESSAGE_BYTES_MAX) -> grpc.aio.Channel:
    """Open a channel to a service, such as "127.0.0.1:7302"; it connects when first used."""
    options = (
        ("grpc.service_config", _SERVICE_CONFIG),
        ("grpc.keepalive_time_ms", KEEPALIVE_S * 1000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.max_receive_message_length", message_bytes_max),
        ("grpc.max_reconnect_backoff_ms", 2_000),
    )
    return grpc.aio.insecure_channel(
        address, options=options, interceptors=telemetry.client_interceptors()
    )
