"""Recurrent layers on the emulator, held to the reference."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnxref.kernels.cupy.recurrent
import pytest

from onnxref.dtypes import Array
from onnxref.lowering import Unsupported
from onnxref.plan.specialize._program import RefusedError
from tests.lowered import reference

from .emulator.device import EmulatedDevice
from .lowered import run_on_device

GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
BARE = frozenset[str]()
TOLERANCE = {"float32": 2e-5, "float64": 1e-12, "float16": 8 * 2**-10, "bfloat16": 8 * 2**-7}
SCAN, STEP = "recurrent_scan.scan", "recurrent_step.one_step"


def dtype_of(name: str) -> Any:
    return np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name)


def layer(
    op_type: str,
    steps: int = 5,
    batch: int = 3,
    size: int = 7,
    hidden: int = 6,
    *,
    directions: int = 1,
    layout: int = 0,
    name: str = "float32",
    lengths: list[int] | None = None,
    states: bool = True,
    bias: bool = True,
    peepholes: bool = False,
) -> list[Array | None]:
    """Return the inputs of a layer."""
    rng = np.random.default_rng(hidden)
    rows = GATES[op_type] * hidden

    def made(*shape: int, scale: float = 1.0) -> Array:
        return (scale * rng.standard_normal(shape)).astype(dtype_of(name))

    state = (batch, directions, hidden) if layout else (directions, batch, hidden)
    x = made(batch, steps, size) if layout else made(steps, batch, size)
    w, r = made(directions, rows, size, scale=size**-0.5), made(directions, rows, hidden, scale=hidden**-0.5)
    inputs: list[Array | None] = [x, w, r]
    inputs.append(made(directions, 2 * rows, scale=0.5) if bias else None)
    inputs.append(None if lengths is None else np.array(lengths, np.int32))
    inputs.append(made(*state) if states else None)
    if op_type == "LSTM":
        inputs.append(made(*state) if states else None)
        inputs.append(made(directions, 3 * hidden) if peepholes else None)
    return inputs


def check(
    op_type: str,
    inputs: list[Array | None],
    attributes: dict[str, Any] | None = None,
    *,
    opset: int = 22,
    by: str = "",
    libraries: frozenset[str] = BARE,
    wanted: tuple[int, ...] = (0, 1, 2),
    orders: tuple[int, ...] = (0, 1),
    precision: str = "default",
) -> list[str]:
    """Hold a layer to the reference in float64; return what ran."""
    wide = [None if x is None else x if x.dtype.kind == "i" else x.astype(np.float64) for x in inputs]
    expected = reference(op_type, wide, attributes or {}, opset)
    x = inputs[0]
    assert x is not None
    device = EmulatedDevice(libraries=libraries)
    places = [(y.shape, x.dtype) if i in wanted else None for i, y in enumerate(expected)]
    found = run_on_device(
        op_type, inputs, places, attributes, opset=opset, device=device, orders=orders, precision=precision
    )
    for y, given in zip(found, expected, strict=True):
        if y is not None:
            bound = TOLERANCE[x.dtype.name] * max(1.0, float(np.abs(given).max(initial=0)))
            np.testing.assert_allclose(y.astype(np.float64), given, rtol=0, atol=bound)
    assert any(line.startswith(by) for line in device.log), device.log
    return device.log


@pytest.mark.parametrize("op_type", ["RNN", "GRU", "LSTM"])
@pytest.mark.parametrize("layout", [0, 1])
@pytest.mark.parametrize("small", [True, False])
def test_directions_and_lengths(
    op_type: str, layout: int, small: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not small:
        monkeypatch.setattr(onnxref.kernels.cupy.recurrent, "_MANY_BLOCKS", 0)
    by = SCAN if small else STEP
    for direction, lengths in (("forward", None), ("reverse", [5, 2, 0]), ("bidirectional", [3, 5, 1])):
        directions = 2 if direction == "bidirectional" else 1
        inputs = layer(op_type, directions=directions, layout=layout, lengths=lengths)
        check(op_type, inputs, {"direction": direction, "layout": layout}, by=by)
    check(op_type, layer(op_type, layout=layout, bias=False, states=False), {"layout": layout}, by=by)


@pytest.mark.parametrize("op_type", ["RNN", "GRU", "LSTM"])
@pytest.mark.parametrize("name", ["float64", "float16", "bfloat16"])
def test_types(op_type: str, name: str) -> None:
    check(op_type, layer(op_type, hidden=8, name=name), by=STEP if name == "float64" else SCAN)
    if name != "float64":
        check(op_type, layer(op_type, steps=3, batch=2, hidden=136, name=name), orders=(0,))


@pytest.mark.parametrize(
    ("op_type", "hidden", "by"),
    [
        ("RNN", 33, SCAN),
        ("RNN", 128, SCAN),
        ("RNN", 256, SCAN),
        ("RNN", 260, STEP),
        ("GRU", 128, SCAN),
        ("GRU", 136, SCAN),
        ("GRU", 200, STEP),
        ("LSTM", 64, SCAN),
        ("LSTM", 128, SCAN),
        ("LSTM", 132, STEP),
    ],
)
def test_sizes(op_type: str, hidden: int, by: str) -> None:
    check(op_type, layer(op_type, steps=3, batch=2, hidden=hidden), by=by, orders=(0,))


@pytest.mark.parametrize("op_type", ["RNN", "GRU", "LSTM"])
@pytest.mark.parametrize("linear", [0, 1])
def test_many_sequences(op_type: str, linear: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Products with R by cuBLASLt."""
    monkeypatch.setattr(onnxref.kernels.cupy.recurrent, "_MANY_BLOCKS", 0)
    attributes: dict[str, Any] = {"direction": "bidirectional"}
    if op_type == "GRU":
        attributes["linear_before_reset"] = linear
    inputs = layer(op_type, steps=3, batch=17, hidden=20, directions=2, lengths=[3, 1, 2] + [3] * 14)
    both = frozenset(("cublaslt",))
    log = check(op_type, inputs, attributes, libraries=both, by="cublasLt", orders=(0,))
    assert sum(line.startswith("cublasLt") for line in log) == 1 + 3 * (
        2 if op_type == "GRU" and not linear else 1
    )
    strict = check(
        op_type, inputs, attributes, libraries=both, by="gemm.gemm", orders=(0,), precision="strict"
    )
    assert any(line.startswith(SCAN) for line in strict)


@pytest.mark.parametrize("linear", [0, 1])
@pytest.mark.parametrize("hidden", [9, 200])
def test_reset_of_the_candidate(linear: int, hidden: int) -> None:
    check("GRU", layer("GRU", hidden=hidden, steps=3), {"linear_before_reset": linear}, orders=(0,))


@pytest.mark.parametrize("hidden", [6, 132])
@pytest.mark.parametrize("coupled", [0, 1])
def test_peepholes(hidden: int, coupled: int) -> None:
    inputs = layer("LSTM", steps=3, hidden=hidden, peepholes=True)
    check("LSTM", inputs, {"input_forget": coupled, "clip": 0.4}, orders=(0,))


def test_activations() -> None:
    names = ["Relu", "Affine", "LeakyRelu", "ThresholdedRelu", "ScaledTanh", "HardSigmoid", "Elu"]
    names += ["Softsign", "Softplus", "sigmoid", "TANH"]
    for first, second in zip(names[::2], names[1::2], strict=False):
        attributes: dict[str, Any] = {
            "activations": [first, second],
            "direction": "bidirectional",
            "clip": 2.0,
        }
        check("RNN", layer("RNN", directions=2), attributes, orders=(0,))
        check(
            "GRU", layer("GRU"), {"activations": [first, second], "activation_alpha": [0.3, 0.6]}, orders=(0,)
        )
    attributes = {"activations": ["HardSigmoid", "Relu", "Softsign"], "activation_beta": [0.3]}
    check("LSTM", layer("LSTM"), attributes, orders=(0,))


@pytest.mark.parametrize("wanted", [(0,), (1,), (2,)])
@pytest.mark.parametrize("hidden", [6, 132])
def test_outputs_that_nothing_wants(wanted: tuple[int, ...], hidden: int) -> None:
    check("LSTM", layer("LSTM", hidden=hidden, steps=2), wanted=wanted, orders=(0,))


def test_old_versions() -> None:
    check("GRU", layer("GRU"), {"direction": "forward"}, opset=1, orders=(0,))
    check("LSTM", layer("LSTM"), opset=7, orders=(0,))
    check("RNN", layer("RNN"), opset=14, orders=(0,))


def test_nan_stays() -> None:
    inputs = layer("LSTM", batch=2)
    assert inputs[0] is not None
    inputs[0][1, 0, 0] = np.nan
    check("LSTM", inputs)


@pytest.mark.parametrize("hidden", [6, 132])
@pytest.mark.parametrize("length", [-1, 6])
def test_wrong_lengths_are_reported(hidden: int, length: int) -> None:
    inputs = layer("LSTM", hidden=hidden, lengths=[5, length, 3])
    with pytest.raises(RefusedError):
        run_on_device("LSTM", inputs, [((5, 1, 3, hidden), np.float32)], opset=22, orders=(0,))


def test_results_do_not_depend_on_the_batch() -> None:
    for hidden in (8, 132):
        inputs = layer("LSTM", batch=6, hidden=hidden, states=False)
        alone = [inputs[0][:, 2:3] if inputs[0] is not None else None, *inputs[1:]]
        runs = [
            run_on_device(
                "LSTM", given, [((5, 1, n, hidden), np.float32)], opset=22, orders=(0,), precision="strict"
            )[0]
            for given, n in ((inputs, 6), (alone, 1))
        ]
        assert runs[0] is not None
        assert runs[1] is not None
        assert runs[0][:, :, 2:3].tobytes() == runs[1].tobytes()


def test_refusals() -> None:
    inputs = layer("RNN")
    place = [((5, 1, 3, 6), np.float32)]
    for attributes, text in (
        ({"activations": ["Sine"]}, "sine"),
        ({"direction": "up"}, "attribute"),
        ({"hidden_size": 5}, "hidden_size"),
        ({"clip": -1.0}, "attribute"),
    ):
        with pytest.raises(Unsupported, match=text):
            run_on_device("RNN", inputs, place, attributes, opset=22)
    assert inputs[1] is not None
    with pytest.raises(Unsupported, match="W must"):
        run_on_device("RNN", [inputs[0], inputs[1][:, :3], *inputs[2:]], place, opset=22)
