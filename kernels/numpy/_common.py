"""Computations that several kernel families share: precision, conversion, softmax and the like."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import ml_dtypes
import numpy as np

from onnxref.dtypes import LOW_PRECISION, Array, DType
from onnxref.registry import Cost

_F = TypeVar("_F", bound=Callable[..., Any])


# --- precision -----------------------------------------------------------------------------------


def widen(x: Array) -> Array:
    """Return `x` in float32 if its type is narrower than that, else `x` itself."""
    return x.astype(np.float32) if x.dtype in LOW_PRECISION else x


def narrow(x: Any, dtype: DType) -> Array:
    """Return `x` rounded to `dtype` (no copy where it has that type already)."""
    return np.asarray(x).astype(dtype, copy=False)


def in_float32(kernel: _F) -> _F:
    """Make a kernel compute float16, bfloat16 and narrower floats in float32, rounded once at the end.

    The outputs get the type of the first input. Inputs of other types pass through.
    """

    @functools.wraps(kernel)
    def wrapped(*inputs: Any, **attributes: Any) -> Any:
        dtype = inputs[0].dtype
        if dtype not in LOW_PRECISION:
            return kernel(*inputs, **attributes)
        wide = [widen(x) if isinstance(x, np.ndarray) else x for x in inputs]
        result = kernel(*wide, **attributes)
        if isinstance(result, tuple):
            return tuple(None if y is None else narrow(y, dtype) for y in result)
        return narrow(result, dtype)

    return wrapped  # type: ignore[return-value]  # functools.wraps keeps the signature


def like_first_input(scratch_bytes: int) -> Callable[..., Cost]:
    """Return a cost rule: an output as large as the first input, and scratch for each of its elements."""

    def cost(x: Array, *_inputs: Any, **_attributes: Any) -> Cost:
        return Cost(x.nbytes, scratch_bytes * x.size)

    return cost


# --- conversion ----------------------------------------------------------------------------------


def to_integers(x: Array, dtype: DType) -> Array:
    """Return real numbers as integers, toward zero; what is out of range saturates and NaN gives 0."""
    info = np.iinfo(dtype)
    low, high = x.dtype.type(info.min), x.dtype.type(info.max)
    if int(high) == info.max:
        y = np.clip(x, low, high)
        missing = np.isnan(y)
        return np.asarray((np.where(missing, 0, y) if missing.any() else y).astype(dtype))
    # The largest integers round up, out of the type: hence `<` and not `<=`.
    y = np.where((x > low) & (x < high), x, 0).astype(dtype)
    y[x <= low] = info.min
    y[x >= high] = info.max
    return y


def requantize(y: Array, zero_point: Array) -> Array:
    """Return float64 `y`, rounded half to even, plus zero_point, saturated to the type of zero_point.

    A float8 type takes the sum as it is and rounds it once.
    """
    dtype = zero_point.dtype
    if dtype in LOW_PRECISION:
        limit = float(ml_dtypes.finfo(dtype).max)  # type: ignore[no-untyped-call]
        return narrow(np.clip(y + zero_point.astype(np.float64), -limit, limit), dtype)
    y = np.rint(y)
    y += zero_point
    return to_integers(y, dtype)


def wrap(value: float, dtype: DType) -> Array:
    """Return the integer part of a finite number modulo 2**bits of an integer type."""
    return np.asarray(int(value) % 2**64, np.uint64).astype(dtype)


# --- making tensors ------------------------------------------------------------------------------


def zeros(shape: Sequence[int], dtype: DType) -> Array:
    """Return a tensor of zeros, False or empty strings.

    float8e8m0 has no zero: all bits clear is 2**-127, its value nearest to zero.
    """
    return np.full(shape, "", object) if dtype.kind == "O" else np.zeros(shape, dtype)


def row_strides(shape: Sequence[int]) -> tuple[int, ...]:
    """Return how many elements lie between neighbours along each axis, in row-major order."""
    return tuple(math.prod(shape[i + 1 :]) for i in range(len(shape)))


# --- functions of floating-point tensors ---------------------------------------------------------


def mean(x: Array, axes: tuple[int, ...]) -> Array:
    """Return the mean over axes, kept with size 1; NaN over no elements (where `np.mean` would warn)."""
    count = math.prod(x.shape[axis] for axis in axes)
    return x.sum(axis=axes, keepdims=True) / x.dtype.type(count)  # type: ignore[no-any-return]


def sigmoid(x: Array) -> Array:
    """Return 1 / (1 + exp(-x))."""
    # exp of what is never positive: no overflow, and full precision in both tails.
    tail = np.exp(-np.abs(x))
    return np.where(x < 0, tail, x.dtype.type(1)) / (1 + tail)  # type: ignore[no-any-return]


def softmax(x: Array, axis: int, *, out: Array | None = None) -> Array:
    """Return exp(x) divided by its sum along `axis`; `out` may be `x` itself."""
    result: Array = np.subtract(x, x.max(axis, keepdims=True, initial=-np.inf), out=out)
    np.exp(result, out=result)
    result /= result.sum(axis, keepdims=True)
    return result


def log_softmax(x: Array, axis: int) -> Array:
    """Return the logarithm of softmax, without the loss of digits that its small values would mean."""
    shifted: Array = x - x.max(axis, keepdims=True, initial=-np.inf)
    shifted -= np.log(np.exp(shifted).sum(axis, keepdims=True))
    return shifted
