"""The k first of rows in order: TopK.

Values become integers in the order of the reference (NaN above all numbers, -0 as +0, signs turned for the
smallest), so that one comparison serves every type. A row keeps its k best in a heap with the worst on
top; among equal values the one of the higher index is worse. The heap is sorted in the end.
"""

from __future__ import annotations

import numpy as np
from numba import int32, int64, uint64

from onnxref.native.ops import access, arg, device, double_as_long, float_as_int

from ._math import inline


def _key(dtype, largest):
    """Return a function from an element to an int64 that is greater for what comes first."""
    sign = int64(0) if largest else int64(-1)

    @inline
    def of_float(value):
        bits = float_as_int(value + np.float32(0))  # -0 becomes +0
        key = int64(bits ^ int32(int32(bits >> int32(31)) & int32(0x7FFFFFFF)))
        return (int64(0x7FFFFFFF) if value != value else key) ^ sign

    @inline
    def of_double(value):
        bits = double_as_long(value + 0.0)
        key = bits ^ ((bits >> 63) & int64(0x7FFFFFFFFFFFFFFF))
        return (int64(0x7FFFFFFFFFFFFFFF) if value != value else key) ^ sign

    @inline
    def of_unsigned(value):
        return int64(uint64(value) ^ uint64(0x8000000000000000)) ^ sign

    @inline
    def of_integer(value):
        return int64(value) ^ sign

    if dtype in ("float16", "bfloat16", "float32"):
        return of_float
    return {"float64": of_double, "uint64": of_unsigned}.get(dtype, of_integer)


_key_at, _put_key = access("int64")


@inline
def _is_worse(keys, places, a, b):
    """Whether entry a comes after entry b."""
    one, two = _key_at(keys, a), _key_at(keys, b)
    return (one < two) | ((one == two) & (_key_at(places, a) > _key_at(places, b)))


@device
def _sift(keys, places, at, size):
    """Move entry `at` of a heap down to where it belongs."""
    key, place = _key_at(keys, at), _key_at(places, at)
    while True:
        child = 2 * at + 1
        if child >= size:
            break
        if child + 1 < size and _is_worse(keys, places, child + 1, child):
            child += 1
        other, where = _key_at(keys, child), _key_at(places, child)
        if not ((other < key) | ((other == key) & (where > place))):
            break
        _put_key(keys, at, other)
        _put_key(places, at, where)
        at = child
    _put_key(keys, at, key)
    _put_key(places, at, place)


@device
def _sort_heap(keys, places, size):
    """Put the entries of a heap in order, the best first."""
    for last in range(size - 1, 0, -1):
        key, place = _key_at(keys, last), _key_at(places, last)
        _put_key(keys, last, _key_at(keys, 0))
        _put_key(places, last, _key_at(places, 0))
        _put_key(keys, 0, key)
        _put_key(places, 0, place)
        _sift(keys, places, 0, last)


_BLOCK = 64


def top_k(dtype, largest):
    """Values and indices of the k first along the middle of (outer, n, inner), equal ones by index.

    Arguments: x, values (0: not wanted), indices (0), n, inner, k (at least 1), scratch per thread of 2 * k
    int64, its bytes. Units: outer times inner.
    """
    key_of = _key(dtype, largest)
    size = 2 if dtype == "bfloat16" else np.dtype(dtype).itemsize
    read, write = access(dtype)

    def kernel(p, begin, end, thread):
        values, indices = arg(p, 1), arg(p, 2)
        n, inner, k = arg(p, 3), arg(p, 4), arg(p, 5)
        keys = arg(p, 6) + thread * arg(p, 7)
        places = keys + 8 * k
        for unit in range(begin, end):
            outer, column = unit // inner, unit % inner
            x = arg(p, 0) + (outer * n * inner + column) * size
            for i in range(k):
                _put_key(keys, i, key_of(read(x, i * inner)))
                _put_key(places, i, i)
            for i in range(k // 2 - 1, -1, -1):
                _sift(keys, places, i, k)
            i = k
            while i < n:
                stop = min(i + _BLOCK, n)
                # Most blocks have nothing that comes before the worst: one quick look tells.
                worst = _key_at(keys, 0)
                better = int64(0)
                for j in range(i, stop):
                    better += int64(1) if key_of(read(x, j * inner)) > worst else int64(0)
                if better > 0:
                    for j in range(i, stop):
                        key = key_of(read(x, j * inner))
                        if key > _key_at(keys, 0):
                            _put_key(keys, 0, key)
                            _put_key(places, 0, j)
                            _sift(keys, places, 0, k)
                i = stop
            _sort_heap(keys, places, k)
            first = outer * k * inner + column
            for i in range(k):
                place = _key_at(places, i)
                if values != 0:
                    write(values, first + i * inner, read(x, place * inner))
                if indices != 0:
                    _put_key(indices, first + i * inner, place)

    return kernel
