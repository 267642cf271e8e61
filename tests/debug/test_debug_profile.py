"""Profiling: who took the time, what was in memory, and whether viewers can read the trace."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
import typer
from model_zoo import REAL_MODELS, TORCH
from onnx import helper
from typer.testing import CliRunner

import onnxref
from onnxref.cli._profile import add_profile
from onnxref.debug._profile import Profile, Source, profile
from onnxref.debug._recorder import all_iterations
from onnxref.debug._timeline import Event, MemoryTimeline, chrome_trace
from onnxref.errors import InputError, OutputError

ZOO = {model.name: model for model in REAL_MODELS}
BACKENDS = ("numpy", "numba")

LOOP = """
<ir_version: 10, opset_import: ["": 21, "own": 1]>
g (float[64] x, int64 n) => (float[64] y) {
  yes = Constant <value = bool {1}> ()
  y = Loop (n, yes, x) <body = body (int64 i, bool c, float[64] s) => (bool keep, float[64] t) {
    keep = Identity (c)
    d = own.twice (s)
    t = Neg (d)
  }>
}
<domain: "own", opset_import: ["": 21]>
twice (v) => (w) { w = Add (v, v) }
"""
CHAIN = """
<ir_version: 10, opset_import: ["": 21]>
g (float[1000] x) => (float[1000] y) { a = Relu (x) b = Neg (a) c = Exp (b) y = Add (c, c) }
"""
LOOP_FEEDS = {"x": np.ones(64, np.float32), "n": np.int64(5)}


def _parse(text: str) -> onnx.ModelProto:
    return onnx.parser.parse_model(text)


def _real(name: str) -> tuple[onnx.ModelProto, dict[str, Any]]:
    model = ZOO[name]
    source = model.model()
    loaded = onnx.load_model_from_string(source) if isinstance(source, bytes) else onnx.load(source)
    feeds = model.calls()[0]
    return loaded, {"x": feeds["x"][:1]} if name.startswith("ocr") else feeds


def _insert(model: onnx.ModelProto, node: onnx.NodeProto, value: str, position: int) -> None:
    """Put a node behind `value`: all that read it read the node's output instead."""
    for other in model.graph.node:
        for i, name in enumerate(other.input):
            if name == value:
                other.input[i] = node.output[0]
    model.graph.node.insert(position, node)


@pytest.fixture
def slow_operator() -> Iterator[None]:
    """Register an operator that gives back its input after a quarter of a second."""

    @onnxref.register_op("Slow", domain="test.slow")
    def slow(x: Any) -> Any:
        time.sleep(0.25)
        return x + 0

    yield
    onnxref.unregister_op("Slow", domain="test.slow")


# ------------------------------------------------------------------------------------------- time


@pytest.mark.usefixtures("slow_operator")
@pytest.mark.parametrize(
    ("name", "backend"), [("ocr direction", "numpy"), ("torch cnn_dynamo_opset20", "numba")]
)
def test_a_slow_node_in_a_real_model_is_named(name: str, backend: str) -> None:
    model, feeds = _real(name)
    place = len(model.graph.node) // 2
    value = model.graph.node[place].output[0]
    planted = helper.make_node("Slow", [value], ["delayed"], name="the slow one", domain="test.slow")
    _insert(model, planted, value, place + 1)
    model.opset_import.append(helper.make_opsetid("test.slow", 1))
    found = profile(model, feeds, runs=2, backend=backend)
    assert found.ops[0].path == "the slow one"
    assert found.ops[0].kernel.endswith("slow")
    assert found.ops[0].seconds >= 0.25
    assert "test.slow:Slow" in {share.name for share in found.by_operator()[:2]}
    assert found.run_seconds >= 0.25


def test_every_node_that_runs_has_a_row_on_numpy() -> None:
    model, feeds = _real("ocr direction")
    found = profile(model, feeds, runs=2, backend="numpy")
    seen: list[str] = []
    session = onnxref.InferenceSession(model, backend="numpy")
    session.run_named(None, feeds, observers=[lambda execution: seen.append(execution.path)])
    assert sorted(op.path for op in found.ops) == sorted(seen)
    assert all(op.kind == "reference" and op.kernel and op.calls == 1 for op in found.ops)
    assert [event.path for event in found.events] == seen
    assert found.dropped == 0


def test_native_ops_account_for_every_node() -> None:
    model, feeds = _real("torch cnn_dynamo_opset20")
    found = profile(model, feeds, runs=2, backend="auto")
    assert found.backend == "numba"
    names = {name for op in found.ops for name in op.nodes}
    assert names == {node.name for node in model.graph.node if node.op_type not in ("Constant",)}
    fused = [op for op in found.ops if len(op.nodes) > 1]
    assert fused
    assert all(op.kind == "native" and op.operator.startswith("onnxref.internal:") for op in fused)
    assert any(op.kernel.startswith("convolution") for op in found.ops)


@pytest.mark.parametrize("backend", BACKENDS)
def test_shares_add_up(backend: str) -> None:
    found = profile(*_real("torch cnn_dynamo_opset20"), runs=2, backend=backend)
    assert found.op_seconds > 0
    for shares in (found.by_operator(), found.by_kernel()):
        assert sum(share.seconds for share in shares) == pytest.approx(found.op_seconds)
        assert sum(share.share for share in shares) == pytest.approx(1)
        assert sum(share.ops for share in shares) == len(found.ops)
        assert [s.seconds for s in shares] == sorted((s.seconds for s in shares), reverse=True)


def test_iterations_are_one_row_and_bodies_are_not_counted_twice() -> None:
    found = profile(_parse(LOOP), LOOP_FEEDS, runs=2, backend="numpy")
    ops = {op.path: op for op in found.ops}
    assert set(ops) == {
        "Loop#1",
        "Loop#1[*]/body/Identity#0",
        "Loop#1[*]/body/twice#1",
        "Loop#1[*]/body/twice#1/Add#0",
        "Loop#1[*]/body/Neg#2",
    }
    assert {path: op.calls for path, op in ops.items() if path != "Loop#1"} == dict.fromkeys(
        set(ops) - {"Loop#1"}, 5
    )
    loop, call = ops["Loop#1"], ops["Loop#1[*]/body/twice#1"]
    assert loop.kind == call.kind == "control"
    assert loop.own_seconds < loop.seconds
    assert call.own_seconds < call.seconds
    inner = call.seconds + ops["Loop#1[*]/body/Neg#2"].seconds
    assert loop.seconds >= inner * 0.5  # medians of few runs, so no exact sum
    assert [event.depth for event in found.events[:4]] == [1, 2, 1, 1]
    assert found.events[-1].path == "Loop#1"
    assert found.events[-1].depth == 0
    assert "Loop#1[3]/body/Neg#2" in {event.path for event in found.events}


def test_a_loop_of_native_code() -> None:
    found = profile(_parse(LOOP), LOOP_FEEDS, runs=2, backend="numba")
    ops = {op.path: op for op in found.ops}
    assert ops["Loop#1"].kind == "control"
    assert ops["Loop#1[*]/body/Neg#2"].calls == 5
    assert ops["Loop#1"].own_seconds <= ops["Loop#1"].seconds


def test_all_iterations() -> None:
    assert all_iterations("a[3]/body/b[12]/body/c") == "a[*]/body/b[*]/body/c"
    assert all_iterations("plain[3]") == "plain[3]"


# ----------------------------------------------------------------------------------------- memory


def test_memory_of_a_chain_is_exact() -> None:
    found = profile(_parse(CHAIN), {"x": np.zeros(1000, np.float32)}, runs=1, backend="numpy").memory
    # Whenever a node has run, its input and its output are there.
    assert found.peak_bytes == 8000
    assert found.peak_path in {"Neg#1", "Exp#2", "Add#3"}
    assert {value.name for value in found.alive} == {"a", "b"}
    assert [value.producer for value in found.alive] == ["Relu#0", "Neg#1"]
    assert found.input_bytes == 4000
    assert found.weight_bytes == 0
    assert max(live for _, live in found.samples) == 8000
    times = [seconds for seconds, _ in found.samples]
    assert times == sorted(times)


def test_views_count_once_and_inputs_not_at_all() -> None:
    text = """<ir_version: 10, opset_import: ["": 21]>
    g (float[10, 10] x) => (float[10, 10] y) {
      s = Constant <value_ints = [100]> ()
      t = Constant <value_ints = [10, 10]> ()
      a = Reshape (x, s) b = Neg (a) c = Reshape (b, t) y = Identity (c) }"""
    found = profile(_parse(text), {"x": np.zeros((10, 10), np.float32)}, runs=1, backend="numpy").memory
    assert [(value.name, value.bytes) for value in found.alive if value.bytes == 400][:1] == [("b", 400)]
    assert found.peak_bytes in (400, 800)  # whether Identity copies is the kernel's business


def test_what_is_alive_at_the_peak_of_a_real_model_is_named() -> None:
    model, feeds = _real("ocr direction")
    big = helper.make_node("Expand", [model.graph.input[0].name, "huge"], ["kept"], name="the big one")
    shape = np.array([64, 1, 3, 48, 192], np.int64)
    model.graph.initializer.append(onnx.numpy_helper.from_array(shape, "huge"))
    model.graph.node.insert(0, big)
    copied = helper.make_node("Neg", ["kept"], ["copied"], name="its copy")
    model.graph.node.insert(1, copied)
    model.graph.node.append(
        helper.make_node("ReduceMax", ["copied"], ["largest"], name="reads it", keepdims=0)
    )
    model.graph.output.append(helper.make_tensor_value_info("largest", onnx.TensorProto.FLOAT, []))
    found = profile(model, feeds, runs=1, backend="numpy").memory
    size = 64 * 3 * 48 * 192 * 4
    assert found.alive[0].producer in {"its copy", "the big one"}
    assert ("copied", "its copy", size) in {(v.name, v.producer, v.bytes) for v in found.alive}
    assert found.peak_bytes >= size
    assert found.peak_bytes == sum(value.bytes for value in found.alive)


def test_sequences_and_loops_leave_nothing_behind() -> None:
    found = profile(_parse(LOOP), LOOP_FEEDS, runs=1, backend="numpy").memory
    assert found.peak_bytes < 10 * 256
    assert any("[" in value.name and "]/body/" in value.name for value in found.alive)


def test_native_memory_fits_the_arena() -> None:
    found = profile(*_real("torch cnn_dynamo_opset20"), runs=1, backend="numba").memory
    assert found.covers == "native programs"
    outputs = sum(value.bytes for value in found.alive if value.producer == "output")
    assert 0 < found.peak_bytes <= found.arena_bytes + outputs
    assert found.peak_bytes == sum(value.bytes for value in found.alive)
    # Places are shared by values that are never alive together; within a few percent nothing is wasted.
    assert found.peak_bytes >= 0.7 * found.arena_bytes
    assert {value.producer for value in found.alive} > {"output"}


# ------------------------------------------------------------------------------------------ trace


def _check_trace(trace: dict[str, Any]) -> list[dict[str, Any]]:
    """Check what the Trace Event Format demands; return the complete events."""
    assert set(trace) == {"traceEvents", "displayTimeUnit"}
    assert trace["displayTimeUnit"] in ("ms", "ns")
    complete: list[dict[str, Any]] = []
    for event in json.loads(json.dumps(trace, allow_nan=False))["traceEvents"]:
        assert {"ph", "name", "pid", "tid", "ts"} <= set(event)
        assert event["ph"] in ("X", "C", "M")
        assert isinstance(event["ts"], (int, float))
        assert event["ts"] >= 0
        if event["ph"] == "X":
            assert event["dur"] >= 0
            complete.append(event)
        if event["ph"] == "C":
            assert all(isinstance(value, (int, float)) for value in event["args"].values())
    # One thread: of any two events one is inside of the other, or they do not meet.
    open_until: list[float] = []
    for event in complete:
        while open_until and open_until[-1] <= event["ts"] + 1e-9:
            open_until.pop()
        end = event["ts"] + event["dur"]
        assert not open_until or end <= open_until[-1] + 1e-6
        open_until.append(end)
    return complete


@pytest.mark.parametrize("backend", BACKENDS)
def test_chrome_trace(backend: str, tmp_path: Path) -> None:
    found = profile(_parse(LOOP), LOOP_FEEDS, runs=1, backend=backend)
    found.save_trace(tmp_path / "trace.json")
    trace = json.loads((tmp_path / "trace.json").read_text())
    complete = _check_trace(trace)
    assert len(complete) == len(found.events)
    assert {event["cat"] for event in complete} >= {"Loop"}
    counters = [event for event in trace["traceEvents"] if event["ph"] == "C"]
    assert len(counters) == len(found.memory.samples)
    assert trace["traceEvents"][0]["args"] == {"name": "g"}


def test_events_that_overlap_by_the_clock_are_nested() -> None:
    inner = [Event(f"loop[{i}]/body/n", "Neg", "", "reference", i + 0.0, 1.01, 1) for i in range(3)]
    loop = Event("loop", "Loop", "", "control", 0.02, 2.9)
    after = Event("next", "Neg", "", "reference", 2.95, 1.0)
    complete = _check_trace(chrome_trace("m", [*inner, loop, after], MemoryTimeline()))
    assert complete[0]["name"] == "loop"
    assert len(complete) == 5


def test_a_trace_that_cannot_be_written(tmp_path: Path) -> None:
    found = profile(_parse(CHAIN), {"x": np.zeros(1000, np.float32)}, runs=1, backend="numpy")
    with pytest.raises(OutputError, match="cannot write the trace to .*nowhere.*No such file"):
        found.save_trace(tmp_path / "nowhere" / "trace.json")


# ----------------------------------------------------------------------------------------- source


def test_rows_link_to_the_program_that_a_model_was_exported_from() -> None:
    model, feeds = _real("silero_vad_op18_ifless 16 kHz")
    found = profile(model, feeds, runs=1, backend="numpy")
    ops = {op.path: op for op in found.ops}
    compared = ops["node_eq_2"].source
    assert compared is not None
    assert compared.place == "/tmp/ipykernel_6181/3806684016.py:17 in forward"
    assert compared.code.startswith("out, state = torch.cond(sr.item() == 16000")
    inner = ops["node_cond__1/then_branch/node_conv1d_1"].source
    assert inner is not None
    assert inner.place.endswith(" in forward")
    assert any("3806684016.py:17" in cell for row in found.rows() for cell in row)


def test_time_by_module() -> None:
    model, feeds = _real("torch cnn_dynamo_opset20")
    for node in model.graph.node:
        part = "stem" if node.op_type == "Conv" else "rest"
        scopes = f"['', '{part}', '{part}.{node.op_type}']"
        node.metadata_props.add(key="pkg.torch.onnx.name_scopes", value=scopes)
    found = profile(model, feeds, runs=1, backend="numpy")
    assert {share.name for share in found.by_module()} == {"stem", "rest"}
    assert profile(_parse(CHAIN), np.zeros(1000, np.float32), runs=1, backend="numpy").by_module() == ()


def test_source_of_a_stack() -> None:
    stack = 'File "a.py", line 3, in outer\n    f(x)\nFile "b c.py", line 14, in inner\n    return x + 1\n'
    scopes = "['', 'encoder.layers.0', 'encoder.layers.0.add']"
    found = Source.of({"pkg.torch.onnx.stack_trace": stack, "pkg.torch.onnx.name_scopes": scopes})
    assert found == Source("b c.py:14 in inner", "return x + 1", "encoder.layers.0", stack)
    assert Source.of({"other": "x"}) is None


@pytest.mark.parametrize("scopes", ["not a list", "(", "[1, 2]", "{}", "[" * 500, "__import__('os')"])
def test_odd_metadata_does_no_harm(scopes: str) -> None:
    found = Source.of({"pkg.torch.onnx.name_scopes": scopes, "pkg.torch.onnx.stack_trace": "no frames"})
    assert found is not None
    assert (found.place, found.code, found.module) == ("", "", "")


# ----------------------------------------------------------------------------------------- results


@pytest.fixture(scope="module")
def small() -> Profile:
    model = _parse(CHAIN)
    model.graph.node[1].name = "<b>&"
    return profile(model, {"x": np.zeros(1000, np.float32)}, runs=2, backend="numpy")


def test_as_json(small: Profile) -> None:
    found = json.loads(json.dumps(small.to_json(), allow_nan=False))
    assert found["runs"] == 2
    assert {op["path"] for op in found["ops"]} == {"Relu#0", "<b>&", "Exp#2", "Add#3"}
    assert found["memory"]["peak_bytes"] == 8000
    assert found["memory"]["alive_at_peak"][0]["bytes"] == 4000


def test_as_text_and_html(small: Profile) -> None:
    assert "arithmetic" in str(small)
    assert "4,000" not in small._repr_html_()
    assert "&lt;b&gt;&amp;" in small._repr_html_()
    assert "<b>" not in small._repr_html_()


def test_errors() -> None:
    with pytest.raises(ValueError, match=r"runs must be at least 1 \(got 0\)"):
        profile(_parse(CHAIN), runs=0)
    with pytest.raises(InputError):
        profile(_parse(CHAIN), {"z": np.zeros(1000, np.float32)}, backend="numpy")


# ------------------------------------------------------------------------------------------- command


def _invoke(*arguments: Any) -> Any:
    app = typer.Typer()
    app.callback()(lambda: None)
    add_profile(app)
    return CliRunner(env={"COLUMNS": "250"}).invoke(app, ["profile", *map(str, arguments)])


def test_command(tmp_path: Path) -> None:
    model, feeds = TORCH / "cnn_dynamo_opset20.onnx", tmp_path / "feeds.npz"
    np.savez(feeds, **ZOO["torch cnn_dynamo_opset20"].calls()[0])
    trace = tmp_path / "trace.json"
    result = _invoke(model, "-i", feeds, "--runs", 1, "--backend", "numpy", "--trace", trace, "--top", 3)
    assert result.exit_code == 0, result.output
    for text in ("convolution.conv", "by operator", "by kernel", "alive at the peak", "ui.perfetto.dev"):
        assert text in result.stdout
    assert "more ops" in result.stdout
    _check_trace(json.loads(trace.read_text()))


def test_command_as_json() -> None:
    result = _invoke(TORCH / "cnn_dynamo_opset20.onnx", "--dim", "batch=2", "--runs", 1, "--json")
    if result.exit_code:
        result = _invoke(TORCH / "cnn_dynamo_opset20.onnx", "--runs", 1, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["backend"] == "numba"
    assert found["ops"]
    assert found["memory"]["covers"] == "native programs"


def test_command_reports_errors() -> None:
    result = _invoke(TORCH / "cnn_dynamo_opset20.onnx", "-i", "nothing=1")
    assert result.exit_code == 1
    assert "InputError" in result.stderr
    assert _invoke("no such file.onnx").exit_code == 1
