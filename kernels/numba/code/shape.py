"""Kernels that move elements: copies between two boxes of any strides.

A box call has these arguments: source, goal, then the two inner dimensions (m, its goal stride, its
source stride, n, its goal stride, its source stride), the number of outer dimensions, and for each of
them, outermost first, its size, goal stride and source stride. Strides of n count elements, all
others bytes. Elements are moved as unsigned integers of their size.
"""

from __future__ import annotations

from functools import cache

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from onnxref.native.ops import I8, I16, I32, I64, access, arg, copy_bytes, device, typed_pointer

_M, _M_TO, _M_FROM, _N, _N_TO, _N_FROM, _RANK, _OUTER = range(2, 10)
_BY_CALL = 1024  # bytes of a row from which on memcpy is worth its call


@cache
def mover(count: int):
    """Return an intrinsic that copies `count` bytes from any address to any other."""

    @intrinsic
    def move(context, goal, source):
        def generate(ctx, builder, signature, values):
            kind = ir.VectorType(I8, count)
            value = builder.load(typed_pointer(builder, values[1], 0, kind), align=1)
            builder.store(value, typed_pointer(builder, values[0], 0, kind), align=1)
            return ctx.get_dummy_value()

        return types.void(types.int64, types.int64), generate

    return move


_move1, _move2, _move4, _move8, _move16, _move32, _move64 = (mover(1 << i) for i in range(7))


@device
def copy_row(goal, source, count):
    """memcpy that is quick for short rows: whole vectors, the last one shifted back over the one before."""
    if count >= _BY_CALL:
        copy_bytes(goal, source, count)
    elif count >= 64:
        for at in range(0, count - 64, 64):
            _move64(goal + at, source + at)
        _move64(goal + count - 64, source + count - 64)
    elif count >= 32:
        _move32(goal, source)
        _move32(goal + count - 32, source + count - 32)
    elif count >= 16:
        _move16(goal, source)
        _move16(goal + count - 16, source + count - 16)
    elif count >= 8:
        _move8(goal, source)
        _move8(goal + count - 8, source + count - 8)
    elif count >= 4:
        _move4(goal, source)
        _move4(goal + count - 4, source + count - 4)
    elif count >= 2:
        _move2(goal, source)
        _move2(goal + count - 2, source + count - 2)
    elif count == 1:
        _move1(goal, source)


@device
def _outer_offset(p, index, field):
    """Byte offset of outer position `index`; field 1 is in the goal, 2 in the source."""
    offset = 0
    for k in range(arg(p, _RANK) - 1, -1, -1):
        at = _OUTER + 3 * k
        size = arg(p, at)
        quotient = index // size
        offset += (index - quotient * size) * arg(p, at + field)
        index = quotient
    return offset


def flat():
    """Kernel that copies bytes, or nothing where both are one place: source, goal, count, bytes per unit."""

    def kernel(p, begin, end, thread):
        count, step = arg(p, 2), arg(p, 3)
        start, stop = begin * step, min(end * step, count)
        if arg(p, 0) != arg(p, 1):
            copy_row(arg(p, 1) + start, arg(p, 0) + start, stop - start)

    return kernel


def rows():
    """Kernel of a box whose rows are contiguous on both sides; n counts bytes. Units: rows."""

    def kernel(p, begin, end, thread):
        m, m_to, m_from, n = arg(p, _M), arg(p, _M_TO), arg(p, _M_FROM), arg(p, _N)
        unit = begin
        while unit < end:
            outer = unit // m
            first = unit - outer * m
            count = min(m - first, end - unit)
            goal = arg(p, 1) + _outer_offset(p, outer, 1) + first * m_to
            source = arg(p, 0) + _outer_offset(p, outer, 2) + first * m_from
            for _ in range(count):
                copy_row(goal, source, n)
                goal += m_to
                source += m_from
            unit += count

    return kernel


def strided(size: int):
    """Kernel of any box of elements of `size` bytes. Units: rows."""
    load, store = access(f"uint{8 * size}")

    @device
    def copy_elements(goal, source, n, n_to, n_from):
        if n_to == 1 and n_from == 0:
            value = load(source, 0)
            for i in range(n):
                store(goal, i, value)
        elif n_to == 1 and n_from == -1:
            for i in range(n):
                store(goal, i, load(source, -i))
        elif n_to == 1 and n_from == 2:
            for i in range(n):
                store(goal, i, load(source, 2 * i))
        else:
            for i in range(n):
                store(goal, i * n_to, load(source, i * n_from))

    def kernel(p, begin, end, thread):
        m, m_to, m_from = arg(p, _M), arg(p, _M_TO), arg(p, _M_FROM)
        n, n_to, n_from = arg(p, _N), arg(p, _N_TO), arg(p, _N_FROM)
        unit = begin
        while unit < end:
            outer = unit // m
            first = unit - outer * m
            count = min(m - first, end - unit)
            goal = arg(p, 1) + _outer_offset(p, outer, 1) + first * m_to
            source = arg(p, 0) + _outer_offset(p, outer, 2) + first * m_from
            for _ in range(count):
                copy_elements(goal, source, n, n_to, n_from)
                goal += m_to
                source += m_from
            unit += count

    return kernel


@cache
def transpose_tile(size: int, edge: int):
    """Return an intrinsic that transposes `edge` x `edge` elements: rows of both sides are contiguous."""
    element = {1: I8, 2: I16, 4: I32, 8: I64}[size]
    kind = ir.VectorType(element, edge)

    def exchange(builder, low, high, width):
        """Emit the exchange of the off-diagonal blocks of `width` elements between two rows."""
        first, second = [], []
        for i in range(edge):
            in_upper = i & width
            first.append(i - width + edge if in_upper else i)
            second.append(i + edge if in_upper else i + width)
        index = ir.VectorType(I32, edge)
        return (
            builder.shuffle_vector(low, high, ir.Constant(index, first)),
            builder.shuffle_vector(low, high, ir.Constant(index, second)),
        )

    @intrinsic
    def tile(context, goal, goal_stride, source, source_stride):
        def generate(ctx, builder, signature, values):
            to, to_stride, origin, from_stride = values
            lines = []
            for i in range(edge):
                place = builder.add(origin, builder.mul(from_stride, I64(i)))
                lines.append(builder.load(typed_pointer(builder, place, 0, kind), align=size))
            width = edge // 2
            while width:
                for i in range(edge):
                    if not i & width:
                        lines[i], lines[i + width] = exchange(builder, lines[i], lines[i + width], width)
                width //= 2
            for i, line in enumerate(lines):
                place = builder.add(to, builder.mul(to_stride, I64(i)))
                builder.store(line, typed_pointer(builder, place, 0, kind), align=size)
            return ctx.get_dummy_value()

        return types.void(*[types.int64] * 4), generate

    return tile


def transposed(size: int, edge: int):
    """Kernel of a box whose dimension m is contiguous in the source and n in the goal.

    Both have at least `edge` elements. Units: stripes of `edge` elements of m and all of n; the last
    one may reach back into the one before, and writes the same values there.
    """
    tile = transpose_tile(size, edge)

    def kernel(p, begin, end, thread):
        m, m_to, n, n_from = arg(p, _M), arg(p, _M_TO), arg(p, _N), size * arg(p, _N_FROM)
        stripes = (m + edge - 1) // edge
        for unit in range(begin, end):
            outer = unit // stripes
            first = min((unit - outer * stripes) * edge, m - edge)
            goal = arg(p, 1) + _outer_offset(p, outer, 1) + first * m_to
            source = arg(p, 0) + _outer_offset(p, outer, 2) + first * size
            for at in range(0, n - edge, edge):
                tile(goal + at * size, m_to, source + at * n_from, n_from)
            tile(goal + (n - edge) * size, m_to, source + (n - edge) * n_from, n_from)

    return kernel


def interleaved(size: int, n: int):
    """Kernel of a box whose dimension m is contiguous in the source, and n few elements beside each
    other in the goal, the rows of m right behind each other. Units: outer positions."""
    load, store = access(f"uint{8 * size}")

    @device
    def weave(goal, source, m, step):
        if n == 2:
            for i in range(m):
                a, b = load(source, i), load(source + step, i)
                store(goal, 2 * i, a)
                store(goal, 2 * i + 1, b)
        elif n == 3:
            for i in range(m):
                a, b, c = load(source, i), load(source + step, i), load(source + 2 * step, i)
                store(goal, 3 * i, a)
                store(goal, 3 * i + 1, b)
                store(goal, 3 * i + 2, c)
        else:
            for i in range(m):
                a, b = load(source, i), load(source + step, i)
                c, d = load(source + 2 * step, i), load(source + 3 * step, i)
                store(goal, 4 * i, a)
                store(goal, 4 * i + 1, b)
                store(goal, 4 * i + 2, c)
                store(goal, 4 * i + 3, d)

    def kernel(p, begin, end, thread):
        m, step = arg(p, _M), size * arg(p, _N_FROM)
        for unit in range(begin, end):
            goal = arg(p, 1) + _outer_offset(p, unit, 1)
            weave(goal, arg(p, 0) + _outer_offset(p, unit, 2), m, step)

    return kernel


def parted(size: int, m: int):
    """Kernel of the opposite of `interleaved`: m few elements beside each other in the source, n
    contiguous in the goal. Units: outer positions."""
    load, store = access(f"uint{8 * size}")

    @device
    def unweave(goal, source, n, step):
        if m == 2:
            for i in range(n):
                a, b = load(source, 2 * i), load(source, 2 * i + 1)
                store(goal, i, a)
                store(goal + step, i, b)
        elif m == 3:
            for i in range(n):
                a, b, c = load(source, 3 * i), load(source, 3 * i + 1), load(source, 3 * i + 2)
                store(goal, i, a)
                store(goal + step, i, b)
                store(goal + 2 * step, i, c)
        else:
            for i in range(n):
                a, b = load(source, 4 * i), load(source, 4 * i + 1)
                c, d = load(source, 4 * i + 2), load(source, 4 * i + 3)
                store(goal, i, a)
                store(goal + step, i, b)
                store(goal + 2 * step, i, c)
                store(goal + 3 * step, i, d)

    def kernel(p, begin, end, thread):
        n, step = arg(p, _N), arg(p, _M_TO)
        for unit in range(begin, end):
            goal = arg(p, 1) + _outer_offset(p, unit, 1)
            unweave(goal, arg(p, 0) + _outer_offset(p, unit, 2), n, step)

    return kernel
