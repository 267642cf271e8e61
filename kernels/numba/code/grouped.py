"""Native code of depthwise and grouped convolution of blocked tensors, float32."""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from onnxref.native.ops import I32, I64, access, arg, arg_float, device
from onnxref.native.vectors import Vectors

from ._math import activation32

_INLINE = ("", "Relu", "Clip")


class _Tile:
    """What all tiles share: sums that begin at the bias, and end in activation and store.

    Args:
        spacing: distance of neighbouring outputs in pixels: more than 1 for a phase of a transposed
            convolution, which has neither residual nor a later activation.
    """

    def __init__(self, builder, lanes, pixels, activation, has_residual, spacing):
        self.v = Vectors(builder, lanes=lanes)
        self.pixels = pixels
        self.activation = activation
        self.has_residual = has_residual
        self.spacing = spacing

    def begin(self, bias):
        return [self.v.load(bias)] * self.pixels

    def finish(self, sums, y, residual, low, high):
        v, b = self.v, self.v.builder
        if self.activation == "Relu":
            low = v.constant(0)
        elif self.activation == "Clip":
            low, high = (v.splat(b.fptrunc(limit, v.element)) for limit in (low, high))
        for i, total in enumerate(sums):
            if self.has_residual:
                total = b.fadd(total, v.load(residual, v.nbytes * i))
            if self.activation in ("Relu", "Clip"):
                total = v.maximum(total, low)
            if self.activation == "Clip":
                total = v.minimum(total, high)
            v.store(total, y, v.nbytes * self.spacing * i)


def _depthwise_tile(lanes, pixels, taps, stride, dilation, activation, has_residual, spacing):
    """Make a row of `pixels` outputs of a depthwise convolution; taps, 0 if a loop, is the kernel's width."""

    def rows(tile, x, w, row, height, width, step, apart, sums):
        v, b = tile.v, tile.v.builder
        near: dict[int, list[tuple[int, int]]] = {}
        for tap in range(taps):
            for i in range(pixels):
                near.setdefault(i * stride + tap * dilation, []).append((i, tap))

        def unrolled(ky, held):
            held = list(held)
            start = v.pointer(x, index=b.mul(ky, row))
            weights = v.pointer(w, index=v.mul(ky, v.nbytes * taps))
            factors = [v.load(weights, v.nbytes * tap) for tap in range(taps)]
            for at, users in near.items():
                pixel = v.load(start, v.nbytes * at)
                for i, tap in users:
                    held[i] = v.fma(pixel, factors[tap], held[i])
            return held

        def looped(ky, held):
            start = v.pointer(x, index=b.mul(ky, row))
            weights = v.pointer(w, index=b.mul(ky, v.mul(width, v.nbytes)))

            def column(kx, inner):
                first = v.pointer(start, index=b.mul(kx, apart))
                factor = v.load(weights, index=v.mul(kx, v.nbytes))
                return [
                    v.fma(v.load(first, index=v.mul(step, i)), factor, total) for i, total in enumerate(inner)
                ]

            return v.loop(width, held, column)

        return v.loop(height, sums, unrolled if taps else looped)

    @intrinsic
    def tile(context, x, w, bias, y, residual, row, height, width, step, apart, low, high):
        def generate(ctx, builder, signature, values):
            x, w, bias, y, residual, row, height, width, step, apart, low, high = values
            tile = _Tile(builder, lanes, pixels, activation, has_residual, spacing)
            sums = rows(tile, x, w, row, height, width, step, apart, tile.begin(bias))
            tile.finish(sums, y, residual, low, high)
            return ctx.get_dummy_value()

        return types.void(*[types.int64] * 10, types.float64, types.float64), generate

    return tile


def _after(activation):
    """Make what applies an activation that is no matter of one instruction to what was stored."""
    if activation in _INLINE:
        return None
    load, store = access("float32")
    function = activation32(activation)

    @device
    def apply(y, count, alpha, beta):
        first, second = np.float32(alpha), np.float32(beta)
        for i in range(count):
            store(y, i, function(load(y, i), first, second))

    return apply


def depthwise(
    lanes: int,
    pixels: int,
    taps: int,
    stride: int,
    dilation: int,
    activation: str,
    has_residual: bool,
    spacing: int,
):
    """Convolve each channel with its own kernel; a unit is a row of a block of channels.

    The last tile of a row moves left until it fits, so a row has at least `pixels` columns.

    Args:
        taps: width of the kernel, whose stride and dilation are then constants; 0 takes any.
    """
    tile = _depthwise_tile(lanes, pixels, taps, stride, dilation, activation, has_residual, spacing)
    after = _after(activation)
    later = activation not in _INLINE
    pixel = 4 * lanes

    def kernel(p, begin, end, thread):
        x, x_image, x_plane, x_row = arg(p, 0), arg(p, 1), arg(p, 2), arg(p, 3)
        y, y_image, y_plane, y_row = arg(p, 4), arg(p, 5), arg(p, 6), arg(p, 7)
        r, r_image, r_plane, r_row = arg(p, 8), arg(p, 9), arg(p, 10), arg(p, 11)
        w, bias, n_blocks, n_rows, n_columns = arg(p, 12), arg(p, 13), arg(p, 14), arg(p, 15), arg(p, 16)
        height, width = arg(p, 17), arg(p, 18)
        down, across, below, apart = arg(p, 19), arg(p, 20), arg(p, 21), arg(p, 22)
        alpha, beta = arg_float(p, 23), arg_float(p, 24)
        # A row may take no longer than two divisions: where it is, is counted.
        lines = begin // n_rows
        row, n = begin - lines * n_rows, lines // n_blocks
        block = lines - n * n_blocks
        for _ in range(begin, end):
            source = x + n * x_image + block * x_plane + row * down * x_row
            goal = y + n * y_image + block * y_plane + row * y_row
            added = r + n * r_image + block * r_plane + row * r_row
            weights = w + block * height * width * pixel
            column = 0
            while column < n_columns:
                at = min(column, n_columns - pixels)
                tile(
                    source + at * across * pixel, weights, bias + block * pixel,
                    goal + at * spacing * pixel, added + at * pixel,
                    below * x_row, height, width, across * pixel, apart * pixel, alpha, beta,
                )  # fmt: skip
                column += pixels
            if later:
                after(goal, n_columns * lanes, alpha, beta)
            row += 1
            if row == n_rows:
                row = 0
                block += 1
            if block == n_blocks:
                block = 0
                n += 1

    return kernel


def _segments_tile(lanes, pixels, stride, unroll, in_order, is_whole, activation, has_residual, spacing):
    """Make a row of `pixels` outputs of one block of channels, from the channels that its segments name."""

    def channels(tile, x, table, w, count, sums):
        """Add the products of `count` channels, whose places are x plus the offsets in `table`."""
        v, b = tile.v, tile.v.builder

        def body(i, held):
            held = list(held)
            weights = v.pointer(w, index=v.mul(i, v.nbytes * unroll))
            for part in range(unroll):
                beside = part if in_order else 0  # channels in order lie side by side: one place is enough
                if beside == 0:
                    place = b.load(v.pointer(table, 8 * part, v.mul(i, 8 * unroll), I64), align=8)
                    pixel = v.pointer(x, index=place)
                factor = v.load(weights, v.nbytes * part)
                for at, total in enumerate(held):
                    offset = 4 * beside + v.nbytes * stride * at
                    held[at] = v.fma(v.broadcast(pixel, offset), factor, total)
            return held

        return v.loop(b.sdiv(count, I64(unroll)) if unroll > 1 else count, sums, body)

    @intrinsic
    def tile(
        context, x, offsets, row, apart, height, width, w, bias, segments, count, y, residual, low, high
    ):  # fmt: skip
        def generate(ctx, builder, signature, values):
            x, offsets, row, apart, height, width, w, bias, segments, count, y, residual, low, high = values
            tile = _Tile(builder, lanes, pixels, activation, has_residual, spacing)
            v, b = tile.v, builder

            def field(entry, i):
                return b.load(v.pointer(segments, 8 * i, v.mul(entry, 24), I64), align=8)

            def segment(entry, held):
                w, *sums = held
                table = b.add(offsets, v.mul(field(entry, 0), 8))
                some, bounds = field(entry, 1), field(entry, 2)

                def across(ky, held):
                    line = b.add(x, b.mul(ky, row))

                    def tap(kx, held):
                        w, *sums = held
                        first = b.add(line, b.mul(kx, apart))
                        sums = channels(tile, first, table, w, some, sums)
                        return [b.add(w, v.mul(some, v.nbytes)), *sums]

                    return v.loop(width, held, tap)

                w, *found = v.loop(height, [w, *sums], across)
                if is_whole:
                    return [w, *found]
                below, before = v.mask(b.ashr(bounds, I64(32))), v.mask(b.and_(bounds, I64(0xFFFFFFFF)))
                mask = b.and_(below, b.not_(before))
                # Lanes of other groups must not see these channels: they may be infinite.
                return [w, *(b.select(mask, new, old) for new, old in zip(found, sums, strict=True))]

            _, *sums = v.loop(count, [w, *tile.begin(bias)], segment)
            tile.finish(sums, y, residual, low, high)
            return ctx.get_dummy_value()

        return types.void(*[types.int64] * 12, types.float64, types.float64), generate

    return tile


def segments(
    lanes: int,
    pixels: int,
    stride: int,
    unroll: int,
    in_order: bool,
    is_whole: bool,
    activation: str,
    has_residual: bool,
    spacing: int,
):
    """Convolve groups of channels; a unit is a row of a block of output channels.

    An output block has segments, (first, channels, lo | hi << 32): its lanes lo to hi see so many channels
    from the first of a table on, which has the offsets of input channels in bytes. Weights follow in the
    order segment, row, column, channel, lane.

    Args:
        unroll: divides the channels of a group.
        in_order: so many channels of a group, from its first on, lie side by side.
        is_whole: all segments are for all lanes.
    """
    tile = _segments_tile(
        lanes, pixels, stride, unroll, in_order, is_whole, activation, has_residual, spacing
    )
    after = _after(activation)
    later = activation not in _INLINE
    pixel = 4 * lanes

    def kernel(p, begin, end, thread):
        x, x_image, x_row = arg(p, 0), arg(p, 1), arg(p, 3)
        y, y_image, y_plane, y_row = arg(p, 4), arg(p, 5), arg(p, 6), arg(p, 7)
        r, r_image, r_plane, r_row = arg(p, 8), arg(p, 9), arg(p, 10), arg(p, 11)
        w, bias, n_blocks, n_rows, n_columns = arg(p, 12), arg(p, 13), arg(p, 14), arg(p, 15), arg(p, 16)
        height, width = arg(p, 17), arg(p, 18)
        down, below, apart = arg(p, 19), arg(p, 21), arg(p, 22)
        alpha, beta = arg_float(p, 23), arg_float(p, 24)
        entries, heads, offsets = arg(p, 25), arg(p, 26), arg(p, 27)
        # A row may take no longer than two divisions: where it is, is counted.
        lines = begin // n_rows
        row, n = begin - lines * n_rows, lines // n_blocks
        block = lines - n * n_blocks
        for _ in range(begin, end):
            first, count, at_weights = (
                arg(heads, 3 * block),
                arg(heads, 3 * block + 1),
                arg(heads, 3 * block + 2),
            )
            source = x + n * x_image + row * down * x_row
            goal = y + n * y_image + block * y_plane + row * y_row
            added = r + n * r_image + block * r_plane + row * r_row
            column = 0
            while column < n_columns:
                at = min(column, n_columns - pixels)
                tile(
                    source + at * stride * pixel, offsets, below * x_row, apart * pixel, height, width,
                    w + at_weights, bias + block * pixel, entries + 24 * first, count,
                    goal + at * spacing * pixel, added + at * pixel, alpha, beta,
                )  # fmt: skip
                column += pixels
            if later:
                after(goal, n_columns * lanes, alpha, beta)
            row += 1
            if row == n_rows:
                row = 0
                block += 1
            if block == n_blocks:
                block = 0
                n += 1

    return kernel


def _shuffled_tile(lanes, pixels, stride, inputs, outputs, activation, has_residual, spacing):
    """Make a row of outputs of groups with `inputs` and `outputs` channels, whole groups in a vector."""
    span = lanes // outputs * inputs

    @intrinsic
    def tile(context, x, row, apart, height, width, w, bias, y, residual, low, high):
        def generate(ctx, builder, signature, values):
            x, row, apart, height, width, w, bias, y, residual, low, high = values
            tile = _Tile(builder, lanes, pixels, activation, has_residual, spacing)
            v, b = tile.v, builder
            narrow = Vectors(b, lanes=span)
            kind = ir.VectorType(I32, lanes)

            def across(ky, held):
                line = b.mul(ky, row)

                def tap(kx, held):
                    w, *sums = held
                    first = v.pointer(x, index=b.add(line, b.mul(kx, apart)))
                    factors = [v.load(w, v.nbytes * k) for k in range(inputs)]
                    for at in range(pixels):
                        pixel = narrow.load(first, v.nbytes * stride * at)
                        for k in range(inputs):
                            which = [lane // outputs * inputs + k for lane in range(lanes)]
                            if span == 1:
                                spread = v.splat(b.extract_element(pixel, I32(0)))
                            else:
                                spread = b.shuffle_vector(pixel, pixel, ir.Constant(kind, which))
                            sums[at] = v.fma(spread, factors[k], sums[at])
                    return [b.add(w, I64(v.nbytes * inputs)), *sums]

                return v.loop(width, held, tap)

            _, *sums = v.loop(height, [w, *tile.begin(bias)], across)
            tile.finish(sums, y, residual, low, high)
            return ctx.get_dummy_value()

        return types.void(*[types.int64] * 9, types.float64, types.float64), generate

    return tile


def shuffled(
    lanes: int,
    pixels: int,
    stride: int,
    inputs: int,
    outputs: int,
    activation: str,
    has_residual: bool,
    spacing: int,
):
    """Convolve small groups of channels; a unit is a row of a block of output channels.

    Each lane takes its group's channels by shuffles of the input's vector: none of the work is for
    channels of other groups.

    Args:
        inputs: channels of a group; those of all groups in a block lie in one block.
        outputs: output channels of a group; divides `lanes`.
    """
    tile = _shuffled_tile(lanes, pixels, stride, inputs, outputs, activation, has_residual, spacing)
    after = _after(activation)
    later = activation not in _INLINE
    pixel = 4 * lanes
    span = lanes // outputs * inputs

    def kernel(p, begin, end, thread):
        x, x_image, x_plane, x_row = arg(p, 0), arg(p, 1), arg(p, 2), arg(p, 3)
        y, y_image, y_plane, y_row = arg(p, 4), arg(p, 5), arg(p, 6), arg(p, 7)
        r, r_image, r_plane, r_row = arg(p, 8), arg(p, 9), arg(p, 10), arg(p, 11)
        w, bias, n_blocks, n_rows, n_columns = arg(p, 12), arg(p, 13), arg(p, 14), arg(p, 15), arg(p, 16)
        height, width = arg(p, 17), arg(p, 18)
        down, below, apart = arg(p, 19), arg(p, 21), arg(p, 22)
        alpha, beta = arg_float(p, 23), arg_float(p, 24)
        # A row may take no longer than two divisions: where it is, is counted.
        lines = begin // n_rows
        row, n = begin - lines * n_rows, lines // n_blocks
        block = lines - n * n_blocks
        for _ in range(begin, end):
            channel = block * span
            source = x + n * x_image + channel // lanes * x_plane + channel % lanes * 4 + row * down * x_row
            goal = y + n * y_image + block * y_plane + row * y_row
            added = r + n * r_image + block * r_plane + row * r_row
            weights = w + block * height * width * inputs * pixel
            column = 0
            while column < n_columns:
                at = min(column, n_columns - pixels)
                tile(
                    source + at * stride * pixel, below * x_row, apart * pixel, height, width,
                    weights, bias + block * pixel,
                    goal + at * spacing * pixel, added + at * pixel, alpha, beta,
                )  # fmt: skip
                column += pixels
            if later:
                after(goal, n_columns * lanes, alpha, beta)
            row += 1
            if row == n_rows:
                row = 0
                block += 1
            if block == n_blocks:
                block = 0
                n += 1

    return kernel
