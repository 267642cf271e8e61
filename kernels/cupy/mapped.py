"""Copies to a goal whose axes read the source through tables: borders, resizing to the nearest."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from onnxref.dtypes import Array
from onnxref.gpu import cuda_kernel, grid_for
from onnxref.lowering import Operand, Packed, Site, Unsupported

from .movement import CODE, index_type, lying_order, magic, strides_of, widest

Table: TypeAlias = Array
"""For each index of the goal's axis that of the source, -1 for none."""


@dataclass(slots=True)
class Axis:
    """An axis of the goal: its size and stride, the source's stride, perhaps a table of indices."""

    size: int
    goal: int
    stride: int
    table: Table | None = None


def axes_of(goal: Operand, source: Operand, tables: Mapping[int, Table]) -> list[Axis]:
    """Return the goal's axes as they lie; those without a table that are one are joined."""
    strides, steps = strides_of(source), strides_of(goal)
    joined: list[Axis] = []
    for axis in lying_order(goal.layout, goal.ndim):
        size, step, stride, table = goal.shape[axis], steps[axis], strides[axis], tables.get(axis)
        if table is not None and np.array_equal(table, np.arange(source.shape[axis])):
            table = None
        if table is None and size == 1:
            continue
        last = joined[-1] if joined else None
        is_plain = last is not None and table is None and last.table is None
        if last and is_plain and last.stride == size * stride and last.goal == size * step:
            joined[-1] = Axis(last.size * size, step, stride)
        else:
            joined.append(Axis(size, step, stride, table))
    return joined or [Axis(1, 1, 1)]


def gap_of(axes: Sequence[Axis]) -> int:
    """Return how many elements lie between the rows of a goal: 0, but for channels that have a pitch."""
    return axes[-2].goal - axes[-1].size if len(axes) > 1 else 0


def emit_mapped(
    site: Site, goal: Operand, source: Operand, tables: Mapping[int, Table], fill: Operand | Packed
) -> None:
    """Add the launch that fills the goal.

    Args:
        tables: by axis; the other axes are the source's.
        fill: the element for places without source.
    """
    if not goal.size:
        return
    size = goal.dtype.itemsize
    axes = axes_of(goal, source, tables)
    unit = size
    if axes[-1].table is None and axes[-1].stride == 1:
        unit = widest(size, axes[-1].size * size, *(n * size for a in axes[:-1] for n in (a.stride, a.goal)))
    ratio = unit // size
    if ratio > 1:
        axes = [
            *(Axis(a.size, a.goal // ratio, a.stride // ratio, a.table) for a in axes[:-1]),
            Axis(axes[-1].size // ratio, 1, 1),
        ]
    begins, held = [], [np.zeros(0, np.int64)]
    for a in axes:
        begins.append(-1 if a.table is None else sum(map(len, held)))
        if a.table is not None:
            held.append(np.where(a.table < 0, -1, a.table * a.stride))
    joined = np.concatenate(held) if len(held) > 1 else np.zeros(1, np.int64)
    if joined.max(initial=0) >= 1 << 31:
        raise Unsupported("offsets beyond 32 bits")
    table = joined.astype(np.int32)
    vector, gap = 16 // unit, gap_of(axes)
    if gap and axes[-1].size % vector:
        vector = 1
    sizes = [a.size for a in axes]
    total = math.prod(sizes)
    index = index_type(total + 4096, source.buffer_bytes // size)
    kernel = cuda_kernel(
        CODE, "mapped.cu", "mapped",
        UNIT=size, RATIO=ratio, VEC=vector, RANK=len(axes), INDEX=index,
    )  # fmt: skip
    site.launch(
        kernel,
        *(source, fill, site.pack((), ("mapped", table.tobytes()), lambda: table), goal, total, gap),
        (*sizes, *map(magic, sizes), *(a.stride for a in axes), *begins),
        grid=grid_for(total, 256, vector),
    )
