"""Two worker processes of a proxy in one: each asks the gate for a call and logs its answer.

Prints what became of each call, and the folders of the spool; waits for the end of its input.
"""

import asyncio
import os
import sys

from fastapi import HTTPException
from litellm.proxy._types import UserAPIKeyAuth

from tollkeeper.integrations.litellm import TollkeeperLogger


async def call(worker: TollkeeperLogger, call_id: str, team: str) -> str:
    """Make a call as the proxy would."""
    key = UserAPIKeyAuth(api_key="key", team_id=team)
    request = {"litellm_call_id": call_id, "model": "small", "input": "hi", "max_tokens": 5}
    try:
        await worker.async_pre_call_hook(key, None, request, "aresponses")
    except HTTPException as refusal:
        return f"{refusal.status_code} {refusal.detail['error']} {refusal.headers}"
    log = {
        "litellm_call_id": call_id,
        "model_group": "small",
        "metadata": {"usage_object": {"prompt_tokens": 1, "completion_tokens": 2}},
    }
    await worker.async_log_success_event({"standard_logging_object": log}, None, None, None)
    return "passed"


async def main() -> None:
    """Run two workers on the spool of the environment."""
    for call_id in ("call-1", "call-2"):
        print(await call(TollkeeperLogger.from_environment(), call_id, sys.argv[1]))
    print(sorted(os.listdir(os.environ["TOLLKEEPER_SPOOL"])), flush=True)  # noqa: PTH208 - one look.
    await asyncio.to_thread(sys.stdin.read)


asyncio.run(main())
