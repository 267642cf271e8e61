"""Lowerings of Concat, Split and Slice: exact copies of boxes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from onnxref.errors import KernelError
from onnxref.lowering import NO_PAD, Blocked, BlockedUse, Op, Operand, Site, Unsupported, lower

from ..numpy._checks import normalize_axes, normalize_axis
from .boxes import (
    Dim,
    check_movable,
    check_result,
    emit_alias,
    emit_box,
    known_ints,
    refusing,
    row_strides,
)


def _layout_dims(operand: Operand) -> tuple[list[int], int]:
    """Return the strides of (N, block, row, element of a row) and the offset of a blocked tensor."""
    assert operand.layout is not None
    _, blocks, rows, columns, lanes = operand.layout.extents(operand.shape)
    line = columns * lanes
    return [blocks * rows * line, rows * line, line, 1], operand.layout.element_offset(operand.shape)


def _copy_blocked(
    site: Site, goal: Operand, source: Operand, channels: int, goal_block: int, source_block: int
) -> None:
    """Copy whole blocks of channels; the counts of blocks say where they begin on both sides."""
    assert goal.layout is not None
    assert source.layout is not None
    shape, lanes = source.shape, goal.layout.lanes
    height = shape[2] if len(shape) == 4 else 1
    to, to_start = _layout_dims(goal)
    origin, start = _layout_dims(source)
    sizes = (shape[0], -(-channels // lanes), height, shape[-1] * lanes)
    emit_box(
        site,
        goal,
        source,
        [Dim(n, a, b) for n, a, b in zip(sizes, to, origin, strict=True)],
        goal_offset=to_start + goal_block * to[1],
        source_offset=start + source_block * origin[1],
    )


def _is_blocked(operands: Iterable[Operand | None]) -> bool:
    """Whether tensors are blocked; all of them must be then, in blocks of one size."""
    layouts = [x.layout for x in operands if x is not None]
    if all(layout is None for layout in layouts):
        return False
    if len({layout.lanes if isinstance(layout, Blocked) else 0 for layout in layouts}) > 1:
        raise Unsupported("tensors of different layouts")
    return True


def _whole_blocks(channels: Sequence[int], lanes: int) -> bool:
    """Whether each piece begins with a new block; only the last may end within one."""
    return all(c > 0 for c in channels) and all(c % lanes == 0 for c in channels[:-1])


def _concat_blocked(op: Op, lanes: int) -> BlockedUse | None:
    inputs = [x for x in op.inputs if x is not None]
    axis = op.attributes.get("axis", 1)
    if len(inputs) != len(op.inputs) or any(x.ndim not in (3, 4) for x in inputs):
        return None
    if axis not in (1, 1 - inputs[0].ndim) or not _whole_blocks([x.shape[1] for x in inputs], lanes):
        return None
    # Of one image, the inputs are pieces of the output's buffer if nothing but their channels differs.
    return BlockedUse(dict.fromkeys(range(len(inputs)), NO_PAD), one_border=inputs[0].shape[0] == 1)


def _concat_blocked_inputs(site: Site, output: Operand, inputs: Sequence[Operand]) -> None:
    """Add the calls that copy blocked inputs into a blocked output, along their channels."""
    assert output.layout is not None
    lanes = output.layout.lanes
    if not _whole_blocks([x.shape[1] for x in inputs], lanes):
        raise Unsupported("pieces that share a block")
    if output.shape[0] == 1 and all(x.layout == output.layout for x in inputs):
        _concat_buffers(site, output, inputs)
        return
    begin = 0
    for x in inputs:
        _copy_blocked(site, output, x, x.shape[1], begin, 0)
        begin += -(-x.shape[1] // lanes)


def _concat_buffers(site: Site, output: Operand, inputs: Sequence[Operand]) -> None:
    """Lay whole buffers, borders too, one behind the other: no call where an input is made in its place."""
    size = output.dtype.itemsize
    begin = 0
    for x in inputs:
        elements = x.buffer_bytes // size
        with site.part(output, x, begin * size):
            emit_box(site, output, x, [Dim(elements, 1, 1)], goal_offset=begin)
        begin += elements


def _concat(site: Site, inputs: Sequence[Operand], axis: int) -> None:
    (output,) = site.outputs
    assert output is not None
    at = normalize_axis(axis, output.ndim)
    check_movable(*inputs)
    shape = output.shape
    if any(x.shape[:at] + x.shape[at + 1 :] != shape[:at] + shape[at + 1 :] for x in inputs):
        raise Unsupported("inputs of different shapes")
    check_result(output, [*shape[:at], sum(x.shape[at] for x in inputs), *shape[at + 1 :]])
    if _is_blocked([output, *inputs]):
        if at != 1:
            raise Unsupported("pieces that share a block")
        _concat_blocked_inputs(site, output, inputs)
        return
    if math.prod(shape[:at]) == 1:
        _concat_buffers(site, output, inputs)
        return
    strides = row_strides(shape)
    begin = 0
    for x in inputs:
        places = zip(x.shape, strides, row_strides(x.shape), strict=True)
        emit_box(site, output, x, [Dim(*place) for place in places], goal_offset=begin * strides[at])
        begin += x.shape[at]


@lower("Concat", since=1, blocked=_concat_blocked)
@refusing
def concat_1(site: Site, *inputs: Operand, axis: int | None = None) -> None:
    """ONNX Concat-1."""
    _concat(site, inputs, 1 if axis is None else axis)


@lower("Concat", since=(4, 11, 13), blocked=_concat_blocked)
@refusing
def concat(site: Site, *inputs: Operand, axis: int) -> None:
    """Copy each input to its place; in blocks where each begins with a whole one (ONNX Concat-13)."""
    _concat(site, inputs, axis)


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


def _split_blocked(op: Op, lanes: int) -> BlockedUse | None:
    data, axis = op.inputs[0], op.attributes.get("axis") or 0
    if data is None or data.ndim not in (3, 4) or axis not in (1, 1 - data.ndim):
        return None
    try:
        if not _whole_blocks(_split_lengths(op), lanes):
            return None
    except (Unsupported, KernelError):
        return None
    return BlockedUse({0: NO_PAD}, tuple(i for i, y in enumerate(op.outputs) if y is not None))


@lower("Split", since=(2, 11, 13, 18), blocked=_split_blocked)
@refusing
def split(site: Site, input: Operand, split: Operand | None = None, *, axis: int = 0, **_: Any) -> None:
    """ONNX Split-18."""
    check_movable(input)
    at = normalize_axis(axis, input.ndim)
    lengths = _split_lengths(site.op)
    blocked = _is_blocked([input, *site.outputs])
    if blocked:
        assert input.layout is not None
        if at != 1 or not _whole_blocks(lengths, input.layout.lanes):
            raise Unsupported("pieces that share a block")
    for output, length in zip(site.outputs, lengths, strict=True):
        if output is not None:
            check_result(output, [*input.shape[:at], length, *input.shape[at + 1 :]])
    begin = 0
    strides = row_strides(input.shape)
    for output, length in zip(site.outputs, lengths, strict=True):
        if output is not None and input.layout is not None:
            _copy_blocked(site, output, input, length, 0, begin // input.layout.lanes)
        elif output is not None:
            places = zip(output.shape, row_strides(output.shape), strides, strict=True)
            emit_box(
                site, output, input, [Dim(*place) for place in places], source_offset=begin * strides[at]
            )
        begin += length


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
    (output,) = site.outputs
    assert output is not None
    check_movable(data)
    steps = [1] * len(starts) if steps is None else steps
    axes = range(len(starts)) if axes is None else axes
    if len({len(starts), len(ends), len(axes), len(steps)}) > 1:
        raise Unsupported("starts, ends, axes and steps of different lengths")
    strides = row_strides(data.shape)
    shape, jumps, offset = list(data.shape), list(strides), 0
    for axis, start, end, step in zip(normalize_axes(axes, data.ndim), starts, ends, steps, strict=True):
        first, shape[axis] = _first_and_count(start, end, step, data.shape[axis])
        # A step beyond the axis is taken at most once, and may be any number.
        jumps[axis] = strides[axis] * (step if shape[axis] > 1 else 0)
        offset += first * strides[axis]
    check_result(output, shape)
    if output.size == data.size and all(jump >= 0 for jump in jumps):
        emit_alias(site, data)
        return
    places = zip(shape, row_strides(shape), jumps, strict=True)
    emit_box(site, output, data, [Dim(*place) for place in places], source_offset=offset)


@lower("Slice", since=1)
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


@lower("Slice", since=(10, 11, 13))
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
