"""The pass for quantized models: what it makes of the patterns of onnxruntime.quantization."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxref.kernels.numpy.fused_quantized  # noqa: F401 - registers the fused operators
import pytest
from lowered import reference

from onnxref.lowering import Op, Operand
from onnxref.plan.passes import Block
from onnxref.plan.passes.quantized import find_integers, fuse_quantized

RNG = np.random.default_rng(5)


def constant(value: Any, dtype: Any = None) -> Operand:
    held = np.asarray(value, dtype)
    return Operand(held.shape, held.dtype, "constant", held)


def value(shape: tuple[int, ...], dtype: Any = np.float32) -> Operand:
    return Operand(shape, np.dtype(dtype), "value")


class Builder:
    """A block under construction: methods add ops."""

    def __init__(self) -> None:
        self.ops: list[Op] = []

    def add(self, op_type: str, *inputs: Operand | None, attributes: Any = None, opset: int = 21) -> Operand:
        return self.add_many(op_type, 1, *inputs, attributes=attributes, opset=opset)[0]

    def add_many(
        self, op_type: str, count: int, *inputs: Operand | None, attributes: Any = None, opset: int = 21
    ) -> list[Operand]:
        arrays = [None if x is None else _sample(x) for x in inputs]
        results = reference(op_type, arrays, attributes or {}, opset)
        outputs = [value(y.shape, y.dtype) for y in results[:count]]
        self.ops.append(Op(op_type, list(inputs), list(outputs), attributes or {}, "", opset))
        return outputs

    def block(self, inputs: list[Operand], *outputs: Operand, precision: str = "default") -> Block:
        return Block(self.ops, inputs, list(outputs), precision=precision)


def _sample(x: Operand) -> Any:
    return x.constant if x.constant is not None else np.ones(x.shape, x.dtype)


def run(block: Block, feeds: dict[Operand, Any]) -> list[Any]:
    """Run a block with the reference kernels."""
    held = dict(feeds)
    for op in block.ops:
        arrays = [None if x is None else x.constant if x.constant is not None else held[x] for x in op.inputs]
        for y, array in zip(
            op.outputs, reference(op.op_type, arrays, op.attributes, op.opset, op.domain), strict=False
        ):
            if y is not None:
                assert (array.shape, array.dtype) == (y.shape, y.dtype)
                held[y] = array
    return [held[y] for y in block.outputs]


def types(block: Block) -> list[str]:
    return [op.op_type for op in block.ops]


def _bytes(dtype: Any, *shape: int) -> Any:
    info = np.iinfo(dtype)
    return RNG.integers(info.min, info.max, shape, endpoint=True).astype(dtype)


def _floats(*shape: int) -> Any:
    return RNG.standard_normal(shape).astype(np.float32)


# Rule 1


def _dynamic(b: Builder, quantized: list[Operand], columns: int, *, bias: bool, swap: bool) -> Operand:
    a, scale, zero = quantized
    weights = constant(_bytes(np.int8, a.shape[-1], columns))
    total = b.add("MatMulInteger", a, weights, zero, constant(0, np.int8))
    real = b.add("Cast", total, attributes={"to": 1})
    factor = b.add("Mul", scale, constant(0.02, np.float32))
    y = b.add("Mul", *((factor, real) if swap else (real, factor)))
    return b.add("Add", constant(_floats(columns)), y) if bias else y


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("swap", [False, True])
def test_dynamic(bias: bool, swap: bool) -> None:
    b, x = Builder(), value((2, 5, 12))
    quantized = b.add_many("DynamicQuantizeLinear", 3, x)
    block = b.block([x], _dynamic(b, quantized, 8, bias=bias, swap=swap))
    feeds = {x: _floats(2, 5, 12)}
    expected = run(block, feeds)
    assert fuse_quantized(block) == 1
    assert types(block) == ["DynamicQuantizeMatMul"]
    np.testing.assert_allclose(run(block, feeds), expected, rtol=1e-6)


def test_dynamic_shared() -> None:
    b, x = Builder(), value((2, 5, 12))
    quantized = b.add_many("DynamicQuantizeLinear", 3, x)
    block = b.block([x], *(_dynamic(b, quantized, 8, bias=True, swap=False) for _ in range(3)))
    feeds = {x: _floats(2, 5, 12)}
    expected = run(block, feeds)
    assert fuse_quantized(block) == 3
    assert types(block) == ["DynamicQuantizeLinear", *["MatMulIntegerToFloat"] * 3]
    np.testing.assert_allclose(run(block, feeds), expected, rtol=1e-6)


def test_dynamic_result_is_kept() -> None:
    b, x = Builder(), value((5, 12))
    quantized = b.add_many("DynamicQuantizeLinear", 3, x)
    block = b.block([x], _dynamic(b, quantized, 8, bias=False, swap=False), quantized[1])
    assert fuse_quantized(block) == 1
    assert types(block) == ["DynamicQuantizeLinear", "MatMulIntegerToFloat"]


def test_strict() -> None:
    b, x = Builder(), value((5, 12))
    quantized = b.add_many("DynamicQuantizeLinear", 3, x)
    block = b.block([x], _dynamic(b, quantized, 8, bias=False, swap=False), precision="strict")
    assert fuse_quantized(block) == 0


# Rules 2 to 5


class Quantizer(Builder):
    """Adds the nodes that onnxruntime.quantization puts around operators."""

    dtype = np.dtype(np.uint8)

    def quantize(self, x: Operand, scale: float, zero: int) -> Operand:
        parts = constant(scale, np.float32), constant(zero, self.dtype)
        return self.add("DequantizeLinear", self.add("QuantizeLinear", x, *parts), *parts)

    def weights(self, *shape: int, axis: int = 0, per_channel: bool = True) -> Operand:
        scale = np.abs(_floats(shape[axis])) * 0.01 + 0.001 if per_channel else np.array(0.01)
        parts = constant(scale, np.float32), constant(np.zeros(scale.shape), np.int8)
        return self.add(
            "DequantizeLinear", constant(_bytes(np.int8, *shape)), *parts, attributes={"axis": axis}
        )

    def bias(self, n: int, scale: Any) -> Operand:
        values = RNG.integers(-2000, 2000, n).astype(np.int32)
        return self.add(
            "DequantizeLinear", constant(values), constant(scale, np.float32), attributes={"axis": 0}
        )


def check(block: Block, feeds: dict[Operand, Any], *expected: str, quantum: float = 0.0) -> None:
    """Assert what a block becomes, and that its results move by one quantum at most."""
    before = run(block, feeds)
    assert fuse_quantized(block)
    assert types(block) == list(expected)
    for y, e in zip(run(block, feeds), before, strict=True):
        np.testing.assert_allclose(y, e, rtol=1e-5, atol=quantum * 1.001)


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
@pytest.mark.parametrize("relu", [False, True])
def test_conv(dtype: str, relu: bool) -> None:
    b, x = Quantizer(), value((1, 5, 8, 8))
    b.dtype = np.dtype(dtype)
    zero = 0 if dtype == "int8" else 120
    q = b.quantize(x, 0.03, zero)
    w = b.weights(7, 5, 3, 3)
    bias = b.bias(7, 0.03 * b.ops[-1].inputs[1].constant)  # type: ignore[union-attr]
    y = b.add("Conv", q, w, bias, attributes={"pads": (1, 1, 1, 1)})
    y = b.add("Relu", y) if relu else y
    block = b.block([x], b.quantize(y, 0.02, zero - 5))
    check(
        block, {x: _floats(1, 5, 8, 8)}, "QuantizeLinear", "QuantizedConv", "DequantizeLinear", quantum=0.02
    )
    assert block.ops[1].outputs[0].dtype == np.uint8  # type: ignore[union-attr]


def test_residual() -> None:
    b, x = Quantizer(), value((1, 5, 8, 8))
    q = b.quantize(x, 0.03, 120)
    y = b.quantize(b.add("Conv", q, b.weights(5, 5, 1, 1)), 0.02, 128)
    y = b.quantize(b.add("Relu", b.add("Add", y, q)), 0.04, 0)
    block = b.block([x], y)
    feeds = {x: _floats(1, 5, 8, 8)}
    check(block, feeds, "QuantizeLinear", "QuantizedConv", "DequantizeLinear", quantum=0.04)


def test_head() -> None:
    """Max pool, global average, flatten and Gemm, as networks begin and end."""
    b, x = Quantizer(), value((2, 6, 9, 9))
    q = b.quantize(x, 0.03, 120)
    q = b.quantize(b.add("MaxPool", q, attributes={"kernel_shape": (3, 3)}), 0.03, 120)
    q = b.quantize(b.add("GlobalAveragePool", q), 0.02, 60)
    q = b.quantize(b.add("Flatten", q), 0.02, 60)
    y = b.add("Gemm", q, b.weights(10, 6), b.bias(10, 0.001), attributes={"transB": 1})
    block = b.block([x], b.quantize(y, 0.05, 100))
    expected = [
        "QuantizeLinear",
        "QuantizedMaxPool",
        "QuantizedGlobalAveragePool",
        "Flatten",
        "QuantizedMatMul",
    ]
    check(block, {x: _floats(2, 6, 9, 9)}, *expected, "DequantizeLinear", quantum=0.1)


@pytest.mark.parametrize("op_type", ["Gemm", "MatMul"])
def test_product_to_float(op_type: str) -> None:
    b, x = Quantizer(), value((4, 6))
    q = b.quantize(x, 0.03, 120)
    more = [b.bias(10, 0.001)] if op_type == "Gemm" else []
    block = b.block([x], b.add(op_type, q, b.weights(6, 10, axis=1), *more))
    check(block, {x: _floats(4, 6)}, "QuantizeLinear", "MatMulIntegerToFloat", quantum=1e-5)


@pytest.mark.parametrize(("shape", "is_row"), [((4,), True), ((1, 4), True), ((1, 1), True), ((4, 1), False)])
def test_a_product_adds_rows_only(shape: tuple[int, ...], is_row: bool) -> None:
    """A column of as many values as a row has is no bias of the columns."""
    b, x = Quantizer(), value((4, 6))
    q = b.quantize(x, 0.03, 120)
    block = b.block([x], b.add("Gemm", q, b.weights(6, 4, axis=1), constant(_floats(*shape))))
    feeds = {x: _floats(4, 6)}
    before = run(block, feeds)
    fuse_quantized(block)
    assert ("MatMulIntegerToFloat" in types(block)) == is_row
    np.testing.assert_allclose(run(block, feeds)[0], before[0], rtol=1e-5, atol=1e-5)


def test_nothing_to_fuse() -> None:
    """Groups, and a value that others want, stay as they are."""
    b, x = Quantizer(), value((1, 4, 8, 8))
    q = b.quantize(x, 0.03, 120)
    grouped = b.add("Conv", q, b.weights(4, 2, 1, 1), attributes={"group": 2})
    wanted = b.add("Conv", q, b.weights(4, 4, 1, 1))
    block = b.block([x], b.quantize(grouped, 0.1, 0), wanted, b.quantize(wanted, 0.1, 0))
    assert fuse_quantized(block) == 0


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("per_channel", [False, True])
def test_find_integers(axis: int, per_channel: bool) -> None:
    """Exact products of float32 scales are taken apart; other numbers are not."""
    q = RNG.integers(-127, 128, (17, 70)).astype(np.int8)
    q[3] = 0
    scale = np.abs(_floats(q.shape[axis] if per_channel else 1)) + np.float32(0.001)
    first = np.moveaxis(q, axis, 0)
    first[first.any(axis=1), 0] = 127
    spread = scale.reshape(-1, 1) if axis == 0 else scale.reshape(1, -1)
    w = q.astype(np.float32) * spread
    integers, found = find_integers(w, axis)
    assert integers.shape == q.shape
    again = integers.astype(np.float32) * (found if found.ndim == 0 else found.reshape(spread.shape))
    np.testing.assert_array_equal(again, w)
    assert find_integers(_floats(17, 70), axis)[0].size == 0
