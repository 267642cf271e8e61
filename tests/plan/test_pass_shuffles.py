"""Channel shuffles: recognised by their shapes alone, and taken in by the convolutions around them."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from pass_cases import Builder, check_pass

import onnxref
from onnxref.lowering import Operand
from onnxref.plan.passes._block import Block
from onnxref.plan.passes.shuffles import fuse_shuffles, recognize_shuffles

RNG = np.random.default_rng(11)


def f32(*shape: int) -> np.ndarray[Any, Any]:
    return RNG.standard_normal(shape).astype(np.float32)


def op_types(block: Block) -> list[str]:
    return [op.op_type for op in block.ops]


def fuse(block: Block) -> int:
    """Both passes, for kernels that take channels in any order."""
    block.reorders = True
    return recognize_shuffles(block) + fuse_shuffles(block)


def shuffle(
    b: Builder, x: Operand, middle: tuple[int, ...], perm: tuple[int, ...], goal: Any = None
) -> Operand:
    made = b.op("Reshape", x, np.array(middle, np.int64))
    made = b.op("Transpose", made, perm=perm)
    return b.op("Reshape", made, np.array(x.shape if goal is None else goal, np.int64))


def of_groups(b: Builder, x: Operand, groups: int) -> Operand:
    n, c, *spatial = x.shape
    return shuffle(b, x, (n, groups, c // groups, *spatial), (0, 2, 1, *range(3, x.ndim + 1)))


# --- recognised ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "middle", "groups"),
    [
        ((2, 12, 3, 5), (2, 3, 4, 3, 5), 3),
        ((2, 12, 3, 5), (2, 4, 3, 15), 4),
        ((1, 8, 7), (1, 2, 4, 7), 2),
    ],
)
def test_recognized(shape: tuple[int, ...], middle: tuple[int, ...], groups: int) -> None:
    b = Builder()
    perm = (0, 2, 1, *range(3, len(middle)))
    y = b.op("Neg", shuffle(b, b.input(f32(*shape)), middle, perm))
    block = check_pass(recognize_shuffles, b, y, rtol=0, atol=0)
    assert op_types(block) == ["ShuffleChannels", "Neg"]
    assert block.ops[0].attributes == {"groups": groups}
    assert len(block.ops[0].nodes) == 3


@pytest.mark.parametrize(
    ("shape", "middle", "perm", "goal"),
    [
        ((2, 12, 3, 3), (2, 3, 4, 3, 3), (0, 2, 1, 4, 3), (2, 12, 3, 3)),  # the pixels too
        ((2, 12, 2, 2), (2, 3, 4, 2, 2), (1, 2, 0, 3, 4), (2, 12, 2, 2)),  # the batch too
        ((2, 12, 3, 5), (2, 3, 4, 3, 5), (0, 2, 1, 3, 4), (2, 12, 15)),  # another shape
        ((2, 12, 4, 2), (2, 4, 6, 2, 2), (0, 2, 1, 3, 4), (2, 12, 4, 2)),  # groups across channels
        ((2, 12), (2, 3, 4), (0, 2, 1), (2, 12)),  # no image
    ],
)
def test_not_recognized(
    shape: tuple[int, ...], middle: tuple[int, ...], perm: tuple[int, ...], goal: tuple[int, ...]
) -> None:
    b = Builder()
    y = b.op("Neg", shuffle(b, b.input(f32(*shape)), middle, perm, goal))
    block = check_pass(recognize_shuffles, b, y, rtol=0, atol=0)
    assert op_types(block) == ["Reshape", "Transpose", "Reshape", "Neg"]


def test_not_recognized_where_others_read_it() -> None:
    b = Builder()
    x = b.input(f32(1, 6, 2, 2))
    parts = b.op("Reshape", x, np.array([1, 2, 3, 2, 2]))
    turned = b.op("Transpose", parts, perm=(0, 2, 1, 3, 4))
    y = b.op("Reshape", turned, np.array([1, 6, 2, 2]))
    block = check_pass(recognize_shuffles, b, y, b.op("Neg", turned), rtol=0, atol=0)
    assert op_types(block) == ["Reshape", "Transpose", "Reshape", "Neg"]


# --- into convolutions -----------------------------------------------------------------------------


def conv(b: Builder, x: Operand, made: int, group: int, kernel: int = 1, **attributes: Any) -> Operand:
    w, bias = f32(made, x.shape[1] // group, kernel, kernel), f32(made)
    return b.op("Conv", x, w, bias, group=group, **attributes)


def test_a_grouped_convolution_names_the_order() -> None:
    b = Builder()
    x = b.op("Relu", b.input(f32(2, 12, 4, 4)))
    y = conv(b, of_groups(b, x, 3), 6, 3)
    block = check_pass(fuse, b, y)
    assert op_types(block) == ["Relu", "FusedConv"]
    assert block.ops[1].attributes["order"] == (0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11)


def test_a_shuffle_passes_depthwise_convolutions() -> None:
    b = Builder()
    x = conv(b, b.input(f32(1, 12, 5, 5)), 12, 2)
    held = conv(b, of_groups(b, x, 2), 12, 12, 3, pads=(1, 1, 1, 1))
    held = conv(b, held, 12, 12, 3, strides=(2, 2))
    block = check_pass(fuse, b, conv(b, held, 24, 4))
    assert op_types(block) == ["Conv", "Conv", "Conv", "FusedConv"]
    assert [op.attributes.get("strides") for op in block.ops] == [None, None, (2, 2), None]
    named = [[node.name for node in op.nodes] for op in block.ops]
    assert named == [["n0"], ["n4", "n1", "n2", "n3"], ["n5"], ["n6"]]


def test_a_convolution_of_one_group_takes_it_either_way() -> None:
    b = Builder()
    y = conv(b, of_groups(b, b.input(f32(1, 12, 5, 5)), 4), 7, 1, 3)
    assert op_types(check_pass(fuse, b, y)) == ["Conv"]
    b = Builder()
    y = b.op("Relu", of_groups(b, conv(b, b.input(f32(1, 5, 5, 5)), 12, 1, 3), 4))
    assert op_types(check_pass(fuse, b, y)) == ["Conv", "Relu"]


def test_kernels_without_an_order_keep_it_before_groups() -> None:
    b = Builder()
    y = conv(b, of_groups(b, b.input(f32(1, 12, 5, 5)), 3), 6, 3)

    def run(block: Block) -> int:
        return recognize_shuffles(block) + fuse_shuffles(block)

    assert op_types(check_pass(run, b, y)) == ["ShuffleChannels", "Conv"]


def _read_twice(b: Builder) -> list[Operand]:
    y = of_groups(b, conv(b, b.input(f32(1, 12, 3, 3)), 12, 2), 2)
    return [conv(b, y, 6, 3), b.op("Neg", y)]


def _read_between(b: Builder) -> list[Operand]:
    y = conv(b, of_groups(b, b.input(f32(1, 12, 3, 3)), 2), 12, 12)
    return [conv(b, y, 6, 3), b.op("Neg", y)]


def _a_result(b: Builder) -> list[Operand]:
    y = of_groups(b, conv(b, b.input(f32(1, 12, 3, 3)), 12, 2), 2)
    return [y, conv(b, y, 6, 3)]


def _dynamic_weights(b: Builder) -> list[Operand]:
    y = of_groups(b, b.input(f32(1, 12, 3, 3)), 2)
    return [b.op("Conv", y, b.input(f32(6, 4, 1, 1)), group=3)]


def _dynamic_depthwise(b: Builder) -> list[Operand]:
    y = of_groups(b, b.input(f32(1, 12, 3, 3)), 2)
    return [conv(b, b.op("Conv", y, b.input(f32(12, 1, 1, 1)), group=12), 6, 3)]


def _multiplied(b: Builder) -> list[Operand]:
    y = of_groups(b, b.input(f32(1, 12, 3, 3)), 2)
    return [conv(b, conv(b, y, 24, 12), 6, 3)]


def _other_reader(b: Builder) -> list[Operand]:
    y = conv(b, of_groups(b, b.input(f32(1, 12, 3, 3)), 2), 12, 12)
    return [b.op("Neg", y)]


def _as_weights(b: Builder) -> list[Operand]:
    return [b.op("Conv", b.input(f32(1, 12, 5, 5)), of_groups(b, b.input(f32(6, 12, 3, 3)), 2))]


def _of_doubles(b: Builder) -> list[Operand]:
    y = of_groups(b, b.input(f32(1, 12, 3, 3).astype(np.float64)), 2)
    return [b.op("Conv", y, f32(6, 4, 1, 1).astype(np.float64), group=3)]


@pytest.mark.parametrize(
    "make",
    [
        _read_twice,
        _read_between,
        _a_result,
        _dynamic_weights,
        _dynamic_depthwise,
        _multiplied,
        _other_reader,
        _as_weights,
        _of_doubles,
    ],
)
def test_kept(make: Any) -> None:
    b = Builder()
    block = check_pass(fuse, b, *make(b))
    assert op_types(block).count("ShuffleChannels") == 1
    assert "FusedConv" not in op_types(block)


# --- in a session ----------------------------------------------------------------------------------


def _unit(groups: int = 4, channels: int = 40, size: int = 9) -> onnx.ModelProto:
    """Return two units of ShuffleNet: grouped 1x1, shuffle, depthwise 3x3, grouped 1x1, sum, Relu."""
    nodes: list[Any] = []
    held: list[Any] = []

    def constant(name: str, array: Any) -> str:
        held.append(numpy_helper.from_array(array, name))
        return name

    def add(op_type: str, *inputs: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(op_type, inputs, [f"v{len(nodes)}"], **attributes))
        return f"v{len(nodes) - 1}"

    def convolution(x: str, group: int, kernel: int) -> str:
        w = f32(channels, channels // group, kernel, kernel) / np.float32(kernel * (channels / group) ** 0.5)
        at = len(nodes)
        names = constant(f"w{at}", w), constant(f"b{at}", f32(channels))
        return add("Conv", x, *names, group=group, pads=[kernel // 2] * 4)

    middle = constant("middle", np.array([0, groups, channels // groups, size, size]))
    back = constant("back", np.array([0, channels, size, size]))
    x = "x"
    for _ in range(2):
        y = add("Relu", convolution(x, groups, 1))
        y = add("Transpose", add("Reshape", y, middle), perm=[0, 2, 1, 3, 4])
        y = convolution(add("Reshape", y, back), channels, 3)
        x = add("Relu", add("Add", convolution(y, groups, 1), x))
    shape = [2, channels, size, size]
    x_info, y_info = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("x", x))
    graph = helper.make_graph(nodes, "units", [x_info], [y_info], held)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize(
    ("without", "left"),
    [
        ((), {"ShuffleChannels": 0, "Transpose": 0}),
        (("fuse_shuffles",), {"ShuffleChannels": 2, "Transpose": 0}),
        (("fuse_shuffles", "layout"), {"ShuffleChannels": 2, "Transpose": 0}),
        (("recognize_shuffles",), {"ShuffleChannels": 0, "Transpose": 2}),
        (("layout",), {"ShuffleChannels": 0, "Transpose": 0}),
    ],
    ids=str,
)
def test_units_of_shufflenet(without: tuple[str, ...], left: dict[str, int]) -> None:
    model = _unit()
    x = f32(2, 40, 9, 9)
    (expected,) = onnxref.run(model, {"x": x}, backend="numpy").values()
    session = onnxref.InferenceSession(model, backend="numba", without=without)
    np.testing.assert_allclose(session.run(None, {"x": x})[0], expected, rtol=1e-4, atol=1e-5)
    kinds = [each.operator.rpartition(":")[2] for each in session.explain()]
    assert {kind: kinds.count(kind) for kind in left} == left
    assert all(each.kind != "reference" for each in session.explain())
