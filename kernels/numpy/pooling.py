"""Pools: average, maximum and Lp over sliding windows and whole images; MaxUnpool.

A pool of a box is a pool of each of its axes in turn, so windows cost the sum of their sides
and not their product.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from onnxref.dtypes import Array, DType
from onnxref.errors import KernelError
from onnxref.registry import Context, Cost, op

from ._checks import check_choice, check_shape, int_vector
from ._common import in_float32, mean, narrow, widen
from ._windows import Index, Ranges, Windows, distinct_ranges, per_axis, slide, spatial_shape

# Sliding windows ----------------------------------------------------------------------------------


def _pool_cost(x: Array, *, kernel_shape: tuple[int, ...], **attributes: Any) -> Cost:
    """Cost of a pool with one output; partly pooled images and their wider types are scratch."""
    for unrelated in ("count_include_pad", "storage_order", "p"):
        attributes.pop(unrelated, None)
    windows = slide(spatial_shape(x), kernel_shape, **attributes)
    lanes, rank = x.shape[0] * x.shape[1], len(windows.size)
    sizes = [math.prod(windows.out[:i] + windows.size[i:]) for i in range(rank + 1)]
    sizes += [math.prod(windows.size[:i] + windows.out[i:]) for i in range(rank)]
    made = lanes * math.prod(windows.out)
    return Cost(made * x.itemsize, 3 * max(4, x.itemsize) * lanes * max(sizes) + 64 * sum(windows.out))


def _ranges(windows: Windows, axis: int) -> Ranges:
    """Return the distinct (start, stop) that windows of `axis` cover in the image, and which each has.

    Steps are the dilation. Windows over nothing but padding have start == stop == 0.
    """
    dilation = windows.dilations[axis]
    first = np.arange(windows.out[axis], dtype=np.int64) * windows.strides[axis] - windows.begins[axis]
    stop = np.minimum(windows.size[axis], first + (windows.kernel[axis] - 1) * dilation + 1)
    start = np.where(first < 0, first % dilation, first)
    return distinct_ranges(start, stop, windows.size[axis])


def _by_taps(windows: Windows, axis: int) -> bool:
    """Whether it takes fewer steps to visit the taps of a window than the distinct windows."""
    # However large the padding, an image has at most 3 * size + 1 different windows.
    return windows.kernel[axis] <= min(windows.out[axis], 3 * windows.size[axis] + 1)


def _on_axis(axis: int, part: Any, rank: int) -> Index:
    """Return the index that applies `part` to spatial axis `axis` of an (N, C, *spatial) array."""
    return (slice(None),) * (2 + axis) + (part,) + (slice(None),) * (rank - axis - 1)


def _pool(x: Array, windows: Windows, combine: np.ufunc, identity: float) -> Array:
    """Combine the elements of each window of x (N, C, *spatial); padding counts as the identity."""
    if math.prod(windows.out) == 1 and not any(windows.begins):
        box = zip(windows.extent, windows.dilations, strict=True)
        covered: Index = (..., *(slice(0, e, d) for e, d in box))
        axes = tuple(range(2, x.ndim))
        return np.asarray(combine.reduce(x[covered], axis=axes, keepdims=True, initial=identity))
    for axis in range(len(windows.size)):
        x = _pool_axis(x, windows, axis, combine, identity)
    return x


def _pool_axis(x: Array, windows: Windows, axis: int, combine: np.ufunc, identity: float) -> Array:
    rank, position = len(windows.size), 2 + axis
    shape = (*x.shape[:position], windows.out[axis], *x.shape[position + 1 :])
    if _by_taps(windows, axis):
        taps = [windows.overlap(axis, k) for k in range(windows.kernel[axis])]
        # A tap that all windows have in the image makes a better start than the identity.
        whole = next((tap for tap in taps if tap[0] == slice(0, windows.out[axis])), None)
        if whole is None:
            y: Array = np.full(shape, identity, x.dtype)
        else:
            taps.remove(whole)
            y = x[_on_axis(axis, whole[1], rank)].copy()
        for over_windows, over_image in taps:
            target = y[_on_axis(axis, over_windows, rank)]
            combine(target, x[_on_axis(axis, over_image, rank)], out=target)
        return y
    ranges, which = _ranges(windows, axis)
    parts: Array = np.empty((*x.shape[:position], len(ranges), *x.shape[position + 1 :]), x.dtype)
    for i, (start, stop) in enumerate(ranges):
        covered = x[_on_axis(axis, slice(start, stop, windows.dilations[axis]), rank)]
        parts[_on_axis(axis, i, rank)] = combine.reduce(covered, axis=position, initial=identity)
    return np.take(parts, which, axis=position)


def _argmax_axis(x: Array, places: Array, windows: Windows, axis: int) -> tuple[Array, Array]:
    """Return the maximum of each window along one axis and its entry in `places`, the first of equals.

    A NaN is the maximum. Windows over nothing but padding have the lowest value and place -1.
    """
    y = _pool_axis(x, windows, axis, np.maximum, _lowest(x.dtype))
    rank, position = len(windows.size), 2 + axis
    if _by_taps(windows, axis):
        at: Array = np.full(y.shape, -1, places.dtype)
        nan = x.dtype.kind == "f" and bool(np.isnan(y).any())
        # From the last tap to the first, so that of equal values the first stays.
        for k in reversed(range(windows.kernel[axis])):
            over_windows, over_image = windows.overlap(axis, k)
            inside, source = _on_axis(axis, over_windows, rank), _on_axis(axis, over_image, rank)
            found = x[source] == y[inside]
            if nan:
                found |= np.isnan(x[source])
            np.copyto(at[inside], places[source], where=found)
        return y, at
    ranges, which = _ranges(windows, axis)
    at = np.full((*x.shape[:position], len(ranges), *x.shape[position + 1 :]), -1, places.dtype)
    for i, (start, stop) in enumerate(ranges):
        if start < stop:
            source = _on_axis(axis, slice(start, stop, windows.dilations[axis]), rank)
            winner = np.argmax(x[source], axis=position, keepdims=True)
            at[_on_axis(axis, slice(i, i + 1), rank)] = np.take_along_axis(places[source], winner, position)
    return y, np.take(at, which, axis=position)


def _lowest(dtype: DType) -> float:
    """Return the identity of the maximum."""
    return np.iinfo(dtype).min if dtype.kind in "iu" else -math.inf


@op("AveragePool", since=(1, 7, 10, 11, 19, 22), cost=_pool_cost)
@in_float32
def average_pool(
    x: Array,
    *,
    kernel_shape: tuple[int, ...],
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    count_include_pad: int = 0,
    dilations: tuple[int, ...] | None = None,
    pads: tuple[int, ...] | None = None,
    strides: tuple[int, ...] | None = None,
) -> Array:
    """Average each window of x (N, C, *spatial), with its padding where count_include_pad is not 0.

    ONNX AveragePool-22. What a last window of ceil_mode covers beyond the padding is never counted.
    """
    windows = slide(spatial_shape(x), kernel_shape, strides, dilations, pads, auto_pad, ceil_mode)
    counts: Array = np.ones((), x.dtype)
    for axis in range(len(windows.size)):
        on_axis = window_counts(windows, axis, include_pad=bool(count_include_pad))
        counts = counts[..., np.newaxis] * on_axis.astype(x.dtype)
    y = _pool(x, windows, np.add, 0)
    y /= counts
    return y


def window_counts(windows: Windows, axis: int, *, include_pad: bool) -> Array:
    """Return how many elements of each window of `axis` lie in the (padded) image."""
    first = np.arange(windows.out[axis], dtype=np.int64) * windows.strides[axis] - windows.begins[axis]
    dilation, kernel = windows.dilations[axis], windows.kernel[axis]
    end = windows.size[axis] + (windows.ends[axis] if include_pad else 0)
    begin = -windows.begins[axis] if include_pad else 0
    # Elements first + k * dilation with begin <= element < end, k in [0, kernel).
    below_end = np.clip(-((first - end) // dilation), 0, kernel)
    below_begin = np.clip(-((first - begin) // dilation), 0, kernel)
    return below_end - below_begin


def _max_pool_cost(x: Array, *, kernel_shape: tuple[int, ...], **attributes: Any) -> Cost:
    out_bytes, scratch_bytes = _pool_cost(x, kernel_shape=kernel_shape, **attributes)
    return Cost(out_bytes + out_bytes // x.itemsize * 8, scratch_bytes // x.itemsize * 16)


@op("MaxPool", since=(1, 8, 10, 11, 12, 22), cost=_max_pool_cost)
def max_pool(
    x: Array,
    *,
    kernel_shape: tuple[int, ...],
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    dilations: tuple[int, ...] | None = None,
    pads: tuple[int, ...] | None = None,
    storage_order: int = 0,
    strides: tuple[int, ...] | None = None,
    ctx: Context,
) -> tuple[Array, Array | None]:
    """Return the maximum of each window of x (N, C, *spatial) and where it is; ONNX MaxPool-22.

    An index counts from the first element of `x`, (n * C + c) * prod(spatial) + the place within
    the image, which is row-major, or column-major where storage_order is 1.
    """
    windows = slide(spatial_shape(x), kernel_shape, strides, dilations, pads, auto_pad, ceil_mode)
    check_choice(storage_order, (0, 1), "storage_order")
    wide = widen(x)
    if ctx.n_outputs < 2 or not ctx.wanted[1]:
        return narrow(_pool(wide, windows, np.maximum, _lowest(wide.dtype)), x.dtype), None
    area = math.prod(windows.size)
    narrowest = np.int32 if area < 2**31 else np.int64
    image = np.arange(area, dtype=narrowest).reshape(windows.size, order="F" if storage_order else "C")
    places: Array = np.broadcast_to(image, x.shape)
    # From the last axis to the first, so that of equal values the first in row-major order wins.
    for axis in reversed(range(len(windows.size))):
        wide, places = _argmax_axis(wide, places, windows, axis)
    lanes = np.arange(x.shape[0] * x.shape[1]).reshape(*x.shape[:2], *(1,) * len(windows.size))
    return narrow(wide, x.dtype), np.where(places < 0, -1, places + lanes * area)


def _check_p(p: float) -> None:
    if not p > 0:
        raise KernelError(f"p must be positive (got {p})")


def _lp_powers(x: Array, p: float) -> Array:
    """Return |x| ** p."""
    if p == 2:
        return np.square(x)
    magnitude: Array = np.abs(x)
    return magnitude if p == 1 else magnitude ** x.dtype.type(p)


def _lp_root(total: Array, p: float) -> Array:
    """Return the p-th root of a sum of powers."""
    if p == 2:
        return np.asarray(np.sqrt(total))
    return total if p == 1 else np.asarray(total ** total.dtype.type(1 / p))


@op("LpPool", since=(2, 11, 18, 22), cost=_pool_cost)
@in_float32
def lp_pool(
    x: Array,
    *,
    kernel_shape: tuple[int, ...],
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    dilations: tuple[int, ...] | None = None,
    p: float = 2,
    pads: tuple[int, ...] | None = None,
    strides: tuple[int, ...] | None = None,
) -> Array:
    """Return the p-norm of each window of x (N, C, *spatial); ONNX LpPool-22."""
    _check_p(p)
    windows = slide(spatial_shape(x), kernel_shape, strides, dilations, pads, auto_pad, ceil_mode)
    return _lp_root(_pool(_lp_powers(x, p), windows, np.add, 0), p)


def _lp_pool_1_cost(x: Array, *, kernel_shape: tuple[int, ...] | None = None, **attributes: Any) -> Cost:
    return _pool_cost(x, kernel_shape=_needed(kernel_shape), **attributes)


def _needed(kernel_shape: tuple[int, ...] | None) -> tuple[int, ...]:
    # LpPool-1 lists the attribute as optional but gives it no default.
    if kernel_shape is None:
        raise KernelError("kernel_shape must be given (got None)")
    return kernel_shape


@op("LpPool", since=1, cost=_lp_pool_1_cost)
def lp_pool_1(
    x: Array,
    *,
    auto_pad: str = "NOTSET",
    kernel_shape: tuple[int, ...] | None = None,
    p: float = 2.0,
    pads: tuple[int, ...] | None = None,
    strides: tuple[int, ...] | None = None,
) -> Array:
    """Return the p-norm of each window, for any real p; ONNX LpPool-1."""
    return lp_pool(x, kernel_shape=_needed(kernel_shape), auto_pad=auto_pad, p=p, pads=pads, strides=strides)


# Whole images -------------------------------------------------------------------------------------


def _spatial_axes(x: Array) -> tuple[int, ...]:
    if x.ndim < 2:
        raise KernelError(f"rank of the input must be at least 2, (N, C, ...) (got shape {x.shape})")
    return tuple(range(2, x.ndim))


@op("GlobalAveragePool", since=(1, 22))
@in_float32
def global_average_pool(x: Array) -> Array:
    """Average each channel of x (N, C, *spatial) to (N, C, 1, ...); ONNX GlobalAveragePool-22."""
    return mean(x, _spatial_axes(x))


@op("GlobalMaxPool", since=(1, 22))
@in_float32
def global_max_pool(x: Array) -> Array:
    """Return the maximum of each channel of x (N, C, *spatial) as (N, C, 1, ...); ONNX GlobalMaxPool-22."""
    return np.asarray(x.max(axis=_spatial_axes(x), keepdims=True, initial=-math.inf))


@op("GlobalLpPool", since=(1, 2, 22))
@in_float32
def global_lp_pool(x: Array, *, p: float = 2) -> Array:
    """Return the p-norm of each channel of x (N, C, *spatial) as (N, C, 1, ...); ONNX GlobalLpPool-22.

    Version 1 allows any real p, later ones integers.
    """
    _check_p(p)
    return _lp_root(np.asarray(_lp_powers(x, p).sum(axis=_spatial_axes(x), keepdims=True)), p)


# MaxUnpool ----------------------------------------------------------------------------------------


def _unpooled(
    x: Array,
    output_shape: Array | None,
    kernel_shape: tuple[int, ...],
    pads: tuple[int, ...] | None,
    strides: tuple[int, ...] | None,
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the shape that the indices count in, and the shape of the output."""
    size = spatial_shape(x)
    rank = len(size)
    kernel = per_axis(kernel_shape, rank, "kernel_shape")
    step = per_axis(strides, rank, "strides")
    # Explicit output_shape: "'pads' values are ignored".
    cut = per_axis(pads if output_shape is None else None, 2 * rank, "pads", default=0, low=0)
    inner = tuple((size[i] - 1) * step[i] - cut[i] - cut[rank + i] + kernel[i] for i in range(rank))
    if min(inner) < 0:
        raise KernelError(f"pads must be at most the unpooled sizes (got {pads})")
    indexed = x.shape[:2] + inner
    if output_shape is None:
        return indexed, indexed
    shape = per_axis(int_vector(output_shape, "output_shape"), x.ndim, "output_shape", low=0)
    if shape[:2] != x.shape[:2]:
        raise KernelError(f"output_shape must start with {x.shape[:2]} (got {shape})")
    return indexed, shape


def _max_unpool_cost(
    x: Array,
    i: Array,
    output_shape: Array | None = None,
    *,
    kernel_shape: tuple[int, ...],
    pads: tuple[int, ...] | None = None,
    strides: tuple[int, ...] | None = None,
) -> Cost:
    indexed, shape = _unpooled(x, output_shape, kernel_shape, pads, strides)
    return Cost(math.prod(shape) * x.itemsize, math.prod(indexed) * x.itemsize + i.size)


@op("MaxUnpool", since=(9, 11, 22), cost=_max_unpool_cost)
def max_unpool(
    x: Array,
    i: Array,
    output_shape: Array | None = None,
    *,
    kernel_shape: tuple[int, ...],
    pads: tuple[int, ...] | None = None,
    strides: tuple[int, ...] | None = None,
) -> Array:
    """Put each element of x (N, C, *spatial) at its index in a tensor of zeros; ONNX MaxUnpool-22.

    The indices count in the shape that follows from the attributes; `output_shape` then cuts
    that, or extends it with zeros, at the end of each axis (as the official test has it).
    """
    indexed, shape = _unpooled(x, output_shape, kernel_shape, pads, strides)
    check_shape(i, x.shape, "I")
    total = math.prod(indexed)
    if i.size and not 0 <= int(i.min()) <= int(i.max()) < total:
        raise KernelError(f"I must be in [0, {total - 1}] (got {int(i.min())} to {int(i.max())})")
    y = np.zeros(total, x.dtype)
    y[i.reshape(-1)] = x.reshape(-1)
    y = y.reshape(indexed)
    if shape == indexed:
        return y
    common = tuple(slice(0, min(a, b)) for a, b in zip(indexed, shape, strict=True))
    result = np.zeros(shape, x.dtype)
    result[common] = y[common]
    return result
