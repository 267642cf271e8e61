"""Gathers and scatters (ONNX Gather-13 to ScatterND-18): what indices mean, and when they are one box."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from onnxref.dtypes import Array
from onnxref.lowering import Operand, Unsupported

from ..numpy._checks import normalize_axis
from ..numpy.indexing import check_element_indices, gathered_nd_shape
from .strides import Dim

# Types of which updates can be reduced.
REDUCED: Final = ("float32", "float64", *(f"{u}int{bits}" for u in ("", "u") for bits in (8, 16, 32, 64)))


def check_reduction(data: Operand, reduction: str, opset: int) -> None:
    """Refuse what a version does not know, or not of this type; "none" is one of them."""
    known = ("none", "add", "mul") if opset < 18 else ("none", "add", "mul", "max", "min")
    if reduction not in known or (reduction != "none" and data.dtype.name not in REDUCED):
        raise Unsupported(f"reduction {reduction} of {data.dtype.name}")


def element_axis(data: Operand, indices: Operand, axis: int) -> int:
    """Return the axis of GatherElements from the front, of indices that fit the data."""
    at = normalize_axis(axis, data.ndim)
    likes: tuple[Any, Any] = (data, indices)  # only shapes are asked for
    check_element_indices(*likes, at)
    return at


class Tuples(NamedTuple):
    """What the index tuples of GatherND go along.

    Attributes:
        batches: how many independent tensors there are.
        sizes: of the axes that a tuple names.
        width: elements of the slice that it means.
        shape: of the result.
    """

    batches: int
    sizes: tuple[int, ...]
    width: int
    shape: tuple[int, ...]


def tuples_of(data: Operand, indices: Operand, batch_dims: int = 0) -> Tuples:
    """Return what tuples go along; the last axis of `indices` holds them."""
    likes: tuple[Any, Any] = (data, indices)
    result = gathered_nd_shape(*likes, batch_dims)
    begin, end = batch_dims, batch_dims + indices.shape[-1]
    batches, width = math.prod(data.shape[:begin]), math.prod(data.shape[end:])
    return Tuples(batches, data.shape[begin:end], width, result)


def equal_steps(flat: Array, outer: int, size: int, inner: int) -> tuple[Sequence[Dim], int] | None:
    """Return the box that a Gather of indices at equal distances copies, and where it begins.

    Args:
        flat: one index at least, counted from the front.
        outer, size, inner: elements of the data before, along and behind the axis.
    """
    step = int(flat[1] - flat[0]) if flat.size > 1 else 0
    if (flat != flat[0] + step * np.arange(flat.size)).any():
        return None
    dims = [
        Dim(outer, flat.size * inner, size * inner),
        Dim(flat.size, inner, step * inner),
        Dim(inner, 1, 1),
    ]
    return dims, int(flat[0]) * inner
