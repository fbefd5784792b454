"""A real Redis Cluster of some nodes, started by the test and set up by commands alone."""

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import redis

from cli.embedded.redis import EmbeddedRedis

SLOTS_COUNT = 16_384

_WAIT_S = 30.0
_BUS_OFFSET = 10_000
_PASSWORD = "a-password-of-the-cluster"


@dataclass(frozen=True, slots=True)
class Node:
    """One node, and a client of it alone."""

    server: EmbeddedRedis
    url: str
    client: Any

    @property
    def port(self) -> int:
        """Where it listens."""
        port = urlsplit(self.url).port
        assert port is not None
        return port

    @property
    def node_id(self) -> str:
        """What the others call it."""
        return str(self.client.execute_command("CLUSTER MYID"))


@dataclass(frozen=True, slots=True)
class Cluster:
    """The nodes, and the URL of them all."""

    nodes: Sequence[Node]
    standbys: Sequence[Node]
    url: str

    def owner(self, slot: int) -> Node:
        """Find who has a slot; slots are dealt out in order."""
        return self.nodes[slot * len(self.nodes) // SLOTS_COUNT]

    def begin_move(self, slot: int, source: Node, target: Node) -> None:
        """Let a slot be on its way."""
        target.client.execute_command("CLUSTER SETSLOT", slot, "IMPORTING", source.node_id)
        source.client.execute_command("CLUSTER SETSLOT", slot, "MIGRATING", target.node_id)

    def move_keys(self, slot: int, source: Node, target: Node, count: int = 1000) -> int:
        """Bring some keys of a slot to the other node, and count them."""
        keys = source.client.execute_command("CLUSTER GETKEYSINSLOT", slot, count)
        if keys:
            source.client.execute_command(
                *("MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "AUTH", _PASSWORD, "KEYS"),
                *keys,
            )
        return len(keys)

    def move_keys_slowly(self, slot: int, source: Node, target: Node) -> None:
        """Bring all keys of a slot to the other node, one after the other."""
        while self.move_keys(slot, source, target, 1):
            time.sleep(0.02)

    def end_move(self, slot: int, target: Node) -> None:
        """Let every node know who has the slot now."""
        for node in self.nodes:
            node.client.execute_command("CLUSTER SETSLOT", slot, "NODE", target.node_id)


@contextmanager
def running_cluster(count: int = 3, *, standbys: int = 0) -> Iterator[Cluster]:
    """Start a cluster that has all slots, and end it; the first nodes may have standbys."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tollkeeper-")))
        homes = [folder / f"node{number}" for number in range(count + standbys)]
        everyone = [stack.enter_context(_node(home)) for home in homes]
        nodes, others = everyone[:count], everyone[count:]
        for number, node in enumerate(nodes):
            first = -(-number * SLOTS_COUNT // count)
            last = -(-(number + 1) * SLOTS_COUNT // count)
            node.client.execute_command("CLUSTER ADDSLOTS", *range(first, last))
        for node in everyone[1:]:
            node.client.execute_command(
                *("CLUSTER MEET", "127.0.0.1", nodes[0].port, nodes[0].port + _BUS_OFFSET)
            )
        wait_until(lambda: all(_is_whole(node, len(everyone)) for node in everyone))
        for node, other in zip(nodes, others, strict=False):
            other.client.execute_command("CLUSTER REPLICATE", node.node_id)
            wait_until(lambda other=other: _is_following(other))  # type: ignore[misc] # mypy knows no defaults.
        hosts = ",".join(f"127.0.0.1:{node.port}" for node in nodes)
        yield Cluster(nodes, others, f"redis+cluster://:{_PASSWORD}@{hosts}")


@contextmanager
def _node(home: Path) -> Iterator[Node]:
    server = EmbeddedRedis(
        home,
        home.with_suffix(".log"),
        durable=False,
        more_settings=(
            "cluster-enabled yes",
            "cluster-node-timeout 2000",
            # Customers of a node that has died wait for its successor, all others do not.
            "cluster-require-full-coverage no",
            f"masterauth {_PASSWORD}",
        ),
        password=_PASSWORD,
    )
    url = server.start()
    client = redis.Redis.from_url(url, decode_responses=True, socket_timeout=10)
    try:
        yield Node(server, url, client)
    finally:
        client.close()
        server.stop()


def wait_until(is_so: Callable[[], bool]) -> None:
    """Look until something is so."""
    deadline = time.monotonic() + _WAIT_S
    while not is_so():
        assert time.monotonic() < deadline, "it did not become so"
        time.sleep(0.05)


def _is_following(node: Node) -> bool:
    return bool(node.client.info("replication").get("master_link_status") == "up")


def _is_whole(node: Node, count: int) -> bool:
    info = node.client.execute_command("CLUSTER INFO")
    facts = (
        info
        if isinstance(info, dict)
        else dict(line.split(":", 1) for line in info.splitlines() if ":" in line)
    )
    return facts["cluster_state"] == "ok" and int(facts["cluster_known_nodes"]) == count
