"""Runs the gateway, and asks it until a limit refuses.

    python examples/gateway_demo.py

starts the services on this machine, gives the customer `acme` 100 output tokens a year, and asks
four times. With TOLLKEEPER_TOKEN (and _QUOTA_ADDRESS, _METER_ADDRESS) in the environment it uses
the services named there, and their limits, instead.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

import grpc

from cli.embedded.loopback import choose_ports
from cli.supervisor import Supervisor, SupervisorOptions
from tollkeeper.api.quota.v1 import quota_pb2 as quota
from tollkeeper.api.quota.v1.quota_service_pb2 import PutLimitRequest
from tollkeeper.api.quota.v1.quota_service_pb2_grpc import QuotaServiceStub

GATEWAY = Path(__file__).with_name("gateway.py")
URL = "http://127.0.0.1:{port}/v1/chat/completions"
BODY = {"model": "inventor", "messages": [{"role": "user", "content": "Who was asked?"}]}


def ask(port: int) -> str:
    """Ask the gateway as acme, and say how it answered."""
    headers = {"Authorization": "Bearer acme", "Content-Type": "application/json"}
    request = urllib.request.Request(URL.format(port=port), json.dumps(BODY).encode(), headers)  # noqa: S310 - a URL of this file.
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310 - as above.
            chunks = [json.loads(line[6:]) for line in answer if line.startswith(b"data: {")]
    except urllib.error.HTTPError as refusal:
        message = json.load(refusal)["error"]["message"]
        return f"{refusal.code}: {message}; RateLimit: {refusal.headers['RateLimit']}"
    choices = [chunk["choices"][0] for chunk in chunks]
    count = sum("content" in choice["delta"] for choice in choices)
    return f"200: {count} tokens, then {choices[-1]['finish_reason']}"


def run() -> None:
    """Start the gateway, ask it four times, and let it end."""
    (port,) = choose_ports(1)
    gateway = subprocess.Popen([sys.executable, GATEWAY, "--port", str(port)])
    try:
        wait_for(port, gateway)
        print(f"serving on {URL.format(port=port)}", flush=True)
        for _ in range(4):
            print(ask(port), flush=True)
    finally:
        gateway.send_signal(signal.SIGINT)
        gateway.wait()


def wait_for(port: int, gateway: subprocess.Popen[bytes]) -> None:
    """Return once the gateway listens."""
    while gateway.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise SystemExit("the gateway did not start")


def put_limit(address: str, token: str) -> None:
    """Give every customer 100 output tokens a year."""
    limit = quota.Limit(
        limit_id="answers",
        level=quota.LEVEL_CUSTOMER,
        units=["output_tokens"],
        capacity=100,
        calendar=quota.CalendarWindow(period=quota.CALENDAR_PERIOD_YEAR),
    )
    with grpc.insecure_channel(address) as channel:
        QuotaServiceStub(channel).PutLimit(
            PutLimitRequest(request_id="put-answers", limit=limit),
            metadata=(("authorization", f"Bearer {token}"),),
        )


def main() -> None:
    """Run the demo, and the services behind it unless the environment names them."""
    if "TOLLKEEPER_TOKEN" in os.environ:
        run()
        return
    with tempfile.TemporaryDirectory() as folder:
        # The embedded servers may run as another account, which has to reach the folder.
        Path(folder).chmod(0o711)
        suite = SupervisorOptions(data_dir=Path(folder) / "data", port_base=0, report=print)
        with Supervisor(suite) as running:
            os.environ["TOLLKEEPER_TOKEN"] = running.admin_token
            os.environ["TOLLKEEPER_QUOTA_ADDRESS"] = running.addresses["quota"]
            os.environ["TOLLKEEPER_METER_ADDRESS"] = running.addresses["meter"]
            put_limit(running.addresses["quota"], running.admin_token)
            run()


if __name__ == "__main__":
    main()
