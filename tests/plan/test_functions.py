"""Model-local functions: attributes, optional inputs, opsets of their own, and many calls."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import AttributeProto, helper, numpy_helper

import onnxref
from onnxref import (
    InferenceSession,
    InvalidAttributeError,
    InvalidGraphError,
    Limits,
    NodeError,
    ResourceLimitError,
)

X = np.float32([-2, 3])
HEAD = '<ir_version: 10, opset_import: ["": 21, "my": 1]>\n'


def _function(text: str, *, opset: int = 21) -> str:
    return f'\n<domain: "my", opset_import: ["": {opset}, "my": 1]> {text}'


def _model(body: str, *functions: str, inputs: str = "float[N] x", outputs: str = "y") -> onnx.ModelProto:
    names = ", ".join(f"float {name}" for name in outputs.split())
    model = onnx.parser.parse_model(f"{HEAD}g ({inputs}) => ({names}) {{ {body} }}" + "".join(functions))
    for value in model.graph.output:
        value.ClearField("type")
    return model


def _run(*args: Any, feeds: Any = X, **kwargs: Any) -> list[Any]:
    return list(onnxref.run(_model(*args, **kwargs), feeds).values())


SCALE = _function(
    "scale <alpha: float = 2.0> (a) => (b) { k = Constant<value_float: float = @alpha>() b = Mul(a, k) }"
)
LEAKY = _function("leaky <alpha> (a) => (b) { b = LeakyRelu<alpha: float = @alpha>(a) }")
OUTER = _function("outer <beta> (a) => (b) { c = my.leaky<alpha: float = @beta>(a) b = my.scale(c) }")
# The attribute is read in a branch of the function's body.
INSIDE = _function(
    "inside <alpha: float = 0.5> (a, c) => (b) { b = If(c) <"
    "then_branch = t () => (float p) { p = LeakyRelu<alpha: float = @alpha>(a) }, "
    "else_branch = e () => (float q) { q = my.scale<alpha: float = @alpha>(a) }> }"
)
OPTIONAL = _function("clamp (a, low, high) => (b) { b = Clip(a, low, high) }")

CASES: list[tuple[str, str, list[str], list[float]]] = [
    ("default", "y = my.scale(x)", [SCALE], [-4, 6]),
    ("given", "y = my.scale<alpha = -1.0>(x)", [SCALE], [2, -3]),
    ("no default, given", "y = my.leaky<alpha = 0.5>(x)", [LEAKY], [-1, 3]),
    # An absent reference leaves the inner attribute absent: LeakyRelu's own default is 0.01.
    ("no default, absent", "y = my.leaky(x)", [LEAKY], [-0.02, 3]),
    ("nested", "y = my.outer<beta = 0.5>(x)", [LEAKY, SCALE, OUTER], [-2, 6]),
    ("nested, absent", "y = my.outer(x)", [LEAKY, SCALE, OUTER], [-0.04, 6]),
    (
        "in a then branch",
        "c = Constant<value = bool {1}>() y = my.inside(x, c)",
        [SCALE, INSIDE],
        [-1, 3],
    ),
    (
        "in an else branch",
        "c = Constant<value = bool {0}>() y = my.inside<alpha = 3.0>(x, c)",
        [SCALE, INSIDE],
        [-6, 9],
    ),
    ("optional input left out at the end", "y = my.clamp(x, x)", [OPTIONAL], [-2, 3]),
    (
        "optional input left out in the middle",
        'k = Constant<value_float = 1.0>() y = my.clamp(x, "", k)',
        [OPTIONAL],
        [-2, 1],
    ),
    (
        "called in a branch",
        "y = If(t) <then_branch = a () => (float p) { p = my.scale(x) }, "
        "else_branch = b () => (float q) { q = Identity(x) }>",
        [SCALE],
        [-4, 6],
    ),
]


@pytest.mark.parametrize(("body", "functions", "expected"), [r[1:] for r in CASES], ids=[r[0] for r in CASES])
def test_calls(body: str, functions: list[str], expected: list[float]) -> None:
    model = _model("t = Constant<value = bool {1}>() " + body, *functions)
    if "my.clamp(x, x)" in body:
        model.graph.node[-1].input[1] = ""
    (y,) = onnxref.run(model, X).values()
    np.testing.assert_allclose(y, np.float32(expected), rtol=1e-6)


def test_attributes_that_compare_equal_are_told_apart() -> None:
    """0.0 == -0.0, yet the two calls must not share a plan."""
    same = _function("same <v> (a) => (b) { b = Constant<value_float: float = @v>() }")
    y, z = _run("y = my.same<v = 0.0>(x) z = my.same<v = -0.0>(x)", same, outputs="y z")
    assert (np.signbit(y), np.signbit(z)) == (False, True)


def test_tensor_attributes() -> None:
    add = _function("add <w> (a) => (b) { w = Constant<value: tensor = @w>() b = Add(a, w) }")
    model = _model("p = my.add(x) y = my.add(p)", add)
    for node, value in zip(model.graph.node, ([10, 20], [100, 200]), strict=True):
        node.attribute.append(helper.make_attribute("w", numpy_helper.from_array(np.float32(value))))
    np.testing.assert_array_equal(onnxref.run(model, X)["y"], X + np.float32([110, 220]))


def test_graph_attributes() -> None:
    choose = _function(
        "choose <branch> (a, c) => (b) { b = If(c) <then_branch: graph = @branch, "
        "else_branch = e () => (float q) { q = Neg(a) }> }"
    )
    model = _model("y = my.choose(x, c)", choose, inputs="float[N] x, bool c")
    seven = helper.make_node("Constant", [], ["p"], value_float=7.0)
    branch = helper.make_graph([seven], "t", [], [onnx.ValueInfoProto(name="p")])
    model.graph.node[0].attribute.append(helper.make_attribute("branch", branch))
    for c, expected in ((True, np.float32(7)), (False, -X)):
        np.testing.assert_array_equal(onnxref.run(model, {"x": X, "c": np.array(c)})["y"], expected)


def test_functions_import_opsets_of_their_own() -> None:
    """Softmax-1 flattens to two dimensions, Softmax-13 works along one axis."""
    old = _function("old (a) => (b) { b = Softmax<axis = 1>(a) }", opset=12)
    x = np.zeros((1, 2, 3), np.float32)
    body = "y = my.old(x) z = Softmax<axis = 1>(x)"
    y, z = _run(body, old, feeds=x, inputs="float[1,2,3] x", outputs="y z")
    np.testing.assert_allclose(y, np.full_like(x, 1 / 6), rtol=1e-6)
    np.testing.assert_allclose(z, np.full_like(x, 1 / 2), rtol=1e-6)


def test_functions_win_over_operators_of_the_same_name() -> None:
    shadow = '\n<domain: "", opset_import: ["": 21]> Relu (a) => (b) { b = Neg(a) }'
    np.testing.assert_array_equal(_run("y = Relu(x)", shadow)[0], -X)
    constant = '\n<domain: "", opset_import: ["": 21]> Constant (a) => (b) { b = Neg(a) }'
    np.testing.assert_array_equal(_run("y = Constant(x)", constant)[0], -X)


def test_outputs_that_are_inputs_and_outputs_that_nobody_takes() -> None:
    both = _function("both (a, b) => (c, d, a) { c = Add(a, b) d = Sub(a, b) }")
    y, z = _run('y, "", z = my.both(x, x)', both, outputs="y z")
    np.testing.assert_array_equal(y, X + X)
    np.testing.assert_array_equal(z, X)
    np.testing.assert_array_equal(_run("y = my.both(x, x)", both)[0], X + X)


@pytest.mark.parametrize(
    ("body", "error", "message"),
    [
        (
            "y = my.scale(x, x)",
            InvalidGraphError,
            r"node #0 .my:scale, opset 1.: the function takes 1 inputs and gives 1 outputs .got 2 and 1.",
        ),
        ("y, z = my.scale(x)", InvalidGraphError, r".got 1 and 2."),
        ("y = my.scale<beta = 1.0>(x)", InvalidAttributeError, "the function has no attribute 'beta'"),
        (
            "y = my.scale<alpha = 1>(x)",
            InvalidAttributeError,
            r"node #0 .Constant, opset 21.: attribute 'value_float' must be FLOAT by Constant-21 .got INT.",
        ),
    ],
)
def test_wrong_calls(body: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        InferenceSession(_model(body, SCALE))
    with pytest.raises(error, match=message):  # also where nothing needs the call
        InferenceSession(_model(body, SCALE, outputs="x"))


def test_an_input_left_out_that_the_body_needs() -> None:
    add = _function("add (a, b) => (c) { c = Add(a, b) }")
    with pytest.raises(NodeError) as caught:
        _run("y = my.add(x)", add)
    assert str(caught.value) == (
        "node #0 (Add, opset 21): input 'B' is required by Add-14 (got none) "
        "[inputs: a: tensor(float)[2], b: none]"
    )


def _doubling(levels: int, attribute: AttributeProto | None = None) -> onnx.ModelProto:
    """Return a model whose functions f1, f2 ... each call the one before twice: 2**levels calls."""
    parts = [_function("f0 <w> (a) => (b) { b = Neg(a) }")]
    for level in range(1, levels + 1):
        calls = f"c = my.f{level - 1}(a) b = my.f{level - 1}(c)"
        parts.append(_function(f"f{level} <w> (a) => (b) {{ {calls} }}"))
    model = _model(f"y = my.f{levels}(x)", *parts)
    if attribute is not None:
        model.graph.node[0].attribute.append(attribute)
        for function in model.functions:
            for node in function.node:
                if node.domain == "my":
                    node.attribute.add(name="w", ref_attr_name="w", type=attribute.type)
    return model


ATTRIBUTES = [
    None,
    helper.make_attribute("w", 3),
    helper.make_attribute("w", ["a", "b"]),
    helper.make_attribute("w", numpy_helper.from_array(np.zeros(3))),
]


@pytest.mark.parametrize("attribute", ATTRIBUTES, ids=["none", "int", "strings", "tensor"])
def test_calls_with_the_same_attributes_share_one_plan(attribute: AttributeProto | None) -> None:
    # 2**60 calls would never be built one by one; a node is counted once for each of the 61 functions.
    session = InferenceSession(_doubling(60, attribute), limits=Limits(nodes=200, executed_nodes=1000))
    with pytest.raises(ResourceLimitError, match="limit 'executed_nodes' is 1,000: .* .node #0 .Neg"):
        session.run(None, X)
    small = InferenceSession(_doubling(3, attribute))
    np.testing.assert_array_equal(small.run(None, X)[0], X)


def test_calls_with_ever_new_attributes_run_into_the_limit_of_nodes() -> None:
    parts = [_function("f0 (a) => (b) { b = Neg(a) }")]
    for level in range(1, 31):
        names = ", ".join(f"p{i}" for i in range(level, 31))
        passed = [f"p{i}: int = @p{i}" for i in range(level, 31)]

        def call(value: int, level: int = level, passed: list[str] = passed) -> str:
            attributes = [f"p{level - 1} = {value}", *passed] if level > 1 else []
            return f"my.f{level - 1}" + (f"<{', '.join(attributes)}>" if attributes else "")

        body = f"c = {call(0)}(a) b = {call(1)}(c)"
        parts.append(_function(f"f{level} <{names}> (a) => (b) {{ {body} }}"))
    model = _model("y = my.f30<p30 = 0>(x)", *parts)
    with pytest.raises(ResourceLimitError, match="limit 'nodes' is 2,000"):
        InferenceSession(model, limits=Limits(nodes=2000))


def test_functions_and_branches_nest_together() -> None:
    """Each of 60 functions calls the next one three branches down: too deep for Python, were it tried."""

    def in_branches(call: str, levels: int = 3) -> str:
        for i in range(levels):
            other = f"else_branch = e () => (float q{i}) {{ q{i} = Identity(a) }}"
            call = f"If(c) <then_branch = t () => (float p{i}) {{ p{i} = {call} }}, {other}>"
        return call

    functions = [_function("f0 (a, c) => (b) { b = Neg(a) }")]
    functions += [
        _function(f"f{i} (a, c) => (b) {{ b = {in_branches(f'my.f{i - 1}(a, c)')} }}") for i in range(1, 60)
    ]
    model = _model("y = my.f59(x, c)", *functions, inputs="float[N] x, bool c")
    with pytest.raises(ResourceLimitError, match="limit 'depth' is 64: nested graphs would need 65"):
        InferenceSession(model)
    # The other way round the plans are shared, and only the run goes deep.
    calls = " ".join(f"y{i} = my.f{i}(x, c)" for i in range(60))
    model = _model(calls, *functions, inputs="float[N] x, bool c", outputs="y15 y59")
    session = InferenceSession(model)
    feeds = {"x": X, "c": np.array(True)}
    np.testing.assert_array_equal(session.run("y15", feeds)[0], -X)
    with pytest.raises(ResourceLimitError, match="limit 'depth' is 64: nested graphs would need 65"):
        session.run("y59", feeds)


@pytest.mark.parametrize("limits", [onnxref.DEFAULT, onnxref.TRUSTED, onnxref.UNTRUSTED])
def test_functions_nest_as_deep_as_the_limits_say(limits: Limits) -> None:
    depth = limits.depth
    assert depth is not None

    def chain(length: int) -> onnx.ModelProto:
        functions = [_function("f0 (a) => (b) { b = Neg(a) }")]
        functions += [_function(f"f{i} (a) => (b) {{ b = my.f{i - 1}(a) }}") for i in range(1, length)]
        return _model(f"y = my.f{length - 1}(x)", *functions)

    np.testing.assert_array_equal(onnxref.run(chain(depth), X, limits=limits)["y"], -X)
    with pytest.raises(ResourceLimitError, match=f"limit 'depth' is {depth}: functions nest deeper"):
        InferenceSession(chain(depth + 1), limits=limits)
