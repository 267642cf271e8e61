"""Operators that read or write at given positions: slices, the gather and scatter families, Compress.

Computed positions become offsets into a flat tensor, which holds for any rank and element type.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from onnxref.dtypes import LOW_PRECISION, Array
from onnxref.errors import KernelError
from onnxref.registry import Cost, op

from ._checks import check_addressable, check_choice, check_shape, int_vector, normalize_axes, normalize_axis
from ._common import row_strides


def _from_front(indices: Array, size: int, what: str, lowest: int | None = None) -> Array:
    """Return indices as int64 counted from the front; each must be in [-size, size - 1].

    `lowest` replaces -size where a version does not allow negative indices.
    """
    lowest = -size if lowest is None else lowest
    wide = indices.astype(np.int64)
    smallest, largest = int(wide.min(initial=0)), int(wide.max(initial=-1))
    if smallest < lowest or largest >= size:
        wrong = smallest if smallest < lowest else largest
        raise KernelError(f"indices must be in [{lowest}, {size - 1}] for {what} (got {wrong})")
    if smallest < 0:
        wide[wide < 0] += size
    return wide


# --- Slice and ReverseSequence -------------------------------------------------------------------


def effective_slice(start: int, end: int, step: int, dim: int) -> slice:
    """Return the slice after the clamping rules of ONNX Slice-13."""
    if step == 0:
        raise KernelError("steps must not be zero (got 0)")
    start += dim if start < 0 else 0
    end += dim if end < 0 else 0
    if step > 0:
        return slice(min(max(start, 0), dim), min(max(end, 0), dim), step)
    # Unlike NumPy's, a start before the first element is moved onto it.
    start = min(max(start, 0), dim - 1)
    end = min(max(end, -1), dim - 1)
    return slice(start, None if end < 0 else end, step) if dim else slice(0, 0)


def _slice(
    data: Array,
    starts: Sequence[int],
    ends: Sequence[int],
    axes: Sequence[int] | None,
    steps: Sequence[int] | None,
) -> Array:
    steps = [1] * len(starts) if steps is None else steps
    axes = range(len(starts)) if axes is None else axes
    lengths = (len(starts), len(ends), len(axes), len(steps))
    if len(set(lengths)) > 1:
        raise KernelError(f"starts, ends, axes and steps must be equally many (got {lengths})")
    window = [slice(None)] * data.ndim
    for axis, start, end, step in zip(normalize_axes(axes, data.ndim), starts, ends, steps, strict=True):
        window[axis] = effective_slice(start, end, step, data.shape[axis])
    return data[tuple(window)]


@op("Slice", since=1)
def slice_1(
    data: Array, *, starts: tuple[int, ...], ends: tuple[int, ...], axes: tuple[int, ...] | None = None
) -> Array:
    """Cut out a box given by attributes (ONNX Slice-1)."""
    return _slice(data, starts, ends, axes, None)


@op("Slice", since=(10, 11, 13))
def slice_(
    data: Array, starts: Array, ends: Array, axes: Array | None = None, steps: Array | None = None
) -> Array:
    """Cut out a box, possibly strided or reversed, given by inputs (ONNX Slice-13)."""
    return _slice(
        data,
        int_vector(starts, "starts"),
        int_vector(ends, "ends"),
        None if axes is None else int_vector(axes, "axes"),
        None if steps is None else int_vector(steps, "steps"),
    )


def _reversed_cost(input: Array, *_rest: Any, **_attributes: Any) -> Cost:
    # Two indices of 8 bytes for each step of each batch entry, while one is made of the other.
    return Cost(input.nbytes, 16 * math.prod(input.shape[:2]))


@op("ReverseSequence", since=(10, 28), cost=_reversed_cost)
def reverse_sequence(input: Array, sequence_lens: Array, *, batch_axis: int = 1, time_axis: int = 0) -> Array:
    """Reverse the first `sequence_lens[i]` steps of each batch entry i (ONNX ReverseSequence-28)."""
    if input.ndim < 2:
        raise KernelError(f"input must have rank 2 or more (got {input.ndim})")
    if {batch_axis, time_axis} != {0, 1}:
        raise KernelError(f"batch_axis and time_axis must be 0 and 1 (got {batch_axis}, {time_axis})")
    steps, batch = input.shape[time_axis], input.shape[batch_axis]
    check_shape(sequence_lens, (batch,), "sequence_lens")
    bad = sequence_lens[(sequence_lens < 0) | (sequence_lens > steps)]
    if bad.size:
        raise KernelError(f"sequence_lens must be in [0, {steps}] (got {bad[0]})")
    time = np.arange(steps)[:, None]
    source = np.where(time < sequence_lens, sequence_lens - 1 - time, time)
    by_time = input if time_axis == 0 else input.swapaxes(0, 1)
    out = by_time[source, np.arange(batch)]
    return out if time_axis == 0 else out.swapaxes(0, 1)


# --- Gather --------------------------------------------------------------------------------------


def gathered_shape(data: Array, indices: Array, axis: int) -> tuple[int, ...]:
    at = normalize_axis(axis, data.ndim)
    return data.shape[:at] + indices.shape + data.shape[at + 1 :]


def _gather_cost(data: Array, indices: Array, *, axis: int = 0) -> Cost:
    return Cost(Cost.of(gathered_shape(data, indices, axis), data.dtype).out_bytes, 10 * int(indices.size))


def _gather(data: Array, indices: Array, axis: int, lowest: int | None) -> Array:
    at = normalize_axis(axis, data.ndim)
    check_addressable(gathered_shape(data, indices, axis), data.dtype)
    return np.take(data, _from_front(indices, data.shape[at], f"axis {at}", lowest), axis=at)


@op("Gather", since=1, cost=_gather_cost)
def gather_1(data: Array, indices: Array, *, axis: int = 0) -> Array:
    """Replace `axis` by the slices that non-negative indices choose (ONNX Gather-1)."""
    return _gather(data, indices, axis, 0)


@op("Gather", since=(11, 13), cost=_gather_cost)
def gather(data: Array, indices: Array, *, axis: int = 0) -> Array:
    """Replace `axis` by the slices that the indices choose (ONNX Gather-13)."""
    return _gather(data, indices, axis, None)


def check_element_indices(data: Array, indices: Array, at: int) -> None:
    """Refuse indices whose shape does not fit into the data's but for axis `at`."""
    if indices.ndim != data.ndim or any(
        n > d for i, (n, d) in enumerate(zip(indices.shape, data.shape, strict=True)) if i != at
    ):
        raise KernelError(
            f"indices must fit the data's {data.shape} except along axis {at} (got shape {indices.shape})"
        )


def _element_offsets(data: Array, indices: Array, axis: int, lowest: int | None = None) -> Array:
    """Return the flat offset in `data` for each index: its own position, but on `axis` its value."""
    at = normalize_axis(axis, data.ndim)
    check_element_indices(data, indices, at)
    strides = row_strides(data.shape)
    offsets = _from_front(indices, data.shape[at], f"axis {at}", lowest)
    offsets *= strides[at]
    for i, stride in enumerate(strides):
        if i != at:
            position = np.arange(indices.shape[i]) * stride
            offsets += position.reshape([-1 if j == i else 1 for j in range(data.ndim)])
    return offsets


@op("GatherElements", since=(11, 13))
def gather_elements(data: Array, indices: Array, *, axis: int = 0) -> Array:
    """Read at each index's own position, with `axis` replaced by the index (ONNX GatherElements-13)."""
    return data.reshape(-1).take(_element_offsets(data, indices, axis))


def _tuple_offsets(shape: Sequence[int], indices: Array) -> Array:
    """Return the flat offset that each index tuple, the last axis of `indices`, means in `shape`."""
    offsets = np.zeros(indices.shape[:-1], np.int64)
    for i, stride in enumerate(row_strides(shape)):
        offsets += _from_front(indices[..., i], shape[i], f"axis {i} of the indexed dimensions") * stride
    return offsets


def gathered_nd_shape(data: Array, indices: Array, batch_dims: int) -> tuple[int, ...]:
    if indices.ndim < 1 or data.ndim < 1:
        raise KernelError(f"data and indices must have rank 1 or more (got {data.ndim}, {indices.ndim})")
    if not 0 <= batch_dims < min(data.ndim, indices.ndim):
        most = min(data.ndim, indices.ndim) - 1
        raise KernelError(f"batch_dims must be in [0, {most}] (got {batch_dims})")
    if data.shape[:batch_dims] != indices.shape[:batch_dims]:
        raise KernelError(
            f"indices must have the data's batch, {data.shape[:batch_dims]} (got {indices.shape})"
        )
    k, most = indices.shape[-1], data.ndim - batch_dims
    if not 1 <= k <= most:
        raise KernelError(f"last dimension of indices must be in [1, {most}] (got {k})")
    return indices.shape[:-1] + data.shape[batch_dims + k :]


def _gather_nd_cost(data: Array, indices: Array, *, batch_dims: int = 0) -> Cost:
    shape = gathered_nd_shape(data, indices, batch_dims)
    return Cost(Cost.of(shape, data.dtype).out_bytes, 16 * int(indices.size))


@op("GatherND", since=(11, 12, 13), cost=_gather_nd_cost)
def gather_nd(data: Array, indices: Array, *, batch_dims: int = 0) -> Array:
    """Read the slice that each index tuple chooses after the batch dimensions (ONNX GatherND-13)."""
    result = check_addressable(gathered_nd_shape(data, indices, batch_dims), data.dtype)
    indexed = data.shape[batch_dims : batch_dims + indices.shape[-1]]
    batches, step = math.prod(data.shape[:batch_dims]), math.prod(indexed)
    offsets = _tuple_offsets(indexed, indices).reshape(batches, math.prod(indices.shape[batch_dims:-1]))
    offsets += np.arange(batches)[:, None] * step
    flat = data.reshape(batches * step, math.prod(data.shape[batch_dims + indices.shape[-1] :]))
    return flat.take(offsets.reshape(-1), axis=0).reshape(result)


# --- Scatter -------------------------------------------------------------------------------------

_REDUCTIONS = {"add": np.add, "mul": np.multiply, "max": np.maximum, "min": np.minimum}


def _check_reduction(data: Array, reduction: str, allowed: Sequence[str]) -> None:
    check_choice(reduction, ("none", *allowed), "reduction")
    if (data.dtype.kind == "O" and reduction != "none") or (
        data.dtype.kind == "c" and reduction in ("max", "min")
    ):
        raise KernelError(
            f"reduction must be defined for the type of the data, {data.dtype} (got {reduction})"
        )


def _update(data: Array, offsets: Array, updates: Array, reduction: str) -> Array:
    """Return a copy of `data` with updates written, or reduced in their order, at flat offsets."""
    if reduction == "none":
        out = data.flatten()
        out[offsets] = updates
        return out.reshape(data.shape)
    low = data.dtype in LOW_PRECISION
    out = data.astype(np.float32).reshape(-1) if low else data.flatten()
    _REDUCTIONS[reduction].at(out, offsets, updates.astype(out.dtype))
    return out.astype(data.dtype, copy=False).reshape(data.shape)


def _scatter_elements(
    data: Array, indices: Array, updates: Array, axis: int, reduction: str = "none", lowest: int | None = None
) -> Array:
    check_shape(updates, indices.shape, "updates")
    offsets = _element_offsets(data, indices, axis, lowest)
    return _update(data, offsets.reshape(-1), updates.reshape(-1), reduction)


@op("Scatter", since=9)
def scatter_9(data: Array, indices: Array, updates: Array, *, axis: int = 0) -> Array:
    """Write at each non-negative index's own position, with `axis` replaced by it (ONNX Scatter-9)."""
    return _scatter_elements(data, indices, updates, axis, lowest=0)


@op("Scatter", since=11)
def scatter(data: Array, indices: Array, updates: Array, *, axis: int = 0) -> Array:
    """Do as ScatterElements-11, which took this operator's place (ONNX Scatter-11)."""
    return _scatter_elements(data, indices, updates, axis)


@op("ScatterElements", since=(11, 13))
def scatter_elements_11(data: Array, indices: Array, updates: Array, *, axis: int = 0) -> Array:
    """Write at each index's own position, with `axis` replaced by the index (ONNX ScatterElements-13)."""
    return _scatter_elements(data, indices, updates, axis)


@op("ScatterElements", since=16)
def scatter_elements_16(
    data: Array, indices: Array, updates: Array, *, axis: int = 0, reduction: str = "none"
) -> Array:
    """Write or reduce (`add`, `mul`) along `axis` (ONNX ScatterElements-16)."""
    _check_reduction(data, reduction, ("add", "mul"))
    return _scatter_elements(data, indices, updates, axis, reduction)


@op("ScatterElements", since=18)
def scatter_elements(
    data: Array, indices: Array, updates: Array, *, axis: int = 0, reduction: str = "none"
) -> Array:
    """Write or reduce (`add`, `mul`, `max`, `min`) along `axis` (ONNX ScatterElements-18)."""
    _check_reduction(data, reduction, ("add", "mul", "max", "min"))
    return _scatter_elements(data, indices, updates, axis, reduction)


def _scatter_nd(data: Array, indices: Array, updates: Array, reduction: str = "none") -> Array:
    if data.ndim < 1 or indices.ndim < 1:
        raise KernelError(f"data and indices must have rank 1 or more (got {data.ndim}, {indices.ndim})")
    k = indices.shape[-1]
    if k > data.ndim:
        raise KernelError(f"last dimension of indices must be at most {data.ndim} (got {k})")
    check_shape(updates, indices.shape[:-1] + data.shape[k:], "updates")
    rows = _tuple_offsets(data.shape[:k], indices).reshape(-1)
    width = math.prod(data.shape[k:])
    if reduction == "none":
        out = data.flatten().reshape(math.prod(data.shape[:k]), width)
        out[rows] = updates.reshape(rows.size, width)
        return out.reshape(data.shape)
    offsets = rows[:, None] * width + np.arange(width)
    return _update(data, offsets.reshape(-1), updates.reshape(-1), reduction)


@op("ScatterND", since=(11, 13))
def scatter_nd_11(data: Array, indices: Array, updates: Array) -> Array:
    """Write a slice at each index tuple (ONNX ScatterND-13)."""
    return _scatter_nd(data, indices, updates)


@op("ScatterND", since=16)
def scatter_nd_16(data: Array, indices: Array, updates: Array, *, reduction: str = "none") -> Array:
    """Write or reduce (`add`, `mul`) a slice at each index tuple (ONNX ScatterND-16)."""
    _check_reduction(data, reduction, ("add", "mul"))
    return _scatter_nd(data, indices, updates, reduction)


@op("ScatterND", since=18)
def scatter_nd(data: Array, indices: Array, updates: Array, *, reduction: str = "none") -> Array:
    """Write or reduce (`add`, `mul`, `max`, `min`) a slice at each index tuple (ONNX ScatterND-18)."""
    _check_reduction(data, reduction, ("add", "mul", "max", "min"))
    return _scatter_nd(data, indices, updates, reduction)


def _write_positions(write_indices: Array | None, batch: int, steps: int, size: int, mode: str) -> Array:
    """Return the cache positions (batch, steps) to write."""
    first = np.zeros(batch, np.int64) if write_indices is None else write_indices
    check_shape(first, (batch,), "write_indices")
    check_choice(mode, ("linear", "circular"), "mode")
    if mode == "circular":
        # Reduced before the steps are added, which could overflow.
        return (first[:, None] % size + np.arange(steps)) % size if size else np.zeros((batch, 0), np.int64)
    bad = first[(first < 0) | (first > size - steps)]
    if bad.size:
        raise KernelError(f"write_indices must be in [0, {size - steps}] in linear mode (got {bad[0]})")
    positions: Array = first[:, None] + np.arange(steps)
    return positions


@op("TensorScatter", since=24)
def tensor_scatter(
    past_cache: Array,
    update: Array,
    write_indices: Array | None = None,
    *,
    axis: int = -2,
    mode: str = "linear",
) -> Array:
    """Write S steps along `axis` of a cache (B, ..., M, ...), from a place per b (ONNX TensorScatter-24)."""
    at = normalize_axis(axis, past_cache.ndim)
    if at == 0:
        raise KernelError(f"axis must not be the batch's, 0 (got {axis})")
    size, steps = past_cache.shape[at], update.shape[at] if update.ndim > at else 0
    if update.shape != past_cache.shape[:at] + (steps,) + past_cache.shape[at + 1 :] or steps > size:
        raise KernelError(
            f"update must have the cache's shape {past_cache.shape}, or be shorter on axis {at} "
            f"(got {update.shape})"
        )
    batch = past_cache.shape[0]
    positions = _write_positions(write_indices, batch, steps, size, mode)
    present = past_cache.copy()
    by_position = np.moveaxis(present, at, 1)
    by_position[np.arange(batch)[:, None], positions] = np.moveaxis(update, at, 1)
    return present


# --- Compress ------------------------------------------------------------------------------------


def _compress_cost(input: Array, condition: Array, *, axis: int | None = None) -> Cost:
    kept = int(np.count_nonzero(condition))
    length = max(input.size if axis is None or not input.ndim else input.shape[axis % input.ndim], 1)
    return Cost(input.nbytes // length * kept, 8 * kept)


@op("Compress", since=(9, 11, 28), cost=_compress_cost)
def compress(input: Array, condition: Array, *, axis: int | None = None) -> Array:
    """Keep the slices, or elements without `axis`, whose condition is true (ONNX Compress-28)."""
    source = input.reshape(-1) if axis is None else input
    at = 0 if axis is None else normalize_axis(axis, input.ndim)
    if condition.ndim != 1 or condition.size > source.shape[at]:
        raise KernelError(
            f"condition must have one dimension, of at most {source.shape[at]} (got shape {condition.shape})"
        )
    return source.take(condition.nonzero()[0], axis=at)
