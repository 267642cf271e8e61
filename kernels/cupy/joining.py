"""Lowerings of Concat, Split and Slice: exact copies of boxes, one launch for each input or output.

With the channels last they work alike, on other strides.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from onnxref.lowering import NO_PAD, BlockedUse, Op, Operand, Site, Unsupported, lower

from ..numpy._checks import normalize_axes, normalize_axis
from .movement import (
    Dim,
    check_movable,
    check_result,
    emit_alias,
    emit_box,
    goes_along,
    known_ints,
    only_output,
    refusing,
    strides_of,
)

# --- Concat --------------------------------------------------------------------------------------


def _concat_along(op: Op, lanes: int) -> BlockedUse | None:
    inputs = [x for x in op.inputs if x is not None]
    if len(inputs) != len(op.inputs) or any(x.ndim < 3 for x in inputs):
        return None
    return BlockedUse(dict.fromkeys(range(len(inputs)), NO_PAD))


def _concat(site: Site, inputs: Sequence[Operand], axis: int) -> None:
    output = only_output(site)
    at = normalize_axis(axis, output.ndim)
    check_movable(*inputs)
    shape = output.shape
    if any(x.shape[:at] + x.shape[at + 1 :] != shape[:at] + shape[at + 1 :] for x in inputs):
        raise Unsupported("inputs of different shapes")
    check_result(output, [*shape[:at], sum(x.shape[at] for x in inputs), *shape[at + 1 :]])
    full = [x for x in inputs if x.shape[at]]
    if len(full) == 1 and full[0].layout == output.layout and full[0].constant is None:
        emit_alias(site, full[0])
        return
    strides = strides_of(output)
    begin = 0
    for x in inputs:
        places = zip(x.shape, strides, strides_of(x), strict=True)
        emit_box(site, output, x, [Dim(*place) for place in places], goal_offset=begin * strides[at])
        begin += x.shape[at]


@lower("Concat", since=1, backend="cupy", blocked=_concat_along)
@refusing
def concat_1(site: Site, *inputs: Operand, axis: int | None = None) -> None:
    """ONNX Concat-1."""
    _concat(site, inputs, 1 if axis is None else axis)


@lower("Concat", since=(4, 11, 13), backend="cupy", blocked=_concat_along)
@refusing
def concat(site: Site, *inputs: Operand, axis: int) -> None:
    """Copy each input to its place (ONNX Concat-13)."""
    _concat(site, inputs, axis)


# --- Split ---------------------------------------------------------------------------------------


def _split_lengths(op: Op) -> list[int]:
    """Return how long the pieces of a Split are, by the rules of its version."""
    data, attributes, parts = op.inputs[0], op.attributes, len(op.outputs)
    assert data is not None
    total = data.shape[normalize_axis(attributes.get("axis") or 0, data.ndim)]
    given = op.inputs[1] if len(op.inputs) > 1 else None
    lengths = attributes.get("split") if given is None else known_ints(given, "split")
    if lengths is None and attributes.get("num_outputs") is not None:
        chunk = -(-total // parts)
        lengths = [max(0, min(chunk, total - i * chunk)) for i in range(parts)]
    elif lengths is None:
        lengths = [total // parts] * parts
    if len(lengths) != parts or sum(lengths) != total or any(n < 0 for n in lengths):
        raise Unsupported(f"lengths {list(lengths)} do not make up {total}")
    return list(lengths)


@lower("Split", since=(1, 2, 11, 13, 18), backend="cupy", blocked=goes_along)
@refusing
def split(
    site: Site, input: Operand, split: Operand | None = None, *, axis: int | None = 0, **_: Any
) -> None:
    """ONNX Split-18."""
    check_movable(input)
    if site.op.attributes.get("split") is not None and len(site.op.inputs) > 1 and site.op.inputs[1]:
        raise Unsupported("lengths from two places")
    at = normalize_axis(axis or 0, input.ndim)
    lengths = _split_lengths(site.op)
    pieces = list(zip(site.outputs, lengths, strict=True))
    for output, length in pieces:
        if output is not None:
            check_result(output, [*input.shape[:at], length, *input.shape[at + 1 :]])
    strides = strides_of(input)
    begin = 0
    for output, length in pieces:
        if output is not None:
            places = zip(output.shape, strides_of(output), strides, strict=True)
            emit_box(
                site, output, input, [Dim(*place) for place in places], source_offset=begin * strides[at]
            )
        begin += length


# --- Slice ---------------------------------------------------------------------------------------


def _first_and_count(start: int, end: int, step: int, size: int) -> tuple[int, int]:
    """Return the first index and the number of indices of a slice, by the rules of ONNX Slice-13."""
    if step == 0:
        raise Unsupported("a step of zero")
    start += size if start < 0 else 0
    end += size if end < 0 else 0
    if step > 0:
        start, end = min(max(start, 0), size), min(max(end, 0), size)
        return start, max(0, -((start - end) // step))
    start, end = min(max(start, 0), size - 1), min(max(end, -1), size - 1)
    return start, max(0, -((end - start) // -step)) if size else 0


def _slice(
    site: Site, data: Operand, starts: Sequence[int], ends: Sequence[int], axes: Any, steps: Any
) -> None:
    output = only_output(site)
    check_movable(data)
    steps = [1] * len(starts) if steps is None else steps
    axes = range(len(starts)) if axes is None else axes
    if len({len(starts), len(ends), len(axes), len(steps)}) > 1:
        raise Unsupported("starts, ends, axes and steps of different lengths")
    strides = strides_of(data)
    shape, jumps, offset = list(data.shape), list(strides), 0
    for axis, start, end, step in zip(normalize_axes(axes, data.ndim), starts, ends, steps, strict=True):
        first, shape[axis] = _first_and_count(start, end, step, data.shape[axis])
        # A step beyond the axis is taken at most once, and may be any number.
        jumps[axis] = strides[axis] * (step if shape[axis] > 1 else 0)
        offset += first * strides[axis]
    check_result(output, shape)
    if output.size == data.size and output.layout == data.layout and all(jump >= 0 for jump in jumps):
        emit_alias(site, data)
        return
    places = zip(shape, strides_of(output), jumps, strict=True)
    emit_box(site, output, data, [Dim(*place) for place in places], source_offset=offset)


@lower("Slice", since=1, backend="cupy", blocked=goes_along)
@refusing
def slice_1(
    site: Site,
    data: Operand,
    *,
    starts: tuple[int, ...],
    ends: tuple[int, ...],
    axes: tuple[int, ...] | None = None,
) -> None:
    """ONNX Slice-1."""
    _slice(site, data, starts, ends, axes, None)


@lower("Slice", since=(10, 11, 13), backend="cupy", blocked=goes_along)
@refusing
def slice_(
    site: Site,
    data: Operand,
    starts: Operand,
    ends: Operand,
    axes: Operand | None = None,
    steps: Operand | None = None,
) -> None:
    """ONNX Slice-13."""
    _slice(
        site,
        data,
        known_ints(starts, "starts"),
        known_ints(ends, "ends"),
        None if axes is None else known_ints(axes, "axes"),
        None if steps is None else known_ints(steps, "steps"),
    )
