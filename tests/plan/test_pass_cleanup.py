"""Passes that take work out: the block computes the same afterwards, with fewer ops."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pass_cases import Builder, check_pass

from onnxref.plan.passes.cleanup import (
    fold_batchnorm,
    fuse_epilogues,
    merge_transposes,
    remove_identities,
)

RNG = np.random.default_rng(7)


def f32(*shape: int) -> np.ndarray[Any, Any]:
    return RNG.standard_normal(shape).astype(np.float32)


def ints(*values: int) -> np.ndarray[Any, Any]:
    return np.array(values, np.int64)


def op_types(block: Any) -> list[str]:
    return [op.op_type for op in block.ops]


# --- identities ------------------------------------------------------------------------------------

SCALAR = np.float32(1)
IDENTITIES = [
    ("Identity", [], {}),
    ("Cast", [], {"to": 1}),
    ("Dropout", [np.float32(0.5), np.bool_(False)], {}),
    ("Reshape", [ints(2, 3, 4)], {}),
    ("Expand", [ints(1, 3, 1)], {}),
    ("Tile", [ints(1, 1, 1)], {}),
    ("Pad", [ints(0, 0, 0, 0, 0, 0)], {}),
    ("Slice", [ints(0), ints(99), ints(1)], {}),
    ("Slice", [ints(0, 0), ints(2, 3), ints(0, 1), ints(1, 1)], {}),
    ("Transpose", [], {"perm": (0, 1, 2)}),
    ("Concat", [], {"axis": 1}),
    ("Sum", [], {}),
    ("Mul", [SCALAR], {}),
    ("Div", [SCALAR], {}),
    ("Pow", [SCALAR], {}),
]


@pytest.mark.parametrize(("op_type", "more", "attributes"), IDENTITIES)
def test_an_identity_goes(op_type: str, more: list[Any], attributes: dict[str, Any]) -> None:
    b = Builder()
    x = b.op("Relu", b.input(f32(2, 3, 4)))
    y = b.op("Neg", b.op(op_type, x, *more, **attributes))
    block = check_pass(remove_identities, b, y, rtol=0, atol=0)
    assert op_types(block) == ["Relu", "Neg"]
    assert sum(len(op.nodes) for op in block.ops) == 3


KEPT = [
    ("Add", [np.float32(0)], {}),  # -0 becomes +0
    ("Cast", [], {"to": 11}),
    ("Slice", [ints(-1), ints(-99), ints(1), ints(-1)], {}),  # turns an axis round
    ("Pad", [ints(1, 0, 0, -1, 0, 0)], {}),  # moves rows
    ("Reshape", [ints(2, 4, 3)], {}),
    ("Mul", [np.float32(2)], {}),
    ("Mul", [np.ones((2, 2, 3, 4), np.float32)[:, :1]], {}),  # broadcasts
]


@pytest.mark.parametrize(("op_type", "more", "attributes"), KEPT)
def test_what_changes_something_stays(op_type: str, more: list[Any], attributes: dict[str, Any]) -> None:
    b = Builder()
    y = b.op(op_type, b.op("Relu", b.input(f32(2, 3, 4))), *more, **attributes)
    assert op_types(check_pass(remove_identities, b, y)) == ["Relu", op_type]


def test_dropout_in_training_stays() -> None:
    b = Builder()
    y = b.op("Dropout", b.input(f32(4)), np.float32(0), np.bool_(True), seed=1)
    assert op_types(check_pass(remove_identities, b, y)) == ["Dropout"]


def test_identity_of_an_input_that_is_a_result_stays() -> None:
    b = Builder()
    y = b.op("Identity", b.input(f32(4)))
    assert op_types(check_pass(remove_identities, b, y)) == ["Identity"]


def test_identity_that_is_a_result_leaves_its_name_to_the_op_before() -> None:
    b = Builder()
    x = b.op("Relu", b.input(f32(4)))
    y, z = b.op("Identity", x), b.op("Neg", x)
    block = check_pass(remove_identities, b, y, z)
    assert op_types(block) == ["Relu", "Neg"]
    assert block.ops[0].outputs[0] is y


def test_two_results_of_one_value_stay_two() -> None:
    b = Builder()
    x = b.op("Relu", b.input(f32(4)))
    y, z = b.op("Identity", x), b.op("Identity", x)
    assert len(check_pass(remove_identities, b, x, y, z).ops) == 3


# --- transposes ------------------------------------------------------------------------------------


def test_transposes_in_a_row_become_one() -> None:
    b = Builder()
    x = b.op("Transpose", b.input(f32(2, 3, 4)), perm=(1, 2, 0))
    y = b.op("Transpose", x)
    block = check_pass(merge_transposes, b, y)
    assert [op.attributes["perm"] for op in block.ops] == [(0, 2, 1)]
    assert len(block.ops[0].nodes) == 2


def test_transpose_that_is_read_elsewhere_stays() -> None:
    b = Builder()
    x = b.op("Transpose", b.input(f32(2, 3, 4)), perm=(1, 2, 0))
    y = b.op("Transpose", x, perm=(1, 0, 2))
    assert len(check_pass(merge_transposes, b, x, y).ops) == 2


def test_transpose_of_axes_of_size_1_is_a_reshape() -> None:
    b = Builder()
    y = b.op("Transpose", b.input(f32(2, 1, 3, 1)), perm=(1, 0, 3, 2))
    assert op_types(check_pass(merge_transposes, b, y)) == ["Reshape"]


def test_reshapes_in_a_row_become_one() -> None:
    b = Builder()
    x = b.op("Unsqueeze", b.input(f32(2, 0, 3)), ints(0))
    y = b.op("Flatten", b.op("Reshape", x, ints(3, 0), allowzero=1), axis=1)
    assert op_types(check_pass(merge_transposes, b, y)) == ["Reshape"]


# --- batch normalisation -----------------------------------------------------------------------------


def batchnorm(b: Builder, x: Any, channels: int, **options: Any) -> Any:
    parameters = (f32(channels), f32(channels), f32(channels), abs(f32(channels)) + 0.5)
    return b.op("BatchNormalization", x, *parameters, **options)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("opset", [9, 15])
def test_batchnorm_goes_into_a_conv(bias: bool, opset: int) -> None:
    b = Builder()
    x = b.op("Conv", b.input(f32(2, 4, 6, 5)), f32(6, 2, 3, 3), *([f32(6)] if bias else []), group=2)
    y = batchnorm(b, x, 6, opset=opset, epsilon=1e-3)
    block = check_pass(fold_batchnorm, b, y)
    assert op_types(block) == ["Conv"]
    assert len(block.ops[0].nodes) == 2


@pytest.mark.parametrize("group", [1, 2])
def test_batchnorm_goes_into_a_transposed_conv(group: int) -> None:
    b = Builder()
    x = b.op("ConvTranspose", b.input(f32(1, 4, 5, 5)), f32(4, 3, 3, 3), group=group)
    y = batchnorm(b, x, 3 * group)
    assert op_types(check_pass(fold_batchnorm, b, y)) == ["ConvTranspose"]


@pytest.mark.parametrize("transposed", [0, 1])
@pytest.mark.parametrize("bias", [None, f32(6), f32(1, 6)])
def test_batchnorm_goes_into_a_gemm(transposed: int, bias: Any) -> None:
    b = Builder()
    w = f32(6, 4) if transposed else f32(4, 6)
    x = b.op("Gemm", b.input(f32(3, 4)), w, bias, transB=transposed, alpha=0.5)
    assert op_types(check_pass(fold_batchnorm, b, batchnorm(b, x, 6))) == ["Gemm"]


@pytest.mark.parametrize("op_type", ["Mul", "Add", "Sub", "Div"])
@pytest.mark.parametrize("shape", [(6, 1, 1), (1, 6, 1, 1), ()])
def test_scales_and_shifts_go_into_a_conv(op_type: str, shape: tuple[int, ...]) -> None:
    b = Builder()
    x = b.op("Conv", b.input(f32(2, 4, 6, 5)), f32(6, 4, 3, 3))
    y = b.op(op_type, x, f32(*shape) + np.float32(3))
    y = b.op("Mul", f32(6, 1, 1), y)
    assert op_types(check_pass(fold_batchnorm, b, y, rtol=1e-4, atol=1e-4)) == ["Conv"]


def test_batchnorm_stays_where_it_must() -> None:
    b = Builder()
    x = b.op("Conv", b.input(f32(2, 4, 6, 5)), f32(6, 4, 3, 3))
    y = batchnorm(b, x, 6)
    z = b.op("Relu", x)
    assert len(check_pass(fold_batchnorm, b, y, z).ops) == 3  # the product is read elsewhere
    b = Builder()
    x = b.op("Conv", b.input(f32(2, 4, 6, 5)), b.input(f32(6, 4, 3, 3)))
    assert len(check_pass(fold_batchnorm, b, batchnorm(b, x, 6)).ops) == 2  # weights are not constant
    b = Builder()
    x = b.op("Conv", b.input(f32(2, 4, 6, 5)), f32(6, 4, 3, 3))
    y = b.op("Div", x, np.zeros((6, 1, 1), np.float32))
    assert len(check_pass(fold_batchnorm, b, y).ops) == 2  # not finite
    b = Builder()
    x = b.op("Conv", b.input(f32(2, 4, 6, 5)), f32(6, 4, 3, 3))
    y = b.op("Add", x, f32(3))
    assert len(check_pass(fold_batchnorm, b, y).ops) == 2  # along another axis


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", [(2, 6, 4, 3), (3, 6)])
def test_batchnorm_alone_becomes_arithmetic(dtype: str, shape: tuple[int, ...]) -> None:
    b = Builder()
    parameters = [abs(f32(6)).astype(dtype) + dtype_one for dtype_one in np.ones(4, dtype)]
    y = b.op("BatchNormalization", b.input(f32(*shape).astype(dtype) * 1000), *parameters)
    block = check_pass(fold_batchnorm, b, b.op("Relu", y), rtol=1e-6, atol=0)
    assert op_types(block) == ["Sub", "Mul", "Add", "Relu"]


def test_batchnorm_with_nothing_around_it_stays() -> None:
    b = Builder()
    assert op_types(check_pass(fold_batchnorm, b, batchnorm(b, b.input(f32(2, 6, 4)), 6))) == [
        "BatchNormalization"
    ]


# --- epilogues ---------------------------------------------------------------------------------------

ACTIVATIONS: list[tuple[str, list[Any], dict[str, Any], str]] = [
    ("Relu", [], {}, "Relu"),
    ("Clip", [np.float32(0), np.float32(6)], {}, "Clip"),
    ("Clip", [None, np.float32(0.5)], {}, "Clip"),
    ("LeakyRelu", [], {}, "LeakyRelu"),
    ("Sigmoid", [], {}, "Sigmoid"),
    ("HardSigmoid", [], {}, "HardSigmoid"),
    ("HardSwish", [], {}, "HardSwish"),
    ("Swish", [], {}, "Silu"),
    ("Tanh", [], {}, "Tanh"),
    ("Gelu", [], {}, "Gelu"),
    ("Gelu", [], {"approximate": "tanh"}, "GeluTanh"),
]


@pytest.mark.parametrize(("op_type", "more", "attributes", "name"), ACTIVATIONS)
def test_activations_go_into_conv_and_matmul(
    op_type: str, more: list[Any], attributes: dict[str, Any], name: str
) -> None:
    b = Builder()
    x = b.op("Conv", b.input(f32(1, 3, 5, 5)), f32(4, 3, 3, 3), pads=(1, 1, 1, 1))
    y = b.op(op_type, x, *more, **attributes)
    z = b.op(op_type, b.op("MatMul", y, f32(5, 7)), *more, **attributes)
    block = check_pass(fuse_epilogues, b, z)
    assert op_types(block) == ["FusedConv", "FusedMatMul"]
    assert [op.attributes["activation"] for op in block.ops] == [name] * 2


def test_attribute_bounds_of_clip_6() -> None:
    b = Builder()
    x = b.op("Conv", b.input(f32(1, 3, 5, 5)), f32(4, 3, 3, 3), opset=6)
    block = check_pass(fuse_epilogues, b, b.op("Clip", x, opset=6, min=-0.5, max=0.5))
    assert op_types(block) == ["FusedConv"]
    assert (block.ops[0].attributes["alpha"], block.ops[0].attributes["beta"]) == (-0.5, 0.5)


@pytest.mark.parametrize("addition", ["Add", "Sum"])
def test_residual_block(addition: str) -> None:
    """Conv, BatchNormalization, Add of a shortcut, Relu: two convolutions remain."""
    b = Builder()
    x = b.input(f32(1, 4, 6, 6))
    short = b.op("Conv", x, f32(8, 4, 1, 1))
    main = b.op("Relu", b.op("Conv", x, f32(4, 4, 3, 3), pads=(1, 1, 1, 1)))
    main = batchnorm(b, b.op("Conv", main, f32(8, 4, 1, 1)), 8)
    y = b.op("Relu", b.op(addition, main, batchnorm(b, short, 8)))

    def both(block: Any) -> int:
        return fold_batchnorm(block) + fuse_epilogues(block)

    block = check_pass(both, b, y)
    assert op_types(block) == ["Conv", "FusedConv", "FusedConv"]
    assert block.ops[2].inputs[3] is block.ops[0].outputs[0]
    assert len(block.ops[2].nodes) == 4


def test_matmul_takes_scale_bias_residual_and_activation() -> None:
    b = Builder()
    x = b.input(f32(2, 5, 6))
    y = b.op("Div", b.op("MatMul", x, f32(6, 6)), np.float32(3))
    y = b.op("Add", f32(1, 6), b.op("Mul", y, np.float32(2)))
    y = b.op("Tanh", b.op("Add", x, y))
    block = check_pass(fuse_epilogues, b, y)
    assert op_types(block) == ["FusedMatMul"]
    fused = block.ops[0]
    assert fused.attributes["scale"] == pytest.approx(2 / 3)
    assert fused.inputs[2] is not None
    assert fused.inputs[2].shape == (6,)
    assert fused.inputs[3] is x


def test_scale_after_bias_stays() -> None:
    b = Builder()
    y = b.op("Add", b.op("MatMul", b.input(f32(5, 6)), f32(6, 3)), f32(3))
    block = check_pass(fuse_epilogues, b, b.op("Mul", y, np.float32(2)))
    assert op_types(block) == ["FusedMatMul", "Mul"]


@pytest.mark.parametrize(("shape", "place"), [((3,), 2), ((1, 3), 2), ((5, 3), 3)])
def test_gemm(shape: tuple[int, ...], place: int) -> None:
    b = Builder()
    y = b.op("Gemm", b.input(f32(6, 5)), f32(3, 6), f32(*shape), transA=1, transB=1, alpha=0.5)
    block = check_pass(fuse_epilogues, b, b.op("Relu", y))
    assert op_types(block) == ["FusedMatMul"]
    assert block.ops[0].inputs[place] is not None


def test_transposes_become_flags() -> None:
    b = Builder()
    query, key = b.input(f32(2, 3, 5, 4)), b.input(f32(2, 3, 7, 4))
    turned = b.op("Transpose", key, perm=(0, 1, 3, 2))
    y = b.op("MatMul", query, turned)
    block = check_pass(fuse_epilogues, b, y)
    assert op_types(block) == ["FusedMatMul"]
    assert block.ops[0].attributes["trans_b"] == 1
    assert len(block.ops[0].nodes) == 2


def test_what_others_read_is_not_fused_away() -> None:
    b = Builder()
    x = b.op("Conv", b.input(f32(1, 3, 5, 5)), f32(4, 3, 3, 3))
    y, z = b.op("Relu", x), b.op("Neg", x)
    assert len(check_pass(fuse_epilogues, b, y, z).ops) == 3
    b = Builder()
    x = b.op("MatMul", b.input(f32(5, 5)), f32(5, 5))
    y = b.op("Add", x, x)
    assert op_types(check_pass(fuse_epilogues, b, y)) == ["MatMul", "Add"]


def test_double_is_not_fused() -> None:
    b = Builder()
    y = b.op("Relu", b.op("MatMul", b.input(RNG.standard_normal((3, 3))), RNG.standard_normal((3, 3))))
    assert op_types(check_pass(fuse_epilogues, b, y)) == ["MatMul", "Relu"]


def test_growing_sum_is_no_residual() -> None:
    b = Builder()
    y = b.op("Add", b.op("MatMul", b.input(f32(1, 5)), f32(5, 4)), b.input(f32(3, 4)))
    assert op_types(check_pass(fuse_epilogues, b, y)) == ["MatMul", "Add"]
