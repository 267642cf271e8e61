"""Layout conversion: every bit of every element, nothing outside, borders untouched."""

from __future__ import annotations

import numpy as np
import pytest
from lowered import run_lowered
from onnxref.kernels.numba import layout as _layout

from onnxref.lowering import Blocked, Op, Operand, Site, Unsupported
from onnxref.native import target
from onnxref.registry import INTERNAL

LANES = target().lanes
assert _layout

SHAPES = [
    (1, LANES, 4, LANES),
    (2, 3, 5, 7),
    (1, 1, 1, 1),
    (1, 2 * LANES + 1, 3, 2 * LANES + 3),
    (3, LANES - 1, 40, 40),
    (2, LANES, 1, 1),
    (2, LANES + 3, 9),
    (1, 2 * LANES, LANES),
]
PADS = [(0, 0, 0, 0), (1, 1, 1, 1), (2, 0, 1, 0), (0, 3, 0, 1)]


def values(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    bits = np.random.default_rng(len(shape)).integers(0, 256, np.prod(shape) * np.dtype(dtype).itemsize)
    return bits.astype(np.uint8).view(dtype).reshape(shape)


@pytest.mark.parametrize("pad", PADS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("parallel", [False, True])
def test_there_and_back(shape: tuple[int, ...], pad: tuple[int, int, int, int], parallel: bool) -> None:
    layout = Blocked(LANES, pad)
    for dtype in ("int32", "float32"):
        x = values(shape, dtype)
        for op_type, held in (
            ("ToBlocked", {"output_layouts": {0: layout}}),
            ("FromBlocked", {"layouts": {0: layout}}),
        ):
            (y,) = run_lowered(op_type, [x], [(shape, dtype)], domain=INTERNAL, parallel=parallel, **held)
            assert y is not None
            assert y.tobytes() == x.tobytes()


@pytest.mark.parametrize("dtype", ["float64", "float16", "int8"])
def test_other_sizes(dtype: str) -> None:
    x, layout = values((2, LANES + 1, 3, 5), dtype), Blocked(LANES, (1, 1, 1, 1))
    (y,) = run_lowered("ToBlocked", [x], [(x.shape, dtype)], domain=INTERNAL, output_layouts={0: layout})
    assert y is not None
    assert y.tobytes() == x.tobytes()
    (y,) = run_lowered("FromBlocked", [x], [(x.shape, dtype)], domain=INTERNAL, layouts={0: layout})
    assert y is not None
    assert y.tobytes() == x.tobytes()


def test_other_border() -> None:
    x = values((2, LANES + 1, 3, 5), "int32")
    (y,) = run_lowered(
        "ToBlocked",
        [x],
        [(x.shape, x.dtype)],
        domain=INTERNAL,
        layouts={0: Blocked(LANES, (0, 1, 2, 0))},
        output_layouts={0: Blocked(LANES, (2, 1, 1, 1))},
    )
    np.testing.assert_array_equal(y, x)


def test_lanes_past_the_last_channel_are_zero() -> None:
    x = np.ones((1, 3, 2, 5), np.float32)
    shape = (1, LANES, 2, 5)
    found = run_lowered(
        "ToBlocked", [x], [(shape, x.dtype)], domain=INTERNAL, output_layouts={0: Blocked(LANES)}
    )
    np.testing.assert_array_equal(found[0], np.pad(x, ((0, 0), (0, LANES - 3), (0, 0), (0, 0))))


@pytest.mark.parametrize("shape", [(1, 3, 0, 4), (2, 3, 4, 0), (1, 3, 0)])
def test_empty(shape: tuple[int, ...]) -> None:
    x = np.zeros(shape, np.float32)
    layout = Blocked(LANES, (1, 1, 1, 1))
    (y,) = run_lowered("FromBlocked", [x], [(shape, x.dtype)], domain=INTERNAL, layouts={0: layout})
    np.testing.assert_array_equal(y, x, strict=True)


def test_three_spatial_axes_are_refused() -> None:
    shape = (1, 2, 3, 4, 5)
    x, y = (Operand(shape, np.dtype(np.float32)) for _ in range(2))
    site = Site(Op("ToBlocked", [x], [y]))
    with pytest.raises(Unsupported):
        _layout.move(site, x)
