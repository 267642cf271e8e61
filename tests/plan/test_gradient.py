"""Derivatives against central differences, and what a Gradient node may and may not say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
from gradient_cases import CASES, Case
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

import onnxref
from onnxref import InferenceSession, registry
from onnxref.errors import (
    InvalidAttributeError,
    InvalidGraphError,
    ResourceLimitError,
    UnsupportedOperatorError,
)
from onnxref.plan.gradient import _table

Array = NDArray[Any]
TRAINING = "ai.onnx.preview.training"

# Central differences of step h are off by h**2 times the third derivative (up to about 1e3 here) and
# by the rounding of the function, 1e-16 * |f| / h: 1e-8 in all for h = 3e-6.
STEP = 3e-6
RELATIVE, ABSOLUTE = 2e-6, 2e-7


def gradient(
    xs: Sequence[str],
    y: str,
    outputs: Sequence[str],
    *,
    zs: Sequence[str] = (),
    inputs: Sequence[str] | None = None,
    name: str = "",
) -> NodeProto:
    given = [*xs, *zs] if inputs is None else inputs
    attributes: dict[str, Any] = {"xs": list(xs), "y": y}
    if zs:
        attributes["zs"] = list(zs)
    return helper.make_node("Gradient", given, outputs, name=name, domain=TRAINING, **attributes)


def case_node(case: Case, given: Sequence[str], made: Sequence[str]) -> NodeProto:
    node = helper.make_node(case.op_type, given, made)
    for key, value in case.attributes.items():
        kind = onnx.AttributeProto.INTS if value == [] else None  # which an empty list does not tell
        node.attribute.append(helper.make_attribute(key, value, attr_type=kind))
    return node


def model(
    nodes: Sequence[NodeProto],
    inputs: Mapping[str, Array],
    outputs: Sequence[str],
    *,
    opset: int = 23,
    initializers: Mapping[str, Array] | None = None,
    functions: Sequence[onnx.FunctionProto] = (),
) -> onnx.ModelProto:
    def info(name: str, array: Array) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)

    graph = helper.make_graph(
        list(nodes),
        "g",
        [info(name, array) for name, array in inputs.items()],
        [onnx.ValueInfoProto(name=name) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in (initializers or {}).items()],
    )
    imports = [helper.make_opsetid("", opset), helper.make_opsetid(TRAINING, 1), helper.make_opsetid("f", 1)]
    return helper.make_model(graph, opset_imports=imports, functions=list(functions), ir_version=10)


def run(proto: onnx.ModelProto, inputs: Mapping[str, Array]) -> list[Array]:
    return list(onnxref.run(proto, dict(inputs), backend="numpy").values())


def differences(session: InferenceSession, inputs: Mapping[str, Array], name: str, output: str) -> Array:
    """Return the derivative of the sum of an output by an input, from central differences."""
    result = np.zeros_like(inputs[name])
    for index in np.ndindex(result.shape):
        ends = []
        for step in (STEP, -STEP):
            moved = inputs[name].copy()
            moved[index] += step
            (value,) = session.run([output], {**inputs, name: moved})
            ends.append(value.sum())
        result[index] = (ends[0] - ends[1]) / (2 * STEP)
    return result


class Setting:
    """The model of a case: its outputs y0, y1 ..., each weighted, and their first and second derivatives."""

    def __init__(self, case: Case) -> None:
        self.inputs = {f"x{i}": x for i, x in enumerate(case.inputs) if x is not None}
        self.names = [f"x{i}" for i in case.variables]
        rng = np.random.default_rng(11)
        given = ["" if x is None else f"x{i}" for i, x in enumerate(case.inputs)]
        made = [f"y{i}" if i in case.checked else "" for i in range(case.n_outputs)]
        nodes = [case_node(case, given, made)]
        checked = [f"y{i}" for i in case.checked]
        values = run(model(nodes, self.inputs, checked, opset=case.opset), self.inputs)
        # Weights make the derivative of each element count: the sum of a softmax is constant.
        self.weights = {f"w{i}": rng.uniform(0.5, 1.5, v.shape) for i, v in enumerate(values)}
        self.losses = []
        for i, y in enumerate(checked):
            nodes.append(helper.make_node("Mul", [y, f"w{i}"], [f"loss{i}"]))
            self.losses.append(f"loss{i}")
        # (what is differentiated, by what, name of the result)
        self.first: list[tuple[str, str, str]] = []
        self.second: list[tuple[str, str, str]] = []
        for loss in self.losses:
            names = [f"d{loss}/d{x}" for x in self.names]
            nodes.append(gradient(self.names, loss, names))
            self.first.extend(zip([loss] * len(names), self.names, names, strict=True))
        for _, x, name in list(self.first):
            weight = f"v_{name}"
            self.weights[weight] = rng.uniform(0.5, 1.5, self.inputs[x].shape)
            nodes.append(helper.make_node("Mul", [name, weight], [f"m_{name}"]))
            names = [f"d({name})/d{other}" for other in self.names]
            nodes.append(gradient(self.names, f"m_{name}", names))
            self.second.extend(zip([f"m_{name}"] * len(names), self.names, names, strict=True))
        outputs = [*self.losses, *(n for _, _, n in self.first), *(f"m_{n}" for _, _, n in self.first)]
        outputs += [n for _, _, n in self.second]
        proto = model(nodes, self.inputs, outputs, opset=case.opset, initializers=self.weights)
        self.session = InferenceSession(proto, backend="numpy")

    def check(self, derivatives: Sequence[tuple[str, str, str]]) -> None:
        for of, by, name in derivatives:
            (actual,) = self.session.run([name], self.inputs)
            expected = differences(self.session, self.inputs, by, of)
            np.testing.assert_allclose(actual, expected, rtol=RELATIVE, atol=ABSOLUTE, err_msg=name)
            assert actual.shape == self.inputs[by].shape


@pytest.mark.parametrize("case", CASES, ids=str)
def test_first_and_second_derivative(case: Case) -> None:
    setting = Setting(case)
    setting.check(setting.first)
    setting.check(setting.second)


def test_every_rule_has_a_case() -> None:
    tested = {case.op_type for case in CASES}
    assert {op_type for domain, op_type in _table._rules if not domain} - tested == set()


def test_no_operator_both_stops_the_gradient_and_has_a_rule() -> None:
    ruled = {op_type for domain, op_type in _table._rules if not domain}
    assert ruled & _table.STOPPING == set()
    assert all(onnx.defs.has(op_type, "") for op_type in ruled | _table.STOPPING)


# Not those that compute in float64 by attribute, nor CumSum-11, which has no float16.
NARROW_CASES = [
    c for c in CASES if 11 not in c.attributes.values() and (c.op_type, c.opset) != ("CumSum", 11)
]


# Rounding of the low types, relative to gradients of size 1 to 10: 24 and 11 bits, and some steps.
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 2e-4), (np.float16, 0.02)])
@pytest.mark.parametrize("case", NARROW_CASES, ids=str)
def test_narrow_types_keep_their_type(case: Case, dtype: Any, tolerance: float) -> None:
    narrow = [x.astype(dtype) if x is not None and x.dtype == np.float64 else x for x in case.inputs]
    wide = [x.astype(np.float64) if x is not None and x.dtype == dtype else x for x in narrow]
    expected = _first_derivatives(replace(case, inputs=wide))
    actual = _first_derivatives(replace(case, inputs=narrow, wrt=case.variables))
    for one, other in zip(actual, expected, strict=True):
        assert one.dtype == dtype
        scale = max(1.0, float(np.abs(other).max(initial=0)))
        np.testing.assert_allclose(one.astype(np.float64), other, rtol=tolerance, atol=tolerance * scale)


def _first_derivatives(case: Case) -> list[Array]:
    given = ["" if x is None else f"x{i}" for i, x in enumerate(case.inputs)]
    made = [f"y{i}" for i in range(case.n_outputs)]
    names = [f"x{i}" for i in case.variables]
    nodes = [case_node(case, given, made), gradient(names, "y0", [f"d{x}" for x in names])]
    inputs = {f"x{i}": x for i, x in enumerate(case.inputs) if x is not None}
    return run(model(nodes, inputs, [f"d{x}" for x in names], opset=case.opset), inputs)


# What a Gradient node says ------------------------------------------------------------------------

node = helper.make_node
X = {"x": np.array([0.5, -1.0, 2.0])}
W = {"w": np.array([3.0, 0.25, -1.0])}


def test_substituted_values_are_used_wherever_their_names_occur() -> None:
    nodes = [
        node("Mul", ["x", "w"], ["h"]),
        node("Sin", ["h"], ["s"]),
        node("Mul", ["s", "x"], ["y"]),
        gradient(["x"], "y", ["dx"], inputs=["x1"]),
        gradient(["x"], "y", ["dx_with_w1"], zs=["w"], inputs=["x", "w1"]),
    ]
    inputs = {**X, **W, "x1": np.array([1.0, 0.0, 0.3]), "w1": np.array([-1.0, 0.5, 2.0])}
    dx, dx_with_w1 = run(model(nodes, inputs, ["dx", "dx_with_w1"]), inputs)
    x1, w, w1, x = inputs["x1"], inputs["w"], inputs["w1"], inputs["x"]
    np.testing.assert_allclose(dx, np.cos(x1 * w) * w * x1 + np.sin(x1 * w), rtol=1e-14)
    np.testing.assert_allclose(dx_with_w1, np.cos(x * w1) * w1 * x + np.sin(x * w1), rtol=1e-14)


def test_one_value_in_two_parts_has_two_derivatives() -> None:
    nodes = [node("Mul", ["x", "w"], ["y"]), gradient(["x", "w"], "y", ["dx", "dw"], inputs=["w", "w"])]
    inputs = {**X, **W}
    dx, dw = run(model(nodes, inputs, ["dx", "dw"]), inputs)
    np.testing.assert_array_equal(dx, W["w"])
    np.testing.assert_array_equal(dw, W["w"])


def test_intermediate_value_is_independent() -> None:
    nodes = [
        node("Exp", ["x"], ["h"]),
        node("Mul", ["h", "x"], ["y"]),
        gradient(["h", "x"], "y", ["dh", "dx"]),
        gradient(["h"], "y", ["dh1"], inputs=["w"]),
        gradient(["y"], "y", ["dy"]),
    ]
    dh, dx, dh1, dy = run(model(nodes, {**X, **W}, ["dh", "dx", "dh1", "dy"]), {**X, **W})
    np.testing.assert_array_equal(dh, X["x"])
    np.testing.assert_array_equal(dx, np.exp(X["x"]))
    np.testing.assert_array_equal(dh1, X["x"])
    np.testing.assert_array_equal(dy, np.ones(3))


def test_what_y_does_not_depend_on_gets_zeros() -> None:
    nodes = [
        node("Shape", ["x"], ["n"]),
        node("ConstantOfShape", ["n"], ["zeros"]),
        node("Cast", ["zeros"], ["zeros64"], to=TensorProto.DOUBLE),
        node("Floor", ["x"], ["floor"]),
        node("Cast", ["x"], ["whole"], to=TensorProto.INT32),
        node("Cast", ["whole"], ["real"], to=TensorProto.DOUBLE),
        node("CastLike", ["x", "n"], ["like"]),
        node("CastLike", ["like", "x"], ["real2"]),
        node("Sum", ["zeros64", "floor", "real", "real2", "w"], ["y"]),
        gradient(["x", "w", "u"], "y", ["dx", "dw", "du"]),
    ]
    inputs = {**X, **W, "u": np.ones((2, 1), np.float32)}
    dx, dw, du = run(model(nodes, inputs, ["dx", "dw", "du"]), inputs)
    np.testing.assert_array_equal(dx, np.zeros(3))
    np.testing.assert_array_equal(dw, np.ones(3))
    np.testing.assert_array_equal(du, np.zeros((2, 1), np.float32), strict=True)


def test_skipped_outputs() -> None:
    nodes = [
        node("Mul", ["x", "w"], ["y"]),
        gradient(["x", "w"], "y", ["", "dw"]),
        gradient(["x", "w"], "y", ["dx"]),
    ]
    dw, dx = run(model(nodes, {**X, **W}, ["dw", "dx"]), {**X, **W})
    np.testing.assert_array_equal(dw, X["x"])
    np.testing.assert_array_equal(dx, W["w"])


@pytest.mark.parametrize("turned", [False, True])
def test_third_derivative_in_any_order_of_nodes(turned: bool) -> None:
    nodes = [
        node("Tanh", ["x"], ["y"]),
        gradient(["x"], "y", ["d1"]),
        gradient(["x"], "d1", ["d2"]),
        gradient(["x"], "d2", ["d3"]),
        node("Neg", ["d3"], ["z"]),
    ]
    # No edge of the graph joins a Gradient node to the producer of its y: any order is valid.
    order = [3, 4, 2, 1, 0] if turned else [0, 1, 2, 3, 4]
    (z,) = run(model([nodes[i] for i in order], X, ["z"]), X)
    t = np.tanh(X["x"])
    np.testing.assert_allclose(z, 2 * (1 - t**2) * (1 - 3 * t**2), rtol=1e-12)


def test_value_that_is_used_twice_gets_both_gradients() -> None:
    nodes = [node("Mul", ["x", "x"], ["s"]), node("Mul", ["s", "x"], ["y"]), gradient(["x"], "y", ["dx"])]
    (dx,) = run(model(nodes, X, ["dx"]), X)
    np.testing.assert_allclose(dx, 3 * X["x"] ** 2, rtol=1e-15)


def test_initializers_are_independent_values_too() -> None:
    nodes = [node("Mul", ["x", "w"], ["y"]), gradient(["w"], "y", ["dw"], zs=["x"])]
    (dw,) = run(model(nodes, X, ["dw"], initializers=W), X)
    np.testing.assert_array_equal(dw, X["x"])


@pytest.mark.parametrize("opset", [6, 13])
def test_dropout_in_training_uses_the_mask_of_the_forward_pass(opset: int) -> None:
    inputs = {"x": np.ones(1000)}
    given = ["x"] if opset == 6 else ["x", "ratio", "training"]
    initializers = {} if opset == 6 else {"ratio": np.array(0.25), "training": np.array(True)}
    attributes: dict[str, Any] = {"ratio": 0.25} if opset == 6 else {}
    nodes = [
        node("Dropout", given, ["y"], **attributes),
        gradient(["x"], "y", ["dx"]),
        gradient(["x"], "dx", ["ddx"]),
    ]
    proto = model(nodes, inputs, ["y", "dx", "ddx"], opset=opset, initializers=initializers)
    y, dx, ddx = run(proto, inputs)
    assert 0 < (y == 0).sum() < 1000
    np.testing.assert_allclose(dx, y, rtol=1e-15)
    np.testing.assert_array_equal(ddx, np.zeros(1000))


def test_function_calls_are_differentiated() -> None:
    inner = helper.make_function(
        "f", "Scale", ["a"], ["b"],
        [
            helper.make_node("Constant", [], ["k"], value=numpy_helper.from_array(np.array(3.0))),
            helper.make_node("Mul", ["a", "k"], ["b"]),
        ],
        [helper.make_opsetid("", 13)],
    )  # fmt: skip
    leaky = helper.make_node("LeakyRelu", ["t"], ["c"])
    leaky.attribute.append(onnx.AttributeProto(name="alpha", ref_attr_name="slope", type="FLOAT"))
    outer = helper.make_function(
        "f", "Act", ["a"], ["c", "dc"],
        [helper.make_node("Scale", ["a"], ["t"], domain="f"), leaky, gradient(["a"], "c", ["dc"])],
        [helper.make_opsetid("", 16), helper.make_opsetid("f", 1), helper.make_opsetid(TRAINING, 1)],
        attributes=["slope"],
    )  # fmt: skip
    nodes = [
        node("Act", ["x"], ["y", "dc"], domain="f", slope=0.5),
        node("Mul", ["y", "dc"], ["z"]),
        gradient(["x"], "z", ["dz"]),
    ]
    dc, dz = run(model(nodes, X, ["dc", "dz"], functions=[inner, outer]), X)
    slope = np.where(X["x"] < 0, 1.5, 3.0)
    np.testing.assert_array_equal(dc, slope)
    np.testing.assert_array_equal(dz, slope**2)


def _branch(nodes: Sequence[NodeProto], output: str) -> onnx.GraphProto:
    return helper.make_graph(list(nodes), "branch", [], [onnx.ValueInfoProto(name=output)])


def test_gradient_inside_a_subgraph() -> None:
    then = _branch([node("Mul", ["h", "h"], ["y"]), gradient(["h"], "y", ["dh"])], "dh")
    other = _branch([node("Neg", ["h"], ["n"])], "n")
    nodes = [node("Exp", ["x"], ["h"]), node("If", ["c"], ["r"], then_branch=then, else_branch=other)]
    inputs = {**X, "c": np.array(True)}
    (r,) = run(model(nodes, inputs, ["r"]), inputs)
    np.testing.assert_allclose(r, 2 * np.exp(X["x"]), rtol=1e-15)


def test_clone_of_a_node_with_a_subgraph_reads_the_substituted_value() -> None:
    then = _branch([node("Floor", ["h"], ["t"])], "t")
    other = _branch([node("Neg", ["h"], ["n"])], "n")
    nodes = [
        node("Identity", ["x"], ["h"]),
        node("If", ["c"], ["r"], then_branch=then, else_branch=other),
        node("Mul", ["r", "w"], ["y"]),
        gradient(["w"], "y", ["dw"], zs=["x"], inputs=["w", "x1"]),
    ]
    inputs = {**X, **W, "c": np.array(True), "x1": np.array([5.5, 6.5, 7.5])}
    (dw,) = run(model(nodes, inputs, ["dw"]), inputs)
    np.testing.assert_array_equal(dw, [5.0, 6.0, 7.0])


def test_condition_of_an_if_stops_the_gradient() -> None:
    branches: dict[str, Any] = {
        "then_branch": _branch([node("Neg", ["w"], ["t"])], "t"),
        "else_branch": _branch([node("Identity", ["w"], ["e"])], "e"),
    }
    nodes = [
        node("ReduceMax", ["x"], ["m"], keepdims=0),
        node("Greater", ["m", "one"], ["c"]),
        node("If", ["c"], ["r"], **branches),
        node("Add", ["r", "x"], ["y"]),
        gradient(["x"], "y", ["dx"]),
    ]
    (dx,) = run(model(nodes, {**X, **W}, ["dx"], initializers={"one": np.array(1.0)}), {**X, **W})
    np.testing.assert_array_equal(dx, np.ones(3))


EMPTY = np.zeros((0, 4, 2))
CHANNELS = np.ones(4)


@pytest.mark.parametrize(
    "case",
    [
        Case("Conv", 22, [EMPTY, np.ones((3, 4, 2)), np.ones(3)]),
        Case("ConvTranspose", 22, [EMPTY, np.ones((4, 3, 2))]),
        Case("MatMul", 13, [EMPTY, np.ones((2, 3))]),
        Case("MaxPool", 22, [EMPTY], {"kernel_shape": [2]}),
        Case("AveragePool", 22, [EMPTY], {"kernel_shape": [2]}),
        Case("BatchNormalization", 15, [EMPTY, *[CHANNELS] * 4]),
        Case("GroupNormalization", 21, [EMPTY, CHANNELS, CHANNELS], {"num_groups": 2, "stash_type": 11}),
        Case("InstanceNormalization", 22, [EMPTY, CHANNELS, CHANNELS]),
        Case("LayerNormalization", 17, [EMPTY, np.ones(2)], {"stash_type": 11}),
        Case("ReduceProd", 18, [EMPTY, np.array([1])]),
        Case("Softmax", 13, [EMPTY]),
        Case("LRN", 13, [EMPTY], {"size": 2}),
    ],
    ids=str,
)
def test_empty_batch_has_empty_and_zero_gradients(case: Case) -> None:
    for actual, x in zip(_first_derivatives(case), case.inputs, strict=False):
        assert x is not None
        np.testing.assert_array_equal(actual, np.zeros(x.shape), strict=True)


def test_gradient_inside_a_loop() -> None:
    """Newton's method: one Gradient per iteration, in the graph of the body."""
    body = helper.make_graph(
        [
            node("Mul", ["r", "r"], ["square"]),
            node("Sub", ["square", "two"], ["f"]),
            gradient(["r"], "f", ["slope"]),
            node("Div", ["f", "slope"], ["step"]),
            node("Sub", ["r", "step"], ["next"]),
            node("Identity", ["go"], ["go_on"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("r", TensorProto.DOUBLE, []),
        ],
        [onnx.ValueInfoProto(name="go_on"), onnx.ValueInfoProto(name="next")],
    )
    inputs = {"r0": np.array(1.0), "two": np.array(2.0)}
    count = {"n": np.array(6, np.int64)}
    proto = model([node("Loop", ["n", "", "r0"], ["r_n"], body=body)], inputs, ["r_n"], initializers=count)
    np.testing.assert_allclose(run(proto, inputs)[0], np.sqrt(2.0), rtol=1e-15)


# Errors -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bad", "error", "message"),
    [
        (
            gradient(["x"], "nothing", ["d"]),
            InvalidGraphError,
            "y is 'nothing', which no node of graph 'g'",
        ),
        (gradient(["x"], "w", ["d"]), InvalidGraphError, "y is 'w', which no node"),
        (gradient(["typo"], "y", ["d"], inputs=["x"]), InvalidGraphError, "has no value 'typo'"),
        (gradient(["x", "w"], "y", ["d"], inputs=["x"]), InvalidGraphError, "one input for each.*2.*got 1"),
        (gradient(["x", "x"], "y", ["d"]), InvalidGraphError, "must not repeat a name .got x, x"),
        (gradient(["x"], "y", ["d", "e"]), InvalidGraphError, "an output for each of xs, 1 .got 2"),
        (gradient(["x"], "d", ["d"]), InvalidGraphError, "y depends on its own outputs"),
        (
            node("Gradient", ["x"], ["d"], domain=TRAINING, xs=["x"]),
            InvalidAttributeError,
            "requires the attribute 'y'",
        ),
    ],
    ids=str,
)
def test_bad_gradient_nodes(bad: NodeProto, error: type[Exception], message: str) -> None:
    nodes = [node("Mul", ["x", "w"], ["y"]), bad]
    with pytest.raises(error, match=message):
        InferenceSession(model(nodes, {**X, **W}, ["d"]))


def test_y_must_be_made_in_the_same_graph() -> None:
    then = _branch([gradient(["x"], "y", ["d"])], "d")
    nodes = [node("Neg", ["x"], ["y"]), node("If", ["c"], ["r"], then_branch=then, else_branch=then)]
    with pytest.raises(InvalidGraphError, match="y is 'y', which no node of graph 'branch' makes"):
        InferenceSession(model(nodes, {**X, "c": np.array(True)}, ["r"]))


def test_unknown_derivative_names_the_node() -> None:
    nodes = [node("Det", ["x"], ["y"], name="volume"), gradient(["x"], "y", ["d"])]
    with pytest.raises(UnsupportedOperatorError, match=r"node 'volume' \(Det, opset 23\) cannot be"):
        InferenceSession(model(nodes, {"x": np.eye(2)}, ["d"]))


def test_value_captured_by_a_branch_has_no_known_derivative() -> None:
    branch = _branch([node("Neg", ["x"], ["n"])], "n")
    nodes = [node("If", ["c"], ["y"], then_branch=branch, else_branch=branch), gradient(["x"], "y", ["d"])]
    with pytest.raises(UnsupportedOperatorError, match="If, opset 23. cannot be differentiated"):
        InferenceSession(model(nodes, {**X, "c": np.array(True)}, ["d"]))


def test_repeated_index_of_an_einsum_term() -> None:
    nodes = [node("Einsum", ["x"], ["y"], equation="ii->i"), gradient(["x"], "y", ["d"])]
    with pytest.raises(UnsupportedOperatorError, match="index repeated within a term of 'ii->i'"):
        InferenceSession(model(nodes, {"x": np.eye(2)}, ["d"]))


def test_scatter_reduction_without_a_derivative() -> None:
    nodes = [
        node("ScatterElements", ["x", "i", "w"], ["y"], reduction="mul"),
        gradient(["x"], "y", ["d"]),
    ]
    inputs = {**X, **W, "i": np.array([0, 1, 1])}
    with pytest.raises(UnsupportedOperatorError, match="not known for reduction='mul'"):
        InferenceSession(model(nodes, inputs, ["d"]))


def test_function_of_ones_own_has_no_known_derivative() -> None:
    registry.register_op("Tanh", domain="", since=13)(np.tanh)
    try:
        with pytest.raises(UnsupportedOperatorError, match="its derivative is not known"):
            InferenceSession(model([node("Tanh", ["x"], ["y"]), gradient(["x"], "y", ["d"])], X, ["d"]))
    finally:
        registry.unregister_op("Tanh", domain="")


def test_nodes_of_derivatives_count_against_the_limit() -> None:
    # Each derivative is several times as long as the one before.
    derivatives = [gradient(["x"], f"y{i}", [f"y{i + 1}"]) for i in range(8)]
    proto = model([node("Tanh", ["x"], ["y0"]), *derivatives], X, ["y8"])
    with pytest.raises(ResourceLimitError, match="limit 'nodes' is 500"):
        InferenceSession(proto, limits=onnxref.Limits(nodes=500))
