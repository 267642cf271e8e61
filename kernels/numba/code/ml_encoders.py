"""Kernels that look numbers up in a sorted table."""

from __future__ import annotations

from functools import cache

import numpy as np

from onnxref.native.ops import access, arg, device

BLOCK = 1024  # elements of a unit


@cache
def _search(dtype: str):
    """Return `find(keys, count, x)`: the place of x among ascending keys, NaN last, or -1; count >= 1."""
    load, _ = access(dtype)

    @device
    def find(keys, count, x):
        base, left = 0, count
        while left > 1:
            half = left >> 1
            base += half if load(keys, base + half) <= x else 0
            left -= half
        found = load(keys, base)
        if x != x:
            base = count - 1
            found = load(keys, base)
            return base if found != found else -1
        return base if found == x else -1

    return find


def look_up(key: str, size: int):
    """Kernel of LabelEncoder: x, goal, count, keys, number of keys, values with the default behind them.

    Keys are compared as `key`; values are moved as unsigned integers of `size` bytes. Units: blocks of 1024.
    """
    find = _search(key)
    load_key, _ = access(key)
    load, store = access(f"uint{8 * size}")

    def kernel(p, begin, end, thread):
        x, goal, keys, n, values = arg(p, 0), arg(p, 1), arg(p, 3), arg(p, 4), arg(p, 5)
        for i in range(begin * BLOCK, min(end * BLOCK, arg(p, 2))):
            place = find(keys, n, load_key(x, i))
            store(goal, i, load(values, n if place < 0 else place))

    return kernel


def one_hot(dtype: str):
    """Kernel of OneHotEncoder: x, goal, keys, their columns, number of keys, width. Units: elements."""
    find = _search("int64")
    load, _ = access(dtype)
    load_column, _ = access("int64")
    _, store = access("float32")
    is_float = dtype.startswith("float")

    @device
    def cut(value):
        """Return a number as an integer, and whether it is one when cut."""
        if is_float:
            castable = abs(value) < 2.0**63
            return (np.int64(value) if castable else np.int64(0)), castable
        return np.int64(value), True

    def kernel(p, begin, end, thread):
        n, width = arg(p, 4), arg(p, 5)
        for i in range(begin, end):
            row = arg(p, 1) + 4 * i * width
            for k in range(width):
                store(row, k, np.float32(0.0))
            whole, castable = cut(load(arg(p, 0), i))
            place = find(arg(p, 2), n, whole) if castable else -1
            if place >= 0:
                store(row, load_column(arg(p, 3), place), np.float32(1.0))

    return kernel
