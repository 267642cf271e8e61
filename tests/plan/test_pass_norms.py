"""Normalisations that go into the products which alone read them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from pass_cases import Builder, check_pass

from onnxref.lowering import Operand
from onnxref.plan.passes.cleanup import fuse_epilogues
from onnxref.plan.passes.norms import fuse_norms

RNG = np.random.default_rng(5)
LAYER, RMS = "LayerNormalization", "RMSNormalization"


def f32(*shape: int) -> np.ndarray[Any, Any]:
    return RNG.standard_normal(shape).astype(np.float32)


def op_types(block: Any) -> list[str]:
    return [op.op_type for op in block.ops]


def matmul(b: Builder, a: Operand) -> Operand:
    return b.op("MatMul", a, f32(8, 6))


def gemm(b: Builder, a: Operand) -> Operand:
    return b.op("Gemm", a, f32(6, 8), f32(6), transB=1, alpha=0.5)


def reshaped(b: Builder, a: Operand) -> Operand:
    return gemm(b, b.op("Reshape", a, np.array([-1, 8])))


FUSED: list[tuple[str, tuple[int, ...], Callable[[Builder, Operand], Operand], list[str]]] = [
    (LAYER, (2, 8), matmul, []),
    (RMS, (1, 1, 8), matmul, []),
    (LAYER, (4, 8), gemm, []),
    (RMS, (1, 3, 8), reshaped, ["Reshape"]),
]


@pytest.mark.parametrize(("kind", "shape", "product", "before"), FUSED)
def test_fuses(kind: str, shape: tuple[int, ...], product: Any, before: list[str]) -> None:
    b = Builder()
    x = b.input(f32(*shape))
    a = b.op(kind, x, f32(8), *([f32(8)] if kind == LAYER else []), epsilon=1e-3)
    y = product(b, a)
    assert op_types(check_pass(fuse_norms, b, y)) == [*before, "NormalizedMatMul"]


def test_takes_what_a_product_has_taken() -> None:
    """Bias, residual and activation stay where they are."""
    b = Builder()
    x, r = b.input(f32(2, 8)), b.input(f32(2, 6))
    product = b.op("Add", b.op("MatMul", b.op(LAYER, x, f32(8)), f32(8, 6)), f32(6))
    y = b.op("Relu", b.op("Add", product, r))

    def run(block: Any) -> int:
        return fuse_epilogues(block) + fuse_norms(block)

    (op,) = check_pass(run, b, y).ops
    assert op.op_type == "NormalizedMatMul"
    assert op.attributes["activation"] == "Relu"


def _two_readers(b: Builder, x: Operand) -> list[Operand]:
    a = b.op(LAYER, x, f32(8))
    return [matmul(b, a), matmul(b, a)]


def _a_result(b: Builder, x: Operand) -> list[Operand]:
    a = b.op(LAYER, x, f32(8))
    return [a, matmul(b, a)]


def _its_mean_too(b: Builder, x: Operand) -> list[Operand]:
    a, mean = b.ops_outputs(LAYER, 2, x, f32(8), opset=17)
    return [matmul(b, a), mean]


def _other_axes(b: Builder, x: Operand) -> list[Operand]:
    return [matmul(b, b.op(LAYER, x, f32(*x.shape), axis=0))]


def _other_statistics(b: Builder, x: Operand) -> list[Operand]:
    return [matmul(b, b.op(LAYER, x, f32(8), stash_type=11))]


def _many_columns(b: Builder, x: Operand) -> list[Operand]:
    return [b.op("MatMul", b.op(LAYER, x, f32(8)), f32(8, 16392))]


def _right_hand_side(b: Builder, x: Operand) -> list[Operand]:
    return [b.op("MatMul", f32(3, 2), b.op(LAYER, x, f32(8)))]


def _turned(b: Builder, x: Operand) -> list[Operand]:
    return [b.op("Gemm", b.op(LAYER, x, f32(8)), f32(2, 6), transA=1)]


@pytest.mark.parametrize(
    "make",
    [
        *(_two_readers, _a_result, _its_mean_too, _other_axes, _other_statistics, _many_columns),
        *(_right_hand_side, _turned),
    ],
)
def test_leaves(make: Callable[[Builder, Operand], list[Operand]]) -> None:
    b = Builder()
    ys = make(b, b.input(f32(2, 8)))
    assert "NormalizedMatMul" not in op_types(check_pass(fuse_norms, b, *ys))


@pytest.mark.parametrize(
    ("shape", "n", "dtype"), [((5, 8), 6, np.float32), ((4, 4096), 2, np.float32), ((2, 8), 6, np.float64)]
)
def test_leaves_what_does_not_fit(shape: tuple[int, ...], n: int, dtype: Any) -> None:
    """More rows than a product of few has, more bytes than a block has, another type."""
    b = Builder()
    x = b.input(f32(*shape).astype(dtype))
    y = b.op("MatMul", b.op(LAYER, x, f32(shape[-1]).astype(dtype)), f32(shape[-1], n).astype(dtype))
    assert "NormalizedMatMul" not in op_types(check_pass(fuse_norms, b, y, rtol=1e-3, atol=1e-3))


@pytest.mark.parametrize("change", [{"normalizes": False}, {"precision": "strict"}])
def test_only_where_kernels_can(change: dict[str, Any]) -> None:
    b = Builder()
    y = matmul(b, b.op(LAYER, b.input(f32(2, 8)), f32(8)))
    block = b.block(y)
    for key, value in change.items():
        setattr(block, key, value)
    assert fuse_norms(block) == 0
