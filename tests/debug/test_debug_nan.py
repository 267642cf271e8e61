"""Faults planted in real models: the tool must name the node that makes them, and what it made them from."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
import typer
from model_zoo import DRAWN_MODELS, REAL_MODELS
from typer.testing import CliRunner

import onnxref
from onnxref.cli._nan import add_nan
from onnxref.debug._causes import find_cause
from onnxref.debug._half import half_loss, static_path
from onnxref.debug._nan import NanReport, find_nan
from onnxref.errors import InputError, NodeError
from onnxref.graph import Graph, Model, Node
from onnxref.model import load_model
from onnxref.model._write import save_model

ZOO = {model.name: model for model in (*REAL_MODELS, *DRAWN_MODELS)}
Change = Callable[[Node], Node]


def _model(name: str) -> Model:
    return load_model(ZOO[name].model())


def _feeds(name: str) -> dict[str, Any]:
    return ZOO[name].calls()[0]


def _with_nodes(graph: Graph, label: str, change: Change) -> Graph:
    """Return a graph in which one node, at whatever depth, is changed."""

    def changed(node: Node) -> Node:
        bodies = {
            k: _with_nodes(v, label, change) for k, v in node.attributes.items() if isinstance(v, Graph)
        }
        node = replace(node, attributes={**node.attributes, **bodies}) if bodies else node
        return change(node) if node.label == label else node

    return replace(graph, nodes=tuple(changed(node) for node in graph.nodes))


def _edited(model: Model, label: str, change: Change) -> Model:
    return replace(model, graph=_with_nodes(model.graph, label, change))


def _with_initializers(model: Model, **arrays: Any) -> Model:
    graph = replace(model.graph, initializers={**model.graph.initializers, **arrays})
    return replace(model, graph=graph)


def _found(model: Any, feeds: Any, **options: Any) -> NanReport:
    report = find_nan(model, feeds, **options)
    assert report is not None
    return report


def _text(text: str) -> onnx.ModelProto:
    return onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": 21]>\n{text}')


# ---------------------------------------------------------------------------------- all is well


@pytest.mark.parametrize(
    "name",
    ["silero_vad 16 kHz", "ocr direction", "torch gpt_opset14", "torch encoder_dynamo_opset18", "digits"],
)
def test_models_as_they_are(name: str) -> None:
    assert find_nan(_model(name), _feeds(name)) is None


# ---------------------------------------------------------------------------------- planted faults


def test_a_negative_variance() -> None:
    """The batch normalisation with a variance below zero is named, with the channel's variance."""
    name = "light_inception_v2 with drawn weights"
    model = _model(name)
    norms = [node for node in model.graph.nodes if node.op_type == "BatchNormalization"]
    node = norms[len(norms) // 2]
    variance = model.graph.initializers[node.inputs[4]].copy()
    variance[3] = -0.5
    report = _found(_with_initializers(model, **{node.inputs[4]: variance}), _feeds(name), half=False)
    first = report.first
    assert first is not None
    assert (first.kind, first.path, first.from_finite) == ("nan", node.label, True)
    assert first.output == node.outputs[0]
    cause = first.causes[0]
    assert cause.output.coordinates[:2] == (0, 3)
    assert cause.inputs[-1].name == node.inputs[4]
    assert cause.inputs[-1].coordinates == (3,)
    assert cause.inputs[-1].value == -0.5
    assert cause.inputs[0].coordinates == cause.output.coordinates
    assert first.count == np.prod(first.shape[2:])


def test_a_wrong_operator_in_a_branch() -> None:
    """Real and imaginary power are subtracted instead of added, inside of an If: a root of less than zero."""
    add, root = (f"If_0_then_branch__Inline_0__/stft/{name}" for name in ("Add", "Sqrt"))
    model = _edited(_model("silero_vad 16 kHz"), add, lambda node: replace(node, op_type="Sub"))
    first = _found(model, _feeds("silero_vad 16 kHz")).first
    assert first is not None
    assert (first.kind, first.path) == ("nan", f"If_0/then_branch/{root}")
    (source,) = first.causes[0].inputs
    assert source.coordinates == first.causes[0].output.coordinates
    assert source.value < 0


def test_a_division_by_zero_and_what_becomes_of_it() -> None:
    """Attention scores over zero are infinities; the softmax that makes NaNs of them is told apart."""
    name, label = "torch gpt_opset14", "/0/self_attn/Div"
    model = _model(name)
    divisions = [n for n in model.graph.nodes if n.op_type == "Div"]
    softmax = next(n for n in model.graph.nodes if n.op_type == "Softmax")
    label = divisions[0].label
    zeros = np.zeros(1, np.float32)
    model = _with_initializers(model, planted=zeros)
    model = _edited(model, label, lambda n: replace(n, inputs=(n.inputs[0], "planted")))
    report = _found(model, _feeds(name))
    infinity = next(f for f in report.findings if f.kind == "infinity")
    assert infinity.path == label
    assert infinity.causes[0].inputs[1].value == 0
    assert infinity.causes[0].inputs[1].name == "planted"
    assert report.first is report.findings[0]
    nan = next((f for f in report.findings if f.kind == "nan"), None)
    if nan is not None and nan.op_type == "Softmax":
        assert nan.path == softmax.label
        assert not nan.from_finite


def test_a_float16_overflow() -> None:
    """A filter that is far too large: the first overflow is there, and it is to stay in float32."""
    name = "light_squeezenet with drawn weights"
    model = _model(name)
    convs = [node for node in model.graph.nodes if node.op_type == "Conv"]
    node = convs[7]
    weight = model.graph.initializers[node.inputs[1]] * np.float32(5e4)
    feeds = _feeds(name)
    report = _found(_with_initializers(model, **{node.inputs[1]: weight}), feeds)
    assert [f.kind for f in report.findings] == ["overflow"]
    first = report.first
    assert first is not None
    assert first.path == node.label
    assert abs(first.causes[0].output.value) > 65504
    assert "terms of the sum" in first.causes[0].how
    x, w = first.causes[0].inputs[:2]
    assert (x.name, w.name) == node.inputs[:2]
    labels = [n.label for n in model.graph.nodes]
    kept = [k.path for k in report.keep_float32]
    assert kept[0] == labels[labels.index(node.label)]
    readers = [n.label for n in model.graph.nodes if node.outputs[0] in n.inputs]
    assert set(readers) <= set(kept)
    before = labels[: labels.index(node.label)]
    assert not set(before) & set(kept)
    assert "reaches" in report.keep_float32[0].reasons[0]
    assert report.node_names[0] == node.label


def test_an_overflow_of_squares_in_a_layer_norm() -> None:
    """Activations of a few hundred are fine; their squares, in a taken apart layer norm, are not."""
    name = "torch gpt_opset14"
    model, feeds = _model(name), _feeds(name)
    power = next(node for node in model.graph.nodes if node.op_type == "Pow")
    embeddings = [n.inputs[0] for n in model.graph.nodes if n.op_type == "Gather"]
    scaled = {
        key: model.graph.initializers[key] * np.float32(200)
        for key in embeddings
        if key in model.graph.initializers and model.graph.initializers[key].ndim == 2
    }
    report = _found(_with_initializers(model, **scaled), feeds)
    assert report.findings[0].path == power.label
    assert report.findings[0].causes[0].inputs[0].value ** 2 > 65504
    mean = next(n for n in model.graph.nodes if n.inputs[:1] == power.outputs[:1])
    assert {power.label, mean.label} <= set(report.node_names)


def test_an_overflow_that_a_real_model_has() -> None:
    """magika's second layer norm sums up squares to 195,000, as it is shipped."""
    report = _found(_model("magika"), _feeds("magika"))
    (finding,) = report.findings
    assert (finding.kind, finding.op_type, finding.path.split("/")[-2:]) == (
        "overflow",
        "ReduceSum",
        ["LayerNorm_1", "Sum_1"],
    )
    largest, second = finding.causes[0].inputs
    assert 65504 > largest.value > second.value > 1000
    assert finding.path in report.node_names
    assert [fault.inf for fault in report.given] == [1]


def test_a_kernel_of_ones_own() -> None:
    """A kernel that divides by what is zero at one place only."""

    @onnxref.register_op("Shrunk", domain="tests.nan")
    def shrunk(x: Any) -> Any:
        y = x.copy()
        y.reshape(-1)[5] = np.nan
        return y

    name = "ocr direction"
    model = _model(name)
    relus = [node for node in model.graph.nodes if node.op_type == "Relu"]
    node = relus[4]
    model = replace(model, opset_imports={**model.opset_imports, "tests.nan": 1})
    wrong = _edited(model, node.label, lambda n: replace(n, op_type="Shrunk", domain="tests.nan", opset=1))
    first = _found(wrong, _feeds(name), half=False).first
    assert first is not None
    # The label of a node without a name has its operator in it.
    assert first.path.rpartition("#")[2] == node.label.rpartition("#")[2]
    assert (first.op_type, first.count) == ("Shrunk", 1)
    assert first.causes[0].output.coordinates == np.unravel_index(5, first.shape)
    assert first.causes[0].how == "the extremes of each input"


def _half_model() -> Model:
    """Return a real CNN with all its tensors in float16."""
    model = _model("torch cnn_opset9")
    half = {
        k: v.astype(np.float16) if v.dtype == np.float32 else v for k, v in model.graph.initializers.items()
    }

    def typed(values: Sequence[Any]) -> tuple[Any, ...]:
        return tuple(replace(v, type=replace(v.type, element=10)) for v in values)

    graph = model.graph
    graph = replace(graph, inputs=typed(graph.inputs), outputs=typed(graph.outputs), value_types={})
    return replace(model, graph=replace(graph, initializers=half))


def _half_feeds(scale: float) -> dict[str, Any]:
    return {
        k: np.clip(v * scale, -60_000, 60_000).astype(np.float16)
        for k, v in _feeds("torch cnn_opset9").items()
    }


def test_a_float16_model_that_overflows() -> None:
    model = _half_model()
    assert find_nan(model, _half_feeds(1)) is None
    conv = next(node for node in model.graph.nodes if node.op_type == "Conv")
    weight = model.graph.initializers[conv.inputs[1]]
    model = _with_initializers(model, **{conv.inputs[1]: weight * np.float16(8)})
    assert find_nan(model, _half_feeds(1)) is None
    report = _found(model, _half_feeds(30_000))
    first = report.findings[0]
    assert (first.kind, first.path, first.type) == ("overflow", conv.label, "tensor(float16)")
    assert np.isinf(first.causes[0].output.value)
    assert first.from_finite
    assert report.keep_float32[0].path == conv.label
    json.dumps(report.to_json(), allow_nan=False)


def test_division_by_zero_in_float16_is_no_overflow() -> None:
    text = _text("g (float16[2] x, float16[2] z) => (float16[2] y) { y = Div (x, z) }")
    report = _found(text, {"x": np.float16([1, 2]), "z": np.float16([1, 0])})
    assert [f.kind for f in report.findings] == ["infinity"]


def test_a_cast_that_overflows() -> None:
    text = _text("g (float[2] x) => (float16[2] y) { y = Cast <to = 10> (x) }")
    report = _found(text, np.float32([1, 70_000]))
    assert str(report.findings[0].causes[0]) == "y[1] = inf from x[1] = 7e+04"
    assert report.findings[0].kind == "overflow"


# ---------------------------------------------------------------------------------- where it comes from


def test_given_faults_are_no_node_of_the_model() -> None:
    text = "g (float[2] x) => (float[2] y) <float[2] w = {1, 2}> { a = Add (x, w)\n y = Relu (a) }"
    report = _found(_text(text), np.float32([1, np.nan]))
    assert report.findings == ()
    assert report.first is None
    assert report.failed
    assert str(report) == "input x holds 1 NaN"
    model = load_model(_text(text))
    report = _found(_with_initializers(model, w=np.float32([np.nan, np.inf])), np.float32([1, 2]))
    assert str(report) == "initializer w holds 1 NaN, 1 Inf"


def test_weights_that_are_no_float16() -> None:
    name = "torch cnn_opset9"
    model = _model(name)
    conv = next(node for node in model.graph.nodes if node.op_type == "Conv")
    weight = model.graph.initializers[conv.inputs[1]].copy()
    weight[0, 0, 0, 0] = 70_000
    wrong = _with_initializers(model, **{conv.inputs[1]: weight})
    report = _found(wrong, _feeds(name))
    assert str(report.given[0]) == (
        f"initializer {conv.inputs[1]} holds numbers up to 7e+04, which float16 does not"
    )
    assert report.failed
    assert report.node_names[0] == conv.label
    assert find_nan(wrong, _feeds(name), half=False) is None


def test_infinite_masks_are_fine() -> None:
    text = "g (float[2] x, float[2] m) => (float[2] y) { a = Add (x, m)\n y = Softmax (a) }"
    feeds = {"x": np.float32([1, 2]), "m": np.float32([0, -np.inf])}
    assert find_nan(_text(text), feeds) is None
    report = _found(_text(text), {**feeds, "m": np.float32([-np.inf, -np.inf])})
    assert (report.findings[0].path, report.findings[0].from_finite) == ("Softmax#1", False)
    assert "from infinities" in str(report)
    assert report.given[0].inf == 2


LOOP = """g (float[2] x, int64 n) => (float[2] y) {
  yes = Constant <value = bool {1}> ()
  y = Loop (n, yes, x) <body = body (int64 i, bool c, float[2] s) => (bool keep, float[2] t) {
    keep = Identity (c)
    t = Mul (s, s)
  }>
}"""


def test_an_iteration_of_a_loop() -> None:
    feeds = {"x": np.float32([1, 10]), "n": np.int64(8)}
    report = _found(_text(LOOP), feeds)
    overflow, infinity = report.findings
    assert (overflow.path, overflow.kind) == ("Loop#1[2]/body/Mul#1", "overflow")
    assert str(overflow.causes[0]) == "t[1] = 1e+08 from s[1] = 1e+04"
    assert (infinity.path, infinity.kind) == ("Loop#1[5]/body/Mul#1", "infinity")
    assert report.first is infinity
    assert [k.path for k in report.keep_float32] == ["Loop#1/body/Mul#1"]
    assert static_path("a/Loop#1[12]/body/x[3]") == "a/Loop#1/body/x[3]"


def test_failures_after_a_finding() -> None:
    text = """g (float[2] x, int64[1] s) => (float[k] y) { a = Log (x)
      y = Reshape (a, s) }"""
    feeds = {"x": np.float32([1, -2]), "s": np.int64([7])}
    report = _found(_text(text), feeds)
    assert report.findings[0].path == "Log#0"
    assert "the run ended early: NodeError" in str(report)
    with pytest.raises(NodeError, match="Reshape"):
        find_nan(_text(text), {**feeds, "x": np.float32([1, 2])})
    with pytest.raises(InputError, match="missing"):
        find_nan(_text(text), {})


# ---------------------------------------------------------------------------------- float16


def test_sums_inside_of_nodes() -> None:
    """The mean of 4096 times 50 is 50, and its sum is not a float16."""
    text = "g (float[4096] x) => (float[1] y) { y = ReduceMean (x) }"
    report = _found(_text(text), np.full(4096, 50, np.float32))
    assert not report.failed
    assert str(report.keep_float32[0]) == "ReduceMean#0 (ReduceMean): sums up to 2.048e+05 inside"
    assert find_nan(_text(text), np.full(4096, 10, np.float32)) is None
    assert find_nan(_text(text), np.full(4096, 50, np.float32), half=False) is None


@pytest.mark.parametrize(
    ("nodes", "shape", "kept"),
    [
        ("y = MatMul (x, w)", (300, 300), True),
        ("y = Gemm <transB = 1, alpha = 0.001> (x, w)", (300, 300), True),
        ("y = ReduceL2 <keepdims = 0> (x)", (300, 300), True),
        ("y = LayerNormalization <axis = 0> (x, w)", (300, 300), True),
        ("y = Softmax (x)", (300, 300), False),
        ("y = ReduceMax (x)", (300, 300), False),
        ("y = Conv (x, w)", (1, 300, 4), True),
        ("y = GlobalAveragePool (x)", (1, 2, 5000), True),
    ],
)
def test_which_sums_are_known(nodes: str, shape: tuple[int, ...], kept: bool) -> None:
    x_type, w_type = ",".join(map(str, shape)), "a,b" + ",c" * (len(shape) - 2)
    text = f"g (float[{x_type}] x, float[{w_type}] w) => (float y) {{ {nodes} }}"
    model = _text(text)
    model.graph.output[0].type.tensor_type.ClearField("shape")
    rng = np.random.default_rng(0)
    # Signs cancel in the result, not on the way to it.
    x = rng.choice([-20, 20], shape).astype(np.float32)
    w = rng.choice([-20, 20], shape if len(shape) == 2 else (2, 300, 4)).astype(np.float32)
    report = find_nan(model, {"x": x, "w": w})
    sums = [] if report is None else [r for k in report.keep_float32 for r in k.reasons if "sums up" in r]
    assert bool(sums) == kept


def test_what_float16_would_lose() -> None:
    text = "g (float[3] x) => (float[3] y) <float e = {1e-9}> { v = Mul (x, x)\n y = Add (v, e) }"
    report = _found(_text(text), np.float32([1e-4, 2e-4, 3e-4]))
    assert [k.path for k in report.keep_float32] == ["Mul#0", "Add#1"]
    reasons = report.keep_float32[1].reasons
    assert reasons[1] == "reads e, which is so small (at most 1e-09) that float16 loses all of it"
    assert half_loss(np.float32([1e-3, 1])) < 2**-11
    assert half_loss(np.float32([1e-9, 1])) < 2**-11  # small beside the others does not matter
    assert half_loss(np.float32([1e-7, 2e-7])) > 0.01


# ---------------------------------------------------------------------------------- causes


def _cause(
    op_type: str, inputs: Sequence[Any], where: tuple[int, ...], attributes: Mapping[str, Any] | None = None
) -> tuple[Any, Any]:
    """Return the cause that is found for an element of a node's output, and the output."""
    names = tuple("abcde"[: len(inputs)])
    node = Node(op_type, names, ("y",), attributes or {}, opset=18)
    proto = onnx.helper.make_node(op_type, list(names), ["y"], **dict(attributes or {}))
    model = onnx.helper.make_model(
        onnx.helper.make_graph(
            [proto],
            "g",
            [
                onnx.helper.make_tensor_value_info(n, onnx.helper.np_dtype_to_tensor_dtype(x.dtype), x.shape)
                for n, x in zip(names, inputs, strict=True)
            ],
            [onnx.helper.make_empty_tensor_value_info("y")],
        ),
        opset_imports=[onnx.helper.make_opsetid("", 18)],
    )
    output = onnxref.run(model, list(inputs), backend="numpy")["y"]
    return find_cause(node, inputs, output, "y", where), output


LINEAR: list[tuple[str, list[tuple[int, ...]], dict[str, Any]]] = [
    ("MatMul", [(3, 4), (4, 5)], {}),
    ("MatMul", [(2, 1, 3, 4), (5, 4, 6)], {}),
    ("MatMul", [(4,), (2, 4, 5)], {}),
    ("MatMul", [(2, 3, 4), (4,)], {}),
    ("Gemm", [(4, 3), (5, 4), (5,)], {"transA": 1, "transB": 1}),
    ("Conv", [(2, 4, 9, 8), (6, 2, 3, 2), (6,)], {"group": 2, "strides": [2, 1], "pads": [1, 0, 2, 1]}),
    ("Conv", [(1, 2, 9, 8), (3, 2, 3, 3)], {"auto_pad": "SAME_UPPER", "strides": [2, 3]}),
    ("Conv", [(1, 2, 9, 8), (3, 2, 3, 2)], {"auto_pad": "SAME_LOWER", "dilations": [2, 1]}),
    ("Conv", [(1, 2, 20), (3, 2, 4)], {"auto_pad": "VALID", "dilations": [3]}),
    ("ReduceMean", [(3, 4, 5)], {"keepdims": 1}),
    ("GlobalAveragePool", [(2, 3, 4, 5)], {}),
    ("AveragePool", [(1, 2, 9, 8)], {"kernel_shape": [3, 2], "strides": [2, 2], "pads": [1, 0, 1, 1]}),
    ("Softmax", [(2, 3, 4)], {"axis": 1}),
    ("LayerNormalization", [(2, 3, 4), (4,)], {}),
]


@pytest.mark.parametrize(("op_type", "shapes", "attributes"), LINEAR)
def test_the_named_element_makes_the_output(
    op_type: str, shapes: list[tuple[int, ...]], attributes: dict[str, Any]
) -> None:
    """One huge element in the first input: every output that it changes names it, and no other does."""
    rng = np.random.default_rng(3)
    inputs = [rng.uniform(0.5, 1, shape).astype(np.float32) for shape in shapes]
    _, before = _cause(op_type, inputs, _origin(op_type, inputs), attributes)
    spot = tuple(int(rng.integers(size)) for size in shapes[0])
    inputs[0][spot] = 1e6
    origin = _origin(op_type, inputs)
    _, after = _cause(op_type, inputs, origin, attributes)
    changed = np.argwhere(np.abs(after - before) > 1e-4)
    assert len(changed)
    for where in map(tuple, changed[:5].tolist()):
        cause, _ = _cause(op_type, inputs, where, attributes)
        assert (cause.inputs[0].name, cause.inputs[0].coordinates) == ("a", spot)
        assert cause.inputs[0].value == 1e6
    same = np.argwhere(np.abs(after - before) <= 1e-4)
    for where in map(tuple, same[:5].tolist()):
        cause, _ = _cause(op_type, inputs, where, attributes)
        assert spot not in [element.coordinates for element in cause.inputs if element.name == "a"]


def _origin(op_type: str, inputs: Sequence[Any]) -> tuple[int, ...]:
    """Return the first coordinates of the output."""
    if op_type == "MatMul":
        return (0,) * np.matmul(*inputs).ndim
    return (0,) * inputs[0].ndim


def test_reductions_that_drop_their_axes() -> None:
    x = np.float32([[[1, 2], [3, 900]], [[5, 6], [7, 8]]])
    cause, _ = _cause("ReduceSumSquare", [x, np.int64([1, -1])], (0,), {"keepdims": 0})
    assert (
        str(cause)
        == "y[0] = 8.1e+05 from a[0, 1, 1] = 900, a[0, 1, 0] = 3 (the largest of 4 elements of its row)"
    )


def test_broadcast_elements() -> None:
    x, z = np.ones((2, 3, 4), np.float32), np.float32([[1], [0], [2]])
    cause, _ = _cause("Div", [x, z], (1, 1, 2))
    assert str(cause) == "y[1, 1, 2] = inf from a[1, 1, 2] = 1, b[1, 0] = 0"
    cause, _ = _cause(
        "Where", [np.array([True, False]), np.array(1, np.float32), np.float32([2, np.inf])], (1,)
    )
    assert str(cause) == "y[1] = inf from a[1] = 0, b = 1, c[1] = inf"


# ---------------------------------------------------------------------------------- forms


def test_html_is_escaped() -> None:
    model = _text("g (float[2] x) => (float[2] y) { y = Log (x) }")
    model.graph.node[0].name = "<b>&"
    shown = _found(model, np.float32([1, -1]))._repr_html_()
    assert "<b>" not in shown
    assert "&lt;b&gt;&amp;" in shown


def _command(*arguments: Any) -> Any:
    app = typer.Typer()
    add_nan(app)
    app.command()(lambda: None)
    return CliRunner(env={"COLUMNS": "250"}).invoke(app, ["nan", *map(str, arguments)])


def test_command(tmp_path: Path) -> None:
    name = "ocr direction"
    model = _model(name)
    node = next(n for n in model.graph.nodes if n.op_type == "BatchNormalization")
    values = {n.outputs[0]: n.attributes["value"] for n in model.graph.nodes if n.op_type == "Constant"}
    wrong = values[node.inputs[4]].copy()
    wrong[2] = -1
    model = _with_initializers(model, planted=wrong)
    model = _edited(model, node.label, lambda n: replace(n, inputs=(*n.inputs[:4], "planted")))
    save_model(model, tmp_path / "wrong.onnx")
    np.savez(tmp_path / "in.npz", **_feeds(name))
    arguments = (tmp_path / "wrong.onnx", "-i", tmp_path / "in.npz")
    shown = _command(*arguments)
    assert shown.exit_code == 0, shown.output
    assert f"a NaN is first made by {node.label} (BatchNormalization)" in shown.output
    assert "planted[2] = -1" in shown.output
    failed = _command(*arguments, "--fail", "--json", "--most", 1)
    assert failed.exit_code == 2
    (finding,) = json.loads(failed.stdout)["findings"]
    assert finding["path"] == node.label
    assert len(finding["causes"]) == 1


def test_command_on_a_sound_model() -> None:
    digits = Path(__file__).parent.parent.parent / "examples" / "digits.onnx"
    shown = _command(digits, "--fail")
    assert shown.exit_code == 0
    assert shown.output == "digits.onnx: no node made a NaN or an infinity, and all of it fits into float16\n"
    assert json.loads(_command(digits, "--json", "--no-half").stdout) is None
    assert _command(digits, "-i", "none.npy").exit_code == 1
