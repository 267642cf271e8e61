"""Quantization and products of 8-bit integers: the bits of the reference."""

from __future__ import annotations

from itertools import product
from typing import Any

import ml_dtypes
import numpy as np
import onnxref.kernels.numba.quantization
import onnxref.kernels.numba.quantized_conv
import onnxref.kernels.numpy.fused_quantized  # noqa: F401 - they register what is tested
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lowered import check_lowered, reference, run_lowered

from onnxref.lowering import Blocked, Unsupported
from onnxref.native import target
from onnxref.registry import INTERNAL

RNG = np.random.default_rng(7)
SPECIAL = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 0.5, 1.5, 2.5, -0.5, 1e30, -1e30, 1e-40], np.float32)


def _floats(shape: tuple[int, ...]) -> Any:
    x = (RNG.standard_normal(shape) * 40).astype(np.float32)
    flat = x.reshape(-1)
    flat[: min(flat.size, SPECIAL.size)] = SPECIAL[: flat.size]
    return x


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16"])
@pytest.mark.parametrize("axis", [None, 0, 1, -1])
def test_quantize(dtype: str, axis: int | None) -> None:
    x = _floats((3, 37, 5))
    length = 1 if axis is None else x.shape[axis]
    scale = np.abs(RNG.standard_normal(length)).astype(np.float32) + np.float32(0.25)
    scale[0] = 1
    info = np.iinfo(dtype)
    zero = RNG.integers(info.min, info.max, length).astype(dtype)
    if axis is None:
        scale, zero = scale.reshape(()), zero.reshape(())
    check_lowered("QuantizeLinear", [x, scale, zero], {"axis": axis or 0}, parallel=True)
    check_lowered("QuantizeLinear", [x, scale, zero], {"axis": axis or 0}, opset=13)
    if dtype == "uint8":
        check_lowered("QuantizeLinear", [x, scale], {"axis": axis or 0}, opset=19)


@pytest.mark.parametrize("scale", [0.0, np.nan, np.inf, -0.5])
def test_quantize_by_odd_scales(scale: float) -> None:
    check_lowered("QuantizeLinear", [_floats((40,)), np.float32(scale).reshape(()), np.array(3, np.uint8)])


def test_quantize_other_floats() -> None:
    scale, zero = np.array(0.3, np.float32), np.array(-3, np.int8)
    with np.errstate(all="ignore"):
        half, brain = _floats((70,)).astype(np.float16), _floats((70,)).astype(ml_dtypes.bfloat16)
    check_lowered("QuantizeLinear", [half, scale, zero])
    check_lowered("QuantizeLinear", [brain, scale, zero])
    check_lowered("QuantizeLinear", [RNG.integers(-(2**31), 2**31, 70, np.int32), scale, zero])
    check_lowered("QuantizeLinear", [np.zeros((0, 3), np.float32), scale, zero])


@given(st.lists(st.floats(width=32), min_size=1, max_size=40), st.floats(0.0078125, 64, width=32))
@settings(max_examples=60, deadline=None)
def test_quantize_any(values: list[float], scale: float) -> None:
    check_lowered(
        "QuantizeLinear", [np.array(values, np.float32), np.float32(scale).reshape(()), np.array(9, np.uint8)]
    )


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int32"])
@pytest.mark.parametrize("axis", [None, 1, -1])
def test_dequantize(dtype: str, axis: int | None) -> None:
    info = np.iinfo(dtype)
    x = RNG.integers(info.min, info.max, (3, 37, 5), endpoint=True).astype(dtype)
    length = 1 if axis is None else x.shape[axis]
    scale = RNG.standard_normal(length).astype(np.float32)
    zero = RNG.integers(info.min, info.max, length).astype(dtype)
    if axis is None:
        scale, zero = scale.reshape(()), zero.reshape(())
    check_lowered("DequantizeLinear", [x, scale, zero], {"axis": axis or 0}, parallel=True)
    check_lowered("DequantizeLinear", [x, scale], {"axis": axis or 0}, opset=13)


def test_dequantize_to_half() -> None:
    x = RNG.integers(0, 255, (50,)).astype(np.uint8)
    zero = np.array(100, np.uint8)
    check_lowered("DequantizeLinear", [x, np.array(0.1, np.float16), zero])
    check_lowered("DequantizeLinear", [x, np.array(0.1, ml_dtypes.bfloat16), zero])
    check_lowered("DequantizeLinear", [x, np.array(0.1, np.float32), zero], {"output_dtype": 10})


@pytest.mark.parametrize("n", [0, 1, 100, 40000])
@pytest.mark.parametrize("sign", [-1, 0, 1])
def test_dynamic(n: int, sign: int) -> None:
    x = RNG.standard_normal(n).astype(np.float32)
    x = np.abs(x) * np.float32(sign) if sign else x
    check_lowered("DynamicQuantizeLinear", [x], n_outputs=3, parallel=True)


@pytest.mark.parametrize("special", [np.nan, -np.nan, np.inf, -np.inf, 0.0, -0.0])
def test_dynamic_special(special: float) -> None:
    x = np.full(50, special, np.float32)
    check_lowered("DynamicQuantizeLinear", [x], n_outputs=3)
    x[3:] = 2.5
    check_lowered("DynamicQuantizeLinear", [x], n_outputs=3)


# Products


def _bytes(dtype: str, shape: Any) -> Any:
    info = np.iinfo(dtype)
    return RNG.integers(info.min, info.max, shape, endpoint=True).astype(dtype)


SIZES = [(1, 1, 1), (3, 5, 7), (13, 16, 32), (26, 100, 65), (130, 33, 40)]


@pytest.mark.parametrize(("left", "right"), list(product(["uint8", "int8"], repeat=2)))
@pytest.mark.parametrize("size", SIZES)
def test_matmul_integer(left: str, right: str, size: tuple[int, int, int]) -> None:
    m, k, n = size
    a, b = _bytes(left, (m, k)), _bytes(right, (k, n))
    za, zb = _bytes(left, ()), _bytes(right, ())
    check_lowered("MatMulInteger", [a, b], constants=[1])
    check_lowered("MatMulInteger", [a, b, za, zb], constants=[1, 2, 3], parallel=True)
    check_lowered("MatMulInteger", [a, b, za, zb], constants=[1, 3])
    check_lowered("MatMulInteger", [a, b, za, zb], parallel=True)
    check_lowered("MatMulInteger", [a, b, _bytes(left, m), _bytes(right, n)], constants=[1, 2, 3])
    check_lowered("MatMulInteger", [a, b, _bytes(left, m), _bytes(right, n)])


def test_matmul_integer_extremes() -> None:
    """Pairs of products would not fit 16 bits."""
    a, b = np.full((13, 64), 255, np.uint8), np.full((64, 40), -128, np.int8)
    check_lowered("MatMulInteger", [a, b], constants=[1])
    check_lowered("MatMulInteger", [a, b, np.array(0, np.uint8), np.array(127, np.int8)], constants=[1, 2, 3])


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ((2, 3, 5, 20), (20, 40)),
        ((2, 3, 5, 20), (3, 20, 40)),
        ((5, 20), (2, 20, 8)),
        ((20,), (20, 40)),
        ((4, 20), (20,)),
    ],
)
def test_matmul_integer_broadcasts(left: Any, right: Any) -> None:
    check_lowered("MatMulInteger", [_bytes("uint8", left), _bytes("int8", right), np.array(9, np.uint8)])


def test_matmul_integer_of_nothing() -> None:
    check_lowered("MatMulInteger", [np.zeros((0, 4), np.uint8), np.zeros((4, 3), np.int8)])
    with pytest.raises(Unsupported):
        check_lowered("MatMulInteger", [np.zeros((2, 0), np.uint8), np.zeros((0, 3), np.int8)])


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
@pytest.mark.parametrize("size", [(1, 20, 40), (30, 64, 48)])
def test_qlinear_matmul(dtype: str, size: tuple[int, int, int]) -> None:
    m, k, n = size
    for columns in (1, n):
        scale = np.abs(RNG.standard_normal(columns)).astype(np.float32) * 0.02 + np.float32(0.01)
        inputs = [
            _bytes(dtype, (m, k)), np.array(0.25, np.float32), _bytes(dtype, ()),
            _bytes(dtype, (k, n)), scale, _bytes(dtype, columns),
            np.array(0.5, np.float32), _bytes(dtype, ()),
        ]  # fmt: skip
        check_lowered("QLinearMatMul", inputs, opset=10, constants=range(1, 8), parallel=True)
        inputs[1] = inputs[6]  # halves are common
        inputs[4] = np.array(0.5, np.float32)
        inputs[5] = inputs[5].reshape(-1)[0]
        check_lowered("QLinearMatMul", inputs, opset=21, constants=range(1, 8))


def _to_float(a: Any, b: Any, sa: Any, sb: Any, za: Any, zb: Any, bias: Any) -> Any:
    (total,) = reference("MatMulInteger", [a, b, za, zb], {}, 10)
    y = total.astype(np.float32) * (sa * sb)
    return y if bias is None else y + bias


@pytest.mark.parametrize(
    ("right", "size", "with_bias"), [("int8", (30, 70, 65), True), ("uint8", (1, 64, 33), False)]
)
def test_products_to_float(right: str, size: tuple[int, int, int], with_bias: bool) -> None:
    m, k, n = size
    x = RNG.standard_normal((m, k)).astype(np.float32)
    b, zb = _bytes(right, (k, n)), _bytes(right, ())
    sb = np.abs(RNG.standard_normal(n)).astype(np.float32)
    bias = RNG.standard_normal(n).astype(np.float32) if with_bias else None
    a, sa, za = reference("DynamicQuantizeLinear", [x], {}, 11)
    expected = _to_float(a, b, sa, sb, za, zb, bias)
    wanted = [((m, n), np.float32)]
    inputs = [x, b, sb, zb, bias]
    for parallel in (False, True):
        (y,) = run_lowered(
            "DynamicQuantizeMatMul",
            inputs,
            wanted,
            domain=INTERNAL,
            constants=[1, 2, 3, 4],
            parallel=parallel,
        )
        np.testing.assert_allclose(y, expected, rtol=3e-7, atol=1e-5)
    inputs = [a, b, sa, sb, za, zb, bias]
    (y,) = run_lowered("MatMulIntegerToFloat", inputs, wanted, domain=INTERNAL, constants=[1, 3, 5, 6])
    np.testing.assert_allclose(y, expected, rtol=3e-7, atol=1e-5)


# Convolutions

CASES = [
    # channels, kernels, size, kernel, attributes
    (3, 32, (13, 15), (3, 3), {"pads": (1, 1, 1, 1), "strides": (2, 2)}),
    (20, 35, (9, 8), (3, 3), {"pads": (1, 2, 0, 1), "dilations": (2, 1)}),
    (32, 16, (7, 7), (1, 1), {}),
    (16, 48, (8, 6), (1, 1), {"strides": (2, 2)}),
    (5, 7, (1, 11), (1, 3), {"auto_pad": "SAME_UPPER"}),
]


@pytest.mark.parametrize(
    ("case", "dtype"), [*((case, "uint8") for case in CASES), (CASES[0], "int8"), (CASES[3], "int8")]
)
def test_convolutions(case: Any, dtype: str) -> None:
    c, m, size, kernel, attributes = case
    x, w = _bytes(dtype, (2, c, *size)), _bytes("int8", (m, c, *kernel))
    zero = _bytes(dtype, ())
    check_lowered("ConvInteger", [x, w, zero], attributes, opset=10, constants=[1, 2], parallel=True)
    scale = np.abs(RNG.standard_normal(m)).astype(np.float32) * 0.01 + np.float32(0.01)
    inputs = [
        x, np.array(0.5, np.float32), zero, w, scale, np.zeros(m, np.int8),
        np.array(0.25, np.float32), np.array(7, dtype), RNG.integers(-3000, 3000, m).astype(np.int32),
    ]  # fmt: skip
    known = range(1, 9)
    check_lowered("QLinearConv", inputs, attributes, opset=10, constants=known)
    lanes = target().lanes
    pads = {0: Blocked(lanes, (4, 4, 4, 4))}
    options: Any = {"layouts": pads, "output_layouts": {0: Blocked(lanes, (0, 1, 2, 3))}, "constants": known}
    check_lowered("QLinearConv", inputs, attributes, opset=10, parallel=True, **options)
    for activation in ("", "Relu"):
        fused = {**attributes, "activation": activation}
        check_lowered("QuantizedConv", inputs, fused, opset=1, domain=INTERNAL, atol=1, **options)


@pytest.mark.parametrize("activation", ["", "Relu"])
def test_convolution_with_residual(activation: str) -> None:
    f = np.float32
    inputs = [
        _bytes("uint8", (2, 32, 7, 7)), f(0.5), np.array(9, np.uint8), _bytes("int8", (48, 32, 1, 1)),
        f(0.01), np.int8(0),
        f(1.5), np.array(100, np.uint8), RNG.integers(-300, 300, 48).astype(np.int32),
        _bytes("uint8", (2, 48, 7, 7)), f(0.75), np.array(50, np.uint8), f(1.7), np.array(30, np.uint8),
    ]  # fmt: skip
    inputs = [np.asarray(x) for x in inputs]
    lanes = target().lanes
    known = [i for i in range(1, 14) if i != 9]
    for pad in ((0, 0, 0, 0), (1, 1, 1, 1)):
        layouts = {0: Blocked(lanes, pad), 9: Blocked(lanes)}
        check_lowered(
            "QuantizedConv", inputs, {"activation": activation}, opset=1, domain=INTERNAL, constants=known,
            layouts=layouts, output_layouts={0: Blocked(lanes)}, atol=1,
        )  # fmt: skip


def _scales(*values: float) -> list[Any]:
    return [np.array(v, np.float32) for v in values]


@pytest.mark.parametrize("shape", [(2, 35, 6, 5), (1, 3, 7), (40, 1000), (7,)])
@pytest.mark.parametrize("activation", ["", "Relu"])
def test_add(shape: tuple[int, ...], activation: str) -> None:
    (sa, sb, sy), (za, zb, zy) = _scales(0.3, 0.7, 0.6), np.array([3, 250, 100], np.uint8)
    inputs = [
        _bytes("uint8", shape),
        sa,
        np.asarray(za),
        _bytes("uint8", shape),
        sb,
        np.asarray(zb),
        sy,
        np.asarray(zy),
    ]
    options: Any = {"domain": INTERNAL, "opset": 1, "atol": 1, "constants": [1, 2, 4, 5, 6, 7]}
    check_lowered("QuantizedAdd", inputs, {"activation": activation}, parallel=True, **options)
    if len(shape) in (3, 4):
        lanes = target().lanes
        layouts = {0: Blocked(lanes, (1, 1, 1, 1)), 3: Blocked(lanes)}
        out = {0: Blocked(lanes, (0, 1, 2, 0))}
        check_lowered(
            "QuantizedAdd", inputs, {"activation": activation}, layouts=layouts, output_layouts=out, **options
        )


@pytest.mark.parametrize(
    "attributes",
    [
        {"kernel_shape": (3, 3), "strides": (2, 2), "pads": (1, 1, 1, 1)},
        {"kernel_shape": (2, 3), "ceil_mode": 1, "strides": (2, 2)},
        {"kernel_shape": (3, 2), "dilations": (2, 1), "auto_pad": "SAME_LOWER"},
    ],
)
def test_max_pool(attributes: Any) -> None:
    x, lanes = _bytes("uint8", (2, 35, 12, 9)), target().lanes
    options: Any = {"domain": INTERNAL, "opset": 1}
    check_lowered("QuantizedMaxPool", [x], attributes, **options)
    layouts = {0: Blocked(lanes, (2, 2, 2, 2))}
    out = {0: Blocked(lanes, (1, 0, 1, 0))}
    check_lowered(
        "QuantizedMaxPool", [x], attributes, layouts=layouts, output_layouts=out, parallel=True, **options
    )


@pytest.mark.parametrize("shape", [(2, 35, 7, 5), (1, 16, 1, 1), (3, 5, 9)])
def test_global_average_pool(shape: tuple[int, ...]) -> None:
    (sx, sy), (zx, zy) = _scales(0.3, 0.2), np.array([3, 100], np.uint8)
    inputs = [_bytes("uint8", shape), sx, np.asarray(zx), sy, np.asarray(zy)]
    for layouts in ({}, {0: Blocked(target().lanes, (1, 1, 1, 1))}):
        check_lowered(
            "QuantizedGlobalAveragePool",
            inputs,
            domain=INTERNAL,
            opset=1,
            atol=1,
            constants=range(1, 5),
            layouts=layouts,
        )


@pytest.mark.parametrize("activation", ["", "Relu"])
def test_quantized_matmul(activation: str) -> None:
    bias = RNG.integers(-3000, 3000, 40).astype(np.int32)
    sa, sb, sy = _scales(0.1, 0.1, 5)
    inputs = [
        _bytes("uint8", (3, 5, 60)), sa, np.array(7, np.uint8), _bytes("int8", (60, 40)),
        sb, np.int8(0).reshape(()),
        sy, np.array(50, np.uint8), bias,
    ]  # fmt: skip
    options: Any = {"domain": INTERNAL, "opset": 1, "atol": 1, "constants": range(1, 9)}
    check_lowered("QuantizedMatMul", inputs, {"activation": activation}, **options)
    check_lowered("QuantizedMatMul", inputs[:8], {"activation": activation}, **options)
