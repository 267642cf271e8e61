"""Images of every type, and the weights of cubic interpolation."""

from __future__ import annotations

import math
from typing import Any

import ml_dtypes
import numpy as np

from onnxref.dtypes import Array

F32 = np.float32
BF16 = np.dtype(ml_dtypes.bfloat16)
NUMBERS = (
    *(np.uint8, np.uint16, np.uint32, np.uint64, np.int8, np.int16, np.int32, np.int64),
    *(np.float16, np.float32, np.float64),
)
TYPES_10 = (*NUMBERS, np.bool_, np.complex64, np.complex128, np.object_)
TYPES_13 = (*TYPES_10, BF16)


def f32(*values: float) -> Array:
    return np.array(values, F32)


def i64(*values: int) -> Array:
    return np.array(values, np.int64)


def image(*shape: int, dtype: Any = F32) -> Array:
    if dtype is np.object_:
        return np.array([f"p{i}" for i in range(math.prod(shape))], object).reshape(shape)
    return (np.arange(math.prod(shape)) * 3 % 11).reshape(shape).astype(dtype)


def cubic_weight(d: float, a: float) -> float:
    d = abs(d)
    if d <= 1:
        return (a + 2) * d**3 - (a + 3) * d**2 + 1
    return a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a if d < 2 else 0.0
