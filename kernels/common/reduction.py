"""Reductions, arg-extremes and scans: which axes they go along, and how the others lie around them.

A reduction of any axes is one or more reductions of the middle of (outer, n, inner): neighbouring axes that
are alike are one group, and axes of one element count for nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from onnxref.lowering import Operand, Site, Unsupported

from ..numpy._checks import normalize_axis, scalar_int
from ..numpy.reduction import REDUCTIONS, reduced_axes
from .checks import known, known_ints, only_output
from .rules import Rules


class Reduction(NamedTuple):
    """A reduction of `x`.

    Attributes:
        name: the operator.
        groups: (elements, whether reduced) of neighbouring axes that are alike, without axes of 1.
        each: elements that one result is made of.
    """

    name: str
    x: Operand
    y: Operand
    groups: list[tuple[int, bool]]
    each: int

    @property
    def is_whole(self) -> bool:
        """Whether every result is made of one element."""
        return not any(is_reduced for _, is_reduced in self.groups)


class Extremes(NamedTuple):
    """Indices of extremes along the middle of x, seen as `extents` (outer, n, inner)."""

    x: Operand
    y: Operand
    extents: tuple[int, int, int]
    greatest: bool
    last: bool


class Scan(NamedTuple):
    """Sums (or products) of all elements so far along the middle of x, seen as (outer, n, inner)."""

    x: Operand
    y: Operand
    extents: tuple[int, int, int]
    is_product: bool
    exclusive: bool
    reverse: bool


REDUCE: Rules[Reduction] = Rules()
EXTREMES: Rules[Extremes] = Rules()
SCAN: Rules[Scan] = Rules()


def around(shape: Sequence[int], axis: int) -> tuple[int, int, int]:
    """Return how many elements lie before, along and behind an axis that is counted from the front."""
    return math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1 :])


# --- reductions ----------------------------------------------------------------------------------


def _reduction(site: Site, name: str, x: Operand, axes: Sequence[int], noop: int = 0) -> Reduction:
    y = only_output(site)
    reduced = reduced_axes(x.ndim, axes, noop)
    groups = _grouped(x.shape, reduced) if x.size else [(y.size, False), (0, True)]
    return Reduction(name, x, y, groups, math.prod(x.shape[axis] for axis in reduced))


def _grouped(shape: Sequence[int], reduced: Sequence[int]) -> list[tuple[int, bool]]:
    groups: list[tuple[int, bool]] = []
    for axis, size in enumerate(shape):
        if size == 1:
            continue
        if groups and groups[-1][1] == (axis in reduced):
            size *= groups.pop()[0]
        groups.append((size, axis in reduced))
    return groups


def _add(name: str, axes_attribute: tuple[int, ...], axes_input: tuple[int, ...]) -> None:
    @REDUCE.rule(name, since=axes_attribute)
    def by_attribute(
        site: Site, data: Operand, *, axes: Sequence[int] | None = None, keepdims: int = 1
    ) -> Reduction:
        """Reduce along `axes`, all of them by default (ONNX Reduce*-1, -11, -12, -13)."""
        return _reduction(site, name, data, axes or ())

    @REDUCE.rule(name, since=axes_input)
    def by_input(
        site: Site,
        data: Operand,
        axes: Operand | None = None,
        *,
        keepdims: int = 1,
        noop_with_empty_axes: int = 0,
    ) -> Reduction:
        """Reduce along `axes`, by default all or (noop_with_empty_axes) none of them (ONNX Reduce*-18)."""
        given = [] if axes is None else known_ints(axes, "axes")
        return _reduction(site, name, data, given, noop_with_empty_axes)


for _name, _versions in REDUCTIONS.items():
    _add(_name, _versions.axes_attribute, _versions.axes_input)


# --- arg-extremes --------------------------------------------------------------------------------


def _extremes(site: Site, x: Operand, axis: int, *, greatest: bool, last: int) -> Extremes:
    extents = around(x.shape, normalize_axis(axis, x.ndim))
    if extents[1] == 0:
        raise Unsupported("the axis is empty")
    return Extremes(x, only_output(site), extents, greatest, bool(last))


@EXTREMES.rule("ArgMax", since=(1, 11, 12, 13))
def arg_max(
    site: Site, data: Operand, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0
) -> Extremes:
    """ONNX ArgMax-13; versions 1 and 11 have no select_last_index."""
    return _extremes(site, data, axis, greatest=True, last=select_last_index)


@EXTREMES.rule("ArgMin", since=(1, 11, 12, 13))
def arg_min(
    site: Site, data: Operand, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0
) -> Extremes:
    """ONNX ArgMin-13; versions 1 and 11 have no select_last_index."""
    return _extremes(site, data, axis, greatest=False, last=select_last_index)


# --- scans ---------------------------------------------------------------------------------------


def _scan(site: Site, x: Operand, axis: Operand, exclusive: int, reverse: int, *, is_product: bool) -> Scan:
    along = normalize_axis(scalar_int(known(axis, "axis"), "axis"), x.ndim)
    extents = around(x.shape, along)
    return Scan(x, only_output(site), extents, is_product, bool(exclusive), bool(reverse))


@SCAN.rule("CumSum", since=(11, 14))
def cum_sum(site: Site, x: Operand, axis: Operand, *, exclusive: int = 0, reverse: int = 0) -> Scan:
    """ONNX CumSum-14."""
    return _scan(site, x, axis, exclusive, reverse, is_product=False)


@SCAN.rule("CumProd", since=26)
def cum_prod(site: Site, x: Operand, axis: Operand, *, exclusive: int = 0, reverse: int = 0) -> Scan:
    """ONNX CumProd-26."""
    return _scan(site, x, axis, exclusive, reverse, is_product=True)
