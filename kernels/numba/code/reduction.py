"""Reductions, arg-extremes and scans along the middle axis of (outer, n, inner).

Accumulators: float32 for float32 and narrower, float64 for double, 64 bits for integers, which wrap
when they are stored.
"""

from __future__ import annotations

import math

import numpy as np
from numba import float32, int32, int64, uint64

from onnxref.native._target import target
from onnxref.native.ops import access, arg, called

from ._math import inline
from ._rows import exponentials, extreme, short_rows, total

LANES = target().lanes
_SHORT = 32 * LANES  # elements up to which rows are summed side by side
_SPAN = 256  # columns that are worked on at a time
_PIECE = 4096

_NARROW = ("float16", "bfloat16")
_free_order = called(inline="never", fastmath={"contract", "reassoc", "nsz"})
"""Decorator of sums whose order is open: the compiler takes as many partial sums as suit it."""


def accumulator(dtype: str) -> str:
    """Return the type that elements of a type are accumulated in."""
    if dtype in ("float32", *_NARROW):
        return "float32"
    if dtype == "float64":
        return "float64"
    return "int64" if dtype.startswith("int") else "uint64"


def _limits(dtype):
    """Return the least and the greatest value of a type, as accumulators."""
    kind = np.dtype(accumulator(dtype)).type
    if dtype == "bool":
        return kind(0), kind(1)
    if kind in (np.float32, np.float64):
        return kind(-np.inf), kind(np.inf)
    info = np.iinfo(dtype)
    return kind(info.min), kind(info.max)


def _algebra(op, dtype):
    """Return (start, lift, combine): the neutral accumulator, element to accumulator, two to one."""
    name = accumulator(dtype)
    kind = np.dtype(name).type
    least, greatest = _limits(dtype)
    start = {"max": least, "min": greatest, "prod": kind(1)}.get(op, kind(0))

    @inline
    def plain(value):
        return kind(value)

    @inline
    def magnitude(value):
        return kind(value) if value > 0 or value != value else kind(-kind(value))

    @inline
    def square(value):
        return kind(value) * kind(value)

    @inline
    def add(a, b):
        return a + b

    @inline
    def multiply(a, b):
        return a * b

    @inline
    def larger(a, b):  # NaN stays
        return b if (b > a) | (b != b) else a

    @inline
    def smaller(a, b):
        return b if (b < a) | (b != b) else a

    lift = {"abs": magnitude, "square": square}.get(op, plain)
    if op == "abs" and name == "uint64":
        lift = plain
    return start, lift, {"max": larger, "min": smaller, "prod": multiply}.get(op, add)


def _row_reducer(op, dtype):
    """Return a function (address, n) -> accumulator (float64 for sums of floats) over a row."""
    name = accumulator(dtype)
    if dtype in ("float32", "float64") and op != "prod":
        zero = np.dtype(dtype).type(0)
        if op in ("max", "min"):
            return extreme(dtype, op == "max", True)
        summed = total(dtype, op)

        @inline
        def vectors(x, n):
            return summed(x, n, zero)

        return vectors
    read, _ = access(dtype)
    start, lift, combine = _algebra(op, dtype)
    if name == "float32" and op not in ("max", "min", "prod"):

        @_free_order
        def piece(x, first, last):
            result = start
            for i in range(first, last):
                result += lift(read(x, i))
            return result

        @inline
        def pieces(x, n):
            result = 0.0
            for first in range(0, n, _PIECE):
                result += float(piece(x, first, min(first + _PIECE, n)))
            return result

        return pieces

    @inline
    def in_order(x, n):
        result = start
        for i in range(n):
            result = combine(result, lift(read(x, i)))
        return result

    return in_order


def _finisher(final, source, goal):
    """Return a function (accumulator, count) -> element of `goal`: "", "mean", "root" or "log"."""
    wide = accumulator(goal)
    kind = np.dtype(wide).type
    is_float = wide in ("float32", "float64")
    is_signed = wide == "int64"
    least, greatest = _limits(goal)

    @inline
    def as_it_is(value, count):
        return kind(value)

    @inline
    def mean(value, count):
        return kind(value / kind(count))

    @inline
    def signed_mean(value, count):
        quotient = value // max(count, 1)
        return quotient + int64(1 if quotient < 0 and quotient * count != value else 0)

    @inline
    def unsigned_mean(value, count):
        return uint64(value // uint64(max(count, 1)))

    @inline
    def root(value, count):
        return kind(math.sqrt(value))

    @inline
    def logarithm(value, count):
        return kind(math.log(value))

    @inline
    def saturated(value):
        if value != value:
            return kind(0)
        if value <= float(least):
            return least
        return greatest if value >= float(greatest) else kind(value)

    @inline
    def integer_root(value, count):
        return saturated(math.sqrt(float(value)))

    @inline
    def integer_logarithm(value, count):
        return saturated(math.log(float(value)))

    if not final:
        return as_it_is
    if is_float:
        return {"mean": mean, "root": root, "log": logarithm}[final]
    means = signed_mean if is_signed else unsigned_mean
    return {"mean": means, "root": integer_root, "log": integer_logarithm}[final]


def _wrapped(source, goal, final):
    """Return a function that makes of an accumulator what its sum in the type `goal` itself is.

    Before a root or a logarithm, integers wrap; what is only stored wraps by that.
    """
    wide = accumulator(goal)
    kind = np.dtype(wide).type
    if final not in ("root", "log") or wide in ("float32", "float64"):

        @inline
        def same(value):
            return value

        return same
    own = np.dtype(goal).type

    @inline
    def wrap(value):
        return kind(own(value))

    return wrap


def rows(op, source, goal, final):
    """Reduce rows.

    Arguments: x, y, n, parts of a row, elements in a part, count that a mean divides by.
    Units: rows times parts; y has one element for each.
    """
    reducer, finish = _row_reducer(op, source), _finisher(final, source, goal)
    wrap = _wrapped(source, goal, final)
    size = 2 if source == "bfloat16" else np.dtype(source).itemsize
    read, write = access(goal)
    beside = source == goal == "float32" and op in ("sum", "abs", "square")
    sums = short_rows(op if beside else "sum")

    def kernel(p, begin, end, thread):
        n, parts, length, count = arg(p, 2), arg(p, 3), arg(p, 4), arg(p, 5)
        if beside and 0 < n <= _SHORT and parts == 1:
            for unit in range(begin, end, LANES):
                sums(arg(p, 1) + 4 * unit, arg(p, 0) + 4 * unit * n, n, min(LANES, end - unit))
            if final:
                for unit in range(begin, end):
                    write(arg(p, 1), unit, finish(read(arg(p, 1), unit), count))
            return
        for unit in range(begin, end):
            row, part = unit // parts, unit % parts
            first = part * length
            x = arg(p, 0) + (row * n + first) * size
            write(arg(p, 1), unit, finish(wrap(reducer(x, min(length, n - first))), count))

    return kernel


def columns(op, source, goal, final):
    """Reduce the middle axis.

    Arguments: x, y, n, inner, parts of n, rows in a part, count, scratch of 256 accumulators for each
    thread, its bytes. Units: outer times parts times pieces of 256 columns; y is (outer, parts, inner).
    """
    start, lift, combine = _algebra(op, source)
    finish, wrap = _finisher(final, source, goal), _wrapped(source, goal, final)
    size, goal_size = (2 if d == "bfloat16" else np.dtype(d).itemsize for d in (source, goal))
    read, _ = access(source)
    _, write = access(goal)
    held, hold = access(accumulator(source))

    def kernel(p, begin, end, thread):
        n, inner, parts, length, count = arg(p, 2), arg(p, 3), arg(p, 4), arg(p, 5), arg(p, 6)
        sums = arg(p, 7) + thread * arg(p, 8)
        pieces = (inner + _SPAN - 1) // _SPAN
        for unit in range(begin, end):
            row, piece = unit // pieces, unit % pieces
            outer, part = row // parts, row % parts
            width = min(inner - piece * _SPAN, _SPAN)
            rows_here = min(length, n - part * length)
            x = arg(p, 0) + ((outer * n + part * length) * inner + piece * _SPAN) * size
            y = arg(p, 1) + (row * inner + piece * _SPAN) * goal_size
            for j in range(width):
                hold(sums, j, start)
            fours = rows_here // 4 * 4
            for i in range(0, fours, 4):
                at = x + i * inner * size
                for j in range(width):
                    one = combine(lift(read(at, j)), lift(read(at, j + inner)))
                    two = combine(lift(read(at, j + 2 * inner)), lift(read(at, j + 3 * inner)))
                    hold(sums, j, combine(held(sums, j), combine(one, two)))
            for i in range(fours, rows_here):
                at = x + i * inner * size
                for j in range(width):
                    hold(sums, j, combine(held(sums, j), lift(read(at, j))))
            for j in range(width):
                write(y, j, finish(wrap(held(sums, j)), count))

    return kernel


# --- log-sum-exp ---------------------------------------------------------------------------------


def log_sum_exp_rows():
    """float32. Arguments: x, y, n. Units: rows."""
    greatest, powers = extreme("float32", True, True), exponentials(False)
    _, write = access("float32")

    def kernel(p, begin, end, thread):
        n = arg(p, 2)
        for row in range(begin, end):
            x = arg(p, 0) + row * n * 4
            top = greatest(x, n)
            if abs(top) < np.inf:
                result = float32(top + math.log(powers(x, x, n, top)))
            else:
                result = top  # an infinity or NaN; -infinity where the row is empty
            write(arg(p, 1), row, result)

    return kernel


# --- arg-extremes --------------------------------------------------------------------------------


def arg_rows(dtype, greatest, last):
    """Index of the first or last extreme of each row; NaN counts as one. Arguments: x, y, n."""
    best = _row_reducer("max" if greatest else "min", dtype)
    size = 2 if dtype == "bfloat16" else np.dtype(dtype).itemsize
    read, _ = access(dtype)
    _, write = access("int64")

    def kernel(p, begin, end, thread):
        n = arg(p, 2)
        for row in range(begin, end):
            x = arg(p, 0) + row * n * size
            top = best(x, n)
            found = int64(-1) if last else n
            if top == top:
                for i in range(n):
                    if last:
                        found = max(found, i if read(x, i) == top else int64(-1))
                    else:
                        found = min(found, i if read(x, i) == top else n)
            else:
                for i in range(n):
                    value = read(x, i)
                    if last:
                        found = max(found, i if value != value else int64(-1))
                    else:
                        found = min(found, i if value != value else n)
            write(arg(p, 1), row, found)

    return kernel


def arg_columns(dtype, greatest, last):
    """Index of extremes along the middle axis. Arguments as those of `softmax_columns`."""
    name = accumulator(dtype)
    size = 2 if dtype == "bfloat16" else np.dtype(dtype).itemsize
    wide = np.dtype(name).itemsize
    read, _ = access(dtype)
    held, hold = access(name)
    place, put = access("int32")
    _, write = access("int64")

    @inline
    def beats(value, best):
        nan = value != value
        if last:
            return ((value >= best) if greatest else (value <= best)) | nan
        return ((value > best) if greatest else (value < best)) | (nan & (best == best))

    def kernel(p, begin, end, thread):
        n, inner = arg(p, 2), arg(p, 3)
        best = arg(p, 4) + thread * arg(p, 5)
        where = best + _SPAN * wide
        pieces = (inner + _SPAN - 1) // _SPAN
        for unit in range(begin, end):
            outer, piece = unit // pieces, unit % pieces
            x = arg(p, 0) + (outer * n * inner + piece * _SPAN) * size
            width = min(inner - piece * _SPAN, _SPAN)
            for j in range(width):
                hold(best, j, read(x, j))
                put(where, j, int32(0))
            for i in range(1, n):
                at = x + i * inner * size
                for j in range(width):
                    value, old = read(at, j), held(best, j)
                    wins = beats(value, old)
                    hold(best, j, value if wins else old)
                    put(where, j, int32(i) if wins else place(where, j))
            for j in range(width):
                write(arg(p, 1), outer * inner + piece * _SPAN + j, int64(place(where, j)))

    return kernel


# --- scans ---------------------------------------------------------------------------------------


def scan(op, dtype):
    """CumSum ("sum") and CumProd ("prod"), in the order of the elements.

    Arguments: x, y, n, inner, scratch of 256 accumulators per thread, its bytes, exclusive, reverse.
    Units: outer times pieces of 256 columns.
    """
    start, lift, combine = _algebra(op, dtype)
    size = 2 if dtype == "bfloat16" else np.dtype(dtype).itemsize
    read, write = access(dtype)
    held, hold = access(accumulator(dtype))

    def kernel(p, begin, end, thread):
        n, inner = arg(p, 2), arg(p, 3)
        sums = arg(p, 4) + thread * arg(p, 5)
        exclusive, reverse = arg(p, 6), arg(p, 7)
        pieces = (inner + _SPAN - 1) // _SPAN
        for unit in range(begin, end):
            outer, piece = unit // pieces, unit % pieces
            first = (outer * n * inner + piece * _SPAN) * size
            width = min(inner - piece * _SPAN, _SPAN)
            if width == 1 and exclusive == 0:
                running = start
                for i in range(n):
                    at = first + (n - 1 - i if reverse else i) * inner * size
                    running = combine(running, lift(read(arg(p, 0) + at, 0)))
                    write(arg(p, 1) + at, 0, running)
                continue
            for j in range(width):
                hold(sums, j, start)
            for i in range(n):
                at = first + (n - 1 - i if reverse else i) * inner * size
                x, y = arg(p, 0) + at, arg(p, 1) + at
                for j in range(width):
                    before = held(sums, j)
                    # What is behind the last element of an exclusive scan is never asked for.
                    after = combine(before, lift(read(x, j)))
                    write(y, j, before if exclusive else after)
                    hold(sums, j, after)

    return kernel
