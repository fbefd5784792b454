"""Rounds of chaos: each has a seed, from which everything random of it is drawn.

A run of the suite has one short round of each test; `make chaos` has many.
`TOLLKEEPER_CHAOS_ROUNDS` is how many, and `TOLLKEEPER_CHAOS_SEED` the first seed, to repeat one.
"""

import os

import pytest


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give a test that asks for a `seed` one for each round."""
    if "seed" in metafunc.fixturenames:
        rounds = int(os.environ.get("TOLLKEEPER_CHAOS_ROUNDS", "1"))
        first = int(os.environ.get("TOLLKEEPER_CHAOS_SEED", "1"))
        metafunc.parametrize("seed", range(first, first + rounds))
