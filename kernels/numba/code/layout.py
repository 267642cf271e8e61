"""Native code of layout conversion: squares of channels by pixels turned over in registers."""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from onnxref.native.ops import F32, I32, I64, access, arg, copy_bytes, device, fill_bytes
from onnxref.native.vectors import Vectors


def turned(b, rows):
    """Emit the transpose of `lanes` vectors of `lanes` elements."""
    count = len(rows)
    half = count // 2
    # Interleaving row i with row i + count / 2 rotates the bits of an index by one place;
    # after as many steps as there are bits, row and lane have changed places.
    low = [value for i in range(half) for value in (i, count + i)]
    high = [value + half for value in low]
    kind = ir.VectorType(I32, count)
    step = 1
    while step < count:
        pairs = list(zip(rows[:half], rows[half:], strict=True))
        rows = [b.shuffle_vector(x, y, ir.Constant(kind, which)) for x, y in pairs for which in (low, high)]
        step *= 2
    return rows


def _squares(lanes, gather):
    """Make `move(plain, planes, blocked, channels, count)` of one square of `lanes` x `count` <= lanes.

    `planes` is the distance of channels. Lanes from `channels` on are zero when gathered, and not scattered.
    """

    def emit_full(v, plain, step, blocked):
        b = v.builder
        if gather:
            rows = [v.load(plain, index=b.mul(step, I64(c))) for c in range(lanes)]
            for i, row in enumerate(turned(b, rows)):
                v.store(row, blocked, v.nbytes * i)
        else:
            rows = [v.load(blocked, v.nbytes * i) for i in range(lanes)]
            for c, row in enumerate(turned(b, rows)):
                v.store(row, plain, index=b.mul(step, I64(c)))

    def emit_part(v, plain, step, blocked, channels, count):
        b = v.builder
        pixels = v.mask(count)
        none = ir.Constant(pixels.type, [0] * lanes)
        everything = ir.Constant(pixels.type, [1] * lanes)

        def of_channels(c):
            return b.select(b.icmp_signed("<", I64(c), channels), pixels, none)

        def of_pixels(i):
            return b.select(b.icmp_signed("<", I64(i), count), everything, none)

        if gather:
            rows = [v.load_masked(of_channels(c), plain, index=b.mul(step, I64(c))) for c in range(lanes)]
            for i, row in enumerate(turned(b, rows)):
                v.store_masked(of_pixels(i), row, blocked, v.nbytes * i)
        else:
            rows = [v.load_masked(of_pixels(i), blocked, v.nbytes * i) for i in range(lanes)]
            for c, row in enumerate(turned(b, rows)):
                v.store_masked(of_channels(c), row, plain, index=b.mul(step, I64(c)))

    @intrinsic
    def full(context, plain, step, blocked):
        def generate(ctx, builder, signature, values):
            emit_full(Vectors(builder, F32, lanes), *values)
            return ctx.get_dummy_value()

        return types.void(*[types.int64] * 3), generate

    @intrinsic
    def part(context, plain, step, blocked, channels, count):
        def generate(ctx, builder, signature, values):
            emit_part(Vectors(builder, F32, lanes), *values)
            return ctx.get_dummy_value()

        return types.void(*[types.int64] * 5), generate

    return full, part


def blocks(itemsize: int, lanes: int, gather: bool):
    """Move between plain (N, C, H, W) and blocked; a unit is part of a row of a block of channels.

    Args:
        gather: from plain to blocked.
    """
    full, part = _squares(lanes, gather) if itemsize == 4 else _loops(itemsize, lanes, gather)
    pixel = itemsize * lanes

    def kernel(p, begin, end, thread):
        plain, image, plane, row = arg(p, 0), arg(p, 1), arg(p, 2), arg(p, 3)
        blocked, b_image, b_plane, b_row = arg(p, 4), arg(p, 5), arg(p, 6), arg(p, 7)
        channels, n_blocks, n_rows, width, chunk = arg(p, 8), arg(p, 9), arg(p, 10), arg(p, 11), arg(p, 12)
        chunks = (width + chunk - 1) // chunk
        for unit in range(begin, end):
            rest = unit // chunks
            x = (unit - rest * chunks) * chunk
            stop = min(width, x + chunk)
            lines = rest // n_rows
            y = rest - lines * n_rows
            n = lines // n_blocks
            block = lines - n * n_blocks
            source = plain + n * image + block * lanes * plane + y * row
            goal = blocked + n * b_image + block * b_plane + y * b_row
            inside = min(lanes, channels - block * lanes)
            if inside == lanes:
                while x + lanes <= stop:
                    full(source + x * itemsize, plane, goal + x * pixel)
                    x += lanes
            while x < stop:
                part(source + x * itemsize, plane, goal + x * pixel, inside, min(lanes, stop - x))
                x += lanes

    return kernel


def _loops(itemsize, lanes, gather):
    """Make the functions of `_squares` for elements of any size."""
    load, store = access(f"int{8 * itemsize}")

    @device
    def part(plain, step, blocked, channels, count):
        for i in range(count):
            for c in range(lanes):
                at = i * lanes + c
                if gather:
                    store(blocked, at, load(plain + c * step, i) if c < channels else 0)
                elif c < channels:
                    store(plain + c * step, i, load(blocked, at))

    @device
    def full(plain, step, blocked):
        part(plain, step, blocked, lanes, lanes)

    return full, part


def copied_rows():
    """Copy rows of blocked tensors with different borders; a unit is a row of a block."""

    def kernel(p, begin, end, thread):
        source, goal, nbytes = arg(p, 0), arg(p, 1), arg(p, 2)
        image, plane, row = arg(p, 3), arg(p, 4), arg(p, 5)
        to_image, to_plane, to_row = arg(p, 6), arg(p, 7), arg(p, 8)
        n_blocks, n_rows = arg(p, 9), arg(p, 10)
        for unit in range(begin, end):
            lines = unit // n_rows
            y = unit - lines * n_rows
            n = lines // n_blocks
            block = lines - n * n_blocks
            at = source + n * image + block * plane + y * row
            copy_bytes(goal + n * to_image + block * to_plane + y * to_row, at, nbytes)

    return kernel


def zeroed():
    """Fill memory with zeros; a unit is `chunk` bytes."""

    def kernel(p, begin, end, thread):
        goal, nbytes, chunk = arg(p, 0), arg(p, 1), arg(p, 2)
        first = begin * chunk
        fill_bytes(goal + first, 0, min(nbytes, end * chunk) - first)

    return kernel
