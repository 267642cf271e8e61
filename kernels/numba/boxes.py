"""Copies between boxes of any strides, for the lowerings that move elements.

A box is copied by a few calls that `emit_box` chooses: they are exact and hold for every element type
that has a fixed size.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from onnxref.lowering import Operand, Packed, Site, Unsupported
from onnxref.native import native, target

from ..common.checks import only_output
from ..common.strides import Dim, join_dims

CODE = "onnxref.kernels.numba.code.shape"

_CHUNK = 1 << 14  # bytes that are worth a unit of their own
_FLAT_ROWS = 8  # rows up to which each becomes a call, so that all threads work on one row
_BYTES_PER_NS = 8.0


def emit_alias(site: Site, data: Operand) -> None:
    output = only_output(site)
    if output.size != data.size or output.dtype != data.dtype:
        raise Unsupported(f"{data} does not become {output} by a change of shape")
    site.alias(output, data)


# --- boxes ---------------------------------------------------------------------------------------


def emit_box(
    site: Site,
    goal: Operand,
    source: Operand | Packed,
    dims: Iterable[Dim],
    *,
    goal_offset: int = 0,
    source_offset: int = 0,
) -> None:
    """Add the calls that copy a box of elements of the type of `goal`; offsets count elements."""
    size = goal.dtype.itemsize
    held = list(dims)
    if size == 16:  # two halves
        size = 8
        held = [*(Dim(d.size, 2 * d.goal, 2 * d.source) for d in held), Dim(2, 1, 1)]
        goal_offset, source_offset = 2 * goal_offset, 2 * source_offset
    if math.prod(d.size for d in held):
        places = (source + source_offset * size, goal + goal_offset * size)
        _Mover(site, places, size).move(join_dims(held))


@dataclass(frozen=True, slots=True)
class _Mover:
    """Chooses the kernel for a box."""

    site: Site
    places: tuple[Any, Any]
    size: int

    def move(self, dims: list[Dim]) -> None:
        if not dims:
            dims = [Dim(1, 1, 1)]
        row = next((d for d in dims if d.goal == d.source == 1), None)
        if row is not None:
            self._rows(dims, row)
            return
        across = next((d for d in dims if d.goal == 1), None)
        along = next((d for d in dims if d.source == 1), None)
        if across and along:
            edge = min(16, target().vector_bytes // self.size)
            if min(across.size, along.size) >= edge:
                stripes = -(-along.size // edge)
                self._call("transposed", (self.size, edge), dims, along, across, per_outer=stripes)
                return
            if 2 <= across.size <= 4 and along.goal == across.size:
                self._call("interleaved", (self.size, across.size), dims, along, across, per_outer=1)
                return
            if 2 <= along.size <= 4 and across.source == along.size:
                self._call("parted", (self.size, along.size), dims, along, across, per_outer=1)
                return
        candidates = [d for d in (across, along, dims[-1]) if d is not None]
        inner = max(candidates, key=lambda d: min(d.size, 32))
        self._call("strided", (self.size,), dims, _middle(dims, inner), inner)

    def _rows(self, dims: list[Dim], row: Dim) -> None:
        nbytes = row.size * self.size
        outer = [d for d in dims if d is not row]
        if nbytes > 2 * _CHUNK and math.prod(d.size for d in outer) <= _FLAT_ROWS:
            for index in itertools.product(*(range(d.size) for d in outer)):
                to = sum(i * d.goal for i, d in zip(index, outer, strict=True)) * self.size
                origin = sum(i * d.source for i, d in zip(index, outer, strict=True)) * self.size
                places = (self.places[0] + origin, self.places[1] + to)
                units, work = -(-nbytes // _CHUNK), nbytes / _BYTES_PER_NS
                self.site.call(native(CODE, "flat"), *places, nbytes, _CHUNK, units=units, work=work)
            return
        self._call("rows", (), dims, _middle(dims, row), row)

    def _call(
        self, kernel: str, parameters: tuple[int, ...], dims: list[Dim], m: Dim, n: Dim, per_outer: int = 0
    ) -> None:
        """Add one call; `per_outer` is the number of units in an outer position, 0 for the size of m."""
        outer = [d for d in dims if d is not m and d is not n]
        size, total = self.size, math.prod(d.size for d in dims) * self.size
        n_size = n.size * size if kernel == "rows" else n.size
        inner = (m.size, m.goal * size, m.source * size, n_size, n.goal, n.source)
        rest = itertools.chain.from_iterable((d.size, d.goal * size, d.source * size) for d in outer)
        units = math.prod(d.size for d in outer) * (per_outer or m.size)
        work = total / _BYTES_PER_NS if kernel == "rows" else total / min(size, 4)
        self.site.call(
            native(CODE, kernel, *parameters),
            *self.places,
            *inner,
            len(outer),
            *rest,
            units=units,
            work=work,
            grain=max(1, units * _CHUNK // total),
        )


def _middle(dims: list[Dim], inner: Dim) -> Dim:
    """Return the dimension to walk along next: the innermost one that is not tiny, else the longest."""
    others = [d for d in dims if d is not inner]
    return next((d for d in reversed(others) if d.size >= 8), max(others, key=lambda d: d.size, default=_ONE))


_ONE = Dim(1, 0, 0)
