"""Lowerings of Concat, Split and Slice: exact copies of boxes, which the planner joins to one launch.

What is one range of memory is not copied: such an output is a view of the input, and such an input of a
Concat is made in its place. With the channels last they work alike, on other strides.
"""

from __future__ import annotations

from operator import mul

from onnxref.lowering import NO_PAD, BlockedUse, Op, Site

from ..common.joining import CONCAT, SLICE, SPLIT, Joining, Slicing, Splitting
from ..common.strides import Dim
from .movement import collapsed, emit_alias, emit_box, emit_range, goes_along, strides_of

# --- Concat --------------------------------------------------------------------------------------


def _concat_along(op: Op, lanes: int) -> BlockedUse | None:
    inputs = [x for x in op.inputs if x is not None]
    if len(inputs) != len(op.inputs) or any(x.ndim < 3 for x in inputs):
        return None
    return BlockedUse(dict.fromkeys(range(len(inputs)), NO_PAD))


def _concat(site: Site, asked: Joining) -> None:
    """Copy each input to its place; one that is a range of the output may lie there from the begin."""
    inputs, output, at = asked
    full = [x for x in inputs if x.shape[at]]
    if len(full) == 1 and full[0].layout == output.layout and full[0].constant is None:
        emit_alias(site, full[0])
        return
    strides = strides_of(output)
    begin = 0
    for x in inputs:
        dims = [Dim(*place) for place in zip(x.shape, strides, strides_of(x), strict=True)]
        first = begin * strides[at]
        if collapsed(dims) == [Dim(x.size, 1, 1)] and x.layout == output.layout:
            with site.part(output, x, first * x.dtype.itemsize):
                emit_box(site, output, x, dims, goal_offset=first)
        else:
            emit_box(site, output, x, dims, goal_offset=first)
        begin += x.shape[at]


CONCAT.register("cupy", _concat, _concat_along)


# --- Split and Slice -----------------------------------------------------------------------------


def _split(site: Site, asked: Splitting) -> None:
    data, strides = asked.data, strides_of(asked.data)
    begin = 0
    for output, length in zip(asked.outputs, asked.lengths, strict=True):
        if output is not None:
            places = zip(output.shape, strides_of(output), strides, strict=True)
            dims = [Dim(*place) for place in places]
            emit_range(site, output, data, dims, source_offset=begin * strides[asked.axis])
        begin += length


def _slice(site: Site, asked: Slicing) -> None:
    data, output, firsts, jumps = asked
    strides = strides_of(data)
    places = zip(output.shape, strides_of(output), map(mul, strides, jumps), strict=True)
    dims = [Dim(*place) for place in places]
    emit_range(site, output, data, dims, source_offset=sum(map(mul, firsts, strides)))


SPLIT.register("cupy", _split, goes_along)
SLICE.register("cupy", _slice, goes_along)
