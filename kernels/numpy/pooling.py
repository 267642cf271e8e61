"""Pools: average, maximum and Lp over sliding windows, whole images and regions of interest; MaxUnpool.

A pool of a box is a pool of each of its axes in turn, so windows cost the sum of their sides
and not their product.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from onnxref.dtypes import Array, DType
from onnxref.errors import KernelError
from onnxref.registry import Context, Cost, op

from ._common import in_float32, int_list, narrow, widen
from ._windows import Index, Windows, per_axis, slide, spatial_shape

# Regions of interest are sampled in chunks of about this many bytes.
_SAMPLE_BYTES = 8 * 2**20

# The distinct (start, stop) of some windows of an axis, and for each window which of them it has.
Ranges = tuple[list[tuple[int, int]], Array]


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
    return _distinct(start, stop, windows.size[axis])


def _distinct(start: Array, stop: Array, size: int) -> Ranges:
    """Return the distinct (start, stop) within [0, size], with (0, 0) for empty ones, and which is whose."""
    empty = start >= stop
    codes = np.where(empty, 0, start) * (size + 1) + np.where(empty, 0, stop)
    found, which = np.unique(codes, return_inverse=True)
    return [divmod(code, size + 1) for code in found.tolist()], which.reshape(-1)


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
        y: Array = np.full(shape, identity, x.dtype)
        for k in range(windows.kernel[axis]):
            over_windows, over_image = windows.overlap(axis, k)
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
    rank, position = len(windows.size), 2 + axis
    if _by_taps(windows, axis):
        shape = (*x.shape[:position], windows.out[axis], *x.shape[position + 1 :])
        y: Array = np.full(shape, _lowest(x.dtype), x.dtype)
        at: Array = np.full(shape, -1, np.int64)
        for k in range(windows.kernel[axis]):
            over_windows, over_image = windows.overlap(axis, k)
            inside, source = _on_axis(axis, over_windows, rank), _on_axis(axis, over_image, rank)
            values = x[source]
            better = (values > y[inside]) | (at[inside] < 0)
            if x.dtype.kind == "f":
                better |= np.isnan(values) & ~np.isnan(y[inside])
            np.copyto(y[inside], values, where=better)
            np.copyto(at[inside], places[source], where=better)
        return y, at
    ranges, which = _ranges(windows, axis)
    shape = (*x.shape[:position], len(ranges), *x.shape[position + 1 :])
    best: Array = np.full(shape, _lowest(x.dtype), x.dtype)
    best_at: Array = np.full(shape, -1, np.int64)
    for i, (start, stop) in enumerate(ranges):
        if start == stop:
            continue
        source = _on_axis(axis, slice(start, stop, windows.dilations[axis]), rank)
        values, target = x[source], _on_axis(axis, slice(i, i + 1), rank)
        winner = np.argmax(values, axis=position, keepdims=True)
        best[target] = np.take_along_axis(values, winner, axis=position)
        best_at[target] = np.take_along_axis(places[source], winner, axis=position)
    return np.take(best, which, axis=position), np.take(best_at, which, axis=position)


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
        on_axis = _counts(windows, axis, include_pad=bool(count_include_pad))
        counts = counts[..., np.newaxis] * on_axis.astype(x.dtype)
    y = _pool(x, windows, np.add, 0)
    y /= counts
    return y


def _counts(windows: Windows, axis: int, *, include_pad: bool) -> Array:
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
    if storage_order not in (0, 1):
        raise KernelError(f"storage_order must be 0 or 1 (got {storage_order})")
    wide = widen(x)
    if ctx.n_outputs < 2 or not ctx.wanted[1]:
        return narrow(_pool(wide, windows, np.maximum, _lowest(wide.dtype)), x.dtype), None
    area = math.prod(windows.size)
    image = np.arange(area).reshape(windows.size, order="F" if storage_order else "C")
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
    axes = _spatial_axes(x)
    return np.asarray(x.sum(axis=axes, keepdims=True) / x.dtype.type(math.prod(x.shape[2:])))


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
    shape = per_axis(int_list(output_shape), x.ndim, "output_shape", low=0)
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
    if i.shape != x.shape:
        raise KernelError(f"shape of I must be {x.shape} (got {i.shape})")
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


# Regions of interest ------------------------------------------------------------------------------


def _check_regions(x: Array, rois: Array, columns: int) -> None:
    if x.ndim != 4:
        raise KernelError(f"rank of X must be 4, (N, C, H, W) (got shape {x.shape})")
    if rois.ndim != 2 or rois.shape[1] != columns:
        raise KernelError(f"shape of rois must be (num_rois, {columns}) (got {rois.shape})")
    if not np.isfinite(rois.astype(np.float64)).all():
        raise KernelError("rois must be finite (got NaN or infinity)")


def _max_roi_pool_cost(
    x: Array, rois: Array, *, pooled_shape: tuple[int, ...], spatial_scale: float = 1.0
) -> Cost:
    _check_regions(x, rois, 5)
    pooled = per_axis(pooled_shape, 2, "pooled_shape")
    made = len(rois) * x.shape[1] * math.prod(pooled)
    wide = max(4, x.itemsize)
    partly = x.shape[1] * max(pooled[0] * x.shape[3], math.prod(pooled))
    return Cost(made * x.itemsize, (x.size + partly + made) * wide + 64 * sum(pooled))


@op("MaxRoiPool", since=(1, 22), cost=_max_roi_pool_cost)
@in_float32
def max_roi_pool(
    x: Array, rois: Array, *, pooled_shape: tuple[int, ...], spatial_scale: float = 1.0
) -> Array:
    """Return the maxima of a grid of bins over each region of x (N, C, H, W), as (R, C, *pooled_shape).

    ONNX MaxRoiPool-22. rois is (R, 5): batch index, x1, y1, x2, y2. As in Fast R-CNN, corners are
    rounded (half away from zero) and belong to the region, bins are widened to whole pixels, and
    an empty bin is 0.
    """
    _check_regions(x, rois, 5)
    pooled = per_axis(pooled_shape, 2, "pooled_shape")
    y: Array = np.zeros((len(rois), *pooled, x.shape[1]), x.dtype)
    pixels = np.ascontiguousarray(x.transpose(0, 2, 3, 1))
    scaled = rois[:, 1:].astype(np.float64) * spatial_scale
    # Far outside of any image; the limit keeps the integer arithmetic below from overflowing.
    corners = np.clip(np.trunc(scaled + np.copysign(0.5, scaled)), -(2**30), 2**30).astype(np.int64)
    for region, image, (x1, y1, x2, y2) in zip(
        y, _batch_indices(rois[:, 0], len(x)), corners.tolist(), strict=True
    ):
        rows = _bins(y1, y2, pooled[0], x.shape[2])
        columns = _bins(x1, x2, pooled[1], x.shape[3])
        region[...] = _max_bins(_max_bins(pixels[image], rows, 0), columns, 1)
    return y.transpose(0, 3, 1, 2)


def _batch_indices(values: Array, count: int) -> list[int]:
    found = [int(v) for v in values.tolist()]
    if found and not 0 <= min(found) <= max(found) < count:
        raise KernelError(f"batch index must be in [0, {count - 1}] (got {min(found)} to {max(found)})")
    return found


def _bins(first: int, last: int, count: int, size: int) -> Ranges:
    """Cut [first, last] into `count` bins, and those to the image."""
    extent = max(last - first + 1, 1)
    steps = np.arange(count, dtype=np.int64)
    starts = np.clip(first + steps * extent // count, 0, size)
    stops = np.clip(first - (-(steps + 1) * extent // count), 0, size)
    return _distinct(starts, stops, size)


def _max_bins(x: Array, bins: Ranges, axis: int) -> Array:
    """Return the maximum of each bin of one axis; 0 for an empty one."""
    ranges, which = bins
    before: Index = (slice(None),) * axis
    parts: Array = np.zeros((*x.shape[:axis], len(ranges), *x.shape[axis + 1 :]), x.dtype)
    for i, (start, stop) in enumerate(ranges):
        if start < stop:
            parts[(*before, i)] = x[(*before, slice(start, stop))].max(axis=axis)
    return np.take(parts, which, axis=axis)


def _roi_align_cost(
    x: Array,
    rois: Array,
    batch_indices: Array,
    *,
    output_height: int = 1,
    output_width: int = 1,
    **_: Any,
) -> Cost:
    _check_regions(x, rois, 4)
    made = len(rois) * x.shape[1] * max(0, output_height) * max(0, output_width)
    return Cost(made * x.itemsize, (x.size + 2 * made) * max(4, x.itemsize) + 8 * _SAMPLE_BYTES)


@op("RoiAlign", since=(16, 22), cost=_roi_align_cost)
def roi_align(
    x: Array,
    rois: Array,
    batch_indices: Array,
    *,
    coordinate_transformation_mode: str = "half_pixel",
    mode: str = "avg",
    output_height: int = 1,
    output_width: int = 1,
    sampling_ratio: int = 0,
    spatial_scale: float = 1.0,
    ctx: Context,
) -> Array:
    """Sample a grid of bins over each region of x (N, C, H, W), without rounding its corners.

    ONNX RoiAlign-22. rois is (R, 4): x1, y1, x2, y2; batch_indices (R). Each bin is the mean or the
    maximum of its samples. Returns (R, C, output_height, output_width).
    """
    _check_regions(x, rois, 4)
    if coordinate_transformation_mode not in ("half_pixel", "output_half_pixel"):
        raise KernelError(
            "coordinate_transformation_mode must be half_pixel or output_half_pixel "
            f"(got {coordinate_transformation_mode!r})"
        )
    if mode not in ("avg", "max"):
        raise KernelError(f"mode must be avg or max (got {mode!r})")
    output = per_axis((output_height, output_width), 2, "output_height and output_width")
    if sampling_ratio < 0:
        raise KernelError(f"sampling_ratio must be at least 0 (got {sampling_ratio})")
    if batch_indices.shape != rois.shape[:1]:
        raise KernelError(f"shape of batch_indices must be {rois.shape[:1]} (got {batch_indices.shape})")
    images = np.array(_batch_indices(batch_indices, len(x)), np.int64)
    wide = widen(x)
    half_pixel = coordinate_transformation_mode == "half_pixel"
    corners = widen(rois)[:, [1, 0, 3, 2]] * wide.dtype.type(spatial_scale)
    starts, sizes = corners[:, :2], corners[:, 2:] - corners[:, :2]
    if half_pixel:
        starts = starts - wide.dtype.type(0.5)
    else:
        sizes = np.maximum(sizes, 1)  # what versions before 16 do: no region is smaller than a pixel
    bins = sizes / np.array(output, wide.dtype)
    if sampling_ratio:
        grids = np.full(sizes.shape, sampling_ratio, np.int64)
    else:
        grids = np.clip(np.ceil(bins), 0, 2**31).astype(np.int64)
    y = _align(wide, images, starts, bins, grids, output, mode, ctx)
    return narrow(y, x.dtype)


def _align(
    x: Array,
    images: Array,
    starts: Array,
    bins: Array,
    grids: Array,
    output: Sequence[int],
    mode: str,
    ctx: Context,
) -> Array:
    """Return the pooled regions; those with the same number of samples in a bin are done together.

    starts, bins and grids are (R, 2): the corner, the size of a bin and its samples along y and x.
    """
    channels = x.shape[1]
    y: Array = np.zeros((len(images), *output, channels), x.dtype)
    if 0 in y.shape or 0 in x.shape:
        return y.transpose(0, 3, 1, 2)
    pixels = np.ascontiguousarray(x.transpose(0, 2, 3, 1)).reshape(-1, channels)
    for grid in np.unique(grids, axis=0).tolist():
        members = np.flatnonzero((grids == grid).all(axis=1))
        samples = math.prod(output) * math.prod(grid)
        if samples == 0:
            continue  # an empty region has no samples: 0
        region_bytes = samples * (channels + 8) * 2 * x.itemsize
        ctx.budget.check_bytes(region_bytes, "samples of one region")
        chunk = max(1, _SAMPLE_BYTES // region_bytes)
        for first in range(0, len(members), chunk):
            some = members[first : first + chunk]
            y[some] = _align_some(
                pixels, images[some], starts[some], bins[some], grid, output, x.shape[2:], mode
            )
    return y.transpose(0, 3, 1, 2)


def _align_some(
    pixels: Array,
    images: Array,
    starts: Array,
    bins: Array,
    grid: Sequence[int],
    output: Sequence[int],
    size: Sequence[int],
    mode: str,
) -> Array:
    """Return pooled regions (R, *output, C) of pixels (N * H * W, C), all with the same grid of samples."""
    neighbours = []
    for axis in (0, 1):
        cells = np.arange(output[axis]).reshape(-1, 1).astype(bins.dtype)
        within = (np.arange(grid[axis]).astype(bins.dtype) + bins.dtype.type(0.5)) / grid[axis]
        bin_size = bins[:, axis].reshape(-1, 1, 1)
        place = starts[:, axis].reshape(-1, 1, 1) + cells * bin_size + within.astype(bins.dtype) * bin_size
        neighbours.append(_two_neighbours(place.reshape(len(images), -1), size[axis]))
    base = (images * (size[0] * size[1])).reshape(-1, 1, 1)
    shape = (len(images), neighbours[0][0][0].shape[1], neighbours[1][0][0].shape[1], pixels.shape[1])
    total: Array = np.full(shape, 0 if mode == "avg" else -math.inf, pixels.dtype)
    # The official test takes the largest weighted neighbour, not the interpolated value, for "max".
    combine = np.add if mode == "avg" else np.maximum
    for rows, row_weights in neighbours[0]:
        for columns, column_weights in neighbours[1]:
            index = base + rows[:, :, np.newaxis] * size[1] + columns[:, np.newaxis]
            weight = (row_weights[:, :, np.newaxis] * column_weights[:, np.newaxis])[..., np.newaxis]
            combine(total, np.take(pixels, index, axis=0) * weight, out=total)
    samples = total.reshape(len(images), output[0], grid[0], output[1], grid[1], -1)
    if mode == "max":
        return np.asarray(samples.max(axis=(2, 4)))
    return np.asarray(samples.sum(axis=(2, 4)) / samples.dtype.type(grid[0] * grid[1]))


def _two_neighbours(place: Array, size: int) -> list[tuple[Array, Array]]:
    """Return (index, weight) of the pixels below and above each place; 0 beyond a pixel outside."""
    outside = (place < -1) | (place > size)
    place = np.clip(place, 0, size - 1)
    low = place.astype(np.int64)
    high = np.minimum(low + 1, size - 1)
    part = place - low.astype(place.dtype)
    return [(low, np.where(outside, 0, 1 - part)), (high, np.where(outside, 0, part))]


@op("RoiAlign", since=10, cost=_roi_align_cost)
def roi_align_10(
    x: Array,
    rois: Array,
    batch_indices: Array,
    *,
    mode: str = "avg",
    output_height: int = 1,
    output_width: int = 1,
    sampling_ratio: int = 0,
    spatial_scale: float = 1.0,
    ctx: Context,
) -> Array:
    """Sample regions without the half-pixel shift of the input; ONNX RoiAlign-10."""
    return roi_align(
        x,
        rois,
        batch_indices,
        coordinate_transformation_mode="output_half_pixel",
        mode=mode,
        output_height=output_height,
        output_width=output_width,
        sampling_ratio=sampling_ratio,
        spatial_scale=spatial_scale,
        ctx=ctx,
    )
