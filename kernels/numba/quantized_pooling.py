"""Additions and pooling of 8-bit integers beside quantized convolutions: QuantizedAdd, QuantizedMaxPool,
QuantizedGlobalAveragePool.

MaxPool is exact; the others scale in float32 and are within one quantum of the reference.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from onnxref.lowering import (
    NO_PAD,
    Blocked,
    BlockedUse,
    Op,
    Operand,
    Packed,
    Pad,
    Scratch,
    Site,
    Unsupported,
    lower,
)
from onnxref.native import native, target
from onnxref.registry import INTERNAL

from ..common.checks import accept
from ..common.quantization import known_zero
from ..common.windows import pool_windows
from ..numpy._windows import Windows
from .layout import convert, covers, goes_along, padded_copy, steps
from .quantized_conv import CODE, addition_parameters, in_blocks


def _blocked_bytes(op: Op, lanes: int) -> BlockedUse | None:
    """Say how the operators below work on blocked tensors: they go along."""
    x, y = op.inputs[0], op.outputs[0]
    if x is None or y is None or x.dtype != np.uint8 or x.ndim not in (3, 4) or y.size == 0 or x.size == 0:
        return None
    if op.op_type == "QuantizedAdd":
        return goes_along(0, 3)
    if op.op_type == "QuantizedGlobalAveragePool":
        return BlockedUse({0: NO_PAD}, ())
    found = _windows(x, op.attributes)
    return None if found is None else BlockedUse({0: found[1]}, (0,))


@lower("QuantizedAdd", since=1, domain=INTERNAL, blocked=_blocked_bytes)
def quantized_add(
    site: Site,
    a: Operand,
    a_scale: Operand,
    a_zero: Operand,
    b: Operand,
    b_scale: Operand,
    b_zero: Operand,
    y_scale: Operand,
    y_zero: Operand,
    *,
    activation: str = "",
) -> None:
    """Add quantized tensors of one shape; within one quantum."""
    (y,) = site.outputs
    assert y is not None
    accept(a.dtype == b.dtype == y.dtype == np.uint8, "not uint8")
    accept(a.shape == b.shape, "broadcast")
    first, second = (a_scale, known_zero(a_zero, "zero point")), (b_scale, known_zero(b_zero, "zero point"))
    out = (y_scale, known_zero(y_zero, "zero point"))
    parameters = Packed(addition_parameters(first, second, out, y.dtype, relu=activation == "Relu"))
    places: list[int] = []
    rows, width = 1, y.size
    if y.layout is not None:
        lanes = y.layout.lanes
        accept(all(x.layout is not None and x.layout.lanes == lanes for x in (a, b)), "layouts differ")
        each = [steps(x.shape, x.layout, 1) for x in (a, b, y)]
        height, wide = (1, y.shape[2]) if y.ndim == 3 else y.shape[2:]
        rows, width = y.shape[0] * each[0].planes * height, wide * lanes
        places = [number for at in each for number in (at.begin, at.plane, at.row)]
    else:
        accept(a.layout is None and b.layout is None, "layouts differ")
        height, places = 1, [0] * 9
    chunk = width if y.layout is not None else 4096
    units = rows * -(-width // chunk)
    site.call(
        native(CODE, "added"),
        a,
        b,
        y,
        height,
        width,
        chunk,
        parameters,
        *places,
        units=units,
        work=y.size * 0.2,
    )


def _windows(x: Operand, attributes: Mapping[str, Any]) -> tuple[Windows, Pad] | None:
    """Return the windows of a MaxPool and the border that they reach, None for what is not lowered."""
    if x.ndim != 4 or attributes.get("storage_order", 0):
        return None
    given = {name: value for name, value in attributes.items() if name != "storage_order"}
    try:
        found = pool_windows(x, 2, **given)
    except Unsupported:
        return None
    ends = []
    for i in (0, 1):  # ceil_mode reaches beyond the declared padding
        last = (found.out[i] - 1) * found.strides[i] + (found.kernel[i] - 1) * found.dilations[i]
        ends.append(max(0, last - found.begins[i] - found.size[i] + 1))
    return found, (found.begins[0], found.begins[1], ends[0], ends[1])


@lower("QuantizedMaxPool", since=1, domain=INTERNAL, blocked=_blocked_bytes)
def quantized_max_pool(site: Site, x: Operand, **attributes: Any) -> None:
    """MaxPool-12 of uint8 (N, C, H, W): a border of zeros does not count."""
    (y,) = site.outputs
    assert y is not None
    found = _windows(x, attributes)
    accept(found is not None and x.dtype == np.uint8 and x.size > 0 and y.size > 0, "such windows")
    assert found is not None
    windows, pad = found
    lanes = target().lanes
    source: Operand | Scratch = x
    layout = x.layout
    if layout is None or not covers(layout, lanes, pad):
        source, layout = padded_copy(site, x, lanes, pad)
    goal: Operand | Scratch = y
    goal_layout = y.layout
    if goal_layout is None or goal_layout.lanes != lanes:
        goal_layout = Blocked(lanes)
        goal = site.scratch(int(np.prod(goal_layout.extents(y.shape))))
    here, there = steps(x.shape, layout, 1), steps(y.shape, goal_layout, 1)
    offsets = [
        (ky * windows.dilations[0] - pad[0]) * here.row + (kx * windows.dilations[1] - pad[1]) * here.pixel
        for ky in range(windows.kernel[0])
        for kx in range(windows.kernel[1])
    ]
    height, width = windows.out
    site.call(
        native(CODE, "largest"),
        source + here.begin, here.plane, here.row * windows.strides[0], here.pixel * windows.strides[1],
        goal + there.begin, there.plane, there.row, height, width,
        Packed(np.array(offsets, np.int64)), len(offsets),
        units=x.shape[0] * here.planes * height, work=y.size * len(offsets) * 0.06,
    )  # fmt: skip
    if goal is not y:
        convert(site, y.shape, 1, goal, goal_layout, y, y.layout)


@lower("QuantizedGlobalAveragePool", since=1, domain=INTERNAL, blocked=_blocked_bytes)
def quantized_global_average_pool(
    site: Site, x: Operand, x_scale: Operand, x_zero: Operand, y_scale: Operand, y_zero: Operand
) -> None:
    """Mean of each channel of uint8, quantized; within one quantum."""
    (y,) = site.outputs
    assert y is not None
    accept(x.dtype == y.dtype == np.uint8 and y.layout is None and x.size > 0, "not uint8")
    accept(x.ndim in (3, 4) and x.size // max(1, y.size) < 2**22, f"shape {x.shape}")
    source, layout = in_blocks(site, x)
    here = steps(x.shape, layout, 1)
    height, width = (1, x.shape[2]) if x.ndim == 3 else x.shape[2:]
    first = (x_scale, known_zero(x_zero, "zero point"))
    out = (y_scale, known_zero(y_zero, "zero point"))
    parameters = addition_parameters(first, first, out, y.dtype, relu=False)
    parameters[2] = -first[1] * parameters[0]
    parameters[0] /= height * width
    site.call(
        native(CODE, "averages"),
        source + here.begin, here.plane, here.row, height, width, y, x.shape[1], here.planes,
        Packed(parameters), units=x.shape[0] * here.planes, work=x.size * 0.1,
    )  # fmt: skip
