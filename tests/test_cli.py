"""The `onnxref` command, as a user types it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import helper, numpy_helper
from rich.console import Console
from typer.testing import CliRunner, Result

import onnxref
from onnxref.cli import _run as _run_module
from onnxref.cli._app import app

EXAMPLES = Path(__file__).parent.parent / "examples"
DIGITS = str(EXAMPLES / "digits.onnx")
DIGIT = str(EXAMPLES / "digit.png")
IMAGE = np.linspace(0, 1, 64, dtype=np.float32).reshape(1, 1, 8, 8)


def _invoke(*arguments: Any) -> Result:
    # Wide enough that tables do not wrap.
    return CliRunner(env={"COLUMNS": "250"}).invoke(app, [str(a) for a in arguments])


def _run(*arguments: Any) -> dict[str, Any]:
    """Return the outputs that `onnxref run --json` reports."""
    result = _invoke("run", *arguments, "--json")
    assert result.exit_code == 0, result.output
    report: dict[str, Any] = json.loads(result.stdout)
    assert report["load_seconds"] > 0
    assert report["run_seconds"] > 0
    outputs: dict[str, Any] = report["outputs"]
    return outputs


def _save(folder: Path, text: str, opset: int = 21) -> Path:
    path = folder / "model.onnx"
    head = f'<ir_version: 10, opset_import: ["": {opset}, "ai.onnx.ml": 3]>\n'
    path.write_bytes(onnx.parser.parse_model(head + text).SerializeToString())
    return path


# --------------------------------------------------------------------------------------------- run


def _write(folder: Path, kind: str) -> str:
    """Write IMAGE in a form that `--input` takes, and return what to type."""
    path = folder / f"image.{kind}"
    match kind:
        case "npy":
            np.save(path, IMAGE)
        case "npz":
            np.savez(path, image=IMAGE, other=np.zeros(1))
        case "pb":
            path.write_bytes(numpy_helper.from_array(IMAGE).SerializeToString())
        case "json":
            path.write_text(json.dumps(IMAGE.tolist()))
        case "literal":
            return json.dumps(IMAGE.tolist())
    return str(path)


@pytest.mark.parametrize("name", ["image=", ""], ids=["named", "bare"])
@pytest.mark.parametrize("kind", ["npy", "npz", "pb", "json", "literal"])
def test_input_files(tmp_path: Path, kind: str, name: str) -> None:
    outputs = _run(DIGITS, "-i", name + _write(tmp_path, kind))
    expected = onnxref.run(DIGITS, IMAGE)
    assert outputs["label"]["first"] == expected["label"].tolist()
    assert outputs["probabilities"]["type"] == "tensor(float)"
    assert outputs["probabilities"]["shape"] == [1, 10]
    assert outputs["probabilities"]["max"] == pytest.approx(float(expected["probabilities"].max()))


def test_an_image() -> None:
    assert _run(DIGITS, "--input", f"image={DIGIT}")["label"]["first"] == [4]


def test_random_inputs() -> None:
    def probabilities(*options: Any) -> Any:
        return _run(DIGITS, "-i", "image=random", *options)["probabilities"]

    assert probabilities() == probabilities("--seed", 0) != probabilities("--seed", 1)
    assert probabilities()["shape"] == [1, 10]
    assert probabilities("--dim", "N=3")["shape"] == [3, 10]


@pytest.mark.parametrize(
    ("declared", "type_"),
    [
        ("int64[2]", "tensor(int64)"),
        ("bool[2]", "tensor(bool)"),
        ("bfloat16[2]", "tensor(bfloat16)"),
        ("complex64[2]", "tensor(complex64)"),
        ("string[2]", "tensor(string)"),
        ("int4[2]", "tensor(int4)"),
        ("seq(float[2])", "sequence"),
        ("optional(float[2])", "tensor(float)"),
    ],
)
def test_random_inputs_of_every_kind(tmp_path: Path, declared: str, type_: str) -> None:
    path = _save(tmp_path, f"g ({declared} x) => ({declared} y) {{ y = Identity(x) }}", opset=25)
    first = _run(path, "-i", "random")["y"]
    assert first["type"] == type_
    assert first.get("shape", [2]) == [2]


def test_chosen_outputs() -> None:
    outputs = _run(DIGITS, "-i", "random", "--output", "logits", "-o", "x0")
    assert list(outputs) == ["logits", "x0"]
    assert outputs["x0"]["shape"] == [1, 64]


def test_inputs_with_a_default_need_not_be_given(tmp_path: Path) -> None:
    """Old exporters list the weights as inputs, too: still a model with one input."""
    path = _save(tmp_path, "g (float[2] w, float[2] x) => (float[2] y) { y = Add(x, w) }")
    model = onnx.load(path)
    model.graph.initializer.append(helper.make_tensor("w", 1, [2], [10, 20]))
    onnx.save(model, path)
    assert _run(path, "-i", "[1, 2]")["y"]["first"] == [11, 22]
    assert _run(path, "-i", "x=[1, 2]", "-i", "w=[0, 0]")["y"]["first"] == [1, 2]


def test_table() -> None:
    result = _invoke("run", DIGITS, "-i", DIGIT)
    assert result.exit_code == 0
    assert "digits.onnx: loaded in" in result.stdout
    (row,) = [line for line in result.stdout.splitlines() if "label" in line]
    assert [cell.strip() for cell in row.strip("│").split("│")] == [
        "label", "tensor(int64) [1]", "4", "4", "none", "4",
    ]  # fmt: skip


def test_saving(tmp_path: Path) -> None:
    np.save(tmp_path / "in.npy", IMAGE)
    expected = onnxref.run(DIGITS, IMAGE)
    _run(DIGITS, "-i", tmp_path / "in.npy", "--save", tmp_path / "out.npz")
    _run(DIGITS, "-i", tmp_path / "in.npy", "--save", tmp_path / "new" / "folder")
    with np.load(tmp_path / "out.npz") as saved:
        assert sorted(saved) == sorted(expected)
        for name, value in expected.items():
            np.testing.assert_array_equal(saved[name], value, strict=True)
            from_folder = np.load(tmp_path / "new" / "folder" / f"{name}.npy")
            np.testing.assert_array_equal(from_folder, value, strict=True)


def test_saving_other_types(tmp_path: Path) -> None:
    path = _save(
        tmp_path,
        "g (string[N] x, bfloat16[N] b) => (string[N] s, bfloat16[N] c, seq(string[N]) q) "
        "{ s = StringConcat(x, x) c = Identity(b) q = SequenceConstruct(x, x) }",
    )
    np.save(tmp_path / "b.npy", np.array([1.5], ml_dtypes.bfloat16))
    inputs = ("-i", 'x=["é"]', "-i", f"b={tmp_path / 'b.npy'}")
    outputs = _run(path, *inputs, "--save", tmp_path / "out")
    assert outputs["c"]["first"] == [1.5]
    assert outputs["q"]["length"] == 2
    assert np.load(tmp_path / "out" / "s.npy").tolist() == ["éé"]
    assert json.loads((tmp_path / "out" / "q.json").read_text(encoding="utf-8")) == [["é"], ["é"]]
    # What was saved can be given again.
    assert _run(path, "-i", 'x=["é"]', "-i", f"b={tmp_path / 'out' / 'c.npy'}")["c"]["first"] == [1.5]
    result = _invoke("run", path, *inputs, "--save", tmp_path / "out.npz")
    assert result.exit_code == 1
    assert "output 'q' is not a tensor and cannot go into a .npz file; save to a folder" in result.stderr


def test_saving_keeps_names_apart(tmp_path: Path) -> None:
    names = ["a/b", "a:b", "A_B", "a_b", "a_b-2", "file", "allow_pickle"]
    nodes = [helper.make_node("Constant", [], [name], value_float=float(i)) for i, name in enumerate(names)]
    outputs = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, []) for name in names]
    graph = helper.make_graph(nodes, "g", [], outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    _run(path, "--save", tmp_path / "out")
    files = ["a_b", "a_b-2", "A_B-3", "a_b-4", "a_b-2-2", "file", "allow_pickle"]
    assert {file.stem: float(np.load(file)) for file in (tmp_path / "out").iterdir()} == {
        file: float(i) for i, file in enumerate(files)
    }
    _run(path, "--save", tmp_path / "out.npz")
    with np.load(tmp_path / "out.npz") as saved:
        assert {name: float(saved[name]) for name in saved} == {
            name: float(i) for i, name in enumerate(names)
        }


@pytest.mark.parametrize("is_terminal", [False, True])
def test_a_run_is_as_native_as_its_backend(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_terminal: bool
) -> None:
    """The progress bar keeps no node on the reference."""
    made: list[onnxref.InferenceSession] = []

    class Session(onnxref.InferenceSession):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            made.append(self)

    monkeypatch.setattr(_run_module, "InferenceSession", Session)
    monkeypatch.setattr(Console, "is_terminal", is_terminal)
    path = _save(tmp_path, "g (float[2] x) => (float[2] y) { a = Relu(x) y = Neg(a) }")
    assert _run(path, "-i", "x=[1, -2]", "--backend", "numba")["y"]["first"] == [-1, 0]
    (session,) = made
    assert all(region.program is not None for region in session.native_regions())
    assert session.native_regions()


def test_json_is_json_also_for_what_is_not_finite(tmp_path: Path) -> None:
    path = _save(tmp_path, "g (double[N] x) => (double[N] y) { y = Sqrt(x) }")
    result = _invoke("run", path, "-i", "[-1.0, 1.0]", "--json")

    def refuse(constant: str) -> Any:
        raise AssertionError(f"{constant} is not JSON")

    y = json.loads(result.stdout, parse_constant=refuse)["outputs"]["y"]
    assert y["first"] == ["nan", 1.0]
    assert (y["nan"], y["inf"], y["max"]) == (1, 0, 1.0)


def test_maps(tmp_path: Path) -> None:
    path = _save(
        tmp_path,
        "g (float[N, 2] x) => (seq(map(int64, float)) y) "
        "{ y = ai.onnx.ml.ZipMap<classlabels_int64s = [7, 8]>(x) }",
    )
    y = _run(path, "-i", "[[0.5, 1.5]]")["y"]
    assert y["first"][0]["first"] == {"7": 0.5, "8": 1.5}


ERRORS: list[tuple[list[Any], str]] = [
    (
        ["run", "no/such.onnx"],
        "ModelLoadError: cannot read the model 'no/such.onnx': No such file or directory",
    ),
    (["run", DIGITS], "InputError: input 'image' is missing; the model takes 'image'"),
    (
        ["run", DIGITS, "-i", "picture=[1]"],
        "InputError: --input 'picture=[1]' names no input of the model (it has: image)",
    ),
    (
        ["run", DIGITS, "-i", "image=nothing"],
        "InputError: input 'image' from 'nothing' is neither JSON nor a .npy, .npz, .pb, .json "
        "or image file, nor 'random' (Expecting value: line 1 column 1 (char 0))",
    ),
    (
        ["run", DIGITS, "-i", "no/such.npy"],
        "InputError: input 'image' from 'no/such.npy' cannot be read: "
        "[Errno 2] No such file or directory: 'no/such.npy'",
    ),
    (
        ["run", DIGITS, "-i", "[[1, 2]]"],
        "InputError: input 'image' must have rank 4, shape [N, 1, 8, 8] (got shape [1, 2])",
    ),
    (
        ["run", DIGITS, "-i", "random", "--dim", "N=many"],
        "InputError: --dim must be NAME=SIZE with a whole number (got 'N=many')",
    ),
    (
        ["run", DIGITS, "-i", "random", "--dim", "M=2"],
        "InputError: --dim 'M' is no dimension of the model's inputs (they have: N)",
    ),
    (
        ["run", DIGITS, "-i", "random", "--dim", f"N={2**60}"],
        "InputError: input 'image' from 'random' cannot be read: ",
    ),
    (
        ["run", DIGITS, "-i", "random", "-o", "nope"],
        "OutputError: the model has no value 'nope'; its outputs are 'label', 'probabilities'",
    ),
    (
        ["run", DIGITS, "-i", "random", "--backend", "abacus"],
        "BackendError: there is no backend 'abacus'; choose from numpy, numba",
    ),
    (
        ["explain", DIGITS, "--precision", "tf32"],
        "OptionError: precision must be one of default, strict, bf16 (got 'tf32')",
    ),
    (["ops", "Frob"], "UnsupportedOperatorError: no operator is called 'Frob'; see `onnxref ops`"),
    (["inspect", DIGIT], f"ModelLoadError: {DIGIT!r} is not an ONNX model, or is broken or truncated"),
]


@pytest.mark.parametrize(("arguments", "message"), ERRORS, ids=[row[1] for row in ERRORS])
def test_errors_are_one_line(arguments: list[Any], message: str) -> None:
    result = _invoke(*arguments)
    assert result.exit_code == 1
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith(message)


@pytest.mark.parametrize(
    ("variable", "message"),
    [
        ("ONNXREF_NUM_THREADS", "ONNXREF_NUM_THREADS must be a positive number (got 'x')"),
        ("ONNXREF_CPU", "ONNXREF_CPU must be one of native, avx2, sse2 (got 'x')"),
    ],
)
def test_wrong_variables_are_one_line(variable: str, message: str) -> None:
    command = [sys.executable, "-m", "onnxref", "run", DIGITS, "-i", DIGIT, "--backend", "numba"]
    done = subprocess.run(
        command, env={**os.environ, variable: "x"}, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (1, f"OptionError: {message}\n")


@pytest.mark.parametrize("kind", ["npy", "npz", "pb", "png", "json"])
@pytest.mark.parametrize("content", [b"", b"junk"], ids=["empty", "junk"])
def test_broken_files(tmp_path: Path, kind: str, content: bytes) -> None:
    path = tmp_path / f"image.{kind}"
    path.write_bytes(content)
    result = _invoke("run", DIGITS, "-i", f"image={path}")
    assert result.exit_code == 1
    assert len(result.stderr.splitlines()) == 1
    assert result.stderr.startswith(("InputError: ", "ModelLoadError: "))


def test_errors_of_many_lines_are_one_line(tmp_path: Path) -> None:
    path = tmp_path / "model.onnxtxt"
    path.write_text("<ir_version: 10>\ng (float x) -> (float y)\n{ }")
    result = _invoke("inspect", path)
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"ModelLoadError: {str(path)!r} is not valid ONNX text: ")


def test_limits(tmp_path: Path) -> None:
    path = _save(tmp_path, "g (int64[N] s) => (float[M] y) { y = ConstantOfShape(s) }")
    result = _invoke("run", path, "-i", "[1000000000]", "--limits", "untrusted")
    assert result.exit_code == 1
    assert result.stderr.startswith("ResourceLimitError: limit 'tensor_bytes' is 1,073,741,824: output would")


# ----------------------------------------------------------------------------------------- inspect


def test_inspect_json() -> None:
    result = _invoke("inspect", DIGITS, "--nodes", "--json")
    report = json.loads(result.stdout)
    assert report["inputs"] == [{"name": "image", "type": "tensor(float)", "shape": ["N", 1, 8, 8]}]
    assert [v["name"] for v in report["outputs"]] == ["label", "probabilities"]
    assert report["opsets"] == {"ai.onnx": 21}
    assert report["operators"]["Gemm"] == 3
    assert report["parameters"] == {"tensors": 6, "elements": 6570, "bytes": 26280}
    assert [n["operator"] for n in report["nodes"]] == [
        "Flatten", "Gemm", "Relu", "Gemm", "Relu", "Gemm", "Softmax", "ArgMax",
    ]  # fmt: skip
    assert report["nodes"][7]["attributes"] == {"axis": "1", "keepdims": "0"}
    assert "nodes" not in json.loads(_invoke("inspect", DIGITS, "--json").stdout)


def test_inspect_tables() -> None:
    short, long = _invoke("inspect", DIGITS).stdout, _invoke("inspect", DIGITS, "--nodes").stdout
    for shown in ("6,570 in 6 tensors, 25.7 KiB", "['N', 1, 8, 8]", "tensor(float)"):
        assert shown in short
    assert "x0, w0, b0" in long
    assert "x0, w0, b0" not in short


def test_inspect_looks_into_subgraphs_and_functions(tmp_path: Path) -> None:
    text = """<ir_version: 10, opset_import: ["": 21, "my": 1]>
    g (float[N] x, bool c) => (float[N] y) {
      y = If(c) <then_branch = t () => (float[N] p) { k = Constant<value = float[2] {1, 2}>() p = Add(x, k) },
                 else_branch = e () => (float[N] q) { q = my.f(x) }>
    }
    <domain: "my", opset_import: ["": 21]> f (a) => (b) { b = Neg(a) }"""
    path = tmp_path / "model.onnxtxt"
    path.write_text(text)
    report = json.loads(_invoke("inspect", path, "--json", "--nodes").stdout)
    assert report["operators"] == {"If": 1, "Constant": 1, "Add": 1, "my:f": 1, "Neg": 1}
    assert report["functions"] == ["my:f"]
    assert report["parameters"]["elements"] == 2
    assert report["nodes"][0]["attributes"]["else_branch"] == "graph e (1 nodes)"
    assert "my:f" in _invoke("inspect", path).stdout


# ------------------------------------------------------------------------------------- ops, others


def test_ops() -> None:
    rows = {(r["domain"], r["operator"]): r for r in json.loads(_invoke("ops", "--json").stdout)}
    assert rows["ai.onnx", "Relu"] == {
        "operator": "Relu",
        "domain": "ai.onnx",
        "versions": [1, 6, 13, 14],
        "backends": ["numpy", "numba", "cupy"],
    }
    assert ("ai.onnx.ml", "ZipMap") in rows
    table = _invoke("ops").stdout
    assert f"{len(rows)} operators" in table
    assert "ZipMap" in table


@pytest.mark.parametrize("name", ["Softmax", "softmax"])
def test_one_operator(name: str) -> None:
    rows = json.loads(_invoke("ops", name, "--json").stdout)
    assert [row["version"] for row in rows] == [1, 11, 13]
    assert rows[-1]["attributes"] == ["axis"]
    assert rows[-1]["inputs"] == "input: bfloat16 | double | float | float16"
    assert "bfloat16 | double | float | float16" in _invoke("ops", name).stdout


def test_version_and_help() -> None:
    assert _invoke("--version").stdout == f"onnxref {onnxref.__version__}\n"
    for arguments in (["--help"], ["-h"], ["run", "-h"]):
        result = _invoke(*arguments)
        assert result.exit_code == 0
        assert "Usage:" in result.stdout


def test_wrong_usage_is_status_2() -> None:
    assert _invoke("frobnicate").exit_code == 2
    assert _invoke("run", DIGITS, "--limits", "none").exit_code == 2


def test_as_a_module() -> None:
    command = [sys.executable, "-m", "onnxref", "run", DIGITS, "-i", DIGIT, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["outputs"]["label"]["first"] == [4]


def test_without_typer() -> None:
    """The command says what is missing; the library itself does not need it."""
    code = "import sys; sys.modules['typer'] = None; from onnxref.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "the onnxref command needs Typer and Rich: pip install 'onnxref[cli]'\n"
