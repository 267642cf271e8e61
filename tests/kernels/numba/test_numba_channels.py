"""ShuffleChannels beside its definition: in blocks and plain, every size of element, bit by bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from lowered import run_lowered
from onnxref.kernels.numba import channels as _channels

from onnxref.lowering import Blocked
from onnxref.native import target
from onnxref.registry import INTERNAL

LANES = target().lanes
assert _channels


def shuffled(x: np.ndarray[Any, Any], groups: int) -> np.ndarray[Any, Any]:
    return np.stack(np.split(x, groups, axis=1), axis=2).reshape(x.shape)


def run(x: np.ndarray[Any, Any], groups: int, **how: Any) -> np.ndarray[Any, Any]:
    (y,) = run_lowered(
        "ShuffleChannels", [x], [(x.shape, x.dtype)], {"groups": groups}, domain=INTERNAL, **how
    )
    return y


def bits(shape: tuple[int, ...], dtype: str) -> np.ndarray[Any, Any]:
    """Return every pattern of bits, NaNs with payloads among them."""
    nbytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return np.frombuffer(np.random.default_rng(nbytes).bytes(nbytes), dtype).reshape(shape).copy()


SHAPES = [
    ((2, 2 * LANES, 5, 7), 4),
    ((1, 3 * LANES + 6, 3, 3), 3),
    ((3, 6, 1, 1), 2),
    ((2, 20, 9), 5),
    ((1, LANES, 2, 2), LANES),
]


@pytest.mark.parametrize("parallel", [False, True])
@pytest.mark.parametrize(("shape", "groups"), SHAPES)
def test_shuffled(shape: tuple[int, ...], groups: int, parallel: bool) -> None:
    x = bits(shape, "uint32").view(np.float32)
    expected = shuffled(x, groups).view(np.uint32)
    np.testing.assert_array_equal(run(x, groups, parallel=parallel).view(np.uint32), expected)
    held = {"layouts": {0: Blocked(LANES, (1, 0, 2, 1))}, "output_layouts": {0: Blocked(LANES, (0, 1, 1, 2))}}
    np.testing.assert_array_equal(run(x, groups, parallel=parallel, **held).view(np.uint32), expected)


def test_nothing() -> None:
    assert run(np.zeros((0, 8, 2, 2), np.float32), 2).shape == (0, 8, 2, 2)


@pytest.mark.parametrize("dtype", ["uint8", "float16", "int64"])
def test_types(dtype: str) -> None:
    x = bits((2, 12, 3, 4), dtype).view(dtype.replace("float", "uint"))
    held = {"layouts": {0: Blocked(LANES)}, "output_layouts": {0: Blocked(LANES)}}
    for how in ({}, held):
        np.testing.assert_array_equal(run(x, 3, **how), shuffled(x, 3))
