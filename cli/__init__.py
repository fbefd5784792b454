"""The `tollkeeper` command and the supervisor that runs everything on one machine."""

import os

# The supervisor starts servers while gRPC runs; its fork handlers would write into their logs.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
