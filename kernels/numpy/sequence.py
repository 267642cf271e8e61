"""Sequences: Python lists of tensors, shared between values and never changed in place."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any

import numpy as np

from onnxref.dtypes import Array
from onnxref.errors import KernelError
from onnxref.registry import Body, Context, Cost, op

from ._checks import check_choice, element_type, int_vector, normalize_axis, scalar


def _check_same_type(tensors: Sequence[Array]) -> None:
    dtypes = {tensor.dtype for tensor in tensors}
    if len(dtypes) > 1:
        found = ", ".join(sorted(str(dtype) for dtype in dtypes))
        raise KernelError(f"the tensors of a sequence must have one element type (got {found})")


def _index(position: Array, first: int, last: int) -> int:
    """Return a position tensor as an int, which must be in [first, last]."""
    index = int(scalar(position, "position"))
    if not first <= index <= last:
        raise KernelError(f"position must be in [{first}, {last}] (got {index})")
    return index


def _element_index(position: Array, length: int) -> int:
    if not length:
        raise KernelError("input_sequence must not be empty (got no tensor)")
    return _index(position, -length, length - 1)


@op("SequenceConstruct", since=11)
def sequence_construct(*inputs: Array, ctx: Context) -> list[Array]:
    """Put tensors of one element type into a sequence (ONNX SequenceConstruct-11)."""
    _check_same_type(inputs)
    ctx.budget.check_sequence(len(inputs))
    return list(inputs)


@op("SequenceEmpty", since=11)
def sequence_empty(*, dtype: int | None = None) -> list[Array]:
    """Return an empty sequence of tensors of type `dtype`, float by default (ONNX SequenceEmpty-11)."""
    if dtype is not None:
        element_type(dtype, "dtype")
    return []


@op("SequenceInsert", since=11)
def sequence_insert(
    input_sequence: list[Array], tensor: Array, position: Array | None = None, *, ctx: Context
) -> list[Array]:
    """Insert `tensor` before `position`, or at the end (ONNX SequenceInsert-11)."""
    length = len(input_sequence)
    _check_same_type([*input_sequence[:1], tensor])
    ctx.budget.check_sequence(length + 1)
    at = length if position is None else _index(position, -length, length)
    result = list(input_sequence)
    result.insert(at, tensor)
    return result


@op("SequenceErase", since=11)
def sequence_erase(
    input_sequence: list[Array], position: Array | None = None, *, ctx: Context
) -> list[Array]:
    """Leave out the tensor at `position`, or the last one (ONNX SequenceErase-11)."""
    at = _element_index(np.array(-1) if position is None else position, len(input_sequence))
    ctx.budget.check_sequence(len(input_sequence) - 1)
    result = list(input_sequence)
    del result[at]
    return result


@op("SequenceAt", since=11)
def sequence_at(input_sequence: list[Any], position: Array) -> Any:
    """Return the tensor at `position` (ONNX SequenceAt-11)."""
    return input_sequence[_element_index(position, len(input_sequence))]


@op("SequenceLength", since=11)
def sequence_length(input_sequence: list[Any]) -> Array:
    """Return the number of tensors, an int64 scalar (ONNX SequenceLength-11)."""
    return np.array(len(input_sequence), np.int64)


def _concat_cost(input_sequence: list[Array], **_: Any) -> Cost:
    # A sequence may hold one large tensor many times over.
    return Cost(sum(tensor.nbytes for tensor in input_sequence))


@op("ConcatFromSequence", since=11, cost=_concat_cost)
def concat_from_sequence(input_sequence: list[Array], *, axis: int, new_axis: int = 0) -> Array:
    """Concatenate the tensors along `axis`, or stack them along a new one (ONNX ConcatFromSequence-11)."""
    if not input_sequence:
        raise KernelError("input_sequence must not be empty (got no tensor)")
    check_choice(new_axis, (0, 1), "new_axis")
    _check_same_type(input_sequence)
    axis = normalize_axis(axis, input_sequence[0].ndim + new_axis)
    shapes = {tensor.shape for tensor in input_sequence}
    alike = shapes if new_axis else {shape[:axis] + (-1,) + shape[axis + 1 :] for shape in shapes}
    if len(alike) > 1:
        demand = "" if new_axis else f", axis {axis} aside"
        raise KernelError(f"the tensors must have the same shape{demand} (got {sorted(shapes)[:4]})")
    return np.stack(input_sequence, axis) if new_axis else np.concatenate(input_sequence, axis)


@op("SplitToSequence", since=(11, 24))
def split_to_sequence(
    input: Array, split: Array | None = None, *, axis: int = 0, keepdims: int = 1, ctx: Context
) -> list[Array]:
    """Split `input` along `axis` into views (ONNX SplitToSequence-24).

    A scalar `split` is the size of each part but the last, a 1-D one lists the sizes; without it
    every part has size one, and `keepdims=0` drops the axis.
    """
    axis = normalize_axis(axis, input.ndim)
    before = (slice(None),) * axis
    edges = pairwise(_edges(split, input.shape[axis], ctx))
    parts = [input[(*before, slice(start, stop))] for start, stop in edges]
    if split is None and not keepdims:
        return [part.squeeze(axis) for part in parts]
    return parts


def _edges(split: Array | None, length: int, ctx: Context) -> Sequence[int]:
    """Return where the parts of an axis start and end, 0 and `length` included."""
    if split is not None and split.ndim > 1:
        raise KernelError(f"split must be a scalar or 1-D (got shape {split.shape})")
    if split is not None and split.ndim == 1:
        sizes = int_vector(split, "split")
        if min(sizes, default=0) < 0 or sum(sizes) != length:
            raise KernelError(f"split must be sizes that add up to {length} (got {sizes[:20]})")
        ctx.budget.check_sequence(len(sizes))
        return [0, *accumulate(sizes)]
    size = 1 if split is None else int(split.item())
    if size < 1:
        raise KernelError(f"a scalar split must be positive (got {size})")
    ctx.budget.check_sequence(-(-length // size))
    return [*range(0, length, size), length]


@op("SequenceMap", since=17)
def sequence_map(
    input_sequence: list[Any], *additional_inputs: Any, body: Body, ctx: Context
) -> tuple[list[Any], ...]:
    """Apply `body` to each element, other sequences in step, tensors whole (ONNX SequenceMap-17)."""
    length = len(input_sequence)
    for other in additional_inputs:
        if isinstance(other, list) and len(other) != length:
            raise KernelError(f"all sequences must have the length of the first, {length} (got {len(other)})")
    n_inputs = 1 + len(additional_inputs)
    if len(body.input_names) != n_inputs:
        raise KernelError(f"body must have {n_inputs} inputs (got {len(body.input_names)})")
    ctx.budget.check_sequence(length)
    mapped: tuple[list[Any], ...] = tuple([] for _ in body.output_names)
    for i, element in enumerate(input_sequence):
        ctx.budget.step()
        others = (other[i] if isinstance(other, list) else other for other in additional_inputs)
        for collected, value in zip(mapped, body(element, *others), strict=True):
            collected.append(value)
    return mapped
