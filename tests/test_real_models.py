"""Models that people use give what ONNX Runtime, and the framework they come from, say."""

from __future__ import annotations

import json
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from model_zoo import (
    DRAWN_MODELS,
    MAGIKA_FILES,
    OCR_LINES,
    REAL_MODELS,
    Feeds,
    RealModel,
    magika_file,
    ocr_file,
    package_file,
)
from numpy.typing import NDArray

import onnxref

Array = NDArray[Any]

# Within 1e-4 relative. An element that is small beside the others comes from sums that cancel, so it may
# also be off by 1e-5 of the largest element: as much as ONNX Runtime with its optimizations is off from
# ONNX Runtime without them on the OCR detector (2e-5, at an output of at most 1).
RELATIVE = 1e-4
OF_LARGEST = 1e-5

_MODELS = {model.name: model for model in (*REAL_MODELS, *DRAWN_MODELS)}
_WITH_EXPECTED = [name for name, model in _MODELS.items() if model.expected is not None]


def _assert_close(actual: Any, wanted: Any, where: str) -> None:
    assert isinstance(actual, np.ndarray), where
    assert actual.shape == wanted.shape, where
    if wanted.dtype.kind != "f":
        np.testing.assert_array_equal(actual, wanted, err_msg=where)
        return
    assert np.isfinite(wanted).all(), f"{where}: an infinite value would hide differences"
    largest = float(np.abs(wanted).max(initial=0))
    np.testing.assert_allclose(actual, wanted, rtol=RELATIVE, atol=OF_LARGEST * largest, err_msg=where)


def _onnxruntime(model: Path | bytes) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # it warns of initializers that it removes
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _run_all(session: Any, model: RealModel) -> list[Feeds]:
    """Make the model's calls one after another, handing its own state on."""
    names = [value.name for value in session.get_outputs()]
    carried: Feeds = {}
    results = []
    for feeds in model.calls():
        outputs = dict(zip(names, session.run(None, {**feeds, **carried}), strict=True))
        carried = {model.carry[name]: outputs[name] for name in model.carry}
        results.append(outputs)
    return results


# The official suite runs the light models natively; here the reference is held to ONNX Runtime.
_AGREEING = [(name, b) for name in _MODELS for b in ("numpy", "numba") if b == "numpy" or "light" not in name]


@pytest.mark.parametrize(("name", "backend"), _AGREEING)
def test_agrees_with_onnxruntime(name: str, backend: str) -> None:
    model = _MODELS[name]
    source = model.model()
    actual = _run_all(onnxref.InferenceSession(source, backend=backend), model)
    wanted = _run_all(_onnxruntime(source), model)
    for call, (ours, theirs) in enumerate(zip(actual, wanted, strict=True)):
        assert list(ours) == list(theirs)
        for output, value in theirs.items():
            assert ours[output].dtype == value.dtype
            _assert_close(ours[output], value, f"{name}, call {call}, output {output}")


@pytest.mark.parametrize("name", [n for n in _MODELS if "ocr" in n or "silero" in n or "light" in n])
def test_whole_networks_run_natively(name: str) -> None:
    model = _MODELS[name]
    session = onnxref.InferenceSession(model.model(), backend="numba")
    session.run(None, model.calls()[0])
    left = {row.operator for row in session.explain() if row.kind in ("reference", "control")}
    assert not left


@pytest.mark.parametrize("name", _WITH_EXPECTED)
def test_agrees_with_its_framework(name: str) -> None:
    model = _MODELS[name]
    assert model.expected is not None
    actual = _run_all(onnxref.InferenceSession(model.model(), backend="numpy"), model)
    for ours, theirs in zip(actual, model.expected(), strict=True):
        for output, value in theirs.items():
            _assert_close(ours[output], value, f"{name}, output {output}")


# What the answers mean: both sides could agree on nonsense if the inputs were not what the models take.


def _outputs(name: str) -> list[Feeds]:
    model = _MODELS[name]
    return _run_all(onnxref.InferenceSession(model.model()), model)


def test_digit_is_read() -> None:
    assert _outputs("digits")[0]["label"][0] == 4


@pytest.mark.parametrize("name", [n for n in _MODELS if n.startswith("silero") and "sequence" not in n])
def test_speech_is_heard(name: str) -> None:
    assert max(float(outputs["output"][0, 0]) for outputs in _outputs(name)) > 0.9


def test_file_types_are_told() -> None:
    labels = json.loads(magika_file("config.min.json").read_text())["target_labels_space"]
    found = _outputs("magika")[0]["target_label"].argmax(axis=1)
    assert [labels[i] for i in found] == list(MAGIKA_FILES)


def test_text_is_found_on_the_page() -> None:
    rows = (_outputs("ocr detection")[0]["sigmoid_0.tmp_0"][0, 0] > 0.3).any(axis=1)
    assert [bool(found) for found, _ in groupby(rows)].count(True) == len(OCR_LINES)


def test_upside_down_text_is_noticed() -> None:
    found = _outputs("ocr direction")[0]["save_infer_model/scale_0.tmp_1"].argmax(axis=1)
    assert found.tolist() == [0, 1, 0]


def test_text_is_read() -> None:
    properties = onnx.load(ocr_file("ch_PP-OCRv4_rec_infer")).metadata_props
    characters = ["", *next(p.value for p in properties if p.key == "character").splitlines(), " "]
    lines = _outputs("ocr text")[0]["softmax_11.tmp_0"].argmax(axis=2)
    read = ["".join(characters[i] for i, _ in groupby(line)).strip() for line in lines]
    assert read == list(OCR_LINES)


def test_missing_package_says_what_to_install() -> None:
    with pytest.raises(FileNotFoundError, match="pip install --no-deps some-models==1.0"):
        package_file("package_that_is_not_there", "model.onnx", "--no-deps some-models==1.0")
