"""The real Envoy in front of an upstream, with a rate limit service to ask, and calls to it."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cli.embedded.loopback import choose_ports

BINARY = Path(sys.executable).with_name("envoy")
_FILTERS = "envoy.extensions.filters"
_WAIT_S = 30.0
_POLL_S = 0.05


@dataclass(frozen=True, slots=True)
class Got:
    """How Envoy answered."""

    status: int
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class RealEnvoy:
    """A running Envoy."""

    port: int

    async def get(self, path: str, headers: Mapping[str, str]) -> Got:
        """Make one call on a connection of its own."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        lines = [f"GET {path} HTTP/1.1", "host: gateway", "connection: close"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        writer.write(("\r\n".join(lines) + "\r\n\r\n").encode())
        head, _, _ = (await reader.read()).partition(b"\r\n\r\n")
        writer.close()
        await writer.wait_closed()
        first, *rest = head.decode().split("\r\n")
        pairs = (line.partition(": ")[::2] for line in rest)
        return Got(int(first.split()[1]), {name.lower(): value for name, value in pairs})


@asynccontextmanager
async def real_envoy(
    folder: Path, service_address: str, domain: str, routes: Mapping[str, list[dict[str, Any]]]
) -> AsyncIterator[RealEnvoy]:
    """Run Envoy with rate limits for each path; the upstream says that a call used 30 tokens."""
    gateway = {"routes": _limited(routes), "filters": [_rate_limit(domain)]}
    async with _running(folder, service_address, gateway) as envoy:
        yield envoy


@asynccontextmanager
async def logging_envoy(
    folder: Path, service_address: str, access_log: dict[str, Any], filters: list[dict[str, Any]]
) -> AsyncIterator[RealEnvoy]:
    """Run Envoy with a gRPC access log of the given configuration at the service."""
    common = {
        "log_name": "usage",
        "transport_api_version": "V3",
        "buffer_flush_interval": "0.1s",
        **access_log.pop("common_config", {}),
    }
    written = {
        "name": "envoy.access_loggers.http_grpc",
        "typed_config": {
            "@type": "type.googleapis.com/"
            "envoy.extensions.access_loggers.grpc.v3.HttpGrpcAccessLogConfig",
            "common_config": common,
            **access_log,
        },
    }
    routes = [{"match": {"prefix": "/"}, "route": {"cluster": "upstream"}}]
    gateway = {"routes": routes, "filters": filters, "access_log": [written]}
    async with _running(folder, service_address, gateway) as envoy:
        yield envoy


@asynccontextmanager
async def _running(
    folder: Path, service_address: str, gateway: dict[str, Any]
) -> AsyncIterator[RealEnvoy]:
    gateway_port, upstream_port = choose_ports(2)
    service_port = int(service_address.rpartition(":")[2])
    bootstrap = {
        "node": {"id": "test", "cluster": "test"},
        "static_resources": {
            "listeners": [
                _listener("gateway", gateway_port, **gateway),
                _listener("upstream", upstream_port, [_direct_answer()], []),
            ],
            "clusters": [
                _cluster("upstream", upstream_port),
                {**_cluster("service", service_port), **_HTTP2},
            ],
        },
    }
    file, log = folder / "bootstrap.json", folder / "envoy.log"
    file.write_text(json.dumps(bootstrap))
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *(BINARY, "-c", file, "--concurrency", "1", "--disable-hot-restart"),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        await _wait_for(gateway_port, process, log)
        yield RealEnvoy(gateway_port)
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def _wait_for(port: int, process: asyncio.subprocess.Process, log: Path) -> None:
    async with asyncio.timeout(_WAIT_S):
        while process.returncode is None:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(_POLL_S)
                continue
            writer.close()
            await writer.wait_closed()
            return
    raise AssertionError(f"Envoy ended: see {log}")


def _limited(routes: Mapping[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    return [
        {
            "match": {"prefix": path},
            "route": {"cluster": "upstream"},
            "typed_per_filter_config": {
                "envoy.filters.http.ratelimit": {
                    "@type": _type("http.ratelimit", "RateLimitPerRoute"),
                    "rate_limits": limits,
                }
            },
        }
        for path, limits in routes.items()
    ]


def _direct_answer() -> dict[str, Any]:
    return {
        "match": {"prefix": "/"},
        "direct_response": {"status": 200, "body": {"inline_string": "ok\n"}},
        "response_headers_to_add": [{"header": {"key": "x-usage-tokens", "value": "30"}}],
    }


def _rate_limit(domain: str) -> dict[str, Any]:
    return {
        "name": "envoy.filters.http.ratelimit",
        "typed_config": {
            "@type": _type("http.ratelimit", "RateLimit"),
            "domain": domain,
            "failure_mode_deny": True,
            "timeout": "5s",
            "enable_x_ratelimit_headers": "DRAFT_VERSION_03",
            "rate_limit_service": {
                "transport_api_version": "V3",
                "grpc_service": {"envoy_grpc": {"cluster_name": "service"}},
            },
        },
    }


def _listener(
    name: str,
    port: int,
    routes: list[dict[str, Any]],
    filters: list[dict[str, Any]],
    access_log: Sequence[dict[str, Any]] = (),
) -> dict[str, Any]:
    router = {
        "name": "envoy.filters.http.router",
        "typed_config": {"@type": _type("http.router", "Router")},
    }
    manager = {
        "@type": _type("network.http_connection_manager", "HttpConnectionManager"),
        "stat_prefix": name,
        "route_config": {"virtual_hosts": [{"name": name, "domains": ["*"], "routes": routes}]},
        "http_filters": [*filters, router],
        "access_log": [*access_log],
    }
    chain = {
        "filters": [
            {"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}
        ]
    }
    return {"name": name, "address": _address(port), "filter_chains": [chain]}


def _cluster(name: str, port: int) -> dict[str, Any]:
    endpoint = {"lb_endpoints": [{"endpoint": {"address": _address(port)}}]}
    return {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "5s",
        "load_assignment": {"cluster_name": name, "endpoints": [endpoint]},
    }


def _address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def _type(name: str, message: str) -> str:
    return f"type.googleapis.com/{_FILTERS}.{name}.v3.{message}"


_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
_HTTP2 = {
    "typed_extension_protocol_options": {
        _OPTIONS: {
            "@type": f"type.googleapis.com/{_OPTIONS}",
            "explicit_http_config": {"http2_protocol_options": {}},
        }
    }
}
