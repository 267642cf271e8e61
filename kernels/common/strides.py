"""How boxes of elements are walked, and which dimensions are walked as one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Dim:
    """One dimension of a box: its size, and its strides in the goal and in the source, in elements."""

    size: int
    goal: int
    source: int


def join_dims(dims: Iterable[Dim]) -> list[Dim]:
    """Drop dimensions of one element and join neighbours that are one on both sides."""
    joined: list[Dim] = []
    for dim in dims:
        if dim.size == 1:
            continue
        last = joined[-1] if joined else None
        if last and last.goal == dim.goal * dim.size and last.source == dim.source * dim.size:
            joined[-1] = Dim(last.size * dim.size, dim.goal, dim.source)
        else:
            joined.append(dim)
    return joined


def collapse(extents: Sequence[int], views: Sequence[Sequence[int]]) -> tuple[list[int], list[list[int]]]:
    """Drop dimensions of 1 and merge neighbours that all views walk as one.

    Args:
        views: the strides of each view along the dimensions, in any unit.

    Returns:
        The extents that are left, and each view's strides along them.
    """
    kept: list[int] = []
    strides: list[list[int]] = [[] for _ in views]
    for i, extent in enumerate(extents):
        if extent == 1:
            continue
        if kept and all(s[-1] == view[i] * extent for s, view in zip(strides, views, strict=True)):
            kept[-1] *= extent
            for s, view in zip(strides, views, strict=True):
                s[-1] = view[i]
            continue
        kept.append(extent)
        for s, view in zip(strides, views, strict=True):
            s.append(view[i])
    return kept, strides
