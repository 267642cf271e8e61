"""Sessions on the emulated device: placement, capture, copies, strictness, outputs where inputs are."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest

import onnxref
from onnxref.dtypes import Array
from onnxref.errors import BackendError, KernelError
from onnxref.gpu import LibraryOp, LibraryRefusalError, Matmul

from .emulator.device import EmulatedArray, EmulatedDevice

TWICE = "g (float[n, 5] x) => (y) { a = Softmax<axis = -1>(x) y = LogSoftmax<axis = -1>(a) }"


def parsed(text: str) -> onnx.ModelProto:
    return onnx.parser.parse_model('<ir_version: 10, opset_import: ["" : 21]>' + text)


def session(text: str, **options: Any) -> onnxref.InferenceSession:
    return onnxref.InferenceSession(parsed(text), backend="cupy", **options)


def on_reference(text: str, x: Array) -> Array:
    """Return the model's only output, of the reference."""
    (y,) = onnxref.run(parsed(text), [x], backend="numpy").values()
    return y


def test_a_run_is_captured_from_the_second_on(device: EmulatedDevice) -> None:
    made = session(TWICE)
    x = np.random.default_rng(0).standard_normal((3, 5)).astype(np.float32)
    expected = on_reference(TWICE, x)
    for _ in range(3):
        (y,) = made.run(None, {"x": x})
        np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)
    assert [entry.partition(".")[0] for entry in device.log[:2]] == ["softmax", "softmax"]
    assert device.log[2:] == ["graph of 2", "graph of 2"]


def test_debugging_captures_nothing_and_names_what_fails(
    device: EmulatedDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = session(TWICE, debug=True)
    x = np.random.default_rng(0).standard_normal((3, 5)).astype(np.float32)
    for _ in range(3):
        made.run(None, {"x": x})
    assert len(device.log) == 6
    assert not any(entry.startswith("graph") for entry in device.log)

    def fail() -> None:
        raise RuntimeError("an illegal address")

    with monkeypatch.context() as context:
        context.setattr(device, "synchronize", fail)
        with pytest.raises(KernelError, match=r"^Softmax: softmax.* failed on emulated: an illegal address$"):
            made.run(None, {"x": x})
    made.run(None, {"x": x})
    with pytest.raises(ValueError, match="needs optimize='all'"):
        session(TWICE, optimize="none")
    with pytest.raises(ValueError, match="^debug=True is for the backend 'cupy'"):
        onnxref.InferenceSession(parsed(TWICE), debug=True)


def test_outputs_are_where_the_inputs_are(device: EmulatedDevice) -> None:
    made = session(TWICE)
    x = np.random.default_rng(0).standard_normal((3, 5)).astype(np.float32)
    (on_host,) = made.run(None, {"x": x})
    assert isinstance(on_host, np.ndarray)
    downloads = device.downloads
    (on_device,) = made.run(None, {"x": device.array(x)})
    assert isinstance(on_device, EmulatedArray)
    assert device.downloads == downloads
    assert on_device.numpy().tobytes() == on_host.tobytes()


def test_what_has_no_kernel_runs_on_the_reference_and_is_told_of(device: EmulatedDevice) -> None:
    text = "g (float[2, 5, 5] x) => (y) { a = Softmax(x) b = Det(a) y = Softmax(b) }"
    made = session(text)
    x = np.random.default_rng(0).standard_normal((2, 5, 5)).astype(np.float32)
    (y,) = made.run(None, {"x": x})
    expected = on_reference(text, x)
    np.testing.assert_allclose(y, expected, rtol=1e-5)
    rows = [(row.operator, row.kind, row.libraries, row.copies, row.captured) for row in made.explain()]
    softmax = ("Softmax", "device", ("raw",), 0, True)
    assert rows == [softmax, ("Det", "reference", (), 2, False), softmax]
    strict = session(text, strict=True)
    with pytest.raises(BackendError, match="Det.*strict"):
        strict.run(None, {"x": x})


def test_quantized_patterns_run_on_integers(device: EmulatedDevice) -> None:
    text = """g (float[2, 4] x) => (y)
        <float s = {0.05}, float t = {0.1}, int8 z = {3}, int8 o = {0},
         int8[4, 3] w = {1, -2, 3, 4, 5, -6, 7, 8, 9, -10, 11, 12}> {
            q = QuantizeLinear(x, s, z) a = DequantizeLinear(q, s, z) b = DequantizeLinear(w, t, o)
            c = MatMul(a, b) r = QuantizeLinear(c, t, z) y = DequantizeLinear(r, t, z) }"""
    made = session(text)
    x = np.random.default_rng(0).standard_normal((2, 4)).astype(np.float32)
    (y,) = made.run(None, {"x": x})
    np.testing.assert_allclose(y, on_reference(text, x), rtol=0, atol=0.1)  # one quantum, at halves
    rows = {row.operator.removeprefix("onnxref.internal:"): row.kind for row in made.explain()}
    assert rows["QuantizedMatMul"] == "device"
    assert "reference" not in rows.values()


REFUSED = """g (float[n, 64] x, float[64, 32] v, float[32, 48] w) => (z) {
    a = MatMul(x, v)  b = Tanh(a)  z = MatMul(b, w) }"""


def test_what_a_library_refuses_is_done_by_kernels_and_the_rest_stays_with_it(
    device: EmulatedDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[LibraryOp] = []
    library = device.library

    def refusing(op: LibraryOp, tensors: dict[str, int]) -> Any:
        asked.append(op)
        if isinstance(op, Matmul) and op.n == 32:
            raise LibraryRefusalError(op, f"{op}: there is no algorithm")
        return library(op, tensors)

    monkeypatch.setattr(device, "library", refusing)
    monkeypatch.setattr(device, "libraries", frozenset(("cublaslt", "cudnn")))
    made = session(REFUSED)
    rng = np.random.default_rng(0)
    feeds = {
        name: rng.standard_normal(shape).astype(np.float32)
        for name, shape in (("x", (16, 64)), ("v", (64, 32)), ("w", (32, 48)))
    }
    expected = onnxref.run(parsed(REFUSED), list(feeds.values()), backend="numpy")["z"]
    for _ in range(2):
        (z,) = made.run(None, feeds)
        np.testing.assert_allclose(z, expected, rtol=1e-4, atol=1e-4)
    reasons = " ".join(row.reason for row in made.explain())
    assert [row.libraries for row in made.explain()] == [("raw",), ("cublaslt",)]
    assert "float32 16x32x64" in reasons
    assert "there is no algorithm" in reasons
    assert sum(isinstance(op, Matmul) and op.n == 32 for op in asked) == 1


def test_a_refusal_without_another_way_is_raised(
    device: EmulatedDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A device that refuses what nothing asked its libraries for is not asked for ever."""

    def refusing(*_: Any) -> Any:
        raise LibraryRefusalError(Matmul(1, 1, 1, "float32"), "no")

    monkeypatch.setattr(device, "launch", refusing)
    with pytest.raises(BackendError, match="no"):
        session(TWICE).run(None, {"x": np.zeros((3, 5), np.float32)})
