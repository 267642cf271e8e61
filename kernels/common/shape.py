"""Expand and Tile (ONNX Expand-13, Tile-13): the shapes that they give."""

from __future__ import annotations

from typing import Any, NamedTuple

from onnxref.lowering import Operand, Site

from ..numpy.shape import expanded_shape, tiled_shape
from .checks import check_movable, check_result, known, known_ints, only_output
from .rules import Rules


class Expansion(NamedTuple):
    """`data`, seen under `shape`, broadcast to the output's shape, which has as many axes."""

    data: Operand
    output: Operand
    shape: tuple[int, ...]


class Tiling(NamedTuple):
    """`data` as often as `repeats` says, along each axis."""

    data: Operand
    output: Operand
    repeats: list[int]


EXPAND: Rules[Expansion] = Rules()
TILE: Rules[Tiling] = Rules()


@EXPAND.rule("Expand", since=(8, 13))
def expand(site: Site, input: Operand, shape: Operand) -> Expansion:
    """ONNX Expand-13."""
    output = only_output(site)
    check_movable(input)
    like: Any = input  # only its shape is asked for
    goal = expanded_shape(like, known(shape, "shape"))
    check_result(output, goal)
    return Expansion(input, output, (1,) * (len(goal) - input.ndim) + input.shape)


@TILE.rule("Tile", since=(6, 13))
def tile(site: Site, input: Operand, repeats: Operand) -> Tiling:
    """ONNX Tile-13."""
    output = only_output(site)
    check_movable(input)
    times = known_ints(repeats, "repeats")
    like: Any = input
    check_result(output, tiled_shape(like, times))
    return Tiling(input, output, times)
