"""Convolutions of 8-bit integers: ConvInteger, QLinearConv, and the fused QuantizedConv.

Sums are exact. QLinearConv scales and rounds in float64 and has the bits of the reference. QuantizedConv
scales in float32: it differs by one quantum at most, where the exact result is halfway between two.

The input is read as blocks of unsigned bytes. Where it is not given like that, or is signed, it is
copied first, and its border holds the zero point. A border of zeros, as blocked tensors have it, is
corrected: what is added to a sum depends on which taps lie inside (`edges`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from onnxref.dtypes import Array
from onnxref.lowering import (
    NO_PAD,
    Argument,
    Blocked,
    BlockedUse,
    Op,
    Operand,
    Packed,
    Pad,
    Scratch,
    Site,
    Unsupported,
    lower,
)
from onnxref.native import native, target
from onnxref.registry import INTERNAL

from ..common.checks import accept, known
from ..common.quantization import known_scale, known_zero
from ..common.windows import conv_attributes, conv_windows
from .convolution import Geometry, geometry
from .layout import convert, covers, steps
from .quantization import centred, padded, rounding_block

CODE = "onnxref.kernels.numba.code.int8_conv"
_PIXELS = (14, 12, 10, 8, 7, 6, 4, 3, 2, 1)


def without_groups(x: Operand, w: Operand, *, group: int = 1, **attributes: Any) -> Geometry:
    """Return what the attributes of a convolution without groups say; the reference names their faults."""
    accept(group == 1, "groups")
    return geometry(x, w, conv_windows(x, w, 2, **attributes))


@dataclass(frozen=True)
class Source:
    """Where a convolution reads: blocks of unsigned bytes.

    Attributes:
        zero: the zero point as an unsigned byte.
        border: what the border holds.
    """

    memory: Argument
    layout: Blocked
    zero: int
    border: int


@dataclass(frozen=True)
class Weights:
    """Weights (M, C, *kernel) less their zero points, as int8 (M, C, kh, kw)."""

    values: Array
    sources: tuple[Operand, ...]


def _weights(w: Operand, zero_point: Operand | None, g: Geometry) -> Weights:
    value = known(w, "w")
    zero = np.zeros((), w.dtype) if zero_point is None else known(zero_point, "w_zero_point")
    accept(zero.size == 1 or zero.shape == (g.m,), "w_zero_point")
    columns = value.reshape(g.m, -1).T
    made, zeros = centred(columns, zero.reshape(-1) if zero.size > 1 else zero.reshape(()))
    accept(zeros is None, "weights less their zero point exceed 8 bits")
    sources = (w,) if zero_point is None else (w, zero_point)
    return Weights(np.ascontiguousarray(made.T).reshape(g.m, g.c, *g.kernel), sources)


def _source(site: Site, x: Operand, zero: int, g: Geometry) -> Source:
    """Return the input in blocks of unsigned bytes with the border that the convolution needs."""
    lanes = target().lanes
    if x.dtype == np.uint8 and covers(x.layout, lanes, g.pads):
        assert x.layout is not None
        return Source(x, x.layout, zero, 0)
    layout = Blocked(lanes, g.pads)
    shape = (g.n, g.c, *g.size)
    nbytes = int(np.prod(layout.extents(shape)))
    copy = site.scratch(nbytes)
    if any(g.pads):
        site.call(
            native(CODE, "filled"), copy, nbytes, zero & 255, units=-(-nbytes // 16384), work=nbytes / 16
        )
    convert(site, shape, 1, x, x.layout, copy, layout)
    if x.dtype == np.int8:
        site.call(native(CODE, "flipped"), copy, units=-(-nbytes // 8), work=nbytes / 16, grain=512)
    unsigned = zero + 128 if x.dtype == np.int8 else zero
    return Source(copy, layout, unsigned, unsigned)


def _packed(w: Array, blocks: int, groups: int) -> Array:
    """Return weights as [M / blocks / lanes][C / lanes][taps][groups][blocks][lanes][4]."""
    lanes = target().lanes
    m, c, kh, kw = w.shape
    full = np.zeros((padded(m, blocks * lanes), padded(c, lanes), kh * kw), np.int8)
    full[:m, :c] = w.reshape(m, c, -1)
    split = full.reshape(-1, blocks, lanes, full.shape[1] // lanes, lanes // 4, 4, kh * kw)
    return split.transpose(0, 3, 6, 4, 1, 2, 5)[:, :, :, :groups]


def _inside(size: int, out: int, kernel: int, stride: int, dilation: int, begin: int) -> Array:
    """Return bool (out, kernel): whether a tap lies in the image."""
    at = np.arange(out)[:, None] * stride + np.arange(kernel)[None, :] * dilation - begin
    return (at >= 0) & (at < size)


def _corrections(w: Array, bias: Array | None, source: Source, g: Geometry) -> tuple[Array, Array, Array]:
    """Return what is added to the sums: (kinds of rows, of columns, M), and where each row, column looks."""
    m = w.shape[0]
    wide = padded(m, target().lanes)
    start = np.zeros(m, np.int64) if bias is None else bias.astype(np.int64)
    if source.border == source.zero:
        rows, columns = np.ones((1, g.kernel[0]), bool), np.ones((1, g.kernel[1]), bool)
        row_of, column_of = np.zeros(g.out[0], np.int64), np.zeros(g.out[1], np.int64)
    else:
        of = [
            _inside(g.size[i], g.out[i], g.kernel[i], g.strides[i], g.dilations[i], g.pads[i]) for i in (0, 1)
        ]
        rows, row_of = np.unique(of[0], axis=0, return_inverse=True)
        columns, column_of = np.unique(of[1], axis=0, return_inverse=True)
    sums = w.sum(axis=1, dtype=np.int64)  # (M, kh, kw)
    table = start - source.zero * np.einsum(
        "mhw,rh,cw->rcm", sums, rows.astype(np.int64), columns.astype(np.int64)
    )
    accept(int(np.abs(table).max(initial=0)) + 255 * 128 * w[0].size < 2**31, "sums that may wrap")
    spread = np.zeros((*table.shape[:2], wide), np.int32)
    spread[:, :, :m] = table
    stride = 4 * wide
    return spread, row_of.reshape(-1) * (len(columns) * stride), column_of.reshape(-1) * stride


def _tile(width: int, blocks: int) -> int:
    """Return how many pixels a tile has: few wasted where the last one overlaps, and all in registers."""
    most = {16: 28 if target().vnni else 16, 8: 8}.get(target().lanes, 6 if target().registers == 16 else 16)
    fitting = [pixels for pixels in _PIXELS if pixels <= width and pixels * blocks <= most]
    return min(fitting, key=lambda pixels: -(-width // pixels) * (pixels * blocks + blocks + 2))


@dataclass(frozen=True)
class Residual:
    """A quantized tensor to add, and the parameters of that; see `SECOND` in `code/int8_conv.py`."""

    memory: Operand | Scratch
    layout: Blocked
    parameters: Array


def in_blocks(site: Site, x: Operand) -> tuple[Operand | Scratch, Blocked]:
    """Return a tensor in blocks, of a copy where need be."""
    lanes = target().lanes
    if x.layout is not None and x.layout.lanes == lanes:
        return x, x.layout
    layout = Blocked(lanes)
    copy = site.scratch(int(np.prod(layout.extents(x.shape))))
    convert(site, x.shape, 1, x, x.layout, copy, layout)
    return copy, layout


def _convolve(
    site: Site,
    g: Geometry,
    source: Source,
    weights: Weights,
    bias: Operand | None,
    y: Operand,
    kind: str,
    scales: Array | None,
    block: Argument,
    residual: Residual | None = None,
) -> None:
    """Add the calls of a convolution without groups; y may be blocked or plain."""
    lanes = target().lanes
    b = None if bias is None else known(bias, "bias")
    table, row_of, column_of = _corrections(weights.values, b, source, g)
    shape, size = (g.n, g.m, *g.out), y.dtype.itemsize
    goal: Operand | Scratch = y
    layout = y.layout
    if layout is None or layout.lanes != lanes:
        layout = Blocked(lanes)
        goal = site.scratch(int(np.prod(layout.extents(shape))) * size)
    here = steps((g.n, g.c, *g.size), source.layout, 1)
    there = steps(shape, layout, size)
    beside = there if residual is None else steps(shape, residual.layout, 1)
    edges = table.shape[:2] != (1, 1)
    flat = (
        not edges and g.kernel == g.strides == (1, 1) and not any(g.pads)
        and not any(source.layout.pad) and not any(layout.pad)
        and (residual is None or not any(residual.layout.pad))
    )  # fmt: skip
    rows, width = (1, g.out[0] * g.out[1]) if flat else g.out
    groups = min(lanes, padded(g.c, 4)) // 4
    offsets = np.array(
        [
            (ky * g.dilations[0] - g.pads[0]) * here.row + (kx * g.dilations[1] - g.pads[1]) * here.pixel
            for ky in range(g.kernel[0])
            for kx in range(g.kernel[1])
        ],
        np.int64,
    )
    made = -(-g.m // lanes)
    spread = None
    if scales is not None:
        spread = np.zeros(made * lanes, scales.dtype)
        spread[: g.m] = scales
    for first, count, blocks in ((0, made // 2, 2), (made // 2 * 2, made % 2, 1)):
        if not count:
            continue
        pixels = _tile(width, blocks)
        piece = pixels * max(1, 64 // pixels) if flat else width
        pieces = -(-width // piece)
        part = weights.values[first * lanes : (first + count * blocks) * lanes]
        key = ("int8 conv", blocks, groups, first)
        panels = site.pack(weights.sources, key, partial(_packed, part, blocks, groups))
        weight_bytes = here.planes * len(offsets) * groups * blocks * lanes * 4
        total = weight_bytes * count
        outs_inner = total <= max(2**18, g.n * here.image)
        other: Argument = 0 if residual is None else residual.memory + beside.begin + first * beside.plane
        code = native(
            CODE,
            "direct",
            pixels,
            here.pixel * g.strides[1],
            groups,
            blocks,
            kind,
            edges,
            residual is not None,
        )
        site.call(
            code,
            source.memory + here.begin, here.image, here.row * g.strides[0], here.plane, here.planes,  # type: ignore[operator]
            Packed(offsets), len(offsets), panels, weight_bytes,
            goal + there.begin + first * there.plane, there.image, there.row, there.plane,
            rows, width, pieces, piece, count, int(outs_inner),
            Packed(table) + 4 * first * lanes, Packed(row_of), Packed(column_of),
            0 if spread is None else Packed(spread) + first * lanes * spread.itemsize, block,
            other, beside.image, beside.row, beside.plane, g.n,
            units=g.n * rows * pieces * count,
            work=2.0 * g.n * len(offsets) * padded(g.c, lanes) * count * blocks * lanes * rows * width
            / (500 if target().vnni else 100),
        )  # fmt: skip
    if goal is not y:
        convert(site, shape, size, goal, layout, y, y.layout)


# Lowerings ----------------------------------------------------------------------------------------


def _checked(x: Operand, w: Operand, y: Operand | None, attributes: dict[str, Any]) -> Geometry:
    g = without_groups(x, w, **attributes)
    accept(x.dtype in (np.uint8, np.int8) and w.dtype in (np.uint8, np.int8), "not of 8 bits")
    accept(y is not None and y.size > 0 and x.size > 0 and 0 not in g.kernel, "empty")
    accept(w.size // g.m <= 2**15, "sums that may wrap")
    return g


def _blocked_conv(op: Op, lanes: int) -> BlockedUse | None:
    """Say how QLinearConv and QuantizedConv work on blocked tensors."""
    x, w, y = op.inputs[0], op.inputs[3], op.outputs[0]
    if x is None or w is None or y is None or w.constant is None or y.size == 0:
        return None
    try:
        g = _checked(x, w, y, conv_attributes(op))
    except Unsupported:
        return None
    if x.dtype != np.uint8:
        return BlockedUse({}, (0,), prefers=True)
    inputs: dict[int, Pad] = {0: g.pads}
    if len(op.inputs) > 9 and op.inputs[9] is not None:
        inputs[9] = NO_PAD
    return BlockedUse(inputs, (0,), prefers=True)


@lower("ConvInteger", since=10)
def conv_integer(
    site: Site,
    x: Operand,
    w: Operand,
    x_zero: Operand | None = None,
    w_zero: Operand | None = None,
    **attributes: Any,
) -> None:
    """ONNX ConvInteger-10, exact; zero points are constants."""
    (y,) = site.outputs
    g = _checked(x, w, y, attributes)
    assert y is not None
    zero = known_zero(x_zero, "x_zero_point")
    weights = _weights(w, w_zero, g)
    _convolve(site, g, _source(site, x, zero, g), weights, None, y, "int32", None, 0)


def _scales(
    x_scale: Operand, w_scale: Operand, y_scale: Operand, g: Geometry, y: Operand, y_zero: Operand
) -> Array:
    """Check scales; return w_scale * x_scale / y_scale in float64."""
    accept(y.dtype in (np.uint8, np.int8) and y_zero.dtype == y.dtype, f"to {y.dtype.name}")
    over, under, each = (known_scale(s, "a scale") for s in (x_scale, y_scale, w_scale))
    accept(over.size == under.size == 1, "scales per channel of the input or output")
    accept(each.size == 1 or each.shape == (g.m,), "w_scale")
    scale = each.reshape(-1) * float(over.reshape(())) / float(under.reshape(()))
    return np.broadcast_to(scale, (g.m,))


@lower("QLinearConv", since=10, blocked=_blocked_conv)
def qlinear_conv(
    site: Site,
    x: Operand,
    x_scale: Operand,
    x_zero: Operand,
    w: Operand,
    w_scale: Operand,
    w_zero: Operand,
    y_scale: Operand,
    y_zero: Operand,
    b: Operand | None = None,
    **attributes: Any,
) -> None:
    """ONNX QLinearConv-10, exact; all but x is constant."""
    (y,) = site.outputs
    g = _checked(x, w, y, attributes)
    assert y is not None
    scales = _scales(x_scale, w_scale, y_scale, g, y, y_zero)
    zero, y_offset = known_zero(x_zero, "x_zero_point"), known_zero(y_zero, "y_zero_point")
    weights = _weights(w, w_zero, g)
    block = rounding_block(y.dtype, y_offset)
    _convolve(site, g, _source(site, x, zero, g), weights, b, y, "q64", scales, block)


@lower("QuantizedConv", since=1, domain=INTERNAL, blocked=_blocked_conv)
def quantized_conv(
    site: Site,
    x: Operand,
    x_scale: Operand,
    x_zero: Operand,
    w: Operand,
    w_scale: Operand,
    w_zero: Operand,
    y_scale: Operand,
    y_zero: Operand,
    b: Operand | None = None,
    residual: Operand | None = None,
    r_scale: Operand | None = None,
    r_zero: Operand | None = None,
    z_scale: Operand | None = None,
    z_zero: Operand | None = None,
    **attributes: Any,
) -> None:
    """QLinearConv, and behind it with a residual QuantizedAdd of the two."""
    (y,) = site.outputs
    activation = attributes.pop("activation", "")
    g = _checked(x, w, y, attributes)
    assert y is not None
    scales = _scales(x_scale, w_scale, y_scale, g, y, y_zero)
    zero, y_offset = known_zero(x_zero, "x_zero_point"), known_zero(y_zero, "y_zero_point")
    weights = _weights(w, w_zero, g)
    block = rounding_block(y.dtype, y_offset)
    added = None
    if residual is not None:
        assert r_scale is not None
        assert z_scale is not None
        accept(residual.dtype == y.dtype == np.uint8, "residual is not uint8")
        first, second = (y_scale, y_offset), (r_scale, known_zero(r_zero, "zero point"))
        out = (z_scale, known_zero(z_zero, "zero point"))
        parameters = addition_parameters(first, second, out, y.dtype, relu=activation == "Relu")
        added = Residual(*in_blocks(site, residual), parameters)
        block = Packed(np.concatenate([block.array, parameters.view(np.uint8)]))
    kind = "q32"
    least = y_offset if activation == "Relu" else np.iinfo(y.dtype).min
    if residual is None:
        block.array.view(np.float32)[2] = least - y_offset
        block.array.view(np.float32)[12] = y_offset
        block.array[52] = least & 255
        if target().vnni and scales.max() <= 0.5:
            kind = f"packed {y.dtype.name}"
    _convolve(
        site, g, _source(site, x, zero, g), weights, b, y, kind, scales.astype(np.float32), block, added
    )


def addition_parameters(
    first: tuple[Operand, int],
    second: tuple[Operand, int],
    out: tuple[Operand, int],
    dtype: Any,
    *,
    relu: bool,
) -> Array:
    """Return the numbers by which two quantized tensors are added: see `SECOND` in `code/int8_conv.py`."""
    over = float(known_scale(out[0], "scale").reshape(()))
    factors = [float(known_scale(scale, "scale").reshape(())) / over for scale, _ in (first, second)]
    constant = -(first[1] * factors[0] + second[1] * factors[1])
    info, zero = np.iinfo(dtype), out[1]
    made = np.zeros(16, np.float32)
    made[:5] = *factors, constant, max(info.min - zero, 0) if relu else info.min - zero, info.max - zero
    made.view(np.int32)[5] = zero - 0x4B400000
    return made
