"""Indices that are known at run time only: calls that check them and turn them into places in bytes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from onnxref.lowering import FAULT, Operand, Scratch, Site, Unsupported
from onnxref.native import native

CODE = "onnxref.kernels.numba.code.places"
_GRAIN = 2048


def _check_indices(indices: Operand, sizes: Sequence[int]) -> None:
    if indices.dtype.name not in ("int32", "int64"):
        raise Unsupported(f"indices are {indices.dtype.name}")
    if indices.size and 0 in sizes:
        raise Unsupported("indices into an empty axis")


def emit_axis_places(
    site: Site,
    indices: Operand,
    *,
    size: int,
    step: int,
    lowest: int | None = None,
    steps: Sequence[int] | None = None,
) -> Scratch:
    """Add the call that finds the place, in bytes, of each index along one axis.

    Args:
        size: of the axis.
        step: bytes from one index to the next.
        lowest: the lowest index allowed, None for -size.
        steps: bytes per position along each dimension of the indices, None for 0.
    """
    _check_indices(indices, (size,))
    held = site.scratch(8 * indices.size)
    if steps is None:
        dims = [(indices.size, 0)]
    else:
        dims = list(zip(indices.shape, steps, strict=True)) or [(1, 0)]
    site.call(
        native(CODE, "axis_places", indices.dtype.name),
        indices,
        held,
        FAULT,
        -size if lowest is None else lowest,
        size,
        step,
        *dims[-1],
        len(dims) - 1,
        *itertools.chain.from_iterable(dims[:-1]),
        units=indices.size,
        work=indices.size * 1.0,
        grain=_GRAIN,
    )
    return held


def emit_tuple_places(
    site: Site,
    indices: Operand,
    *,
    sizes: Sequence[int],
    steps: Sequence[int],
    batches: int = 1,
    batch_step: int = 0,
) -> Scratch:
    """Add the call that finds the place, in bytes, of each tuple: the last dimension of the indices.

    Args:
        sizes: of the axes that a tuple goes along.
        steps: bytes from one index to the next on each of them.
        batches: equal parts of the tuples, `batch_step` bytes apart.
    """
    _check_indices(indices, sizes)
    tuples = math.prod(indices.shape[:-1])
    held = site.scratch(8 * tuples)
    site.call(
        native(CODE, "tuple_places", indices.dtype.name),
        indices,
        held,
        FAULT,
        len(sizes),
        max(1, tuples // max(1, batches)),
        batch_step,
        *itertools.chain.from_iterable(zip(sizes, steps, strict=True)),
        units=tuples,
        work=indices.size * 1.5,
        grain=_GRAIN,
    )
    return held


def emit_range_check(site: Site, values: Operand, lowest: int, limit: int) -> None:
    """Add the call that refuses values below `lowest`, and from `limit` on."""
    if values.dtype.name not in ("int32", "int64"):
        raise Unsupported(f"values to check are {values.dtype.name}")
    site.call(
        native(CODE, "check_range", values.dtype.name), values, FAULT, lowest, limit,
        units=values.size, work=values.size * 0.5, grain=_GRAIN,
    )  # fmt: skip
