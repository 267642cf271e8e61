"""Operators that only the lowering of `Gradient` emits, in a domain of their own.

Each is here because ONNX has no operator for it, or only one that needs a rank or a size known in
advance. Those that return int64 shapes and positions carry no derivative; the others are linear in
each of their tensors, and their derivatives are again operators of this file or of ONNX.

Positions count the elements of a tensor in row-major order from 1; 0 stands for "no element".
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from onnxref.dtypes import LOW_PRECISION, Array
from onnxref.registry import INTERNAL, Context, Cost, op

from ._checks import int_vector, normalize_axes
from ._common import in_float32, narrow, widen
from ._windows import Index, Windows, slide
from .convolution import conv_windows, convolve, convolve_transposed, transposed_windows
from .pooling import window_counts

Ints = tuple[int, ...] | None


def _shape_cost(x: Array, *others: Any, **_: Any) -> Cost:
    """Cost of an output of the type of the first input, whose shape is the last input."""
    return Cost.of(int_vector(others[-1], "shape"), x.dtype)


# Shapes -------------------------------------------------------------------------------------------


def _as_shape(dims: Any) -> Array:
    return np.array(list(dims), np.int64)


@op("ReducedShape", since=1, domain=INTERNAL)
def reduced_shape(x: Array, axes: Array | None = None, *, noop_with_empty_axes: int = 0) -> Array:
    """Return the shape that a Reduce operator with keepdims=1 gives `x`."""
    chosen = [] if axes is None else int_vector(axes, "axes")
    if not chosen and not noop_with_empty_axes:
        return _as_shape([1] * x.ndim)
    reduced = normalize_axes(chosen, x.ndim)
    return _as_shape(1 if axis in reduced else d for axis, d in enumerate(x.shape))


@op("MatMulShapes", since=1, domain=INTERNAL)
def matmul_shapes(a: Array, b: Array) -> tuple[Array, Array, Array]:
    """Return the shapes of A, B and their product when vectors are written as matrices of one row or column.

    (K,) becomes (1, K) on the left and (K, 1) on the right.
    """
    left = a.shape if a.ndim > 1 else (1, *a.shape)
    right = b.shape if b.ndim > 1 else (*b.shape, 1)
    batch = np.broadcast_shapes(left[:-2], right[:-2])
    return _as_shape(left), _as_shape(right), _as_shape((*batch, left[-2], right[-1]))


@op("AlignedShape", since=1, domain=INTERNAL)
def aligned_shape(a: Array, b: Array, *, axis: int | None = None) -> Array:
    """Return the shape in which B broadcasts to A by the rules before version 7 (ONNX Add-6, PRelu-6)."""
    if a.shape == b.shape:
        return _as_shape(b.shape)
    if b.size == 1:
        return _as_shape(())
    start = a.ndim - b.ndim if axis is None else axis
    return _as_shape(b.shape + (1,) * (a.ndim - start - b.ndim))


@op("ChannelShape", since=1, domain=INTERNAL)
def channel_shape(x: Array, *, spatial: int = 1, groups: int = 0) -> Array:
    """Return (N, C, rest) for x (N, C, ...), with C = 1 for a vector; not `spatial`: (N, rest, 1).

    With `groups`, as many rows for each n instead of C.
    """
    if x.ndim < 2:
        return _as_shape((x.size, 1, 1))
    if not spatial:
        return _as_shape((x.shape[0], math.prod(x.shape[1:]), 1))
    rows = groups or x.shape[1]
    return _as_shape((x.shape[0], rows, x.shape[1] // rows * math.prod(x.shape[2:])))


# Broadcasting and types ---------------------------------------------------------------------------


@op("FitTo", since=1, domain=INTERNAL, cost=_shape_cost)
@in_float32
def fit_to(x: Array, shape: Array) -> Array:
    """Sum `x` over the axes that `shape` lacks or has with size 1, and repeat it along its own of size 1.

    The derivative of a broadcast, and its own: back from the result's shape to that of `x`.
    """
    target = tuple(int_vector(shape, "shape"))
    if x.shape == target:
        return x
    rank = max(x.ndim, len(target))
    own = (1,) * (rank - x.ndim) + x.shape
    wanted = (1,) * (rank - len(target)) + target
    summed = tuple(i for i, (d, w) in enumerate(zip(own, wanted, strict=True)) if w == 1 and d != 1)
    y: Array = x.reshape(own).sum(axis=summed, keepdims=True, dtype=x.dtype) if summed else x.reshape(own)
    return np.broadcast_to(y, wanted).reshape(target)


@op("CastGradient", since=1, domain=INTERNAL)
def cast_gradient(g: Array, x: Array, y: Array) -> Array:
    """Return `g`, the gradient of y = Cast(x), in the type of `x`: zeros unless both have fractions."""
    real = all(t.dtype.kind == "f" or t.dtype in LOW_PRECISION for t in (x, y))
    return g.astype(x.dtype) if real else np.zeros(x.shape, x.dtype)


# Positions ----------------------------------------------------------------------------------------


def _positions_cost(x: Array, *_: Any, **__: Any) -> Cost:
    return Cost(8 * x.size)


@op("Positions", since=1, domain=INTERNAL, cost=_positions_cost)
def positions(x: Array, *, real: int = 0) -> Array:
    """Return the position of each element of `x`; as float64, exact below 2**53, where `real` is set."""
    return np.arange(1, x.size + 1, dtype=np.float64 if real else np.int64).reshape(x.shape)


@op("GroupedPositions", since=1, domain=INTERNAL, cost=_positions_cost)
def grouped_positions(x: Array, axes: Array | None = None, *, noop_with_empty_axes: int = 0) -> Array:
    """Return the positions of `x` as (kept, reduced): a row for each element of a reduction."""
    chosen = [] if axes is None else int_vector(axes, "axes")
    everything = () if noop_with_empty_axes else tuple(range(x.ndim))
    last = normalize_axes(chosen, x.ndim) if chosen else everything
    kept = [axis for axis in range(x.ndim) if axis not in last]
    width = math.prod(x.shape[axis] for axis in last)
    rows = math.prod(x.shape[axis] for axis in kept)
    return positions(x).transpose(*kept, *last).reshape(rows, width)


def _take_cost(x: Array, where: Array) -> Cost:
    return Cost.of(where.shape, x.dtype)


@op("TakeFlat", since=1, domain=INTERNAL, cost=_take_cost)
def take_flat(x: Array, where: Array) -> Array:
    """Return the elements of `x` at the positions `where`, zeros for no element."""
    padded = np.concatenate([np.zeros(1, x.dtype), x.reshape(-1)])
    return padded[where]


@op("PutFlat", since=1, domain=INTERNAL, cost=_shape_cost)
@in_float32
def put_flat(x: Array, where: Array, shape: Array) -> Array:
    """Add each element of `x` to a tensor of zeros at its position in `where`."""
    target = tuple(int_vector(shape, "shape"))
    flat = np.zeros(math.prod(target) + 1, x.dtype)
    np.add.at(flat, where.reshape(-1), x.reshape(-1))
    return flat[1:].reshape(target)


# Linear algebra -----------------------------------------------------------------------------------


@op("SwapLast", since=1, domain=INTERNAL)
def swap_last(x: Array) -> Array:
    """Transpose the last two axes."""
    return x.swapaxes(-1, -2)


@op("LinearScan", since=1, domain=INTERNAL)
@in_float32
def linear_scan(b: Array, a: Array, *, reverse: int = 0) -> Array:
    """Return s with s[:, i] = b[:, i] + a[:, i] * s[:, i - 1], or s[:, i + 1] where `reverse` is set.

    Running products and their derivatives of any order, without a division that zeros would spoil.
    """
    y = np.array(b)
    steps = range(b.shape[1] - 2, -1, -1) if reverse else range(1, b.shape[1])
    for i in steps:
        y[:, i] += a[:, i] * y[:, i + 1 if reverse else i - 1]
    return y


# Convolutions -------------------------------------------------------------------------------------


def _zeros_like_shape(shape: Array, dtype: Any) -> Array:
    # An array of the right shape that takes no memory, for the checks of the forward operator.
    return np.broadcast_to(np.zeros((), dtype), tuple(int_vector(shape, "shape")))


def _weight_gradient(g: Array, x: Array, windows: Windows, group: int) -> Array:
    """Return the gradient (M, C/group, *kernel) of the weights, from g (N, M, *out) and x (N, C, *size)."""
    n, m, c = len(g), g.shape[1] // group, x.shape[1] // group
    grads = g.reshape(n, group, m, math.prod(windows.out))
    patches = windows.patches(x)
    result = np.zeros((group, m, c, *windows.kernel), g.dtype)
    for tap in windows.taps():
        index: Index = (slice(None), slice(None), *tap)
        seen = patches[index].reshape(n, group, c, math.prod(windows.out))
        into: Index = (..., *tap)
        result[into] = np.matmul(grads, seen.swapaxes(-1, -2)).sum(axis=0)
    return result.reshape(group * m, c, *windows.kernel)


def _complete(windows: Windows) -> Windows:
    """Return the windows with as much padding at the end as the last one reaches."""
    rooms = zip(
        windows.out, windows.strides, windows.extent, windows.begins, windows.size, windows.ends, strict=True
    )
    ends = tuple(max(e, (o - 1) * s + extent - b - n) for o, s, extent, b, n, e in rooms)
    return replace(windows, ends=ends)


@op("ConvInputGradient", since=(1, 11, 22), domain=INTERNAL, cost=_shape_cost)
def conv_input_gradient(
    g: Array,
    w: Array,
    shape: Array,
    *,
    auto_pad: str = "NOTSET",
    dilations: Ints = None,
    group: int = 1,
    kernel_shape: Ints = None,
    pads: Ints = None,
    strides: Ints = None,
) -> Array:
    """Return the gradient of Conv's X, of this shape, from that of its output; attributes as for Conv."""
    x = _zeros_like_shape(shape, g.dtype)
    windows = conv_windows(x, w, group, kernel_shape, strides, dilations, pads, auto_pad)
    return narrow(convolve_transposed(widen(g), widen(w), windows, group), g.dtype)


@op("ConvWeightGradient", since=(1, 11, 22), domain=INTERNAL, cost=_shape_cost)
def conv_weight_gradient(
    g: Array,
    x: Array,
    shape: Array,
    *,
    auto_pad: str = "NOTSET",
    dilations: Ints = None,
    group: int = 1,
    kernel_shape: Ints = None,
    pads: Ints = None,
    strides: Ints = None,
) -> Array:
    """Return the gradient of Conv's W, of this shape, from that of its output; attributes as for Conv."""
    w = _zeros_like_shape(shape, g.dtype)
    windows = conv_windows(x, w, group, kernel_shape, strides, dilations, pads, auto_pad)
    return narrow(_weight_gradient(widen(g), widen(x), windows, group), g.dtype)


def _register_transposed(since: tuple[int, ...]) -> None:
    """Register the gradients of ConvTranspose, whose padding rules changed with version 11."""

    def windows_over(x: Array, w: Array, *attributes: Any) -> Windows:
        names = "auto_pad dilations group kernel_shape output_padding output_shape pads strides"
        given = dict(zip(names.split(), attributes, strict=True))
        return _complete(transposed_windows(x, w, version=since[0], **given))

    @op("ConvTransposeInputGradient", since=since, domain=INTERNAL, cost=_shape_cost)
    def input_gradient(
        g: Array,
        w: Array,
        shape: Array,
        *,
        auto_pad: str = "NOTSET",
        dilations: Ints = None,
        group: int = 1,
        kernel_shape: Ints = None,
        output_padding: Ints = None,
        output_shape: Ints = None,
        pads: Ints = None,
        strides: Ints = None,
        ctx: Context,
    ) -> Array:
        x = _zeros_like_shape(shape, g.dtype)
        windows = windows_over(
            x, w, auto_pad, dilations, group, kernel_shape, output_padding, output_shape, pads, strides
        )
        return narrow(convolve(widen(g), widen(w), windows, group, ctx.budget), g.dtype)

    @op("ConvTransposeWeightGradient", since=since, domain=INTERNAL, cost=_shape_cost)
    def weight_gradient(
        g: Array,
        x: Array,
        shape: Array,
        *,
        auto_pad: str = "NOTSET",
        dilations: Ints = None,
        group: int = 1,
        kernel_shape: Ints = None,
        output_padding: Ints = None,
        output_shape: Ints = None,
        pads: Ints = None,
        strides: Ints = None,
    ) -> Array:
        w = _zeros_like_shape(shape, g.dtype)
        windows = windows_over(
            x, w, auto_pad, dilations, group, kernel_shape, output_padding, output_shape, pads, strides
        )
        # ConvTranspose is Conv backwards: its output takes the image's part, its input the result's.
        return narrow(_weight_gradient(widen(x), widen(g), windows, group), g.dtype)


for _since in ((1,), (11, 22)):
    _register_transposed(_since)


# Pools --------------------------------------------------------------------------------------------


@op("AveragePoolGradient", since=(1, 7, 10, 11, 19, 22), domain=INTERNAL, cost=_shape_cost)
@in_float32
def average_pool_gradient(
    g: Array,
    shape: Array,
    *,
    kernel_shape: tuple[int, ...],
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    count_include_pad: int = 0,
    dilations: Ints = None,
    pads: Ints = None,
    strides: Ints = None,
) -> Array:
    """Return the gradient of AveragePool's X, of this shape, from that of its output."""
    size = tuple(int_vector(shape, "shape")[2:])
    windows = slide(size, kernel_shape, strides, dilations, pads, auto_pad, ceil_mode)
    counts = np.ones((), g.dtype)
    for axis in range(len(size)):
        counts = counts[..., np.newaxis] * window_counts(windows, axis, include_pad=bool(count_include_pad))
    y: Array = g / counts.astype(g.dtype)
    for axis in range(len(size)):
        y = _spread(y, windows, axis)
    return y


def _spread(y: Array, windows: Windows, axis: int) -> Array:
    """Add each window of one spatial axis of (N, C, ...) to all image elements that it covers."""
    before = (slice(None),) * (2 + axis)
    image = np.zeros((*y.shape[: 2 + axis], windows.size[axis], *y.shape[3 + axis :]), y.dtype)
    # Taps that lie in the padding for every window are left out: padding may be huge.
    step, begin = windows.dilations[axis], windows.begins[axis]
    first = max(0, -(((windows.out[axis] - 1) * windows.strides[axis] - begin) // step))
    stop = min(windows.kernel[axis], (windows.size[axis] - 1 + begin) // step + 1)
    for k in range(first, stop):
        over_windows, over_image = windows.overlap(axis, k)
        into: Index = (*before, over_image)
        image[into] += y[(*before, over_windows)]
    return image
