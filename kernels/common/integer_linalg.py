"""Products of 8-bit matrices: MatMulInteger, QLinearMatMul, and the fused operators of quantised models.

Which types and granularities of scales there are kernels for is a kernel set's own; absent ones are None.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from onnxref.lowering import Operand, Site
from onnxref.registry import INTERNAL

from .checks import accept, only_output
from .rules import Rules


class IntegerProduct(NamedTuple):
    """(A - a_zero) (B - b_zero) in int32, or that times (a_scale * b_scale), or that quantised again.

    Attributes:
        bias: int32 on the sums where they are quantised again, else float32 (N,).
        relu: whether quantised results are not below `y_zero`.
    """

    a: Operand
    b: Operand
    y: Operand
    a_zero: Operand | None = None
    b_zero: Operand | None = None
    a_scale: Operand | None = None
    b_scale: Operand | None = None
    y_scale: Operand | None = None
    y_zero: Operand | None = None
    bias: Operand | None = None
    relu: bool = False


INTEGER: Rules[IntegerProduct] = Rules()  # to int32
QLINEAR: Rules[IntegerProduct] = Rules()  # quantised again, as the specification rounds
QUANTIZED: Rules[IntegerProduct] = Rules()  # quantised again, within one quantum
TO_FLOAT: Rules[IntegerProduct] = Rules()  # scaled to float32
DYNAMIC: Rules[IntegerProduct] = Rules()  # the same of A in float32, which is quantised first


@INTEGER.rule("MatMulInteger", since=10)
def matmul_integer(
    site: Site, a: Operand, b: Operand, a_zero: Operand | None = None, b_zero: Operand | None = None
) -> IntegerProduct:
    """ONNX MatMulInteger-10."""
    return IntegerProduct(a, b, only_output(site), a_zero, b_zero)


@QLINEAR.rule("QLinearMatMul", since=(10, 21))
def qlinear_matmul(
    site: Site,
    a: Operand,
    a_scale: Operand,
    a_zero: Operand,
    b: Operand,
    b_scale: Operand,
    b_zero: Operand,
    y_scale: Operand,
    y_zero: Operand,
) -> IntegerProduct:
    """ONNX QLinearMatMul-10."""
    y = only_output(site)
    return IntegerProduct(a, b, y, a_zero, b_zero, a_scale, b_scale, y_scale, y_zero)


@QUANTIZED.rule("QuantizedMatMul", since=1, domain=INTERNAL)
def quantized_matmul(
    site: Site,
    a: Operand,
    a_scale: Operand,
    a_zero: Operand,
    b: Operand,
    b_scale: Operand,
    b_zero: Operand,
    y_scale: Operand,
    y_zero: Operand,
    bias: Operand | None = None,
    *,
    activation: str = "",
) -> IntegerProduct:
    """QLinearMatMul with a bias of int32 on the sums, and Relu."""
    accept(activation in ("", "Relu"), f"activation {activation}")
    n = b.shape[-1] if b.ndim > 1 else 1
    accept(bias is None or (bias.shape == (n,) and bias.dtype == np.int32), "a bias of another shape")
    quantities = (a_zero, b_zero, a_scale, b_scale, y_scale, y_zero)
    return IntegerProduct(a, b, only_output(site), *quantities, bias, activation == "Relu")


def _check_float_bias(b: Operand, bias: Operand | None) -> None:
    accept(bias is None or (b.ndim > 1 and bias.shape == b.shape[-1:] and bias.dtype == np.float32), "bias")


@TO_FLOAT.rule("MatMulIntegerToFloat", since=1, domain=INTERNAL)
def matmul_integer_to_float(
    site: Site,
    a: Operand,
    b: Operand,
    a_scale: Operand,
    b_scale: Operand,
    a_zero: Operand | None = None,
    b_zero: Operand | None = None,
    bias: Operand | None = None,
) -> IntegerProduct:
    """(A - a_zero) (B - b_zero) * (a_scale * b_scale) + bias in float32."""
    y = only_output(site)
    accept(y.dtype == a_scale.dtype == b_scale.dtype == np.float32, "not float32")
    accept(a_scale.size == 1, "several scales of A")
    _check_float_bias(b, bias)
    return IntegerProduct(a, b, y, a_zero, b_zero, a_scale, b_scale, bias=bias)


@DYNAMIC.rule("DynamicQuantizeMatMul", since=1, domain=INTERNAL)
def dynamic_quantize_matmul(
    site: Site,
    a: Operand,
    b: Operand,
    b_scale: Operand,
    b_zero: Operand | None = None,
    bias: Operand | None = None,
) -> IntegerProduct:
    """DynamicQuantizeLinear(A) times (B - b_zero) * b_scale, plus bias."""
    y = only_output(site)
    accept(a.dtype == y.dtype == b_scale.dtype == np.float32, "not float32")
    accept(a.layout is None and a.ndim > 0 and b.ndim == 2, "not a matrix")
    _check_float_bias(b, bias)
    return IntegerProduct(a, b, y, None, b_zero, None, b_scale, bias=bias)
