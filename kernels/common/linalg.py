"""MatMul, Gemm and the fused form of both (ONNX MatMul-13, Gemm-13): one product with its addends."""

from __future__ import annotations

from typing import NamedTuple

from onnxref.lowering import Operand, Site, Unsupported
from onnxref.registry import INTERNAL

from .checks import only_output
from .rules import Rules


class Product(NamedTuple):
    """activation(scale * A B + beta * bias + residual).

    Attributes:
        trans_a, trans_b: whether A lies as (K, M), B as (N, K).
        alpha, act_beta: parameters of the activation.
        bias: broadcasts to the product.
    """

    a: Operand
    b: Operand
    y: Operand
    trans_a: bool = False
    trans_b: bool = False
    scale: float = 1.0
    beta: float = 1.0
    activation: str = ""
    alpha: float = 0.0
    act_beta: float = 0.0
    bias: Operand | None = None
    residual: Operand | None = None


PRODUCTS: Rules[Product] = Rules()


@PRODUCTS.rule("MatMul", since=(1, 9, 13))
def matmul(site: Site, a: Operand, b: Operand) -> Product:
    """numpy.matmul (ONNX MatMul-1)."""
    return Product(a, b, only_output(site))


@PRODUCTS.rule("Gemm", since=(7, 9, 11, 13))
def gemm(
    site: Site,
    a: Operand,
    b: Operand,
    c: Operand | None = None,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    transA: int = 0,
    transB: int = 0,
) -> Product:
    """alpha A B + beta C, C broadcast to the product; C is not read where beta is 0 (ONNX Gemm-7)."""
    if a.ndim != 2 or b.ndim != 2:
        raise Unsupported("Gemm of other than matrices")
    return Product(a, b, only_output(site), bool(transA), bool(transB), float(alpha), float(beta), bias=c)


@PRODUCTS.rule("Gemm", since=(1, 6))
def gemm_6(
    site: Site,
    a: Operand,
    b: Operand,
    c: Operand,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    transA: int = 0,
    transB: int = 0,
    broadcast: int = 0,
) -> Product:
    """Gemm whose C broadcasts only if the attribute says so (ONNX Gemm-1)."""
    if not broadcast and c.shape != only_output(site).shape:
        raise Unsupported("C of another shape, without broadcast")
    return gemm(site, a, b, c, alpha=alpha, beta=beta, transA=transA, transB=transB)


@PRODUCTS.rule("FusedMatMul", since=1, domain=INTERNAL)
def fused_matmul(
    site: Site,
    a: Operand,
    b: Operand,
    bias: Operand | None = None,
    residual: Operand | None = None,
    *,
    trans_a: int = 0,
    trans_b: int = 0,
    scale: float = 1.0,
    activation: str = "",
    alpha: float = 0.0,
    beta: float = 0.0,
) -> Product:
    """activation(scale * A B + bias + residual); the last two axes of A and of B may be transposed."""
    return Product(
        *(a, b, only_output(site), bool(trans_a), bool(trans_b), float(scale), 1.0),
        *(activation, float(alpha), float(beta), bias, residual),
    )
