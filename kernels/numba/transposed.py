"""ConvTranspose as one convolution per phase, in blocks of channels.

With stride s, the outputs at o = phase (mod s) of an axis see the taps k for which o + begin - k * dilation
is a multiple of s. So each phase is a convolution of stride 1 with those taps, last one first, whose outputs
lie s apart. float32, one or two spatial axes, constant weights; accuracy as in `grouped`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxref.dtypes import Array
from onnxref.lowering import (
    NO_PAD,
    Argument,
    Blocked,
    BlockedUse,
    Op,
    Operand,
    Pad,
    Scratch,
    Site,
    Unsupported,
    lower,
)
from onnxref.native import target

from ..common.windows import over_axes, transposed_windows
from ..numpy._windows import Windows
from .grouped import GroupedShape, blocked_bytes, constant_weights, convolve_blocks, window_origin
from .layout import convert, covers, steps


@dataclass(frozen=True, slots=True)
class _Phase:
    """The outputs of one axis that lie at `first` + j * stride.

    Attributes:
        outputs: how many there are.
        taps: which elements of the kernel they see, in the order of their inputs.
        start: the input that the first tap of the first output is at; may be negative.
        apart: distance of the inputs of neighbouring taps.
    """

    first: int
    outputs: int
    taps: tuple[int, ...]
    start: int
    apart: int

    @property
    def stop(self) -> int:
        """The last input that is looked at."""
        return self.start + self.outputs - 1 + (len(self.taps) - 1) * self.apart


def _phases(windows: Windows, axis: int) -> list[_Phase]:
    stride, dilation = windows.strides[axis], windows.dilations[axis]
    found = []
    for first in range(min(stride, windows.size[axis])):
        place = first + windows.begins[axis]
        taps = tuple(k for k in reversed(range(windows.kernel[axis])) if (place - k * dilation) % stride == 0)
        if not taps:
            raise Unsupported("outputs without inputs: the kernel is smaller than the stride")
        start = (place - taps[0] * dilation) // stride
        outputs = -(-(windows.size[axis] - first) // stride)
        found.append(_Phase(first, outputs, taps, start, dilation // math.gcd(stride, dilation)))
    return found


def _plan(x: Operand, w: Operand, version: int, attributes: Any) -> tuple[list[list[_Phase]], Windows, Pad]:
    """Return the phases of both axes, the windows, and the border that the input needs."""
    if x.dtype != np.float32 or w.dtype != np.float32:
        raise Unsupported(f"transposed convolution of {x.dtype.name}")
    if w.constant is None:
        raise Unsupported("weights that are not constant")
    if not np.isfinite(w.constant).all():
        raise Unsupported("weights that are not finite: zeros between the inputs would spoil other outputs")
    windows = over_axes(transposed_windows(x, w, 2, version, attributes), 2)
    phases = [_phases(windows, axis) for axis in (0, 1)]
    before = [max(0, *(-p.start for p in of_axis)) for of_axis in phases if of_axis]
    after = [
        max(0, *(p.stop - (n - 1) for p in of_axis))
        for of_axis, n in zip(phases, windows.out, strict=True)
        if of_axis
    ]
    if len(before) < 2:
        raise Unsupported("no outputs")
    return phases, windows, (before[0], before[1], after[0], after[1])


def _version(op: Op) -> int:
    return 1 if op.opset < 11 else 11


def blocked_transposed(op: Op, lanes: int) -> BlockedUse | None:
    """Work on blocks where the lowering can, with a border for what taps see outside."""
    x, w = op.inputs[:2]
    if x is None or w is None or x.size == 0 or w.size == 0 or x.ndim not in (3, 4):
        return None
    try:
        return BlockedUse({0: _plan(x, w, _version(op), op.attributes)[2]}, prefers=True)
    except Unsupported:
        return None


@lower("ConvTranspose", since=(1, 11, 22), blocked=blocked_transposed)
def conv_transpose(
    site: Site, x: Operand, w: Operand, b: Operand | None = None, *, group: int = 1, **attributes: Any
) -> None:
    """Lower ConvTranspose; tensors that are not in blocks are brought into blocks in scratch memory."""
    (y,) = site.outputs
    if y is None or y.size == 0:
        return
    if x.size == 0 or w.size == 0 or x.ndim not in (3, 4):
        raise Unsupported("transposed convolution of nothing")
    if b is not None and b.constant is None:
        raise Unsupported("a bias that is not constant")
    phases, windows, pad = _plan(x, w, _version(site.op), {**attributes, "group": group})
    lanes = target().lanes
    source, image, plane, x_row = window_origin(site, x, lanes, pad)
    layout: Blocked | None = y.layout
    goal: Operand | Scratch = y
    if layout is None or not covers(layout, lanes, NO_PAD):
        layout = Blocked(lanes)
        goal = site.scratch(blocked_bytes(y, layout))
    there = steps(y.shape, layout, 4)
    pixel = lanes * 4
    down, across = windows.strides
    for row in phases[0]:
        for column in phases[1]:
            start = (row.start + pad[0]) * x_row + (column.start + pad[1]) * pixel
            shape = GroupedShape(
                x.shape[1],
                y.shape[1],
                group,
                windows.out,
                (row.outputs, column.outputs),
                (len(row.taps), len(column.taps)),
                (1, 1),
                (row.apart, column.apart),
                (0, 0),
            )
            at = goal + (there.begin + row.first * there.row + column.first * pixel)
            common: list[Argument] = [source + start, image, plane, x_row]
            common += [at, there.image, there.plane, down * there.row, 0, 0, 0, 0]
            convolve_blocks(
                site,
                shape,
                w,
                lambda row=row, column=column: _phase_weights(w, group, windows, row, column),  # type: ignore[misc]
                ("transposed", group, row.taps, column.taps),
                b,
                common,
                y.shape[0],
                spacing=across,
            )
    if goal is not y:
        convert(site, y.shape, 4, goal, layout, y, y.layout)


def _phase_weights(w: Operand, group: int, windows: Windows, row: _Phase, column: _Phase) -> Array:
    """Return the taps of one phase of weights (C, M / group, *kernel) as (M, C / group, taps)."""
    plain = constant_weights(w).reshape(group, -1, w.shape[1], *windows.kernel)
    chosen = plain[..., list(row.taps), :][..., list(column.taps)]
    return chosen.transpose(0, 2, 1, 3, 4).reshape(group * w.shape[1], w.shape[0] // group, -1)
