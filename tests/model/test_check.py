"""Structural rules: names, cycles, functions, domains."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import helper

import onnxref
from onnxref import InvalidGraphError, Limits, ResourceLimitError
from onnxref.model import load_model

HEAD = '<ir_version: 10, opset_import: ["": 21, "my": 1]>\n'
X = np.float32([1, 2])


def _load(text: str) -> None:
    load_model(onnx.parser.parse_model(HEAD + text))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "g (float[N] x) => (float[N] y) { y = Add(x, z) }",
            "node #0 .Add, opset 21. uses 'z', which nothing",
        ),
        ("g (float[N] x) => (float[N] y) { z = Add(x, x) }", "output 'y' is never defined"),
        (
            "g (float[N] x) => (float[N] y) { y = Neg(x) y = Abs(x) }",
            "#1 .Abs.* defines 'y', which is defined",
        ),
        ("g (float[N] x) => (float[N] x) { x = Neg(x) }", "cycle|defined already"),
        ("g (float[N] x, float[N] x) => (float[N] y) { y = Neg(x) }", "input 'x' is listed twice"),
        (
            "g (float[N] x) => (float[N] y) { a = Add(x, b) b = Neg(a) y = Neg(b) }",
            "cycle among 3 nodes: .*Add",
        ),
        ("g (float[N] x) => (float[N] y) { y = other.Op(x) }", "domain 'other', of which the model imports"),
    ],
)
def test_broken_graph(text: str, message: str) -> None:
    with pytest.raises(InvalidGraphError, match=message):
        _load(text)


def test_unsorted_nodes_are_sorted() -> None:
    proto = onnx.parser.parse_model(
        HEAD + "g (float[N] x) => (float[N] y) { y = Neg(a) a = Abs(b) b = Neg(x) }"
    )
    np.testing.assert_array_equal(onnxref.run(proto, X)["y"], -X)


def test_nodes_are_sorted_by_what_their_subgraphs_need() -> None:
    proto = onnx.parser.parse_model(
        HEAD + "g (float[N] x, bool c) => (float[N] y) { "
        "y = If(c) <then_branch = t () => (float[N] p) { p = Neg(a) }, "
        "else_branch = e () => (float[N] q) { q = Abs(a) }> a = Neg(x) }"
    )
    np.testing.assert_array_equal(onnxref.run(proto, {"x": X, "c": np.array(True)})["y"], X)


def test_functions_that_call_themselves() -> None:
    functions = (
        '<domain: "my", opset_import: ["": 21, "my": 1]> f (a) => (b) { b = my.g(a) }\n'
        '<domain: "my", opset_import: ["": 21, "my": 1]> g (a) => (b) { b = my.f(a) }'
    )
    with pytest.raises(InvalidGraphError, match="in a circle: my:f -> my:g -> my:f|my:g -> my:f -> my:g"):
        _load("m (float[N] x) => (float[N] y) { y = my.f(x) }\n" + functions)


def test_function_body_sees_nothing_around_it() -> None:
    with pytest.raises(InvalidGraphError, match="function my:f: node #0 .* uses 'x'"):
        _load(
            "m (float[N] x) => (float[N] y) { y = my.f(x) }\n"
            '<domain: "my", opset_import: ["": 21]> f (a) => (b) { b = Add(a, x) }'
        )


def test_function_defined_twice() -> None:
    function = '<domain: "my", opset_import: ["": 21]> f (a) => (b) { b = Neg(a) }\n'
    with pytest.raises(InvalidGraphError, match="defined twice"):
        _load("m (float[N] x) => (float[N] y) { y = my.f(x) }\n" + function + function)


def test_overloads_are_different_functions() -> None:
    def function(overload: str, op: str) -> onnx.FunctionProto:
        made = helper.make_function(
            "my", "f", ["a"], ["b"], [helper.make_node(op, ["a"], ["b"])], [helper.make_opsetid("", 21)]
        )
        made.overload = overload
        return made

    nodes = [
        helper.make_node("f", ["x"], ["y"], domain="my", overload="neg"),
        helper.make_node("f", ["x"], ["z"], domain="my", overload="exp"),
    ]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", 1, [2])], [onnx.ValueInfoProto(name=n) for n in "yz"]
    )
    imports = [helper.make_opsetid("", 21), helper.make_opsetid("my", 1)]
    model = helper.make_model(
        graph, opset_imports=imports, functions=[function("neg", "Neg"), function("exp", "Exp")]
    )
    result = onnxref.run(model, X)
    np.testing.assert_array_equal(result["y"], -X)
    np.testing.assert_allclose(result["z"], np.exp(X), rtol=1e-6)


def test_nesting_depth() -> None:
    inner = helper.make_graph(
        [helper.make_node("Neg", ["x"], ["y"])], "b", [], [onnx.ValueInfoProto(name="y")]
    )
    for level in range(5):
        outer = helper.make_node("If", ["c"], [f"y{level}"], then_branch=inner, else_branch=inner)
        inner = helper.make_graph([outer], "b", [], [onnx.ValueInfoProto(name=f"y{level}")])
    with pytest.raises(ResourceLimitError, match="limit 'depth' is 3"):
        load_model(inner, Limits(depth=3))
