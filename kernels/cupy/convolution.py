"""Convolutions of floats on the GPU: Conv, and FusedConv with a residual and an activation.

What computes them, the first that fits:
    depthwise.cu    a window for each channel, over rows and columns, 7x7 at most, strides of 1 and 2;
    a product       windows of one pixel (`linalg` does the rest);
    cuDNN           16 bits and TF32, see `_asks_cudnn`; not with precision "strict";
    im2col.cu       one group: windows as rows of a matrix, then a product, some rows at a time;
    convolution.cu  all others: groups, transposed ones with groups.

Tolerance: an element differs from the exact sum of its K products by at most `K * eps * sum |x w|`, eps being
that of float32 for float16, bfloat16 and float32, of float64 for float64, beside one rounding to the type
(two, where bias, residual or activation follow in a launch of their own). float32 is multiplied in TF32 only
with precision "tf32", or "bf16" and constant weights.

Padding is skipped, so that it adds nothing even where weights are infinite or NaN: constant weights like that
are left to the reference, others are taken to be finite.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import numpy as np

from onnxref.dtypes import Array
from onnxref.gpu import Convolution, cuda_kernel, grid_for
from onnxref.lowering import (
    NO_PAD,
    BlockedUse,
    Op,
    Operand,
    Scratch,
    Site,
    Unsupported,
    lower,
)
from onnxref.registry import INTERNAL

from ..common.windows import conv_attributes, conv_windows, over_axes
from ..numpy._windows import Windows
from ._conv import (
    ACCESS,
    CODE,
    Conv,
    aligned_channels,
    extents,
    is_last,
    may_round,
    packed_weights,
    strides_of,
    symmetric,
    taps_first,
)
from ._products import epilogue_defines
from ._rows import BUSY, FLOATS
from ._views import Memory, View, emit_view
from .depthwise import emit_depthwise, is_depthwise
from .linalg import fused_matmul, takes_pitches
from .movement import index_type, pitch_of

_SLICE_BYTES = 32 << 20  # of windows as rows: what stays in the second cache until the product reads it
_SLICE_ROWS = 16384  # that keep the card busy, whatever their bytes
_MOST_BYTES = 256 << 20
_FEW_CHANNELS = 8  # an image: read as it lies


def emit_epilogue(
    conv: Conv, bias: Operand | None, residual: tuple[Memory, int] | None, activation: str
) -> None:
    """Emit what is left to do on the goal, in place."""
    if bias is None and residual is None and not activation:
        return
    added, pitch = residual or (0, conv.m)
    vec = math.gcd(conv.m, ACCESS // conv.size)
    one = np.float64(1) if conv.name == "float64" else 1.0
    conv.site.launch(
        cuda_kernel(
            CODE,
            "product_epilogue.cu",
            "product_epilogue",
            VEC=vec,
            **epilogue_defines(conv.name, activation),
        ),
        *(conv.goal.memory, bias or 0, added, conv.y.size, conv.positions, conv.m, 0, 0, 1),
        *(conv.goal.pitch - conv.m, pitch - conv.m),
        *(one, one, *conv.factors),
        grid=grid_for(conv.y.size, per_thread=vec),
    )


# Ways to compute it ---------------------------------------------------------------------------------


def _emit(conv: Conv) -> None:
    if conv.y.size == 0:
        return
    _check_padding(conv)
    way = _way(conv)
    conv.pitched = way in (_by_cudnn, emit_depthwise) or (
        way in (_pixels, _by_rows) and takes_pitches(conv.site, conv.positions, conv.m, conv.taps * conv.c)
    )
    way(conv)
    if way is not _direct:
        conv.goal.finish()


def _way(conv: Conv) -> Callable[[Conv], None]:
    """Return what computes a convolution."""
    if conv.x.size == 0:
        return _direct
    if is_depthwise(conv):
        return emit_depthwise
    if conv.group == 1 and conv.windows.are_pixels:
        return _pixels
    if _asks_cudnn(conv):
        return _by_cudnn
    return _by_rows if conv.group == 1 and conv.x.buffer_bytes // conv.size // conv.n < 2**31 else _direct


def _check_padding(conv: Conv) -> None:
    """Refuse weights that make NaN of padding, which is skipped here."""
    held = conv.w.constant
    if held is None or not (any(conv.windows.begins) or any(conv.windows.ends)):
        return
    finite = conv.site.packs.get((held,), ("finite",), lambda: np.array([np.isfinite(held).all()]))
    if not finite[0]:
        raise Unsupported("weights that are not finite, over padding")


def _pixels(conv: Conv) -> None:
    """A product of pixels and weights."""
    memory, pitch = conv.source
    rows = View(memory, (conv.positions, conv.c), conv.x.dtype, pitch)
    _multiply(conv, rows, _matrix(conv, conv.c), 0, conv.positions)


def _matrix(conv: Conv, width: int) -> View:
    """Return weights as rows (M, taps * C), with zeros up to `width` where they are constant."""
    w, depth = conv.w, conv.taps * conv.c
    if w.constant is None:
        return View(packed_weights(conv.site, w), (conv.m, depth), w.dtype)
    held = w.constant

    def build() -> Array:
        made = np.zeros((conv.m, width), w.dtype)
        made[:, :depth] = held.reshape(conv.m, conv.c, conv.taps).transpose(0, 2, 1).reshape(conv.m, depth)
        return made

    return View(conv.site.pack((w,), ("rows of weights", width), build), (conv.m, width), w.dtype)


def _multiply(conv: Conv, rows: View, weights: View, first: int, count: int) -> None:
    """Emit the product that makes `count` positions of the goal, from one on."""
    goal = conv.goal
    shape, dtype = (count, conv.m), conv.x.dtype
    bias = None if conv.bias is None else View(conv.bias, (conv.m,), dtype)
    residual = None
    if conv.added is not None:
        memory, pitch = conv.added
        residual = View(memory + first * pitch * conv.size, shape, dtype, pitch)
    emit_view(
        conv.site,
        fused_matmul,
        (rows, weights, bias, residual),
        View(goal.memory + first * goal.pitch * conv.size, shape, dtype, goal.pitch),
        trans_b=1,
        activation=conv.activation,
        alpha=conv.alpha,
        beta=conv.beta,
    )


def _by_rows(conv: Conv) -> None:
    """Windows as rows, some at a time, each time multiplied by the weights."""
    depth = conv.taps * conv.c
    vec = ACCESS // conv.size
    width = -(-depth // vec) * vec if conv.w.constant is not None else depth
    weights = _matrix(conv, width)
    per_slice = slice_rows(width * conv.size, conv.positions)
    rows = conv.site.scratch(per_slice * width * conv.size)
    view = rows + 0
    last = is_last(conv.x)
    for first in range(0, conv.positions, per_slice):
        count = min(per_slice, conv.positions - first)
        emit_im2col(conv.site, conv.x, rows, conv.windows, last, width, first, count)
        _multiply(conv, View(view, (count, width), conv.x.dtype), weights, first, count)


def slice_rows(nbytes: int, rows: int) -> int:
    """Return how many of `rows` rows of `nbytes` to make at a time."""
    most = max(_SLICE_BYTES // max(1, nbytes), min(_SLICE_ROWS, _MOST_BYTES // max(1, nbytes)), 1)
    slices = math.ceil(rows / most)
    return min(rows, math.ceil(rows / slices / 128) * 128)


def emit_im2col(
    site: Site,
    x: Operand,
    rows: Scratch,
    windows: Windows,
    last: bool,
    width: int,
    first: int,
    count: int,
    fill: Operand | int = 0,
) -> None:
    """Emit the launch that makes rows of `width` elements of `count` windows, from one on.

    Args:
        fill: address of what padding holds, zero bytes where 0.
    """
    c, size = x.shape[1], x.dtype.itemsize
    depth = math.prod(windows.kernel) * c
    vec = math.gcd(width, ACCESS // size)
    load = math.gcd(c, vec) if last else 1
    load = vec if load == vec else 1
    strides, seen = strides_of(x.shape, last, pitch_of(x)), over_axes(windows, 3)

    def table() -> Array:
        steps = (np.arange(k) * d for k, d in zip(seen.kernel, seen.dilations, strict=True))
        taps = np.stack(np.meshgrid(*steps, indexing="ij"), -1)
        taps = taps.reshape(-1, 3)
        offsets = (taps @ np.array(strides[2:]))[:, None] + np.arange(c) * strides[1]
        found = np.full((-(-width // load), 4), 2**30, np.int32)  # far outside: rows' ends
        pieces = np.concatenate([np.repeat(taps, c, 0), offsets.reshape(-1, 1)], axis=1)[::load]
        found[: len(pieces)] = pieces
        return found

    assert depth <= width
    site.launch(
        cuda_kernel(CODE, "im2col.cu", "im2col", T=f"uint{8 * size}_t", VEC=vec, LOAD=load),
        *(x, rows, site.pack((), ("im2col", x.shape, strides, windows, width, load), table), fill),
        *(first, count, width // vec, strides[0]),
        *(seen.size, seen.out, seen.strides, seen.begins),
        strides[2:],
        grid=(-(-count // 8), 1, 1),
        block=(32, 8, 1),
    )


# cuDNN ----------------------------------------------------------------------------------------------


def _asks_cudnn(conv: Conv) -> bool:
    """Whether cuDNN is asked: only for what all of its releases from 9.0 on do.

    Two or three axes (one is seen as two), channels of each group in whole accesses, as much padding before
    as behind an axis, 16 bits or TF32. float32 without TF32, which its tensor cores do not know, only without
    groups and dilation, over two axes, and where no other library multiplies rows.
    """
    site, windows = conv.site, conv.windows
    if "cudnn" not in site.libraries or site.precision == "strict" or conv.name == "float64":
        return False
    if conv.name == "float32" and not may_round(site, conv.w):
        is_plain = conv.group == 1 and len(windows.size) <= 2 and set(windows.dilations) == {1}
        if not is_plain or "cublaslt" in site.libraries:
            return False
    if not aligned_channels(conv.x.dtype, conv.c // conv.group, conv.m // conv.group):
        return False
    return symmetric(windows) and max(conv.x.buffer_bytes, conv.y.buffer_bytes) < 2**31


def _by_cudnn(conv: Conv) -> None:
    """Emit cuDNN's convolution, and a launch for what it is not asked to add or apply.

    It adds bias and residual and applies Relu on tensor cores, without groups and over two axes; its other
    engines do not know all of these at once. Its ready-made kernels for them have a bias: without one it
    would have to compile a kernel first, which takes seconds.
    """
    windows, site = conv.windows, conv.site
    tf32 = conv.name == "float32" and may_round(site, conv.w)
    fuses = conv.group == 1 and len(windows.size) <= 2 and (conv.size == 2 or tf32)
    activation: Literal["", "Relu"] = "Relu" if fuses and conv.activation == "Relu" else ""
    bias: Memory | None = conv.bias if fuses else None
    if fuses and bias is None and (activation or conv.residual is not None):
        bias = site.pack((), ("no bias", conv.m, conv.name), lambda: np.full(conv.m, -0.0, conv.x.dtype))
    seen = over_axes(windows, 2)
    op = Convolution(
        (conv.n, conv.c, *seen.size),
        (conv.m, conv.c // conv.group, *seen.kernel),
        (conv.n, conv.m, *seen.out),
        conv.name,
        strides=seen.strides,
        dilations=seen.dilations,
        pads=seen.begins + seen.begins,
        groups=conv.group,
        activation=activation,
        has_bias=bias is not None,
        has_residual=fuses and conv.residual is not None,
        tf32=tf32,
        pitches=conv.pitches,
    )
    tensors: dict[str, Memory] = {"x": conv.source[0], "w": packed_weights(site, conv.w)}
    if bias is not None:
        tensors["bias"] = bias
    if op.has_residual and conv.added is not None:
        tensors["residual"] = conv.added[0]
    site.library(op, **tensors, y=conv.goal.memory)
    if fuses:
        emit_epilogue(conv, None, None, "" if activation else conv.activation)
    else:
        emit_epilogue(conv, conv.bias, conv.added, conv.activation)


# Kernels --------------------------------------------------------------------------------------------


def _direct(conv: Conv) -> None:
    """Emit the kernel for all that is left, on tensors as they lie."""
    windows, site, x, y = conv.windows, conv.site, conv.x, conv.y
    last, depth, per_group = is_last(y), conv.w.shape[1], conv.m // conv.group
    if conv.residual is not None and conv.residual.layout != y.layout:
        raise Unsupported("a residual that lies otherwise")
    is_depthwise = depth == per_group == 1 and is_last(x) == last
    out = 1
    if last and conv.w.constant is not None:
        out = math.gcd(conv.m if is_depthwise else per_group, max(1, ACCESS // max(4, conv.size)))
    weights: Memory = conv.w
    w_strides = (depth * conv.taps, conv.taps, *strides_of((1, 1, *windows.kernel), last=False)[2:])
    if out > 1:
        weights = taps_first(conv)
        w_strides = (1, conv.m, *(step * depth * conv.m for step in w_strides[2:]))
    pix = next(p for p in (4, 2, 1) if p <= windows.out[-1])
    if y.size // (pix * out) < BUSY // 4:
        pix = 1
    blocks = conv.m // out
    count = conv.n * blocks * math.prod(windows.out[:-1]) * -(-windows.out[-1] // pix)
    site.launch(
        cuda_kernel(
            *(CODE, "convolution.cu", "direct"),
            **conv.defines(),
            OUT=out,
            PIX=pix,
            LAST=int(last),
            DEPTHWISE=int(is_depthwise),
            INDEX=index_type(count),
        ),
        *(x, weights, y, conv.bias or 0, conv.residual or 0, count, blocks, depth, per_group),
        *extents(windows),
        *(strides_of(x.shape, is_last(x), pitch_of(x)), strides_of(y.shape, last, pitch_of(y)), w_strides),
        *conv.factors,
        grid=grid_for(count),
    )


# Operators ------------------------------------------------------------------------------------------


def blocked_conv(op: Op, lanes: int) -> BlockedUse | None:
    """Convolutions of floats want the channels last; an image of few channels is read as it lies."""
    x, w = op.inputs[0], op.inputs[1]
    if x is None or w is None or x.dtype.name not in FLOATS or x.dtype != w.dtype or x.size == 0:
        return None
    try:
        conv_windows(x, w, 3, **conv_attributes(op))
    except Unsupported:
        return None
    inputs = {} if x.shape[1] < _FEW_CHANNELS and op.attributes.get("group", 1) == 1 else {0: NO_PAD}
    if len(op.inputs) > 3 and op.inputs[3] is not None:
        inputs[3] = NO_PAD
    return BlockedUse(inputs, (0,), prefers=True, pitched=True)


@lower("Conv", since=(1, 11, 22), backend="cupy", blocked=blocked_conv)
def conv(
    site: Site, x: Operand, w: Operand, b: Operand | None = None, *, group: int = 1, **attributes: Any
) -> None:
    """Lower Conv-1, Conv-11, Conv-22."""
    fused_conv(site, x, w, b, group=group, **attributes)


@lower("FusedConv", since=1, domain=INTERNAL, backend="cupy", blocked=blocked_conv)
def fused_conv(
    site: Site,
    x: Operand,
    w: Operand,
    b: Operand | None = None,
    residual: Operand | None = None,
    *,
    group: int = 1,
    activation: str = "",
    alpha: float = 0.0,
    beta: float = 0.0,
    **attributes: Any,
) -> None:
    """Lower activation(Conv(x, w, b) + residual)."""
    (y,) = site.outputs
    assert y is not None
    windows = conv_windows(x, w, 3, group=group, **attributes)
    _emit(Conv(site, x, w, y, windows, group, b, residual, activation, float(alpha), float(beta)))
