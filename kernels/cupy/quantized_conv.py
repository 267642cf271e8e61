"""Convolutions of 8-bit integers on the GPU: ConvInteger, QLinearConv, QuantizedConv.

Sums are int32, exact modulo 2**32, and results are the bits of the reference.

One group with constant weights: windows as rows (`im2col`, padding holds the zero point), then an 8-bit
product, as `integer_linalg` has it. All others: from the definition, four channels at a time where they are
neighbours.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxref.dtypes import Array
from onnxref.gpu import CTYPES, cuda_kernel, grid_for
from onnxref.lowering import NO_PAD, BlockedUse, Op, Operand, Packed, Site, Unsupported, lower
from onnxref.registry import INTERNAL

from ..common.checks import accept
from ..common.windows import conv_attributes, conv_windows
from ..numpy._windows import Windows
from ._conv import (
    CODE,
    Goal,
    extents,
    is_last,
    packed_weights,
    strides_of,
    turned,
)
from ._views import Memory, View, emit_view
from .convolution import emit_im2col, slice_rows
from .integer_linalg import matmul_integer, quantized_matmul
from .movement import index_type
from .quantized_pointwise import emit_add

_BYTES = ("int8", "uint8")
_LINE = 16  # bytes of an access
_EXACT_DEPTH = 33_025  # 255 * 255 * this fits int32


@dataclass(slots=True, eq=False)
class _IntegerConv:
    """A convolution of bytes; absent quantities are None, and y is int32 where `y_zero` is."""

    site: Site
    x: Operand
    w: Operand
    y: Operand
    windows: Windows
    group: int
    x_zero: Operand | None = None
    w_zero: Operand | None = None
    x_scale: Operand | None = None
    w_scale: Operand | None = None
    y_scale: Operand | None = None
    y_zero: Operand | None = None
    bias: Operand | None = None
    relu: bool = False

    def __post_init__(self) -> None:
        x, w, m = self.x, self.w, self.w.shape[0]
        accept(x.dtype.name in _BYTES and w.dtype.name in _BYTES, f"{x.dtype.name} by {w.dtype.name}")
        self._check(self.x_zero, x, 1, "x_zero_point")
        self._check(self.w_zero, w, m, "w_zero_point")
        if self.y_zero is None:
            accept(self.y.dtype == np.int32, f"to {self.y.dtype.name}")
            return
        scales = (self.x_scale, self.w_scale, self.y_scale)
        accept(self.y.dtype.name in _BYTES, f"to {self.y.dtype.name}")
        self._check(self.y_zero, self.y, 1, "y_zero_point")
        for scale, most in zip(scales, (1, m, 1), strict=True):
            assert scale is not None
            assert self.x_scale is not None
            accept(scale.dtype == self.x_scale.dtype, "scales of several types")
            self._check(scale, self.x_scale, most, "scales")
        assert self.x_scale is not None
        accept(self.x_scale.dtype.name in ("float32", "float16", "bfloat16"), "type of the scales")
        accept(self.bias is None or (self.bias.shape == (m,) and self.bias.dtype == np.int32), "bias")
        accept(w.size // max(1, m) <= _EXACT_DEPTH, "sums that may wrap")

    @staticmethod
    def _check(operand: Operand | None, like: Operand, most: int, name: str) -> None:
        fits = operand is None or operand.size == 1 or operand.shape == (most,)
        accept(fits and (operand is None or operand.dtype == like.dtype), name)


def _emit(conv: _IntegerConv) -> None:
    x, w = conv.x, conv.w
    if conv.y.size == 0:
        return
    is_product = conv.group == 1 and x.size and w.size and w.constant is not None
    if is_product and x.size // x.shape[0] < 2**31:
        _by_rows(conv)
    else:
        _direct(conv)


def _by_rows(conv: _IntegerConv) -> None:
    site, x, w, windows = conv.site, conv.x, conv.w, conv.windows
    c, m, taps = x.shape[1], w.shape[0], math.prod(windows.kernel)
    positions = x.shape[0] * math.prod(windows.out)
    goal, size = Goal.of(site, conv.y), conv.y.dtype.itemsize
    if windows.are_pixels:
        source = View(turned(site, x), (positions, c), x.dtype)
        _multiply(conv, source, _columns(conv, c), View(goal.memory, (positions, m), conv.y.dtype))
    else:
        # Whole accesses: what is behind a row's end is the zero point, and adds nothing.
        width = -(-taps * c // _LINE) * _LINE
        columns = _columns(conv, width)
        per_slice = slice_rows(width, positions)
        rows = site.scratch(per_slice * width)
        for first in range(0, positions, per_slice):
            count = min(per_slice, positions - first)
            emit_im2col(site, x, rows, windows, is_last(x), width, first, count, conv.x_zero or 0)
            made = View(goal.memory + first * m * size, (count, m), conv.y.dtype)
            _multiply(conv, View(rows, (count, width), x.dtype), columns, made)
    goal.finish()


def _columns(conv: _IntegerConv, width: int) -> View:
    """Return constant weights as columns (width, M); rows past the last tap hold anything."""
    w = conv.w
    assert w.constant is not None
    held, m = w.constant, w.shape[0]
    depth = w.size // m

    def build() -> Array:
        made = np.zeros((width, m), w.dtype)
        made[:depth] = np.moveaxis(held, 1, -1).reshape(m, depth).T
        return made

    return View(conv.site.pack((w,), ("columns of weights", width), build), (width, m), w.dtype)


def _multiply(conv: _IntegerConv, rows: View, columns: View, goal: View) -> None:
    if conv.y_zero is None:
        emit_view(conv.site, matmul_integer, (rows, columns, conv.x_zero, conv.w_zero), goal)
        return
    m = columns.shape[1]
    # The reference multiplies by the quotient of the scales, which the product does where it has a bias.
    none = Packed(conv.site.packs.get((), ("zero bias", m), lambda: np.zeros(m, np.int32)))
    bias = conv.bias or View(none, (m,), np.dtype(np.int32))
    zero_x, zero_w = (
        zero or _zero(conv.site, t) for zero, t in ((conv.x_zero, conv.x), (conv.w_zero, conv.w))
    )
    emit_view(
        conv.site,
        quantized_matmul,
        (rows, conv.x_scale, zero_x, columns, conv.w_scale, zero_w, conv.y_scale, conv.y_zero, bias),
        goal,
        activation="Relu" if conv.relu else "",
    )


def _zero(site: Site, like: Operand) -> View:
    """Return a zero point of zero."""
    packed = Packed(site.packs.get((), ("zero point", like.dtype.name), lambda: np.zeros(1, like.dtype)))
    return View(packed, (1,), like.dtype)


def _direct(conv: _IntegerConv) -> None:
    x, y, windows = conv.x, conv.y, conv.windows
    last, depth = is_last(y), conv.w.shape[1]
    accept(max(y.size, x.nbytes) < 2**31, "too many elements")
    weights: Memory = packed_weights(conv.site, conv.w)

    def step(operand: Operand | None) -> int:
        return int(operand is not None and operand.size > 1)

    scale = "float32" if conv.x_scale is None else conv.x_scale.dtype.name
    quantities = (conv.x_zero, conv.w_zero, conv.x_scale, conv.w_scale, conv.y_scale, conv.y_zero, conv.bias)
    conv.site.launch(
        cuda_kernel(
            *(CODE, "quantized_conv.cu", "integer_direct"),
            X=CTYPES[x.dtype.name],
            W=CTYPES[conv.w.dtype.name],
            OUT=CTYPES[y.dtype.name],
            KIND=0 if conv.y_zero is None else 2,
            RELU=int(conv.relu),
            SCALE=CTYPES[scale],
            LAST=int(last),
            FOUR=4 if is_last(x) and depth % 4 == 0 else 1,
            INDEX=index_type(y.size),
        ),
        *(x, weights, y, *(operand or 0 for operand in quantities)),
        *(y.size, y.shape[1], depth, y.shape[1] // conv.group, step(conv.w_zero), step(conv.w_scale)),
        *extents(windows),
        strides_of(x.shape, is_last(x)),
        grid=grid_for(y.size),
    )


# Operators ------------------------------------------------------------------------------------------


def _blocked(prefers: bool) -> Callable[[Op, int], BlockedUse | None]:
    def rule(op: Op, lanes: int) -> BlockedUse | None:
        """Convolutions of bytes work with the channels last; a quantized one wants its output so."""
        x, w = op.inputs[0], op.inputs[3 if prefers else 1]
        if x is None or w is None or x.size == 0:
            return None
        try:
            conv_windows(x, w, 3, **conv_attributes(op))
        except Unsupported:
            return None
        few = x.shape[1] < 8 and op.attributes.get("group", 1) == 1
        inputs = {} if few and prefers else {0: NO_PAD}
        if prefers and len(op.inputs) > 9 and op.inputs[9] is not None:
            inputs[9] = NO_PAD
        return BlockedUse(inputs, prefers=prefers)

    return rule


@lower("ConvInteger", since=10, backend="cupy", blocked=_blocked(False))
def conv_integer(
    site: Site,
    x: Operand,
    w: Operand,
    x_zero: Operand | None = None,
    w_zero: Operand | None = None,
    *,
    group: int = 1,
    **attributes: Any,
) -> None:
    """(x - x_zero) convolved with (w - w_zero) in int32 (ONNX ConvInteger-10)."""
    (y,) = site.outputs
    assert y is not None
    windows = conv_windows(x, w, 3, group=group, **attributes)
    _emit(_IntegerConv(site, x, w, y, windows, group, x_zero, w_zero))


@lower("QLinearConv", since=10, backend="cupy", blocked=_blocked(True))
@lower("QuantizedConv", since=1, domain=INTERNAL, backend="cupy", blocked=_blocked(True))
def qlinear_conv(
    site: Site,
    x: Operand,
    x_scale: Operand,
    x_zero: Operand,
    w: Operand,
    w_scale: Operand,
    w_zero: Operand,
    y_scale: Operand,
    y_zero: Operand,
    b: Operand | None = None,
    residual: Operand | None = None,
    r_scale: Operand | None = None,
    r_zero: Operand | None = None,
    z_scale: Operand | None = None,
    z_zero: Operand | None = None,
    *,
    group: int = 1,
    activation: str = "",
    **attributes: Any,
) -> None:
    """Quantized convolution (ONNX QLinearConv-10) with Relu; or QuantizedAdd of it and a residual."""
    (y,) = site.outputs
    assert y is not None
    accept(activation in ("", "Relu"), f"activation {activation}")
    windows = conv_windows(x, w, 3, group=group, **attributes)
    quantities = (x_zero, w_zero, x_scale, w_scale, y_scale, y_zero, b)
    relu = activation == "Relu"
    _emit(_IntegerConv(site, x, w, y, windows, group, *quantities, relu=relu and residual is None))
    if residual is not None:
        assert r_scale is not None
        assert r_zero is not None
        assert z_scale is not None
        assert z_zero is not None
        pairs = ((y_scale, y_zero), (r_scale, r_zero), (z_scale, z_zero))
        emit_add(site, y, residual, y, *pairs, relu=relu)
