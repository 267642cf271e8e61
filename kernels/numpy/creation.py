"""Operators that make a tensor out of little: constants, ranges, identity matrices, one-hot codes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from onnxref.dtypes import Array, DType, ElementType, to_numpy
from onnxref.errors import KernelError
from onnxref.registry import Context, Cost, op

from ._checks import (
    check_addressable,
    check_shape,
    element_type,
    float_dtype,
    int_vector,
    normalize_axis,
    one_element,
    only_one,
    scalar,
    scalar_int,
)
from ._common import narrow, row_strides, zeros


class SparseTensor(Protocol):
    """The NNZ non-zero values of a tensor; indices are linear, (NNZ,), or one row each, (NNZ, rank)."""

    @property
    def values(self) -> Array: ...

    @property
    def indices(self) -> Array: ...

    @property
    def shape(self) -> Sequence[int]: ...


def _densify(sparse: SparseTensor, ctx: Context) -> Array:
    shape, values, indices = tuple(int(d) for d in sparse.shape), sparse.values, sparse.indices
    if any(d < 0 for d in shape):
        raise KernelError(f"shape of sparse_value must be >= 0 (got {shape})")
    ctx.budget.check_bytes(Cost.of(shape, values.dtype).out_bytes)
    count, rank = values.size, len(shape)
    if indices.shape not in ((count,), (count, rank)):
        raise KernelError(
            f"indices of sparse_value must have shape ({count},) or ({count}, {rank}) (got {indices.shape})"
        )
    dense = zeros(check_addressable(shape, values.dtype), values.dtype)
    bounds = np.array(shape if indices.ndim == 2 else dense.size, np.int64)
    outside = (indices < 0) | (indices >= bounds)
    if outside.any():
        raise KernelError(f"indices of sparse_value must lie in shape {shape} (got {indices[outside][0]})")
    linear = indices @ np.array(row_strides(shape), np.int64) if indices.ndim == 2 else indices
    dense.reshape(-1)[linear] = values.reshape(-1)
    return dense


@op("Constant", since=(1, 9))
def constant_1(*, value: Array) -> Array:
    """Return the attribute `value` (ONNX Constant-9)."""
    return value


@op("Constant", since=11)
def constant_11(
    *, value: Array | None = None, sparse_value: SparseTensor | None = None, ctx: Context
) -> Array:
    """Return `value`, or `sparse_value` as a dense tensor (ONNX Constant-11)."""
    name, given = only_one(value=value, sparse_value=sparse_value)
    result: Array = _densify(given, ctx) if name == "sparse_value" else given
    return result


_PLAIN: dict[str, Any] = {
    "value_float": np.float32,
    "value_floats": np.float32,
    "value_int": np.int64,
    "value_ints": np.int64,
    "value_string": object,
    "value_strings": object,
}


@op("Constant", since=(12, 13, 19, 21, 23, 24, 25))
def constant(
    *,
    value: Array | None = None,
    sparse_value: SparseTensor | None = None,
    value_float: float | None = None,
    value_floats: tuple[float, ...] | None = None,
    value_int: int | None = None,
    value_ints: tuple[int, ...] | None = None,
    value_string: str | None = None,
    value_strings: tuple[str, ...] | None = None,
    ctx: Context,
) -> Array:
    """Return the one attribute that is given: a tensor, a scalar or a list (ONNX Constant-25)."""
    name, given = only_one(
        value=value,
        sparse_value=sparse_value,
        value_float=value_float,
        value_floats=value_floats,
        value_int=value_int,
        value_ints=value_ints,
        value_string=value_string,
        value_strings=value_strings,
    )
    if name in _PLAIN:
        return np.array(given, _PLAIN[name])
    return constant_11(value=value, sparse_value=sparse_value, ctx=ctx)


def _target_shape(input: Array) -> list[int]:
    shape = int_vector(input, "input")
    if any(d < 0 for d in shape):
        raise KernelError(f"input must have dimensions >= 0 (got {shape})")
    return shape


_FLOAT_ZERO = np.zeros(1, np.float32)


def _constant_of_shape_cost(input: Array, *, value: Array | None = None) -> Cost:
    return Cost.of(_target_shape(input), (_FLOAT_ZERO if value is None else value).dtype)


@op("ConstantOfShape", since=(9, 20, 21, 23, 24, 25), cost=_constant_of_shape_cost)
def constant_of_shape(input: Array, *, value: Array | None = None) -> Array:
    """Fill a tensor of shape `input` with the only element of `value` (ONNX ConstantOfShape-25)."""
    fill = one_element(_FLOAT_ZERO if value is None else value, "value")
    return np.full(check_addressable(_target_shape(input), fill.dtype), fill, fill.dtype)


@op("EyeLike", since=(9, 22))
def eye_like(input: Array, *, dtype: int | None = None, k: int = 0) -> Array:
    """Return ones on diagonal `k` of an (N, M) matrix shaped like the input (ONNX EyeLike-22)."""
    if input.ndim != 2:
        raise KernelError(f"input must have rank 2 (got {input.ndim})")
    element = input.dtype if dtype is None else to_numpy(element_type(dtype, "dtype"))
    if element.kind == "O":
        raise KernelError("dtype must be numeric or bool (got string)")
    out = np.zeros(input.shape, element)
    n, m = input.shape
    row = np.arange(max(0, -k), max(0, min(n, m - k))) if -n < k < m else np.arange(0)
    out[row, row + k] = 1
    return out


def _range_count(start: Array, limit: Array, delta: Array) -> int:
    """Return max(ceil((limit - start) / delta), 0), each step rounded to the inputs' type."""
    for name, x in (("start", start), ("limit", limit), ("delta", delta)):
        if not math.isfinite(number := scalar(x, name)):
            raise KernelError(f"{name} must be finite (got {number})")
    if not delta.any():
        raise KernelError("delta must not be zero (got 0)")
    if start.dtype.kind in "iu":
        return max(-((int(start.item()) - int(limit.item())) // int(delta.item())), 0)
    with np.errstate(over="ignore"):  # the cost rule also runs where nothing else silences it
        quotient = float(((limit.reshape(()) - start.reshape(())) / delta.reshape(())).astype(np.float64))
    if not math.isfinite(quotient):
        raise KernelError(f"(limit - start) / delta must be finite (got {quotient})")
    return max(math.ceil(quotient), 0)


def _arange(start: Array, limit: Array, delta: Array) -> Array:
    """Return start + i * delta for the whole range, in the inputs' type."""
    count = _range_count(start, limit, delta)
    dtype = start.dtype
    if dtype.kind in "iu":
        # All elements lie between start and limit; wrapping in between cancels out.
        values = start.reshape(()).astype(np.int64) + np.arange(count) * delta.reshape(()).astype(np.int64)
    else:
        values = start.reshape(()) + np.arange(count).astype(dtype) * delta.reshape(())
    return narrow(values, dtype)


def _stashed(stash_type: int, *scalars: Array) -> list[Array]:
    """Return float16 and bfloat16 numbers in the type to compute in, others as they are."""
    if scalars[0].dtype not in _HALF:
        return list(scalars)
    return [x.astype(float_dtype(stash_type, "stash_type")) for x in scalars]


_HALF: tuple[DType, ...] = (to_numpy(ElementType.FLOAT16), to_numpy(ElementType.BFLOAT16))


def _range_cost(start: Array, limit: Array, delta: Array, *, stash_type: int = 1) -> Cost:
    count = _range_count(*_stashed(stash_type, start, limit, delta))
    return Cost(count * start.dtype.itemsize, 24 * count)


@op("Range", since=11, cost=_range_cost)
def range_11(start: Array, limit: Array, delta: Array) -> Array:
    """Return start, start + delta, ... before limit (ONNX Range-11)."""
    return _arange(start, limit, delta)


@op("Range", since=27, cost=_range_cost)
def range_(start: Array, limit: Array, delta: Array, *, stash_type: int = 1) -> Array:
    """Return start, start + delta, ... before limit, half types computed in `stash_type` (ONNX Range-27)."""
    return _arange(*_stashed(stash_type, start, limit, delta)).astype(start.dtype, copy=False)


def _one_hot_shape(indices: Array, depth: Array, axis: int) -> tuple[list[int], int]:
    """Return the output's shape and the axis of the classes in it."""
    classes = scalar_int(depth, "depth")
    if classes < 0:
        raise KernelError(f"depth must not be negative (got {classes})")
    at = normalize_axis(axis, indices.ndim + 1)
    return [*indices.shape[:at], classes, *indices.shape[at:]], at


def _one_hot_cost(indices: Array, depth: Array, values: Array, *, axis: int = -1) -> Cost:
    shape, _ = _one_hot_shape(indices, depth, axis)
    return Cost(Cost.of(shape, values.dtype).out_bytes, 40 * int(indices.size))


def _one_hot(indices: Array, depth: Array, values: Array, axis: int, lowest: int) -> Array:
    """Mark the class of each index in [lowest, depth); negative ones count from the back."""
    check_shape(values, (2,), "values")
    shape, at = _one_hot_shape(indices, depth, axis)
    check_addressable(shape, values.dtype)
    classes = shape[at]
    # Tested before the cast to int64, so that NaN, infinity and huge numbers stay outside; in
    # float64, because float16 has no 65505 and more to compare with.
    whole = indices if indices.dtype.kind in "iu" else np.trunc(indices.astype(np.float64))
    inside = (whole >= lowest * classes) & (whole < classes)
    outer, inner = math.prod(shape[:at]), math.prod(shape[at + 1 :])
    out = np.full((outer, classes, inner), values[0], values.dtype)
    before, after = inside.reshape(outer, inner).nonzero()
    chosen = whole[inside].astype(np.int64)
    out[before, np.where(chosen < 0, chosen + classes, chosen), after] = values[1]
    return out.reshape(shape)


@op("OneHot", since=9, cost=_one_hot_cost)
def one_hot_9(indices: Array, depth: Array, values: Array, *, axis: int = -1) -> Array:
    """Insert an axis of classes; indices outside [0, depth) mark none (ONNX OneHot-9)."""
    return _one_hot(indices, depth, values, axis, 0)


@op("OneHot", since=(11, 28), cost=_one_hot_cost)
def one_hot(indices: Array, depth: Array, values: Array, *, axis: int = -1) -> Array:
    """Insert an axis of classes; indices outside [-depth, depth) mark none (ONNX OneHot-28)."""
    return _one_hot(indices, depth, values, axis, -1)
