"""A process that behaves as a service towards the supervisor, and does nothing else.

Run as `python standin_service.py NAME [fault]`; faults are `exit` (ends at once) and `deaf` (serves
but does not end by SIGTERM).
"""

import json
import os
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

_TOLD = ("DATABASE_URL", "REDIS_URL", "TOLLKEEPER_")


def serve(name: str, fault: str) -> None:
    """Answer health until SIGTERM, or until standard input ends."""
    told = {key: os.environ[key] for key in sorted(os.environ) if key.startswith(_TOLD)}
    _say(f"environment {json.dumps(told)}")
    if fault == "exit":
        sys.exit(f"{name} cannot start: a person must mend something")
    end = threading.Event()
    signal.signal(signal.SIGTERM, signal.SIG_IGN if fault == "deaf" else lambda *_: end.set())
    server = grpc.server(ThreadPoolExecutor(2), options=[("grpc.so_reuseport", 0)])
    state = health.HealthServicer()
    state.set("", health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(state, server)
    server.add_insecure_port(os.environ[f"TOLLKEEPER_{name.upper()}_LISTEN"])
    server.start()
    threading.Thread(target=_end_with_input, args=[end], daemon=True).start()
    end.wait()
    server.stop(0).wait()
    _say(f"{name} drained")


def _end_with_input(end: threading.Event) -> None:
    sys.stdin.read()
    end.set()


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    serve(sys.argv[1], "".join(sys.argv[2:]))
