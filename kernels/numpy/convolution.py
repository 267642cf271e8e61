"""Convolutions: Conv and its integer, quantized, transposed, deformable and causal kin, and Col2Im."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from onnxref.dtypes import Array
from onnxref.errors import KernelError
from onnxref.limits import Budget
from onnxref.registry import Context, Cost, op

from ._checks import check_choice, check_shape, int_vector, one_element, scalar
from ._common import narrow, requantize, sigmoid, widen, zeros
from ._windows import Index, Windows, blocks, per_axis, scratch, slide, spatial_shape, split_pads

# Columns are made and multiplied in blocks of this many bytes. A depthwise convolution, which uses each
# only once, wants them in the nearest cache; elsewhere BLAS wants wide matrices.
_COLUMN_BYTES = 8 * 2**20
_DEPTHWISE_BYTES = 2**20


# Conv ---------------------------------------------------------------------------------------------


def conv_windows(
    x: Array,
    w: Array,
    group: int,
    kernel_shape: Sequence[int] | None,
    strides: Sequence[int] | None,
    dilations: Sequence[int] | None,
    pads: Sequence[int] | None,
    auto_pad: str,
) -> Windows:
    """Check that `x` (N, C, *spatial), `w` (M, C/group, *kernel) and `group` fit, and return the windows."""
    size = spatial_shape(x)
    _check_weights(w, x.ndim, kernel_shape)
    if group < 1 or w.shape[0] % group:
        raise KernelError(f"group must divide the {w.shape[0]} output channels (got {group})")
    if x.shape[1] != w.shape[1] * group:
        raise KernelError(
            f"input channels must be W.shape[1] * group = {w.shape[1] * group} (got {x.shape[1]})"
        )
    return slide(size, w.shape[2:], strides, dilations, pads, auto_pad)


def _check_weights(w: Array, rank: int, kernel_shape: Sequence[int] | None) -> None:
    if w.ndim != rank:
        raise KernelError(f"rank of the weights must be {rank}, that of the input (got shape {w.shape})")
    if kernel_shape is not None and tuple(kernel_shape) != w.shape[2:]:
        raise KernelError(f"kernel_shape must be {w.shape[2:]}, that of the weights (got {kernel_shape})")


def _conv_cost(
    x: Array,
    w: Array,
    *_: Any,
    auto_pad: str = "NOTSET",
    dilations: tuple[int, ...] | None = None,
    group: int = 1,
    kernel_shape: tuple[int, ...] | None = None,
    pads: tuple[int, ...] | None = None,
    strides: tuple[int, ...] | None = None,
    itemsize: int = 0,
) -> Cost:
    windows = conv_windows(x, w, group, kernel_shape, strides, dilations, pads, auto_pad)
    n, c = x.shape[:2]
    made = n * w.shape[0] * math.prod(windows.out)
    wide = max(4, x.itemsize)
    row = c * math.prod(windows.kernel) * math.prod(windows.out[1:]) * wide
    columns = min(max(row, _COLUMN_BYTES), n * row * windows.out[0])
    return Cost(made * (itemsize or x.itemsize), scratch(windows, n * c, wide) + columns + made * wide)


def convolve(x: Array, w: Array, windows: Windows, group: int, budget: Budget) -> Array:
    """Return the convolution (N, M, *out) of float32 or float64 `x` and `w`, without bias."""
    n, m = x.shape[0], w.shape[0]
    if 0 in (n, m, x.shape[1], *windows.out):
        return np.zeros((n, m, *windows.out), x.dtype)
    y: Array
    if windows.are_pixels:
        images = x.reshape(n, group, x.shape[1] // group, -1)
        y = np.matmul(w.reshape(group, m // group, -1), images)
    else:
        y = _convolve_columns(x, w, windows, group, budget)
    return y.reshape(n, m, *windows.out)


def _convolve_columns(x: Array, w: Array, windows: Windows, group: int, budget: Budget) -> Array:
    """Copy windows into columns, block by block, and multiply them by the weights of each group."""
    n, c = x.shape[:2]
    m, rank = w.shape[0], len(windows.out)
    patches = windows.patches(x)
    weights = w.reshape(group, m // group, -1)
    rest = math.prod(windows.out[1:])
    y = np.empty((n, group, m // group, windows.out[0] * rest), x.dtype)
    row_bytes = c * math.prod(windows.kernel) * rest * x.itemsize
    space: Array = np.empty(0, x.dtype)
    limit = _DEPTHWISE_BYTES if w.shape[1] == 1 else _COLUMN_BYTES
    for images, rows in blocks(n, windows.out[0], row_bytes, limit):
        budget.check_time()
        block = patches[(images, slice(None)) + (slice(None),) * rank + (rows,)]
        if space.size < block.size:
            space = np.empty(block.size, x.dtype)
        columns = space[: block.size]
        np.copyto(columns.reshape(block.shape), block)
        columns = columns.reshape(len(block), group, weights.shape[2], -1)
        np.matmul(weights, columns, out=y[images, :, :, rows.start * rest : rows.stop * rest])
    return y


def _add_bias(y: Array, b: Array | None) -> Array:
    """Add `b` (M) to `y` (N, M, *out) in place."""
    if b is not None:
        check_shape(b, y.shape[1:2], "B")
        y += b.reshape(-1, *(1,) * (y.ndim - 2))
    return y


@op("Conv", since=(1, 11, 22), cost=_conv_cost)
def conv(
    x: Array,
    w: Array,
    b: Array | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: tuple[int, ...] | None = None,
    group: int = 1,
    kernel_shape: tuple[int, ...] | None = None,
    pads: tuple[int, ...] | None = None,
    strides: tuple[int, ...] | None = None,
    ctx: Context,
) -> Array:
    """Correlate x (N, C, *spatial) with w (M, C/group, *kernel) and add b (M); ONNX Conv-22."""
    windows = conv_windows(x, w, group, kernel_shape, strides, dilations, pads, auto_pad)
    y = convolve(widen(x), widen(w), windows, group, ctx.budget)
    return narrow(_add_bias(y, None if b is None else widen(b)), x.dtype)


# Integers -----------------------------------------------------------------------------------------


def _less_zero_point(x: Array, zero_point: Array | None, name: str, *, per_channel: bool = False) -> Array:
    """Return the 8-bit tensor `x` minus its zero point, in float32."""
    wide = x.astype(np.float32)
    if zero_point is not None:
        wide -= _one_or_per_channel(zero_point, x, name, per_channel=per_channel).astype(np.float32)
    return wide


def _one_or_per_channel(value: Array, x: Array, name: str, *, per_channel: bool) -> Array:
    """Return a scale or zero point of one value, or of one per row of the weights `x`, ready to broadcast."""
    if value.size == 1 or not per_channel:
        return one_element(value, name)
    check_shape(value, x.shape[:1], name)
    return value.reshape(-1, *(1,) * (x.ndim - 1))


def _convolve_exactly(x: Array, w: Array, windows: Windows, group: int, budget: Budget) -> Array:
    """Return the exact convolution of differences of 8-bit integers, all of it in floats.

    BLAS has no integers. No partial sum exceeds max|x| * sum|w|, so float32 is exact where that
    is at most 2**24; float64 always is (2**53 takes 2**37 products of 8-bit differences).
    """
    x_max = max(x.max(initial=0), -x.min(initial=0))
    w_sum = np.abs(w).sum(axis=tuple(range(1, w.ndim)), dtype=np.float64).max(initial=0)
    dtype = np.float32 if x_max * w_sum <= 2**24 else np.float64
    x, w = x.astype(dtype, copy=False), w.astype(dtype, copy=False)
    return convolve(x, w, windows, group, budget)


def _conv_integer_cost(
    x: Array,
    w: Array,
    x_zero_point: Array | None = None,
    w_zero_point: Array | None = None,
    **attributes: Any,
) -> Cost:
    out_bytes, scratch_bytes = _conv_cost(x, w, itemsize=4, **attributes)
    return Cost(out_bytes, 2 * scratch_bytes)


@op("ConvInteger", since=10, cost=_conv_integer_cost)
def conv_integer(
    x: Array,
    w: Array,
    x_zero_point: Array | None = None,
    w_zero_point: Array | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: tuple[int, ...] | None = None,
    group: int = 1,
    kernel_shape: tuple[int, ...] | None = None,
    pads: tuple[int, ...] | None = None,
    strides: tuple[int, ...] | None = None,
    ctx: Context,
) -> Array:
    """Correlate x - x_zero_point with w - w_zero_point in int32, which wraps; ONNX ConvInteger-10.

    Padding holds the zero point: it stands for the real value 0.
    """
    windows = conv_windows(x, w, group, kernel_shape, strides, dilations, pads, auto_pad)
    left = _less_zero_point(x, x_zero_point, "x_zero_point")
    right = _less_zero_point(w, w_zero_point, "w_zero_point", per_channel=True)
    # By way of int64, whose conversion to int32 wraps.
    return _convolve_exactly(left, right, windows, group, ctx.budget).astype(np.int64).astype(np.int32)


def _qlinear_conv_cost(
    x: Array, x_scale: Array, x_zero_point: Array, w: Array, *_: Any, **attributes: Any
) -> Cost:
    out_bytes, scratch_bytes = _conv_cost(x, w, **attributes)
    return Cost(out_bytes, 4 * scratch_bytes)


@op("QLinearConv", since=10, cost=_qlinear_conv_cost)
def qlinear_conv(
    x: Array,
    x_scale: Array,
    x_zero_point: Array,
    w: Array,
    w_scale: Array,
    w_zero_point: Array,
    y_scale: Array,
    y_zero_point: Array,
    b: Array | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: tuple[int, ...] | None = None,
    group: int = 1,
    kernel_shape: tuple[int, ...] | None = None,
    pads: tuple[int, ...] | None = None,
    strides: tuple[int, ...] | None = None,
    ctx: Context,
) -> Array:
    """Convolve quantized tensors, with exact sums and one rounding (half to even); ONNX QLinearConv-10."""
    windows = conv_windows(x, w, group, kernel_shape, strides, dilations, pads, auto_pad)
    left = _less_zero_point(x, x_zero_point, "x_zero_point")
    right = _less_zero_point(w, w_zero_point, "w_zero_point", per_channel=True)
    total = _convolve_exactly(left, right, windows, group, ctx.budget).astype(np.float64)
    _add_bias(total, None if b is None else b.astype(np.float64))
    # The product of two float32 scales is exact in float64, and so are the sums.
    w_scales = _one_or_per_channel(w_scale, w, "w_scale", per_channel=True).astype(np.float64)
    scale = w_scales * float(scalar(x_scale, "x_scale")) / float(scalar(y_scale, "y_scale"))
    if scale.ndim:
        scale = scale.reshape(-1, *(1,) * (x.ndim - 2))
    total *= scale
    return requantize(total, one_element(y_zero_point, "y_zero_point"))


# ConvTranspose and Col2Im -------------------------------------------------------------------------


def transposed_windows(
    x: Array,
    w: Array,
    *,
    auto_pad: str = "NOTSET",
    dilations: tuple[int, ...] | None = None,
    group: int = 1,
    kernel_shape: tuple[int, ...] | None = None,
    output_padding: tuple[int, ...] | None = None,
    output_shape: tuple[int, ...] | None = None,
    pads: tuple[int, ...] | None = None,
    strides: tuple[int, ...] | None = None,
    version: int,
) -> Windows:
    """Return windows over the *output* of a transposed convolution, one for each input position."""
    _check_transposed(x, w, group, kernel_shape)
    size = x.shape[2:]
    rank = len(size)
    kernel = per_axis(w.shape[2:], rank, "kernel_shape")
    step = per_axis(strides, rank, "strides")
    apart = per_axis(dilations, rank, "dilations")
    extra = per_axis(output_padding, rank, "output_padding", default=0, low=0)
    if version >= 11 and any(e >= max(s, d) for e, s, d in zip(extra, step, apart, strict=True)):
        raise KernelError(f"output_padding must be less than the stride or the dilation (got {extra})")
    begins, ends = split_pads(None if output_shape is not None else pads, rank, auto_pad)
    # What the output would be without padding; the padding is cut off from it.
    full = tuple(step[i] * (size[i] - 1) + extra[i] + (kernel[i] - 1) * apart[i] + 1 for i in range(rank))
    if output_shape is not None:
        if version < 11 and len(output_shape) == rank + 2:
            output_shape = output_shape[2:]
        out = per_axis(output_shape, rank, "output_shape", low=0)
        # ConvTranspose-1 puts the odd element at the end unless SAME_UPPER, later versions the other way.
        odd_first = (auto_pad == "SAME_UPPER") == (version < 11)
        begins = _shares(full, out, odd_first=odd_first)
    elif auto_pad in ("SAME_UPPER", "SAME_LOWER"):
        out = tuple(n * s for n, s in zip(size, step, strict=True))
        begins = _shares(full, out, odd_first=auto_pad == "SAME_LOWER")
    else:
        out = tuple(f - b - e for f, b, e in zip(full, begins, ends, strict=True))
        if 0 not in size and min(out) < 0:
            raise KernelError(f"pads must be at most the unpadded output {full} (got {pads})")
        out = tuple(max(0, o) for o in out)
    return Windows(out, kernel, step, apart, begins, ends, size)


def _check_transposed(x: Array, w: Array, group: int, kernel_shape: Sequence[int] | None) -> None:
    spatial_shape(x)
    _check_weights(w, x.ndim, kernel_shape)
    if group < 1 or x.shape[1] % group or w.shape[0] != x.shape[1]:
        raise KernelError(
            f"input channels must be those of the weights, {w.shape[0]}, "
            f"and a multiple of group={group} (got {x.shape[1]})"
        )


def _shares(full: Sequence[int], out: Sequence[int], *, odd_first: bool) -> tuple[int, ...]:
    """Return the part of the padding `full - out` that goes before each axis.

    Padding is never negative: an output larger than `full` has zeros at its end.
    """
    totals = [max(0, f - o) for f, o in zip(full, out, strict=True)]
    return tuple(t - t // 2 if odd_first else t // 2 for t in totals)


def _register_conv_transpose(since: tuple[int, ...]) -> None:
    def cost(x: Array, w: Array, b: Array | None = None, **attributes: Any) -> Cost:
        windows = transposed_windows(x, w, version=since[0], **attributes)
        lanes, wide = x.shape[0] * w.shape[1] * attributes.get("group", 1), max(4, x.itemsize)
        made, tap = lanes * math.prod(windows.size), lanes * math.prod(windows.out)
        return Cost(made * x.itemsize, (made + tap) * wide + _COLUMN_BYTES)

    @op("ConvTranspose", since=since, cost=cost)
    def conv_transpose(
        x: Array,
        w: Array,
        b: Array | None = None,
        *,
        auto_pad: str = "NOTSET",
        dilations: tuple[int, ...] | None = None,
        group: int = 1,
        kernel_shape: tuple[int, ...] | None = None,
        output_padding: tuple[int, ...] | None = None,
        output_shape: tuple[int, ...] | None = None,
        pads: tuple[int, ...] | None = None,
        strides: tuple[int, ...] | None = None,
    ) -> Array:
        """Spread x (N, C, *spatial) over w (C, M/group, *kernel) and add b (M); ONNX ConvTranspose-22."""
        windows = transposed_windows(
            x,
            w,
            auto_pad=auto_pad,
            dilations=dilations,
            group=group,
            kernel_shape=kernel_shape,
            output_padding=output_padding,
            output_shape=output_shape,
            pads=pads,
            strides=strides,
            version=since[0],
        )
        y = convolve_transposed(widen(x), widen(w), windows, group)
        return narrow(_add_bias(y, None if b is None else widen(b)), x.dtype)


def convolve_transposed(x: Array, w: Array, windows: Windows, group: int) -> Array:
    """Multiply all inputs by the weights, some taps at a time, and add each tap where it belongs."""
    n, c = x.shape[:2]
    m = w.shape[1]
    y = np.zeros((n, group, m, *windows.size), x.dtype)
    if 0 in (n, c, m, *windows.out):
        return y.reshape(n, group * m, *windows.size)
    images = x.reshape(n, group, c // group, -1)
    # (group, C/group, M/group, taps) -> (group, taps, M/group, C/group): a chunk of taps is adjacent rows.
    weights = w.reshape(group, c // group, m, -1).transpose(0, 3, 2, 1)
    taps = list(windows.taps())
    tap_bytes = n * group * m * math.prod(windows.out) * x.itemsize
    for _, chunk in blocks(1, len(taps), tap_bytes, _COLUMN_BYTES):
        part = weights[:, chunk].reshape(group, -1, c // group)
        columns = np.matmul(part, images).reshape(n, group, -1, m, *windows.out)
        for position, tap in enumerate(taps[chunk]):
            windows.fold(columns[:, :, position], y, tap)
    return y.reshape(n, group * m, *windows.size)


for _since in ((1,), (11, 22)):
    _register_conv_transpose(_since)


def _col2im_windows(
    input: Array,
    image_shape: Array,
    block_shape: Array,
    dilations: tuple[int, ...] | None,
    pads: tuple[int, ...] | None,
    strides: tuple[int, ...] | None,
) -> Windows:
    """Check the columns `input` (N, C * prod(block_shape), L) and return the windows they were taken from."""
    sizes = int_vector(image_shape, "image_shape")
    if input.ndim != 3:
        raise KernelError(f"rank of the input must be 3, (N, C * block, L) (got shape {input.shape})")
    if not sizes:
        raise KernelError("image_shape must have one size per axis (got none)")
    size = per_axis(sizes, len(sizes), "image_shape", low=0)
    block = per_axis(int_vector(block_shape, "block_shape"), len(size), "block_shape")
    windows = slide(size, block, strides, dilations, pads)
    if input.shape[1] % math.prod(block):
        raise KernelError(f"input.shape[1] must be a multiple of {math.prod(block)} (got {input.shape[1]})")
    if input.shape[2] != math.prod(windows.out):
        raise KernelError(f"number of blocks must be {math.prod(windows.out)} (got {input.shape[2]})")
    return windows


def _col2im_cost(
    input: Array,
    image_shape: Array,
    block_shape: Array,
    *,
    dilations: tuple[int, ...] | None = None,
    pads: tuple[int, ...] | None = None,
    strides: tuple[int, ...] | None = None,
) -> Cost:
    windows = _col2im_windows(input, image_shape, block_shape, dilations, pads, strides)
    lanes = input.shape[0] * input.shape[1] // math.prod(windows.kernel)
    made = lanes * math.prod(windows.size)
    return Cost(made * input.itemsize, (made + input.size) * max(4, input.itemsize))


@op("Col2Im", since=18, cost=_col2im_cost)
def col2im(
    input: Array,
    image_shape: Array,
    block_shape: Array,
    *,
    dilations: tuple[int, ...] | None = None,
    pads: tuple[int, ...] | None = None,
    strides: tuple[int, ...] | None = None,
) -> Array:
    """Sum columns (N, C * prod(block_shape), L) back into images (N, C, *image_shape); ONNX Col2Im-18.

    Booleans are or-ed. Strings, which have no sum, are concatenated in the order of the block's elements.
    """
    windows = _col2im_windows(input, image_shape, block_shape, dilations, pads, strides)
    n, rows = input.shape[:2]
    c = rows // math.prod(windows.kernel)
    columns = widen(input).reshape(n, c, *windows.kernel, *windows.out)
    image = zeros((n, c, *windows.size), columns.dtype)
    if columns.size:
        for tap in windows.taps():
            index: Index = (slice(None), slice(None), *tap)
            windows.fold(columns[index], image, tap)
    return narrow(image, input.dtype)


# DeformConv ---------------------------------------------------------------------------------------


def _deform_conv_cost(x: Array, w: Array, offset: Array, *_: Any, **attributes: Any) -> Cost:
    # The output's size is that of `offset`, the scratch one tap's samples and their coordinates.
    spatial_shape(x)
    _check_weights(w, x.ndim, None)
    made, lanes = x.shape[0] * w.shape[0], x.shape[0] * x.shape[1]
    windows = math.prod(offset.shape[2:])
    wide = max(4, x.itemsize)
    corners = (8 + wide) * (x.ndim + 2) * x.shape[0] * windows * attributes.get("offset_group", 1)
    return Cost(made * windows * x.itemsize, (2 * made + 3 * lanes) * windows * wide + corners)


@op("DeformConv", since=(19, 22), cost=_deform_conv_cost)
def deform_conv(
    x: Array,
    w: Array,
    offset: Array,
    b: Array | None = None,
    mask: Array | None = None,
    *,
    dilations: tuple[int, ...] | None = None,
    group: int = 1,
    kernel_shape: tuple[int, ...] | None = None,
    offset_group: int = 1,
    pads: tuple[int, ...] | None = None,
    strides: tuple[int, ...] | None = None,
) -> Array:
    """Convolve x (N, C, *spatial), sampled at moved positions, with w (M, C/group, *kernel).

    ONNX DeformConv-22. offset is (N, offset_group * taps * rank, *out) and mask
    (N, offset_group * taps, *out). A sample interpolates linearly between its
    neighbours; those outside of x are zero.
    """
    windows = conv_windows(x, w, group, kernel_shape, strides, dilations, pads, "NOTSET")
    n, c, m, rank = x.shape[0], x.shape[1], w.shape[0], len(windows.size)
    taps = math.prod(windows.kernel)
    if offset_group < 1 or c % offset_group:
        raise KernelError(f"offset_group must divide the {c} input channels (got {offset_group})")
    check_shape(offset, (n, offset_group * taps * rank, *windows.out), "offset")
    moved = widen(offset).reshape(n, offset_group, taps, rank, *windows.out)
    scale = None
    if mask is not None:
        check_shape(mask, (n, offset_group * taps, *windows.out), "mask")
        scale = widen(mask).reshape(n, offset_group, taps, 1, math.prod(windows.out))
    pixels = widen(x).reshape(n, offset_group, c // offset_group, math.prod(windows.size))
    weights = widen(w).reshape(group, m // group, w.shape[1], taps)
    y = np.zeros((n, group, m // group, math.prod(windows.out)), pixels.dtype)
    for position, tap in enumerate(windows.taps()):
        sampled = _sample(pixels, windows, tap, moved[:, :, position])
        if scale is not None:
            sampled *= scale[:, :, position]
        y += np.matmul(weights[..., position], sampled.reshape(n, group, c // group, -1))
    return narrow(_add_bias(y.reshape(n, m, *windows.out), None if b is None else widen(b)), x.dtype)


def _sample(pixels: Array, windows: Windows, tap: tuple[int, ...], moved: Array) -> Array:
    """Interpolate pixels (N, G, C/G, prod(size)) where one tap of each window looks.

    `moved` (N, G, rank, *out) is added to the regular positions. Returns (N, G, C/G, prod(out)).
    """
    lows, highs = [], []  # per axis: (index, weight) of the two neighbours of each position
    for axis, k in enumerate(tap):
        size, shape = windows.size[axis], [1] * len(tap)
        shape[axis] = -1
        regular = np.arange(windows.out[axis]) * windows.strides[axis]
        regular += k * windows.dilations[axis] - windows.begins[axis]
        place = moved[:, :, axis] + regular.reshape(shape).astype(moved.dtype)
        near = (place > -1) & (place < size)  # False for NaN too
        place = np.where(near, place, 0)
        floor = np.floor(place)
        low, part = floor.astype(np.int64), place - floor
        lows.append((np.maximum(low, 0), np.where(near & (low >= 0), 1 - part, 0)))
        highs.append((np.minimum(low + 1, size - 1), np.where(near & (low + 1 < size), part, 0)))
    n, groups, _, area = pixels.shape
    result = np.zeros((*pixels.shape[:3], math.prod(windows.out)), pixels.dtype)
    if not area:
        return result
    for corner in itertools.product(*zip(lows, highs, strict=True)):
        index = np.zeros(corner[0][0].shape, np.int64)
        weight = np.ones(index.shape, pixels.dtype)
        for (place, share), size in zip(corner, windows.size, strict=True):
            index = index * size + place
            weight = weight * share
        flat = index.reshape(n, groups, 1, -1)
        values = np.take_along_axis(pixels, flat, axis=3)
        result += values * weight.reshape(flat.shape)
    return result


# CausalConvWithState ------------------------------------------------------------------------------


@op("CausalConvWithState", since=27)
def causal_conv_with_state(
    input: Array,
    weight: Array,
    bias: Array | None = None,
    past_state: Array | None = None,
    *,
    activation: str = "none",
    ctx: Context,
) -> tuple[Array, Array]:
    """Convolve each channel of input (B, C, L) with its past and return the last k - 1 values as new state.

    weight is (C, 1, k), the states (B, C, k - 1); ONNX CausalConvWithState-27.
    """
    check_choice(activation, ("none", "silu", "swish"), "activation")
    if input.ndim != 3 or weight.ndim != 3 or weight.shape[2] < 1:
        raise KernelError(
            f"input and weight must be (B, C, L) and (C, 1, k) (got {input.shape} and {weight.shape})"
        )
    batch, channels, length = input.shape
    kernel = weight.shape[2]
    check_shape(weight, (channels, 1, kernel), "weight")
    if past_state is None:
        past_state = np.zeros((batch, channels, kernel - 1), input.dtype)
    check_shape(past_state, (batch, channels, kernel - 1), "past_state")
    whole = np.concatenate([past_state, input], axis=2)
    wide = widen(whole)
    windows = Windows((whole.shape[2],), (kernel,), (1,), (1,), (0,), (0,), (length,))
    y = convolve(wide, widen(weight), windows, channels, ctx.budget)
    _add_bias(y, None if bias is None else widen(bias))
    if activation != "none":
        y *= sigmoid(y)
    return narrow(y, input.dtype), whole[:, :, length:]
