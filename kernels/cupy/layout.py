"""Conversion between C-contiguous tensors and tensors with the channels last, bit by bit.

`ToBlocked` and `FromBlocked` are the planner's own: one input, one output of the same shape, whose operands'
layouts tell what to do.
"""

from __future__ import annotations

import math

from onnxref.gpu import cuda_kernel
from onnxref.lowering import (
    NO_PAD,
    BlockedUse,
    ChannelsLast,
    Op,
    Operand,
    Scratch,
    Site,
    Unsupported,
    lower,
)
from onnxref.registry import INTERNAL

from ..common.strides import Dim
from .movement import emit_box, is_dense, whole_box

_CODE = "onnxref.kernels.cupy.code"
_TYPES = {1: "uint8_t", 2: "uint16_t", 4: "uint32_t", 8: "uint64_t"}
_FEW = 8  # channels up to which a block takes all of them
_PIXELS = 512  # of a block then; shared memory holds FEW * PIXELS elements


def turn(
    site: Site,
    x: Operand | Scratch,
    y: Operand | Scratch,
    batch: int,
    rows: int,
    columns: int,
    itemsize: int,
) -> None:
    """Launch what makes (batch, columns, rows) of (batch, rows, columns), elements of `itemsize` bytes."""
    kind = _TYPES[itemsize]
    if batch * rows * columns == 0:
        return
    short, long = min(rows, columns), max(rows, columns)
    if short <= _FEW and long >= 4 * short and short * _PIXELS * itemsize <= 48 * 1024:
        pieces = -(-long // _PIXELS)
        kernel = cuda_kernel(
            _CODE, "layout_few.cu", "turned_few", T=kind, FEW=short, TO_LAST=int(rows == short)
        )
        site.launch(kernel, x, y, long, pieces, grid=(batch * pieces, 1, 1))
        return
    pack = max(1, 4 // itemsize)
    if rows % pack or columns % pack:
        pack = 1
    down, across = -(-rows // (32 * pack)), -(-columns // (32 * pack))
    warps = 16 if pack == 4 else 8
    kernel = cuda_kernel(_CODE, "layout.cu", "turned", T=kind, PACK=pack, WARPS=warps)
    grid, block = (batch * down * across, 1, 1), (32 * warps, 1, 1)
    site.launch(kernel, x, y, rows, columns, down, across, grid=grid, block=block)


def _any_pitch(op: Op, lanes: int) -> BlockedUse | None:
    return BlockedUse({0: NO_PAD}, pitched=True)


@lower("ToBlocked", since=1, domain=INTERNAL, backend="cupy", blocked=_any_pitch)
@lower("FromBlocked", since=1, domain=INTERNAL, backend="cupy", blocked=_any_pitch)
def move(site: Site, x: Operand) -> None:
    """Copy x (N, C, spatial...) into the layout of the output, bit by bit."""
    (y,) = site.outputs
    if y is None:
        return
    for layout in (x.layout, y.layout):
        if layout is not None and not isinstance(layout, ChannelsLast):
            raise Unsupported(f"a tensor {layout}")
    if x.dtype.hasobject or x.dtype.itemsize not in _TYPES or x.ndim < 2:
        raise Unsupported(f"elements of {x.dtype}")
    n, channels = x.shape[:2]
    pixels = math.prod(x.shape[2:])
    if not (is_dense(x) and is_dense(y)):
        emit_box(site, y, x, whole_box(y, x))
        return
    if x.layout == y.layout or 1 in (channels, pixels) or x.size == 0:
        if y.place is None:
            site.alias(y, x)
        else:  # it fills the tensor that it lies in
            emit_box(site, y, x, [Dim(x.size, 1, 1)])
        return
    rows, columns = (channels, pixels) if x.layout is None else (pixels, channels)
    turn(site, x, y, n, rows, columns, x.dtype.itemsize)
