"""Native code of batch normalization by given statistics."""

from __future__ import annotations

import numpy as np
from numba import types
from numba.extending import intrinsic

from onnxref.native.ops import access, arg, arg_float, device
from onnxref.native.vectors import Vectors


def planes(dtype: str, statistics: str, wide: str):
    """Normalize (N, C, ...); a unit is a channel of an image.

    Args:
        statistics: type of scale, shift, mean and variance.
        wide: type to compute in.
    """
    load, store = access(dtype)
    read, _ = access(statistics)
    typed = np.dtype(wide).type

    @device
    def line(x, y, first, n, mean, factor, shift):
        for i in range(first, first + n):
            store(y, i, (typed(load(x, i)) - mean) * factor + shift)

    def kernel(p, begin, end, thread):
        x, y, scale, b, mean, variance = arg(p, 0), arg(p, 1), arg(p, 2), arg(p, 3), arg(p, 4), arg(p, 5)
        channels, size, epsilon = arg(p, 6), arg(p, 7), typed(arg_float(p, 8))
        for unit in range(begin, end):
            c = unit % channels
            inverse = typed(1) / np.sqrt(typed(read(variance, c)) + epsilon)
            factor = typed(read(scale, c)) * inverse
            line(x, y, unit * size, size, typed(read(mean, c)), factor, typed(read(b, c)))

    return kernel


def features(dtype: str, statistics: str, wide: str):
    """Normalize (N, C); a unit is a row. Parameters as in `planes`."""
    load, store = access(dtype)
    read, _ = access(statistics)
    typed = np.dtype(wide).type

    def kernel(p, begin, end, thread):
        x, y, scale, b, mean, variance = arg(p, 0), arg(p, 1), arg(p, 2), arg(p, 3), arg(p, 4), arg(p, 5)
        channels, epsilon = arg(p, 6), typed(arg_float(p, 8))
        for unit in range(begin, end):
            row = unit * channels
            for c in range(channels):
                inverse = typed(1) / np.sqrt(typed(read(variance, c)) + epsilon)
                value = typed(load(x, row + c)) - typed(read(mean, c))
                store(y, row + c, value * (typed(read(scale, c)) * inverse) + typed(read(b, c)))

    return kernel


def blocked(lanes: int):
    """Normalize float32 in blocks; a unit is a row of a block of channels.

    The table has for each block its channels' means, factors and shifts.
    """

    @intrinsic
    def line(context, x, y, n, table):
        def generate(ctx, builder, signature, values):
            x, y, n, table = values
            v, b = Vectors(builder, lanes=lanes), builder
            mean, factor, shift = (v.load(table, v.nbytes * i) for i in range(3))

            def pixel(i, _):
                at = v.mul(i, v.nbytes)
                v.store(v.fma(b.fsub(v.load(x, index=at), mean), factor, shift), y, index=at)
                return []

            v.loop(n, [], pixel)
            return ctx.get_dummy_value()

        return types.void(*[types.int64] * 4), generate

    def kernel(p, begin, end, thread):
        x, x_image, x_plane, x_row = arg(p, 0), arg(p, 1), arg(p, 2), arg(p, 3)
        y, y_image, y_plane, y_row = arg(p, 4), arg(p, 5), arg(p, 6), arg(p, 7)
        n_blocks, n_rows, n_columns, table = arg(p, 8), arg(p, 9), arg(p, 10), arg(p, 11)
        lines = begin // n_rows
        row, n = begin - lines * n_rows, lines // n_blocks
        block = lines - n * n_blocks
        for _ in range(begin, end):
            source = x + n * x_image + block * x_plane + row * x_row
            goal = y + n * y_image + block * y_plane + row * y_row
            line(source, goal, n_columns, table + block * 12 * lanes)
            row += 1
            if row == n_rows:
                row = 0
                block += 1
            if block == n_blocks:
                block = 0
                n += 1

    return kernel
