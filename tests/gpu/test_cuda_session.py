"""Whole models by the real card's class, on a stand-in of CuPy: streams, copies, graphs, memory, arrays."""

from __future__ import annotations

import gc
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest

import onnxref
import onnxref.gpu
from onnxref.gpu import _cuda

from .stand_in import Card, cupy, looked_into

MODEL = """<ir_version: 10, opset_import: ["" : 21]>
    g (float[n, 6] x, float[6] b, float16[n, 3] h) => (y, z, k) {
        a = Softmax<axis = -1>(x) y = Add(a, b) z = Relu(h) c = Concat<axis = 0>(y, x) k = Neg(c) }"""


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Card:
    made = Card(monkeypatch)
    monkeypatch.setattr(_cuda, "compile_kernel", made.emulate)
    monkeypatch.setattr(onnxref.gpu, "open_device", lambda: made.device)
    return made


def feeds(rows: int = 5, seed: int = 0) -> dict[str, Any]:
    random = np.random.default_rng(seed)
    shapes = {"x": (rows, 6), "b": (6,), "h": (rows, 3)}
    given = {name: random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    return {**given, "h": given["h"].astype(np.float16)}


def session(backend: str = "cupy") -> onnxref.InferenceSession:
    return onnxref.InferenceSession(onnx.parser.parse_model(MODEL), backend=backend)


def check(found: list[Any], given: dict[str, Any]) -> None:
    expected = session("numpy").run(None, given)
    for y, wanted in zip(found, expected, strict=True):
        value = y if isinstance(y, np.ndarray) else looked_into(y)
        np.testing.assert_allclose(value, wanted, rtol=1e-5, atol=1e-6)


def test_arrays_of_the_host(card: Card) -> None:
    made = session()
    for seed in range(4):
        given = feeds(seed=seed)
        outputs = made.run(None, given)
        assert all(isinstance(y, np.ndarray) for y in outputs)
        check(outputs, given)
    assert ("launch graph", "ours") in card.log


def test_arrays_of_cupy(card: Card) -> None:
    made = session()
    held = []
    for seed in (0, 1, 2, 0, 1, 2, 3):
        given = feeds(seed=seed)
        outputs = made.run(None, {name: card.array(value) for name, value in given.items()})
        held.append((outputs, given))
    for outputs, given in held:
        check(outputs, given)


def test_what_a_card_is_told_in_the_end(card: Card) -> None:
    """The same inputs, the last results held until the next ones are there: a graph between two waits."""
    made, given = session(), feeds()
    on_card = {name: card.array(value) for name, value in given.items()}
    outputs = None
    for _ in range(6):
        outputs = made.run(None, on_card)
    card.log.clear()
    outputs = made.run(None, on_card)
    assert card.log == [
        ("getDevice",),
        ("wait", "ours", "caller"),
        ("launch graph", "ours"),
        ("wait", "caller", "ours"),
    ]
    check(outputs, given)


def test_some_arrays_here_and_some_there(card: Card) -> None:
    made, given = session(), feeds()
    for _ in range(5):
        outputs = made.run(None, {**given, "x": card.array(given["x"])})
        assert all(isinstance(y, cupy.ndarray) for y in outputs)
        check(outputs, given)


def test_arrays_that_lie_in_another_order(card: Card, monkeypatch: pytest.MonkeyPatch) -> None:
    """CuPy makes them contiguous, on the caller's stream."""
    made, given = session(), feeds()
    asked = []

    def ascontiguousarray(array: Any) -> Any:
        asked.append(array.shape)
        return card.array(given["x"])

    monkeypatch.setattr(card.device._cupy, "ascontiguousarray", ascontiguousarray)
    x = card.array(given["x"].T.copy()).T
    check(made.run(None, {**given, "x": x}), given)
    assert asked == [(5, 6)]


def test_shapes_in_turn(card: Card) -> None:
    made = session()
    for rows in (5, 1, 7, 5, 1, 7, 5):
        given = feeds(rows)
        check(made.run(None, {name: card.array(value) for name, value in given.items()}), given)


def test_memory_goes_back_to_the_pool(card: Card) -> None:
    before, staging = card.pool.used, 4 << 20
    made = session()
    for rows in range(1, 100):
        made.run(None, feeds(rows))
    assert card.pool.used - before < staging + 32 * (64 << 10)  # so many shapes are kept
    del made
    gc.collect()  # a session and its plans refer to each other
    assert card.pool.used - before <= staging
