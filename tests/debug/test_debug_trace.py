"""Tracing: which values are seen, what is told of them, where they go, and how much memory that takes."""

from __future__ import annotations

import json
import threading
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx.parser
import pytest
import typer
from model_zoo import DRAWN_MODELS, REAL_MODELS
from onnx import numpy_helper
from typer.testing import CliRunner

import onnxref
from onnxref.cli._trace import add_trace
from onnxref.debug._store import MemoryStore, open_store, read_safetensors
from onnxref.debug._trace import Trace, TracedValue, Tracer, trace
from onnxref.errors import InputError, NodeError, OutputError
from onnxref.model import load_model

ZOO = {model.name: model for model in (*REAL_MODELS, *DRAWN_MODELS)}
EXAMPLES = Path(__file__).parent.parent.parent / "examples"
DIGITS = EXAMPLES / "digits.onnx"
IMAGE = np.linspace(0, 1, 64, dtype=np.float32).reshape(1, 1, 8, 8)

LOOP = """
<ir_version: 10, opset_import: ["": 21, "own": 1]>
g (float[2] x, int64 n) => (float[2] y, float[k, 2] all) {
  yes = Constant <value = bool {1}> ()
  y, all = Loop (n, yes, x) <body = body (int64 i, bool c, float[2] s)
    => (bool keep, float[2] t, float[2] out) {
    keep = Identity (c)
    t = own.twice (s)
    out = Neg (t)
  }>
}
<domain: "own", opset_import: ["": 21]>
twice (v) => (w) { w = Add (v, v) }
"""


def _text(text: str) -> onnx.ModelProto:
    return onnx.parser.parse_model(text)


def _loop_trace(**options: Any) -> Trace:
    return trace(_text(LOOP), {"x": np.float32([1, 2]), "n": np.int64(3)}, **options)


def _run(name: str, **options: Any) -> Trace:
    model = ZOO[name]
    return trace(model.model(), model.calls()[0], **options)


# ---------------------------------------------------------------------------------- what is seen


def test_loops_and_functions() -> None:
    found = _loop_trace(values="*")
    paths = [value.path for value in found]
    for i in range(3):
        assert f"Loop#1[{i}]/body/out" in paths
        assert f"Loop#1[{i}]/body/twice#1/w" in paths
    assert found["Loop#1[2]/body/t"].statistics.max == 16
    assert found["Loop#1[2]/body/t"].node == "Loop#1[2]/body/twice#1"
    assert found["y"].op_type == "Loop"
    assert found["x"].node == ""
    assert len(found) == len(list(found)) == 2 + 3 * 4 + 2
    assert found.nodes == 3 * 4 + 1


def test_branches_of_a_real_model() -> None:
    found = _run("silero_vad 16 kHz", op_types="Sqrt")
    (value,) = found
    assert value.path.startswith("If_0/then_branch/")
    assert value.node == "If_0/then_branch/If_0_then_branch__Inline_0__/stft/Sqrt"


def test_every_value_is_what_the_model_makes() -> None:
    model = ZOO["ocr direction"]
    found = _run("ocr direction", store="memory", op_types=["Conv", "Softmax"])
    assert len(found) == 54
    names = [value.path for value in found][::9]
    expected = onnxref.InferenceSession(model.model()).run_named(names, model.calls()[0])
    for name, value in expected.items():
        np.testing.assert_allclose(found.tensors[name], value, rtol=1e-3, atol=1e-4)
        assert found[name].statistics.max == found.tensors[name].max()


@pytest.mark.parametrize(
    ("options", "paths"),
    [
        ({"values": "h?"}, ["h0", "h1"]),
        ({"values": ["h0", "x*"]}, ["x0", "h0", "x1", "x2"]),
        ({"op_types": "Relu"}, ["x1", "x2"]),
        ({"op_types": "ai.onnx:Re*"}, ["x1", "x2"]),
        ({"nodes": "Gemm#?", "values": "h*"}, ["h0", "h1"]),
        ({"predicate": lambda v: v.statistics.max > 10 and v.op_type == "Gemm"}, ["logits"]),
        ({"outputs": "x1", "values": "*1"}, ["x1"]),
        ({"values": "image"}, ["image"]),
        ({"predicate": lambda v: False}, []),
    ],
)
def test_selection(options: dict[str, Any], paths: list[str]) -> None:
    from PIL import Image

    image = np.asarray(Image.open(EXAMPLES / "digit.png").resize((8, 8)), np.float32).reshape(1, 1, 8, 8)
    assert [value.path for value in trace(DIGITS, image / 255, **options)] == paths


def test_names_at_any_depth() -> None:
    assert [v.path for v in _loop_trace(values="w")] == [f"Loop#1[{i}]/body/twice#1/w" for i in range(3)]
    (one,) = _loop_trace(values="Loop#1[1]/body/t")
    assert one.statistics.max == 8


def test_initializers() -> None:
    found = trace(DIGITS, IMAGE, initializers=True)
    weights = [value for value in found if not value.node]
    assert len(weights) == 1 + len(load_model(DIGITS).graph.initializers)
    assert weights[0].path == "image"


def test_values_that_nothing_uses() -> None:
    text = """<ir_version: 10, opset_import: ["": 21]>
    g (float[2] x) => (float[2] y) { y = Neg (x)
      unused = Abs (x) }"""
    assert [v.path for v in trace(_text(text), np.float32([1, 2]))] == ["x", "y"]
    assert [v.path for v in trace(_text(text), np.float32([1, 2]), values="unused")] == ["unused"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"values": "h9"}, "no value that was made matches 'h9'; the nearest are 'h1', 'h0'"),
        ({"values": ["a", "b"]}, "no value that was made matches 'a' or 'b'; there are 'x0', 'h0',"),
        ({"op_types": "Conv"}, r"no node that was run is a 'Conv'; the model has Gemm \(3\), Relu \(2\),"),
        ({"nodes": "Gem#1"}, "no node that was run matches 'Gem#1'; the nearest are 'Gemm#1'"),
        (
            {"values": "none", "backend": "numba"},
            r"matches 'none'; there are 'x0', 'h0', .* \(numba may have optimised it away\)",
        ),
        ({"store": "x.txt"}, "cannot tell the format from 'x.txt'"),
        ({"store": "/proc/none/x.npz"}, "cannot write '/proc/none/x.npz'"),
        ({"outputs": "none"}, "the model has no value 'none'"),
    ],
)
def test_errors(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OutputError, match=message):
        trace(DIGITS, IMAGE, **options)


def test_wrong_arguments() -> None:
    with pytest.raises(ValueError, match="errors must be 'raise' or 'keep' \\(got 'no'\\)"):
        trace(DIGITS, IMAGE, errors="no")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="missing"):
        trace(DIGITS, {})


FAILING = """<ir_version: 10, opset_import: ["": 21]>
g (float[2] x, int64[1] s) => (float[k] y) { a = Neg (x)
  b = Reshape (a, s)
  y = Abs (b) }"""


def test_a_node_that_fails() -> None:
    feeds = {"x": np.float32([1, 2]), "s": np.int64([7])}
    with pytest.raises(NodeError, match="Reshape"):
        trace(_text(FAILING), feeds)
    found = trace(_text(FAILING), feeds, errors="keep")
    assert [value.path for value in found] == ["x", "s", "a"]
    assert isinstance(found.error, NodeError)
    assert "ended by NodeError" in found.title


def test_a_bound_on_records() -> None:
    seen: list[TracedValue] = []
    found = _loop_trace(most=5, on_value=seen.append, store="memory")
    assert (len(found), found.left_out, len(seen), len(found.tensors)) == (5, 11, 16, 16)
    assert "11 more values left out" in str(found)


def test_other_backends() -> None:
    other = trace(DIGITS, IMAGE, backend="onnxruntime:disabled", values="h*", store="memory")
    plain = trace(DIGITS, IMAGE, values="h*", store="memory")
    assert [v.path for v in other] == [v.path for v in plain] == ["h0", "h1"]
    assert other["h0"].node == "Gemm#1"
    np.testing.assert_allclose(other.tensors["h1"], plain.tensors["h1"], rtol=1e-4)


def test_forms_of_a_trace() -> None:
    found = _loop_trace()
    data = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert data["nodes"] == 13
    assert data["values"][2]["path"] == "Loop#1[0]/body/keep"
    assert data["values"][2]["node"] == "Loop#1[0]/body/Identity#0"
    assert found.find("Loop#1[0]/*")[0].path == "Loop#1[0]/body/keep"
    assert "Loop#1[0]/body/out: tensor(float) [2]; -4 to -2" in str(found)
    assert "<table>" in found._repr_html_()
    with pytest.raises(KeyError):
        found["none"]


def test_names_are_escaped() -> None:
    text = """<ir_version: 10, opset_import: ["": 21]> g (float[2] x) => (float[2] y) { y = Neg (x) }"""
    model = _text(text)
    model.graph.node[0].name = "<script>"
    assert "<script>" not in trace(model, np.float32([1, 2]))._repr_html_()


# ---------------------------------------------------------------------------------- step by step


def test_stepping() -> None:
    tracer = Tracer(_text(LOOP), {"x": np.float32([1, 2]), "n": np.int64(2)})
    steps = [(e.path, list(e.inputs), list(e.outputs)) for e in tracer]
    assert steps[0] == ("Loop#1[0]/body/Identity#0", ["c"], ["keep"])
    assert steps[-1] == ("Loop#1", ["n", "yes", "x"], ["y", "all"])
    assert tracer.results["y"].tolist() == [4, 8]
    assert len(list(tracer)) == len(steps)  # it can run again


def test_the_run_stands_still_between_steps() -> None:
    seen: list[str] = []

    @onnxref.register_op("Note", domain="tests.stepping")
    def note(x: Any) -> Any:
        seen.append("run")
        return x

    text = """<ir_version: 10, opset_import: ["": 21, "tests.stepping": 1]>
    g (float[2] x) => (float[2] y) { a = tests.stepping.Note (x)
      y = tests.stepping.Note (a) }"""
    steps = iter(Tracer(_text(text), np.float32([1, 2])))
    first = next(steps)
    assert seen == ["run"]
    assert str(first).startswith("Note#0 (Note)\n  a: tensor(float)")
    steps.close()
    assert seen == ["run"]


def test_stopping_early_ends_the_run() -> None:
    model = ZOO["silero_vad 16 kHz"]
    before = threading.active_count()
    for event in Tracer(model.model(), model.calls()[0], op_types="Conv"):
        assert event.node.op_type == "Conv"
        assert event.values[0].statistics.finite
        break
    assert threading.active_count() == before


def test_errors_while_stepping() -> None:
    steps = []
    with pytest.raises(NodeError, match="Reshape"):
        steps.extend(Tracer(_text(FAILING), {"x": np.float32([1, 2]), "s": np.int64([7])}))
    with pytest.raises(InputError, match="missing"):
        list(Tracer(DIGITS, {}))


def test_time_of_a_node_is_without_the_tracing_of_its_body() -> None:
    import time

    slow = 0.02

    def wait(_: TracedValue) -> None:
        time.sleep(slow)

    found = trace(_text(LOOP), {"x": np.float32([1, 2]), "n": np.int64(4)}, on_value=wait)
    assert found["y"].seconds < slow * 4  # of 16 inner values
    assert found.seconds > slow * 16


# ---------------------------------------------------------------------------------- where tensors go


def test_npz(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "values.npz"
    found = _loop_trace(store=target)
    kept = _loop_trace(store="memory").tensors
    with np.load(target) as archive:
        assert set(archive.files) == set(kept)
        for name in archive.files:
            np.testing.assert_array_equal(archive[name], kept[name])
    assert found.stored == target
    assert str(target) in found.title


def test_safetensors(tmp_path: Path) -> None:
    target = tmp_path / "values.safetensors"
    _run("ocr direction", store=target, op_types=["Conv", "Shape"])
    kept = _run("ocr direction", store="memory", op_types=["Conv", "Shape"]).tensors
    assert int.from_bytes(target.read_bytes()[:8], "little") % 8 == 0
    found = read_safetensors(target)
    assert set(found) == set(kept)
    for name, array in found.items():
        np.testing.assert_array_equal(array, kept[name], strict=True)


@pytest.mark.parametrize("content", [b"", b"x" * 20, b"\2" + bytes(7) + b"[]", b"\2" + bytes(7) + b"1]  "])
def test_what_is_no_safetensors_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(InputError, match="a' is not a safetensors file"):
        read_safetensors(tmp_path / "a")


def test_safetensors_are_read_by_the_library(tmp_path: Path) -> None:
    library = pytest.importorskip("safetensors.numpy")
    _loop_trace(store=tmp_path / "values.safetensors")
    loaded = library.load_file(tmp_path / "values.safetensors")
    assert loaded["Loop#1[2]/body/t"].tolist() == [8, 16]


def test_official_layout(tmp_path: Path) -> None:
    _run("silero_vad 16 kHz", store=tmp_path / "case")
    onnx.checker.check_model(onnx.load(tmp_path / "case" / "model.onnx"))
    data = tmp_path / "case" / "test_data_set_0"
    model = load_model(tmp_path / "case" / "model.onnx")
    feeds = [numpy_helper.to_array(onnx.load_tensor(data / f"input_{i}.pb")) for i in range(3)]
    found = onnxref.InferenceSession(model).run(None, feeds)
    assert len(found) == len(list(data.glob("output_*.pb"))) == 5
    for i, value in enumerate(found):
        tensor = onnx.load_tensor(data / f"output_{i}.pb")
        assert tensor.name == model.graph.outputs[i].name
        np.testing.assert_allclose(value, numpy_helper.to_array(tensor), rtol=1e-4, atol=1e-5)
    inner = onnx.load_tensor(data / "inner_0.pb")
    assert inner.name.startswith("If_0/then_branch/")


def test_official_layout_of_a_model_with_default_inputs(tmp_path: Path) -> None:
    text = """<ir_version: 10, opset_import: ["": 21]>
    g (float[2] w, float[2] x) => (float[2] y) <float[2] w = {3, 4}> { y = Mul (w, x) }"""
    trace(_text(text), {"x": np.float32([1, 2])}, store=tmp_path / "case")
    assert [v.name for v in load_model(tmp_path / "case" / "model.onnx").graph.inputs] == ["x", "w"]
    assert sorted(p.name for p in (tmp_path / "case" / "test_data_set_0").iterdir()) == [
        "input_0.pb",
        "output_0.pb",
    ]


KINDS: dict[str, Any] = {
    "bf16": np.arange(5).astype(ml_dtypes.bfloat16),
    "int4": np.arange(5).astype(ml_dtypes.int4),
    "texts": np.array(["a", "bc"], object),
    "list": [np.ones(2, np.float32), np.zeros((1, 3), np.float32)],
    "sparse": onnxref.SparseTensor(np.ones(2, np.float32), np.array([1, 5]), (3, 4)),
    "strided": np.arange(24.0).reshape(4, 6).T,
    "empty": np.zeros((0, 3), np.float32),
    "scalar": np.array(3, np.int64),
    "map": {1: 2.0},
    "nothing": None,
}


@pytest.mark.parametrize(
    ("target", "refused"),
    [
        ("a.npz", ["map", "nothing"]),
        ("a.safetensors", ["texts", "map", "nothing"]),
        ("folder", ["nothing"]),
    ],
)
def test_every_kind_of_value_is_stored_or_told(tmp_path: Path, target: str, refused: list[str]) -> None:
    store = open_store(tmp_path / target, load_model(DIGITS), {"image": IMAGE})
    assert [name for name, value in KINDS.items() if not store.add(name, value)] == refused
    assert store.add("int4", KINDS["int4"])  # a second one of that path
    store.close()
    if target == "a.npz":
        with np.load(tmp_path / target) as archive:
            assert {"list[1]", "sparse.values", "int4#2"} <= set(archive.files)
            assert archive["texts"].tolist() == ["a", "bc"]
            np.testing.assert_array_equal(archive["strided"], KINDS["strided"])
            assert archive["bf16"].view(ml_dtypes.bfloat16).tolist() == [0, 1, 2, 3, 4]
    if target == "a.safetensors":
        found = read_safetensors(tmp_path / target)
        assert {"list[1]", "sparse.values", "int4#2", "empty"} <= set(found)
        for name in ("bf16", "int4", "strided", "empty", "scalar"):
            np.testing.assert_array_equal(found[name], KINDS[name], strict=True)


def test_kept_tensors_are_copies() -> None:
    store, array = MemoryStore(), np.ones(3)
    store.add("a", [array])
    array[0] = 7
    assert store.values["a"][0].tolist() == [1, 1, 1]


# ---------------------------------------------------------------------------------- memory


def _peak(work: Callable[[], Any]) -> int:
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_of_tracing_everything(tmp_path: Path) -> None:
    """A CNN of 910 nodes: statistics of all values, and even writing them, hardly need more than the run."""
    name = "light_densenet121 with drawn weights"
    model, feeds = load_model(ZOO[name].model()), ZOO[name].calls()[0]
    assert len(model.graph.nodes) > 600
    session = onnxref.InferenceSession(model, backend="numpy", optimize="none")
    own = _peak(lambda: session.run(None, feeds))
    assert _peak(lambda: trace(model, feeds, store=tmp_path / "all.npz")) < 1.5 * own


# ---------------------------------------------------------------------------------- the command


def _command(*arguments: Any) -> Any:
    app = typer.Typer()
    add_trace(app)
    app.command()(lambda: None)
    return CliRunner(env={"COLUMNS": "250"}).invoke(app, ["trace", *map(str, arguments)])


def test_command(tmp_path: Path) -> None:
    shown = _command(
        DIGITS, "-i", f"image={EXAMPLES / 'digit.png'}", "--values", "h*", "--save", tmp_path / "a.npz"
    )
    assert shown.exit_code == 0, shown.output
    assert "Gemm#3" in shown.output
    with np.load(tmp_path / "a.npz") as archive:
        assert archive.files == ["h0", "h1"]
    data = json.loads(_command(DIGITS, "--op", "Softmax", "--json").stdout)
    assert [value["path"] for value in data["values"]] == ["probabilities"]
    assert data["values"][0]["histogram"]["counts"]


def test_command_formats(tmp_path: Path) -> None:
    assert _command(DIGITS, "--save", tmp_path / "f", "--format", "safetensors").exit_code == 0
    assert (tmp_path / "f").is_file()
    assert _command(DIGITS, "--save", tmp_path / "g", "--node", "Gemm*", "--initializers").exit_code == 0
    assert (tmp_path / "g" / "model.onnx").is_file()


def test_command_shows_what_came_before_a_failure(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(_text(FAILING).SerializeToString())
    shown = _command(path, "-i", "s=[7]", "-i", "x=random")
    assert shown.exit_code == 1
    assert "Neg#0" in shown.output
    assert "NodeError" in shown.output


def test_command_reports_errors() -> None:
    shown = _command(DIGITS, "--values", "nope")
    assert shown.exit_code == 1
    assert "OutputError: no value that was made matches 'nope'" in shown.output
