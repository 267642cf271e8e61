"""Operators that models spell out: found in the spellings of several exporters, and only there."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from pass_cases import Builder, check_pass

from onnxref.lowering import Operand
from onnxref.plan.passes.cleanup import fuse_epilogues
from onnxref.plan.passes.patterns import (
    fuse_skip_normalizations,
    recognize_activations,
    recognize_normalizations,
    recognize_patterns,
    recognize_softmax,
)

RNG = np.random.default_rng(11)
HALF, ONE, TWO, THREE, SIX = (np.float32(v) for v in (0.5, 1, 2, 3, 6))
ROOT_2, ROOT_2_PI = np.float32(math.sqrt(2)), np.float32(math.sqrt(2 / math.pi))
CUBIC = np.float32(0.044715)


def f32(*shape: int) -> np.ndarray[Any, Any]:
    return RNG.standard_normal(shape).astype(np.float32)


def ints(*values: int) -> np.ndarray[Any, Any]:
    return np.array(values, np.int64)


def op_types(block: Any) -> list[str]:
    return [op.op_type for op in block.ops]


# --- activations -----------------------------------------------------------------------------------


def gelu_1(b: Builder, x: Operand) -> Operand:
    phi = b.op("Add", b.op("Erf", b.op("Div", x, ROOT_2)), ONE)
    return b.op("Mul", b.op("Mul", x, phi), HALF)


def gelu_2(b: Builder, x: Operand) -> Operand:
    phi = b.op("Add", ONE, b.op("Erf", b.op("Mul", np.float32(1 / math.sqrt(2)), x)))
    return b.op("Mul", b.op("Mul", HALF, x), phi)


def gelu_3(b: Builder, x: Operand) -> Operand:
    phi = b.op("Add", b.op("Erf", b.op("Div", x, np.array([1.4142], np.float32))), ONE)
    return b.op("Mul", b.op("Mul", phi, HALF), x)


def tanh_1(b: Builder, x: Operand) -> Operand:
    cubic = b.op("Mul", b.op("Pow", x, THREE), CUBIC)
    phi = b.op("Add", b.op("Tanh", b.op("Mul", b.op("Add", x, cubic), ROOT_2_PI)), ONE)
    return b.op("Mul", b.op("Mul", HALF, x), phi)


def tanh_2(b: Builder, x: Operand) -> Operand:
    cubic = b.op("Mul", CUBIC, b.op("Mul", b.op("Mul", x, x), x))
    phi = b.op("Add", b.op("Tanh", b.op("Mul", ROOT_2_PI, b.op("Add", x, cubic))), ONE)
    return b.op("Mul", x, b.op("Mul", phi, HALF))


def tanh_3(b: Builder, x: Operand) -> Operand:
    growth = b.op("Add", ONE, b.op("Mul", b.op("Mul", x, CUBIC), x))
    phi = b.op("Add", ONE, b.op("Tanh", b.op("Mul", b.op("Mul", x, ROOT_2_PI), growth)))
    return b.op("Mul", b.op("Mul", x, HALF), phi)


def tanh_4(b: Builder, x: Operand) -> Operand:
    cubic = b.op("Mul", x, b.op("Mul", x, b.op("Mul", CUBIC, x)))
    phi = b.op("Add", b.op("Tanh", b.op("Mul", ROOT_2_PI, b.op("Add", x, cubic))), ONE)
    return b.op("Mul", x, b.op("Mul", phi, HALF))


def silu(b: Builder, x: Operand) -> Operand:
    return b.op("Mul", b.op("Sigmoid", x), x)


def quick_gelu(b: Builder, x: Operand) -> Operand:
    return b.op("Mul", x, b.op("Sigmoid", b.op("Mul", x, np.float32(1.702))))


def mish(b: Builder, x: Operand) -> Operand:
    return b.op("Mul", x, b.op("Tanh", b.op("Softplus", x)))


def hard_swish_1(b: Builder, x: Operand) -> Operand:
    return b.op("Mul", x, b.op("HardSigmoid", x, alpha=1 / 6, beta=0.5))


def hard_swish_2(b: Builder, x: Operand) -> Operand:
    return b.op("Mul", x, b.op("Div", b.op("Clip", b.op("Add", x, THREE), np.float32(0), SIX), SIX))


def hard_swish_3(b: Builder, x: Operand) -> Operand:
    clipped = b.op("Clip", b.op("Add", x, THREE), opset=6, min=0.0, max=6.0)
    return b.op("Div", b.op("Mul", x, clipped), SIX)


SPELLINGS: list[tuple[Callable[[Builder, Operand], Operand], str, dict[str, Any]]] = [
    (gelu_1, "Gelu", {}),
    (gelu_2, "Gelu", {}),
    (gelu_3, "Gelu", {}),
    (tanh_1, "Gelu", {"approximate": "tanh"}),
    (tanh_2, "Gelu", {"approximate": "tanh"}),
    (tanh_3, "Gelu", {"approximate": "tanh"}),
    (tanh_4, "Gelu", {"approximate": "tanh"}),
    (silu, "Swish", {}),
    (quick_gelu, "Swish", {"alpha": float(np.float32(1.702))}),
    (mish, "Mish", {}),
    (hard_swish_1, "HardSwish", {}),
    (hard_swish_2, "HardSwish", {}),
    (hard_swish_3, "HardSwish", {}),
]


@pytest.mark.parametrize(("spell", "op_type", "attributes"), SPELLINGS)
def test_activations(spell: Any, op_type: str, attributes: dict[str, Any]) -> None:
    b = Builder()
    x = b.op("Neg", b.input(f32(3, 40) * 3))
    y = b.op("Neg", spell(b, x))
    block = check_pass(recognize_activations, b, y, atol=1e-4)
    assert op_types(block) == ["Neg", op_type, "Neg"]
    assert block.ops[1].attributes == attributes
    assert len({id(node) for op in block.ops for node in op.nodes}) == len(b.values) - len(
        [v for v in b.values if v.constant is not None or v in block.inputs]
    )


def test_a_value_inside_that_is_read_elsewhere_forbids_it() -> None:
    b = Builder()
    x = b.input(f32(3, 4))
    gate = b.op("Sigmoid", x)
    y = b.op("Mul", x, gate)
    assert len(check_pass(recognize_activations, b, y, gate).ops) == 2


def test_other_numbers_are_another_function() -> None:
    for root, half in ((np.float32(1.5), HALF), (ROOT_2, np.float32(0.4999))):
        b = Builder()
        x = b.input(f32(3, 4))
        phi = b.op("Add", b.op("Erf", b.op("Div", x, root)), ONE)
        y = b.op("Mul", b.op("Mul", x, phi), half)
        assert len(check_pass(recognize_activations, b, y).ops) == 5


def test_low_precision_stays() -> None:
    b = Builder()
    y = silu(b, b.input(f32(3, 4).astype(np.float16)))
    assert len(check_pass(recognize_activations, b, y).ops) == 2


def test_an_activation_that_is_found_goes_into_the_product_before_it() -> None:
    b = Builder()
    y = silu(b, b.op("Conv", b.input(f32(1, 3, 5, 5)), f32(4, 3, 3, 3)))

    def both(block: Any) -> int:
        return recognize_activations(block) + fuse_epilogues(block)

    assert op_types(check_pass(both, b, y)) == ["FusedConv"]


# --- softmax ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("axis", "opset"), [(-1, 13), (1, 13), (1, 18)])
def test_softmax(axis: int, opset: int) -> None:
    b = Builder()
    x = b.op("Neg", b.input(f32(2, 5, 7)))
    if opset < 18:
        top = b.op("ReduceMax", x, opset=opset, axes=(axis,))
    else:
        top = b.op("ReduceMax", x, ints(axis), opset=opset)
    powers = b.op("Exp", b.op("Sub", x, top))
    y = b.op("Div", powers, b.op("ReduceSum", powers, ints(axis)))
    block = check_pass(recognize_softmax, b, y)
    assert op_types(block) == ["Neg", "Softmax"]
    assert block.ops[1].attributes == {"axis": axis % 3}


def test_softmax_of_two_different_axes_is_none() -> None:
    b = Builder()
    x = b.input(f32(5, 5))
    powers = b.op("Exp", b.op("Sub", x, b.op("ReduceMax", x, ints(0))))
    y = b.op("Div", powers, b.op("ReduceSum", powers, ints(1)))
    assert len(check_pass(recognize_softmax, b, y).ops) == 5


# --- normalisations --------------------------------------------------------------------------------


def mean(b: Builder, x: Operand, axes: tuple[int, ...], opset: int) -> Operand:
    if opset < 18:
        return b.op("ReduceMean", x, opset=opset, axes=axes)
    return b.op("ReduceMean", x, ints(*axes), opset=opset)


def standardised(b: Builder, x: Operand, axes: tuple[int, ...], opset: int, style: int) -> Operand:
    dtype = x.dtype.type
    square = b.op("Mul", x, x) if style == 1 else b.op("Pow", x, dtype(2))
    variance = b.op("Add", mean(b, square, axes, opset), dtype(1e-3))
    if style == 2:
        return b.op("Mul", b.op("Pow", variance, dtype(-0.5)), x)
    root = b.op("Sqrt", variance)
    if style == 0:
        return b.op("Div", x, root)
    if style == 1:
        return b.op("Mul", x, b.op("Reciprocal", root))
    return b.op("Mul", b.op("Div", dtype(1), root), x)


@pytest.mark.parametrize("opset", [13, 18])
@pytest.mark.parametrize("style", [0, 1, 2, 3])
@pytest.mark.parametrize("axes", [(-1,), (1, 2)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_layer_normalization(opset: int, style: int, axes: tuple[int, ...], dtype: str) -> None:
    b = Builder()
    x = b.op("Neg", b.input(f32(2, 5, 7).astype(dtype)))
    row = x.shape[axes[0] :]
    centred = b.op("Sub", x, mean(b, x, axes, opset))
    y = standardised(b, centred, axes, opset, style)
    y = b.op("Add", b.op("Mul", f32(*row).astype(dtype), y), f32(1, *row).astype(dtype))
    block = check_pass(recognize_normalizations, b, y)
    assert op_types(block) == ["Neg", "LayerNormalization"]
    assert len(block.ops[1].nodes) == len(b.values) - 2 - sum(v.constant is not None for v in b.values)


@pytest.mark.parametrize("style", [0, 1, 2, 3])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_rms_normalization(style: int, dtype: str) -> None:
    b = Builder()
    x = b.op("Neg", b.input(f32(2, 5, 7).astype(dtype)))
    y = b.op("Mul", f32(7).astype(dtype), standardised(b, x, (-1,), 18, style))
    assert op_types(check_pass(recognize_normalizations, b, y)) == ["Neg", "RMSNormalization"]


def test_two_subtractions_are_one_deviation() -> None:
    b = Builder()
    x = b.input(f32(2, 7))
    average = mean(b, x, (-1,), 13)
    square = b.op("Pow", b.op("Sub", x, average), TWO)
    root = b.op("Sqrt", b.op("Add", mean(b, square, (-1,), 13), np.float32(1e-5)))
    y = b.op("Div", b.op("Sub", x, average), root)
    assert op_types(check_pass(recognize_normalizations, b, y)) == ["LayerNormalization"]


def test_scale_and_bias_of_other_shapes_stay() -> None:
    b = Builder()
    x = b.input(f32(2, 5, 7))
    y = standardised(b, b.op("Sub", x, mean(b, x, (-1,), 13)), (-1,), 13, 0)
    y = b.op("Add", b.op("Mul", y, f32(5, 1)), f32(7))
    assert op_types(check_pass(recognize_normalizations, b, y)) == ["LayerNormalization", "Mul", "Add"]


@pytest.mark.parametrize("axes", [(1,), (0, 2)])
def test_axes_that_are_not_last_stay(axes: tuple[int, ...]) -> None:
    b = Builder()
    x = b.input(f32(2, 5, 7))
    y = standardised(b, b.op("Sub", x, mean(b, x, axes, 13)), axes, 13, 0)
    assert "LayerNormalization" not in op_types(check_pass(recognize_normalizations, b, y))


# --- sums before them ------------------------------------------------------------------------------


@pytest.mark.parametrize("op_type", ["LayerNormalization", "RMSNormalization"])
@pytest.mark.parametrize("is_read", [False, True])
def test_skip_normalization(op_type: str, is_read: bool) -> None:
    b = Builder()
    x, skip = b.input(f32(2, 5, 7)), b.input(f32(2, 5, 7))
    total = b.op("Add", x, skip)
    between = b.op("Neg", total) if is_read else b.op("Neg", x)
    y = b.op(op_type, total, f32(7))
    block = check_pass(fuse_skip_normalizations, b, y, between)
    assert sorted(op_types(block)) == ["Neg", f"Skip{op_type}"]
    fused = next(op for op in block.ops if op.op_type != "Neg")
    assert (fused.outputs[1] is total) == is_read


def test_a_broadcast_sum_is_no_skip() -> None:
    b = Builder()
    total = b.op("Add", b.input(f32(2, 5, 7)), b.input(f32(7)))
    y = b.op("LayerNormalization", total, f32(7))
    assert op_types(check_pass(fuse_skip_normalizations, b, y)) == ["Add", "LayerNormalization"]


def test_a_scale_that_comes_after_the_sum_forbids_it() -> None:
    b = Builder()
    x = b.input(f32(5, 7))
    total = b.op("Add", x, x)
    scale = b.op("Abs", b.op("ReduceMax", total, ints(0), keepdims=0))
    y = b.op("LayerNormalization", total, scale)
    assert "Add" in op_types(check_pass(fuse_skip_normalizations, b, y))


# --- pooling ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("keepdims", [0, 1])
def test_mean_of_images(keepdims: int) -> None:
    b = Builder()
    x = b.op("Neg", b.input(f32(2, 5, 7, 3)))
    y = b.op("Abs", b.op("ReduceMean", x, ints(-1, -2), keepdims=keepdims))
    block = check_pass(recognize_patterns, b, y)
    flattening = [] if keepdims else ["Reshape"]
    assert op_types(block) == ["Neg", "GlobalAveragePool", *flattening, "Abs"]


def test_other_means_stay() -> None:
    b = Builder()
    x = b.input(f32(2, 5, 7, 3))
    y, z = b.op("ReduceMean", x, ints(1)), b.op("ReduceMax", x, ints(2, 3))
    assert op_types(check_pass(recognize_patterns, b, y, z)) == ["ReduceMean", "ReduceMax"]
