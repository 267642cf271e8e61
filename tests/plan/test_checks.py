"""Nodes that break their operator's schema are refused when the session is made, before anything runs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import helper

import onnxref
from onnxref import (
    InferenceSession,
    InvalidAttributeError,
    InvalidGraphError,
    ModelError,
    TypeMismatchError,
    UnsupportedOperatorError,
)

X = np.float32([1, 2])


def _model(body: str, *, inputs: str = "float[N] x", outputs: str = "y", opset: int = 21) -> onnx.ModelProto:
    """Return a model with the nodes of `body`; its outputs have no declared type."""
    head = f'<ir_version: 10, opset_import: ["": {opset}, "my": 1, "odd": 1]>\n'
    names = ", ".join(f"float {name}" for name in outputs.split())
    model = onnx.parser.parse_model(f"{head}g ({inputs}) => ({names}) {{ {body} }}")
    for value in model.graph.output:
        value.ClearField("type")
    return model


@pytest.fixture
def probe() -> Iterator[list[Any]]:
    """An operator `my.Probe` that keeps what it was called with."""
    calls: list[Any] = []

    @onnxref.register_op("Probe", domain="my")
    def probe(x: Any, extra: Any = None, *, scale: float = 1.0) -> Any:
        calls.append(x)
        return x

    yield calls
    onnxref.unregister_op("Probe", domain="my")


NODE = "node #0 "

REFUSED: list[tuple[str, dict[str, Any], type[ModelError], str]] = [
    (
        "y = Frob(x)",
        {},
        UnsupportedOperatorError,
        NODE + "(Frob, opset 21): ai.onnx has no operator 'Frob'; register it with onnxref.register_op",
    ),
    (
        "y = odd.Frob(x)",
        {},
        UnsupportedOperatorError,
        NODE + "(odd:Frob, opset 1): no operator of domain 'odd' is known (wanted Frob); "
        "register it with onnxref.register_op",
    ),
    (
        "y = Gelu(x)",
        {"opset": 19},
        UnsupportedOperatorError,
        NODE + "(Gelu, opset 19): Gelu of ai.onnx came with version 20 (the model imports 19)",
    ),
    (
        "y = Neg(x)",
        {"opset": 1000},
        UnsupportedOperatorError,
        f"opset 1000 of ai.onnx is not supported: onnx {onnx.__version__} "
        f"defines versions up to {onnx.defs.onnx_opset_version()}",
    ),
    (
        "y = Softmax<axes = 1>(x)",
        {},
        InvalidAttributeError,
        NODE + "(Softmax, opset 21): Softmax-13 has no attribute 'axes' (it has: axis)",
    ),
    (
        "y = Neg<alpha = 1>(x)",
        {},
        InvalidAttributeError,
        NODE + "(Neg, opset 21): Neg-13 has no attribute 'alpha' (it has: none)",
    ),
    (
        "y = Concat(x, x)",
        {},
        InvalidAttributeError,
        NODE + "(Concat, opset 21): Concat-13 requires the attribute 'axis'",
    ),
    (
        "y = Softmax<axis = 1.0>(x)",
        {},
        InvalidAttributeError,
        NODE + "(Softmax, opset 21): attribute 'axis' must be INT by Softmax-13 (got FLOAT)",
    ),
    (
        "y = Softmax<axis = [1]>(x)",
        {},
        InvalidAttributeError,
        NODE + "(Softmax, opset 21): attribute 'axis' must be INT by Softmax-13 (got INTS)",
    ),
    (
        "y = Softmax<axis: int = @axis>(x)",  # outside a function there is nothing to refer to
        {},
        InvalidAttributeError,
        NODE + "(Softmax, opset 21): attribute 'axis' must be INT by Softmax-13 (got AttributeReference)",
    ),
    (
        "y = Add(x)",
        {},
        InvalidGraphError,
        NODE + "(Add, opset 21): Add-14 takes 2 inputs (got 1)",
    ),
    (
        "y = Clip(x, x, x, x)",
        {},
        InvalidGraphError,
        NODE + "(Clip, opset 21): Clip-13 takes 1 to 3 inputs (got 4)",
    ),
    (
        "y, z = Neg(x)",
        {},
        InvalidGraphError,
        NODE + "(Neg, opset 21): Neg-13 takes 1 outputs (got 2)",
    ),
    (
        'y = Add(x, "")',
        {},
        InvalidGraphError,
        NODE + "(Add, opset 21): input 'B' is required by Add-14",
    ),
    (
        "y = Not(x)",
        {},
        TypeMismatchError,
        NODE + "(Not, opset 21): input 'X' must be tensor(bool) by Not-1 (got tensor(float))",
    ),
    (
        "y = Add(x, k)",
        {"inputs": "float[N] x, int64[N] k"},
        TypeMismatchError,
        NODE + "(Add, opset 21): inputs of type T must agree by Add-14 "
        "(input 'B' is tensor(int64), another is tensor(float))",
    ),
    (
        "a = Shape(x) b = Relu(x) y = Add(a, b)",  # types follow from node to node
        {},
        TypeMismatchError,
        "node #2 (Add, opset 21): inputs of type T must agree by Add-14 "
        "(input 'B' is tensor(float), another is tensor(int64))",
    ),
    (
        "w = Constant<value = int64[1] {1}>() y = Add(x, w)",
        {},
        TypeMismatchError,
        "node #1 (Add, opset 21): inputs of type T must agree by Add-14 "
        "(input 'B' is tensor(int64), another is tensor(float))",
    ),
    (
        "y = If(c) <then_branch = t () => (float p) { p = Not(x) }, "
        "else_branch = e () => (float q) { q = Neg(x) }>",
        {"inputs": "float[N] x, bool c"},
        TypeMismatchError,
        NODE + "(Not, opset 21): input 'X' must be tensor(bool) by Not-1 (got tensor(float))",
    ),
    (
        "y = my.Probe<size = 3>(x)",
        {},
        InvalidAttributeError,
        NODE + "(my:Probe, opset 1): its kernel takes no attribute 'size' (it takes: scale)",
    ),
    (
        "y = my.Probe(x, x, x)",
        {},
        InvalidGraphError,
        NODE + "(my:Probe, opset 1): its kernel takes 1 to 2 inputs (got 3)",
    ),
]


@pytest.mark.usefixtures("probe")
@pytest.mark.parametrize(("body", "options", "error", "message"), REFUSED, ids=[row[0] for row in REFUSED])
def test_refused_when_the_session_is_made(
    body: str, options: dict[str, Any], error: type[ModelError], message: str
) -> None:
    with pytest.raises(error) as caught:
        InferenceSession(_model(body, **options))
    assert type(caught.value) is error
    assert str(caught.value) == message


@pytest.mark.parametrize(("body", "options", "error", "message"), REFUSED, ids=[row[0] for row in REFUSED])
@pytest.mark.usefixtures("probe")
def test_refused_where_nothing_needs_the_node(
    body: str, options: dict[str, Any], error: type[ModelError], message: str
) -> None:
    model = _model(body, outputs="x", **options)
    with pytest.raises(error) as caught:
        InferenceSession(model)
    assert str(caught.value) == message


def test_nodes_that_nothing_needs_are_not_run(probe: list[Any]) -> None:
    session = InferenceSession(_model("y = Neg(x) z = my.Probe(x)"))
    np.testing.assert_array_equal(session.run(None, X)[0], -X)
    assert not probe
    session.run(["z"], X)
    assert len(probe) == 1


def test_named_nodes_are_named() -> None:
    model = _model("y = Add(x)")
    model.graph.node[0].name = "sum"
    with pytest.raises(InvalidGraphError, match="^node 'sum' .Add, opset 21.: Add-14 takes 2 inputs"):
        InferenceSession(model)


def test_refused_before_anything_runs(probe: list[Any]) -> None:
    with pytest.raises(TypeMismatchError):
        onnxref.run(_model("a = my.Probe(x) b = Neg(x) y = Not(b)"), X)
    assert not probe


def test_types_that_only_the_run_knows_are_checked_then(probe: list[Any]) -> None:
    session = InferenceSession(_model("a = my.Probe(x) y = Not(a)"))
    message = "node #1 .Not, opset 21.: input 'X' must be tensor.bool. by Not-1 .got tensor.float.."
    with pytest.raises(TypeMismatchError, match=message):
        session.run(None, X)
    assert len(probe) == 1


def test_declared_output_type_is_wrong() -> None:
    model = _model("y = Neg(x)")
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", onnx.TensorProto.INT64, ["N"]))
    message = "graph 'g': output 'y' is declared tensor.int64. but its node makes tensor.float."
    with pytest.raises(TypeMismatchError, match=message):
        InferenceSession(model)


@pytest.mark.parametrize("opset", [6, 7, 12, 13, 21])
def test_rules_are_those_of_the_imported_version(opset: int) -> None:
    """Dropout has an attribute `ratio` up to version 11 and an input since 12; Add has `axis` up to 6."""
    for body, last in (("y = Dropout<ratio = 0.5>(x)", 11), ("y = Add<axis = 0>(x, x)", 6)):
        if opset <= last:
            InferenceSession(_model(body, opset=opset))
        else:
            with pytest.raises(InvalidAttributeError, match="has no attribute"):
                InferenceSession(_model(body, opset=opset))


def test_empty_list_attributes_have_no_kind_of_their_own() -> None:
    node = helper.make_node("Squeeze", ["x"], ["y"])
    node.attribute.add(name="axes", type=onnx.AttributeProto.INTS)
    graph = helper.make_graph(
        [node], "g", [helper.make_tensor_value_info("x", 1, [1, 2])], [onnx.ValueInfoProto(name="y")]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=6)
    assert InferenceSession(model).run(None, X[None])[0].size == 2
