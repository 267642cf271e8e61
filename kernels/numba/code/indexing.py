"""Kernels that read and write rows of bytes at places from a table, mark classes, cut triangles."""

from __future__ import annotations

import numpy as np

from onnxref.native.ops import access, arg, device, fill_bytes

from .shape import copy_row

_load_place, _ = access("int64")
_load_word, _store_word = access("uint32")


def take_elements(size: int):
    """Kernel that reads elements: source, goal, places (bytes), how many, source bytes per outer
    position. Units: outer position and place, the place running first."""
    load, store = access(f"uint{8 * size}")

    def kernel(p, begin, end, thread):
        goal, places, count, stride = arg(p, 1), arg(p, 2), arg(p, 3), arg(p, 4)
        unit = begin
        while unit < end:
            outer = unit // count
            first = unit - outer * count
            stop = min(count, first + end - unit)
            source = arg(p, 0) + outer * stride
            for i in range(first, stop):
                store(goal, unit + i - first, load(source + _load_place(places, i), 0))
            unit += stop - first

    return kernel


def take_rows():
    """Kernel that reads rows: as `take_elements`, with the bytes of a row behind."""

    def kernel(p, begin, end, thread):
        count, stride, row = arg(p, 3), arg(p, 4), arg(p, 5)
        for unit in range(begin, end):
            outer = unit // count
            place = _load_place(arg(p, 2), unit - outer * count)
            copy_row(arg(p, 1) + unit * row, arg(p, 0) + outer * stride + place, row)

    return kernel


def put_rows():
    """Kernel that writes rows: updates, goal, place of each in the updates and in the goal (bytes), bytes of
    a row. No two goals are the same. Units: rows."""

    def kernel(p, begin, end, thread):
        row = arg(p, 4)
        for unit in range(begin, end):
            copy_row(arg(p, 1) + _load_place(arg(p, 3), unit), arg(p, 0) + _load_place(arg(p, 2), unit), row)

    return kernel


def put_in_order():
    """Kernel that writes rows one after the other: updates, goal, place of each in the goal, their number,
    bytes of a row and of a part. Units: parts of all rows."""

    def kernel(p, begin, end, thread):
        goal, count, row = arg(p, 1), arg(p, 3), arg(p, 4)
        first, stop = begin * arg(p, 5), min(row, end * arg(p, 5))
        if row == 4:
            for i in range(count):
                _store_word(goal + _load_place(arg(p, 2), i), 0, _load_word(arg(p, 0), i))
        else:
            for i in range(count):
                place = goal + _load_place(arg(p, 2), i) + first
                copy_row(place, arg(p, 0) + i * row + first, stop - first)

    return kernel


def reduce_in_order(dtype: str, reduction: str):
    """Kernel of a scatter with a reduction: as `put_in_order`, but rows and parts count elements.

    NaN wins a maximum and a minimum.
    """
    load, store = access(dtype)
    kind = getattr(np, dtype)

    @device
    def joined(old, new):
        if reduction == "add":
            return kind(old + new)
        if reduction == "mul":
            return kind(old * new)
        if reduction == "max":
            return old if old >= new or old != old else new
        return old if old <= new or old != old else new

    def kernel(p, begin, end, thread):
        count, row = arg(p, 3), arg(p, 4)
        first, stop = begin * arg(p, 5), min(row, end * arg(p, 5))
        for i in range(count):
            goal = arg(p, 1) + _load_place(arg(p, 2), i)
            for j in range(first, stop):
                store(goal, j, joined(load(goal, j), load(arg(p, 0), i * row + j)))

    return kernel


def one_hot(index: str, size: int):
    """Kernel of OneHot: indices, values, goal, classes, inner size, lowest index. Units: outer positions."""
    load_index, _ = access(index)
    load, store = access(f"uint{8 * size}")
    is_float = index.startswith("float")

    @device
    def chosen(indices, at, classes, lowest):
        """Return the class that an index means, or -1."""
        value = load_index(indices, at)
        if is_float:
            wide = np.trunc(np.float64(value))
            inside = wide >= np.float64(lowest) and wide < np.float64(classes)
            whole = np.int64(wide) if inside else np.int64(-1)
        else:
            whole = np.int64(value)
            inside = whole >= lowest and whole < classes
        if not inside:
            return np.int64(-1)
        return whole + classes if whole < 0 else whole

    def kernel(p, begin, end, thread):
        indices, goal, classes, inner = arg(p, 0), arg(p, 2), arg(p, 3), arg(p, 4)
        off, on = load(arg(p, 1), 0), load(arg(p, 1), 1)
        for unit in range(begin, end):
            block = unit * classes * inner
            for i in range(classes * inner):
                store(goal, block + i, off)
            for i in range(inner):
                which = chosen(indices, unit * inner + i, classes, arg(p, 5))
                if which >= 0:
                    store(goal, block + which * inner + i, on)

    return kernel


def triangle():
    """Kernel of Trilu: input, goal, rows, columns, diagonal, whether the upper part stays, bytes of an
    element. Units: rows of all matrices."""

    def kernel(p, begin, end, thread):
        rows, columns, diagonal, upper, size = arg(p, 2), arg(p, 3), arg(p, 4), arg(p, 5), arg(p, 6)
        line = columns * size
        for unit in range(begin, end):
            row = unit % rows
            source, goal = arg(p, 0) + unit * line, arg(p, 1) + unit * line
            first, last = 0, columns
            if upper:
                first = min(max(row + diagonal, 0), columns)
            else:
                last = min(max(row + diagonal + 1, 0), columns)
            fill_bytes(goal, 0, first * size)
            copy_row(goal + first * size, source + first * size, (last - first) * size)
            fill_bytes(goal + last * size, 0, (columns - last) * size)

    return kernel
