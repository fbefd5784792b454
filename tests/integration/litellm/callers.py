"""How the proxy of the tests knows its callers: `sk-<team>` is a key of that team."""

from fastapi import Request
from litellm.proxy._types import UserAPIKeyAuth


async def authenticate(_request: Request, api_key: str) -> UserAPIKeyAuth:
    """Take any key at its word."""
    team = api_key.removeprefix("sk-")
    return UserAPIKeyAuth(api_key=f"key-of-{team}", team_id=team, user_id="an employee")
