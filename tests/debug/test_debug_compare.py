"""Faults planted in real models: the comparison must name the node, and tell it from those that inherit."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.numpy_helper
import onnx.parser
import pytest
import typer
from model_zoo import REAL_MODELS, TORCH, RealModel
from typer.testing import CliRunner, Result

import onnxref
from onnxref.cli._compare import add_compare
from onnxref.debug._align import align
from onnxref.debug._compare import align_models, compare, iterate_comparison
from onnxref.debug._comparison import Comparison, Verdict
from onnxref.debug._runners import OnnxRefRunner, bound_feeds
from onnxref.errors import BackendError, InputError
from onnxref.graph import Graph, Model
from onnxref.model import load_model


def zoo(name: str) -> RealModel:
    """Return a model of the zoo."""
    return next(model for model in REAL_MODELS if model.name == name)


CNN = zoo("torch cnn_opset9")
GPT = zoo("torch gpt_opset14")
ENCODER = zoo("torch encoder_opset17")
SILERO = zoo("silero_vad 16 kHz")


def _wrong(right: Any) -> Any:
    @functools.wraps(right)
    def wrong(*inputs: Any, **attributes: Any) -> Any:
        return (right(*inputs, **attributes) * 1.01).astype(inputs[0].dtype)

    return wrong


@contextmanager
def _wrong_kernel(op_type: str) -> Iterator[None]:
    """Make one operator 1% too large, for sessions made meanwhile."""
    versions = {version: op for version, op in onnxref.registry.operators() if op.op_type == op_type}
    for version, operator in versions.items():
        onnxref.register_op(op_type, domain="", since=version)(_wrong(operator.kernel))
    try:
        yield
    finally:
        onnxref.unregister_op(op_type, domain="")


def _renamed(model: Model) -> Model:
    """Return the model with every value and node that is not an input or output named anew."""
    graph = model.graph
    kept = {value.name for value in (*graph.inputs, *graph.outputs)} | {""}
    names: dict[str, str] = {}

    def name_of(name: str) -> str:
        return name if name in kept else names.setdefault(name, f"t{len(names)}")

    nodes = tuple(
        replace(n, name=f"n{i}", inputs=tuple(map(name_of, n.inputs)), outputs=tuple(map(name_of, n.outputs)))
        for i, n in enumerate(graph.nodes)
    )
    constants = {name_of(name): array for name, array in graph.initializers.items()}
    return replace(model, graph=replace(graph, nodes=nodes, initializers=constants, value_types={}))


def _verdicts(found: Comparison) -> dict[str, Verdict]:
    return {node.path: node.verdict for node in found.nodes}


# One model on two runtimes --------------------------------------------------------------------------


@pytest.mark.parametrize("model", [CNN, GPT, ENCODER, SILERO], ids=lambda model: model.name)
@pytest.mark.parametrize("against", ["onnxruntime", "onnxruntime:disabled"])
def test_real_models_agree_with_onnxruntime(model: RealModel, against: str) -> None:
    found = compare(model.model(), model.calls()[0], against)
    assert found.passed, str(found)
    assert found.counts["agrees"] > 1
    assert found.first is None
    assert not found.wrong
    if against == "onnxruntime:disabled":
        assert found.counts == {"agrees": len(found.nodes)}


def test_every_node_has_both_errors() -> None:
    found = compare(CNN.model(), CNN.calls()[0], "onnxruntime:disabled")
    for node in found.nodes:
        for value in node.outputs:
            assert value.cumulative is not None
            assert value.local is not None
            assert value.local.snr >= min(value.cumulative.snr, 120)


@pytest.mark.parametrize("against", ["onnxruntime:disabled", "onnxruntime:extended", "onnx.reference"])
def test_a_wrong_kernel_is_told_from_what_inherits_its_error(against: str) -> None:
    model = GPT
    graph = load_model(model.model()).graph
    wrong = {node.label for node in graph.nodes if node.op_type == "Softmax"}
    with _wrong_kernel("Softmax"):
        found = compare(model.model(), model.calls()[0], against)
    assert {node.path for node in found.wrong} == wrong
    assert found.first is not None
    assert found.first.path in wrong
    assert found.counts["inherited"] > 3
    assert found.counts.keys() <= {"agrees", "wrong", "inherited", "unseen"}
    assert f"{found.first.path} (Softmax): wrong" in str(found)


def test_a_wrong_kernel_inside_of_a_branch() -> None:
    with _wrong_kernel("Sigmoid"):
        found = compare(SILERO.model(), SILERO.calls()[0], "onnxruntime:disabled")
    (first, *rest) = [node for node in found.nodes if node.failed]
    assert first.verdict is Verdict.wrong
    assert first.op_type == "Sigmoid"
    assert first.path == "If_0/then_branch/If_0_then_branch__Inline_0__/decoder/decoder/3/Sigmoid"
    assert {node.verdict for node in rest} == {Verdict.inherited}


def test_stopping_at_the_first_divergence() -> None:
    with _wrong_kernel("Softmax"):
        found = compare(GPT.model(), GPT.calls()[0], "onnxruntime:disabled", stop=True)
    assert found.stopped
    assert found.nodes[-1].op_type == "Softmax"
    assert not any(node.failed for node in found.nodes[:-1])
    assert "stopped at the first that failed" in found.title


def test_node_after_node_with_little_memory() -> None:
    whole = compare(CNN.model(), CNN.calls()[0], "onnxruntime:disabled")
    steps = iterate_comparison(CNN.model(), CNN.calls()[0], "onnxruntime:disabled", memory=20_000)
    first = next(steps)
    assert first.path == whole.nodes[0].path
    assert [node.path for node in (first, *steps)] == [node.path for node in whole.nodes]


def test_without_local_errors_nothing_is_blamed() -> None:
    with _wrong_kernel("Softmax"):
        found = compare(GPT.model(), GPT.calls()[0], "onnxruntime:disabled", local=False)
    assert found.counts.keys() == {"agrees", "differs"}
    assert found.first is not None
    assert found.first.op_type == "Softmax"


def test_golden_values_may_be_those_of_another_runtime() -> None:
    with _wrong_kernel("Softmax"):
        found = compare(GPT.model(), GPT.calls()[0], "numpy", golden="onnxruntime:disabled")
    assert {node.op_type for node in found.wrong} == {"Softmax"}
    assert (found.golden, found.other) == ("onnxruntime:disabled", "numpy")


def test_bad_batch_normalisation_of_the_onnx_package_is_found() -> None:
    """A fault that nobody planted: `onnx.reference` computes version 9 as if it were training."""
    model = zoo("ocr direction")
    feeds = {"x": model.calls()[0]["x"][:1]}
    found = compare(model.model(), feeds, "onnx.reference", stop=True)
    assert found.first is not None
    assert (found.first.op_type, found.first.verdict) == ("BatchNormalization", Verdict.wrong)


# Recorded values and functions ----------------------------------------------------------------------


def _recorded(model: RealModel, op_type: str) -> dict[str, Any]:
    with _wrong_kernel(op_type):
        runner = OnnxRefRunner(model.model())
        return dict(runner.values(bound_feeds(runner.model.graph, model.calls()[0])))


def test_recorded_values_are_judged_by_our_reference(tmp_path: Path) -> None:
    np.savez(tmp_path / "values.npz", **_recorded(GPT, "Softmax"))
    found = compare(GPT.model(), GPT.calls()[0], tmp_path / "values.npz")
    assert {node.op_type for node in found.wrong} == {"Softmax"}
    assert found.counts["inherited"] > 3
    assert found.other == "values.npz"


def test_a_function_that_knows_some_values() -> None:
    values = _recorded(GPT, "Softmax")
    some = {name: values[name] for name in list(values)[::2] + ["logits"]}
    found = compare(GPT.model(), GPT.calls()[0], lambda feeds: some)
    assert found.first is not None
    assert found.first.verdict in (Verdict.differs, Verdict.wrong)
    assert found.counts["unseen"] > 3


# Two models -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", [CNN, GPT, ENCODER], ids=lambda model: model.name)
def test_a_renamed_model_is_aligned_completely(model: RealModel) -> None:
    one = load_model(model.model())
    other = _renamed(one)
    found = align(one.graph, other.graph)
    assert len(found.values) == len(
        {name for node in one.graph.nodes for name in node.outputs} - _constants(one)
    )
    for node, twin in zip(one.graph.nodes, other.graph.nodes, strict=True):
        for name, counterpart in zip(node.outputs, twin.outputs, strict=True):
            if name in found.values and found.rules[name] != "forwards":
                assert found.values[name] == counterpart
    compared = compare(one, model.calls()[0], "numpy", other_model=other)
    assert compared.counts == {"agrees": len(compared.nodes)}


def _constants(model: Model) -> set[str]:
    return {node.outputs[0] for node in model.graph.nodes if node.op_type == "Constant"}


def test_a_changed_weight_in_a_renamed_model() -> None:
    one = load_model(CNN.model())
    (node,) = (n for n in one.graph.nodes if n.label == "/pointwise/Conv")
    weights = {
        **one.graph.initializers,
        node.inputs[1]: one.graph.initializers[node.inputs[1]] * np.float32(1.05),
    }
    other = _renamed(replace(one, graph=replace(one.graph, initializers=weights)))
    found = compare(one, CNN.calls()[0], "numpy", other_model=other)
    assert [n.path for n in found.wrong] == ["/pointwise/Conv"]
    assert set(_verdicts(found).values()) == {Verdict.agrees, Verdict.wrong, Verdict.inherited}


@pytest.mark.parametrize("level", ["ORT_ENABLE_BASIC", "ORT_ENABLE_EXTENDED"])
@pytest.mark.parametrize("fault", [False, True], ids=["right", "divergent"])
def test_a_model_before_and_after_an_optimiser(level: str, fault: bool, tmp_path: Path) -> None:
    ort = pytest.importorskip("onnxruntime")
    options = ort.SessionOptions()
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, level)
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 4
    source = TORCH / "cnn_opset9.onnx"
    ort.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])
    proto = onnx.load(tmp_path / "optimised.onnx")
    _rename_proto(proto)
    if fault:
        _spoil(proto, "/dilated/Conv")
    found = compare(source, CNN.calls()[0], "onnxruntime:disabled", other_model=proto)
    assert found.counts["agrees"] >= 5
    if fault:
        assert [node.path for node in found.wrong] == ["/dilated/Conv"]
        assert found.first is not None
        assert found.first.path == "/dilated/Conv"
        assert found.first.merged == ()
        fused = [node.merged for node in found.nodes if node.path == "/Mul"]
        assert fused == ([("/Sigmoid",)] if level == "ORT_ENABLE_EXTENDED" else [()])
    else:
        assert found.passed, str(found)


def test_a_changed_weight_inside_of_a_branch() -> None:
    one = load_model(SILERO.model())
    label = "If_0_then_branch__Inline_0__/encoder/2/reparam_conv/Conv"

    def change(graph: Graph) -> Graph:
        nodes = tuple(
            replace(
                n, attributes={k: change(v) if isinstance(v, Graph) else v for k, v in n.attributes.items()}
            )
            for n in graph.nodes
        )
        names = {n.inputs[1] for n in nodes if n.name == label}
        constants = {k: v * np.float32(1.1) if k in names else v for k, v in graph.initializers.items()}
        nodes = tuple(
            replace(n, attributes={"value": n.attributes["value"] * np.float32(1.1)})
            if n.op_type == "Constant" and n.outputs[0] in names
            else n
            for n in nodes
        )
        return replace(graph, nodes=nodes, initializers=constants)

    found = compare(one, SILERO.calls()[0], "numpy", other_model=replace(one, graph=change(one.graph)))
    assert [node.path for node in found.wrong] == [f"If_0/then_branch/{label}"]
    assert found.counts["inherited"] > 10


def _rename_proto(proto: onnx.ModelProto) -> None:
    kept = {value.name for value in (*proto.graph.input, *proto.graph.output)} | {""}
    names: dict[str, str] = {}
    for node in proto.graph.node:
        for fields in (node.input, node.output):
            for i, name in enumerate(fields):
                fields[i] = name if name in kept else names.setdefault(name, f"t{len(names)}")
    for tensor in proto.graph.initializer:
        tensor.name = names.get(tensor.name, tensor.name)
    del proto.graph.value_info[:]


def _spoil(proto: onnx.ModelProto, label: str) -> None:
    """Make the weights of a convolution a little larger, as a pass that folds a wrong scale would."""
    (node,) = (n for n in proto.graph.node if n.name.startswith(label))
    (tensor,) = (t for t in proto.graph.initializer if t.name == node.input[1])
    array = onnx.numpy_helper.to_array(tensor) * np.float32(1.02)
    tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))


def test_alignment_by_value_needs_values() -> None:
    one = load_model(CNN.model())
    found = align_models(one, _renamed(one), CNN.calls()[0])
    assert set(found.rules.values()) == {"name", "forwards"}


# Errors ---------------------------------------------------------------------------------------------


def test_a_model_that_the_other_side_refuses() -> None:
    model = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["": 21, "my.ops": 1]> g (float[n] x) => (float[n] y) {'
        "a = Relu(x)  b = my.ops.Strange(a)  y = Neg(b) }"
    )
    onnxref.register_op("Strange", domain="my.ops")(lambda x: x + 1)
    try:
        found = compare(model, np.float32([1, 2]), "onnxruntime:disabled")
    finally:
        onnxref.unregister_op("Strange", domain="my.ops")
    assert _verdicts(found) == {"Relu#0": "agrees", "Strange#1": "unseen", "Neg#2": "agrees"}
    assert "cannot run as a whole" in found.title


def test_wrong_feeds_and_runners() -> None:
    with pytest.raises(InputError, match="the model has no input 'nothing'"):
        compare(CNN.model(), {"nothing": np.ones(1)})
    with pytest.raises(BackendError, match="there is no runner 'fast'"):
        compare(CNN.model(), CNN.calls()[0], "fast")


def test_a_notebook_shows_escaped_text() -> None:
    model = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["": 21]> g (float[n] x) => (float[n] y) { y = Relu(x) }'
    )
    model.graph.node[0].name = "<script>"
    html = compare(model, np.float32([1]), "numpy")._repr_html_()
    assert "&lt;script&gt;" in html
    assert "<script>" not in html


# The command ----------------------------------------------------------------------------------------

APP = typer.Typer()
APP.callback()(lambda: None)
add_compare(APP)


def _invoke(*arguments: Any) -> Result:
    return CliRunner(env={"COLUMNS": "250"}).invoke(APP, ["compare", *map(str, arguments)])


def test_command_passes(tmp_path: Path) -> None:
    result = _invoke(TORCH / "cnn_opset9.onnx", "--against", "onnxruntime:disabled", "--fail", "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["passed"]
    assert report["first"] is None
    assert report["counts"] == {"agrees": 14}
    assert report["nodes"][0]["outputs"][0]["cumulative"]["passed"]


def test_command_names_the_node_and_fails() -> None:
    with _wrong_kernel("Softmax"):
        path = TORCH / "gpt_opset14.onnx"
        feeds = GPT.calls()[0]
        name, value = next(iter(feeds.items()))
        given = f"{name}={json.dumps(value.tolist())}"
        result = _invoke(path, "-i", given, "--first", "--fail")
        assert result.exit_code == 2, result.output
        assert "first: /Softmax (wrong)" in result.stdout
        report = json.loads(_invoke(path, "-i", given, "--json").stdout)
    assert report["wrong"] == ["/Softmax"]
    assert not report["passed"]


def test_command_with_two_models(tmp_path: Path) -> None:
    source = TORCH / "cnn_opset9.onnx"
    result = _invoke(source, source, "--all", "--atol", "0", "--rtol", "0")
    assert result.exit_code == 0, result.output
    assert "the other numpy against numpy: 14 agrees" in result.stdout
    assert "/stem/stem.0/Conv" in result.stdout


def test_command_reports_errors() -> None:
    result = _invoke(TORCH / "cnn_opset9.onnx", "--against", "nothing")
    assert result.exit_code == 1
    assert "there is no runner 'nothing'" in result.output
