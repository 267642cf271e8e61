"""Reductions along axes (sums, products, extremes, norms, log-sum-exp), arg-extremes, cumulative sums.

All Reduce operators share one factory: up to version 11 or 13 the axes are an attribute, later an
input.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from onnxref.dtypes import Array, DType
from onnxref.errors import KernelError
from onnxref.registry import Cost, op

from ._checks import int_vector, normalize_axes, normalize_axis, scalar
from ._common import in_float32, narrow, to_integers, widen

Axes = tuple[int, ...]
# (data, axes, keepdims) -> reduced; `data` is never narrower than float32 where it is a float.
Reduce = Callable[[Array, Axes, bool], Any]


def _fold(ufunc: np.ufunc, data: Array, axes: Axes, keepdims: bool, **options: Any) -> Any:
    # `dtype` keeps NumPy from widening int32 and uint32: integer sums and products wrap.
    return ufunc.reduce(data, axis=axes, keepdims=keepdims, **{"dtype": data.dtype, **options})


def _sum(data: Array, axes: Axes, keepdims: bool) -> Any:
    return _fold(np.add, data, axes, keepdims)


def _prod(data: Array, axes: Axes, keepdims: bool) -> Any:
    return _fold(np.multiply, data, axes, keepdims)


def _max(data: Array, axes: Axes, keepdims: bool) -> Any:
    return _fold(np.maximum, data, axes, keepdims, initial=_extreme(data.dtype, -math.inf))


def _min(data: Array, axes: Axes, keepdims: bool) -> Any:
    return _fold(np.minimum, data, axes, keepdims, initial=_extreme(data.dtype, math.inf))


def _extreme(dtype: DType, infinity: float) -> Any:
    """Return the end of a type's range, in the direction of `infinity`: what an empty set reduces to."""
    if dtype.kind == "b":
        return infinity > 0
    if dtype.kind in "iu":
        return np.iinfo(dtype).max if infinity > 0 else np.iinfo(dtype).min
    return infinity


def _mean(data: Array, axes: Axes, keepdims: bool) -> Any:
    count = math.prod(data.shape[axis] for axis in axes)
    if data.dtype.kind not in "iu":
        return _sum(data, axes, keepdims) / count
    # A mean always fits its type, so its sum is not made to wrap at 32 bits.
    wide = np.int64 if data.dtype.kind == "i" else np.uint64
    total = np.asarray(_fold(np.add, data, axes, keepdims, dtype=wide))
    quotient = total // wide(max(count, 1))
    if wide is np.int64:  # `//` rounds down, ONNX toward zero
        quotient += (quotient < 0) & (quotient * count != total)
    return quotient.astype(data.dtype)


def _l1(data: Array, axes: Axes, keepdims: bool) -> Any:
    return _sum(np.abs(data), axes, keepdims)


def _sum_square(data: Array, axes: Axes, keepdims: bool) -> Any:
    return _sum(np.square(data), axes, keepdims)


def _l2(data: Array, axes: Axes, keepdims: bool) -> Any:
    return np.sqrt(_real(_sum_square(data, axes, keepdims)))


def _log_sum(data: Array, axes: Axes, keepdims: bool) -> Any:
    return np.log(_real(_sum(data, axes, keepdims)))


def _real(total: Any) -> Any:
    """Return a sum in a floating-point type: float64 if it was an integer."""
    return total.astype(np.float64) if total.dtype.kind in "iu" else total


def _log_sum_exp(data: Array, axes: Axes, keepdims: bool) -> Any:
    # In float64, as the function body has it, and shifted by the maximum so that exp cannot overflow.
    # An infinite or NaN maximum is not subtracted: inf - inf would make a NaN of an honest infinity.
    wide = data.astype(np.float64)
    shift = np.asarray(_max(wide, axes, True))
    shift = np.where(np.isfinite(shift), shift, 0)
    total = _sum(np.exp(wide - shift), axes, True)
    result = np.asarray(np.log(total) + shift)
    return result if keepdims else np.squeeze(result, axes)


class _Reduction(NamedTuple):
    compute: Reduce
    axes_attribute: tuple[int, ...]  # schema versions whose axes are an attribute
    axes_input: tuple[int, ...]  # schema versions whose axes are an input


REDUCTIONS = {
    "ReduceL1": _Reduction(_l1, (1, 11, 13), (18,)),
    "ReduceL2": _Reduction(_l2, (1, 11, 13), (18,)),
    "ReduceLogSum": _Reduction(_log_sum, (1, 11, 13), (18, 28)),
    "ReduceLogSumExp": _Reduction(_log_sum_exp, (1, 11, 13), (18, 28)),
    "ReduceMax": _Reduction(_max, (1, 11, 12, 13), (18, 20)),
    "ReduceMean": _Reduction(_mean, (1, 11, 13), (18,)),
    "ReduceMin": _Reduction(_min, (1, 11, 12, 13), (18, 20)),
    "ReduceProd": _Reduction(_prod, (1, 11, 13), (18,)),
    "ReduceSum": _Reduction(_sum, (1, 11), (13,)),
    "ReduceSumSquare": _Reduction(_sum_square, (1, 11, 13), (18,)),
}


def reduced_axes(rank: int, axes: Sequence[int], noop_with_empty_axes: int) -> Axes:
    """Return the axes to reduce; none given means all of them, unless that is declared to mean none."""
    if len(axes) == 0:
        return () if noop_with_empty_axes else tuple(range(rank))
    return normalize_axes(axes, rank)


def _reduce(compute: Reduce, data: Array, axes: Axes, keepdims: int) -> Array:
    reduced = np.asarray(compute(widen(data), axes, keepdims != 0))
    if data.dtype.kind in "iu" and reduced.dtype.kind == "f":
        return to_integers(reduced, data.dtype)
    return narrow(reduced, data.dtype)


def _cost(data: Array, axes: Axes) -> Cost:
    # An empty input may reduce to an output of any size: (0, n) to (n).
    return Cost.of([d for axis, d in enumerate(data.shape) if axis not in axes], data.dtype)


def _register(name: str, reduction: _Reduction) -> None:
    def cost_by_attribute(data: Array, *, axes: Sequence[int] | None = None, keepdims: int = 1) -> Cost:
        return _cost(data, reduced_axes(data.ndim, axes or (), 0))

    @op(name, since=reduction.axes_attribute, cost=cost_by_attribute)
    def by_attribute(data: Array, *, axes: tuple[int, ...] | None = None, keepdims: int = 1) -> Array:
        """Reduce along `axes`, all of them by default (ONNX Reduce*-1, -11, -12, -13)."""
        return _reduce(reduction.compute, data, reduced_axes(data.ndim, axes or (), 0), keepdims)

    def cost_by_input(
        data: Array, axes: Array | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0
    ) -> Cost:
        return _cost(data, reduced_axes(data.ndim, _axes_list(axes), noop_with_empty_axes))

    @op(name, since=reduction.axes_input, cost=cost_by_input)
    def by_input(
        data: Array, axes: Array | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0
    ) -> Array:
        """Reduce along `axes`, by default all or (noop_with_empty_axes) none of them (ONNX Reduce*-18)."""
        along = reduced_axes(data.ndim, _axes_list(axes), noop_with_empty_axes)
        return _reduce(reduction.compute, data, along, keepdims)


def _axes_list(axes: Array | None) -> list[int]:
    return [] if axes is None else int_vector(axes, "axes")


for _name, _reduction in REDUCTIONS.items():
    _register(_name, _reduction)


def _arg_extreme(
    find: Callable[..., Any], data: Array, axis: int, keepdims: int, select_last_index: int
) -> Array:
    """Return int64 indices of extremes along `axis`; NaN counts as one, as in NumPy."""
    axis = normalize_axis(axis, data.ndim)
    length = data.shape[axis]
    if length == 0:
        raise KernelError(f"data must have elements along axis {axis} (got shape {data.shape})")
    data = widen(data)
    if select_last_index:
        index = length - 1 - find(np.flip(data, axis), axis=axis, keepdims=keepdims != 0)
    else:
        index = find(data, axis=axis, keepdims=keepdims != 0)
    return np.asarray(index, dtype=np.int64)


@op("ArgMax", since=(12, 13))
def arg_max(data: Array, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> Array:
    """Indices of the largest elements along `axis`, the first or last of equal ones (ONNX ArgMax-12)."""
    return _arg_extreme(np.argmax, data, axis, keepdims, select_last_index)


@op("ArgMax", since=(1, 11))
def arg_max_first(data: Array, *, axis: int = 0, keepdims: int = 1) -> Array:
    """Indices of the first largest elements along `axis` (ONNX ArgMax-1)."""
    return _arg_extreme(np.argmax, data, axis, keepdims, 0)


@op("ArgMin", since=(12, 13))
def arg_min(data: Array, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> Array:
    """Indices of the smallest elements along `axis`, the first or last of equal ones (ONNX ArgMin-12)."""
    return _arg_extreme(np.argmin, data, axis, keepdims, select_last_index)


@op("ArgMin", since=(1, 11))
def arg_min_first(data: Array, *, axis: int = 0, keepdims: int = 1) -> Array:
    """Indices of the first smallest elements along `axis` (ONNX ArgMin-1)."""
    return _arg_extreme(np.argmin, data, axis, keepdims, 0)


@op("CumSum", since=(11, 14))
@in_float32
def cum_sum(x: Array, axis: Array, *, exclusive: int = 0, reverse: int = 0) -> Array:
    """Sums of all elements up to each one (excluding it: `exclusive`) along `axis` (ONNX CumSum-11)."""
    return _accumulate(np.add, x, axis, exclusive, reverse)


@op("CumProd", since=26)
@in_float32
def cum_prod(x: Array, axis: Array, *, exclusive: int = 0, reverse: int = 0) -> Array:
    """Products of all elements up to each one (excluding it: `exclusive`) along `axis` (ONNX CumProd-26)."""
    return _accumulate(np.multiply, x, axis, exclusive, reverse)


def _accumulate(ufunc: np.ufunc, x: Array, axis: Array, exclusive: int, reverse: int) -> Array:
    # The schema wants a 0-D axis; exporters also write one element of shape (1,).
    along = normalize_axis(scalar(axis, "axis"), x.ndim)
    y = np.empty(x.shape, x.dtype)
    # Views that have the axis in front, in the order of summation.
    order = slice(None, None, -1 if reverse else 1)
    source, target = np.moveaxis(x, along, 0)[order], np.moveaxis(y, along, 0)[order]
    if exclusive:
        target[:1] = ufunc.identity
        source, target = source[:-1], target[1:]
    ufunc.accumulate(source, axis=0, dtype=x.dtype, out=target)
    return y
