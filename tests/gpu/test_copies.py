"""Copies of many tensors in one launch: sizes, addresses at any byte, other addresses at each call."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxref.gpu import Copies

from .emulator.build import ORDERS
from .emulator.device import EmulatedBuffer, EmulatedDevice, memory

CHUNK = 16384
SIZES = (0, 1, 3, 15, 16, 17, 64, 100, 1024, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK + 33)


def check(
    sizes: Sequence[int], fixed_at: Sequence[int], moving_at: Sequence[int], *, inward: bool, order: int = 0
) -> EmulatedDevice:
    """Copy tensors twice, between other addresses each time; tensor i begins so many bytes behind a line."""
    device = EmulatedDevice(order=order)

    def allocated(offsets: Sequence[int]) -> tuple[list[EmulatedBuffer], list[int]]:
        buffers = [device.allocate(size + at) for size, at in zip(sizes, offsets, strict=True)]
        return buffers, [buffer.address + at for buffer, at in zip(buffers, offsets, strict=True)]

    fixed_memory, fixed = allocated(fixed_at)
    copies = Copies(device, fixed, sizes, inward=inward)
    for seed in range(2):
        moving_memory, moving = allocated(moving_at)
        sources, goals = (moving, fixed) if inward else (fixed, moving)
        random = np.random.default_rng(seed)
        values = [random.integers(0, 256, size, np.uint8) for size in sizes]
        for source, value in zip(sources, values, strict=True):
            memory(source, len(value))[...] = value
        copies(moving)
        for goal, value in zip(goals, values, strict=True):
            np.testing.assert_array_equal(memory(goal, len(value)), value)
        device.synchronize()
        assert moving_memory
    assert fixed_memory
    return device


@pytest.mark.parametrize("inward", [False, True])
@pytest.mark.parametrize("order", ORDERS)
def test_tensors_of_all_sizes_together(inward: bool, order: int) -> None:
    device = check(SIZES, [0] * len(SIZES), [0] * len(SIZES), inward=inward, order=order)
    assert len(device.log) == 2


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(SIZES[:-1]), st.integers(0, 17), st.integers(0, 17)),
        min_size=1,
        max_size=28,
    ),
    st.booleans(),
)
def test_addresses_at_any_byte(tensors: list[tuple[int, int, int]], inward: bool) -> None:
    sizes, fixed_at, moving_at = zip(*tensors, strict=True)
    check(sizes, fixed_at, moving_at, inward=inward)


@pytest.mark.parametrize(
    ("count", "launches"), [(2, 1), (4, 1), (5, 1), (28, 1), (29, 1), (124, 1), (125, 2), (249, 3)]
)
def test_many_tensors_are_few_launches(count: int, launches: int) -> None:
    sizes = [1 + i % 40 for i in range(count)]
    device = check(sizes, [0] * count, [i % 4 for i in range(count)], inward=True)
    assert len(device.log) == 2 * launches


def test_nothing_to_copy_is_no_launch() -> None:
    assert not check([0, 0], [0, 0], [0, 0], inward=True).log


def test_one_tensor_is_the_drivers_copy() -> None:
    device = check([100], [0], [3], inward=False)
    assert not device.log
