"""The HTTP server under the front: uvicorn, opened and closed with the service.

Refuses to share its port, to take over the signals of the process, and to log every request.
"""

import asyncio
import contextlib
import socket
from collections.abc import Iterator

import uvicorn

from kit import telemetry
from kit.errors import CannotStart
from services.meter.sources.http import HttpFront

_CONNECTIONS_MAX = 1_000
_IDLE_S = 60
_POLL_S = 0.01


class HttpListener:
    """Serves a front at an address, as "127.0.0.1:7312"; port 0 is any."""

    def __init__(self, front: HttpFront, listen: str, grace_s: float) -> None:
        self.address = ""
        self._listen = listen
        self._socket: socket.socket | None = None
        self._serving: asyncio.Task[None] | None = None
        self._server = _Server(
            uvicorn.Config(
                front.app,
                http="httptools",
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                limit_concurrency=_CONNECTIONS_MAX,
                timeout_keep_alive=_IDLE_S,
                timeout_graceful_shutdown=max(1, round(grace_s)),
            )
        )

    async def connect(self) -> None:
        """Listen and serve.

        Raises:
            CannotStart: the address cannot be listened on.
        """
        host, _, port = self._listen.rpartition(":")
        try:
            self._socket = socket.create_server(
                (host.strip("[]"), int(port)),
                family=socket.AF_INET6 if host.startswith("[") else socket.AF_INET,
            )
        except OSError as error:
            text = f"cannot listen on {self._listen}: {error.strerror}"
            raise CannotStart(text) from error
        self.address = f"{host}:{self._socket.getsockname()[1]}"
        self._serving = asyncio.create_task(self._server.serve([self._socket]))
        while not self._server.started:
            if self._serving.done():
                self._serving.result()
            await asyncio.sleep(_POLL_S)
        telemetry.get_logger().info("http.serving", address=self.address)

    async def close(self) -> None:
        """Let running calls end."""
        self._server.should_exit = True
        if self._serving is not None:
            await self._serving
        if self._socket is not None:
            self._socket.close()


class _Server(uvicorn.Server):
    """A server in a process that has its own idea of signals."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield
