"""Kernels that check indices met at run time and turn them into places in bytes.

An index out of range leaves word at the address FAULT, and counts as 0 from there on.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from onnxref.native.ops import access, arg, device

_, _store_place = access("int64")


@cache
def _checked(index: str):
    """Return the function that reads an index and returns it counted from the front."""
    load, _ = access(index)

    @device
    def checked(indices, i, lowest, size, fault):
        value = np.int64(load(indices, i))
        if value < lowest or value >= size:
            _store_place(fault, 0, 1)
            value = np.int64(0)
        return value + size if value < 0 else value

    return checked


def axis_places(index: str):
    """Kernel for indices along one axis: indices, places, FAULT, lowest index, size of the axis, bytes from
    one index to the next, then the last dimension of the indices (size, bytes per position), the number of
    dimensions before it, and for each of those its size and bytes per position. Units: indices."""
    checked = _checked(index)

    def kernel(p, begin, end, thread):
        indices, places, fault, lowest = arg(p, 0), arg(p, 1), arg(p, 2), arg(p, 3)
        size, step, row, row_step = arg(p, 4), arg(p, 5), arg(p, 6), arg(p, 7)
        unit = begin
        while unit < end:
            outer = unit // row
            first = unit - outer * row
            count = min(row - first, end - unit)
            base = first * row_step
            for k in range(arg(p, 8) - 1, -1, -1):
                extent = arg(p, 9 + 2 * k)
                quotient = outer // extent
                base += (outer - quotient * extent) * arg(p, 10 + 2 * k)
                outer = quotient
            for j in range(count):
                value = checked(indices, unit + j, lowest, size, fault)
                _store_place(places, unit + j, base + value * step + j * row_step)
            unit += count

    return kernel


def tuple_places(index: str):
    """Kernel for tuples of indices: indices, places, FAULT, length of a tuple, tuples per batch, bytes per
    batch, then for each index of a tuple its axis' size and bytes from one to the next. Units: tuples."""
    checked = _checked(index)

    def kernel(p, begin, end, thread):
        indices, places, fault, length, batch = arg(p, 0), arg(p, 1), arg(p, 2), arg(p, 3), arg(p, 4)
        for unit in range(begin, end):
            place = unit // batch * arg(p, 5)
            for k in range(length):
                size = arg(p, 6 + 2 * k)
                place += checked(indices, unit * length + k, -size, size, fault) * arg(p, 7 + 2 * k)
            _store_place(places, unit, place)

    return kernel


def check_range(index: str):
    """Kernel that only checks: values, FAULT, lowest, first that is too large. Units: values."""
    load, _ = access(index)

    def kernel(p, begin, end, thread):
        lowest, limit = arg(p, 2), arg(p, 3)
        for unit in range(begin, end):
            value = np.int64(load(arg(p, 0), unit))
            if value < lowest or value >= limit:
                _store_place(arg(p, 1), 0, 1)

    return kernel
