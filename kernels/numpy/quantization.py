"""QuantizeLinear, DequantizeLinear, DynamicQuantizeLinear.

    y = saturate(x / scale + zero_point)        x = (y - zero_point) * scale

The shape of the scale says how finely: one for the tensor, one per slice along `axis`, or one per
block of `block_size` elements along `axis`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from onnxref.dtypes import LOW_PRECISION, Array, DType, ElementType, from_numpy, to_numpy
from onnxref.errors import KernelError
from onnxref.registry import Cost, op

from ._checks import check_shape, element_type, float_dtype, normalize_axis, one_element
from ._common import narrow, widen
from .cast import cast_array

_INTEGER_RANGE = {
    ElementType.UINT8: (0, 255),
    ElementType.INT8: (-128, 127),
    ElementType.UINT16: (0, 65535),
    ElementType.INT16: (-32768, 32767),
    ElementType.UINT4: (0, 15),
    ElementType.INT4: (-8, 7),
    ElementType.UINT2: (0, 3),
    ElementType.INT2: (-2, 1),
}
_QUANTIZED = (
    *_INTEGER_RANGE,
    ElementType.FLOAT8E4M3FN,
    ElementType.FLOAT8E4M3FNUZ,
    ElementType.FLOAT8E5M2,
    ElementType.FLOAT8E5M2FNUZ,
    ElementType.FLOAT4E2M1,
    ElementType.FLOAT6E2M3,
    ElementType.FLOAT6E3M2,
)
REAL = (ElementType.FLOAT, ElementType.FLOAT16, ElementType.BFLOAT16)
_INT32 = np.dtype(np.int32)


def check_per_tensor(scale: Array, zero_point: Array | None) -> None:
    """Version 10 knows no other granularity."""
    for name, value in (("scale", scale), ("zero_point", zero_point)):
        if value is not None:
            one_element(value, name)


def check_not_blocked(scale: Array) -> None:
    """Versions 13 and 19 know no blocks."""
    if scale.ndim > 1:
        raise KernelError(f"scale must be a scalar or 1-D (got shape {scale.shape})")


def spread(value: Array, name: str, shape: tuple[int, ...], axis: int, block_size: int) -> Array:
    """Return a scale or zero point in a shape that broadcasts to `shape`."""
    if value.size == 1 and value.ndim <= 1:
        return value.reshape(())
    if value.ndim == len(shape) and block_size != 0:
        return _spread_blocks(value, name, shape, axis, block_size)
    if value.ndim != 1:
        raise KernelError(
            f"{name} must be a scalar, 1-D, or in blocks with block_size (got shape {value.shape})"
        )
    axis = normalize_axis(axis, len(shape))
    if value.shape[0] != shape[axis]:
        raise KernelError(f"{name} must have the length {shape[axis]} of axis {axis} (got {value.shape[0]})")
    return value.reshape(-1, *(1,) * (len(shape) - axis - 1))


def _spread_blocks(value: Array, name: str, shape: tuple[int, ...], axis: int, block_size: int) -> Array:
    if block_size < 0:
        raise KernelError(f"block_size must be positive (got {block_size})")
    axis = normalize_axis(axis, len(shape))
    blocks = -(-shape[axis] // block_size)
    expected = (*shape[:axis], blocks, *shape[axis + 1 :])
    check_shape(value, expected, name)
    return value.take(np.arange(shape[axis]) // block_size, axis=axis)


def check_zero_point(zero_point: Array | None, scale: Array) -> None:
    if zero_point is None or zero_point.shape == scale.shape or zero_point.size == scale.size == 1:
        return
    raise KernelError(f"zero_point must have the shape {scale.shape} of scale (got {zero_point.shape})")


def _quantize(
    x: Array,
    scale: Array,
    zero_point: Array | None,
    axis: int,
    *,
    saturate: int = 1,
    block_size: int = 0,
    output_dtype: int = 0,
    precision: int = 0,
    before_24: bool = False,
) -> Array:
    element = output_element(zero_point, output_dtype)
    check_zero_point(zero_point, scale)
    division = _division_type(scale.dtype, precision)
    quotient = _divide(x, spread(scale, "scale", x.shape, axis, block_size), division)
    offset = None if zero_point is None else spread(zero_point, "zero_point", x.shape, axis, block_size)
    limits = _INTEGER_RANGE.get(element)
    if limits is not None:
        quotient = np.rint(quotient)
    if offset is not None:
        # Exact for integers: sums of more than 24 bits are out of every range, rounded or not.
        quotient = quotient + offset.astype(np.float32)
    if limits is not None:
        quotient = np.clip(quotient, *limits)
    return cast_array(np.asarray(quotient), element, saturate=bool(saturate), before_24=before_24)


def output_element(zero_point: Array | None, output_dtype: int) -> ElementType:
    if zero_point is None:
        return element_type(output_dtype or ElementType.UINT8, "output_dtype", _QUANTIZED)
    element = element_type(from_numpy(zero_point.dtype), "the type of zero_point", _QUANTIZED)
    if output_dtype:
        element_type(output_dtype, "output_dtype beside zero_point", (element,))
    return element


def _division_type(scale: DType, precision: int) -> DType:
    """Return the type that `x / scale` has: `precision`, else that of the scale (QuantizeLinear-23).

    The quotient by an int32 is rounded to an integer later, which takes float64 to do right. The
    quotient by a float8e8m0, a power of two, is exact in float32.
    """
    if precision:
        return float_dtype(precision, "precision")
    if scale == _INT32:
        return np.dtype(np.float64)
    return np.dtype(np.float32) if from_numpy(scale) is ElementType.FLOAT8E8M0 else scale


def _precision_before_23(scale: Array) -> int:
    """Return float32, in which narrower floats are computed where a version names no precision."""
    return 0 if scale.dtype == _INT32 else ElementType.FLOAT


def _divide(x: Array, scale: Array, dtype: DType) -> Array:
    """Divide as the type `dtype` does: both operands and the quotient are rounded to it."""
    element = from_numpy(dtype)
    quotient = widen(cast_array(x, element)) / widen(cast_array(scale, element))
    return widen(narrow(quotient, dtype))


def _make_quantize_linear(before_24: bool) -> Callable[..., Array]:
    """Make QuantizeLinear-23 or -24, which differ in the casts to 4-bit types."""

    def quantize_linear(
        x: Array,
        y_scale: Array,
        y_zero_point: Array | None = None,
        *,
        axis: int = 1,
        block_size: int = 0,
        output_dtype: int = 0,
        precision: int = 0,
        saturate: int = 1,
    ) -> Array:
        """Round `x / y_scale + y_zero_point` to a narrow type (ONNX QuantizeLinear-23, -24)."""
        return _quantize(
            x,
            y_scale,
            y_zero_point,
            axis,
            saturate=saturate,
            block_size=block_size,
            output_dtype=output_dtype,
            precision=precision,
            before_24=before_24,
        )

    return quantize_linear


op("QuantizeLinear", since=(24, 25, 28))(_make_quantize_linear(before_24=False))
op("QuantizeLinear", since=23)(_make_quantize_linear(before_24=True))


@op("QuantizeLinear", since=21)
def quantize_linear_21(
    x: Array,
    y_scale: Array,
    y_zero_point: Array | None = None,
    *,
    axis: int = 1,
    block_size: int = 0,
    output_dtype: int = 0,
    saturate: int = 1,
) -> Array:
    """Quantize `x` with a scale of its own type (ONNX QuantizeLinear-21)."""
    return _quantize(
        x,
        y_scale,
        y_zero_point,
        axis,
        saturate=saturate,
        block_size=block_size,
        output_dtype=output_dtype,
        precision=_precision_before_23(y_scale),
    )


@op("QuantizeLinear", since=19)
def quantize_linear_19(
    x: Array, y_scale: Array, y_zero_point: Array | None = None, *, axis: int = 1, saturate: int = 1
) -> Array:
    """Quantize `x` per tensor or per axis (ONNX QuantizeLinear-19)."""
    check_not_blocked(y_scale)
    precision = _precision_before_23(y_scale)
    return _quantize(x, y_scale, y_zero_point, axis, saturate=saturate, precision=precision)


@op("QuantizeLinear", since=13)
def quantize_linear_13(
    x: Array, y_scale: Array, y_zero_point: Array | None = None, *, axis: int = 1
) -> Array:
    """Quantize `x` to 8-bit integers per tensor or per axis (ONNX QuantizeLinear-13)."""
    check_not_blocked(y_scale)
    return _quantize(x, y_scale, y_zero_point, axis)


@op("QuantizeLinear", since=10)
def quantize_linear_10(x: Array, y_scale: Array, y_zero_point: Array | None = None) -> Array:
    """Quantize `x` to 8-bit integers with one scale (ONNX QuantizeLinear-10)."""
    check_per_tensor(y_scale, y_zero_point)
    return _quantize(x, y_scale, y_zero_point, 0)


def _dequantize(
    x: Array,
    scale: Array,
    zero_point: Array | None,
    axis: int,
    block_size: int = 0,
    output_dtype: int = 0,
) -> Array:
    """Multiply in float32, rounded once to the output type."""
    element = element_type(output_dtype or from_numpy(scale.dtype), "output_dtype", REAL)
    check_zero_point(zero_point, scale)
    factor = widen(spread(scale, "scale", x.shape, axis, block_size))
    if zero_point is not None:
        if zero_point.dtype != x.dtype:
            raise KernelError(f"zero_point must have the type {x.dtype} of x (got {zero_point.dtype})")
        offset = spread(zero_point, "zero_point", x.shape, axis, block_size)
        wide = _difference_type(x.dtype)
        x = np.subtract(x.astype(wide), offset.astype(wide))
    return narrow(x.astype(np.float32) * factor, to_numpy(element))


def _difference_type(dtype: DType) -> DType:
    """Return a type in which integers of this type have exact differences, float32 for floats."""
    if dtype in LOW_PRECISION:
        return np.dtype(np.float32)
    return np.dtype(np.int64) if dtype == _INT32 else _INT32


def _dequantize_cost(x: Array, x_scale: Array, *_: object, output_dtype: int = 0, **__: object) -> Cost:
    element = element_type(output_dtype or from_numpy(x_scale.dtype), "output_dtype", REAL)
    return Cost(Cost.of(x.shape, to_numpy(element)).out_bytes, 16 * x.size)


@op("DequantizeLinear", since=(23, 24, 25, 28), cost=_dequantize_cost)
def dequantize_linear(
    x: Array,
    x_scale: Array,
    x_zero_point: Array | None = None,
    *,
    axis: int = 1,
    block_size: int = 0,
    output_dtype: int = 0,
) -> Array:
    """Return `(x - x_zero_point) * x_scale` in the shape of `x` (ONNX DequantizeLinear-23)."""
    return _dequantize(x, x_scale, x_zero_point, axis, block_size, output_dtype)


@op("DequantizeLinear", since=21, cost=_dequantize_cost)
def dequantize_linear_21(
    x: Array, x_scale: Array, x_zero_point: Array | None = None, *, axis: int = 1, block_size: int = 0
) -> Array:
    """Dequantize `x` to the type of its scale (ONNX DequantizeLinear-21)."""
    return _dequantize(x, x_scale, x_zero_point, axis, block_size)


@op("DequantizeLinear", since=(13, 19), cost=_dequantize_cost)
def dequantize_linear_13(
    x: Array, x_scale: Array, x_zero_point: Array | None = None, *, axis: int = 1
) -> Array:
    """Dequantize `x` per tensor or per axis (ONNX DequantizeLinear-13)."""
    check_not_blocked(x_scale)
    return _dequantize(x, x_scale, x_zero_point, axis)


@op("DequantizeLinear", since=10, cost=_dequantize_cost)
def dequantize_linear_10(x: Array, x_scale: Array, x_zero_point: Array | None = None) -> Array:
    """Dequantize `x` with one scale (ONNX DequantizeLinear-10)."""
    check_per_tensor(x_scale, x_zero_point)
    return _dequantize(x, x_scale, x_zero_point, 0)


@op("DynamicQuantizeLinear", since=11)
def dynamic_quantize_linear(x: Array) -> tuple[Array, Array, Array]:
    """Return `x` in uint8, its scale () and its zero point () (ONNX DynamicQuantizeLinear-11).

    Step by step the function body of the schema: zeros, or no elements, give scale 0 and zero point 0.
    """
    low = np.min(x, initial=np.float32(0))
    high = np.max(x, initial=np.float32(0))
    scale = np.asarray((high - low) / np.float32(255))
    zero_point = cast_array(np.asarray(np.rint(np.clip(-low / scale, 0, 255))), ElementType.UINT8)
    return _quantize(x, scale, zero_point, 0), scale, zero_point
