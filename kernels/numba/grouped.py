"""Depthwise and grouped convolution in blocks of channels; `convolution` calls this for group > 1.

float32, one or two spatial axes, constant weights. Sums run over channels and taps in order, in float32
with fused multiply-add: an output is within (n + 2) half ulps of the sum of the n products' magnitudes.
Channels of other groups never enter a sum, not even times zero.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from onnxref.dtypes import Array
from onnxref.lowering import (
    NO_PAD,
    Address,
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
)
from onnxref.native import NativeFunction, native, target

from ..common.windows import conv_attributes, conv_windows, over_axes
from ..numpy._windows import Windows
from ._at_hand import at_hand
from .layout import convert, covers, padded_copy, steps
from .speed import flops

CODE = "onnxref.kernels.numba.code.grouped"
_WIDEST = 7  # kernels up to this width are unrolled
_TILES = (14, 13, 10, 8, 7, 4, 2, 1)


@dataclass(frozen=True, slots=True)
class GroupedShape:
    """A grouped convolution as seen by this file, always with two spatial axes.

    Attributes:
        order: input channels in the order in which the weights take them; None as they are.
    """

    channels: int
    made: int
    group: int
    size: tuple[int, ...]
    out: tuple[int, ...]
    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    begins: tuple[int, ...]
    order: tuple[int, ...] | None = None

    @property
    def pad(self) -> Pad:
        """The border that the input needs: what windows cover outside of it."""
        ends = [
            (o - 1) * s + (k - 1) * d - b - (n - 1)
            for o, s, k, d, b, n in zip(
                self.out, self.strides, self.kernel, self.dilations, self.begins, self.size, strict=True
            )
        ]
        top, left = self.begins
        return top, left, max(0, ends[0]), max(0, ends[1])

    @property
    def inputs(self) -> int:
        """Input channels of a group."""
        return self.channels // self.group

    @property
    def outputs(self) -> int:
        """Output channels of a group."""
        return self.made // self.group


def _shape(
    x: Operand, w: Operand, windows: Windows, group: int, order: Sequence[int] | None = None
) -> GroupedShape:
    if x.dtype != np.float32 or w.dtype != np.float32:
        raise Unsupported(f"grouped convolution of {x.dtype.name}")
    if w.constant is None:
        raise Unsupported("grouped convolution with weights that are not constant")
    flat = over_axes(windows, 2)
    return GroupedShape(
        x.shape[1],
        w.shape[0],
        group,
        flat.size,
        flat.out,
        flat.kernel,
        flat.strides,
        flat.dilations,
        flat.begins,
        None if order is None else tuple(order),
    )


def blocked_use(op: Op, lanes: int) -> BlockedUse | None:
    """Say how a Conv or FusedConv with group > 1 works on blocks; see `onnxref.lowering.BlockedUse`."""
    x, w = op.inputs[:2]
    if x is None or w is None:
        return None
    try:
        windows = conv_windows(x, w, 2, **conv_attributes(op))
        shape = _shape(x, w, windows, op.attributes.get("group", 1))
    except Unsupported:
        return None
    inputs = {0: shape.pad}
    if len(op.inputs) > 3 and op.inputs[3] is not None:
        inputs[3] = NO_PAD
    return BlockedUse(inputs, prefers=True)


def emit(
    site: Site,
    x: Operand,
    w: Operand,
    b: Operand | None,
    residual: Operand | None,
    windows: Windows,
    *,
    group: int,
    activation: str = "",
    alpha: float = 0.0,
    beta: float = 0.0,
    order: Sequence[int] | None = None,
) -> None:
    """Add the calls of a convolution with group > 1, over one or two axes.

    Tensors that are not in blocks, or lack the border, are brought into blocks in scratch memory.
    """
    (y,) = site.outputs
    shape = _shape(x, w, windows, group, order)
    if b is not None and b.constant is None:
        raise Unsupported("grouped convolution with a bias that is not constant")
    if y is None or y.size == 0:
        return
    if x.size == 0 or w.size == 0:
        raise Unsupported("convolution of nothing")
    lanes = target().lanes
    image = window_origin(site, x, lanes, shape.pad)
    added = None if residual is None else window_origin(site, residual, lanes, NO_PAD)
    layout = y.layout
    goal: Operand | Scratch = y
    if not covers(layout, lanes, NO_PAD):
        layout = Blocked(lanes)
        goal = site.scratch(blocked_bytes(y, layout))
    there = steps(y.shape, layout, 4)
    common: list[Argument] = [
        *image,
        *(goal + there.begin, there.image, there.plane, there.row),
        *(added or (0, 0, 0, 0)),
    ]
    convolve_blocks(
        site,
        shape,
        w,
        lambda: constant_weights(w),
        ("grouped", group),
        b,
        common,
        y.shape[0],
        activation=activation,
        has_residual=residual is not None,
        limits=(float(alpha), float(beta)),
    )
    if goal is not y:
        convert(site, y.shape, 4, goal, layout, y, y.layout)


def blocked_bytes(x: Operand, layout: Blocked) -> int:
    return Operand(x.shape, x.dtype, layout=layout).buffer_bytes


def window_origin(site: Site, x: Operand, lanes: int, pad: Pad) -> tuple[Address, int, int, int]:
    """Return address, image, plane and row of the element where the first window begins."""
    source: Operand | Scratch = x
    layout = x.layout
    if layout is None or not covers(layout, lanes, pad):
        source, layout = padded_copy(site, x, lanes, pad)
    s = steps(x.shape, layout, 4)
    begin = s.begin - pad[0] * s.row - pad[1] * s.pixel
    return source + begin, s.image, s.plane, s.row


def tile_of(columns: int, most: int, overhead: int = 1) -> int:
    """Return how many of `columns` pixels to make at once, at most `most`.

    Args:
        overhead: what a tile costs in addition, in pixels.
    """
    fitting = [n for n in {*_TILES, most} if n <= min(columns, most)]
    return min(fitting, key=lambda n: (_tile_price(columns, n, overhead), -n))


def _tile_price(columns: int, pixels: int, overhead: int = 1) -> int:
    """Return what a row costs in tiles; the last one moves left, so what lies over the end is made twice."""
    return -(-columns // pixels) * (pixels + overhead)


@dataclass(frozen=True, slots=True)
class _Choice:
    """The template for a convolution: its name and parameters after the lanes, weights, tables, GFLOP/s."""

    kind: str
    variant: tuple[Hashable, ...]
    weights: Packed
    tables: tuple[Packed, ...]
    speed: float


def _choose(
    site: Site, s: GroupedShape, w: Operand, weights: Callable[[], Array], key: Hashable, plane: int
) -> _Choice:
    lanes, registers = target().lanes, target().registers
    columns, stride = s.out[1], s.strides[1]
    span = lanes // s.outputs * s.inputs
    if s.inputs == s.outputs == 1 and s.order is None:
        wide = s.kernel[1] if s.kernel[1] <= _WIDEST else 0
        pixels = tile_of(columns, min(14, registers - (wide or 1) - 2))
        fixed = (stride, s.dilations[1]) if wide else (0, 0)
        packed = site.pack((w,), ("depthwise", key, lanes), lambda: _shuffled_weights(weights(), lanes))
        return _Choice("depthwise", (pixels, wide, *fixed), packed, (), 0.44 * flops())
    is_near = lanes % s.outputs == 0 and span <= lanes and lanes % span == 0 and s.outputs < lanes
    if is_near and s.order is None:
        pixels = tile_of(columns, min(14, registers - s.inputs - 3))
        packed = site.pack((w,), ("shuffled", key, lanes), lambda: _shuffled_weights(weights(), lanes))
        return _Choice("shuffled", (pixels, stride, s.inputs, s.outputs), packed, (), 0.25 * flops())
    pixels = tile_of(columns, min(14, registers - 3), 4)  # each tile reads all weights anew
    entries, heads = _segments(s, lanes)
    unroll = next(n for n in (4, 2, 1) if s.inputs % n == 0)
    is_whole = bool((entries[:, 2] == lanes << 32).all())
    variant = (pixels, stride, unroll, s.order is None, is_whole)
    packed = site.pack(
        (w,), ("segments", key, lanes), lambda: _segment_weights(weights(), s, lanes, entries, heads)
    )
    shared = ("segments", lanes, s.channels, s.made, s.group, s.kernel[0] * s.kernel[1])
    tables = (
        site.pack((), (*shared, "entries"), lambda: entries),
        site.pack((), (*shared, "heads"), lambda: heads),
        site.pack((), (*shared, "offsets", plane, s.order), lambda: _channel_offsets(s, lanes, plane)),
    )
    return _Choice("segments", variant, packed, tables, 0.5 * flops())


def convolve_blocks(
    site: Site,
    s: GroupedShape,
    w: Operand,
    weights: Callable[[], Array],
    key: Hashable,
    b: Operand | None,
    common: list[Argument],
    batch: int,
    *,
    activation: str = "",
    has_residual: bool = False,
    limits: tuple[float, float] = (0.0, 0.0),
    spacing: int = 1,
) -> None:
    """Add the call of a convolution in blocks.

    Args:
        weights: makes the weights (M, C / group, taps) of `w`.
        key: tells them from others of `w`.
        common: address, image, plane and row of input, output and residual, all but addresses known.
        spacing: distance of neighbouring outputs in pixels.
    """
    lanes = target().lanes
    blocks = -(-s.made // lanes)
    macs = batch * s.made * s.inputs * s.out[0] * s.out[1] * s.kernel[0] * s.kernel[1]
    plane = common[2]
    assert isinstance(plane, int)
    choice = _choose(site, s, w, weights, key, plane)
    best = native(CODE, choice.kind, lanes, *choice.variant, activation, has_residual, spacing)

    def price(function: NativeFunction) -> int | None:
        pixels = function.parameters[1]
        is_like = function.parameters[2:] == best.parameters[2:] and pixels <= s.out[1]
        return _tile_price(s.out[1], pixels) if is_like else None

    site.call(
        at_hand(site, best, price),
        *common,
        choice.weights,
        _bias(site, b, s.made, lanes),
        *(blocks, *s.out, *s.kernel, *s.strides, *s.dilations),
        *limits,
        *choice.tables,
        units=batch * blocks * s.out[0],
        work=2 * macs / choice.speed,
    )


def _bias(site: Site, b: Operand | None, made: int, lanes: int) -> Packed:
    def build() -> Array:
        held = np.zeros(-(-made // lanes) * lanes, np.float32)
        if b is not None:
            held[:made] = b.constant
        return held

    return site.pack(() if b is None else (b,), ("bias in blocks", made, lanes), build)


def constant_weights(w: Operand) -> Array:
    """Return constant weights with their spatial axes as one."""
    if w.constant is None:
        raise Unsupported("weights that are not constant")
    return w.constant.reshape(*w.shape[:2], -1)


def _shuffled_weights(plain: Array, lanes: int) -> Array:
    """Return weights (M, C / group, taps) as (blocks, taps, C / group, lanes)."""
    held = np.zeros((-(-len(plain) // lanes), plain.shape[2], plain.shape[1], lanes), np.float32)
    for block, rows in enumerate(held):
        part = plain[block * lanes : (block + 1) * lanes]
        rows[..., : len(part)] = part.transpose(2, 1, 0)
    return held


def _segments(s: GroupedShape, lanes: int) -> tuple[Array, Array]:
    """Return the tables of `code.grouped.segments` but the channels' places."""
    entries: list[tuple[int, int, int]] = []
    heads = []
    nbytes = 4 * lanes * s.inputs * s.kernel[0] * s.kernel[1]  # of a segment's weights
    for first in range(0, s.made, lanes):
        stop = min(s.made, first + lanes)
        begin = len(entries)
        for g in range(first // s.outputs, (stop - 1) // s.outputs + 1):
            low = max(first, g * s.outputs) - first
            high = min(stop, (g + 1) * s.outputs) - first
            if high == s.made - first:
                high = lanes  # lanes past the last channel have weights of zero
            entries.append((g * s.inputs, s.inputs, low | high << 32))
        heads.append((begin, len(entries) - begin, begin * nbytes))
    return np.array(entries, np.int64), np.array(heads, np.int64)


def _channel_offsets(s: GroupedShape, lanes: int, plane: int) -> Array:
    """Return where the channels lie that the weights take, in bytes from the first of the tensor."""
    channels = np.arange(s.channels) if s.order is None else np.array(s.order)
    return (channels // lanes * plane + channels % lanes * 4).astype(np.int64)


def _segment_weights(plain: Array, s: GroupedShape, lanes: int, entries: Array, heads: Array) -> Array:
    """Return weights (M, C / group, taps) in the order of `code.grouped.segments`."""
    held = np.zeros((len(entries), plain.shape[2], s.inputs, lanes), np.float32)
    for block, (first, count, _) in enumerate(heads.tolist()):
        for at in range(first, first + count):
            bounds = int(entries[at, 2])
            low, high = bounds & 0xFFFFFFFF, bounds >> 32
            chosen = plain[block * lanes + low : min(s.made, block * lanes + high)]
            held[at, ..., low : low + len(chosen)] = chosen.transpose(2, 1, 0)
    return held
