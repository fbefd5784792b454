"""Fixtures of tests against real servers."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from cli.signing_keys import SigningKeys
from kit.settings import ServiceSettings
from tests.e2e.world import running_world
from tests.echo_server import Serving, serve
from tests.shell import MARCH, Shell


@pytest.fixture
def serving(keys: SigningKeys, redis_url: str) -> Serving:
    """Answer what serves an echo servicer; keyword arguments are options of the server."""
    return lambda servicer=None, **options: serve(keys, redis_url, servicer, options)


@pytest.fixture
async def shell(
    settings_for: Callable[..., ServiceSettings], keys: SigningKeys, tenant: str, tmp_path: Path
) -> AsyncIterator[Shell]:
    """Five servers on 1 March 2026, and a shell."""
    async with running_world(settings_for, keys, tenant, MARCH) as world:
        yield Shell(world, tmp_path)
