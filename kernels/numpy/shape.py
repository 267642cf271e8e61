"""Operators that rearrange, repeat, cut or extend a tensor without computing on its elements.

They hold for every element type.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from onnxref.dtypes import Array
from onnxref.errors import KernelError
from onnxref.registry import Context, Cost, op

from ._checks import (
    check_addressable,
    check_choice,
    int_vector,
    normalize_axes,
    normalize_axis,
    one_element,
    scalar_int,
)
from ._common import zeros


def _check_non_negative(axes: Sequence[int], name: str = "axes") -> None:
    if any(axis < 0 for axis in axes):
        raise KernelError(f"{name} must not be negative in this version (got {tuple(axes)})")


# --- the same elements under another shape -------------------------------------------------------


def _reshape(data: Array, shape: Sequence[int], allow_zero: bool) -> Array:
    target = list(shape)
    if any(d < -1 for d in target) or target.count(-1) > 1:
        raise KernelError(f"shape must have dimensions >= 0 and at most one -1 (got {target})")
    if allow_zero:
        if 0 in target and -1 in target:
            raise KernelError(f"shape must not have both 0 and -1 with allowzero (got {target})")
    else:
        for i, d in enumerate(target):
            if d == 0:
                if i >= data.ndim:
                    raise KernelError(
                        f"shape must have its zeros at axes of the data, {data.shape} (got {target})"
                    )
                target[i] = data.shape[i]
    if -1 in target:
        known = math.prod(d for d in target if d != -1)
        if known == 0 or data.size % known:
            raise KernelError(
                f"shape must leave a whole size for -1, of {data.size} elements (got {list(shape)})"
            )
        target[target.index(-1)] = data.size // known
    if math.prod(target) != data.size:
        raise KernelError(f"shape must hold the data's {data.size} elements (got {target})")
    return data.reshape(check_addressable(target, data.dtype))


@op("Reshape", since=1)
def reshape_1(
    data: Array, *, shape: tuple[int, ...] | None = None, consumed_inputs: tuple[int, ...] | None = None
) -> Array:
    """Reshape to the attribute `shape`; without one, to a scalar (ONNX Reshape-1)."""
    # consumed_inputs is a hint from before 2018 that inputs may be overwritten; it has no effect.
    return _reshape(data, shape or (), allow_zero=False)


@op("Reshape", since=(5, 13, 14, 19, 21, 23, 24, 25))
def reshape(data: Array, shape: Array, *, allowzero: int = 0) -> Array:
    """Reshape; -1 is inferred and 0 copies the input's dimension unless `allowzero` (ONNX Reshape-25)."""
    return _reshape(data, int_vector(shape, "shape"), bool(allowzero))


def _squeeze(data: Array, axes: Sequence[int] | None) -> Array:
    if axes is None:
        return data.squeeze()
    found = normalize_axes(axes, data.ndim)
    for axis in found:
        if data.shape[axis] != 1:
            raise KernelError(f"axes must name dimensions of size 1 of {data.shape} (got {axis})")
    return data.squeeze(found)


@op("Squeeze", since=1)
def squeeze_1(data: Array, *, axes: tuple[int, ...] | None = None) -> Array:
    """Drop dimensions of size 1; `axes` counts from the front only (ONNX Squeeze-1)."""
    _check_non_negative(axes or ())
    return _squeeze(data, axes)


@op("Squeeze", since=11)
def squeeze_11(data: Array, *, axes: tuple[int, ...] | None = None) -> Array:
    """Drop dimensions of size 1, all or those of the attribute `axes` (ONNX Squeeze-11)."""
    return _squeeze(data, axes)


@op("Squeeze", since=(13, 21, 23, 24, 25))
def squeeze(data: Array, axes: Array | None = None) -> Array:
    """Drop dimensions of size 1, all or those of the input `axes` (ONNX Squeeze-25)."""
    return _squeeze(data, None if axes is None else int_vector(axes, "axes"))


def _unsqueeze(data: Array, axes: Sequence[int]) -> Array:
    rank = data.ndim + len(axes)
    inserted = set(normalize_axes(axes, rank))
    old = iter(data.shape)
    shape = [1 if axis in inserted else next(old) for axis in range(rank)]
    return data.reshape(check_addressable(shape, data.dtype))


@op("Unsqueeze", since=1)
def unsqueeze_1(data: Array, *, axes: tuple[int, ...]) -> Array:
    """Insert dimensions of size 1; `axes` counts from the front only (ONNX Unsqueeze-1)."""
    _check_non_negative(axes)
    return _unsqueeze(data, axes)


@op("Unsqueeze", since=11)
def unsqueeze_11(data: Array, *, axes: tuple[int, ...]) -> Array:
    """Insert dimensions of size 1 at `axes` of the output (ONNX Unsqueeze-11)."""
    return _unsqueeze(data, axes)


@op("Unsqueeze", since=(13, 21, 23, 24, 25))
def unsqueeze(data: Array, axes: Array) -> Array:
    """Insert dimensions of size 1 at the input `axes` of the output (ONNX Unsqueeze-25)."""
    return _unsqueeze(data, int_vector(axes, "axes"))


@op("Flatten", since=(1, 9))
def flatten_1(input: Array, *, axis: int = 1) -> Array:
    """Reshape to a matrix, split before `axis` in [0, rank] (ONNX Flatten-9)."""
    _check_non_negative((axis,), "axis")
    return flatten(input, axis=axis)


@op("Flatten", since=(11, 13, 21, 23, 24, 25))
def flatten(input: Array, *, axis: int = 1) -> Array:
    """Reshape to a matrix, split before `axis` in [-rank, rank] (ONNX Flatten-25)."""
    rank = input.ndim
    if not -rank <= axis <= rank:
        raise KernelError(f"axis must be in [{-rank}, {rank}] for rank {rank} (got {axis})")
    at = axis + rank if axis < 0 else axis
    return input.reshape(math.prod(input.shape[:at]), math.prod(input.shape[at:]))


@op("Transpose", since=(1, 13, 21, 23, 24, 25))
def transpose(data: Array, *, perm: tuple[int, ...] | None = None) -> Array:
    """Permute the axes: axis i of the output is axis perm[i] of the data (ONNX Transpose-25)."""
    if perm is not None and sorted(perm) != list(range(data.ndim)):
        raise KernelError(f"perm must be a permutation of the {data.ndim} axes (got {perm})")
    return data.transpose(perm)


@op("Shape", since=(1, 13, 15, 19, 21, 23, 24, 25))
def shape(data: Array, *, start: int = 0, end: int | None = None) -> Array:
    """Return the shape, or its slice [start:end] clamped to the rank, as int64 (ONNX Shape-25)."""
    return np.array(data.shape[start:end], np.int64)


@op("Size", since=(1, 13, 19, 21, 23, 24, 25))
def size(data: Array) -> Array:
    """Return the number of elements as an int64 scalar (ONNX Size-25)."""
    return np.array(data.size, np.int64)


# --- repetition ----------------------------------------------------------------------------------


def expanded_shape(input: Array, shape: Array) -> list[int]:
    """Broadcast both ways: `shape` may have fewer dimensions than the input, or ones in them."""
    wanted = int_vector(shape, "shape")
    rank = max(input.ndim, len(wanted))
    ours = [1] * (rank - input.ndim) + list(input.shape)
    theirs = [1] * (rank - len(wanted)) + wanted
    if any(d < 0 for d in wanted) or any(
        a != b and 1 not in (a, b) for a, b in zip(ours, theirs, strict=True)
    ):
        raise KernelError(f"shape must broadcast with the input's {input.shape} (got {wanted})")
    return [b if a == 1 else a for a, b in zip(ours, theirs, strict=True)]


def _expand_cost(input: Array, shape: Array) -> Cost:
    return Cost.of(expanded_shape(input, shape), input.dtype)


@op("Expand", since=(8, 13), cost=_expand_cost)
def expand(input: Array, shape: Array) -> Array:
    """Broadcast the input and `shape` against each other (ONNX Expand-13)."""
    return np.broadcast_to(input, check_addressable(expanded_shape(input, shape), input.dtype)).copy()


def tiled_shape(input: Array, repeats: Sequence[int]) -> list[int]:
    if len(repeats) != input.ndim or any(r < 0 for r in repeats):
        raise KernelError(f"repeats must be {input.ndim} numbers >= 0 (got {list(repeats)})")
    return [d * r for d, r in zip(input.shape, repeats, strict=True)]


def _tile(input: Array, repeats: Sequence[int]) -> Array:
    result = check_addressable(tiled_shape(input, repeats), input.dtype)
    return np.tile(input, repeats) if math.prod(result) else np.empty(result, input.dtype)


def _repeats_1(input: Array, tiles: Array, axis: Array) -> list[int]:
    # The schema gives tiles and axis the data's floating-point type.
    repeats = [1] * input.ndim
    repeats[normalize_axis(scalar_int(axis, "axis"), input.ndim)] = scalar_int(tiles, "tiles")
    return repeats


def _tile_cost_1(input: Array, tiles: Array, axis: Array) -> Cost:
    return Cost.of(tiled_shape(input, _repeats_1(input, tiles, axis)), input.dtype)


@op("Tile", since=1, cost=_tile_cost_1)
def tile_1(input: Array, tiles: Array, axis: Array) -> Array:
    """Repeat the whole tensor `tiles` times along one axis (ONNX Tile-1)."""
    return _tile(input, _repeats_1(input, tiles, axis))


def _tile_cost(input: Array, repeats: Array) -> Cost:
    return Cost.of(tiled_shape(input, int_vector(repeats, "repeats")), input.dtype)


@op("Tile", since=(6, 13), cost=_tile_cost)
def tile(input: Array, repeats: Array) -> Array:
    """Repeat the tensor `repeats[i]` times along each axis i (ONNX Tile-13)."""
    return _tile(input, int_vector(repeats, "repeats"))


# --- joining and cutting -------------------------------------------------------------------------


def joined_shape(inputs: Sequence[Array], axis: int) -> tuple[int, ...]:
    """Return the shape of tensors joined along `axis`, or explain why they do not fit."""
    first = inputs[0]
    at = normalize_axis(axis, first.ndim)
    before, after = first.shape[:at], first.shape[at + 1 :]
    for x in inputs:
        if x.ndim != first.ndim or x.shape[:at] + x.shape[at + 1 :] != before + after:
            raise KernelError(f"inputs must agree with {first.shape} except along axis {at} (got {x.shape})")
    return (*before, sum(x.shape[at] for x in inputs), *after)


def _concat(inputs: Sequence[Array], axis: int) -> Array:
    joined_shape(inputs, axis)
    return np.concatenate(inputs, axis=axis)


def _concat_cost(*inputs: Array, axis: int | None = None) -> Cost:
    return Cost(sum(int(x.nbytes) for x in inputs))


@op("Concat", since=1, cost=_concat_cost)
def concat_1(*inputs: Array, axis: int | None = None) -> Array:
    """Join tensors along `axis`, which is 1 where none is given (ONNX Concat-1)."""
    return _concat(inputs, 1 if axis is None else axis)


@op("Concat", since=(4, 11, 13), cost=_concat_cost)
def concat(*inputs: Array, axis: int) -> Array:
    """Join tensors along `axis` (ONNX Concat-13)."""
    return _concat(inputs, axis)


def _split(input: Array, lengths: Sequence[int] | None, axis: int, parts: int) -> tuple[Array, ...]:
    """Cut into pieces of these lengths, or into `parts` equal ones."""
    at = normalize_axis(axis, input.ndim)
    total = input.shape[at]
    if lengths is None:
        if total % parts:
            raise KernelError(f"size {total} of axis {at} must be a multiple of the {parts} outputs")
        lengths = [total // parts] * parts
    if len(lengths) != parts:
        raise KernelError(f"split must have a length for each of {parts} outputs (got {list(lengths)})")
    if any(n < 0 for n in lengths) or sum(lengths) != total:
        raise KernelError(
            f"split must add up to {total}, the size of axis {at}, with all >= 0 (got {list(lengths)})"
        )
    before = (slice(None),) * at
    ends = np.cumsum(lengths).tolist()
    return tuple(input[(*before, slice(end - n, end))] for end, n in zip(ends, lengths, strict=True))


def split_arguments_1(
    *, split: tuple[int, ...] | None = None, axis: int | None = None
) -> tuple[tuple[int, ...] | None, int]:
    # Version 1 names no default axis; version 2 says 0.
    return split, 0 if axis is None else axis


@op("Split", since=1, prepare=split_arguments_1)
def split_1(
    input: Array, split: Array | None = None, *, prepared: tuple[tuple[int, ...] | None, int], ctx: Context
) -> tuple[Array, ...]:
    """Cut into lengths from the input `split`, else the attribute `split`, else equally (ONNX Split-1)."""
    lengths: Sequence[int] | None
    lengths, axis = prepared
    if split is not None:
        # The schema gives this input the data's floating-point type.
        lengths = [scalar_int(n, "split") for n in np.atleast_1d(split)]
    return _split(input, lengths, axis, ctx.n_outputs)


@op("Split", since=(2, 11))
def split_2(
    input: Array, *, axis: int = 0, split: tuple[int, ...] | None = None, ctx: Context
) -> tuple[Array, ...]:
    """Cut along `axis` into the lengths of the attribute `split`, or equally (ONNX Split-11)."""
    return _split(input, split, axis, ctx.n_outputs)


@op("Split", since=13)
def split_13(input: Array, split: Array | None = None, *, axis: int = 0, ctx: Context) -> tuple[Array, ...]:
    """Cut along `axis` into the lengths of the input `split`, or equally (ONNX Split-13)."""
    lengths = None if split is None else int_vector(split, "split")
    return _split(input, lengths, axis, ctx.n_outputs)


@op("Split", since=18)
def split(
    input: Array,
    split: Array | None = None,
    *,
    axis: int = 0,
    num_outputs: int | None = None,
    ctx: Context,
) -> tuple[Array, ...]:
    """Cut along `axis` into given lengths, or `num_outputs` chunks, the last smaller (ONNX Split-18)."""
    if (split is None) == (num_outputs is None):
        given = "neither" if split is None else "both"
        raise KernelError(f"either split or num_outputs must be given (got {given})")
    if split is not None:
        return _split(input, int_vector(split, "split"), axis, ctx.n_outputs)
    if num_outputs != ctx.n_outputs:
        raise KernelError(f"num_outputs must be the number of outputs, {ctx.n_outputs} (got {num_outputs})")
    total = input.shape[normalize_axis(axis, input.ndim)]
    chunk = -(-total // num_outputs)
    # With few elements the chunks run out early: 5 into 4 is 2, 2, 1, 0.
    lengths = [max(0, min(chunk, total - i * chunk)) for i in range(num_outputs)]
    return _split(input, lengths, axis, num_outputs)


# --- padding -------------------------------------------------------------------------------------

_Widths = list[tuple[int, int]]


def pad_widths(data: Array, pads: Sequence[int], axes: Sequence[int] | None) -> _Widths:
    """Return (begin, end) for each axis; negative ones must leave something to crop."""
    targets = range(data.ndim) if axes is None else normalize_axes(axes, data.ndim)
    count = len(targets)
    if len(pads) != 2 * count:
        raise KernelError(
            f"pads must have a begin and an end for each of {count} axes (got {len(pads)} values)"
        )
    widths = [(0, 0)] * data.ndim
    for i, axis in enumerate(targets):
        begin, end = pads[i], pads[count + i]
        if data.shape[axis] + min(begin, 0) + min(end, 0) < 0:
            raise KernelError(
                f"pads must not crop more than {data.shape[axis]} at axis {axis} (got {begin}, {end})"
            )
        widths[axis] = (begin, end)
    return widths


def padded_shape(data: Array, widths: _Widths) -> list[int]:
    return [d + begin + end for d, (begin, end) in zip(data.shape, widths, strict=True)]


def _pad_sources(mode: str, size: int, begin: int, end: int) -> Array:
    """Return which of `size` elements each position of the padded axis repeats."""
    position = np.arange(-begin, size + end)
    if mode == "edge":
        return position.clip(0, size - 1)
    if mode == "wrap":
        return position % size
    period = max(2 * size - 2, 1)
    position %= period
    return np.minimum(position, period - position)


def _pad(data: Array, widths: _Widths, mode: str, value: Array | float | str, modes: Sequence[str]) -> Array:
    """Crop where the widths are negative, then pad what is left."""
    check_choice(mode, modes, "mode")
    result = check_addressable(padded_shape(data, widths), data.dtype)
    inner = data[
        tuple(slice(max(-b, 0), d - max(-e, 0)) for d, (b, e) in zip(data.shape, widths, strict=True))
    ]
    added = [(max(b, 0), max(e, 0)) for b, e in widths]
    if mode == "constant":
        out = np.full(result, value, data.dtype)
        out[tuple(slice(b, b + d) for d, (b, _) in zip(inner.shape, added, strict=True))] = inner
        return out
    for d, width in zip(inner.shape, added, strict=True):
        if d == 0 and any(width):
            raise KernelError(
                f"mode must be constant to pad an empty dimension (got {mode} for {inner.shape})"
            )
    if math.prod(result) == 0:
        return np.empty(result, data.dtype)
    for axis, (begin, end) in enumerate(added):
        if begin or end:
            inner = inner.take(_pad_sources(mode, inner.shape[axis], begin, end), axis=axis)
    return inner


def _pad_bytes(data: Array, widths: _Widths) -> Cost:
    result = padded_shape(data, widths)
    # Scratch: the positions along one axis.
    return Cost(Cost.of(result, data.dtype).out_bytes, 32 * max(result, default=0))


def _pad_cost_attributes(
    data: Array, *, pads: Sequence[int] = (), paddings: Sequence[int] = (), **_: Any
) -> Cost:
    return _pad_bytes(data, pad_widths(data, pads or paddings, None))


PAD_MODES = ("constant", "reflect", "edge")


@op("Pad", since=1, cost=_pad_cost_attributes)
def pad_1(data: Array, *, paddings: tuple[int, ...], mode: str = "constant", value: float = 0.0) -> Array:
    """Pad or crop each axis by the attribute `paddings` (ONNX Pad-1)."""
    return _pad(data, pad_widths(data, paddings, None), mode, value, PAD_MODES)


@op("Pad", since=2, cost=_pad_cost_attributes)
def pad_2(data: Array, *, pads: tuple[int, ...], mode: str = "constant", value: float = 0.0) -> Array:
    """Pad or crop each axis by the attribute `pads` (ONNX Pad-2)."""
    return _pad(data, pad_widths(data, pads, None), mode, value, PAD_MODES)


def _pad_inputs(
    data: Array,
    pads: Array,
    constant_value: Array | None,
    axes: Array | None,
    mode: str,
    modes: Sequence[str],
) -> Array:
    value = zeros((), data.dtype) if constant_value is None else one_element(constant_value, "constant_value")
    widths = pad_widths(data, int_vector(pads, "pads"), None if axes is None else int_vector(axes, "axes"))
    return _pad(data, widths, mode, value, modes)


def _pad_cost(
    data: Array, pads: Array, constant_value: Array | None = None, axes: Array | None = None, **_: Any
) -> Cost:
    targets = None if axes is None else int_vector(axes, "axes")
    return _pad_bytes(data, pad_widths(data, int_vector(pads, "pads"), targets))


@op("Pad", since=(11, 13), cost=_pad_cost)
def pad_11(data: Array, pads: Array, constant_value: Array | None = None, *, mode: str = "constant") -> Array:
    """Pad or crop each axis by the input `pads` (ONNX Pad-13)."""
    return _pad_inputs(data, pads, constant_value, None, mode, PAD_MODES)


@op("Pad", since=18, cost=_pad_cost)
def pad_18(
    data: Array,
    pads: Array,
    constant_value: Array | None = None,
    axes: Array | None = None,
    *,
    mode: str = "constant",
) -> Array:
    """Pad or crop some axes by the input `pads` (ONNX Pad-18)."""
    return _pad_inputs(data, pads, constant_value, axes, mode, PAD_MODES)


@op("Pad", since=(19, 21, 23, 24, 25), cost=_pad_cost)
def pad(
    data: Array,
    pads: Array,
    constant_value: Array | None = None,
    axes: Array | None = None,
    *,
    mode: str = "constant",
) -> Array:
    """Pad or crop some axes by the input `pads`, also in mode `wrap` (ONNX Pad-25)."""
    return _pad_inputs(data, pads, constant_value, axes, mode, (*PAD_MODES, "wrap"))


def _cropped_or_padded_shape(input_data: Array, shape: Array, axes: Sequence[int] | None) -> list[int]:
    sizes = int_vector(shape, "shape")
    targets = range(input_data.ndim) if axes is None else normalize_axes(axes, input_data.ndim)
    if len(sizes) != len(targets) or any(n < 0 for n in sizes):
        raise KernelError(f"shape must be {len(targets)} sizes >= 0, one for each axis (got {sizes})")
    result = list(input_data.shape)
    for axis, n in zip(targets, sizes, strict=True):
        result[axis] = n
    return result


def _center_crop_pad_cost(input_data: Array, shape: Array, *, axes: Sequence[int] | None = None) -> Cost:
    return Cost.of(_cropped_or_padded_shape(input_data, shape, axes), input_data.dtype)


@op("CenterCropPad", since=18, cost=_center_crop_pad_cost)
def center_crop_pad(input_data: Array, shape: Array, *, axes: tuple[int, ...] | None = None) -> Array:
    """Cut out or zero-pad around the centre, the odd element at the end (ONNX CenterCropPad-18)."""
    result = check_addressable(_cropped_or_padded_shape(input_data, shape, axes), input_data.dtype)
    source, target = [], []
    for old, new in zip(input_data.shape, result, strict=True):
        kept = min(old, new)
        source.append(slice((old - kept) // 2, (old - kept) // 2 + kept))
        target.append(slice((new - kept) // 2, (new - kept) // 2 + kept))
    out = zeros(result, input_data.dtype)
    out[tuple(target)] = input_data[tuple(source)]
    return out


# --- rearrangement -------------------------------------------------------------------------------


def _check_blocks(input: Array, blocksize: int, mode: str) -> None:
    if input.ndim != 4:
        raise KernelError(f"input must have shape (N, C, H, W) (got {input.shape})")
    if blocksize < 1:
        raise KernelError(f"blocksize must be positive (got {blocksize})")
    check_choice(mode, ("DCR", "CRD"), "mode")


@op("DepthToSpace", since=(1, 11, 13, 28))
def depth_to_space(input: Array, *, blocksize: int, mode: str = "DCR") -> Array:
    """Move (N, C * b * b, H, W) to (N, C, H * b, W * b) (ONNX DepthToSpace-28)."""
    _check_blocks(input, blocksize, mode)
    n, c, h, w = input.shape
    b = blocksize
    if c % (b * b):
        raise KernelError(f"number of channels must be a multiple of blocksize**2, {b * b} (got {c})")
    c //= b * b
    if mode == "DCR":
        split, order = (n, b, b, c, h, w), (0, 3, 4, 1, 5, 2)
    else:
        split, order = (n, c, b, b, h, w), (0, 1, 4, 2, 5, 3)
    return input.reshape(check_addressable(split, input.dtype)).transpose(order).reshape(n, c, h * b, w * b)


@op("SpaceToDepth", since=(1, 13, 28))
def space_to_depth(input: Array, *, blocksize: int, mode: str = "DCR") -> Array:
    """Move (N, C, H * b, W * b) to (N, C * b * b, H, W) (ONNX SpaceToDepth-28)."""
    _check_blocks(input, blocksize, mode)
    n, c, h, w = input.shape
    b = blocksize
    if h % b or w % b:
        raise KernelError(f"height and width must be multiples of blocksize, {b} (got {h}, {w})")
    split = check_addressable((n, c, h // b, b, w // b, b), input.dtype)
    order = (0, 3, 5, 1, 2, 4) if mode == "DCR" else (0, 1, 3, 5, 2, 4)
    return input.reshape(split).transpose(order).reshape(n, c * b * b, h // b, w // b)


@op("Trilu", since=14)
def trilu(input: Array, k: Array | None = None, *, upper: int = 1) -> Array:
    """Keep the upper or lower triangle from diagonal `k` on of (..., N, M) (ONNX Trilu-14)."""
    if input.ndim < 2:
        raise KernelError(f"input must have rank 2 or more (got {input.ndim})")
    n, m = input.shape[-2:]
    # Diagonals outside the matrix are all alike, and sums with the clamped one cannot overflow.
    diagonal = 0 if k is None else min(max(scalar_int(k, "k"), -n - 1), m + 1)
    row, column = np.arange(n)[:, None], np.arange(m)
    kept = column >= row + diagonal if upper else column <= row + diagonal
    return np.where(kept, input, zeros((), input.dtype))
