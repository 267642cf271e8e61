"""Transposition of a square block of one vector by one vector, in registers."""

from __future__ import annotations

from functools import cache
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from onnxref.native.ops import I32
from onnxref.native.vectors import Vectors

from ._gemm_micro import ELEMENTS


@cache
def transpose_block(dtype: str) -> Any:
    """Return the intrinsic (source, bytes between its rows, goal, bytes between its rows)."""

    @intrinsic
    def transpose(context, source, source_row, goal, goal_row):
        def generate(ctx, builder, signature, values):
            v = Vectors(builder, ELEMENTS[dtype])
            rows, at = [], values[0]
            for _ in range(v.lanes):
                rows.append(v.load(at))
                at = builder.add(at, values[1])
            at = values[2]
            for row in turn(builder, rows):
                v.store(row, at)
                at = builder.add(at, values[3])
            return ctx.get_dummy_value()

        return types.void(*[types.int64] * 4), generate

    return transpose


def turn(builder: Any, rows: list[Any]) -> list[Any]:
    """Emit the transposition of as many vectors as each has lanes.

    In pass s, rows i and i + 2**s swap the elements whose places differ in bit s: log2(lanes) passes.
    """
    half = 1
    while half < len(rows):
        rows = _swap(builder, rows, half)
        half *= 2
    return rows


def _swap(builder: Any, rows: list[Any], half: int) -> list[Any]:
    lanes = len(rows)
    low = [j if not j & half else j - half + lanes for j in range(lanes)]
    high = [j + half if not j & half else j + lanes for j in range(lanes)]
    kind = ir.VectorType(I32, lanes)
    swapped = list(rows)
    for i in range(lanes):
        if not i & half:
            x, y = rows[i], rows[i + half]
            swapped[i] = builder.shuffle_vector(x, y, ir.Constant(kind, low))
            swapped[i + half] = builder.shuffle_vector(x, y, ir.Constant(kind, high))
    return swapped
