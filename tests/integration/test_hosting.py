"""A composed service: what it opens, in which order, and that it closes all of it."""

import socket
from collections.abc import Callable

import pytest

from cli.signing_keys import SigningKeys
from kit.clock import SystemClock
from kit.errors import CannotStart
from kit.hosting import Foundation
from kit.rpc.auth import TokenVerifier, load_jwk
from kit.rpc.channel import open_channel
from kit.rpc.server import Hosted, RpcServer
from kit.settings import ServiceSettings


class Recorded:
    """A resource that writes down what happens to it."""

    def __init__(self, name: str, events: list[str], *, fails: bool = False) -> None:
        self._name = name
        self._events = events
        self._fails = fails

    async def connect(self) -> None:
        """Open, or fail as a missing server does."""
        self._events.append(f"open {self._name}")
        if self._fails:
            raise CannotStart(f"cannot reach {self._name}")

    async def close(self) -> None:
        """Close."""
        self._events.append(f"close {self._name}")


@pytest.fixture
def server(settings_for: Callable[..., ServiceSettings]) -> RpcServer:
    """A server without any contract, on a free port."""
    return Foundation(settings_for("quota"), SystemClock()).server


def can_be_reached(address: str) -> bool:
    """Tell whether somebody listens there."""
    host, _, port = address.rpartition(":")
    with socket.socket() as probe:
        return probe.connect_ex((host, int(port))) == 0


async def test_what_was_opened_is_closed_in_reverse(server: RpcServer) -> None:
    """Later resources stand on earlier ones, so that they close first; the port closes too."""
    events: list[str] = []
    resources = [Recorded(name, events) for name in ("pool", "loop")]
    hosted = Hosted(server, resources=resources)

    address = await hosted.start()
    reached = [can_be_reached(address)]
    await hosted.stop(0)
    reached.append(can_be_reached(address))

    assert events == ["open pool", "open loop", "close loop", "close pool"]
    assert reached == [True, False]


async def test_a_start_that_fails_leaves_nothing_open(server: RpcServer) -> None:
    """The error passes on, what had been opened is closed, and nobody listens."""
    events: list[str] = []
    resources = [
        Recorded("pool", events),
        Recorded("database", events, fails=True),
        Recorded("loop", events),
    ]

    with pytest.raises(CannotStart, match=r"^cannot reach database$"):
        await Hosted(server, resources=resources).start()

    assert events == ["open pool", "open database", "close database", "close pool"]


async def test_stopping_twice_is_harmless(server: RpcServer) -> None:
    """A second stop finds nothing to do."""
    events: list[str] = []
    channel = open_channel("127.0.0.1:1")
    hosted = Hosted(server, resources=[Recorded("pool", events)], channels=[channel])

    await hosted.start()
    await hosted.stop(0)
    await hosted.stop(0)

    assert events == ["open pool", "close pool"]


def test_a_service_that_calls_others_needs_a_key(
    settings_for: Callable[..., ServiceSettings], keys: SigningKeys
) -> None:
    """Without the variable it says which; with it, its calls are signed by the services' key."""
    without = Foundation(settings_for("invoicing", service_key_file=None), SystemClock())
    foundation = Foundation(settings_for("invoicing"), SystemClock())

    with pytest.raises(CannotStart, match=r"^TOLLKEEPER_SERVICE_KEY_FILE is required"):
        without.identity()
    ((_, value),) = foundation.identity().metadata("acme", ["rating.read"])

    verifier = TokenVerifier(load_jwk(keys.public_file), foundation.revocations)
    assert verifier.verify(value.removeprefix("Bearer ")).key_id == "service-invoicing"
