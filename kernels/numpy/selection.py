"""Operators whose output depends on comparing elements: TopK, Unique, NonZero."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from onnxref.dtypes import Array
from onnxref.errors import KernelError
from onnxref.registry import Context, op

from ._checks import check_choice, normalize_axis, scalar_int
from ._common import like_first_input


def sort_keys(x: Array) -> Array:
    """Return integers in the order of a real tensor's values, rank > 0: NaN all alike and last, -0 as +0."""
    if x.dtype == np.bool_:
        return x.view(np.uint8)
    if x.dtype.kind in "iu":
        return x
    copy = x + np.zeros(1, x.dtype)  # -0 becomes +0
    copy[np.isnan(copy)] = np.nan
    bits = copy.view(f"i{x.dtype.itemsize}")
    # Sign and magnitude to two's complement: the larger a negative number's bits, the smaller it is.
    bits ^= (bits >> (8 * x.dtype.itemsize - 1)) & np.iinfo(bits.dtype).max
    return bits


# --- TopK ----------------------------------------------------------------------------------------


def _top_k(x: Array, k: int, axis: int, largest: bool) -> tuple[Array, Array]:
    """Return the k first values in descending (or ascending) order along `axis`, and their indices.

    Equal values come in the order of their indices; NaN counts as greater than any number.
    """
    at = normalize_axis(axis, x.ndim)
    n = x.shape[at]
    if not 0 <= k <= n:
        raise KernelError(f"k must be in [0, {n}], the size of axis {at} (got {k})")
    keys = np.moveaxis(sort_keys(x), at, -1)
    if largest:
        keys = ~keys
    if 0 < k < n:
        bound = np.partition(keys, k - 1, axis=-1)[..., k - 1 : k]
        chosen = keys <= bound
        if np.count_nonzero(chosen) > k * bound.size:
            # Some row has more equals of its k-th key than room for them: the first ones fit.
            equal = keys == bound
            room = k - (keys < bound).sum(axis=-1, keepdims=True)
            chosen &= ~equal | (equal.cumsum(axis=-1) <= room)
        candidates = chosen.nonzero()[-1].reshape(*keys.shape[:-1], k)
        keys = np.take_along_axis(keys, candidates, axis=-1)
        order = np.take_along_axis(candidates, keys.argsort(axis=-1, kind="stable"), axis=-1)
    else:
        order = keys.argsort(axis=-1, kind="stable")[..., :k]
    indices = np.moveaxis(order, -1, at).astype(np.int64, copy=False)
    return np.take_along_axis(x, indices, axis=at), indices


@op("TopK", since=1)
def top_k_1(x: Array, *, k: int, axis: int = -1) -> tuple[Array, Array]:
    """Return the attribute `k` largest values along `axis` and their indices (ONNX TopK-1)."""
    return _top_k(x, k, axis, largest=True)


@op("TopK", since=10)
def top_k_10(x: Array, k: Array, *, axis: int = -1) -> tuple[Array, Array]:
    """Return the `k` largest values along `axis` and their indices (ONNX TopK-10)."""
    return _top_k(x, scalar_int(k, "k"), axis, largest=True)


@op("TopK", since=(11, 24))
def top_k(x: Array, k: Array, *, axis: int = -1, largest: int = 1, sorted: int = 1) -> tuple[Array, Array]:
    """Return the `k` largest or smallest values along `axis` and their indices (ONNX TopK-24)."""
    # sorted=0 leaves the order open; sorted order is one of those allowed, and the same on every run.
    return _top_k(x, scalar_int(k, "k"), axis, bool(largest))


# --- NonZero and Unique --------------------------------------------------------------------------


@op("NonZero", since=(9, 13))
def non_zero(x: Array, *, ctx: Context) -> Array:
    """Return the indices (rank, count) of elements that are not 0, False or empty (ONNX NonZero-13)."""
    flags = x != ("" if x.dtype.kind == "O" else x.dtype.type(0))
    count = int(np.count_nonzero(flags))
    ctx.budget.check_bytes(2 * 8 * count * x.ndim)
    if x.ndim == 0:
        return np.zeros((0, count), np.int64)
    return np.stack(np.nonzero(flags)).astype(np.int64, copy=False)


def _row_keys(rows: Array) -> Array:
    """Return one sortable key for each row of an (N, M) tensor of any type, M > 0."""
    keys: Array
    if rows.dtype.kind == "O":
        keys = np.unique(rows, return_inverse=True)[1].reshape(rows.shape)
    elif rows.dtype.kind == "c":
        nan = rows.dtype.type(complex(np.nan, np.nan))
        merged = np.ascontiguousarray(np.where(np.isnan(rows), nan, rows))
        keys = sort_keys(merged.view(rows.real.dtype))
    else:
        keys = sort_keys(rows)
    if keys.shape[1] == 1:
        return keys[:, 0]
    # Big-endian unsigned integers compare like the bytes they are made of: one sort for whole rows.
    size = keys.dtype.itemsize
    if keys.dtype.kind == "i":
        keys = keys ^ np.iinfo(keys.dtype).min
    joined = np.ascontiguousarray(keys.view(f"u{size}").astype(f">u{size}"))
    return joined.view(f"V{size * keys.shape[1]}")[:, 0]


class _Groups(NamedTuple):
    first: Array  # (U,) row where each distinct one occurs first
    inverse: Array  # (N,) which distinct one each row is
    counts: Array  # (U,)


def _group(rows: Array, sort: bool) -> _Groups:
    """Find the distinct rows of (N, M), in ascending order or that of their first occurrence."""
    n, m = rows.shape
    if n == 0:
        return _Groups(*np.zeros((3, 0), np.int64))
    if m == 0:
        return _Groups(np.zeros(1, np.int64), np.zeros(n, np.int64), np.array([n]))
    keys = _row_keys(rows)
    order = keys.argsort(kind="stable")
    ordered = keys[order]
    starts = np.concatenate([[True], ordered[1:] != ordered[:-1]])
    first = order[starts]
    counts = np.diff(np.append(starts.nonzero()[0], n))
    inverse = np.empty(n, np.int64)
    inverse[order] = starts.cumsum() - 1
    if sort:
        return _Groups(first, inverse, counts)
    by_occurrence = first.argsort()
    rank = np.empty_like(by_occurrence)
    rank[by_occurrence] = np.arange(len(first))
    return _Groups(first[by_occurrence], rank[inverse], counts[by_occurrence])


# Orders, groups and three outputs of int64.
@op("Unique", since=(11, 28), cost=like_first_input(56))
def unique(x: Array, *, axis: int | None = None, sorted: int = 1) -> tuple[Array, Array, Array, Array]:
    """Return distinct elements or slices, first occurrences, inverse and counts (ONNX Unique-28).

    All NaN are one value, greater than any other; -0 and +0 are one value.
    """
    check_choice(sorted, (0, 1), "sorted")
    source = x.reshape(-1) if axis is None else x
    at = 0 if axis is None else normalize_axis(axis, x.ndim)
    n = source.shape[at]
    rows = np.moveaxis(source, at, 0).reshape(n, source.size // n if n else 0)
    first, inverse, counts = (a.astype(np.int64, copy=False) for a in _group(rows, bool(sorted)))
    return source.take(first, axis=at), first, inverse, counts
