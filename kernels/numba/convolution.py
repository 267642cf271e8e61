"""Convolutions of float32 on blocked tensors: Conv, and FusedConv with a residual and an activation.

Algorithms:
    direct    one fused multiply-add per product; within 1e-5 of max|y| of the reference for real layers
              (each sum is rounded as often as it has terms, which `sqrt(terms) * 6e-8` describes).
    Winograd  see `winograd`; for some kernels of stride 1, where it is faster by estimate and precision is
              not "strict".

An input with few channels (an image) stays plain and is read pixel by pixel.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from onnxref.dtypes import Array
from onnxref.lowering import (
    NO_PAD,
    Address,
    Argument,
    BlockedUse,
    Op,
    Operand,
    Packed,
    Pad,
    Site,
    Unsupported,
    lower,
)
from onnxref.native import NativeFunction, native, target
from onnxref.registry import INTERNAL

from ..common.windows import conv_attributes, conv_windows, over_axes
from ..numpy._windows import Windows
from . import bf16
from ._at_hand import at_hand
from .speed import flops

CODE = "onnxref.kernels.numba.code.convolution"

_IN_REGISTERS = ("", "Relu", "Clip", "LeakyRelu")
_ROW_BLOCK_BYTES = 512 * 1024  # of input: what a unit's rows may take of the nearest big cache
UNITS = 8  # at least so many for the threads to share, where the shapes allow
NEAR_BYTES = 512 * 1024  # weights of which it is supposed that they stay in the second cache
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


def geometry(x: Operand, w: Operand, windows: Windows) -> Geometry:
    """Return windows over inputs (N, C, W) or (N, C, H, W) as rows and columns."""
    flat = over_axes(windows, 2)

    def pair(values: tuple[int, ...]) -> tuple[int, int]:
        return values[0], values[1]

    return Geometry(
        x.shape[0],
        x.shape[1],
        w.shape[0],
        pair(flat.size),
        pair(flat.out),
        pair(flat.kernel),
        pair(flat.strides),
        pair(flat.dilations),
        pair(flat.begins) + pair(flat.ends),
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
        from . import grouped

        return grouped.blocked_use(op, lanes)
    if not (x.size and w.size):
        return None
    try:
        found = geometry(x, w, conv_windows(x, w, 2, **conv_attributes(op)))
    except Unsupported:
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
    order: Sequence[int] | None = None,
    **attributes: Any,
) -> None:
    """Lower a convolution by the way that its shapes and layouts ask for.

    Args:
        order: see the reference's FusedConv.
    """
    if x.dtype != np.float32 or w.dtype != np.float32:
        raise Unsupported(f"{x.dtype.name}")
    windows = conv_windows(x, w, 2, group=group, **attributes)
    if group != 1:
        epilogue = Epilogue(b, residual, activation, alpha, beta)
        _convolve_grouped(site, x, w, epilogue, windows, group, order)
        return
    if order is not None:
        raise Unsupported("an order of channels without groups")
    found = geometry(x, w, windows)
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
    if 0 in (found.n, found.m, *found.out):
        return
    from . import winograd

    scheme = winograd.choose(found) if site.precision != "strict" and x.layout is not None else None
    in_pairs = bf16.takes_convolution(site, x, found, 0 if scheme is None else max(scheme.size))
    if scheme is not None and not in_pairs:
        winograd.emit(site, x, w, y, found, epilogue, scheme)
    else:
        _direct(site, x, w, y, found, epilogue, in_pairs)


def _convolve_grouped(
    site: Site,
    x: Operand,
    w: Operand,
    epilogue: Epilogue,
    windows: Windows,
    group: int,
    order: Sequence[int] | None,
) -> None:
    from . import grouped

    grouped.emit(
        site,
        x,
        w,
        epilogue.bias,
        epilogue.residual,
        windows,
        group=group,
        activation=epilogue.activation,
        alpha=epilogue.alpha,
        beta=epilogue.beta,
        order=order,
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
    def steps(self) -> tuple[float, float, int]:
        """LOW, HIGH and STEPS of `_conv_micro`."""
        low, high, steps = {
            "Relu": (0.0, 0.0, 4),
            "Clip": (self.alpha, self.beta, 4 | 8),
            "LeakyRelu": (0.0, self.alpha, 2),
        }.get(self.activation, (0.0, 0.0, 0))
        return float(low), float(high), steps | (self.residual is not None)

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

    def residual_place(self) -> tuple[Argument, int, int, int, int]:
        """Return the residual's address and its distances in bytes: image, block, row, pixel."""
        if self.residual is None:
            return 0, 0, 0, 0, 0
        place = Place.of(self.residual)
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


def _direct(
    site: Site, x: Operand, w: Operand, y: Operand, g: Geometry, epilogue: Epilogue, in_pairs: bool
) -> None:
    """Emit a direct convolution; `in_pairs` of channels in bfloat16, which stand for channels here."""
    lanes = target().lanes
    plain = x.layout is None
    source = _plain_source(x, g) if plain else _blocked_source(x, g)
    if in_pairs:
        source, g = bf16.narrowed_source(site, x, source), replace(g, c=-(-g.c // 2))
    goal = Place.of(y)
    blocks = -(-g.m // lanes)
    vectors = min(2, blocks)
    groups = -(-blocks // vectors)
    last = blocks - (groups - 1) * vectors
    flat = _is_flat(x, y, epilogue.residual, g)
    area = _Area(
        *((1, math.prod(g.out)) if flat else g.out),
        vectors,
        row_bytes=-(-g.c // source.inputs) * source.row * g.strides[0],
        cut_bytes=math.prod(g.out) * g.c * 4 if flat else 0,
        wanted=-(-UNITS // (g.n * groups)),
    )
    place, r_image, r_block, r_row, r_pixel = epilogue.residual_place()
    unroll = 1 if plain else 4
    if plain or g.dilations[1] > 1:
        kx, run = g.kernel[1], source.inputs // unroll
    else:
        kx, run = 1, g.kernel[1] * source.inputs // unroll
    pack = bf16.pack_weights if in_pairs else _pack_weights
    packed = site.pack(
        (w,),
        ("conv weights", lanes, vectors, source.inputs, in_pairs),
        lambda: pack(constant_of(w), lanes, vectors, source.inputs),
    )
    taps = math.prod(g.kernel) * -(-g.c // source.inputs) * source.inputs
    tile = (
        -(-g.c // source.inputs), source.block, g.kernel[0], g.dilations[0] * source.row,
        kx, g.dilations[1] * source.pixel, run, g.strides[0] * source.row,
        goal.block, goal.row, r_block, r_row,
        *epilogue.steps,
    )  # fmt: skip
    function = _tile_code(
        site,
        area,
        (last, source.pixel * g.strides[1], lanes),
        (plain, epilogue.second, *([bf16.form()] if in_pairs else ())),
        0 if plain or groups == 1 else packed.array.nbytes,
    )
    rows, columns, rest = function.parameters[:3]
    pieces, block_rows = area.pieces(columns), area.block_rows(rows, rest)
    row_blocks = -(-area.height // block_rows)
    edge = _edge(site, tile, x, g, rows, columns) if plain else ()
    site.call(
        function,
        *tile,
        source.address, packed, goal.address, place, epilogue.packed_bias(site, w, g.m, lanes),
        groups, row_blocks, pieces, area.height, area.width, block_rows,
        source.image, goal.image, r_image, taps * vectors * lanes * 4, r_pixel,
        float(epilogue.alpha), float(epilogue.beta),
        *edge,
        units=g.n * row_blocks * pieces * groups,
        work=g.flops / flops(),
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Area:
    """The pixels of an image that tiles of rows x columns cover.

    Attributes:
        vectors: of channels that a tile computes.
        row_bytes: input of a row of pixels.
        cut_bytes: input of all pixels where they are one row that may be cut into pieces, else 0.
        wanted: blocks of rows, or pieces, that keep all threads busy.
    """

    height: int
    width: int
    vectors: int
    row_bytes: int
    cut_bytes: int
    wanted: int

    def pieces(self, columns: int) -> int:
        """Return into how many pieces of at least so many columns the rows are cut."""
        if not self.cut_bytes:
            return 1
        return max(1, min(self.width // columns, max(round(self.cut_bytes / _ROW_BLOCK_BYTES), self.wanted)))

    def block_rows(self, rows: int, rest: int) -> int:
        """Return the rows of a unit: what fits into the cache, if possible `wanted` blocks."""
        fits = max(1, _ROW_BLOCK_BYTES // max(1, self.row_bytes))
        count = max(-(-self.height // fits), min(self.wanted, self.height // rows), 1)
        block = -(-self.height // count)
        block = -(-block // rows) * rows
        # What is left below must be a tile of its own kind, or the last block have room for a whole one.
        while self.height % rows not in (0, rest) and 0 < self.height % block < rows:
            block += rows
        return block

    def lines_ahead(self, rows: int, columns: int, rest: int, weights: int) -> int:
        """Return `ahead` for the code of a tile."""
        tiles = -(-self.block_rows(rows, rest) // rows)
        return lines_ahead(tiles * -(-self.width // self.pieces(columns) // columns), weights)


def lines_ahead(tiles: int, weights: int) -> int:
    """Return how many cache lines of weights a pass fetches so that `tiles` tiles fetch them all."""
    if weights < NEAR_BYTES:
        return 0
    return 1 if tiles >= 8 else 2 if tiles >= 4 else 4 if tiles >= 2 else 8


def constant_of(operand: Operand) -> Array:
    assert operand.constant is not None
    return operand.constant


def _blocked_source(x: Operand, g: Geometry) -> Source:
    assert x.layout is not None
    place = Place.of(x, g.pads)
    return Source(place.address, place.image, place.block, place.row, place.pixel, x.layout.lanes)


def _plain_source(x: Operand, g: Geometry) -> Source:
    """Return a plain image as if it began with its padding."""
    h, w = g.size
    begin = -4 * (g.pads[0] * w + g.pads[1])
    return Source(x + begin, 4 * g.c * h * w, 4 * h * w, 4 * w, 4, 1)


def _edge(
    site: Site, tile: tuple[Argument, ...], x: Operand, g: Geometry, rows: int, columns: int
) -> tuple[Argument, ...]:
    """Return the parameters for tiles that read a copy: the tile's own, those of the copy."""
    reach = [(k - 1) * d + 1 for k, d in zip(g.kernel, g.dilations, strict=True)]
    tall = (rows - 1) * g.strides[0] + reach[0]
    row = 4 * ((columns - 1) * g.strides[1] + reach[1])
    copy = site.scratch(g.c * tall * row, per_thread=True)
    own = (tile[0], tall * row, tile[2], g.dilations[0] * row, *tile[4:7], g.strides[0] * row, *tile[8:])
    top, left = g.pads[:2]
    return (*own, *g.size, top, left, g.strides[0], *reach, copy, row, 4 * g.size[1], copy.nbytes)


def _is_flat(x: Operand, y: Operand, residual: Operand | None, g: Geometry) -> bool:
    """Whether pixels can be seen as one row: each output from one input, in blocks, no borders anywhere."""
    if x.layout is None:
        return False
    places = [x, y] if residual is None else [x, y, residual]
    one = g.kernel == g.strides == (1, 1) and not any(g.pads)
    return one and g.out == g.size and all(p.layout is None or not any(p.layout.pad) for p in places)


def tile_price(height: int, width: int, vectors: int, rows: int, columns: int, rest: int) -> float:
    """Return what it costs to compute pixels in tiles, where `rest` rows that are left take smaller ones.

    A tile costs a multiply-add per pixel and vector, at least eight for the latency of the chain, and
    the loads of its weights.
    """
    whole = max(rows * columns * vectors, 8) + 1.5 * vectors
    low = max(rest * columns * vectors, 8) + 1.5 * vectors
    tall, left = divmod(height, rows)
    below = 0.0 if not left else low if left == rest else whole
    return -(-width // columns) * (tall * whole + below) * (1 + 0.001 * rows)


def choose_tile(height: int, width: int, vectors: int) -> tuple[int, int]:
    """Return rows and columns of the tile that computes `height` x `width` pixels soonest."""
    limit = (target().registers - 2) // vectors - (1 if target().registers < 32 else 0)
    limit = min(limit, 14)
    tiles = (
        (rows, columns)
        for columns in _COLUMNS
        for rows in range(1, max(1, min(height, limit // columns)) + 1)
        if columns <= width and rows * columns <= limit
    )
    return min(tiles, key=lambda t: tile_price(height, width, vectors, t[0], t[1], height % t[0]))


def _tile_code(
    site: Site,
    area: _Area,
    before: tuple[Hashable, ...],
    after: tuple[Hashable, ...],
    weights: int,
) -> NativeFunction:
    """Return the code of the best tile, or of one that is at hand.

    Args:
        before, after: parameters of the template round `ahead`, behind those of the tile.
        weights: bytes that are fetched ahead.
    """
    rows, columns = choose_tile(area.height, area.width, area.vectors)
    rest = area.height % rows
    ahead = area.lines_ahead(rows, columns, rest, weights)
    best = native(CODE, "direct", rows, columns, rest, area.vectors, *before, ahead, *after)

    def price(function: NativeFunction) -> float | None:
        rows, columns, rest, vectors, *others = function.parameters
        del others[len(before)]
        is_like = (vectors, *others) == (area.vectors, *before, *after)
        if not is_like or rows > area.height or columns > area.width:
            return None
        return tile_price(area.height, area.width, vectors, rows, columns, rest)

    return at_hand(site, best, price)


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
