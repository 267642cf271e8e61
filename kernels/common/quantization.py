"""QuantizeLinear and DequantizeLinear of all versions, and what is known of scales and zero points."""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np

from onnxref.dtypes import Array, ElementType, to_numpy
from onnxref.lowering import Operand, Site

from .checks import accept, known, only_output
from .rules import Rules

_INT32: Final = np.dtype(np.int32)


class Quantizing(NamedTuple):
    """x / scale + zero_point, rounded to y's type, or (x - zero_point) * scale.

    Attributes:
        axis: along which scales lie; one scale has none.
        block_size: elements along the axis that share a scale, 0 for all of a slice or one.
        precision: type that is divided in as ONNX numbers it, 0 for the scale's.
        before_24: whether NaN becomes what it did before version 24 (float4e2m1).
        has_output_dtype: whether the type of the result is an attribute.
    """

    x: Operand
    scale: Operand
    zero_point: Operand | None
    y: Operand
    axis: int = 0
    block_size: int = 0
    has_output_dtype: bool = False
    precision: int = 0
    saturate: bool = True
    before_24: bool = False


QUANTIZE: Rules[Quantizing] = Rules()
DEQUANTIZE: Rules[Quantizing] = Rules()


def known_scale(scale: Operand, name: str) -> Array:
    """Return a scale that is known, positive and finite, in float64."""
    value = known(scale, name).astype(np.float64)
    accept(bool(np.all(np.isfinite(value) & (value > 0))), f"{name} must be positive")
    return value


def known_zero(operand: Operand | None, name: str) -> int:
    """Return a zero point that is one constant."""
    if operand is None:
        return 0
    value = known(operand, name)
    accept(value.size == 1, f"{name} per channel")
    return int(value.reshape(()))


def _output(site: Site, x: Operand, output_dtype: int = 0) -> Operand:
    y = only_output(site)
    accept(x.shape == y.shape, "a result of another shape")
    accept(not output_dtype or to_numpy(ElementType(output_dtype)) == y.dtype, "output_dtype")
    return y


def _precision_before_23(scale: Operand) -> int:
    return 0 if scale.dtype == _INT32 else ElementType.FLOAT


# --- QuantizeLinear ------------------------------------------------------------------------------


@QUANTIZE.rule("QuantizeLinear", since=10, goes_along=False)
def quantize_linear_10(
    site: Site, x: Operand, scale: Operand, zero_point: Operand | None = None
) -> Quantizing:
    """ONNX QuantizeLinear-10, of one scale only."""
    accept(scale.size == 1 and scale.ndim <= 1, "one scale")
    return Quantizing(x, scale, zero_point, _output(site, x))


@QUANTIZE.rule("QuantizeLinear", since=13)
def quantize_linear_13(
    site: Site, x: Operand, scale: Operand, zero_point: Operand | None = None, *, axis: int = 1
) -> Quantizing:
    """ONNX QuantizeLinear-13."""
    accept(scale.ndim <= 1, "blocks of scales")
    return Quantizing(x, scale, zero_point, _output(site, x), axis)


@QUANTIZE.rule("QuantizeLinear", since=19)
def quantize_linear_19(
    site: Site,
    x: Operand,
    scale: Operand,
    zero_point: Operand | None = None,
    *,
    axis: int = 1,
    saturate: int = 1,
) -> Quantizing:
    """ONNX QuantizeLinear-19."""
    accept(scale.ndim <= 1, "blocks of scales")
    precision = _precision_before_23(scale)
    y = _output(site, x)
    return Quantizing(x, scale, zero_point, y, axis, precision=precision, saturate=bool(saturate))


@QUANTIZE.rule("QuantizeLinear", since=21)
def quantize_linear_21(
    site: Site,
    x: Operand,
    scale: Operand,
    zero_point: Operand | None = None,
    *,
    axis: int = 1,
    block_size: int = 0,
    output_dtype: int = 0,
    saturate: int = 1,
) -> Quantizing:
    """ONNX QuantizeLinear-21."""
    y, precision = _output(site, x, output_dtype), _precision_before_23(scale)
    return Quantizing(
        x, scale, zero_point, y, axis, block_size, bool(output_dtype), precision, bool(saturate)
    )


def _add_quantize(since: int | tuple[int, ...], before_24: bool) -> None:
    @QUANTIZE.rule("QuantizeLinear", since=since)
    def quantize_linear(
        site: Site,
        x: Operand,
        scale: Operand,
        zero_point: Operand | None = None,
        *,
        axis: int = 1,
        block_size: int = 0,
        output_dtype: int = 0,
        precision: int = 0,
        saturate: int = 1,
    ) -> Quantizing:
        """ONNX QuantizeLinear-23, -24: they differ in what NaN becomes in float4e2m1."""
        y = _output(site, x, output_dtype)
        return Quantizing(
            *(x, scale, zero_point, y, axis, block_size, bool(output_dtype), precision),
            *(bool(saturate), before_24),
        )


_add_quantize(23, before_24=True)
_add_quantize((24, 25, 28), before_24=False)


# --- DequantizeLinear ----------------------------------------------------------------------------


@DEQUANTIZE.rule("DequantizeLinear", since=10, goes_along=False)
def dequantize_linear_10(
    site: Site, x: Operand, scale: Operand, zero_point: Operand | None = None
) -> Quantizing:
    """ONNX DequantizeLinear-10, of one scale only."""
    accept(scale.size == 1 and scale.ndim <= 1, "one scale")
    return Quantizing(x, scale, zero_point, _output(site, x))


@DEQUANTIZE.rule("DequantizeLinear", since=(13, 19))
def dequantize_linear_13(
    site: Site, x: Operand, scale: Operand, zero_point: Operand | None = None, *, axis: int = 1
) -> Quantizing:
    """ONNX DequantizeLinear-19."""
    accept(scale.ndim <= 1, "blocks of scales")
    return Quantizing(x, scale, zero_point, _output(site, x), axis)


@DEQUANTIZE.rule("DequantizeLinear", since=21)
def dequantize_linear_21(
    site: Site,
    x: Operand,
    scale: Operand,
    zero_point: Operand | None = None,
    *,
    axis: int = 1,
    block_size: int = 0,
) -> Quantizing:
    """ONNX DequantizeLinear-21."""
    return Quantizing(x, scale, zero_point, _output(site, x), axis, block_size)


@DEQUANTIZE.rule("DequantizeLinear", since=(23, 24, 25, 28))
def dequantize_linear(
    site: Site,
    x: Operand,
    scale: Operand,
    zero_point: Operand | None = None,
    *,
    axis: int = 1,
    block_size: int = 0,
    output_dtype: int = 0,
) -> Quantizing:
    """ONNX DequantizeLinear-25."""
    y = _output(site, x, output_dtype)
    return Quantizing(x, scale, zero_point, y, axis, block_size, bool(output_dtype))
