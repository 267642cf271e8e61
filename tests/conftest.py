"""What holds for every test."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest


@pytest.fixture(autouse=True)
def same_numbers_in_any_order(request: pytest.FixtureRequest) -> Iterator[None]:
    """Give a test its module's random numbers from the start, whichever tests ran before it."""
    generator = getattr(request.module, "RNG", None)
    if isinstance(generator, np.random.Generator):
        before = generator.bit_generator.state
        yield
        generator.bit_generator.state = before
    else:
        yield
