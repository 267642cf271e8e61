"""Native code of pools: windows of blocked and of plain tensors, and whole images."""

from __future__ import annotations

import numpy as np
from numba import types
from numba.extending import intrinsic

from onnxref.native.ops import F32, F64, I64, access, arg, declare, device
from onnxref.native.vectors import Vectors

_KINDS = {"float32": F32, "float64": F64}
_LINE = 64  # vectors, or pixels, that are summed before they join the total
_SUMS = 4  # sums at a time, to hide the latency of an addition


def _reduction(v, is_max):
    """Return the identity and the step of a maximum (any NaN is it) or a sum, of vectors."""
    b = v.builder

    def larger(x, y):
        name = f"llvm.maximum.{v.suffix}"
        # The sign of a zero does not matter: without "nsz" it would cost two more instructions.
        return b.call(declare(b, name, v.type, [v.type] * 2), [x, y], fastmath=("nsz",))

    return (v.constant(-np.inf), larger) if is_max else (v.constant(0), b.fadd)


# Windows of blocked tensors -----------------------------------------------------------------------


def _window_tile(lanes, pixels, is_max, is_last):
    """Make `pixels` adjacent reductions of `count` vectors each, at least one.

    Args:
        is_last: sums are scaled by `factor` times the table of factors.
    """

    @intrinsic
    def tile(context, x, step, count, across, y, factors, factor):
        def generate(ctx, builder, signature, values):
            x, step, count, across, y, factors, factor = values
            v, b = Vectors(builder, lanes=lanes), builder
            identity, join = _reduction(v, is_max)
            starts = [v.mul(across, i) for i in range(pixels)]

            def body(i, held):
                place = v.pointer(x, index=b.mul(i, step))
                return [join(old, v.load(place, index=at)) for old, at in zip(held, starts, strict=True)]

            found = v.loop(count, [identity] * pixels, body)
            for i, value in enumerate(found):
                if is_last and not is_max:
                    scale = b.fmul(v.load_scalar(factors, 4 * i), factor)
                    value = b.fmul(value, v.splat(scale))
                v.store(value, y, v.nbytes * i)
            return ctx.get_dummy_value()

        return types.void(*[types.int64] * 6, types.float32), generate

    return tile


def blocked_windows(lanes: int, in_columns: int, out_columns: int, is_max: bool):
    """Pool float32 in blocks; a unit is a row of a block of channels.

    Rows are combined first, into a line of `thread`'s memory with the identity as its padding, then columns.
    The last tile moves left until it fits. The table of rows says for each output (first input, inputs);
    factors of rows and columns are one over the elements that a mean divides by.

    Args:
        in_columns, out_columns: pixels that are made at once, at most the columns.
    """
    down = _window_tile(lanes, in_columns, is_max, False)
    along = _window_tile(lanes, out_columns, is_max, True)
    load, store = access("float32")
    pixel = 4 * lanes
    identity = np.float32(-np.inf) if is_max else np.float32(0)

    @device
    def fill(y, n):
        for i in range(n):
            store(y, i, identity)

    def kernel(p, begin, end, thread):
        x, x_image, x_plane, x_row = arg(p, 0), arg(p, 1), arg(p, 2), arg(p, 3)
        y, y_image, y_plane, y_row = arg(p, 4), arg(p, 5), arg(p, 6), arg(p, 7)
        n_blocks, n_rows, n_columns = arg(p, 8), arg(p, 9), arg(p, 10)
        rows, row_factors, column_factors = arg(p, 11), arg(p, 12), arg(p, 13)
        below, apart, across, taps = arg(p, 14), arg(p, 15), arg(p, 16), arg(p, 17)
        left, width, whole, memory, memory_size = arg(p, 18), arg(p, 19), arg(p, 20), arg(p, 21), arg(p, 22)
        line = memory + thread * memory_size
        middle = line + left * pixel
        fill(line, left * lanes)
        fill(middle + width * pixel, (whole - left - width) * lanes)
        lines = begin // n_rows
        row, n = begin - lines * n_rows, lines // n_blocks
        block = lines - n * n_blocks
        for _ in range(begin, end):
            source = x + n * x_image + block * x_plane + arg(rows, 2 * row) * x_row
            goal = y + n * y_image + block * y_plane + row * y_row
            height = arg(rows, 2 * row + 1)
            if height == 0:
                fill(middle, width * lanes)
            at = 0
            while height > 0 and at < width:
                at = min(at, width - in_columns)
                down(source + at * pixel, below * x_row, height, pixel, middle + at * pixel, 0, np.float32(1))
                at += in_columns
            factor = load(row_factors, row)
            at = 0
            while at < n_columns:
                at = min(at, n_columns - out_columns)
                along(
                    line + at * across * pixel, apart * pixel, taps, across * pixel,
                    goal + at * pixel, column_factors + 4 * at, factor,
                )  # fmt: skip
                at += out_columns
            row += 1
            if row == n_rows:
                row = 0
                block += 1
            if block == n_blocks:
                block = 0
                n += 1

    return kernel


# Windows of plain tensors -------------------------------------------------------------------------

_COMPUTED = {"float16": "float32", "bfloat16": "float32"}


def plain_windows(dtype: str, kind: str, stride: int):
    """Pool (N, C, D, H, W) of any type; a unit is a row of the output.

    Rows are combined first, then their columns. In `thread`'s memory lie a row with its padding,
    which holds the identity, and a row of results.

    Args:
        kind: "max", "mean", or "lp1" and "lp2", the p-norms.
        stride: that of the columns, 0 for any.
    """
    load, store = access(dtype)
    wide = _COMPUTED.get(dtype, dtype)
    get, put = access(wide)
    is_max, is_mean = kind == "max", kind == "mean"
    is_float = wide.startswith("float")
    typed = np.dtype(wide).type
    if is_max:
        identity = typed(-np.inf) if is_float else typed(np.iinfo(wide).min)
    else:
        identity = typed(0)
    size = np.dtype(wide).itemsize

    @device
    def taken(value):
        if kind == "lp1":
            return typed(abs(value))
        if kind == "lp2":
            return typed(value * value)
        return typed(value)

    @device
    def joined(old, new):
        if not is_max:
            return typed(old + new)
        if is_float:
            return old if (old > new) | (old != old) else new
        return old if old > new else new

    @device
    def add_row(buffer, x, n):
        for i in range(n):
            put(buffer, i, joined(get(buffer, i), taken(load(x, i))))

    @device
    def fill(buffer, n):
        for i in range(n):
            put(buffer, i, identity)

    @device
    def across(result, buffer, n, step, width, apart):
        for i in range(n):
            put(result, i, get(buffer, i * (stride or step)))
        for k in range(1, width):
            shifted = buffer + k * apart * size
            for i in range(n):
                put(result, i, joined(get(result, i), get(shifted, i * (stride or step))))

    @device
    def finish(y, result, n, others, counts):
        for i in range(n):
            value = get(result, i)
            if is_mean:
                value = value / (others * get(counts, i))
            elif kind == "lp2":
                value = typed(np.sqrt(value))
            store(y, i, value)

    def kernel(p, begin, end, thread):
        x, y, memory, memory_size = arg(p, 0), arg(p, 1), arg(p, 2), arg(p, 3)
        depth, height, width = arg(p, 4), arg(p, 5), arg(p, 6)
        n_slices, n_rows, n_columns = arg(p, 7), arg(p, 8), arg(p, 9)
        slices, rows, slice_counts, row_counts, column_counts = (
            arg(p, 10), arg(p, 11), arg(p, 12), arg(p, 13), arg(p, 14),
        )  # fmt: skip
        behind, below, apart = arg(p, 15), arg(p, 16), arg(p, 17)
        left, whole, step, taps, itemsize = arg(p, 18), arg(p, 19), arg(p, 20), arg(p, 21), arg(p, 22)
        buffer = memory + thread * memory_size
        result = buffer + whole * size
        for unit in range(begin, end):
            lines = unit // n_rows
            row = unit - lines * n_rows
            plane = lines // n_slices
            part = lines - plane * n_slices
            fill(buffer, whole)
            for z in range(arg(slices, 2 * part + 1)):
                line = (plane * depth + arg(slices, 2 * part) + z * behind) * height + arg(rows, 2 * row)
                for i in range(arg(rows, 2 * row + 1)):
                    add_row(buffer + left * size, x + (line + i * below) * width * itemsize, width)
            across(result, buffer, n_columns, step, taps, apart)
            others = get(slice_counts, part) * get(row_counts, row)
            finish(y + unit * n_columns * itemsize, result, n_columns, others, column_counts)

    return kernel


# Whole images -------------------------------------------------------------------------------------


def _rotating(v, step, held, value):
    """Join a value to the first of several partial results, which then becomes the last."""
    return [*held[1:], step(held[0], value)]


def _joined(step, parts):
    while len(parts) > 1:
        parts = [step(x, y) for x, y in zip(parts[::2], parts[1::2], strict=True)]
    return parts[0]


def blocked_images(lanes: int, is_max: bool):
    """Mean or maximum of each float32 channel; a unit is a block of channels of an image."""

    @intrinsic
    def image(context, x, row, height, width, y, kept, count):
        def generate(ctx, builder, signature, values):
            x, row, height, width, y, kept, count = values
            v, b = Vectors(builder, lanes=lanes), builder
            identity, step = _reduction(v, is_max)

            def line(i, held):
                place = v.pointer(x, index=b.mul(i, row))

                def one(at, parts):
                    return _rotating(v, step, parts, v.load(place, index=v.mul(at, v.nbytes)))

                return [step(held[0], _joined(step, v.loop(width, [identity] * _SUMS, one)))]

            (found,) = v.loop(height, [identity], line)
            if not is_max:
                found = b.fdiv(found, v.splat(count))
            v.store_masked(v.mask(kept), found, y)
            return ctx.get_dummy_value()

        return types.void(*[types.int64] * 6, types.float32), generate

    def kernel(p, begin, end, thread):
        x, image_step, plane, row = arg(p, 0), arg(p, 1), arg(p, 2), arg(p, 3)
        y, y_image, y_plane = arg(p, 4), arg(p, 5), arg(p, 6)
        n_blocks, height, width, channels, count = arg(p, 7), arg(p, 8), arg(p, 9), arg(p, 10), arg(p, 11)
        for unit in range(begin, end):
            n = unit // n_blocks
            block = unit - n * n_blocks
            kept = min(lanes, channels - block * lanes)
            source = x + n * image_step + block * plane
            image(source, row, height, width, y + n * y_image + block * y_plane, kept, np.float32(count))

    return kernel


def plain_images(dtype: str, is_max: bool):
    """Mean or maximum of adjacent elements; a unit is one result. float32 and float64."""
    load, store = access(dtype)
    element = _KINDS[dtype]
    typed = np.dtype(dtype).type
    lanes = Vectors(None, element).lanes

    @intrinsic
    def whole(context, x, lines, vectors, tail):
        """Reduce `lines` x `vectors` vectors, then `tail` elements, fewer than a vector."""

        def generate(ctx, builder, signature, values):
            x, lines, vectors, tail = values
            v, b = Vectors(builder, element), builder
            identity, step = _reduction(v, is_max)

            def line(i, held):
                place = v.pointer(x, index=b.mul(i, v.mul(vectors, v.nbytes)))

                def one(at, parts):
                    return _rotating(v, step, parts, v.load(place, index=v.mul(at, v.nbytes)))

                return [step(held[0], _joined(step, v.loop(vectors, [identity] * _SUMS, one)))]

            (found,) = v.loop(lines, [identity], line)
            behind = b.mul(b.mul(lines, vectors), I64(v.nbytes))
            rest = v.load_masked(v.mask(tail), x, index=behind, other=-np.inf if is_max else 0)
            return _across(v, step(found, rest), is_max)

        kind = types.float32 if dtype == "float32" else types.float64
        return kind(*[types.int64] * 4), generate

    size = np.dtype(dtype).itemsize

    @device
    def larger(a, b):
        return a if (a > b) | (a != a) else b

    def kernel(p, begin, end, thread):
        x, y, n = arg(p, 0), arg(p, 1), arg(p, 2)
        vectors = n // lanes
        tail = n - vectors * lanes
        lines = vectors // _LINE
        for unit in range(begin, end):
            source = x + unit * n * size
            value = typed(-np.inf) if is_max else typed(0)
            done = 0
            if lines > 0:
                value = whole(source, lines, _LINE, 0)
                done = lines * _LINE
            if vectors > done:
                rest = whole(source + done * lanes * size, 1, vectors - done, tail)
                value = larger(value, rest) if is_max else value + rest
            else:
                for i in range(done * lanes, n):
                    value = larger(value, load(source, i)) if is_max else value + load(source, i)
            store(y, unit, value if is_max else value / typed(n))

    return kernel


def _across(v, value, is_max):
    """Emit the sum, or the maximum, of a vector's lanes."""
    if not is_max:
        return v.sum(value)
    b = v.builder
    function = declare(b, f"llvm.vector.reduce.fmaximum.{v.suffix}", v.element, [v.type])
    return b.call(function, [value])


def narrow_images(dtype: str, is_max: bool):
    """Mean or maximum of adjacent float16 or bfloat16 in float32, rounded once; a unit is one result."""
    load, store = access(dtype)

    @device
    def larger(a, b):
        return a if (a > b) | (a != a) else b

    def kernel(p, begin, end, thread):
        x, y, n = arg(p, 0), arg(p, 1), arg(p, 2)
        for unit in range(begin, end):
            source = x + unit * n * 2
            value = np.float32(-np.inf) if is_max else np.float32(0)
            at = 0
            while at < n:
                stop = min(n, at + _LINE)
                part = np.float32(-np.inf) if is_max else np.float32(0)
                for i in range(at, stop):
                    part = larger(part, load(source, i)) if is_max else part + load(source, i)
                value = larger(value, part) if is_max else value + part
                at = stop
            store(y, unit, value if is_max else value / np.float32(n))

    return kernel
