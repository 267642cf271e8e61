"""Parts of models, taken out with the values that they had."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx.checker
import onnx.parser
import pytest
from model_zoo import REAL_MODELS, RealModel

import onnxref
from onnxref.debug._places import find_node
from onnxref.debug._subgraph import Extraction, extract, extract_values
from onnxref.errors import NodeError, OutputError
from onnxref.model import load_model
from onnxref.model._write import to_proto
from onnxref.runtime import Execution

_MODELS = {model.name: model for model in REAL_MODELS}
HEAD = '<ir_version: 10, opset_import: ["": 21, "my": 1]>'

LOOP = onnx.parser.parse_model(
    HEAD
    + """
    g (float[2] x, int64 n) => (float[2] last, float[K, 2] all)
    <float[2] w = {10, 20}, bool yes = {1}> {
        scale = Mul(x, w)
        [loop] last, all = Loop (n, yes, x) <body = body (int64 i, bool c, float[2] acc) =>
            (bool c_out, float[2] acc_out, float[2] row) {
                one = Constant <value = float {1}> ()
                f = Cast <to = 1> (i)
                [mix] s = Add(acc, scale)
                big = Greater(f, one)
                [pick] t = If (big) <
                    then_branch = yes_branch () => (float[2] a) { [inner] a = Mul(s, f) },
                    else_branch = no_branch () => (float[2] b) { b = Sub(s, one) }
                >
                acc_out = Identity(t)
                row = Neg(t)
                c_out = Identity(c)
            }>
    }"""
)
X = {"x": np.float32([1, 2]), "n": np.int64(4)}


def executed(model: Any, feeds: Any) -> dict[str, Execution]:
    """Return every executed node by its path."""
    found: dict[str, Execution] = {}
    session = onnxref.InferenceSession(model, backend="numpy", optimize="none")
    session.run_named(None, feeds, observers=[lambda e: found.setdefault(e.path, e) and None])
    return found


def assert_runs(part: Extraction) -> None:
    """The part is a valid model and gives what was seen in the run."""
    proto = to_proto(part.model)
    onnx.checker.check_model(proto, full_check=True)
    again = onnxref.run(proto, part.inputs, backend="numpy")
    assert list(again) == list(part.outputs)
    for name, value in part.outputs.items():
        np.testing.assert_array_equal(again[name], value, err_msg=f"{part.what}: {name}")


@pytest.mark.parametrize(
    "name",
    [
        "silero_vad 16 kHz",
        "silero_vad_16k_sequence 16 kHz",
        "torch gpt_dynamo_opset23",
        "torch lstm_opset13",
        "ocr direction",
        "light_squeezenet",
    ],
)
def test_nodes_of_real_models_give_what_they_gave(name: str) -> None:
    model: RealModel = _MODELS[name]
    feeds = model.calls()[0]
    paths = executed(model.model(), feeds)
    for path in list(paths)[:: max(len(paths) // 6, 1)]:
        part = extract(model.model(), feeds, path)
        assert len(part.nodes) == 1
        for output, value in part.outputs.items():
            at = paths[path].node.outputs.index(output)
            np.testing.assert_array_equal(value, paths[path].outputs[at], err_msg=path)
        assert_runs(part)


def test_every_node_of_every_iteration() -> None:
    paths = executed(LOOP, X)
    assert len(paths) == 34
    assert "loop[3]/body/pick/then_branch/inner" in paths
    for path, execution in paths.items():
        if path == "loop":
            continue
        part = extract(LOOP, X, path)
        assert_runs(part)
        (value,) = part.outputs.values()
        np.testing.assert_array_equal(value, execution.outputs[0], err_msg=path)


def test_a_node_with_a_body_keeps_what_the_body_captures() -> None:
    part = extract(LOOP, X, "loop[2]/body/pick")
    assert {v.name for v in part.model.graph.inputs} == {"big", "s", "f"}
    assert list(part.model.graph.initializers) == ["one"]
    assert bool(part.inputs["big"])
    assert_runs(part)
    whole = extract(LOOP, X, "loop")
    assert list(whole.inputs) == ["n", "scale", "x"] or set(whole.inputs) == {"n", "scale", "x"}
    assert_runs(whole)


def test_an_iteration_has_its_own_values() -> None:
    parts = [extract(LOOP, X, f"loop[{i}]/body/mix") for i in range(4)]
    accumulated = [part.inputs["acc"].tolist() for part in parts]
    assert accumulated[0] == [1, 2]
    assert len({str(value) for value in accumulated}) == 4
    np.testing.assert_array_equal(parts[3].inputs["scale"], [10, 40])


def test_constants_stay_constants() -> None:
    model = onnx.parser.parse_model(
        HEAD
        + """g (float[2] x) => (float[2] y) <float[2] w = {1, 2}> {
            two = Constant <value = float {2}> ()
            scaled = Mul(w, two)
            y = Mul(x, scaled)
        }"""
    )
    part = extract(model, {"x": np.float32([3, 4])}, "y")
    assert [value.name for value in part.model.graph.inputs] == ["x"]
    np.testing.assert_array_equal(part.model.graph.initializers["scaled"], [2, 4])


def test_an_initializer_that_is_overridden_is_an_input() -> None:
    model = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["": 21]> g (float[1] x, float[1] w) => (float[1] y) '
        "<float[1] w = {5}> { y = Mul(x, w) }"
    )
    x = np.float32([2])
    assert list(extract(model, {"x": x}, "y").inputs) == ["x"]
    part = extract(model, {"x": x, "w": np.float32([7])}, "y")
    assert sorted(part.inputs) == ["w", "x"]
    assert part.outputs["y"].tolist() == [14]


def test_all_nodes_between_two() -> None:
    model = _MODELS["ocr direction"]
    paths = list(executed(model.model(), model.calls()[0]))
    part = extract(model.model(), model.calls()[0], paths[30], paths[60])
    assert part.what == f"{paths[30]} to {paths[60]}"
    assert part.nodes[0] == paths[30]
    assert paths[60] in part.nodes
    assert_runs(part)


def test_what_computes_values_from_others() -> None:
    part = extract_values(LOOP, X, ["loop[2]/body/row"], ["loop[2]/body/s"])
    assert part.nodes == ("Cast#1", "Greater#3", "pick", "Neg#6")
    assert sorted(part.inputs) == ["i", "s"]
    assert_runs(part)
    whole = extract_values(LOOP, X, ["last"])
    assert sorted(whole.inputs) == ["n", "x"]
    assert_runs(whole)


def test_function_bodies_have_the_attributes_of_their_call() -> None:
    model = onnx.parser.parse_model(
        HEAD
        + """g (float[3] x) => (float[3] y) { [call] y = my.Scaled <alpha = 3.0> (x) }
        <domain: "my", opset_import: ["": 17]>
        Scaled <alpha> (x) => (y) { k = Constant <value_float: float = @alpha> ()  [times] y = Mul(x, k) }"""
    )
    x = np.float32([1, 2, 3])
    part = extract(model, x, "call/times")
    assert part.model.opset_imports == {"": 17}
    assert part.model.graph.initializers["k"] == 3
    assert_runs(part)
    assert list(extract(model, x, "call").model.functions) == [("my", "Scaled", "")]


def test_sequences_and_absent_optionals() -> None:
    model = onnx.parser.parse_model(
        HEAD
        + """g (float[2] x) => (float[N] y, bool b) {
            none = Optional <type = optional(float[2])> ()
            b = OptionalHasElement(none)
            empty = SequenceEmpty()
            s = SequenceInsert(empty, x)
            y = ConcatFromSequence <axis = 0> (s)
        }""".replace(" <type = optional(float[2])>", "")
    )
    model.graph.node[0].attribute.append(
        onnx.helper.make_attribute("type", onnx.helper.make_tensor_type_proto(1, [2]))
    )
    x = np.float32([1, 2])
    assert_runs(extract(model, x, "y"))
    part = extract(model, x, "b")
    assert part.inputs == {"none": None}
    part = extract(model, x, "s")
    assert part.outputs["s"][0].tolist() == [1, 2]


def test_a_node_that_fails_comes_with_its_inputs() -> None:
    model = onnx.parser.parse_model(
        HEAD
        + """g (float[2] x, float[3] z) => (float[K] y) {
            a = Neg(x)
            shape = Shape(z)
            [bad] b = Reshape(a, shape)
            y = Abs(b)
        }"""
    )
    feeds = {"x": np.float32([1, 2]), "z": np.zeros(3, np.float32)}
    part = extract(model, feeds, "bad")
    assert "Reshape" in part.error
    assert part.outputs == {}
    assert part.inputs["a"].tolist() == [-1, -2]
    assert part.inputs["shape"].tolist() == [3]
    with pytest.raises(NodeError, match="bad"):
        extract(model, feeds, "y")


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("nowhere", r"the model has no node or computed value 'nowhere'; it has: Mul#0, loop \.\.\."),
        (
            "loop[9]/body/mix",
            r"'loop\[9\]/body/.*' was not computed in this run: its graph was not run",
        ),
        ("loop[0]/body/pick/then_branch/inner", "was not computed in this run"),
        ("loop/body/mix", r"no node or computed value 'loop/body/mix'; it has: loop\[0\]/body/mix \.\.\."),
        ("inner", r"'inner'; it has: loop\[0\]/body/pick/then_branch/inner \.\.\."),
        ("x", "has no node or computed value 'x'"),
    ],
)
def test_nodes_that_are_not_there(path: str, message: str) -> None:
    with pytest.raises(OutputError, match=message):
        extract(LOOP, X, path)


def test_two_nodes_of_one_name_are_told_apart() -> None:
    model = onnx.parser.parse_model(HEAD + "g (float[1] x) => (float[1] y) { [n] a = Neg(x) [n] y = Abs(a) }")
    with pytest.raises(OutputError, match="'n' means several nodes: Neg#0, Abs#1"):
        extract(model, X["x"], "n")
    assert find_node(load_model(model), "Abs#1")[1] == 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: extract(LOOP, X, "loop", "Mul#0"), "no way leads from 'loop' to 'Mul#0'"),
        (lambda: extract(LOOP, X, "loop", "loop[0]/body/mix"), "are not in one graph"),
        (lambda: extract_values(LOOP, X, ["last", "loop[0]/body/s"]), "the values must be in one graph"),
        (lambda: extract_values(LOOP, X, []), r"the values must be in one graph \(got none\)"),
        (lambda: extract_values(LOOP, X, ["nothing"]), "the model has no value 'nothing'"),
        (lambda: extract_values(LOOP, X, ["x"]), "'x' is computed by no node between these values"),
    ],
)
def test_parts_that_are_none(call: Any, message: str) -> None:
    with pytest.raises(OutputError, match=message):
        call()
