"""ConvTranspose of floats on the GPU.

What computes it, the first that fits:
    cuDNN           one group, 16 bits (or TF32), channels in whole accesses, padding alike on both sides;
    col2im          one group: a product of pixels and weights, whose columns are added where they belong;
    convolution.cu  all others, from the definition.

Tolerance: as in `convolution`; with col2im 16-bit types round once more for each tap that meets others.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from onnxref.dtypes import Array
from onnxref.gpu import Convolution, cuda_kernel, grid_for
from onnxref.lowering import NO_PAD, BlockedUse, Op, Operand, Site, Unsupported, lower

from ..common.windows import conv_attributes, over_axes, transposed_windows
from ..numpy._windows import Windows
from ._conv import (
    CODE,
    Goal,
    aligned_channels,
    extents,
    is_last,
    may_round,
    strides_of,
    symmetric,
    turned,
)
from ._products import epilogue_defines
from ._rows import FLOATS
from ._views import Memory, View, emit_view
from .layout import turn
from .linalg import fused_matmul
from .movement import index_type, is_dense, pitch_of

_MOST_BYTES = 256 << 20


def _blocked(version: int) -> Any:
    def rule(op: Op, lanes: int) -> BlockedUse | None:
        """Transposed convolutions of one group want the channels last; others go along."""
        x, w = op.inputs[0], op.inputs[1]
        if x is None or w is None or x.dtype.name not in FLOATS or x.dtype != w.dtype or x.size == 0:
            return None
        given = conv_attributes(op, "output_padding", "output_shape")
        try:
            transposed_windows(x, w, 3, version, given)
        except Unsupported:
            return None
        return BlockedUse({0: NO_PAD}, prefers=given.get("group", 1) == 1, pitched=True)

    return rule


def _register(since: tuple[int, ...]) -> None:
    @lower("ConvTranspose", since=since, backend="cupy", blocked=_blocked(since[0]))
    def conv_transpose(
        site: Site, x: Operand, w: Operand, b: Operand | None = None, *, group: int = 1, **attributes: Any
    ) -> None:
        """Spread x (N, C, ...) over w (C, M / group, ...) and add b (ONNX ConvTranspose-1, -11, -22)."""
        (y,) = site.outputs
        assert y is not None
        windows = transposed_windows(x, w, 3, since[0], {**attributes, "group": group})
        if x.dtype.name not in FLOATS or any(t is not None and t.dtype != x.dtype for t in (w, b, y)):
            raise Unsupported(f"transposed convolution of {x.dtype.name}")
        if b is not None and b.shape != (y.shape[1],):
            raise Unsupported(f"a bias of shape {b.shape}")
        if y.shape != (x.shape[0], w.shape[1] * group, *windows.size):
            raise Unsupported(f"shape {y.shape} is not that of the windows")
        if y.size:
            _emit(site, x, w, b, y, windows, group)


for _since in ((1,), (11, 22)):
    _register(_since)


def _emit(
    site: Site, x: Operand, w: Operand, b: Operand | None, y: Operand, windows: Windows, group: int
) -> None:
    if group == 1 and x.size and _asks_cudnn(site, x, w, y, windows):
        _by_cudnn(site, x, w, b, y, windows)
    elif group == 1 and x.size and max(y.size, x.size) // x.shape[0] < 2**31:
        _by_rows(site, x, w, b, y, windows)
    else:
        _direct(site, x, w, b, y, windows, group)


def _taps_first(site: Site, w: Operand, shape: tuple[int, ...]) -> Memory:
    """Return weights (C, M, taps) as (C, taps, M), of a shape."""
    c, m, *kernel = w.shape
    taps = math.prod(kernel)
    held = w.constant
    if held is not None:

        def build() -> Array:
            return held.reshape(c, m, taps).transpose(0, 2, 1).reshape(shape)

        return site.pack((w,), ("taps before M", shape), build)
    if 1 in (m, taps):
        return w
    made = site.scratch(w.nbytes)
    turn(site, w, made, c, m, taps, w.dtype.itemsize)
    return made


def _asks_cudnn(site: Site, x: Operand, w: Operand, y: Operand, windows: Windows) -> bool:
    """Whether cuDNN is asked; see `convolution`. Its exact float32 here is no faster than a product."""
    if "cudnn" not in site.libraries or site.precision == "strict":
        return False
    is_fast = x.dtype.itemsize == 2 or (x.dtype == np.float32 and may_round(site, w))
    is_small = max(x.nbytes, y.nbytes) < 2**31
    return is_fast and is_small and aligned_channels(x.dtype, x.shape[1], y.shape[1]) and symmetric(windows)


def _by_cudnn(site: Site, x: Operand, w: Operand, b: Operand | None, y: Operand, windows: Windows) -> None:
    seen, goal = over_axes(windows, 2), Goal.of(site, y, pitched=True)
    source = x if is_last(x) else turned(site, x)
    op = Convolution(
        (*x.shape[:2], *seen.out),
        (*w.shape[:2], *seen.kernel),
        (*y.shape[:2], *seen.size),
        x.dtype.name,
        strides=seen.strides,
        dilations=seen.dilations,
        pads=seen.begins + seen.begins,
        tf32=x.dtype == np.float32,
        transposed=True,
        pitches=(0 if is_dense(x) else pitch_of(x), 0 if is_dense(y) else goal.pitch, 0),
    )
    weights = _taps_first(site, w, (w.shape[0], *windows.kernel, w.shape[1]))
    site.library(op, x=source, w=weights, y=goal.memory)
    if b is not None:
        vec = math.gcd(y.shape[1], 16 // y.dtype.itemsize)
        site.launch(
            cuda_kernel(
                CODE, "product_epilogue.cu", "product_epilogue", VEC=vec, **epilogue_defines(x.dtype.name)
            ),
            *(goal.memory, b, 0, y.size, y.size // y.shape[1], y.shape[1], 0, 0, 1),
            *(goal.pitch - y.shape[1], 0),
            *(1.0, 1.0, np.float64(0), np.float64(0)),
            grid=grid_for(y.size, per_thread=vec),
        )
    goal.finish()


def _by_rows(site: Site, x: Operand, w: Operand, b: Operand | None, y: Operand, windows: Windows) -> None:
    """A product of pixels and weights (C, taps * M) for some images, and the sums of its columns."""
    n, c = x.shape[:2]
    m, taps, size = y.shape[1], math.prod(windows.kernel), x.dtype.itemsize
    pixels, area = math.prod(windows.out), math.prod(windows.size)
    weights = View(_taps_first(site, w, (c, taps * m)), (c, taps * m), x.dtype)
    source, goal = turned(site, x), Goal.of(site, y)
    images = max(1, min(n, _MOST_BYTES // max(1, pixels * taps * m * size)))
    rows = site.scratch(images * pixels * taps * m * size)
    out = math.gcd(m, 16 // size)
    for first in range(0, n, images):
        count = min(images, n - first)
        emit_view(
            site,
            fused_matmul,
            (View(source + first * pixels * c * size, (count * pixels, c), x.dtype), weights),
            View(rows, (count * pixels, taps * m), x.dtype),
        )
        site.launch(
            cuda_kernel(
                *(CODE, "convolution.cu", "col2im"),
                **epilogue_defines(x.dtype.name),
                OUT=out,
                PIX=1,
                LAST=1,
                DEPTHWISE=0,
                INDEX=index_type(y.size),
            ),
            *(rows, goal.memory + first * area * m * size, b or 0, count * area * (m // out), m // out),
            *_extents(windows),
            grid=grid_for(count * area * (m // out)),
        )
    goal.finish()


def _extents(windows: Windows) -> tuple[tuple[int, ...], ...]:
    """Return `extents`, where what windows go over is the output."""
    size, out, *rest = extents(windows)
    return (out, size, *rest)


def _direct(
    site: Site, x: Operand, w: Operand, b: Operand | None, y: Operand, windows: Windows, group: int
) -> None:
    last, per_group, taps = is_last(y), w.shape[1], math.prod(windows.kernel)
    out = (
        math.gcd(per_group, max(1, 16 // max(4, x.dtype.itemsize))) if last and w.constant is not None else 1
    )
    weights: Memory = w
    w_strides = (per_group * taps, taps, *strides_of((1, 1, *windows.kernel), last=False)[2:])
    if out > 1:
        weights = _taps_first(site, w, (w.shape[0], taps, per_group))
        w_strides = (per_group * taps, 1, *(step * per_group for step in w_strides[2:]))
    blocks = y.shape[1] // out
    count = y.size // out
    site.launch(
        cuda_kernel(
            *(CODE, "convolution.cu", "transposed"),
            **epilogue_defines(x.dtype.name),
            OUT=out,
            PIX=1,
            LAST=int(last),
            DEPTHWISE=0,
            INDEX=index_type(count),
        ),
        *(x, weights, y, b or 0, count, blocks, x.shape[1] // group, per_group),
        *_extents(windows),
        *(strides_of(x.shape, is_last(x), pitch_of(x)), strides_of(y.shape, last, pitch_of(y)), w_strides),
        grid=grid_for(count),
    )
