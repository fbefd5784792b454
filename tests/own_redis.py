"""A Redis of the test's own, to be paused, killed and emptied."""

import gc
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import redis

from cli.embedded.redis import EmbeddedRedis
from tests.servers import reachable_folder


@dataclass(slots=True)
class OwnRedis:
    """The server, which keeps its address and its data over restarts."""

    server: EmbeddedRedis
    url: str

    @property
    def pid(self) -> int:
        """Tell the process."""
        return int((self.server.home / "server.pid").read_text().splitlines()[0])

    def client(self) -> Any:  # noqa: ANN401 - redis-py types the answers of both its clients as one.
        """Open a client."""
        return redis.Redis.from_url(self.url, decode_responses=True, socket_timeout=10)

    def pause(self) -> None:
        """Let it answer nothing, and keep what it is sent."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on, with what it was sent meanwhile."""
        os.kill(self.pid, signal.SIGCONT)

    def kill(self) -> None:
        """Kill it; what it has written to its file stays."""
        os.kill(self.pid, signal.SIGKILL)

    def restart(self) -> None:
        """Start it anew at the same address."""
        self.server.start()


@contextmanager
def own_redis(*, durable: bool = True) -> Iterator[OwnRedis]:
    """Start a Redis for one test, and end it."""
    with reachable_folder() as folder:
        server = EmbeddedRedis(folder / "redis", folder / "redis.log", durable=durable)
        own = OwnRedis(server, server.start())
        try:
            yield own
        finally:
            # A paused server would not hear that it is to end.
            own.resume()
            server.stop()
            # What was left open is found now, and not in another test.
            gc.collect()
