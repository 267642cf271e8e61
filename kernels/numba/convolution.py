"""Convolutions of float32 on blocked tensors: Conv, and FusedConv with a residual and an activation.

Two algorithms:
    direct    one fused multiply-add per product; within 1e-5 of max|y| of the reference for real layers
              (each sum is rounded as often as it has terms, which `sqrt(terms) * 6e-8` describes).
    Winograd  F(4x4, 3x3) for 3x3 kernels of stride 1 where that is faster and precision is "default":
              within 1e-4 of max|y|. An infinity makes NaN of the 4x4 outputs around it.

An input with few channels (an image) stays plain and is read pixel by pixel.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxref.dtypes import Array
from onnxref.errors import KernelError
from onnxref.lowering import (
    NO_PAD,
    Address,
    Argument,
    BlockedUse,
    Op,
    Operand,
    Packed,
    Pad,
    Scratch,
    Site,
    Unsupported,
    float_bits,
    lower,
)
from onnxref.native import native, target
from onnxref.registry import INTERNAL

from ..numpy._windows import slide

CODE = "onnxref.kernels.numba.code.convolution"
WINOGRAD = "onnxref.kernels.numba.code.winograd"

_IN_REGISTERS = ("", "Relu", "Clip", "LeakyRelu")
_ROW_BLOCK_BYTES = 512 * 1024  # of input: what a unit's rows may take of the nearest big cache
_FLOPS = 85.0  # per nanosecond and core
_COLUMNS = (14, 13, 12, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1)


@dataclass(frozen=True, slots=True)
class Geometry:
    """A convolution over rows and columns.

    Attributes:
        pads: of the input: top, left, bottom, right.
    """

    n: int
    c: int
    m: int
    size: tuple[int, int]
    out: tuple[int, int]
    kernel: tuple[int, int]
    strides: tuple[int, int]
    dilations: tuple[int, int]
    pads: Pad

    @property
    def flops(self) -> int:
        return 2 * self.n * self.m * math.prod(self.out) * self.c * math.prod(self.kernel)


def geometry(
    x: Operand,
    w: Operand,
    *,
    auto_pad: str = "NOTSET",
    dilations: Sequence[int] | None = None,
    group: int = 1,
    kernel_shape: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Geometry:
    """Return what the attributes of a Conv say about inputs (N, C, W) or (N, C, H, W).

    Raises:
        Unsupported: another rank, or attributes that do not fit (the reference says what is wrong).
    """
    if x.ndim not in (3, 4) or w.ndim != x.ndim:
        raise Unsupported(f"rank {x.ndim}")
    if group < 1 or w.shape[0] % group or x.shape[1] != w.shape[1] * group:
        raise Unsupported("channels do not fit")
    if kernel_shape is not None and tuple(kernel_shape) != w.shape[2:]:
        raise Unsupported("kernel_shape is not that of W")

    def ints(values: Sequence[int] | None) -> tuple[int, ...] | None:
        return None if values is None else tuple(values)

    try:
        found = slide(x.shape[2:], w.shape[2:], ints(strides), ints(dilations), ints(pads), auto_pad)
    except KernelError as error:
        raise Unsupported(str(error)) from error

    def pair(values: tuple[int, ...], missing: int) -> tuple[int, int]:
        return values if len(values) == 2 else (missing, values[0])  # type: ignore[return-value]

    (top, left), (bottom, right) = pair(found.begins, 0), pair(found.ends, 0)
    return Geometry(
        x.shape[0],
        x.shape[1],
        w.shape[0],
        pair(found.size, 1),
        pair(found.out, 1),
        pair(found.kernel, 1),
        pair(found.strides, 1),
        pair(found.dilations, 1),
        (top, left, bottom, right),
    )


# Planning -----------------------------------------------------------------------------------------


def _is_stem(channels: int, lanes: int) -> bool:
    return 2 * channels < lanes


def blocked_conv(op: Op, lanes: int) -> BlockedUse | None:
    """Say how a Conv or FusedConv works on blocked tensors; None for what is not lowered."""
    x, w = op.inputs[0], op.inputs[1]
    b = op.inputs[2] if len(op.inputs) > 2 else None
    if x is None or w is None or w.constant is None or x.dtype != np.float32 or w.dtype != np.float32:
        return None
    if b is not None and b.constant is None:
        return None
    if op.attributes.get("group", 1) != 1:
        try:
            from . import grouped
        except ImportError:
            return None
        return grouped.blocked_use(op, lanes)  # type: ignore[no-any-return]
    names = ("auto_pad", "dilations", "group", "kernel_shape", "pads", "strides")
    try:
        found = geometry(x, w, **{name: op.attributes[name] for name in names if name in op.attributes})
    except Unsupported:
        return None
    if 0 in (found.c, *found.kernel):
        return None
    inputs: dict[int, Pad] = {} if _is_stem(found.c, lanes) else {0: found.pads}
    if len(op.inputs) > 3 and op.inputs[3] is not None:
        inputs[3] = NO_PAD
    return BlockedUse(inputs, (0,), prefers=True)


# Lowerings ----------------------------------------------------------------------------------------


@lower("Conv", since=(1, 11, 22), blocked=blocked_conv)
def conv(site: Site, x: Operand, w: Operand, b: Operand | None = None, **attributes: Any) -> None:
    """Lower Conv-1, Conv-11, Conv-22."""
    convolve(site, x, w, b, None, **attributes)


@lower("FusedConv", since=1, domain=INTERNAL, blocked=blocked_conv)
def fused_conv(
    site: Site,
    x: Operand,
    w: Operand,
    b: Operand | None = None,
    residual: Operand | None = None,
    **attributes: Any,
) -> None:
    """Lower activation(Conv(x, w, b) + residual)."""
    convolve(site, x, w, b, residual, **attributes)


def convolve(
    site: Site,
    x: Operand,
    w: Operand,
    b: Operand | None,
    residual: Operand | None,
    *,
    group: int = 1,
    activation: str = "",
    alpha: float = 0.0,
    beta: float = 0.0,
    **attributes: Any,
) -> None:
    """Lower a convolution by the way that its shapes and layouts ask for."""
    if x.dtype != np.float32 or w.dtype != np.float32:
        raise Unsupported(f"{x.dtype.name}")
    found = geometry(x, w, group=group, **attributes)
    if group != 1:
        _convolve_grouped(site, x, w, b, residual, found, group, activation, alpha, beta)
        return
    if w.constant is None or (b is not None and b.constant is None):
        raise Unsupported("weights or bias that are not constant")
    if 0 in (found.c, *found.kernel):
        raise Unsupported("an empty sum")
    (y,) = site.outputs
    assert y is not None
    lanes = target().lanes
    if y.layout is None or y.layout.lanes != lanes or (residual is not None and residual.layout is None):
        raise Unsupported("a plain layout")
    if x.layout is not None and any(has < needs for has, needs in zip(x.layout.pad, found.pads, strict=True)):
        raise Unsupported("too narrow a border")
    epilogue = Epilogue(b, residual, activation, alpha, beta)
    _direct(site, x, w, y, found, epilogue)


def _convolve_grouped(
    site: Site,
    x: Operand,
    w: Operand,
    b: Operand | None,
    residual: Operand | None,
    found: Geometry,
    group: int,
    activation: str,
    alpha: float,
    beta: float,
) -> None:
    try:
        from . import grouped
    except ImportError as error:
        raise Unsupported("groups") from error
    grouped.emit(
        site,
        x,
        w,
        b,
        residual,
        kernel=found.kernel,
        strides=found.strides,
        dilations=found.dilations,
        pads=found.pads,
        group=group,
        activation=activation,
        alpha=alpha,
        beta=beta,
    )


# What happens to the sums -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class Epilogue:
    """What a convolution does to its sums: bias, residual, activation."""

    bias: Operand | None
    residual: Operand | None
    activation: str
    alpha: float
    beta: float

    @property
    def clamp(self) -> tuple[float, float, float]:
        """Low, high and slope below zero of the activation, where it is made of these; else those of none."""
        if self.activation == "Relu":
            return 0.0, math.inf, 1.0
        if self.activation == "Clip":
            return self.alpha, self.beta, 1.0
        if self.activation == "LeakyRelu":
            return -math.inf, math.inf, self.alpha
        return -math.inf, math.inf, 1.0

    @property
    def second(self) -> str:
        """The activation that takes a second loop over each tile, or ""."""
        return "" if self.activation in _IN_REGISTERS else self.activation

    def packed_bias(self, site: Site, w: Operand, m: int, lanes: int) -> Packed:
        """Return the bias, zero where there is none and in lanes past the last channel."""
        bias = self.bias
        full = -(-m // lanes) * lanes

        def build() -> Array:
            made = np.zeros(full, np.float32)
            if bias is not None and bias.constant is not None:
                made[:m] = bias.constant
            return made

        return site.pack((w,) if bias is None else (bias,), ("conv bias", full, bias is None), build)

    def residual_place(
        self, site: Site, pixels: int, lanes: int
    ) -> tuple[Argument, int, int, int, int]:
        """Return the residual's address and its distances in bytes: image, block, row, pixel.

        Where there is none it is `pixels` vectors of -0.0, which change no number.
        """
        residual = self.residual
        if residual is None:
            none = site.pack((), ("minus zeros", pixels * lanes), lambda: np.full(pixels * lanes, -0.0, np.float32))
            return none, 0, 0, 0, 0
        place = Place.of(residual)
        return place.address, place.image, place.block, place.row, place.pixel


@dataclass(frozen=True, slots=True, eq=False)
class Place:
    """Where element (0, 0, 0, 0) of a blocked operand is, and distances in bytes."""

    address: Address
    image: int
    block: int
    row: int
    pixel: int

    @classmethod
    def of(cls, x: Operand, pads: Pad = NO_PAD) -> Place:
        """Return the place of `x`; of its padding's first element, `pads` before it."""
        assert x.layout is not None
        _, blocks, rows, columns, lanes = x.layout.extents(x.shape)
        pixel = 4 * lanes
        row = columns * pixel
        block = rows * row
        begin = 4 * x.layout.element_offset(x.shape) - pads[0] * row - pads[1] * pixel
        return cls(x + begin, blocks * block, block, row, pixel)


# Direct -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Source:
    """How a tile walks over the input, in bytes; `block` holds `inputs` channels side by side."""

    address: Argument
    image: int
    block: int
    row: int
    pixel: int
    inputs: int


def _direct(site: Site, x: Operand, w: Operand, y: Operand, g: Geometry, epilogue: Epilogue) -> None:
    if 0 in (g.n, g.m, *g.out):
        return
    lanes = target().lanes
    source = _blocked_source(x, g) if x.layout is not None else _plain_source(site, x, g)
    goal = Place.of(y)
    blocks = -(-g.m // lanes)
    vectors = min(2, blocks)
    groups = -(-blocks // vectors)
    last = blocks - (groups - 1) * vectors
    height, width, pieces = *g.out, 1
    flat = _is_flat(x, y, epilogue.residual, g)
    if flat:
        height, width = 1, height * width
    rows, columns = choose_tile(height, width, vectors)
    row_bytes = -(-g.c // source.inputs) * source.row * g.strides[0]
    if flat:
        pieces = max(1, min(width // columns, round(width * g.c * 4 / _ROW_BLOCK_BYTES)))
        if g.n * pieces * groups < 4:
            pieces = max(1, min(width // columns, 4))
    block_rows = _row_block(height, rows, row_bytes)
    row_blocks = -(-height // block_rows)
    place, r_image, r_block, r_row, r_pixel = epilogue.residual_place(site, columns, lanes)
    low, high, slope = epilogue.clamp
    merged = source.inputs == 1 or g.dilations[1] == 1
    kx, unroll = (1, g.kernel[1] * source.inputs) if merged else (g.kernel[1], source.inputs)
    unroll, run = _unrolled(unroll, source.inputs)
    if source.inputs == 1 and g.dilations[1] > 1:
        kx, unroll, run = g.kernel[1], 1, 1
    packed = site.pack(
        (w,),
        ("conv weights", lanes, vectors, source.inputs),
        lambda: _pack_weights(_constant(w), lanes, vectors, source.inputs),
    )
    taps = math.prod(g.kernel) * -(-g.c // source.inputs) * source.inputs
    step = source.pixel if source.inputs > 1 else 4
    site.call(
        native(
            CODE, "direct", rows, columns, height % rows, vectors, last,
            source.pixel * g.strides[1], unroll, lanes, epilogue.second,
        ),  # fmt: skip
        -(-g.c // source.inputs), source.block, g.kernel[0], g.dilations[0] * source.row,
        kx, g.dilations[1] * step, run, g.strides[0] * source.row,
        goal.block, goal.row, r_block, r_row,
        float(low), float(high), float(slope),
        source.address, packed, goal.address, place, epilogue.packed_bias(site, w, g.m, lanes),
        groups, row_blocks, pieces, height, width, block_rows,
        source.image, goal.image, r_image, taps * vectors * lanes * 4, r_pixel,
        float(epilogue.alpha), float(epilogue.beta),
        units=g.n * row_blocks * pieces * groups,
        work=g.flops / _FLOPS,
    )  # fmt: skip


def _constant(operand: Operand) -> Array:
    assert operand.constant is not None
    return operand.constant


def _blocked_source(x: Operand, g: Geometry) -> Source:
    assert x.layout is not None
    place = Place.of(x, g.pads)
    return Source(place.address, place.image, place.block, place.row, place.pixel, x.layout.lanes)


def _plain_source(site: Site, x: Operand, g: Geometry) -> Source:
    """Return the plain image, copied into padding where there is any."""
    top, left, bottom, right = g.pads
    h, w = g.size
    if not any(g.pads):
        return Source(x + 0, 4 * g.c * h * w, 4 * h * w, 4 * w, 4, 1)
    row = 4 * (left + w + right)
    plane = (top + h + bottom) * row
    padded = site.scratch(g.n * g.c * plane)
    site.call(
        native(CODE, "pad_image"), x, padded, h, 4 * w, top, 4 * left, bottom, row,
        units=g.n * g.c, work=g.n * g.c * plane / 10,
    )  # fmt: skip
    return Source(padded + 0, g.c * plane, plane, row, 4, 1)


def _unrolled(elements: int, inputs: int) -> tuple[int, int]:
    """Return how many of the elements that lie side by side a pass takes, and the number of passes."""
    if inputs > 1:
        return (4, elements // 4)
    passes = -(-elements // 8)
    while elements % passes:
        passes += 1
    return elements // passes, passes


def _is_flat(x: Operand, y: Operand, residual: Operand | None, g: Geometry) -> bool:
    """Whether pixels can be seen as one row: each output from one input, no borders anywhere."""
    places = [x, y] if residual is None else [x, y, residual]
    one = g.kernel == g.strides == (1, 1) and not any(g.pads)
    return one and g.out == g.size and all(p.layout is None or not any(p.layout.pad) for p in places)


def _row_block(height: int, rows: int, row_bytes: int) -> int:
    """Return how many output rows a unit takes: what fits into the cache, at least four units an image."""
    fits = max(1, _ROW_BLOCK_BYTES // max(1, row_bytes))
    count = max(-(-height // fits), 1)
    block = -(-height // count)
    return -(-block // rows) * rows


def choose_tile(height: int, width: int, vectors: int) -> tuple[int, int]:
    """Return rows and columns of the tile that computes `height` x `width` pixels soonest.

    A tile costs a multiply-add per pixel and vector, at least eight for the latency of the chain, and
    the loads of its weights.
    """
    limit = (target().registers - 2) // vectors - (1 if target().registers < 32 else 0)
    limit = min(limit, 14)
    best, least = (1, 1), math.inf

    def cost(rows: int, columns: int) -> float:
        return max(rows * columns * vectors, 8) + 1.5 * vectors

    for columns in _COLUMNS:
        if columns > width:
            continue
        for rows in range(1, max(1, min(height, limit // columns)) + 1):
            if rows * columns > limit:
                continue
            tall, rest = divmod(height, rows)
            total = -(-width // columns) * (tall * cost(rows, columns) + (cost(rest, columns) if rest else 0))
            total *= 1 + 0.001 * rows
            if total < least:
                best, least = (rows, columns), total
    return best


def _pack_weights(w: Array, lanes: int, vectors: int, inputs: int) -> Array:
    """Return weights (M, C, kh, kw) as [group][C / inputs][kh][kw][inputs][vectors * lanes], flat.

    Where the last group has fewer vectors its rows are shorter.
    """
    if w.ndim == 3:
        w = w[:, :, None, :]
    m, c, kh, kw = w.shape
    blocks, parts = -(-m // lanes), -(-c // inputs)
    full = np.zeros((blocks * lanes, parts * inputs, kh, kw), np.float32)
    full[:m, :c] = w
    ordered = full.reshape(blocks * lanes, parts, inputs, kh, kw).transpose(1, 3, 4, 2, 0)
    groups = [ordered[..., at : at + vectors * lanes] for at in range(0, blocks * lanes, vectors * lanes)]
    return np.concatenate([group.reshape(-1) for group in groups])
