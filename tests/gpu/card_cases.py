"""What is run on a real card, by `tests/gpu/on_card.py`: the official suite, real models, graphs, tables.

ONNXREF_SHARE=1 leaves one official case for each operator: what compute-sanitizer is run over.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest
import test_backend_suite
from model_zoo import DRAWN_MODELS, REAL_MODELS, RealModel

import onnxref

from . import small_models, suite

IS_SHARE = os.environ.get("ONNXREF_SHARE") == "1"
MODELS = {model.name: model for model in (*REAL_MODELS, *DRAWN_MODELS)}


def _names(group: Any, device: str) -> list[str]:
    return [name for name in dir(group) if name.startswith("test_") and name.endswith(f"_{device}")]


def _groups() -> dict[str, Any]:
    chosen = suite.one_for_each_operator(suite.node_cases()) if IS_SHARE else frozenset()
    groups = suite.suite(__name__).test_cases
    for group in groups.values():
        for name in [name for name in dir(group) if name.startswith("test_")]:
            if not name.endswith("_cuda") or (IS_SHARE and name not in chosen):
                delattr(group, name)
    return dict(groups)


_suite_groups = _groups()
globals().update(_suite_groups)


@pytest.mark.skipif(IS_SHARE, reason="a share is run")
def test_the_card_meets_as_many_cases_as_the_reference() -> None:
    ours = sum(len(_names(group, "cuda")) for group in _suite_groups.values())
    reference = test_backend_suite._suite.test_cases.values()
    assert ours == sum(len(_names(group, "cpu")) for group in reference) >= 2033


@pytest.mark.skipif(IS_SHARE, reason="a share is run")
def test_constants_for_inputs() -> None:
    for name, case in suite.constant_cases():
        try:
            case()
        except Exception as error:
            raise AssertionError(name) from error


def test_small_models() -> None:
    """In a share too: the kernels that no official case uses."""
    for _, case in small_models.cases():
        case()


def _run(model: RealModel, backend: str, repeat: int = 1, *, debug: bool = False) -> list[dict[str, Any]]:
    """Make the model's calls, each `repeat` times, handing its state on; return the last outputs of each."""
    session = onnxref.InferenceSession(model.model(), backend=backend, debug=debug)
    names = [value.name for value in session.get_outputs()]
    carried: dict[str, Any] = {}
    results = []
    for feeds in model.calls():
        for _ in range(repeat):
            outputs = dict(zip(names, session.run(None, {**feeds, **carried}), strict=True))
        carried = {model.carry[name]: outputs[name] for name in model.carry}
        results.append(outputs)
    return results


@pytest.mark.parametrize("name", [] if IS_SHARE else MODELS)
def test_real_model(name: str) -> None:
    """As the reference says; captured graphs give the bits of single launches, each tensor apart."""
    model = MODELS[name]
    try:
        model.model()
    except FileNotFoundError as error:
        pytest.skip(str(error))
    captured = _run(model, "cupy", repeat=3)
    for call, (found, expected) in enumerate(zip(captured, _run(model, "numpy"), strict=True)):
        for output, value in expected.items():
            suite.assert_close(found[output], value, f"call {call}, output {output}")
    for found, eager in zip(captured, _run(model, "cupy", debug=True), strict=True):
        for output, value in eager.items():
            assert np.asarray(found[output]).tobytes() == np.asarray(value).tobytes(), output
