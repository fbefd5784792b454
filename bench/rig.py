"""What a measurement runs on: real servers of its own, and a service as its own process.

Everything lives in a temporary folder and is gone afterwards. Refuses to measure against servers
somebody else uses, since both would be disturbed.
"""

import asyncio
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import MappingProxyType

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from cli.embedded.data_directory import DataDirectory
from cli.embedded.loopback import HOST, choose_ports
from cli.embedded.postgres import EmbeddedPostgres
from cli.embedded.redis import EmbeddedRedis
from cli.signing_keys import SigningKeys
from kit.migrations import migrate
from kit.rpc.auth import TokenIssuer

_START_WAIT_S = 60.0
_STOP_WAIT_S = 30.0
_POLL_S = 0.05
_TOKEN_LIFE = timedelta(hours=1)
_NONE: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Rig:
    """A running service and the servers under it."""

    database_url: str
    redis_url: str
    address: str
    process_id: int
    redis_process_id: int
    keys: SigningKeys

    def metadata(self, tenant: str, *scopes: str) -> tuple[tuple[str, str], ...]:
        """Make the metadata of a caller."""
        issuer = TokenIssuer(self.keys.issuer_key())
        token = issuer.issue(tenant, scopes, "bench", datetime.now(UTC) + _TOKEN_LIFE)
        return (("authorization", f"Bearer {token}"),)

    def peak_memory_mb(self) -> int:
        """Tell the most memory that the service has held, in megabytes of 2**20 bytes."""
        status = Path(f"/proc/{self.process_id}/status").read_text(encoding="ascii")
        (line,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) // 1024

    def cpu_seconds(self) -> float:
        """Tell how long processors have worked for the service."""
        return cpu_seconds_of(self.process_id)


def cpu_seconds_of(process_id: int) -> float:
    """Tell how long processors have worked for a process."""
    fields = Path(f"/proc/{process_id}/stat").read_text(encoding="ascii").rpartition(")")[2]
    user, system = fields.split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


@contextmanager
def running(service: str, variables: Mapping[str, str] = _NONE) -> Iterator[Rig]:
    """Run durable servers and one service on them, with more variables in its environment."""
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="tollkeeper-bench-"))
        directory = DataDirectory.open(Path(folder) / "data")
        directory.lock()
        stack.callback(directory.unlock)
        postgres = EmbeddedPostgres(directory.path / "postgres", directory.log("postgres"))
        stack.callback(postgres.remove)
        stack.callback(postgres.stop)
        redis = EmbeddedRedis(directory.path / "redis", directory.log("redis"))
        stack.callback(redis.stop)
        database_url, redis_url = postgres.start(), redis.start()
        migrate(database_url, service)
        keys = SigningKeys.load_or_make(directory.path / "keys")
        (port,) = choose_ports(1)
        address = f"{HOST}:{port}"
        environment = {
            "DATABASE_URL": database_url,
            "REDIS_URL": redis_url,
            "TOLLKEEPER_KEYS_FILE": str(keys.public_file),
            "TOLLKEEPER_SERVICE_KEY_FILE": str(keys.service_file),
            f"TOLLKEEPER_{service.upper()}_LISTEN": address,
            "TOLLKEEPER_LOG_LEVEL": "warning",
            # What is measured shares the machine with who measures, and stalls now and then.
            "TOLLKEEPER_QUOTA_DECISION_TIMEOUT_S": "1",
            **variables,
        }
        process = stack.enter_context(_serving(service, address, environment))
        yield Rig(database_url, redis_url, address, process.pid, redis.process_id, keys)


@contextmanager
def running_beside(rig: Rig, service: str, variables: Mapping[str, str] = _NONE) -> Iterator[Rig]:
    """Run another service on the servers of one that runs."""
    migrate(rig.database_url, service)
    (port,) = choose_ports(1)
    address = f"{HOST}:{port}"
    environment = {**_environment(rig, service, address), **variables}
    with _serving(service, address, environment) as process:
        yield replace(rig, address=address, process_id=process.pid)


def _environment(rig: Rig, service: str, address: str) -> dict[str, str]:
    return {
        "DATABASE_URL": rig.database_url,
        "REDIS_URL": rig.redis_url,
        "TOLLKEEPER_KEYS_FILE": str(rig.keys.public_file),
        "TOLLKEEPER_SERVICE_KEY_FILE": str(rig.keys.service_file),
        f"TOLLKEEPER_{service.upper()}_LISTEN": address,
        "TOLLKEEPER_LOG_LEVEL": "warning",
    }


@contextmanager
def _serving(
    service: str, address: str, environment: Mapping[str, str]
) -> "Iterator[subprocess.Popen[bytes]]":
    process = subprocess.Popen(
        (sys.executable, "-P", "-m", f"services.{service}", "serve"),
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
    )
    try:
        asyncio.run(_wait_until_serving(address, process))
        yield process
    finally:
        process.terminate()
        try:
            process.wait(_STOP_WAIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


async def _wait_until_serving(address: str, process: "subprocess.Popen[bytes]") -> None:
    deadline_s = time.monotonic() + _START_WAIT_S
    async with grpc.aio.insecure_channel(address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        while time.monotonic() < deadline_s and process.poll() is None:
            try:
                answer = await health.Check(health_pb2.HealthCheckRequest())
            except grpc.aio.AioRpcError:
                pass
            else:
                if answer.status == health_pb2.HealthCheckResponse.SERVING:
                    return
            await asyncio.sleep(_POLL_S)
    raise SystemExit("the service did not start")
