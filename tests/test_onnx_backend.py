"""`onnxref.backend`: the interface that the onnx package defines for backends."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx.parser
import pytest
from onnx import helper
from onnx.backend.base import BackendRep

import onnxref
import onnxref.backend
import onnxref.gpu
from onnxref import BackendError, InvalidAttributeError, ResourceLimitError

X = np.float32([[1, 2, 3]])
MODEL = onnx.parser.parse_model(
    '<ir_version: 10, opset_import: ["": 21]> g (float[N, 3] x) => (float[N, 3] y, float[N, 3] z) '
    "{ y = Neg(x) z = Abs(y) }"
)


def test_prepare_and_run_model() -> None:
    prepared = onnxref.backend.prepare(MODEL)
    assert isinstance(prepared, BackendRep)
    for outputs in (prepared.run([X]), prepared.run({"x": X}), onnxref.backend.run_model(MODEL, [X])):
        assert isinstance(outputs, tuple)
        y, z = outputs
        np.testing.assert_array_equal(y, -X, strict=True)
        np.testing.assert_array_equal(z, X, strict=True)


@pytest.mark.parametrize(
    ("opset", "attributes", "expected"),
    [
        (None, {"axis": 1}, np.float32([0.5, 0.5])),
        (13, {"axis": 1}, np.float32([0.5, 0.5])),
        (11, {"axis": 1}, np.float32([0.25, 0.25])),  # version 11 flattens all axes from 1 on
        (1, {}, np.float32([0.25, 0.25])),
    ],
)
def test_run_node_at_a_version(opset: int | None, attributes: dict[str, Any], expected: Any) -> None:
    node = helper.make_node("Softmax", ["x"], ["y"], **attributes)
    options = {} if opset is None else {"opset_version": opset}
    (y,) = onnxref.backend.run_node(node, [np.zeros((1, 2, 2), np.float32)], **options)
    np.testing.assert_array_equal(y, np.broadcast_to(expected, (1, 2, 2)))


def test_run_node_with_absent_and_repeated_inputs_and_unnamed_outputs() -> None:
    node = helper.make_node("Clip", ["x", "", "m"], ["y"])
    (y,) = onnxref.backend.run_node(node, [X, np.float32(2)])
    np.testing.assert_array_equal(y, [[1, 2, 2]])
    (y,) = onnxref.backend.run_node(helper.make_node("Add", ["x", "x"], ["y"]), [X])
    np.testing.assert_array_equal(y, 2 * X)
    node = helper.make_node("TopK", ["x", "k"], ["", "i"])
    (indices,) = onnxref.backend.run_node(node, {"x": X, "k": np.int64([1])})
    np.testing.assert_array_equal(indices, [[2]])


def test_run_node_of_other_domains() -> None:
    node = helper.make_node("Binarizer", ["x"], ["y"], domain="ai.onnx.ml", threshold=1.5)
    np.testing.assert_array_equal(onnxref.backend.run_node(node, [X])[0], [[0, 1, 1]])
    node = helper.make_node("Neg", ["x"], ["y"], domain="ai.onnx")
    np.testing.assert_array_equal(onnxref.backend.run_node(node, [X])[0], -X)


def test_devices() -> None:
    assert onnxref.backend.supports_device("CPU")
    assert not onnxref.backend.supports_device("TPU")
    with pytest.raises(BackendError, match="^device 'TPU' is not supported: use 'CPU' or 'CUDA'$"):
        onnxref.backend.prepare(MODEL, "TPU")
    assert onnxref.backend.is_compatible(MODEL)


def test_cuda_is_there_where_a_card_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> Any:
        raise BackendError("there is no card")

    monkeypatch.setattr(onnxref.gpu, "open_device", fail)
    assert not onnxref.backend.supports_device("CUDA")
    with pytest.raises(BackendError, match="^device 'CUDA' is not supported: there is no card$"):
        onnxref.backend.prepare(MODEL, "CUDA")

    monkeypatch.setattr(onnxref.gpu, "open_device", lambda: "a card")
    backends: list[str] = []
    monkeypatch.setattr(
        onnxref.backend, "InferenceSession", lambda _, backend="auto": backends.append(backend)
    )
    for device in ("CPU", "CUDA", "CUDA:0"):
        assert onnxref.backend.supports_device(device)
        onnxref.backend.prepare(MODEL, device)
    assert backends == ["auto", "cupy", "cupy"]
    assert not onnxref.backend.supports_device("CUDA:1")


def test_options() -> None:
    limited = onnxref.backend.prepare(MODEL, limits=onnxref.Limits(executed_nodes=1), backend="numpy")
    with pytest.raises(ResourceLimitError):
        limited.run([X])
    for call in (
        lambda: onnxref.backend.prepare(MODEL, strict=True),
        lambda: onnxref.backend.prepare(MODEL).run([X], strict=True),
        lambda: onnxref.backend.run_node(helper.make_node("Neg", ["x"], ["y"]), [X], strict=True),
    ):
        with pytest.raises(TypeError, match="^unknown options: strict$"):
            call()


def test_models_are_checked() -> None:
    node = helper.make_node("Neg", ["x"], ["y"], wrong=1)
    with pytest.raises(InvalidAttributeError, match="Neg-13 has no attribute 'wrong'"):
        onnxref.backend.run_node(node, [X])
