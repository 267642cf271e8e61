"""Convolution written as nested loops, and what else the tests of its kin share."""

from __future__ import annotations

import math
from typing import Any

import ml_dtypes
import numpy as np

from onnxref.dtypes import Array

FLOATS = [np.float16, np.float32, np.float64, ml_dtypes.bfloat16]
TOLERANCE = {np.float16: 2e-3, np.float32: 1e-5, np.float64: 1e-12, ml_dtypes.bfloat16: 1e-2}


def rng() -> np.random.Generator:
    return np.random.default_rng(7)


def normal(*shape: int) -> Array:
    return rng().standard_normal(shape)


def small_ints(*shape: int) -> Array:
    """Values whose products and sums are exact in every float type."""
    return rng().integers(-2, 3, shape).astype(np.float64)


def windows_of(size: Any, kernel: Any, strides: Any, dilations: Any, pads: Any, auto_pad: str) -> Any:
    """Output size and padding before each axis, by the formulas of Conv-22 and MaxPool-22."""
    out, begins = [], []
    for i, n in enumerate(size):
        extent = (kernel[i] - 1) * dilations[i] + 1
        if auto_pad.startswith("SAME"):
            o = math.ceil(n / strides[i])
            total = max(0, (o - 1) * strides[i] + extent - n)
            begin = total // 2 if auto_pad == "SAME_UPPER" else total - total // 2
        else:
            begin = pads[i]
            o = (n + pads[i] + pads[len(size) + i] - extent) // strides[i] + 1
        out.append(o)
        begins.append(begin)
    return out, begins


def conv_by_definition(
    x: Array, w: Array, b: Any, strides: Any, dilations: Any, pads: Any, group: int, auto_pad: str = "NOTSET"
) -> Array:
    out, begins = windows_of(x.shape[2:], w.shape[2:], strides, dilations, pads, auto_pad)
    m, per_group = w.shape[0], w.shape[1]
    y = np.zeros((x.shape[0], m, *out), x.dtype)
    for n, o, *at in np.ndindex(y.shape):
        first = o // (m // group) * per_group
        total = x.dtype.type(0) if b is None else b[o]
        for tap in np.ndindex(w.shape[2:]):
            place = [
                a * s + k * d - p for a, s, k, d, p in zip(at, strides, tap, dilations, begins, strict=True)
            ]
            if all(0 <= q < size for q, size in zip(place, x.shape[2:], strict=True)):
                total += (x[(n, slice(first, first + per_group), *place)] * w[(o, slice(None), *tap)]).sum()
        y[(n, o, *at)] = total
    return y
