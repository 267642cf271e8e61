"""Pools beside the reference: windows at every border, NaN, types, blocked and plain."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lowered import check_lowered, run_lowered
from onnxref.kernels.numba import pooling as _pooling

from onnxref.lowering import Blocked, Op, Operand, Site, Unsupported
from onnxref.native import target

LANES = target().lanes
assert _pooling

WINDOWS: list[tuple[tuple[int, ...], dict[str, Any]]] = [
    ((11, 13), {"kernel_shape": (3, 3), "strides": (2, 2), "pads": (1, 1, 1, 1)}),
    ((11, 23), {"kernel_shape": (2, 2), "strides": (2, 2)}),
    ((9, 9), {"kernel_shape": (3, 3), "pads": (1, 1, 1, 1)}),
    ((7, 6), {"kernel_shape": (5, 4), "strides": (3, 1), "pads": (4, 0, 2, 3), "ceil_mode": 1}),
    ((8, 20), {"kernel_shape": (2, 3), "dilations": (2, 3), "pads": (1, 2, 0, 1), "strides": (1, 3)}),
    ((6, 7), {"kernel_shape": (3, 2), "auto_pad": "SAME_LOWER", "strides": (2, 3)}),
    ((4, 4), {"kernel_shape": (4, 4)}),
    ((17,), {"kernel_shape": (3,), "strides": (2,), "pads": (1, 0)}),
    # windows over nothing, which are left to plain tensors
    ((2, 3), {"kernel_shape": (2, 2), "pads": (3, 3, 3, 3)}),
]


def image(shape: tuple[int, ...], dtype: str = "float32") -> np.ndarray:
    random = np.random.default_rng(sum(shape))
    if dtype.endswith("int8"):
        return random.integers(0, 256, shape).astype(np.uint8).view(dtype)
    return random.standard_normal(shape).astype(dtype)


def can_block(x: np.ndarray, attributes: dict[str, Any]) -> bool:
    op = Op("MaxPool", [Operand(x.shape, x.dtype)], [None], attributes)
    return _pooling.blocked_pool(op, LANES) is not None


@pytest.mark.parametrize("case", WINDOWS[:-1], ids=lambda case: str(case[1]["kernel_shape"]))
@pytest.mark.parametrize("c", [LANES, 2 * LANES + 3])
def test_blocked_windows(case: Any, c: int) -> None:
    size, attributes = case
    x = image((2, c, *size)) - 5  # the zeros of a border would win
    held = {"layouts": {0: Blocked(LANES, (1, 0, 0, 2))}, "output_layouts": {0: Blocked(LANES, (0, 1, 1, 1))}}
    for parallel in (False, True):
        check_lowered("MaxPool", [x], attributes, parallel=parallel, **held)
        for include in (0, 1):
            more = {**attributes, "count_include_pad": include}
            check_lowered("AveragePool", [x], more, rtol=3e-6, parallel=parallel, **held)


@pytest.mark.parametrize("case", WINDOWS, ids=lambda case: str(case[1]["kernel_shape"]))
def test_plain_windows(case: Any) -> None:
    size, attributes = case
    x = image((2, 3, *size)) - 5
    many = image((2, LANES + 1, *size)) - 5  # enough channels to pool them in blocks
    for parallel in (False, True):
        check_lowered("MaxPool", [x], attributes, parallel=parallel)
        check_lowered("MaxPool", [many], attributes, parallel=parallel)
        check_lowered("AveragePool", [x], {**attributes, "count_include_pad": 1}, rtol=3e-6)
    check_lowered("AveragePool", [x], attributes, rtol=3e-6)
    check_lowered("LpPool", [x], attributes, rtol=3e-6)


@pytest.mark.parametrize("dtype", ["float64", "float16", "int8", "uint8"])
def test_types(dtype: str) -> None:
    x = image((2, 3, 9, 12), dtype)
    attributes = {"kernel_shape": (3, 3), "strides": (2, 2), "pads": (1, 1, 1, 1)}
    check_lowered("MaxPool", [x], attributes)
    if dtype.startswith("float"):
        tolerance = {"float64": 1e-14, "float16": 1e-3}[dtype]
        check_lowered("AveragePool", [x], attributes, rtol=tolerance, atol=tolerance)
        check_lowered("GlobalAveragePool", [x], rtol=tolerance, atol=tolerance)
        check_lowered("GlobalMaxPool", [x])


def test_three_axes() -> None:
    x = image((1, 2, 5, 6, 7))
    attributes = {"kernel_shape": (2, 3, 3), "strides": (2, 1, 2), "pads": (1, 1, 1, 0, 1, 1)}
    check_lowered("MaxPool", [x], attributes)
    check_lowered("AveragePool", [x], attributes, rtol=3e-6, atol=1e-7, parallel=True)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_window(data: st.DataObject) -> None:
    draw = data.draw
    size = tuple(draw(st.integers(1, 20)) for _ in range(2))
    kernel = tuple(draw(st.integers(1, 4)) for _ in range(2))
    pads = tuple(draw(st.integers(0, kernel[i % 2] - 1)) for i in range(4))
    attributes = {
        "kernel_shape": kernel,
        "pads": pads,
        "strides": tuple(draw(st.integers(1, 4)) for _ in range(2)),
        "ceil_mode": draw(st.integers(0, 1)),
        "dilations": tuple(draw(st.integers(1, 2)) for _ in range(2)),
    }
    reach = [(kernel[i] - 1) * attributes["dilations"][i] + 1 for i in range(2)]
    if any(size[i] + pads[i] + pads[i + 2] < reach[i] for i in range(2)):
        return
    x = image((1, 4, *size)) - 3
    blocked = draw(st.booleans()) and can_block(x, attributes)
    held = {"layouts": {0: Blocked(LANES)}, "output_layouts": {0: Blocked(LANES)}} if blocked else {}
    with np.errstate(all="ignore"):
        check_lowered("MaxPool", [x], attributes, **held)
        check_lowered("AveragePool", [x], attributes, rtol=3e-6, **held)


@pytest.mark.parametrize("blocked", [False, True])
def test_nan_wins(blocked: bool) -> None:
    x = image((1, LANES, 12, 12))
    x[0, 0, 0, 0] = x[0, 1, 5, 5] = x[0, 2, 11, 11] = np.nan
    x[0, 3] = -np.inf
    x[0, 4, 3, 3] = np.inf
    held = {"layouts": {0: Blocked(LANES)}, "output_layouts": {0: Blocked(LANES)}} if blocked else {}
    attributes = {"kernel_shape": (3, 3), "strides": (2, 2), "pads": (1, 1, 1, 1)}
    check_lowered("MaxPool", [x], attributes, **held)
    check_lowered("GlobalMaxPool", [x], **held)
    check_lowered("AveragePool", [x], attributes, rtol=3e-6, atol=1e-6, **held)
    check_lowered("GlobalAveragePool", [x], rtol=3e-6, atol=1e-6, **held)


@pytest.mark.parametrize("size", [(7, 7), (1, 1), (3, 50), (40, 33), (31,), (64, 67)])
@pytest.mark.parametrize("c", [LANES, LANES + 5])
def test_whole_images(size: tuple[int, ...], c: int) -> None:
    x = image((2, c, *size)) + 1
    pads = [{}, {0: Blocked(LANES)}, {0: Blocked(LANES, (1, 2, 0, 1))}]
    for layouts in pads:
        for held in ({}, {0: Blocked(LANES)}) if layouts else ({},):
            for parallel in (False, True):
                options = {"layouts": layouts, "output_layouts": held, "parallel": parallel}
                check_lowered("GlobalAveragePool", [x], rtol=2e-6, atol=1e-6, **options)
                check_lowered("GlobalMaxPool", [x], **options)


def test_nothing() -> None:
    for shape in ((2, 3), (2, 3, 0, 4), (0, 3, 4, 4)):
        x = np.ones(shape, np.float32)
        check_lowered("GlobalAveragePool", [x])
        check_lowered("GlobalMaxPool", [x])
    x = np.ones((0, 3, 4, 4), np.float32)
    check_lowered("MaxPool", [x], {"kernel_shape": (2, 2)})


def test_a_long_mean_keeps_its_digits() -> None:
    x = image((1, LANES, 300, 300)) + 1
    (exact,) = (x.astype(np.float64).mean(axis=(2, 3), keepdims=True),)
    for held in ({}, {0: Blocked(LANES)}):
        (y,) = run_lowered(
            "GlobalAveragePool", [x], [(exact.shape, x.dtype)], layouts=held, output_layouts=held
        )
        np.testing.assert_allclose(y, exact, rtol=3e-6)


def test_what_is_refused() -> None:
    size, attributes = WINDOWS[-1]
    assert not can_block(image((1, 2, *size)), attributes)
    x = Operand((1, 2, 4, 4), np.dtype(np.float32))
    outputs = [Operand((1, 2, 2, 2), np.dtype(kind)) for kind in (np.float32, np.int64)]
    with pytest.raises(Unsupported):
        _pooling.max_pool(Site(Op("MaxPool", [x], outputs)), x, kernel_shape=(3, 3))
