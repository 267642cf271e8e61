"""Accuracy lost on purpose in real models: the reports must name where."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx.parser
import pytest
import typer
from model_zoo import REAL_MODELS, TORCH, RealModel
from typer.testing import CliRunner, Result

from onnxref.cli._precision import add_precision
from onnxref.debug._precision import PrecisionReport, precision
from onnxref.debug._quantised import compare_quantised
from onnxref.debug._simulate import KINDS, what_if
from onnxref.errors import BackendError, InputError, OutputError
from onnxref.graph import Model, Node
from onnxref.model import load_model
from onnxref.model._write import save_model


def zoo(name: str) -> RealModel:
    """Return a model of the zoo."""
    return next(model for model in REAL_MODELS if model.name == name)


CNN = zoo("torch cnn_opset9")
GPT = zoo("torch gpt_opset14")
SILERO = zoo("silero_vad 16 kHz")
LSTM = zoo("torch lstm_opset13")

LOOP = """<ir_version: 10, opset_import: ["": 21]> g (float[n] x) => (float[n] y, float[m, n] s)
<int64 count = {4}, bool yes = {1}, float[1] third = {0.3333333}> {
    y, s = Loop(count, yes, x) <body = b (int64 i, bool c, float[n] v) => (bool d, float[n] w, float[n] t) {
        d = Identity(c)
        m = Mul(v, third)
        w = Exp(m)
        t = Identity(m)
    }>
}"""


def _around(model: Model, label: str, before: Callable[[str, str], list[Node]]) -> Model:
    """Put nodes behind the output of a node: `before(given, wanted)` makes one value from another."""
    nodes: list[Node] = []
    for node in model.graph.nodes:
        if node.label != label:
            nodes.append(node)
            continue
        name = node.outputs[0]
        nodes.append(replace(node, outputs=("raw", *node.outputs[1:])))
        nodes += before("raw", name)
    return replace(model, graph=replace(model.graph, nodes=tuple(nodes)))


def _node(op_type: str, inputs: tuple[str, ...], output: str, name: str, **attributes: Any) -> Node:
    return Node(op_type, inputs, (output,), attributes, name=name, opset=14)


def _with(model: Model, **constants: Any) -> Model:
    graph = model.graph
    return replace(model, graph=replace(graph, initializers={**graph.initializers, **constants}))


# Shadow execution -----------------------------------------------------------------------------------


@pytest.mark.parametrize("model", [CNN, GPT, SILERO, LSTM], ids=lambda model: model.name)
def test_real_models_are_as_accurate_as_their_type(model: RealModel) -> None:
    found = precision(model.model(), model.calls()[0])
    for node in found.nodes:
        assert node.own is None or node.own.ulp < 3, str(node)
        assert node.note in ("", "made by the nodes inside")
    assert min(output.snr for output in found.outputs.values()) > 120
    measured = [node for node in found.nodes if node.dtype and not node.note]
    assert all(node.own is not None and node.total is not None for node in measured)
    assert sum(node.condition is not None for node in measured) > len(measured) / 2


def test_the_shadow_is_the_model_in_float64() -> None:
    model = load_model(CNN.model())
    found = precision(model, CNN.calls()[0])
    wide = {
        name: array.astype(np.float64) for name, array in model.graph.initializers.items() if _floats(array)
    }
    inputs = tuple(replace(value, type=None) for value in model.graph.inputs)
    outputs = tuple(replace(value, type=None) for value in model.graph.outputs)
    graph = replace(
        model.graph, initializers={**model.graph.initializers, **wide}, inputs=inputs, outputs=outputs
    )
    from onnxref import InferenceSession

    feeds = {name: value.astype(np.float64) for name, value in CNN.calls()[0].items()}
    (exact,) = InferenceSession(replace(model, graph=graph), backend="numpy").run(None, feeds)
    (actual,) = InferenceSession(model, backend="numpy", optimize="none").run(None, CNN.calls()[0])
    noise = np.sum((actual - exact) ** 2) / np.sum(exact**2)
    assert found.outputs["logits"].snr == pytest.approx(-10 * np.log10(noise), abs=0.01)


def _floats(array: Any) -> bool:
    return bool(array.dtype.kind == "f")


def test_cancellation_is_seen_in_condition_and_total() -> None:
    def cancel(given: str, wanted: str) -> list[Node]:
        return [
            _node("Add", (given, "large"), "shifted", "shift up"),
            _node("Sub", ("shifted", "large"), wanted, "shift down"),
        ]

    model = _with(_around(load_model(CNN.model()), "/Add", cancel), large=np.float32([1e5]))
    found = precision(model, CNN.calls()[0])
    assert found.worst(1, "condition")[0].path == "shift down"
    (down,) = (node for node in found.nodes if node.path == "shift down")
    assert down.condition is not None
    assert down.condition > 1e4
    assert down.own is not None
    assert down.own.ulp == 0
    assert down.inherited is not None
    assert down.inherited.ulp > 1e3
    assert found.outputs["logits"].snr < 60


def test_a_node_of_few_bits_is_the_worst_by_its_own_error() -> None:
    def through_half(given: str, wanted: str) -> list[Node]:
        return [
            _node("Cast", (given,), "half", "to half", to=10),
            _node("Cast", ("half",), wanted, "from half", to=1),
        ]

    model = _around(load_model(GPT.model()), "/qkv/MatMul", through_half)
    found = precision(model, GPT.calls()[0])
    (half,) = (node for node in found.nodes if node.path == "to half")
    assert half.dtype == "tensor(float16)"
    assert half.own is not None
    assert 0.1 < half.own.ulp < 0.5  # of float16
    (back,) = (node for node in found.nodes if node.path == "from half")
    assert back.inherited is not None
    assert back.inherited.ulp > 1000  # of float32
    ranked = found.worst(len(found.nodes), "total")
    assert next(node.path for node in found.nodes if node.total and node.total.ulp > 500) == "from half"
    assert ranked[0].total is not None


def test_shadows_follow_values_through_loops() -> None:
    found = precision(onnx.parser.parse_model(LOOP), np.float32([0.1, 0.7, 1.3]))
    exact = np.float32([0.1, 0.7, 1.3]).astype(np.float64)
    for _ in range(4):
        exact = np.exp(exact * np.float64(np.float32(0.3333333)))
    (loop,) = (node for node in found.nodes if node.op_type == "Loop")
    assert loop.note == "made by the nodes inside"
    last = [node for node in found.nodes if node.path == "Loop#0[3]/body/Exp#2"]
    assert len(last) == 1
    assert last[0].inherited is not None
    assert last[0].inherited.ulp > 0
    from onnxref import run

    actual = run(onnx.parser.parse_model(LOOP), np.float32([0.1, 0.7, 1.3]), backend="numpy")["y"]
    noise = np.sum((actual - exact) ** 2) / np.sum(exact**2)
    assert found.outputs["y"].snr == pytest.approx(-10 * np.log10(noise), abs=0.1)


def test_operators_without_float64_keep_their_type() -> None:
    text = """<ir_version: 10, opset_import: ["": 13]> g (float[n] x) => (float[n] y) <float s = {0.1}> {
        q = QuantizeLinear(x, s)
        y = DequantizeLinear(q, s) }"""
    found = precision(onnx.parser.parse_model(text), np.float32([0.11, 0.52]))
    assert [node.note for node in found.nodes] == ["not in float64 by its schema"] * 2


def test_decisions_that_rounding_changes_are_counted() -> None:
    text = """<ir_version: 10, opset_import: ["": 21]> g (float[n] x) => (bool[n] y) <float one = {1.0}> {
        a = Add(x, one)  b = Sub(a, one)  y = Less(b, x) }"""
    found = precision(onnx.parser.parse_model(text), np.float32([1e-9, 0.25]))
    assert found.nodes[-1].flips == 1


def test_random_nodes_are_left_out() -> None:
    text = """<ir_version: 10, opset_import: ["": 21]> g (float[n] x) => (float[n] y) {
        r = RandomNormalLike(x)  y = Add(x, r) }"""
    found = precision(onnx.parser.parse_model(text), np.ones(4, np.float32))
    assert found.nodes[0].note == "draws random numbers"
    assert found.outputs["y"].ulp < 0.5


def test_bounds_and_json() -> None:
    found = precision(CNN.model(), CNN.calls()[0], condition=False)
    assert found.above(1000) == []
    worst = found.worst(1)[0]
    assert worst.own is not None
    assert found.above(worst.own.ulp / 2)
    assert all(node.condition is None for node in found.nodes)
    report = json.loads(json.dumps(found.to_json()))
    assert report["nodes"][0]["node"] == "/stem/stem.0/Conv"
    assert "<table>" in found._repr_html_()
    assert worst.path in str(found)
    assert PrecisionReport(()).title.endswith("no floats")


# What if --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [*KINDS, "float16", "fp8"])
def test_fewer_bits_cost_about_what_they_should(kind: str) -> None:
    found = what_if(CNN.model(), CNN.calls()[0], kind)
    low, high = {"fp16": (60, 75), "float16": (60, 75), "bf16": (42, 55), "int8": (30, 45)}.get(
        kind, (15, 32)
    )
    assert low < found.snr < high
    assert len(found.chosen) == 14
    assert [node.path for node in found.nodes] == list(found.chosen)
    for node in found.nodes:
        assert node.own is not None
        assert node.total is not None


def test_only_chosen_nodes_are_simulated() -> None:
    found = what_if(CNN.model(), CNN.calls()[0], "e5m2", nodes="/dilated/*")
    assert found.chosen == ("/dilated/Conv",)
    before = [node for node in found.nodes if node.path == "/pool/MaxPool"]
    assert before[0].total is not None
    assert before[0].total.absolute == 0
    assert [node.path for node in found.worst()] == ["/dilated/Conv"]


def test_each_node_alone_shows_which_is_sensitive() -> None:
    model = load_model(CNN.model())
    found = what_if(model, CNN.calls()[0], "e4m3", op_types=["Conv", "Gemm"], each=True)
    alone = {node.path: node.alone for node in found.nodes if node.chosen}
    assert all(errors is not None for errors in alone.values())
    assert found.worst(1)[0].alone is not None
    assert found.snr <= min(errors.snr for errors in alone.values() if errors is not None) + 5


def test_an_overflow_of_float16_is_found_in_a_branch() -> None:
    def scale(given: str, wanted: str) -> list[Node]:
        return [
            _node("Mul", (given, "large"), "scaled", "scale up"),
            _node("Div", ("scaled", "large"), wanted, "scale down"),
        ]

    model = _with(_around(load_model(CNN.model()), "/Add", scale), large=np.float32([1e6]))
    found = what_if(model, CNN.calls()[0], "fp16")
    assert found.worst(1)[0].path in ("scale up", "scale down")
    assert found.snr == -np.inf
    inner = what_if(SILERO.model(), SILERO.calls()[0], "fp16")
    assert inner.snr > 40
    assert any(node.chosen and "/" in node.path and node.own is not None for node in inner.nodes)


def test_what_cannot_be_simulated() -> None:
    with pytest.raises(InputError, match="there is no simulation of 'fp12'; choose from fp16, bf16, e4m3"):
        what_if(CNN.model(), CNN.calls()[0], "fp12")
    with pytest.raises(OutputError, match="no node that was run matches 'nothing'"):
        what_if(CNN.model(), CNN.calls()[0], "fp16", nodes="nothing")


def test_rounding_through_types() -> None:
    value = np.float32([0.1, 1e5, -1e6, np.nan])
    np.testing.assert_array_equal(KINDS["fp16"](value)[1:3], [np.inf, -np.inf])
    np.testing.assert_array_equal(KINDS["e4m3"](value)[1:3], [448, -448])
    assert np.isnan(KINDS["int8"](value)[3])
    assert KINDS["int8"](np.float32([1, -127]))[0] == 1
    assert KINDS["int8"](np.zeros(2, np.float32)).tolist() == [0, 0]
    assert KINDS["bf16"](np.float32([1.001]))[0] == np.float32(ml_dtypes.bfloat16(1.001))


# Quantised models -----------------------------------------------------------------------------------


def _quantised(folder: Path, form: str, *, per_channel: bool = False) -> Path:
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_dynamic, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.calls = iter(SOURCE_CALLS)

        def get_next(self) -> Any:
            return next(self.calls, None)

    target = folder / f"{form}.onnx"
    if form == "dynamic":
        quantize_dynamic(str(SOURCE), str(target))
    else:
        quantize_static(
            str(SOURCE), str(target), Reader(), quant_format=QuantFormat[form], per_channel=per_channel
        )
    return target


SOURCE = TORCH / "cnn_dynamo_opset20.onnx"
SOURCE_CALLS = zoo("torch cnn_dynamo_opset20").calls()


@pytest.mark.parametrize("form", ["QDQ", "QOperator", "dynamic"])
def test_every_form_of_quantised_model_is_compared_layer_by_layer(form: str, tmp_path: Path) -> None:
    found = compare_quantised(_quantised(tmp_path, form), SOURCE, SOURCE_CALLS[0])
    assert 30 < found.snr < 60
    assert len(found.layers) >= 12
    assert {"Conv", "Gemm", "Mul", "Add"} <= {layer.op_type for layer in found.layers}
    for layer in found.layers:
        assert layer.local is not None
        assert layer.local.snr > 30, layer.cells()
    assert (not found.quantisers) == (form == "dynamic")
    assert all(quantiser.snr > 30 for quantiser in found.quantisers)


@pytest.mark.parametrize("factor", [1 / 16, 64], ids=["too small", "too large"])
def test_a_bad_scale_is_found(factor: float, tmp_path: Path) -> None:
    model = load_model(_quantised(tmp_path, "QDQ"))
    victim = next(n for n in model.graph.nodes if n.op_type == "QuantizeLinear" and n.inputs[0] == "silu")
    scale = model.graph.initializers[victim.inputs[1]]
    bad = _with(model, **{victim.inputs[1]: np.asarray(scale * np.float32(factor))})
    found = compare_quantised(bad, SOURCE, SOURCE_CALLS[0])
    worst = found.worst_quantisers(1)[0]
    assert worst.path == victim.label
    assert worst.advice.startswith("scale too small" if factor < 1 else "scale too large")
    # The layer that reads the badly quantised value is the one that is wrong by itself.
    assert found.worst_layers(1)[0].op_type == "Add"
    assert found.snr < 35


def test_a_narrower_copy_is_compared_too(tmp_path: Path) -> None:
    """A model of float16 with casts around it counts as a quantised one."""
    model = load_model(CNN.model())
    half = {n: a.astype(np.float16) for n, a in model.graph.initializers.items() if _floats(a)}
    (value,) = model.graph.inputs
    cast = Node("Cast", (value.name,), ("half",), {"to": 10}, name="in", opset=9)
    back = Node("Cast", ("half logits",), ("logits",), {"to": 1}, name="out", opset=9)
    names = {value.name: "half", "logits": "half logits"}
    nodes = tuple(
        replace(
            node,
            inputs=tuple(names.get(n, n) for n in node.inputs),
            outputs=tuple(names.get(n, n) for n in node.outputs),
        )
        for node in model.graph.nodes
    )
    graph = replace(model.graph, nodes=(cast, *nodes, back), value_types={})
    graph = replace(graph, initializers={**graph.initializers, **half})
    save_model(replace(model, graph=graph), tmp_path / "half.onnx")
    found = compare_quantised(tmp_path / "half.onnx", CNN.model(), CNN.calls()[0])
    assert len(found.layers) == 14
    assert 55 < found.snr < 80


def test_models_without_anything_in_common_still_compare_their_outputs() -> None:
    one = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["": 21]> g (float[n] x) => (float[n] y) { y = Relu(x) }'
    )
    other = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["": 21]> g (float[n] a) => (float[n] b) '
        "<float zero = {0.0}> { b = Max(a, zero) }"
    )
    found = compare_quantised(other, one, np.float32([-1, 2]))
    assert [layer.counterpart for layer in found.layers] == ["b"]
    assert found.outputs["y"].passed


def test_a_quantised_model_that_nothing_runs(tmp_path: Path) -> None:
    text = """<ir_version: 10, opset_import: ["": 21, "my.ops": 1]> g (float[n] x) => (float[n] y) {
        y = my.ops.Strange(x) }"""
    with pytest.raises(BackendError, match="the quantised model does not run: onnxruntime cannot load"):
        compare_quantised(
            onnx.parser.parse_model(text),
            onnx.parser.parse_model(text.replace("my.ops.Strange", "Relu")),
            np.float32([1]),
        )


# The command ----------------------------------------------------------------------------------------

APP = typer.Typer()
APP.callback()(lambda: None)
add_precision(APP)


def _invoke(*arguments: Any) -> Result:
    return CliRunner(env={"COLUMNS": "250"}).invoke(APP, ["precision", *map(str, arguments)])


def test_command() -> None:
    result = _invoke(SOURCE, "--top", 3, "--fail", "--max-ulp", 50)
    assert result.exit_code == 0, result.output
    assert "the 3 nodes with the largest own error" in result.stdout
    assert "outputs against float64: logits" in result.stdout
    result = _invoke(SOURCE, "--fail", "--max-ulp", 0.01, "--json")
    assert result.exit_code == 2
    report = json.loads(result.stdout)
    assert not report["passed"]
    assert report["above"]
    assert _invoke(SOURCE, "--by", "condition", "--fail", "--min-snr", 500).exit_code == 2


def test_command_with_simulation() -> None:
    result = _invoke(SOURCE, "--what-if", "int8", "--op", "Conv", "--each", "--fail", "--min-snr", 10)
    assert result.exit_code == 0, result.output
    assert "4 nodes in int8" in result.stdout
    report = json.loads(_invoke(SOURCE, "--what-if", "bf16", "--nodes", "node_linear", "--json").stdout)
    assert report["chosen"] == ["node_linear"]
    assert report["worst"] == ["node_linear"]


def test_command_with_a_quantised_model(tmp_path: Path) -> None:
    quantised = _quantised(tmp_path, "QDQ", per_channel=True)
    result = _invoke(quantised, "--against", SOURCE, "--fail", "--min-snr", 100)
    assert result.exit_code == 2, result.output
    assert "layers that lose most" in result.stdout
    assert "quantisers that lose most" in result.stdout
    report = json.loads(_invoke(quantised, "--against", SOURCE, "--json").stdout)
    assert len(report["layers"]) >= 12


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--fail",), "--fail needs a bound: --max-ulp or --min-snr"),
        (("--by", "luck"), "--by must be own, total or condition (got 'luck')"),
        (("--nodes", "x"), "--nodes says what --what-if simulates, which is not given"),
        (("--what-if", "fp16", "--against", SOURCE), "two different questions: ask one of them"),
        (("--what-if", "fp12"), "there is no simulation of 'fp12'"),
    ],
)
def test_command_reports_errors(arguments: tuple[Any, ...], message: str) -> None:
    result = _invoke(SOURCE, *arguments)
    assert result.exit_code == 1
    assert message in " ".join(result.output.split())
