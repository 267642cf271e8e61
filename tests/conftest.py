"""What holds for every test."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

LONG = frozenset(("test_emulator.py", "test_nvrtc.py"))
"""Files whose single tests take long; they come first, so that no worker is left with one at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.name not in LONG)


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
