"""Folders that show one part of a model alone."""

from __future__ import annotations

import json
import subprocess
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
from onnxref.conformance.cases import read_case
from typer import Typer
from typer.testing import CliRunner

import onnxref
from onnxref.cli._reduce import add_reduce
from onnxref.cli._repro import add_repro
from onnxref.debug._repro import repro, repro_values, script, write_repro
from onnxref.debug._subgraph import extract
from onnxref.errors import InputError, OutputError

_MODELS = {model.name: model for model in REAL_MODELS}
OCR = _MODELS["ocr direction"]
SILERO = _MODELS["silero_vad 16 kHz"]
RELU = "If_0/then_branch/If_0_then_branch__Inline_0__/encoder/2/activation/Relu"
HEAD = '<ir_version: 10, opset_import: ["": 18]>'
LOOP = onnx.parser.parse_model(
    HEAD
    + """g (float[2] x, int64 n) => (float[2] last) <bool yes = {1}> {
        [loop] last = Loop (n, yes, x) <body = body (int64 i, bool c, float[2] acc) =>
            (bool c_out, float[2] acc_out) {
                f = CastLike(i, acc)
                [Add_2] acc_out = Add(acc, f)
                c_out = Identity(c)
            }>
    }"""
)
X = {"x": np.float32([1, 2]), "n": np.int64(5)}


def _run(folder: Path) -> str:
    found = subprocess.run(
        [sys.executable, folder / "repro.py"], capture_output=True, text=True, check=False, cwd="/"
    )
    assert found.returncode == 0, found.stderr
    return found.stdout


@pytest.fixture
def _wrong_relu() -> Iterator[None]:
    onnxref.register_op("Relu", domain="")(lambda x: np.maximum(x, 0) * x.dtype.type(1.05))
    yield
    onnxref.unregister_op("Relu", domain="")


@pytest.mark.usefixtures("_wrong_relu")
def test_a_wrong_kernel_shows_alone(tmp_path: Path) -> None:
    found = repro(SILERO.model(), SILERO.calls()[0], RELU, tmp_path)
    assert not found.passed
    by_backend = {side.backend: side.errors for side in found.sides}
    assert all(errors.passed for errors in by_backend["numpy"].values())
    assert not any(errors.passed for errors in by_backend["onnxruntime"].values())


def test_the_folder_and_its_script(tmp_path: Path) -> None:
    found = repro(OCR.model(), OCR.calls()[0], "Conv@20", tmp_path / "case")
    assert found.passed
    names = sorted(str(path.relative_to(tmp_path / "case")) for path in (tmp_path / "case").rglob("*.*"))
    assert names == ["model.onnx", "repro.py", "test_data_set_0/input_0.pb", "test_data_set_0/output_0.pb"]
    onnx.checker.check_model(tmp_path / "case" / "model.onnx", full_check=True)
    case = read_case(tmp_path / "case", "mine", "node")
    assert (case.operator, case.type) == ("Conv", "float")
    text = (tmp_path / "case" / "repro.py").read_text()
    assert len(text.splitlines()) <= 16
    name, _, size = _run(tmp_path / "case").partition(" largest difference: ")
    assert name == found.part.model.graph.outputs[0].name
    assert 0 <= float(size) < 1e-4


def test_an_iteration_of_a_loop(tmp_path: Path) -> None:
    found = repro(LOOP, X, "loop[3]/body/Add_2", tmp_path)
    assert found.part.inputs["acc"].tolist() == [4, 5]
    assert found.part.inputs["f"] == 3
    assert _run(tmp_path) == "acc_out largest difference: 0.0\n"
    assert repro(LOOP, X, "loop[4]/body/acc_out", tmp_path).part.outputs["acc_out"].tolist() == [11, 12]


def test_nodes_between_two_and_between_values(tmp_path: Path) -> None:
    nodes = repro(OCR.model(), OCR.calls()[0], "Conv@20", tmp_path, last="Conv@22").part.nodes
    assert (nodes[0], nodes[-1]) == ("Conv@20", "Conv@22")
    found = repro_values(LOOP, X, ["loop[1]/body/acc_out"], tmp_path, inputs=["loop[1]/body/f"])
    assert found.part.nodes == ("Add_2",)
    assert sorted(found.part.inputs) == ["acc", "f"]


@pytest.mark.parametrize("first", ["numpy", "numba", "auto", "onnxruntime:disabled", "onnx.reference"])
def test_scripts_for_every_backend(first: str, tmp_path: Path) -> None:
    repro(LOOP, X, "loop[3]/body/Add_2", tmp_path, backends=(first, "onnxruntime"))
    assert _run(tmp_path) == "acc_out largest difference: 0.0\n"
    assert ("onnxref" in (tmp_path / "repro.py").read_text()) == (first in ("numpy", "numba", "auto"))


def test_sequences_texts_and_bodies(tmp_path: Path) -> None:
    model = onnx.parser.parse_model(
        HEAD + "g (float[2] x) => (seq(float[2]) s, float[N] y) { s = SequenceConstruct(x, x) "
        "y = ConcatFromSequence <axis = 0> (s) }"
    )
    repro(model, X["x"], "y", tmp_path / "sequence")
    assert _run(tmp_path / "sequence") == "y largest difference: 0.0\n"
    assert "read_value_file" in (tmp_path / "sequence" / "repro.py").read_text()
    repro(model, X["x"], "s", tmp_path / "made", backends=("numpy", "numpy"))
    repro(LOOP, X, "loop", tmp_path / "loop")
    assert _run(tmp_path / "loop") == "last largest difference: 0.0\n"


def test_a_node_that_fails(tmp_path: Path) -> None:
    model = onnx.parser.parse_model(
        HEAD + "g (float[2] x, int64[1] s) => (float[K] y) { a = Neg(x) [bad] y = Reshape(a, s) }"
    )
    found = repro(model, {"x": X["x"], "s": np.int64([3])}, "bad", tmp_path)
    assert "in the run it failed: " in found.summary
    assert all(side.error for side in found.sides)
    assert "fails: " in str(found)
    assert not (tmp_path / "test_data_set_0" / "output_0.pb").exists()


def test_results_show_themselves(tmp_path: Path) -> None:
    found = repro(LOOP, X, "loop[3]/body/Add_2", tmp_path)
    report = found.to_json()
    assert report["nodes"] == ["Add_2"]
    assert report["backends"][1]["outputs"]["acc_out"]["passed"]
    assert json.loads(json.dumps(report)) == report
    assert str(found).startswith("loop[3]/body/Add_2: 1 node in ")
    assert "onnxruntime" in found._repr_html_()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda f: repro(LOOP, X, "loop", f, backends=("numpy",)), InputError, "compares two backends"),
        (
            lambda f: repro(LOOP, X, "loop", f, backends=("numpy", "tvm")),
            InputError,
            "there is no backend 'tvm' for a script; choose from numpy, numba, auto, onnxruntime",
        ),
        (lambda f: repro(LOOP, X, "Mul_1", f), OutputError, "has no node or computed value 'Mul_1'"),
        (lambda f: repro(LOOP, X, "loop", f / "file"), OutputError, "cannot write"),
    ],
)
def test_what_cannot_be_written(call: Any, error: type[Exception], message: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(error, match=message):
        call(tmp_path)


def test_quotes_in_names_do_not_break_the_script() -> None:
    part = extract(LOOP, X, "loop[3]/body/Add_2")
    object.__setattr__(part, "what", 'a """ b \\ c')
    compile(script(part, ("numpy", "onnxruntime")), "repro.py", "exec")


# The commands -------------------------------------------------------------------------------------


def _invoke(add: Any, *arguments: Any) -> Any:
    app = Typer()
    add(app)
    app.callback()(lambda: None)
    return CliRunner(env={"COLUMNS": "200"}).invoke(app, [add.__name__[4:], *map(str, arguments)])


@pytest.fixture
def loop_file(tmp_path: Path) -> Path:
    path = tmp_path / "loop.onnx"
    path.write_bytes(LOOP.SerializeToString())
    return path


def test_the_command(tmp_path: Path, loop_file: Path) -> None:
    result = _invoke(
        add_repro, loop_file, "loop[1]/body/Add_2", "-i", "n=3", "--out", tmp_path / "out", "--json"
    )
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert (report["nodes"], report["passed"]) == (["Add_2"], True)
    assert (tmp_path / "out" / "repro.py").exists()
    result = _invoke(
        add_repro, loop_file, "--value", "last", "-i", "n=3", "--out", tmp_path / "out", "--fail"
    )
    assert result.exit_code == 0, result.output
    assert "last: 1 node in" in result.stdout


@pytest.mark.usefixtures("_wrong_relu")
def test_the_command_fails_where_backends_differ(tmp_path: Path) -> None:
    digits = _MODELS["digits"].model()
    result = _invoke(add_repro, digits, "Relu#2", "--out", tmp_path, "--fail")
    assert result.exit_code == 2, result.output


@pytest.mark.parametrize("arguments", [[], ["loop", "--value", "last"]])
def test_the_command_wants_one_thing(arguments: list[str], loop_file: Path) -> None:
    result = _invoke(add_repro, loop_file, *arguments)
    assert result.exit_code == 1
    assert "InputError: give either a node or --value" in result.stderr


def test_the_reduce_command(tmp_path: Path, loop_file: Path) -> None:
    script_file = tmp_path / "check.py"
    script_file.write_text(
        "import sys, onnx\nsys.exit('Add' not in str(onnx.load(sys.argv[1] + '/model.onnx').graph))\n"
    )
    result = _invoke(
        add_reduce,
        loop_file,
        *("-i", "n=3", "--check", f"{sys.executable} {script_file} {{}}"),
        *("--out", tmp_path / "out", "--trials", 12, "--json"),
    )
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["nodes"] == ["Add_2"]
    assert (tmp_path / "out" / "model.onnx").exists()


@pytest.mark.usefixtures("_wrong_relu")
def test_the_reduce_command_against_a_runner(tmp_path: Path) -> None:
    digits = _MODELS["digits"].model()
    result = _invoke(
        add_reduce,
        digits,
        "--backend",
        "numpy",
        "--against",
        "onnxruntime",
        "--out",
        tmp_path,
        "--trials",
        40,
    )
    assert result.exit_code == 0, result.output
    assert "Relu" in result.stdout
    assert len(onnx.load(tmp_path / "model.onnx").graph.node) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "InputError: give either --check or --against"),
        (["--check", "false {}"], "InputError: the model does not fail the check as it is"),
        (["--check", "false"], "InputError: the check must have {}"),
    ],
)
def test_the_reduce_command_says_what_is_wrong(arguments: list[str], message: str, loop_file: Path) -> None:
    result = _invoke(add_reduce, loop_file, *arguments)
    assert result.exit_code == 1
    assert message in result.stderr


def test_a_part_that_was_made_by_hand(tmp_path: Path) -> None:
    found = write_repro(extract(LOOP, X, "loop[0]/body/Add_2"), tmp_path, ("numpy", "numpy"))
    assert found.passed
