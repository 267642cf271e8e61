"""Lowerings of Pad: exact copies of boxes, the border in boxes around the inner part."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np

from onnxref.lowering import Operand, Packed, Site, Unsupported

from ..common.padding import PAD, Padding
from ..common.strides import Dim
from ..numpy._common import row_strides
from .boxes import emit_box

_MAX_BOXES = 81  # three pieces along each of four axes
_Piece: TypeAlias = tuple[int, int, int, int]  # begin in the goal, first source index, its step, length


def _pieces(mode: str, size: int, begin: int, end: int) -> list[_Piece]:
    """Cut a padded axis into pieces along which the source index moves by a constant step."""
    position = np.arange(-begin, size + end)
    if mode == "edge":
        source = position.clip(0, size - 1)
    elif mode == "wrap":
        source = position % size
    else:
        period = max(2 * size - 2, 1)
        source = position % period
        source = np.minimum(source, period - source)
    step = np.diff(source)
    pieces: list[_Piece] = []
    at = 0
    while at < len(source):
        run = 1
        if at < len(step) and abs(step[at]) <= 1:
            while at + run < len(source) and step[at + run - 1] == step[at]:
                run += 1
        pieces.append((at, int(source[at]), int(step[at]) if run > 1 else 0, run))
        at += run
    return pieces


def _pad(site: Site, asked: Padding) -> None:
    """Copy what is left after cropping, and fill the border around it in boxes."""
    data, output, widths, mode, value = asked
    strides = row_strides(data.shape)
    crop = sum(max(-b, 0) * stride for (b, _), stride in zip(widths, strides, strict=True))
    inner = [d - max(-b, 0) - max(-e, 0) for d, (b, e) in zip(data.shape, widths, strict=True)]
    added = [(max(b, 0), max(e, 0)) for b, e in widths]
    if mode == "constant":
        _pad_constant(site, output, data, inner, added, crop, value)
        return
    if any(n == 0 and any(width) for n, width in zip(inner, added, strict=True)):
        raise Unsupported("an empty dimension has nothing to repeat")
    if not output.size:
        return
    per_axis = [_pieces(mode, n, b, e) for n, (b, e) in zip(inner, added, strict=True)]
    if math.prod(map(len, per_axis)) > _MAX_BOXES:
        raise Unsupported("padding of many pieces")
    goals = row_strides(output.shape)
    for box in itertools.product(*per_axis):
        emit_box(
            site,
            output,
            data,
            [Dim(p[3], to, p[2] * origin) for p, to, origin in zip(box, goals, strides, strict=True)],
            goal_offset=sum(p[0] * to for p, to in zip(box, goals, strict=True)),
            source_offset=crop + sum(p[1] * origin for p, origin in zip(box, strides, strict=True)),
        )


def _pad_constant(
    site: Site,
    output: Operand,
    data: Operand,
    inner: Sequence[int],
    added: Sequence[tuple[int, int]],
    crop: int,
    value: Operand | Packed,
) -> None:
    goals = row_strides(output.shape)
    places = zip(inner, goals, row_strides(data.shape), strict=True)
    start = sum(b * to for (b, _), to in zip(added, goals, strict=True))
    emit_box(site, output, data, [Dim(*place) for place in places], goal_offset=start, source_offset=crop)
    # The border along an axis spans the inner part of the axes before it and all of those behind.
    corner = 0
    for axis, (begin, end) in enumerate(added):
        rest = output.shape[axis + 1 :]
        for width, at in ((begin, 0), (end, begin + inner[axis])):
            sizes = [*inner[:axis], width, *rest]
            fill = [Dim(n, to, 0) for n, to in zip(sizes, goals, strict=True)]
            emit_box(site, output, value, fill, goal_offset=corner + at * goals[axis])
        corner += begin * goals[axis]


PAD.register("numba", _pad)
