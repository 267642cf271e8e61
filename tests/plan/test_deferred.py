"""Quantized weights: they stay integers while native code may want them so, and never cost a result."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from onnxref import InferenceSession, Limits
from onnxref.lowering import Op, Operand
from onnxref.plan import _fold
from onnxref.plan.passes import Block, fold_weights

RNG = np.random.default_rng(7)
X = RNG.standard_normal((1, 8, 9, 9)).astype(np.float32)


def _model(
    *, groups: int = 1, quantized_input: bool = True, weight_read_twice: bool = False
) -> onnx.ModelProto:
    """Two convolutions by int8 weights; the DequantizeLinear of both weights come first."""
    weights = [RNG.integers(-127, 128, (8, 8 // groups, 3, 3)).astype(np.int8) for _ in range(2)]
    held = {
        "w0": weights[0],
        "w1": weights[1],
        "ws": np.linspace(0.01, 0.02, 8, dtype=np.float32),
        "wz": np.zeros(8, np.int8),
        "s": np.float32(0.05),
        "z": np.uint8(128),
    }

    def node(op: str, inputs: str, output: str, **attributes: Any) -> onnx.NodeProto:
        return helper.make_node(op, inputs.split(), [output], **attributes)

    nodes = [node("DequantizeLinear", f"w{i} ws wz", f"f{i}", axis=0) for i in range(2)]
    before = "x"
    for i in range(2):
        if quantized_input:
            nodes += [
                node("QuantizeLinear", f"{before} s z", f"q{i}"),
                node("DequantizeLinear", f"q{i} s z", f"d{i}"),
            ]
            before = f"d{i}"
        nodes.append(node("Conv", f"{before} f{i}", f"c{i}", group=groups, pads=[1, 1, 1, 1]))
        before = f"c{i}"
    nodes += [node("QuantizeLinear", f"{before} s z", "q"), node("DequantizeLinear", "q s z", "y")]
    values = [helper.make_tensor_value_info(name, 1, ["n", *X.shape[1:]]) for name in "xy"]
    outputs = values[1:]
    if weight_read_twice:
        nodes.append(node("ReduceSum", "f0", "sum", keepdims=0))
        outputs.append(helper.make_tensor_value_info("sum", 1, []))
    initializers = [numpy_helper.from_array(np.asarray(array), name) for name, array in held.items()]
    graph = helper.make_graph(nodes, "g", values[:1], outputs, initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def _executed(session: InferenceSession) -> list[str]:
    seen: list[str] = []
    session.run_named(None, X, observers=[lambda execution: seen.append(execution.node.outputs[0])])
    return seen


def _folded_bytes(session: InferenceSession) -> int:
    """Return the bytes of float tensors that a session's plan holds, scales aside."""
    held = [a for a in session._plan(None).template if isinstance(a, np.ndarray) and a.ndim > 1]
    return sum(a.nbytes for a in held if a.dtype == np.float32)


def test_weights_of_quantized_products_stay_integers() -> None:
    session = InferenceSession(_model(), backend="numba")
    assert _folded_bytes(session) == 0
    session.run(None, X)
    (region,) = session.native_regions()
    known = [operand.constant for operand in region.record.operands.values()]
    assert not any(a is not None and a.ndim > 1 and a.dtype == np.float32 for a in known)
    shown = [row.operator for row in session.explain()]
    assert any("QuantizedConv" in operator for operator in shown)
    assert not any(row.operator == "DequantizeLinear" and "f0" in str(row) for row in session.explain())


def test_a_weight_becomes_float_right_before_it_is_read() -> None:
    seen = _executed(InferenceSession(_model(), backend="numba"))
    assert seen.index("c0") < seen.index("f1") < seen.index("c1")
    assert seen.index("f0") == seen.index("c0") - 1


@pytest.mark.parametrize(
    "options", [{}, {"groups": 8}, {"quantized_input": False}, {"weight_read_twice": True}]
)
@pytest.mark.parametrize("precision", ["default", "strict"])
def test_results_are_those_of_the_reference(options: dict[str, Any], precision: Any) -> None:
    model = _model(**options)
    expected = InferenceSession(model, backend="numpy").run(None, X)
    session = InferenceSession(model, backend="numba", precision=precision)
    for batch in (1, 2):  # the second needs a region of its own, which finds the weights as they were
        for _ in range(2):
            actual = session.run(None, X if batch == 1 else np.concatenate([X, X]))
            for ours, theirs in zip(actual, expected, strict=True):
                wanted = np.concatenate([theirs, theirs]) if batch == 2 and theirs.ndim else theirs
                np.testing.assert_allclose(ours, wanted, atol=0.0501)  # one quantum


def test_what_no_pattern_takes_is_folded_after_all() -> None:
    session = InferenceSession(_model(groups=8), backend="numba")
    session.run(None, X)
    (region,) = session.native_regions()
    assert sum(step.deferred for step in region.record.steps) == 2
    assert region.program is not None
    (weight,) = {
        x.shape
        for f in region.program.lowered
        for x in f.op.inputs
        if x and x.constant is not None and x.ndim == 4
    }
    assert weight == (8, 1, 3, 3)
    made = [f.op.outputs[0].name for f in region.program.lowered if f.op.op_type == "DequantizeLinear"]
    assert not {"f0", "f1"} & set(made)


@pytest.mark.parametrize(
    ("options", "backend"),
    [({}, "numpy"), ({"quantized_input": False}, "numba"), ({"weight_read_twice": True}, "numba")],
)
def test_other_weights_are_folded_while_planning(options: dict[str, Any], backend: str) -> None:
    session = InferenceSession(_model(**options), backend=backend)
    assert _folded_bytes(session) >= 8 * 8 * 9 * 4
    assert "f0" not in _executed(session)


def test_deferred_weights_count_as_folded(monkeypatch: pytest.MonkeyPatch) -> None:
    """What would not have been folded for its size is not folded by a pass either."""
    one = 8 * 8 * 9 * 4
    monkeypatch.setattr(_fold, "FOLDED_BYTES", one + 100)
    session = InferenceSession(_model(), backend="numba")
    steps = {step.node.outputs[0]: step for step in session._plan(None).steps}
    assert steps["f0"].deferred
    assert not steps["f1"].deferred
    strict = InferenceSession(_model(), backend="numba", limits=Limits(tensor_bytes=one - 1))
    assert not any(step.deferred for step in strict._plan(None).steps)


def test_the_pass_leaves_what_the_block_gives_away() -> None:
    x = Operand((2, 3), np.dtype(np.int8), "x", np.int8([[1, 2, 3], [4, 5, 6]]))
    scale = Operand((), np.dtype(np.float32), "s", np.array(0.5, np.float32))
    y, z = (Operand((2, 3), np.dtype(np.float32), name) for name in "yz")
    a, b = (Op("DequantizeLinear", [x, scale], [made], {}, "", 21) for made in (y, z))
    other = Op("Neg", [y], [Operand((2, 3), np.dtype(np.float32), "n")], {}, "", 21)
    block = Block([a, b, other], [], [z, *other.outputs], deferred={a, b})
    assert fold_weights(block) == 1
    assert block.ops == [b, other]
    (folded,) = other.inputs
    np.testing.assert_array_equal(folded.constant, np.float32([[0.5, 1, 1.5], [2, 2.5, 3]]), strict=True)
    assert fold_weights(block) == 0
    assert fold_weights(Block([b], [], [])) == 0  # only what the plan has left to it
