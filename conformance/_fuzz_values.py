"""Strategies for tensors: small shapes, and values where implementations part ways."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import ml_dtypes
import numpy as np
from hypothesis import strategies as st

Array = np.ndarray[Any, Any]
Shape = tuple[int, ...]
Draw = Any  # the function that `st.composite` hands over, used for values of every type

DTYPES: dict[str, np.dtype[Any]] = {
    "tensor(float)": np.dtype(np.float32),
    "tensor(double)": np.dtype(np.float64),
    "tensor(float16)": np.dtype(np.float16),
    "tensor(bfloat16)": np.dtype(ml_dtypes.bfloat16),
    "tensor(bool)": np.dtype(np.bool_),
    "tensor(string)": np.dtype(object),
} | {
    f"tensor({sign}int{bits})": np.dtype(f"{sign}int{bits}") for sign in ("", "u") for bits in (64, 32, 16, 8)
}

_FLOATS = (0.0, 1.0, -1.0, 2.0, -0.5, 3.0, 0.1, -7.0, 100.0, -0.0)
_SPECIAL = (math.nan, math.inf, -math.inf)
_TEXTS = ("", "a", "B", "a b", " ", "é", "日本")


def elements(dtype: np.dtype[Any], *, tame: bool = False) -> st.SearchStrategy[Any]:
    """Return a strategy for one element; the simplest comes first, for shrinking.

    Args:
        tame: only finite values of moderate size.
    """
    if dtype.kind == "O":
        return st.sampled_from(_TEXTS)
    if dtype.kind == "b":
        return st.booleans()
    if dtype.kind in "iu":
        bounds = np.iinfo(dtype)
        small = st.integers(max(-4, int(bounds.min)), 5)
        return small if tame else st.one_of(small, st.sampled_from((int(bounds.min), int(bounds.max))))
    if tame:
        return st.sampled_from(_FLOATS)
    info = ml_dtypes.finfo(dtype)  # type: ignore[no-untyped-call]
    limits = (float(info.max), float(info.min), float(info.tiny))
    extremes = (st.sampled_from(_SPECIAL), st.sampled_from(limits))
    return st.one_of(st.sampled_from(_FLOATS), *extremes, st.floats(-50, 50, width=16))


@st.composite
def arrays(draw: Draw, dtype: np.dtype[Any], shape: Shape, *, tame: bool | None = None) -> Array:
    """Draw an array; half of them are tame unless the caller decides."""
    if tame is None:
        tame = draw(st.booleans())
    count = math.prod(shape)
    # Alike elements are as good as others for large arrays, and much cheaper to draw and to shrink.
    drawn = draw(st.lists(elements(dtype, tame=tame), min_size=min(count, 12), max_size=min(count, 12)))
    made = np.empty(count, dtype)
    for index in range(count):
        made[index] = drawn[index % len(drawn)]
    return made.reshape(shape)


LONG = (8, 17, 33)  # longer than the registers of a processor, with a rest and without


@st.composite
def shapes(draw: Draw, low: int = 0, high: int = 4, *, smallest: int = 0) -> Shape:
    """Draw a shape with `low` to `high` dimensions, sizes up to 3; one of them may be much longer."""
    made = draw(st.lists(st.integers(smallest, 3), min_size=low, max_size=high))
    at = draw(st.integers(-6, len(made) - 1))
    if at >= 0:
        made[at] = draw(st.sampled_from(LONG))
    return tuple(made)


@st.composite
def broadcastable(draw: Draw, shape: Shape) -> Shape:
    """Draw a shape that broadcasts to `shape`: fewer leading dimensions, ones in place of others."""
    kept = shape[draw(st.integers(0, len(shape))) :]
    return tuple(1 if draw(st.booleans()) else size for size in kept)


def axes_of(rank: int) -> st.SearchStrategy[int]:
    """Return a strategy for an axis, also a negative one; the rank must not be 0."""
    return st.integers(-rank, rank - 1)


@st.composite
def several_axes(draw: Draw, rank: int) -> list[int]:
    """Draw distinct axes, each counted from either end."""
    chosen = draw(st.lists(st.integers(0, rank - 1), unique=True, max_size=rank)) if rank else []
    return [axis - rank if draw(st.booleans()) else axis for axis in chosen]


def indices(shape: Shape, size: int, *, negative: bool = True) -> st.SearchStrategy[Array]:
    """Return a strategy for int64 indices into an axis of `size`; the size must not be 0."""
    count = math.prod(shape)
    one = st.integers(-size if negative else 0, size - 1)

    def made(values: Sequence[int]) -> Array:
        return np.array(values, np.int64).reshape(shape)

    return st.lists(one, min_size=count, max_size=count).map(made)
