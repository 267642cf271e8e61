"""Quantization on the emulator: the reference's bits."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxref.kernels.cupy.quantization  # noqa: F401 - registers
import pytest

from onnxref.dtypes import Array, from_numpy
from onnxref.lowering import Unsupported
from tests.lowered import reference

from .lowered import run_on_device
from .test_gpu_narrow_cast import dtype_of


def tensor(shape: tuple[int, ...], name: str, size: float = 40.0) -> Array:
    rng = np.random.default_rng(3)
    x = np.rint(rng.standard_normal(shape) * size * 2) / 2  # halves, to be rounded to even
    if name not in ("int32",) and x.size > 8:
        x.reshape(-1)[:6] = [np.nan, np.inf, -np.inf, -0.0, 1e30, -1e30]
    if name.startswith(("uint", "int")):
        bits = int("".join(filter(str.isdigit, name)))
        if bits < 32:
            raw = rng.integers(0, 256, (*shape, 2 if bits == 16 else 1), dtype=np.uint8)
            return raw.view(dtype_of(name))[..., 0]
        return (x * 1000).astype(np.int32)
    with np.errstate(all="ignore"):
        return x.astype(dtype_of(name))


def scales(shape: tuple[int, ...], name: str) -> Array:
    made = 2.0 ** np.random.default_rng(4).integers(-2, 3, shape) * (
        1.0 if name == "float8_e8m0fnu" else 1.125
    )
    return np.maximum(made, 1.0 if name == "int32" else 0.0).astype(dtype_of(name))


def same(found: Array | None, expected: Array) -> None:
    assert found is not None
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    if expected.dtype.itemsize == 1 or expected.dtype.kind in "iu":
        np.testing.assert_array_equal(found.view(np.uint8), expected.view(np.uint8))
    else:
        a, b = found.astype(np.float64), expected.astype(np.float64)
        np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(np.signbit(a)[~np.isnan(a)], np.signbit(b)[~np.isnan(b)])


def check(
    op_type: str, inputs: list[Array | None], attributes: dict[str, Any], opset: int = 24, **run: Any
) -> None:
    expected = reference(op_type, inputs, attributes, opset)
    places = [(y.shape, y.dtype) for y in expected]
    found = run_on_device(op_type, inputs, places, attributes, opset=opset, **run)
    for y, wanted in zip(found, expected, strict=True):
        same(y, wanted)


# (shape of x, axis, block, shape of the scale): every way in which scales can lie
_PLACES: list[tuple[tuple[int, ...], int, int, tuple[int, ...]]] = [
    ((3, 37), 1, 0, ()),
    ((3, 32), 0, 0, (3,)),
    ((2, 3, 16), 1, 0, (3,)),
    ((2, 3, 7), 1, 0, (3,)),
    ((5, 32), -1, 0, (32,)),
    ((5, 31), 1, 0, (31,)),
    ((3, 64), 1, 32, (3, 2)),
    ((3, 40), 1, 32, (3, 2)),
    ((3, 10), 1, 3, (3, 4)),
    ((10, 32), 0, 4, (3, 32)),
    ((2, 10, 5), 1, 4, (2, 3, 5)),
]


@pytest.mark.parametrize(("shape", "axis", "block", "scale_shape"), _PLACES)
def test_where_scales_lie(shape: Any, axis: int, block: int, scale_shape: Any) -> None:
    x, scale = tensor(shape, "float32"), scales(scale_shape, "float32")
    zero = tensor(scale_shape, "int8") if scale_shape else np.array(3, np.int8)
    attributes = {"axis": axis, "block_size": block}
    check("QuantizeLinear", [x, scale, zero], attributes)
    check("DequantizeLinear", [tensor(shape, "int8"), scale, zero], attributes)


@pytest.mark.parametrize(
    "name",
    ["uint8", "int16", "uint16", "int4", "uint4", "int2", "uint2", "float8_e4m3fn", "float8_e4m3fnuz"]
    + ["float8_e5m2", "float8_e5m2fnuz", "float4_e2m1fn", "float6_e2m3fn", "float6_e3m2fn"],
)
def test_types(name: str) -> None:
    x, scale = tensor((5, 33), "float32"), scales((), "float32")
    low = np.ones((), np.float32).astype(dtype_of(name))
    check("QuantizeLinear", [x, scale, low], {}, 28)
    y = tensor((5, 33), name) if "float" not in name else x.astype(dtype_of(name))
    check("DequantizeLinear", [y, scale, low], {}, 28)


@pytest.mark.parametrize(("x_name", "scale_name", "precision"), [
    ("float16", "float16", 0),
    ("bfloat16", "bfloat16", 0),
    ("float16", "float16", 1),
    ("float32", "float16", 0),
    ("int32", "float32", 0),
    ("int32", "int32", 0),
    ("float32", "float32", 10),
    ("float32", "float8_e8m0fnu", 0),
])  # fmt: skip
@pytest.mark.parametrize("name", ["int8", "float8_e4m3fn"])
def test_divisions(name: str, x_name: str, scale_name: str, precision: int) -> None:
    inputs = [tensor((4, 19), x_name), scales((), scale_name), None]
    to = int(from_numpy(dtype_of(name)))
    check("QuantizeLinear", inputs, {"precision": precision, "output_dtype": to}, 25, orders=(0,))


@pytest.mark.parametrize(
    ("x_name", "scale_name", "to"),
    [("int32", "float32", 0), ("uint8", "float16", 0), ("int8", "bfloat16", 1), ("uint8", "float32", 10)]
    + [("float8_e4m3fn", "float8_e8m0fnu", 16), ("int4", "float16", 0)],
)
def test_dequantized_types(x_name: str, scale_name: str, to: int) -> None:
    x = tensor((4, 19), "float32").astype(dtype_of(x_name)) if "float" in x_name else tensor((4, 19), x_name)
    check("DequantizeLinear", [x, scales((), scale_name), None], {"output_dtype": to}, 25, orders=(0,))


def test_int32_with_zero_point() -> None:
    x = np.array([2**31 - 1, -(2**31), 5, 16777217], np.int32)
    check("DequantizeLinear", [x, np.float32(1.5).reshape(()), np.array(-(2**31), np.int32)], {}, 13)


@pytest.mark.parametrize("opset", [10, 13, 19, 21, 23, 24, 25, 28])
def test_every_version(opset: int) -> None:
    x, scale, zero = tensor((3, 20), "float32"), scales((), "float32"), np.array(5, np.uint8)
    check("QuantizeLinear", [x, scale, zero], {}, opset, orders=(0,))
    check("DequantizeLinear", [tensor((3, 20), "uint8"), scale, zero], {}, opset, orders=(0,))


@pytest.mark.parametrize("opset", [23, 24])
def test_nan_in_float4(opset: int) -> None:
    x = tensor((3, 20), "float32")
    check("QuantizeLinear", [x, scales((), "float32"), None], {"output_dtype": 23}, opset, orders=(0,))


def test_without_saturation() -> None:
    x = tensor((3, 20), "float32", 900.0)
    check("QuantizeLinear", [x, scales((), "float32"), None], {"output_dtype": 17, "saturate": 0}, 24)


@pytest.mark.parametrize(
    ("shape", "axis"), [((2, 5, 3, 4), 1), ((2, 16, 3), 1), ((2, 5, 3, 4), 2), ((2, 5, 3, 4), 0)]
)
@pytest.mark.parametrize("op_type", ["QuantizeLinear", "DequantizeLinear"])
def test_channels_last(op_type: str, shape: tuple[int, ...], axis: int) -> None:
    x = tensor(shape, "float32" if op_type == "QuantizeLinear" else "int8")
    scale, zero = scales((shape[axis],), "float32"), tensor((shape[axis],), "int8")
    run = {"channels_last": [0], "outputs_last": [0], "orders": (0,)}
    check(op_type, [x, scale, zero], {"axis": axis}, **run)


def test_large_and_empty() -> None:
    x = np.resize(tensor((3000,), "float32"), ((1 << 18) + 5,))
    scale, zero = scales((), "float32"), np.array(-3, np.int8)
    check("QuantizeLinear", [x, scale, zero], {}, orders=(0, 1))
    check("DequantizeLinear", [tensor(x.shape, "int8"), scale, zero], {}, orders=(0, 1))
    check("QuantizeLinear", [x[:0], scale, zero], {})
    check("QuantizeLinear", [np.array(3.7, np.float32), scale, zero], {})


@pytest.mark.parametrize(
    "x",
    [
        np.linspace(-3, 7, 1003, dtype=np.float32).reshape(17, 59),
        np.resize(np.linspace(-9, 1, 7919, dtype=np.float32), 40003),
        np.linspace(2, 3, 5000, dtype=np.float32),
        -np.linspace(2, 3, 33, dtype=np.float32),
        np.zeros(5, np.float32),
        np.zeros((0, 3), np.float32),
        np.array([1, np.nan, 2], np.float32),
        np.array([1, np.inf, -2], np.float32),
        np.array(3.5, np.float32),
    ],
    ids=lambda x: str(x.shape),
)
def test_dynamic(x: Array) -> None:
    check("DynamicQuantizeLinear", [x], {}, 11)


def test_dynamic_of_unwanted_outputs() -> None:
    x = np.resize(np.linspace(-9, 1, 7919, dtype=np.float32), 40003)
    expected = reference("DynamicQuantizeLinear", [x], {}, 11)
    places = [(y.shape, y.dtype) for y in expected]
    found = run_on_device("DynamicQuantizeLinear", [x], [places[0], None, None], opset=11)
    same(found[0], expected[0])
    found = run_on_device("DynamicQuantizeLinear", [x], [None, *places[1:]], opset=11)
    same(found[1], expected[1])
    same(found[2], expected[2])


def test_refusals() -> None:
    x, scale = tensor((3, 20), "float32"), scales((3,), "float32")
    for attributes, reason in (({"axis": 1}, "length"), ({"axis": 2}, "axis out of range")):
        with pytest.raises(Unsupported, match=reason):
            run_on_device("QuantizeLinear", [x, scale], [(x.shape, np.uint8)], attributes)
    with pytest.raises(Unsupported, match="zero point"):
        run_on_device("QuantizeLinear", [x, scale, np.zeros(2, np.uint8)], [(x.shape, np.uint8)], {"axis": 0})
