"""A service as a process of its own, which can be killed and started again at the same address."""

from __future__ import annotations

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
class ServiceProcess:
    """One service; nothing of it sees a SIGKILL coming."""

    service: str
    settings: ServiceSettings
    port: int = field(default_factory=lambda: choose_ports(1)[0])
    _process: asyncio.subprocess.Process | None = None

    @property
    def address(self) -> str:
        """Where it listens."""
        return f"{HOST}:{self.port}"

    async def start(self) -> None:
        """Start it, and return when it serves."""
        environment = {
            "DATABASE_URL": self.settings.database_url,
            "REDIS_URL": self.settings.redis_url,
            "TOLLKEEPER_KEYS_FILE": str(self.settings.keys_file),
            "TOLLKEEPER_SERVICE_KEY_FILE": str(self.settings.service_key_file),
            f"TOLLKEEPER_{self.service.upper()}_LISTEN": self.address,
        }
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", f"services.{self.service}", "serve"),
            env={**os.environ, **environment},
            stderr=asyncio.subprocess.DEVNULL,
        )
        async with grpc.aio.insecure_channel(self.address) as channel:
            health = health_pb2_grpc.HealthStub(channel)
            request = health_pb2.HealthCheckRequest()
            status = None
            while status != health_pb2.HealthCheckResponse.SERVING:
                assert self._process.returncode is None, "it ended before it served"
                status = (await health.Check(request, wait_for_ready=True)).status
                await asyncio.sleep(0.01)

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        assert self._process is not None, "it was started"
        self._process.send_signal(number)

    async def kill(self) -> None:
        """End it at once."""
        if self._process and self._process.returncode is None:
            self.send(signal.SIGKILL)
            await self._process.wait()
