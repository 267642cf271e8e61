"""Helpers that several kernel families share: axes, precision, checks."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import numpy as np

from onnxref.dtypes import LOW_PRECISION, Array, DType
from onnxref.errors import KernelError

_F = TypeVar("_F", bound=Callable[..., Any])


def normalize_axis(axis: int, rank: int, name: str = "axis") -> int:
    """Return `axis` counted from the front; it must be in [-rank, rank)."""
    if not -rank <= axis < rank:
        raise KernelError(f"{name} must be in [{-rank}, {rank - 1}] for rank {rank} (got {axis})")
    return int(axis) + rank if axis < 0 else int(axis)


def normalize_axes(axes: Iterable[int], rank: int, name: str = "axes") -> tuple[int, ...]:
    """Return `axes` counted from the front; each in [-rank, rank), none twice."""
    found = tuple(normalize_axis(axis, rank, name) for axis in axes)
    if len(set(found)) != len(found):
        raise KernelError(f"{name} must not repeat (got {found})")
    return found


def int_list(values: Array) -> list[int]:
    """Return a 1-D (or 0-d) integer tensor as Python ints."""
    return [int(v) for v in np.atleast_1d(values).tolist()]


def widen(x: Array) -> Array:
    """Return `x` in float32 if its type is narrower than that, else `x` itself."""
    return x.astype(np.float32) if x.dtype in LOW_PRECISION else x


def narrow(x: Any, dtype: DType) -> Array:
    """Return `x` rounded to `dtype` (no copy where it has that type already)."""
    return np.asarray(x).astype(dtype, copy=False)


def in_float32(kernel: _F) -> _F:
    """Make a kernel compute float16, bfloat16 and narrower floats in float32, rounded once at the end.

    The outputs get the type of the first input. Inputs of other types pass through.
    """

    @functools.wraps(kernel)
    def wrapped(*inputs: Any, **attributes: Any) -> Any:
        dtype = inputs[0].dtype
        if dtype not in LOW_PRECISION:
            return kernel(*inputs, **attributes)
        wide = [widen(x) if isinstance(x, np.ndarray) else x for x in inputs]
        result = kernel(*wide, **attributes)
        if isinstance(result, tuple):
            return tuple(None if y is None else narrow(y, dtype) for y in result)
        return narrow(result, dtype)

    return wrapped  # type: ignore[return-value]  # functools.wraps keeps the signature
