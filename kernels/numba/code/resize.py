"""Native code of resampling along rows and columns by tables of positions and weights."""

from __future__ import annotations

import numpy as np
from numba import types
from numba.extending import intrinsic

from onnxref.native.ops import access, arg, device
from onnxref.native.vectors import Vectors


def nearest(itemsize: int, lanes: int, repeats: int):
    """Take for each pixel one of the input; a unit is a row of a plane, or of a block of channels.

    Args:
        itemsize: bytes of an element.
        lanes: elements of a pixel: 1 for plain tensors.
        repeats: how often each column is taken in turn, where that is a constant and pixels are elements.
    """
    load, store = access(f"int{8 * itemsize}")
    pixel = itemsize * lanes

    @intrinsic
    def copy_pixel(context, x, y):
        def generate(ctx, builder, signature, values):
            v = Vectors(builder, lanes=lanes)
            v.store(v.load(values[0]), values[1])
            return ctx.get_dummy_value()

        return types.void(types.int64, types.int64), generate

    def kernel(p, begin, end, thread):
        x, x_image, x_plane, x_row = arg(p, 0), arg(p, 1), arg(p, 2), arg(p, 3)
        y, y_image, y_plane, y_row = arg(p, 4), arg(p, 5), arg(p, 6), arg(p, 7)
        planes, n_rows, n_columns, rows, columns = arg(p, 8), arg(p, 9), arg(p, 10), arg(p, 11), arg(p, 12)
        for unit in range(begin, end):
            lines = unit // n_rows
            row = unit - lines * n_rows
            n = lines // planes
            plane = lines - n * planes
            source = x + n * x_image + plane * x_plane + arg(rows, row) * x_row
            goal = y + n * y_image + plane * y_plane + row * y_row
            if lanes > 1:
                for i in range(n_columns):
                    copy_pixel(source + arg(columns, i) * pixel, goal + i * pixel)
            elif repeats:
                for i in range(n_columns // repeats):
                    for k in range(repeats):
                        store(goal, i * repeats + k, load(source, i))
            else:
                for i in range(n_columns):
                    store(goal, i, load(source, arg(columns, i)))

    return kernel


def _weighed(lanes, pixels):
    """Make `pixels` adjacent sums of `count` weighted vectors, at least one."""

    @intrinsic
    def weigh(context, x, indices, weights, count, step, y):
        def generate(ctx, builder, signature, values):
            x, indices, weights, count, step, y = values
            v, b = Vectors(builder, lanes=lanes), builder

            def tap(k, held):
                at = b.load(v.pointer(indices, index=v.mul(k, 8), element=step.type), align=8)
                place = v.pointer(x, index=b.mul(at, step))
                weight = v.broadcast(weights, index=v.mul(k, 4))
                return [v.fma(v.load(place, v.nbytes * i), weight, total) for i, total in enumerate(held)]

            for i, total in enumerate(v.loop(count, [v.constant(0)] * pixels, tap)):
                v.store(total, y, v.nbytes * i)
            return ctx.get_dummy_value()

        return types.void(*[types.int64] * 6), generate

    return weigh


def blocked_taps(lanes: int, pixels: int):
    """Resample float32 in blocks, rows first, then columns; a unit is a row of a block of channels.

    A table has for each output `taps` positions and weights, of which the first `counts` are used.

    Args:
        pixels: how many columns of a row are made at once, at most the columns of the input.
    """
    down, one = _weighed(lanes, pixels), _weighed(lanes, 1)
    pixel = 4 * lanes

    def kernel(p, begin, end, thread):
        x, x_image, x_plane, x_row = arg(p, 0), arg(p, 1), arg(p, 2), arg(p, 3)
        y, y_image, y_plane, y_row = arg(p, 4), arg(p, 5), arg(p, 6), arg(p, 7)
        planes, n_rows, n_columns, width = arg(p, 8), arg(p, 9), arg(p, 10), arg(p, 11)
        row_taps, row_counts, row_indices, row_weights = arg(p, 12), arg(p, 13), arg(p, 14), arg(p, 15)
        taps, counts, indices, weights = arg(p, 16), arg(p, 17), arg(p, 18), arg(p, 19)
        line = arg(p, 20) + thread * arg(p, 21)
        for unit in range(begin, end):
            lines = unit // n_rows
            row = unit - lines * n_rows
            n = lines // planes
            plane = lines - n * planes
            source = x + n * x_image + plane * x_plane
            goal = y + n * y_image + plane * y_plane + row * y_row
            at = 0
            first = row * row_taps
            while at < width:
                at = min(at, width - pixels)
                down(
                    source + at * pixel, row_indices + 8 * first, row_weights + 4 * first,
                    arg(row_counts, row), x_row, line + at * pixel,
                )  # fmt: skip
                at += pixels
            for i in range(n_columns):
                first = i * taps
                one(line, indices + 8 * first, weights + 4 * first, arg(counts, i), pixel, goal + i * pixel)

    return kernel


_COMPUTED = {"float32": "float32", "float16": "float32", "bfloat16": "float32"}


def plain_taps(dtype: str):
    """Resample plain tensors, rows first, then columns; a unit is a row of a plane.

    The columns' table is transposed: positions and weights of the first tap of all outputs, and so on. A
    weight of zero adds nothing, even where the value is infinite. Integers are rounded and saturate.
    """
    load, store = access(dtype)
    wide = _COMPUTED.get(dtype, "float64")
    get, put = access(wide)
    typed = np.dtype(wide).type
    size = np.dtype(wide).itemsize
    itemsize = 2 if dtype in ("float16", "bfloat16") else np.dtype(dtype).itemsize
    is_int = np.dtype(dtype).kind in "iu" if dtype != "bfloat16" else False
    low, high = (float(np.iinfo(dtype).min), float(np.iinfo(dtype).max)) if is_int else (0.0, 0.0)

    @device
    def add_row(line, x, weight, n, begins):
        if begins:
            for i in range(n):
                put(line, i, typed(load(x, i)) * weight)
        else:
            for i in range(n):
                put(line, i, get(line, i) + typed(load(x, i)) * weight)

    @device
    def add_tap(result, line, indices, weights, n, begins):
        for i in range(n):
            weight = get(weights, i)
            product = get(line, arg(indices, i)) * weight
            product = product if weight != 0 else typed(0)
            put(result, i, product if begins else get(result, i) + product)

    @device
    def finish(y, result, n):
        for i in range(n):
            value = get(result, i)
            if is_int:
                value = min(max(np.rint(value), low), high)
            store(y, i, value)

    def kernel(p, begin, end, thread):
        x, y, height, width, n_rows, n_columns = (
            arg(p, 0), arg(p, 1), arg(p, 2), arg(p, 3), arg(p, 4), arg(p, 5),
        )  # fmt: skip
        row_taps, row_counts, row_indices, row_weights = arg(p, 6), arg(p, 7), arg(p, 8), arg(p, 9)
        taps, indices, weights = arg(p, 10), arg(p, 11), arg(p, 12)
        line = arg(p, 13) + thread * arg(p, 14)
        result = line + width * size
        for unit in range(begin, end):
            plane = unit // n_rows
            row = unit - plane * n_rows
            for k in range(arg(row_counts, row)):
                at = row * row_taps + k
                source = x + (plane * height + arg(row_indices, at)) * width * itemsize
                add_row(line, source, get(row_weights, at), width, k == 0)
            for k in range(taps):
                add_tap(
                    result,
                    line,
                    indices + k * n_columns * 8,
                    weights + k * n_columns * size,
                    n_columns,
                    k == 0,
                )
            finish(y + unit * n_columns * itemsize, result, n_columns)

    return kernel
