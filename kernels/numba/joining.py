"""Lowerings of Concat, Split and Slice: exact copies of boxes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from operator import mul

from onnxref.errors import KernelError
from onnxref.lowering import NO_PAD, Blocked, BlockedUse, Op, Operand, Site, Unsupported

from ..common.joining import CONCAT, SLICE, SPLIT, Joining, Slicing, Splitting, split_lengths
from ..common.strides import Dim
from ..numpy._common import row_strides
from .boxes import emit_alias, emit_box


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


def _concat(site: Site, asked: Joining) -> None:
    """Copy each input to its place; in blocks where each begins with a whole one."""
    inputs, output, at = asked
    shape = output.shape
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


CONCAT.register("numba", _concat, _concat_blocked)


def _split_blocked(op: Op, lanes: int) -> BlockedUse | None:
    data, axis = op.inputs[0], op.attributes.get("axis") or 0
    if data is None or data.ndim not in (3, 4) or axis not in (1, 1 - data.ndim):
        return None
    try:
        if not _whole_blocks(split_lengths(op), lanes):
            return None
    except (Unsupported, KernelError):
        return None
    return BlockedUse({0: NO_PAD}, tuple(i for i, y in enumerate(op.outputs) if y is not None))


def _split(site: Site, asked: Splitting) -> None:
    data, at, lengths = asked.data, asked.axis, asked.lengths
    if _is_blocked([data, *asked.outputs]):
        assert data.layout is not None
        if at != 1 or not _whole_blocks(lengths, data.layout.lanes):
            raise Unsupported("pieces that share a block")
    begin = 0
    strides = row_strides(data.shape)
    for output, length in zip(asked.outputs, lengths, strict=True):
        if output is not None and data.layout is not None:
            _copy_blocked(site, output, data, length, 0, begin // data.layout.lanes)
        elif output is not None:
            places = zip(output.shape, row_strides(output.shape), strides, strict=True)
            dims = [Dim(*place) for place in places]
            emit_box(site, output, data, dims, source_offset=begin * strides[at])
        begin += length


def _slice(site: Site, asked: Slicing) -> None:
    data, output, firsts, jumps = asked
    if output.size == data.size and all(jump >= 0 for jump in jumps):
        emit_alias(site, data)
        return
    strides = row_strides(data.shape)
    places = zip(output.shape, row_strides(output.shape), map(mul, strides, jumps), strict=True)
    dims = [Dim(*place) for place in places]
    emit_box(site, output, data, dims, source_offset=sum(map(mul, firsts, strides)))


SPLIT.register("numba", _split, _split_blocked)
SLICE.register("numba", _slice)
