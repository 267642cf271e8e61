"""`onnxref bench`, `warmup`, `explain` and `cache` as a user types them, and the benchmark program."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx.numpy_helper
import onnx.parser
import pytest
from onnxref.kernels.numba import bf16
from typer.testing import CliRunner, Result

from onnxref import benchmark
from onnxref.benchmark import OutputsDifferError, compare
from onnxref.cli._app import app
from onnxref.cli._feeds import make_feeds
from onnxref.errors import InputError
from onnxref.model import load_model
from onnxref.native import SOFTWARE

ROOT = Path(__file__).parent.parent
DIGITS = ROOT / "examples" / "digits.onnx"
DIGIT = ROOT / "examples" / "digit.png"


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "IDLE", 0.0)


def _invoke(*arguments: Any) -> Result:
    return CliRunner(env={"COLUMNS": "250"}).invoke(app, [str(a) for a in arguments])


def _in_process(*arguments: Any) -> Any:
    """Return what a command prints as JSON in a process that has compiled nothing yet."""
    command = [sys.executable, "-m", "onnxref", *map(str, arguments), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def _save(folder: Path, text: str) -> Path:
    path = folder / "model.onnx"
    head = '<ir_version: 10, opset_import: ["": 21]>\n'
    path.write_bytes(onnx.parser.parse_model(head + text).SerializeToString())
    return path


# ------------------------------------------------------------------------------------------- bench


def test_bench_json() -> None:
    peers = ("--against", "onnxruntime", "--against", "onnx.reference")
    result = _invoke("bench", DIGITS, *peers, "--runs", 2, "--batch", 3, "--no-memory", "--json")
    assert result.exit_code == 0, result.output
    ours, *others = json.loads(result.stdout)
    assert [ours["runtime"], *(o["runtime"] for o in others)] == ["onnxref", "onnxruntime", "onnx.reference"]
    assert ours["ratio"] is None
    for side in (ours, *others):
        assert side["samples"] == 2
        assert 0 < side["least_seconds"] <= side["seconds"]
        assert side["load_seconds"] > 0
        assert side["first_run_seconds"] > 0
        assert side["peak_bytes"] is None
        assert side["error"] is None
    for side in others:
        assert side["ratio"] == pytest.approx(ours["seconds"] / side["seconds"])
        assert side["largest_difference"] <= 1e-4


def test_memory_is_measured_whatever_lies_in_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pickle.py").write_text("raise RuntimeError('not this one')\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    feeds = {"image": np.zeros((1, 1, 8, 8), np.float32)}
    assert benchmark.peak_memory("onnxref", DIGITS, feeds, benchmark.Setting(backend="numpy"))


def test_bench_table_with_memory() -> None:
    arguments = ("--against", "onnxruntime", "--backend", "numpy", "--runs", 1, "-i", f"image={DIGIT}")
    result = _invoke("bench", DIGITS, *arguments)
    assert result.exit_code == 0, result.output
    assert "digits.onnx: backend numpy, threads all, median of 1" in result.stdout
    for runtime in ("onnxref", "onnxruntime"):
        (line,) = (line for line in result.stdout.splitlines() if line.startswith(f"│ {runtime} "))
        assert line.split("│")[6].strip().endswith("B")


@pytest.mark.parametrize("has_bf16", [True, False])
def test_bench_shows_the_error_of_bfloat16(
    has_bf16: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All sides are compared with onnxref in float32, itself too."""
    monkeypatch.setattr(bf16, "form", lambda: SOFTWARE if has_bf16 else "")
    weights = np.random.default_rng(0).standard_normal((64, 32)).astype(np.float32)
    model = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["": 21]> g (float[5, 64] x) => (float[5, 32] y) { y = MatMul(x, w) }'
    )
    model.graph.initializer.append(onnx.numpy_helper.from_array(weights, "w"))
    path = tmp_path / "model.onnx"
    onnx.save(model, path)
    options = ("--precision", "bf16", "--backend", "numba", "--against", "onnxruntime", "--runs", 1)
    result = _invoke("bench", path, *options, "--no-memory", "--json")
    assert result.exit_code == 0, result.output
    ours, peer = json.loads(result.stdout)
    assert peer["largest_difference"] < 1e-5
    if has_bf16:
        assert 1e-4 < ours["largest_difference"] < 2e-2
        assert ours["notes"] == []
    else:
        assert ours["largest_difference"] == 0
        assert ours["notes"] == [
            "in float32, not bfloat16: this processor has no AVX512-BF16 (1 of its nodes)"
        ]
    text = _invoke("bench", path, *options, "--no-memory").stdout
    assert "precision bf16" in text
    assert "compared with onnxref's in float32" in text
    assert ("onnxref: in float32" in text) == (not has_bf16)


def test_bench_shows_a_peer_that_fails(tmp_path: Path) -> None:
    model = _save(tmp_path, "g (bfloat16[2] x) => (bfloat16[2] y) { y = Sqrt(x) }")
    result = _invoke("bench", model, "--against", "onnxruntime", "--runs", 1, "--no-memory")
    assert result.exit_code == 1
    assert "│ onnxref " in result.stdout
    (line,) = result.stderr.splitlines()
    assert line.startswith("onnxruntime failed: ")


ERRORS: list[tuple[list[Any], str]] = [
    (
        ["--against", "openvino"],
        "MissingDependencyError: comparing with openvino needs it: pip install openvino",
    ),
    (
        ["--against", "abacus"],
        "BackendError: there is no runtime 'abacus' to compare with; choose from onnxruntime, openvino, "
        "onnx.reference",
    ),
    (["--dim", "M=2"], "InputError: --dim 'M' is no dimension of the model's inputs (they have: N)"),
]


@pytest.mark.parametrize(("arguments", "message"), ERRORS, ids=[row[1] for row in ERRORS])
def test_bench_errors_are_one_line(
    arguments: list[Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    result = _invoke("bench", DIGITS, *arguments)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.splitlines() == [message]


# --------------------------------------------------------------------------------- inputs, outputs


def test_inputs_that_are_not_given_are_random() -> None:
    graph = load_model(DIGITS).graph
    assert make_feeds(graph, [], [], 0)["image"].shape == (1, 1, 8, 8)
    assert make_feeds(graph, [], ["N=3"], 0)["image"].shape == (3, 1, 8, 8)
    drawn = make_feeds(graph, [], [], 0, batch=4)["image"]
    assert drawn.shape == (4, 1, 8, 8)
    assert not np.array_equal(drawn[0], drawn[1])
    given = make_feeds(graph, [f"image={DIGIT}"], [], 0, batch=4)["image"]
    assert given.shape == (4, 1, 8, 8)
    np.testing.assert_array_equal(given[0], given[3])


def test_a_fixed_batch_stays(tmp_path: Path) -> None:
    graph = load_model(_save(tmp_path, "g (float[2] x) => (float[2] y) { y = Neg(x) }")).graph
    with pytest.raises(InputError, match="first dimension is free"):
        make_feeds(graph, [], [], 0, batch=4)


def test_models_that_round_to_8_bits(tmp_path: Path) -> None:
    text = "g (float[2] x, float s, uint8 z) => (uint8[2] y) { y = QuantizeLinear(x, s, z) }"
    assert benchmark.rounds_to_8_bits(load_model(_save(tmp_path, text)).graph)
    assert not benchmark.rounds_to_8_bits(load_model(DIGITS).graph)


F32 = np.float32([1, -2, 3])
AGREE: list[tuple[Any, Any, bool, float, float | None]] = [
    (F32, F32, False, 0.0, None),
    (F32, F32 * np.float32(1.00005), False, 5e-5, None),
    (F32, F32 + np.float32(5 / 255 * 2), True, 0.013, 2.0),
    (np.uint8([3, 9]), np.uint8([4, 9]), True, 0.0, 1.0),
    (np.int64([3]), np.int64([3]), False, 0.0, None),
    (np.array(["a"], object), np.array(["a"]), False, 0.0, None),
    (np.float32([np.nan, np.inf]), np.float32([np.nan, np.inf]), False, 0.0, None),
    ([{"a": 1.0, "b": 2.0}], [{"b": 2.0, "a": 1.0}], False, 0.0, None),
]


@pytest.mark.parametrize(("ours", "theirs", "quantised", "error", "quanta"), AGREE)
def test_outputs_that_agree(
    ours: Any, theirs: Any, quantised: bool, error: float, quanta: float | None
) -> None:
    found = compare([ours], [theirs], quantised=quantised)
    assert found.error == pytest.approx(error, rel=0.05)
    assert found.quanta == (None if quanta is None else pytest.approx(quanta, rel=0.05))


DIFFER: list[tuple[Any, Any, bool, str]] = [
    (F32, F32[:2], False, r"in shape: \[3\] and \[2\]"),
    (F32, F32 * np.float32(1.01), False, "by 9.9e-03 of the largest"),
    (F32, F32 * np.float32(1.2), True, "by .* quanta of 8 bits"),
    (F32, np.float32([1, np.nan, 3]), False, "infinite or not numbers"),
    (np.float32([1, np.nan, 3]), F32, False, "of the largest"),
    (np.int64([3]), np.int64([4]), True, "integer outputs differ by up to 1"),
    (np.array(["a"], object), np.array(["b"]), False, "are no numbers"),
    ([F32, F32], [F32], False, "2 output tensors on one side and 1"),
]


@pytest.mark.parametrize(("ours", "theirs", "quantised", "message"), DIFFER)
def test_outputs_that_differ(ours: Any, theirs: Any, quantised: bool, message: str) -> None:
    with pytest.raises(OutputsDifferError, match=message):
        compare([ours], [theirs], quantised=quantised)


# ------------------------------------------------------------------------- warmup, cache, explain


def test_warmup_and_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "cache"
    monkeypatch.setenv("ONNXREF_CACHE", str(folder))
    empty = {"folder": str(folder), "files": 0, "bytes": 0, "cleared": False}
    assert json.loads(_invoke("cache", "--json").stdout) == empty
    first = _in_process("warmup", DIGITS)
    assert first["compiled"]
    assert len(first["compiled"]) <= first["functions"]
    kept = json.loads(_invoke("cache", "--json").stdout)
    assert kept["files"] >= len(first["compiled"])
    assert kept["bytes"] > 0
    assert f"{kept['files']} native functions" in _invoke("cache").stdout
    second = _in_process("warmup", DIGITS)
    assert (second["compiled"], second["functions"]) == ([], first["functions"])
    assert json.loads(_invoke("cache", "--clear", "--json").stdout) == {**kept, "cleared": True}
    assert json.loads(_invoke("cache", "--json").stdout) == empty


def test_warmup_says_what_it_did() -> None:
    result = _invoke("warmup", DIGITS, "--dim", "N=2")
    assert result.exit_code == 0, result.output
    assert "native functions compiled" in result.stdout


def test_warmup_of_a_model_that_fails(tmp_path: Path) -> None:
    model = _save(tmp_path, "g (float[N] x, int64[M] s) => (float[K] y) { y = Reshape(x, s) }")
    result = _invoke("warmup", model, "-i", "x=[1, 2]", "-i", "s=[3]")
    assert result.exit_code == 1
    assert result.stderr.startswith("KernelError" if "Kernel" in result.stderr else "NodeError")


def test_explain() -> None:
    report = json.loads(_invoke("explain", DIGITS, "--json").stdout)
    assert sum(report["summary"].values()) == len(report["nodes"])
    facts = {"nodes", "operator", "kind", "kernel", "result", "reason", "libraries", "copies", "captured"}
    assert facts == set(report["nodes"][0])
    assert report["summary"]["native"] > 0
    shown = _invoke("explain", DIGITS).stdout
    assert f"{report['summary']['native']} native, " in shown
    assert "Gemm" in shown


def test_explain_says_where_bfloat16_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bf16, "form", lambda: "")
    rows = json.loads(_invoke("explain", DIGITS, "--precision", "bf16", "--json").stdout)["nodes"]
    reasons = {row["reason"] for row in rows if "product" in row["kernel"]}
    assert reasons == {"in float32, not bfloat16: this processor has no AVX512-BF16"}


# ------------------------------------------------------------------------------------- benchmarks/


def test_benchmark_program(tmp_path: Path) -> None:
    """It writes results, and goes on after a row that fails."""
    out = tmp_path / "cpu.json"
    options = ["--samples", "1", "--no-memory", "--peers", "onnxruntime", "--models", str(tmp_path)]
    folders = ["--made", str(tmp_path / "made"), "--out", str(out)]
    command = [sys.executable, str(ROOT / "benchmarks" / "run.py"), "vit-base", "mlp", *options, *folders]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    written = json.loads(out.read_text())
    assert written["environment"]["cores"] >= 1
    failed, mlp = written["sections"]["all cores"]
    assert "export_transformers.py" in failed["error"]
    assert mlp["target"] == 0.6
    assert [side["runtime"] for side in mlp["sides"]] == ["onnxref", "onnxruntime"]
    text = out.with_suffix(".md").read_text()
    assert "| mlp | " in text
    assert "- vit-base failed: FileNotFoundError" in text


def test_rows_keep_the_environment_that_they_were_measured_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    report = importlib.import_module("report")
    out = tmp_path / "cpu.json"

    def row(name: str, date: str) -> dict[str, Any]:
        return {"model": name, "group": "small", "target": 0.6, "date": date, "sides": []}

    older = {
        "environment": {"date": "2020-01-02", "processor": "Abacus", "onnxruntime": "0.1"},
        "sections": {"all cores": [row("a", "2020-01-01"), row("b", "2020-01-01")]},
    }
    out.write_text(json.dumps(older))
    for _ in range(2):
        results = report.Results.read(out, 2)
        results.add("all cores", [row("b", report.today()), row("c", report.today())])
        results.write(out)
    header, _, rest = out.with_suffix(".md").read_text().partition("## All cores")
    assert report.today() in header
    assert "Abacus" not in header
    assert "\n- a: measured 2020-01-01, Abacus, onnxruntime 0.1\n" in rest
    assert rest.count("measured") == 1


def test_all_that_is_published_is_made_by_one_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    program = importlib.import_module("run")
    monkeypatch.setattr(sys, "argv", ["run.py", "--full"])
    settings = program.Settings(peers=("onnxruntime", "openvino"))
    made = {
        section: {row.name for row in rows}
        for section, rows, _ in program._sections(program.arguments(), settings, program.all_rows())
    }
    made["cold"] = {name for name, _, _ in program.cold._SIDES}
    cases, sides = program.new_shapes.CASES, program.new_shapes.SIDES
    made["new shapes"] = {f"{case.title}: {side}" for case in cases for side in sides}
    published = json.loads(program.RESULTS.read_text(encoding="utf-8"))["sections"]
    assert made == {section: {row["model"] for row in rows} for section, rows in published.items()}


def test_benchmark_program_in_bfloat16(tmp_path: Path) -> None:
    """Its section has a name of its own, and says how large the error is."""
    out = tmp_path / "cpu.json"
    options = ["--precision", "bf16", "--samples", "1", "--no-memory", "--peers", ""]
    folders = ["--made", str(tmp_path / "made"), "--out", str(out)]
    command = [sys.executable, str(ROOT / "benchmarks" / "run.py"), "mlp", *options, *folders]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    ((ours,),) = (
        row["sides"] for row in json.loads(out.read_text())["sections"]["all cores, precision bf16"]
    )
    assert 0 <= ours["largest_difference"] < benchmark.RELATIVE_BF16
    assert "- mlp: outputs differ from those in float32 by" in out.with_suffix(".md").read_text()
