"""Pad (ONNX Pad-25): how much is added or cut off at each side of each axis, and what the border holds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from onnxref.lowering import Operand, Packed, Site, Unsupported

from ..numpy.shape import pad_widths, padded_shape
from .checks import check_movable, check_result, known_ints, only_output
from .rules import Rules

_MODES = ("constant", "reflect", "edge")


class Padding(NamedTuple):
    """What is to become of `data`.

    Attributes:
        widths: (begin, end) of each axis; negative ones crop.
        mode: "constant", "reflect", "edge", "wrap".
        fill: one element, for the mode "constant".
    """

    data: Operand
    output: Operand
    widths: list[tuple[int, int]]
    mode: str
    fill: Operand | Packed


PAD: Rules[Padding] = Rules()


def _padding(
    site: Site,
    data: Operand,
    pads: Sequence[int],
    axes: Sequence[int] | None,
    mode: str,
    fill: Operand | Packed,
) -> Padding:
    output = only_output(site)
    check_movable(data)
    like: Any = data  # only its shape is asked for
    widths = pad_widths(like, pads, axes)
    check_result(output, padded_shape(like, widths))
    return Padding(data, output, widths, mode, fill)


def _by_attributes(site: Site, data: Operand, pads: Sequence[int], mode: str, value: float) -> Padding:
    if mode not in _MODES:
        raise Unsupported(f"mode {mode}")
    check_movable(data)
    with np.errstate(over="ignore"):
        held = np.full(1, value, data.dtype)
    fill = site.pack((), ("Pad", data.dtype.str, data.dtype.name, held.tobytes()), lambda: held)
    return _padding(site, data, pads, None, mode, fill)


@PAD.rule("Pad", since=1)
def pad_1(
    site: Site, data: Operand, *, paddings: tuple[int, ...], mode: str = "constant", value: float = 0.0
) -> Padding:
    """ONNX Pad-1."""
    return _by_attributes(site, data, paddings, mode, value)


@PAD.rule("Pad", since=2)
def pad_2(
    site: Site, data: Operand, *, pads: tuple[int, ...], mode: str = "constant", value: float = 0.0
) -> Padding:
    """ONNX Pad-2."""
    return _by_attributes(site, data, pads, mode, value)


@PAD.rule("Pad", since=(11, 13, 18, 19, 21, 23, 24, 25))
def pad(
    site: Site,
    data: Operand,
    pads: Operand,
    constant_value: Operand | None = None,
    axes: Operand | None = None,
    *,
    mode: str = "constant",
) -> Padding:
    """ONNX Pad-25, in all modes."""
    if mode not in (*_MODES, *(("wrap",) if site.opset >= 19 else ())):
        raise Unsupported(f"mode {mode}")
    if constant_value is not None and (constant_value.size != 1 or constant_value.dtype != data.dtype):
        raise Unsupported("constant_value of another type or size")
    targets = None if axes is None else known_ints(axes, "axes")
    fill: Operand | Packed | None = constant_value
    if fill is None:  # all bits clear, as in the reference
        check_movable(data)
        size = data.dtype.itemsize
        fill = site.pack((), ("zero", size), lambda: np.zeros(size, np.uint8))
    return _padding(site, data, known_ints(pads, "pads"), targets, mode, fill)
