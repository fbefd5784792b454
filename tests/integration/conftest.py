"""Fixtures of tests against real servers."""

import pytest

from cli.signing_keys import SigningKeys
from tests.echo_server import Serving, serve


@pytest.fixture
def serving(keys: SigningKeys, redis_url: str) -> Serving:
    """Answer what serves an echo servicer; keyword arguments are options of the server."""
    return lambda servicer=None, **options: serve(keys, redis_url, servicer, options)
