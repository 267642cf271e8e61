"""Pools over regions of interest: MaxRoiPool, RoiAlign."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from onnxref.dtypes import Array
from onnxref.errors import KernelError
from onnxref.registry import Context, Cost, op

from ._checks import check_choice, check_shape
from ._common import in_float32, narrow, widen
from ._windows import Index, Ranges, distinct_ranges, per_axis

# Regions are sampled in chunks of about this many bytes.
_SAMPLE_BYTES = 8 * 2**20


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
    return distinct_ranges(starts, stops, size)


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
    modes = ("half_pixel", "output_half_pixel")
    check_choice(coordinate_transformation_mode, modes, "coordinate_transformation_mode")
    check_choice(mode, ("avg", "max"), "mode")
    output = per_axis((output_height, output_width), 2, "output_height and output_width")
    if sampling_ratio < 0:
        raise KernelError(f"sampling_ratio must be at least 0 (got {sampling_ratio})")
    check_shape(batch_indices, rois.shape[:1], "batch_indices")
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
