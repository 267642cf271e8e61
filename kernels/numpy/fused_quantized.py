"""Fused operators of quantized models, said with the operators that they stand for; see `fused.py`."""

from __future__ import annotations

from typing import Any

import numpy as np

from onnxref.dtypes import Array
from onnxref.errors import KernelError
from onnxref.registry import INTERNAL, Context, find, op

from ._common import requantize


def _apply(op_type: str, opset: int, *inputs: Any, **attributes: Any) -> Any:
    return find("", op_type, opset).kernel(*inputs, **attributes)


@op("MatMulIntegerToFloat", since=1, domain=INTERNAL)
def matmul_integer_to_float(
    a: Array,
    b: Array,
    a_scale: Array,
    b_scale: Array,
    a_zero: Array | None = None,
    b_zero: Array | None = None,
    bias: Array | None = None,
) -> Array:
    """Return MatMulInteger(a, b, a_zero, b_zero) * (a_scale * b_scale) + bias in float32."""
    total = _apply("MatMulInteger", 10, a, b, a_zero, b_zero).astype(np.float32)
    y = total * (a_scale.reshape(()) * b_scale)
    return np.asarray(y if bias is None else y + bias)


@op("DynamicQuantizeMatMul", since=1, domain=INTERNAL)
def dynamic_quantize_matmul(
    a: Array, b: Array, b_scale: Array, b_zero: Array | None = None, bias: Array | None = None
) -> Array:
    """Quantize `a` by DynamicQuantizeLinear-11 and multiply; see `matmul_integer_to_float`."""
    quantized, scale, zero = _apply("DynamicQuantizeLinear", 11, a)
    return matmul_integer_to_float(quantized, b, scale, b_scale, zero, b_zero, bias)


@op("QuantizedAdd", since=1, domain=INTERNAL)
def quantized_add(
    a: Array,
    a_scale: Array,
    a_zero: Array,
    b: Array,
    b_scale: Array,
    b_zero: Array,
    y_scale: Array,
    y_zero: Array,
    *,
    activation: str = "",
) -> Array:
    """Return QuantizeLinear(activation(DequantizeLinear(a) + DequantizeLinear(b)))."""
    total = _apply("DequantizeLinear", 13, a, a_scale, a_zero) + _apply(
        "DequantizeLinear", 13, b, b_scale, b_zero
    )
    if activation == "Relu":
        total = np.maximum(total, np.float32(0))
    return np.asarray(_apply("QuantizeLinear", 13, total, y_scale, y_zero))


@op("QuantizedConv", since=1, domain=INTERNAL)
def quantized_conv(
    x: Array,
    x_scale: Array,
    x_zero: Array,
    w: Array,
    w_scale: Array,
    w_zero: Array,
    y_scale: Array,
    y_zero: Array,
    bias: Array | None = None,
    residual: Array | None = None,
    r_scale: Array | None = None,
    r_zero: Array | None = None,
    z_scale: Array | None = None,
    z_zero: Array | None = None,
    *,
    activation: str = "",
    ctx: Context,
    **attributes: Any,
) -> Array:
    """Return QLinearConv-10 with an activation; or QuantizedAdd of QLinearConv-10 and a residual."""
    inputs = (x, x_scale, x_zero, w, w_scale, w_zero, y_scale, y_zero, bias)
    y = np.asarray(_apply("QLinearConv", 10, *inputs, ctx=ctx, **attributes))
    if residual is None:
        return np.maximum(y, y_zero.reshape(())) if activation == "Relu" else y
    if r_scale is None or r_zero is None or z_scale is None or z_zero is None:
        raise KernelError("a residual needs its scale and zero point, and those of the sum")
    return quantized_add(
        y, y_scale, y_zero, residual, r_scale, r_zero, z_scale, z_zero, activation=activation
    )


@op("QuantizedMaxPool", since=1, domain=INTERNAL)
def quantized_max_pool(x: Array, *, ctx: Context, **attributes: Any) -> Array:
    """Return MaxPool-12 of uint8."""
    y = find("", "MaxPool", 12).kernel(x, **attributes, ctx=ctx)
    return np.asarray(y[0] if isinstance(y, tuple) else y)


@op("QuantizedGlobalAveragePool", since=1, domain=INTERNAL)
def quantized_global_average_pool(
    x: Array, x_scale: Array, x_zero: Array, y_scale: Array, y_zero: Array
) -> Array:
    """Return QuantizeLinear(GlobalAveragePool(DequantizeLinear(x)))."""
    mean = _apply("GlobalAveragePool", 1, _apply("DequantizeLinear", 13, x, x_scale, x_zero))
    return np.asarray(_apply("QuantizeLinear", 13, mean, y_scale, y_zero))


@op("QuantizedMatMul", since=1, domain=INTERNAL)
def quantized_matmul(
    a: Array,
    a_scale: Array,
    a_zero: Array,
    b: Array,
    b_scale: Array,
    b_zero: Array,
    y_scale: Array,
    y_zero: Array,
    bias: Array | None = None,
    *,
    activation: str = "",
) -> Array:
    """Return QLinearMatMul-10 with a bias of int32 on the sums, and an activation."""
    if bias is None:
        y = np.asarray(_apply("QLinearMatMul", 10, a, a_scale, a_zero, b, b_scale, b_zero, y_scale, y_zero))
    else:
        total = _apply("MatMulInteger", 10, a, b, a_zero, b_zero).astype(np.float64) + bias
        total *= a_scale.astype(np.float64) * b_scale / y_scale
        y = requantize(total, y_zero.reshape(()))
    return np.maximum(y, y_zero.reshape(())) if activation == "Relu" else y
