"""Lowerings of the operators that give a tensor another shape, permute its axes or repeat it.

All of them are exact: a change of shape is an alias, everything else one copy between boxes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from onnxref.lowering import NO_PAD, BlockedUse, Op, Operand, Site, Unsupported, lower

from ..common.checks import check_movable, check_result, known_ints, only_output, refusing
from ..common.shape import EXPAND, TILE, Expansion, Tiling
from ..common.strides import Dim
from ..numpy._common import row_strides
from .movement import check_plain, emit_alias, emit_box, goes_along, strides_of

# --- the same elements under another shape -------------------------------------------------------


@lower("Reshape", since=1, backend="cupy")
@lower("Squeeze", since=(1, 11), backend="cupy")
@lower("Unsqueeze", since=(1, 11), backend="cupy")
@lower("Flatten", since=(1, 9, 11, 13, 21, 23, 24, 25), backend="cupy")
def flatten(site: Site, data: Operand, **_: Any) -> None:
    """ONNX Flatten-25, Reshape-1, Squeeze-11, Unsqueeze-11."""
    emit_alias(site, data)


@lower("Identity", since=(1, 13, 14, 16, 19, 21, 23, 24, 25), backend="cupy", blocked=goes_along)
def identity(site: Site, input: Operand) -> None:
    """ONNX Identity-25."""
    emit_alias(site, input)


@lower("Reshape", since=(5, 13, 14, 19, 21, 23, 24, 25), backend="cupy")
@refusing
def reshape(site: Site, data: Operand, shape: Operand, *, allowzero: int = 0) -> None:
    """ONNX Reshape-25."""
    known_ints(shape, "shape")
    emit_alias(site, data)


@lower("Squeeze", since=(13, 21, 23, 24, 25), backend="cupy")
@lower("Unsqueeze", since=(13, 21, 23, 24, 25), backend="cupy")
@refusing
def squeeze(site: Site, data: Operand, axes: Operand | None = None) -> None:
    """ONNX Squeeze-25, Unsqueeze-25."""
    if axes is not None:
        known_ints(axes, "axes")
    emit_alias(site, data)


# --- permutation ---------------------------------------------------------------------------------


def _copy_or_alias(site: Site, data: Operand, dims: Sequence[Dim]) -> None:
    """Copy the whole input, or pass it on where nothing moves."""
    output = only_output(site)
    same = (output.layout is None and data.layout is None) or output.shape == data.shape
    if same and all(d.goal == d.source for d in dims if d.size > 1):
        emit_alias(site, data)
    else:
        emit_box(site, output, data, dims)


@lower("Transpose", since=(1, 13, 21, 23, 24, 25), backend="cupy")
def transpose(site: Site, data: Operand, *, perm: tuple[int, ...] | None = None) -> None:
    """Copy in any order of the axes; those that move together count as one (ONNX Transpose-25)."""
    output = only_output(site)
    check_movable(data)
    order = tuple(reversed(range(data.ndim))) if perm is None else tuple(perm)
    if sorted(order) != list(range(data.ndim)):
        raise Unsupported(f"perm {order} is no permutation")
    check_result(output, [data.shape[axis] for axis in order])
    strides = strides_of(data)
    places = zip(output.shape, strides_of(output), [strides[axis] for axis in order], strict=True)
    _copy_or_alias(site, data, [Dim(*place) for place in places])


def _image_strides(operand: Operand) -> tuple[int, int, int, int]:
    n, c, h, w = strides_of(operand)
    return n, c, h, w


def _blocks(site: Site, deep: Operand, wide: Operand, b: int, mode: str, *, to_depth: bool) -> None:
    """Copy between (N, C * b * b, H, W) and (N, C, H * b, W * b)."""
    n, c, height, width = wide.shape
    check_movable(deep)
    check_result(deep, (n, c * b * b, height // b, width // b))
    dn, dc, dh, dw = _image_strides(deep)
    wn, wc, wh, ww = _image_strides(wide)
    # Strides of channel, block row and block column among the channels of the deep side.
    channel, row, column = (1, b * c, c) if mode == "DCR" else (b * b, b, 1)
    sizes = (n, c, height // b, b, width // b, b)
    here = (dn, dc * channel, dh, dc * row, dw, dc * column)
    there = (wn, wc, wh * b, wh, ww * b, ww)
    source, goal = (there, here) if to_depth else (here, there)
    dims = [Dim(*place) for place in zip(sizes, goal, source, strict=True)]
    _copy_or_alias(site, wide if to_depth else deep, dims)


@lower("DepthToSpace", since=(1, 11, 13, 28), backend="cupy", blocked=goes_along)
def depth_to_space(site: Site, input: Operand, *, blocksize: int, mode: str = "DCR") -> None:
    """ONNX DepthToSpace-28."""
    b = blocksize
    if input.ndim != 4 or b < 1 or input.shape[1] % (b * b) or mode not in ("DCR", "CRD"):
        raise Unsupported("invalid arguments")
    _blocks(site, input, only_output(site), b, mode, to_depth=False)


@lower("SpaceToDepth", since=(1, 13, 28), backend="cupy", blocked=goes_along)
def space_to_depth(site: Site, input: Operand, *, blocksize: int, mode: str = "DCR") -> None:
    """ONNX SpaceToDepth-28."""
    b = blocksize
    if input.ndim != 4 or b < 1 or mode not in ("DCR", "CRD") or input.shape[2] % b or input.shape[3] % b:
        raise Unsupported("invalid arguments")
    _blocks(site, only_output(site), input, b, mode, to_depth=True)


# --- repetition ----------------------------------------------------------------------------------


def _expand(site: Site, asked: Expansion) -> None:
    data, output, ours = asked
    check_plain(data, output)
    if output.shape == ours:
        emit_alias(site, data)
        return
    places = zip(output.shape, row_strides(output.shape), ours, row_strides(ours), strict=True)
    emit_box(site, output, data, [Dim(d, to, 0 if n == 1 else origin) for d, to, n, origin in places])


def _tile(site: Site, asked: Tiling) -> None:
    data, output, times = asked
    dims: list[Dim] = []
    for d, r, to, origin in zip(data.shape, times, strides_of(output), strides_of(data), strict=True):
        dims += [Dim(r, to * d, 0), Dim(d, to, origin)]
    emit_box(site, output, data, dims)


def _tile_along(op: Op, lanes: int) -> BlockedUse | None:
    x = op.inputs[0]
    return BlockedUse({0: NO_PAD}) if x is not None and x.ndim >= 3 else None


EXPAND.register("cupy", _expand)
TILE.register("cupy", _tile, _tile_along)
