"""Lowerings of Concat, Split and Slice: exact copies of boxes, which the planner joins to one launch.

What is one range of memory is not copied: such an output is a view of the input, and such an input of a
Concat is made in its place. With the channels last they work alike, on other strides; ranges of channels are
not copied where all that makes and reads them takes pitches.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import accumulate
from operator import mul
from typing import Any

from onnxref.errors import KernelError
from onnxref.lowering import NO_PAD, BlockedUse, ChannelRange, Op, Operand, Site, Unsupported

from ..common.joining import (
    CONCAT,
    SLICE,
    SPLIT,
    Joining,
    Slicing,
    Splitting,
    slice_,
    slice_1,
    split_lengths,
)
from ..common.strides import Dim
from .movement import collapsed, emit_alias, emit_box, emit_range, goes_along, strides_of

# --- Concat --------------------------------------------------------------------------------------


def _concat_along(op: Op, lanes: int) -> BlockedUse | None:
    inputs = [x for x in op.inputs if x is not None]
    if len(inputs) != len(op.inputs) or any(x.ndim < 3 for x in inputs):
        return None
    y = op.outputs[0]
    ranges: tuple[ChannelRange, ...] = ()
    if y is not None and op.attributes.get("axis", 1) in (1, 1 - y.ndim):
        ranges = _ranges(y, inputs, [x.shape[1] for x in inputs])
    return BlockedUse(dict.fromkeys(range(len(inputs)), NO_PAD), pitched=True, ranges=ranges)


def _ranges(
    whole: Operand, parts: Sequence[Operand | None], lengths: Sequence[int]
) -> tuple[ChannelRange, ...]:
    """Return the ranges of channels that lie one behind the other."""
    firsts = accumulate(lengths, initial=0)
    return tuple(
        ChannelRange(whole, x, first) for x, first in zip(parts, firsts, strict=False) if x is not None
    )


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


def _split_along(op: Op, lanes: int) -> BlockedUse | None:
    use, data = goes_along(op, lanes), op.inputs[0]
    if use is None or data is None:
        return None
    ranges: tuple[ChannelRange, ...] = ()
    if (op.attributes.get("axis") or 0) in (1, 1 - data.ndim):
        with suppress(Unsupported, KernelError):  # the lowering says why
            ranges = _ranges(data, op.outputs, split_lengths(op))
    return replace(use, pitched=True, ranges=ranges)


def _split(site: Site, asked: Splitting) -> None:
    data, strides = asked.data, strides_of(asked.data)
    begin = 0
    for output, length in zip(asked.outputs, asked.lengths, strict=True):
        if output is not None:
            places = zip(output.shape, strides_of(output), strides, strict=True)
            dims = [Dim(*place) for place in places]
            emit_range(site, output, data, dims, source_offset=begin * strides[asked.axis])
        begin += length


def _slice_along(op: Op, lanes: int) -> BlockedUse | None:
    use, data, output = goes_along(op, lanes), op.inputs[0], op.outputs[0]
    if use is None or data is None or output is None:
        return None
    return replace(use, pitched=True, ranges=tuple(_range(op, data, output)))


def _range(op: Op, data: Operand, output: Operand) -> Iterator[ChannelRange]:
    """Yield the range of channels that a Slice takes, if it is one."""
    site = Site(op)
    try:
        given: list[Any] = list(op.inputs)
        asked = slice_(site, *given) if len(given) > 1 else slice_1(site, data, **op.attributes)
    except (Unsupported, KernelError):
        return  # its lowering says why
    is_range = all(jump in (0, 1) for jump in asked.jumps)
    if is_range and output.shape[0] == data.shape[0] and output.shape[2:] == data.shape[2:]:
        yield ChannelRange(data, output, asked.firsts[1])


def _slice(site: Site, asked: Slicing) -> None:
    data, output, firsts, jumps = asked
    strides = strides_of(data)
    places = zip(output.shape, strides_of(output), map(mul, strides, jumps), strict=True)
    dims = [Dim(*place) for place in places]
    emit_range(site, output, data, dims, source_offset=sum(map(mul, firsts, strides)))


SPLIT.register("cupy", _split, _split_along)
SLICE.register("cupy", _slice, _slice_along)
