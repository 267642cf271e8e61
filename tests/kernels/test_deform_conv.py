"""DeformConv against the definition written as nested loops."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from convolutions import FLOATS, TOLERANCE, normal, rng, windows_of
from helpers import run_op

from onnxref.dtypes import Array
from onnxref.errors import KernelError


def deform_by_definition(
    x: Array, w: Array, offset: Array, mask: Array, begins: Any, strides: Any, dilations: Any, groups: Any
) -> Array:
    group, offset_group = groups
    rank = x.ndim - 2
    out = offset.shape[2:]
    taps = list(np.ndindex(w.shape[2:]))
    moves = offset.reshape(x.shape[0], offset_group, len(taps), rank, *out)
    masks = mask.reshape(x.shape[0], offset_group, len(taps), *out)
    y = np.zeros((x.shape[0], w.shape[0], *out))
    for n, m, *at in np.ndindex(y.shape):
        for c, (t, tap) in itertools.product(range(w.shape[1]), enumerate(taps)):
            channel = m // (w.shape[0] // group) * w.shape[1] + c
            og = channel // (x.shape[1] // offset_group)
            place = [
                at[i] * strides[i] + tap[i] * dilations[i] - begins[i] + moves[(n, og, t, i, *at)]
                for i in range(rank)
            ]
            value = 0.0
            for corner in itertools.product(*[(math.floor(p), math.floor(p) + 1) for p in place]):
                if all(0 <= q < s for q, s in zip(corner, x.shape[2:], strict=True)):
                    share = math.prod(1 - abs(p - q) for p, q in zip(place, corner, strict=True))
                    value += share * x[(n, channel, *corner)]
            y[(n, m, *at)] += value * masks[(n, og, t, *at)] * w[(m, c, *tap)]
    return y


@pytest.mark.parametrize("opset", [19, 22])
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_deform_conv_is_its_definition(rank: int, opset: int) -> None:
    random = rng()
    size, kernel = (6, 5, 4)[:rank], (3, 2, 2)[:rank]
    strides, dilations, pads = (2, 1, 1)[:rank], (1, 2, 1)[:rank], (1, 0, 1)[:rank]
    x = random.standard_normal((2, 4, *size))
    w = random.standard_normal((4, 2, *kernel))
    out, _ = windows_of(size, kernel, strides, dilations, pads * 2, "NOTSET")
    taps = math.prod(kernel)
    offset = random.uniform(-2, 2, (2, 2 * taps * rank, *out))
    mask = random.uniform(0, 1, (2, 2 * taps, *out))
    y = run_op(
        "DeformConv",
        x,
        w,
        offset,
        None,
        mask,
        opset=opset,
        strides=strides,
        dilations=dilations,
        pads=pads * 2,
        group=2,
        offset_group=2,
    )
    expected = deform_by_definition(x, w, offset, mask, pads, strides, dilations, (2, 2))
    np.testing.assert_allclose(y, expected, atol=1e-12)


@pytest.mark.parametrize("dtype", FLOATS)
def test_deform_conv_without_offsets_is_conv(dtype: Any) -> None:
    x, w, b = (a.astype(dtype) for a in (normal(1, 2, 5, 5), normal(3, 2, 3, 3), normal(3)))
    offset = np.zeros((1, 18, 5, 5), dtype)
    y = run_op("DeformConv", x, w, offset, b, opset=22, pads=(1, 1, 1, 1))
    assert y.dtype == dtype
    expected = run_op("Conv", x, w, b, opset=22, pads=(1, 1, 1, 1))
    np.testing.assert_allclose(
        y.astype(np.float64), expected.astype(np.float64), rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype]
    )


def test_deform_conv_samples_nothing_at_nan_or_far_away() -> None:
    x, w = np.ones((1, 1, 2)), np.ones((1, 1, 1))
    offset = np.array([[[math.nan, 1e30]]])
    np.testing.assert_array_equal(run_op("DeformConv", x, w, offset, opset=22), [[[0, 0]]])


def test_deform_conv_refuses() -> None:
    x, w = np.zeros((1, 2, 3, 3)), np.zeros((1, 2, 2, 2))
    with pytest.raises(KernelError, match="offset must have shape"):
        run_op("DeformConv", x, w, np.zeros((1, 8, 3, 3)), opset=22)
    with pytest.raises(KernelError, match="mask must have shape"):
        run_op("DeformConv", x, w, np.zeros((1, 8, 2, 2)), None, np.zeros((1, 3, 2, 2)), opset=22)
    with pytest.raises(KernelError, match="offset_group must divide"):
        run_op("DeformConv", x, w, np.zeros((1, 8, 2, 2)), opset=22, offset_group=0)
    with pytest.raises(KernelError, match="rank of the input must be at least 3"):
        run_op("DeformConv", np.zeros(()), w, np.zeros((1, 8, 2, 2)), opset=22)
    with pytest.raises(KernelError, match="offset must have shape"):
        run_op("DeformConv", x, w, np.zeros(()), opset=22)
