"""Failing models shrink to what makes them fail."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.checker
import onnx.parser
import pytest
from model_zoo import REAL_MODELS
from onnx import numpy_helper

import onnxref
from onnxref.debug._bisect import run_on
from onnxref.debug._reduce import Diverges, Progress, Reduction, ShellCheck, reduce
from onnxref.errors import InputError
from onnxref.graph import Graph, Node
from onnxref.model import load_model, read_value_file
from onnxref.plan.passes import cleanup

_MODELS = {model.name: model for model in REAL_MODELS}
HEAD = '<ir_version: 10, opset_import: ["": 21, "my": 1]>'
ORT = "onnxruntime:disabled"

LOOP = onnx.parser.parse_model(
    HEAD
    + """
    g (float[2] x, int64 n) => (float[2] last, float[K, 2] all, float[2] other)
    <float[2] w = {10, 20}, bool yes = {1}> {
        scale = Mul(x, w)
        [loop] last, all = Loop (n, yes, x) <body = body (int64 i, bool c, float[2] acc) =>
            (bool c_out, float[2] acc_out, float[2] row) {
                f = Cast <to = 1> (i)
                s = Add(acc, scale)
                [bad] h = HardSigmoid <alpha = 0.5> (f)
                t = Add(s, h)
                acc_out = Identity(t)
                row = Neg(t)
                c_out = Identity(c)
            }>
        other = Exp(scale)
    }"""
)
X = {"x": np.float32([1, 2]), "n": np.int64(4)}


@pytest.fixture
def _wrong_relu() -> Iterator[None]:
    """A Relu that is off by 5% where it gets 64 channels of one element."""

    @onnxref.register_op("Relu", domain="")
    def relu(x: Any) -> Any:
        y = np.maximum(x, 0)
        return y * y.dtype.type(1.05) if x.shape == (1, 64, 1) else y

    yield
    onnxref.unregister_op("Relu", domain="")


def _nodes(proto: onnx.ModelProto) -> Iterator[Node]:
    """Return all nodes, those of bodies included."""

    def inside(graph: Graph) -> Iterator[Node]:
        for node in graph.nodes:
            yield node
            for value in node.attributes.values():
                if isinstance(value, Graph):
                    yield from inside(value)

    yield from inside(load_model(proto).graph)


def _holds(*op_types: str) -> Any:
    """Return a check for operators that the model must have."""
    return lambda proto, feeds: set(op_types) <= {node.op_type for node in _nodes(proto)}


def _executed(proto: onnx.ModelProto, feeds: dict[str, Any]) -> list[str]:
    """Return the operators that a run executes, those of bodies included."""
    found: list[str] = []
    session = onnxref.InferenceSession(proto, backend="numpy", optimize="none")
    session.run_named(None, feeds, observers=[lambda execution: found.append(execution.node.op_type)])
    return found


def _assert_runs(found: Reduction) -> None:
    onnx.checker.check_model(found.proto, full_check=True)
    assert found.outputs is not None
    again = onnxref.run(found.proto, dict(found.inputs), backend="numpy")
    for name, value in found.outputs.items():
        np.testing.assert_array_equal(again[name], value)


@pytest.mark.usefixtures("_wrong_relu")
def test_a_wrong_kernel_deep_in_a_real_model() -> None:
    model = _MODELS["silero_vad 16 kHz"]
    found = reduce(model.model(), model.calls()[0], Diverges("numpy", ORT))
    assert found.nodes == ("If_0_then_branch__Inline_0__/encoder/2/activation/Relu",)
    assert found.nodes_before > 600
    assert found.trials < 100
    assert found.finished
    assert any(step.startswith("control flow: ") for step in found.steps)
    _assert_runs(found)


@pytest.mark.parametrize("planted", ["Sub", "HardSwish"])
def test_the_one_node_of_a_kind(planted: str) -> None:
    model = _MODELS["torch encoder_dynamo_opset18" if planted == "Sub" else "ocr direction"]
    wanted = {
        node.outputs for node in load_model(model.model()).graph.nodes if node.op_type in (planted, "Softmax")
    }
    found = reduce(model.model(), model.calls()[0], _holds("Softmax"))
    assert [node.op_type for node in found.model.graph.nodes] == ["Softmax"]
    assert found.model.graph.nodes[0].outputs in wanted
    assert all(np.size(value) == 1 for value in found.inputs.values())
    _assert_runs(found)


def test_a_divergent_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    # The pass now takes every Relu for a node that changes nothing.
    monkeypatch.setitem(cleanup._IDENTITIES, "Relu", cleanup._always)
    digits = _MODELS["digits"].model()
    feeds = {"image": np.linspace(-1, 1, 64, dtype=np.float32).reshape(1, 1, 8, 8)}
    found = reduce(digits, feeds, Diverges("numba", "numpy"), trials=80)
    assert "Relu" in [node.op_type for node in found.model.graph.nodes]
    assert len(found.nodes) <= 2
    _assert_runs(found)


def test_the_iteration_that_fails() -> None:
    def check(proto: onnx.ModelProto, feeds: dict[str, Any]) -> bool:
        """The planted kernel is wrong where its input is 2."""
        seen = []

        def observe(execution: Any) -> None:
            if execution.node.op_type == "HardSigmoid":
                seen.append(float(np.max(execution.inputs[0])))

        session = onnxref.InferenceSession(proto, backend="numpy", optimize="none")
        session.run_named(None, feeds, observers=[observe])
        return 2.0 in seen

    found = reduce(LOOP, X, check)
    assert found.nodes == ("bad",)
    assert {name: float(value) for name, value in found.inputs.items()} == {"f": 2.0}
    assert "alpha" not in found.model.graph.nodes[0].attributes
    _assert_runs(found)


def test_a_loop_that_must_stay_becomes_small() -> None:
    def check(proto: onnx.ModelProto, feeds: dict[str, Any]) -> bool:
        return {"Loop", "HardSigmoid"} <= set(_executed(proto, feeds))

    found = reduce(LOOP, X, check)
    (loop,) = found.model.graph.nodes
    body = loop.attributes["body"]
    # What lies between the kernel and the loop's output, and nothing else.
    assert {node.op_type for node in body.nodes} == {"HardSigmoid", "Add", "Identity", "Constant"}
    assert len(body.outputs) == 2
    assert int(found.inputs["n"]) == 1
    assert [value.name for value in found.model.graph.outputs] == ["last"]
    _assert_runs(found)


def test_two_nodes_that_only_fail_together() -> None:
    def check(proto: onnx.ModelProto, feeds: dict[str, Any]) -> bool:
        makers = {name: node.op_type for node in _nodes(proto) for name in node.outputs}
        return any(node.op_type == "Exp" and makers.get(node.inputs[0]) == "Mul" for node in _nodes(proto))

    found = reduce(LOOP, X, check)
    assert [node.op_type for node in found.model.graph.nodes] == ["Mul", "Exp"]
    assert found.inputs["x"].shape == (1,)
    _assert_runs(found)


def test_a_model_that_the_reference_refuses() -> None:
    model = onnx.parser.parse_model(
        HEAD
        + """g (float[4] x, float[3] z) => (float[K] y, float[4] e) {
            a = Neg(x)  b = Abs(a)  shape = Shape(z)  e = Exp(b)
            [bad] c = Reshape(b, shape)
            y = Sqrt(c)
        }"""
    )

    def check(proto: onnx.ModelProto, feeds: dict[str, Any]) -> bool:
        try:
            onnxref.run(proto, feeds, backend="numpy")
        except onnxref.NodeError as error:
            return "Reshape" in str(error)
        return False

    feeds = {"x": np.float32([1, 2, 3, 4]), "z": np.zeros(3, np.float32)}
    found = reduce(model, feeds, check)
    assert found.nodes == ("bad",)
    assert found.outputs is None
    assert sorted(found.inputs) == ["b", "shape"]


def test_sizes_are_cut_together_with_the_shapes_that_say_them() -> None:
    model = onnx.parser.parse_model(
        HEAD
        + """g (float[2, 12, 5, 5] x, float[16, 12, 3, 3] w) => (float[2, 144] y)
        <int64[2] shape = {2, 144}> { c = Conv <pads = [0, 0, 0, 0]> (x, w)  y = Reshape(c, shape) }"""
    )
    rng = np.random.default_rng(0)
    feeds = {
        "x": rng.standard_normal((2, 12, 5, 5)).astype(np.float32),
        "w": rng.standard_normal((16, 12, 3, 3)).astype(np.float32),
    }
    found = reduce(model, feeds, _holds("Conv", "Reshape"))
    assert found.inputs["w"].shape[1] == found.inputs["x"].shape[1] == 1
    assert sum(array.size for array in found.inputs.values()) < 40
    assert "pads" not in found.model.graph.nodes[0].attributes
    _assert_runs(found)


def test_sizes_that_are_multiples_of_others() -> None:
    model = _MODELS["torch lstm_opset13"]
    found = reduce(model.model(), model.calls()[0], _holds("LSTM"), trials=150)
    (lstm,) = found.model.graph.nodes
    arrays = {**found.model.graph.initializers, **found.inputs}
    hidden = arrays[lstm.inputs[2]].shape[-1]
    assert arrays[lstm.inputs[1]].shape[1] == 4 * hidden
    assert hidden == 1
    _assert_runs(found)


def test_functions_are_entered() -> None:
    model = onnx.parser.parse_model(
        HEAD
        + """g (float[3] x) => (float[3] y) { a = Abs(x)  y = my.F <k = 2.0> (a) }
        <domain: "my", opset_import: ["": 17]>
        F <k> (x) => (y) { c = Constant <value_float: float = @k> ()  [times] m = Mul(x, c)  y = Exp(m) }"""
    )
    found = reduce(model, {"x": np.float32([1, 2, 3])}, _holds("Abs"))
    assert found.nodes == ("Abs#0",)

    def check(proto: onnx.ModelProto, feeds: dict[str, Any]) -> bool:
        return "Mul" in _executed(proto, feeds)

    found = reduce(model, {"x": np.float32([1, 2, 3])}, check)
    assert found.nodes == ("times",)
    assert not found.model.functions
    assert found.model.opset_imports == {"": 17}


def test_a_shell_command_as_check(tmp_path: Path) -> None:
    script = tmp_path / "check.py"
    script.write_text(
        "import sys, onnx, os\n"
        "folder = sys.argv[1]\n"
        "assert os.path.exists(folder + '/test_data_set_0')\n"
        "nodes = onnx.load(folder + '/model.onnx').graph.node\n"
        "sys.exit(0 if any(n.op_type == 'Exp' for n in nodes) else 1)\n"
    )
    found = reduce(LOOP, X, ShellCheck(f"{sys.executable} {script} {{}}"), trials=12)
    assert found.nodes == ("Exp#2",)
    found.save(tmp_path / "case")
    assert sorted(path.name for path in (tmp_path / "case").iterdir()) == ["model.onnx", "test_data_set_0"]
    value = read_value_file(tmp_path / "case/test_data_set_0/output_0.pb", None)
    assert found.outputs is not None
    np.testing.assert_array_equal(value, found.outputs["other"])


def test_time_and_trials_are_bounded() -> None:
    told: list[Progress] = []
    found = reduce(LOOP, X, _holds("HardSigmoid"), trials=3, progress=told.append)
    assert (found.trials, found.finished) == (3, False)
    assert [p.trials for p in told] == [2, 3]
    assert "stopped early" in found.summary
    assert not reduce(LOOP, X, _holds("HardSigmoid"), seconds=0).finished


def test_candidates_are_valid_models() -> None:
    """Whatever the check says, what comes out is accepted and runs."""
    rng = np.random.default_rng(3)

    def check(proto: onnx.ModelProto, feeds: dict[str, Any]) -> bool:
        onnx.checker.check_model(proto)
        onnxref.run(proto, feeds, backend="numpy")
        return bool(rng.random() < 0.4) or len(list(_nodes(proto))) > 8

    _assert_runs(reduce(LOOP, X, check))


def test_results_show_themselves() -> None:
    found = reduce(LOOP, X, _holds("Exp"))
    report = found.to_json()
    assert report["operators"] == ["Exp"]
    assert report["nodes_after"] == 1
    assert report["inputs"] == {"scale": "float32[1]"}
    assert "10 nodes became 1 in " in str(found)
    assert "Exp Exp#2: scale (float32[1]) -> other" in str(found)
    assert "<td style" in found._repr_html_()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: reduce(LOOP, X, lambda p, f: False), "does not fail the check as it is: there is nothing"),
        (lambda: reduce(LOOP, {"x": X["x"]}, lambda p, f: True), "input 'n' is missing"),
        (lambda: ShellCheck("true"), r"the check must have {} where the model's folder goes \(got 'true'\)"),
    ],
)
def test_what_cannot_be_reduced(call: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()


def test_a_side_that_fails_must_fail_as_it_did() -> None:
    model = onnx.parser.parse_model(HEAD + "g (float[2] x) => (float[2] y) { a = my.Lost(x)  y = Neg(a) }")
    onnxref.register_op("Lost", domain="my")(lambda x: x)
    try:
        check = Diverges(ORT, "numpy")
        assert check(model, {"x": X["x"]})
        assert check.kind == "fails with BackendError"
        assert not check(onnx.parser.parse_model(HEAD + "g (float[2] x) => (float[2] y) { y = Neg(x) }"), X)
        with pytest.raises(onnxref.OnnxRefError):
            run_on(ORT, load_model(model), X)
    finally:
        onnxref.unregister_op("Lost", domain="my")


def test_a_check_that_takes_too_long() -> None:
    assert not ShellCheck("sleep 5 && echo {}", seconds=0.1)(LOOP, X)


def test_numbers_of_the_case_are_readable(tmp_path: Path) -> None:
    found = reduce(LOOP, X, _holds("Mul"))
    found.save(tmp_path)
    tensor = onnx.load_tensor(str(tmp_path / "test_data_set_0" / "input_0.pb"))
    np.testing.assert_array_equal(numpy_helper.to_array(tensor), found.inputs["x"])
