"""ConvInteger and QLinearConv on the emulator: the bits of the reference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnxref.kernels.cupy.quantized_conv as lowerings
import pytest

from onnxref.dtypes import Array
from onnxref.lowering import Unsupported
from onnxref.registry import INTERNAL
from tests.lowered import reference

from .lowered import run_on_device


def bytes_of(shape: Sequence[int], name: str = "uint8", seed: int = 0) -> Array:
    low, high = (-128, 128) if name == "int8" else (0, 256)
    return np.random.default_rng(seed).integers(low, high, tuple(shape)).astype(name)


def check_integer(
    x: Array,
    w: Array,
    x_zero: int | None = None,
    w_zero: Any = None,
    *,
    last: bool = False,
    constants: Sequence[int] = (1,),
    **attributes: Any,
) -> None:
    inputs: list[Array | None] = [x, w, None, None]
    if x_zero is not None:
        inputs[2] = np.array(x_zero, x.dtype)
    if w_zero is not None:
        inputs[3] = np.array(w_zero, w.dtype)
    (expected,) = reference("ConvInteger", inputs, attributes, 10)
    (found,) = run_on_device(
        *("ConvInteger", inputs, [(expected.shape, np.int32)], attributes),
        opset=10,
        constants=constants,
        channels_last=[0] if last else [],
        outputs_last=[0] if last else [],
    )
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize(("of_x", "of_w"), [("uint8", "int8"), ("uint8", "uint8"), ("int8", "int8")])
def test_integers(of_x: str, of_w: str, last: bool) -> None:
    x, w = bytes_of((2, 8, 6, 5), of_x), bytes_of((5, 8, 3, 2), of_w, 1)
    check_integer(x, w, 7, 3, last=last, pads=(1, 0, 2, 1), strides=(2, 1))
    check_integer(x, bytes_of((3, 8, 1, 1), of_w), last=last)
    check_integer(
        x, bytes_of((8, 4, 2, 2), of_w), 100, last=last, group=2, pads=(1, 1, 0, 0), dilations=(1, 2)
    )


def test_few_channels_and_axes() -> None:
    check_integer(bytes_of((1, 3, 9)), bytes_of((4, 3, 4), "int8"), 130, [1, -2, 3, 0], pads=(2, 1))
    check_integer(bytes_of((1, 6, 3, 4, 3)), bytes_of((6, 1, 2, 2, 2), "int8"), 9, group=6, pads=(1,) * 6)
    check_integer(bytes_of((1, 6, 5, 5)), bytes_of((6, 1, 3, 3), "int8"), 9, group=6, last=True)


def test_dynamic_weights_and_zero_points() -> None:
    x, w = bytes_of((1, 4, 5, 5)), bytes_of((6, 4, 3, 3), "uint8", 1)
    check_integer(x, w, 128, np.arange(6), constants=(), last=True, pads=(1,) * 4)
    check_integer(x, w, 128, 5, constants=(1,), pads=(1,) * 4)


def check_quantized(
    x: Array,
    w: Array,
    *,
    y_type: str = "uint8",
    bias: bool = True,
    last: bool = True,
    relu: bool = False,
    **attributes: Any,
) -> None:
    m = len(w)
    scales = np.random.default_rng(3).uniform(0.001, 0.01, m).astype(np.float32)
    inputs: list[Array | None] = [
        *(x, np.array(0.02, np.float32), np.array(11, x.dtype)),
        *(w, scales if bias else scales[0], np.zeros(m if bias else (), w.dtype)),
        *(np.array(0.07, np.float32), np.array(3, y_type)),
        np.random.default_rng(4).integers(-500, 500, m).astype(np.int32) if bias else None,
    ]
    (expected,) = reference("QLinearConv", inputs, attributes, 10)
    if relu:
        expected = np.maximum(expected, np.array(3, y_type))
    (found,) = run_on_device(
        "QuantizedConv" if relu else "QLinearConv",
        inputs,
        [(expected.shape, expected.dtype)],
        {**attributes, **({"activation": "Relu"} if relu else {})},
        opset=1 if relu else 10,
        domain=INTERNAL if relu else "",
        constants=range(1, 9),
        channels_last=[0] if last else [],
        outputs_last=[0] if last else [],
    )
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("y_type", ["uint8", "int8"])
def test_quantized(y_type: str, bias: bool) -> None:
    x, w = bytes_of((2, 8, 6, 5)), bytes_of((5, 8, 3, 3), "int8", 1)
    for last in (False, True):
        check_quantized(x, w, y_type=y_type, bias=bias, last=last, pads=(1,) * 4)
    check_quantized(x, bytes_of((8, 1, 3, 3), "int8"), y_type=y_type, bias=bias, group=8, pads=(1,) * 4)
    check_quantized(x, bytes_of((8, 4, 3, 3), "int8"), y_type=y_type, bias=bias, group=2, strides=(2, 2))


def test_relu() -> None:
    x = bytes_of((1, 8, 4, 5))
    check_quantized(x, bytes_of((5, 8, 1, 1), "int8", 1), relu=True)
    check_quantized(x, bytes_of((8, 2, 2, 2), "int8", 1), relu=True, group=4)


# --- with a residual, sums and means: within one quantum ---------------------------------------------


def scalars(name: str, *given: tuple[float, int]) -> list[Array]:
    return [t for scale, zero in given for t in (np.array(scale, np.float32), np.array(zero, name))]


def check_near(op_type: str, inputs: list[Any], attributes: dict[str, Any], last: Sequence[int]) -> None:
    (expected,) = reference(op_type, inputs, attributes, 1, INTERNAL)
    (found,) = run_on_device(
        *(op_type, inputs, [(expected.shape, expected.dtype)], attributes),
        opset=1,
        domain=INTERNAL,
        constants=[1, 2, 3, 4, 5, 6, 7, 8],
        channels_last=last,
        outputs_last=[0] if last else [],
    )
    assert found is not None
    off = np.abs(found.astype(int) - expected.astype(int))
    assert off.max(initial=0) <= 1
    assert (off == 0).mean() > 0.99


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("activation", ["", "Relu"])
def test_residual(activation: str, last: bool) -> None:
    x, w = bytes_of((1, 8, 5, 5)), bytes_of((8, 8, 3, 3), "int8", 1)
    inputs = [
        *(x, *scalars("uint8", (0.02, 11)), w, *scalars("int8", (0.003, 0)), *scalars("uint8", (0.09, 120))),
        *(None, bytes_of((1, 8, 5, 5), seed=5), *scalars("uint8", (0.05, 100), (0.1, 128))),
    ]
    check_near("QuantizedConv", inputs, {"activation": activation, "pads": (1,) * 4}, [0, 9] if last else [])


@pytest.mark.parametrize("name", ["uint8", "int8"])
@pytest.mark.parametrize("shape", [(2, 8, 4, 4), (1, 3, 3, 5)])
def test_add(name: str, shape: tuple[int, ...]) -> None:
    a, b = bytes_of(shape, name), bytes_of(shape, name, 1)
    numbers = scalars(name, (0.02, 11), (0.03, 5), (0.04, 9))
    for last in ([], [0, 3]):
        inputs = [a, *numbers[:2], b, *numbers[2:]]
        (expected,) = reference("QuantizedAdd", inputs, {"activation": "Relu"}, 1, INTERNAL)
        (found,) = run_on_device(
            *("QuantizedAdd", inputs, [(shape, name)], {"activation": "Relu"}),
            opset=1,
            domain=INTERNAL,
            channels_last=last,
            outputs_last=[0] if last else [],
        )
        assert found is not None
        assert np.abs(found.astype(int) - expected.astype(int)).max() <= 1


@pytest.mark.parametrize("shape", [(2, 40, 5, 5), (1, 133, 3, 7), (3, 256, 1, 9)])
@pytest.mark.parametrize("last", [False, True])
def test_mean(shape: tuple[int, ...], last: bool) -> None:
    inputs = [bytes_of(shape), *scalars("uint8", (0.02, 11), (0.01, 5))]
    check_near("QuantizedGlobalAveragePool", inputs, {}, [0] if last else [])


def test_rows_in_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lowerings, "slice_rows", lambda nbytes, rows: 16)
    check_quantized(bytes_of((2, 4, 6, 5)), bytes_of((5, 4, 3, 3), "int8", 1), pads=(1,) * 4)


def test_empty() -> None:
    check_integer(np.zeros((0, 3, 4, 4), np.uint8), bytes_of((2, 3, 3, 3)))
    check_integer(np.zeros((1, 0, 4, 4), np.uint8), np.zeros((2, 0, 3, 3), np.uint8))


def test_refusals() -> None:
    x, w = bytes_of((1, 2, 4, 4)), bytes_of((2, 2, 3, 3))
    zero = np.zeros(3, np.uint8)
    with pytest.raises(Unsupported, match="w_zero_point"):
        run_on_device("ConvInteger", [x, w, None, zero], [((1, 2, 2, 2), np.int32)], opset=10)
