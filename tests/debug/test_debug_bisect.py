"""Bisecting optimisations finds the one at fault."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx.parser
import pytest
from model_zoo import REAL_MODELS
from typer import Typer
from typer.testing import CliRunner

from onnxref.cli._bisect import add_bisect
from onnxref.debug._bisect import Trial, bisect, optimizers_used, run_on, smallest, worst
from onnxref.debug._errors_between import Tolerance
from onnxref.errors import OnnxRefError
from onnxref.model import load_model
from onnxref.plan import passes
from onnxref.plan.passes import cleanup

_MODELS = {model.name: model for model in REAL_MODELS}
DIGITS = _MODELS["digits"].model()
IMAGE = {"image": np.linspace(-1, 1, 64, dtype=np.float32).reshape(1, 1, 8, 8)}
OCR = _MODELS["ocr direction"]
EXACT = Tolerance(rtol=0, atol=0)
DISABLED = "onnxruntime:disabled"


@pytest.fixture
def _wrong_identities(monkeypatch: pytest.MonkeyPatch) -> None:
    """`remove_identities` takes every Relu for a node that changes nothing."""
    monkeypatch.setitem(cleanup._IDENTITIES, "Relu", cleanup._always)


@pytest.mark.usefixtures("_wrong_identities")
def test_a_divergent_pass_in_a_real_model() -> None:
    told: list[Trial] = []
    found = bisect(DIGITS, IMAGE, progress=told.append)
    assert found.diverges
    assert found.culprits == (("remove_identities",),)
    assert found.summary == ("numba diverges from numpy; switching off remove_identities makes it agree")
    assert tuple(told) == found.trials
    assert found.trials[0].verdict == "diverges"
    assert {trial.off: trial.verdict for trial in found.trials}["layout",] == "diverges"


@pytest.mark.usefixtures("_wrong_identities")
def test_two_passes_that_must_both_be_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(passes.all_passes(), "merge_transposes", cleanup.remove_identities)
    found = bisect(DIGITS, IMAGE)
    assert found.culprits == (("remove_identities", "merge_transposes"),)
    assert "switching off remove_identities and merge_transposes makes it agree" in str(found)


def test_an_optimizer_of_onnxruntime() -> None:
    # It computes with other weights, and so gives other bits: without any tolerance that is a divergence.
    found = bisect(OCR.model(), OCR.calls()[0], "onnxruntime", DISABLED, tolerance=EXACT)
    assert (found.level, found.culprits) == ("basic", (("ConvBNFusion",),))
    assert "switching off ConvBNFusion (level basic) makes it agree" in found.summary
    names = [trial.off for trial in found.trials]
    assert names[:3] == [(), ("above level disabled",), ("above level basic",)]


def test_optimizers_are_those_that_change_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_model(OCR.model())
    (tmp_path / "onnxruntime.py").write_text("raise RuntimeError('not this one')\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    names = optimizers_used(model, "all")
    assert "ConvBNFusion" in names
    assert "AttentionFusion" not in names
    text = '<ir_version: 8, opset_import: ["": 13]> g (float[N] x) => (float[N] y) { y = Abs(x) }'
    assert optimizers_used(load_model(onnx.parser.parse_model(text))) == []


def test_a_kernel_is_no_optimisation() -> None:
    # Another summation order is no matter of levels.
    found = bisect(OCR.model(), OCR.calls()[0], "onnxruntime", "numpy", tolerance=EXACT)
    assert found.diverges
    assert found.culprits == ()
    assert found.summary == "no optimiser is at fault: onnxruntime diverges from numpy without any of them"


def test_a_native_kernel_is_no_pass() -> None:
    model = _MODELS["torch cnn_opset9"]
    feeds = model.calls()[0]
    golden = {name: value + 1 for name, value in run_on("numpy", load_model(model.model()), feeds).items()}
    found = bisect(model.model(), feeds, against=golden)
    assert found.culprits == ()
    assert found.summary.startswith("no pass is at fault: numba diverges from")


@pytest.mark.parametrize("backend", ["numba", "onnxruntime"])
def test_where_both_agree(backend: str) -> None:
    found = bisect(DIGITS, IMAGE, backend)
    assert not found.diverges
    assert found.summary == f"{backend} agrees with numpy"
    assert len(found.trials) == 1


@pytest.mark.usefixtures("_wrong_identities")
def test_results_show_themselves() -> None:
    found = bisect(DIGITS, IMAGE)
    report = found.to_json()
    assert report["culprits"] == [["remove_identities"]]
    assert report["trials"][0]["verdict"] == "diverges"
    assert report["trials"][0]["absolute"] > 0
    assert f"remove_identities and {len(passes.all_passes()) + 1} others" in str(found)
    assert "switching off remove_identities" in found._repr_html_()


def test_the_smallest_set() -> None:
    names = tuple("abcdefghij")
    for wanted in ({"a"}, {"j", "c"}, {"b", "e", "h"}, set(names)):
        assert set(smallest(names, lambda off, w=wanted: w <= set(off))) == wanted  # type: ignore[misc]


def test_the_worst_output() -> None:
    golden = {"a": np.float32([1]), "b": np.float32([1])}
    name, errors = worst(golden, {"a": np.float32([1]), "b": np.float32([2])}, Tolerance())
    assert (name, errors.absolute) == ("b", 1)
    assert worst({}, {}, Tolerance())[0] == ""


@pytest.mark.parametrize(
    ("backend", "against", "message"),
    [
        ("numpy", "numba", r"only numba and onnxruntime can be bisected \(got 'numpy'\)"),
        ("numba", "onnxruntime:fast", "onnxruntime has no level 'fast'; choose from disabled, basic"),
        ("numba", "tensorrt", "there is no runner 'tensorrt'"),
    ],
)
def test_what_cannot_be_bisected(backend: str, against: str, message: str) -> None:
    with pytest.raises(OnnxRefError, match=message):
        bisect(DIGITS, IMAGE, backend, against)


# The command --------------------------------------------------------------------------------------


def _invoke(*arguments: Any) -> Any:
    app = Typer()
    add_bisect(app)
    app.callback()(lambda: None)
    return CliRunner(env={"COLUMNS": "200"}).invoke(app, ["bisect", *map(str, arguments)])


@pytest.mark.usefixtures("_wrong_identities")
def test_the_command(tmp_path: Any) -> None:
    np.savez(tmp_path / "x.npz", **IMAGE)
    result = _invoke(DIGITS, "--input", tmp_path / "x.npz", "--fail")
    assert result.exit_code == 2, result.output
    assert "remove_identities" in result.stdout
    assert "switching off remove_identities makes it agree" in result.stdout


def test_the_command_where_nothing_diverges() -> None:
    result = _invoke(DIGITS, "--backend", "onnxruntime", "--json", "--fail")
    assert result.exit_code == 0, result.output
    assert '"diverges": false' in result.stdout


def test_the_command_with_a_backend_that_has_no_passes() -> None:
    result = _invoke(DIGITS, "--backend", "numpy")
    assert result.exit_code == 1
    assert "InputError: only numba and onnxruntime can be bisected" in result.stderr
