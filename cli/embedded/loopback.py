"""Ports on the loopback interface: which are free, and a choice of some that are."""

import random
import socket
from contextlib import ExitStack

HOST = "127.0.0.1"
# Below the range from which systems take ports for outgoing connections, so that a chosen port is
# not taken between choosing it and listening on it.
_FIRST_PORT = 20_000
_LAST_PORT = 32_000


def is_free(port: int) -> bool:
    """Tell whether a server could listen on this port now."""
    with socket.socket() as probe:
        return _binds(probe, port)


def choose_ports(count: int) -> tuple[int, ...]:
    """Choose different ports that are free now."""
    with ExitStack() as held:
        ports: list[int] = []
        while len(ports) < count:
            port = random.randint(_FIRST_PORT, _LAST_PORT)  # noqa: S311  # Not a secret.
            if _binds(held.enter_context(socket.socket()), port):
                ports.append(port)
        return tuple(ports)


def _binds(probe: socket.socket, port: int) -> bool:
    # A port that only waits out its last connections is free for a server.
    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        probe.bind((HOST, port))
    except OSError:
        return False
    return True
