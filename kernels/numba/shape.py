"""Lowerings of the operators that give a tensor another shape, permute its axes or repeat it.

All of them are exact: a change of shape is an alias, everything else a few copies between boxes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from onnxref.lowering import Operand, Site, Unsupported, lower

from ..common.checks import check_movable, known_ints, refusing
from ..common.shape import EXPAND, TILE, Expansion, Tiling
from ..common.strides import Dim
from ..numpy._common import row_strides
from .boxes import emit_alias, emit_box

# --- the same elements under another shape -------------------------------------------------------


@lower("Reshape", since=1)
def reshape_1(site: Site, data: Operand, **_: Any) -> None:
    """ONNX Reshape-1."""
    emit_alias(site, data)


@lower("Reshape", since=(5, 13, 14, 19, 21, 23, 24, 25))
@refusing
def reshape(site: Site, data: Operand, shape: Operand, *, allowzero: int = 0) -> None:
    """ONNX Reshape-25."""
    known_ints(shape, "shape")
    emit_alias(site, data)


@lower("Squeeze", since=(1, 11))
@lower("Unsqueeze", since=(1, 11))
@lower("Flatten", since=(1, 9, 11, 13, 21, 23, 24, 25))
@lower("Identity", since=(1, 13, 14, 16, 19, 21, 23, 24, 25))
def flatten(site: Site, data: Operand, **_: Any) -> None:
    """ONNX Flatten-25, Identity-25, Squeeze-11, Unsqueeze-11."""
    emit_alias(site, data)


@lower("Squeeze", since=(13, 21, 23, 24, 25))
@lower("Unsqueeze", since=(13, 21, 23, 24, 25))
@refusing
def squeeze(site: Site, data: Operand, axes: Operand | None = None) -> None:
    """ONNX Squeeze-25, Unsqueeze-25."""
    if axes is not None:
        known_ints(axes, "axes")
    emit_alias(site, data)


# --- permutation ---------------------------------------------------------------------------------


def _permute(site: Site, data: Operand, shape: Sequence[int], order: Sequence[int]) -> None:
    """Copy the data, seen in `shape`, with its axes in `order`."""
    (output,) = site.outputs
    assert output is not None
    check_movable(data)
    strides = row_strides(shape)
    goal = [shape[axis] for axis in order]
    dims = [Dim(n, to, strides[axis]) for n, to, axis in zip(goal, row_strides(goal), order, strict=True)]
    if all(d.goal == d.source for d in dims if d.size > 1):
        emit_alias(site, data)
    else:
        emit_box(site, output, data, dims)


@lower("Transpose", since=(1, 13, 21, 23, 24, 25))
def transpose(site: Site, data: Operand, *, perm: tuple[int, ...] | None = None) -> None:
    """Copy in any order of the axes; those that move together count as one (ONNX Transpose-25)."""
    order = tuple(reversed(range(data.ndim))) if perm is None else tuple(perm)
    if sorted(order) != list(range(data.ndim)):
        raise Unsupported(f"perm {order} is no permutation")
    _permute(site, data, data.shape, order)


@lower("DepthToSpace", since=(1, 11, 13, 28))
def depth_to_space(site: Site, input: Operand, *, blocksize: int, mode: str = "DCR") -> None:
    """ONNX DepthToSpace-28."""
    b = blocksize
    if input.ndim != 4 or b < 1 or input.shape[1] % (b * b) or mode not in ("DCR", "CRD"):
        raise Unsupported("invalid arguments")
    n, c, h, w = input.shape
    c //= b * b
    if mode == "DCR":
        _permute(site, input, (n, b, b, c, h, w), (0, 3, 4, 1, 5, 2))
    else:
        _permute(site, input, (n, c, b, b, h, w), (0, 1, 4, 2, 5, 3))


@lower("SpaceToDepth", since=(1, 13, 28))
def space_to_depth(site: Site, input: Operand, *, blocksize: int, mode: str = "DCR") -> None:
    """ONNX SpaceToDepth-28."""
    b = blocksize
    if input.ndim != 4 or b < 1 or mode not in ("DCR", "CRD") or input.shape[2] % b or input.shape[3] % b:
        raise Unsupported("invalid arguments")
    n, c, h, w = input.shape
    order = (0, 3, 5, 1, 2, 4) if mode == "DCR" else (0, 1, 3, 5, 2, 4)
    _permute(site, input, (n, c, h // b, b, w // b, b), order)


# --- repetition ----------------------------------------------------------------------------------


def _expand(site: Site, asked: Expansion) -> None:
    data, output, ours = asked
    if output.shape == ours:
        emit_alias(site, data)
        return
    places = zip(output.shape, row_strides(output.shape), ours, row_strides(ours), strict=True)
    emit_box(site, output, data, [Dim(d, to, 0 if n == 1 else origin) for d, to, n, origin in places])


def _tile(site: Site, asked: Tiling) -> None:
    data, output, times = asked
    dims: list[Dim] = []
    strides = row_strides(output.shape), row_strides(data.shape)
    for d, r, to, origin in zip(data.shape, times, *strides, strict=True):
        dims += [Dim(r, to * d, 0), Dim(d, to, origin)]
    emit_box(site, output, data, dims)


EXPAND.register("numba", _expand)
TILE.register("numba", _tile)
