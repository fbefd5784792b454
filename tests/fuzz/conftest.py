"""Fuzzers: a moment of each in a run of the suite, five minutes with `make fuzz`.

`TOLLKEEPER_FUZZ_SECONDS` is how long a fuzzer runs, and `TOLLKEEPER_FUZZ_SEED` what it draws from.
"""

import os
import random

import pytest


@pytest.fixture
def fuzz_seconds() -> float:
    """How long to go on."""
    return float(os.environ.get("TOLLKEEPER_FUZZ_SECONDS", "3"))


@pytest.fixture
def draw() -> random.Random:
    """What everything random is drawn from."""
    return random.Random(int(os.environ.get("TOLLKEEPER_FUZZ_SEED", "1")))
