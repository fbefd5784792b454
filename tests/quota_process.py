"""The gate as a process that can be killed and started again at the same address."""

import asyncio
import os
import signal
import sys
from dataclasses import dataclass, field

import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from cli.embedded.loopback import HOST, choose_ports
from kit.settings import ServiceSettings


@dataclass(slots=True)
class QuotaProcess:
    """A process of the quota service."""

    settings: ServiceSettings
    port: int = field(default_factory=lambda: choose_ports(1)[0])
    _process: asyncio.subprocess.Process | None = None

    @property
    def address(self) -> str:
        """Where it listens."""
        return f"{HOST}:{self.port}"

    async def start(self) -> None:
        """Start it."""
        environment = {
            "DATABASE_URL": self.settings.database_url,
            "REDIS_URL": self.settings.redis_url,
            "TOLLKEEPER_KEYS_FILE": str(self.settings.keys_file),
            "TOLLKEEPER_SERVICE_KEY_FILE": str(self.settings.service_key_file),
            "TOLLKEEPER_QUOTA_LISTEN": self.address,
            "TOLLKEEPER_QUOTA_DECISION_TIMEOUT_S": str(self.settings.quota_decision_timeout_s),
        }
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "services.quota", "serve"),
            env={**os.environ, **environment},
            stderr=asyncio.subprocess.DEVNULL,
        )

    async def serving(self) -> None:
        """Return when it serves."""
        assert self._process is not None, "it has been started"
        async with grpc.aio.insecure_channel(self.address) as channel:
            health = health_pb2_grpc.HealthStub(channel)
            request = health_pb2.HealthCheckRequest()
            status = None
            while status != health_pb2.HealthCheckResponse.SERVING:
                assert self._process.returncode is None, "it ended before it served"
                try:
                    status = (await health.Check(request, wait_for_ready=True, timeout=1)).status
                except grpc.aio.AioRpcError:
                    await asyncio.sleep(0.05)

    async def kill(self) -> None:
        """End it at once, by what no code of it sees."""
        if self._process and self._process.returncode is None:
            self._process.send_signal(signal.SIGKILL)
            await self._process.wait()
