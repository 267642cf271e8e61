"""Casts from and to types of 8 bits and less on the emulator: the reference's bits."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnxref.kernels.cupy.cast
import onnxref.kernels.cupy.narrow_cast  # noqa: F401 - registers
import pytest
from onnxref.kernels.cupy.narrow_cast import NARROW

from onnxref.dtypes import Array, from_numpy
from onnxref.lowering import Unsupported
from tests.lowered import reference

from .lowered import run_on_device


def dtype_of(name: str) -> Any:
    return np.dtype(getattr(ml_dtypes, name, name))


def _floats() -> Array:
    """Numbers beside all narrow floats and halfway between them, specials, and any others."""
    near = [0.0, np.inf, np.nan, 1e300, 1e-300, 2.0**-127, 2.0**-128, 2.0**127, 1.5 * 2.0**127, 2.0**63]
    for name in NARROW:
        if name.startswith("float"):
            codes = np.arange(256, dtype=np.uint8).view(dtype_of(name)).astype(np.float64)
            codes = np.unique(codes[np.isfinite(codes) & (np.abs(codes) < 1e30)])
            middle = (codes[1:] + codes[:-1]) / 2
            for some in (codes, middle, np.nextafter(middle, np.inf), np.nextafter(middle, -np.inf)):
                near += some[:: max(1, len(some) // 60)].tolist()
            near += [codes[-1], middle[-1], codes[-1] * 1.03, codes[-1] * 1.07]
    near += [15.9, 16.0, 7.5, -8.5, 255.5, 3.99, -0.6, 300.0, 2.0**40 + 5.0, 0.7 * 2.0**20, 0.75 * 2.0**20]
    random = np.random.default_rng(0).standard_normal(200) * 10.0 ** np.linspace(-12, 12, 200)
    return np.concatenate([np.array(near), -np.array(near), random])


def values(name: str) -> Array:
    dtype = dtype_of(name)
    if name in NARROW:
        codes = {"float6": 64, "float4": 16}.get(name[:6], 256)
        return np.resize(np.arange(codes, dtype=np.uint8), 263).view(dtype)
    if name == "bool":
        return np.arange(37) % 3 == 0
    with np.errstate(all="ignore"):
        if dtype.kind in "iu":
            low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
            spread = [
                n for k in range(64) for n in (2**k - 1, 2**k, 2**k + 1, 3 * 2**k // 2, 25 * 2**k // 16 + 1)
            ]
            whole = [n for n in (*spread, *(-n for n in spread), 449, 465, 480) if low <= n <= high]
            return np.array(whole, dtype)
        return _floats().astype(dtype)


def check(x: Array, goal: str, attributes: dict[str, Any], opset: int = 24) -> None:
    attributes = {"to": int(from_numpy(dtype_of(goal))), **attributes}
    (expected,) = reference("Cast", [x], attributes, opset)
    assert expected.dtype == dtype_of(goal)
    (found,) = run_on_device("Cast", [x], [(x.shape, dtype_of(goal))], attributes, opset=opset, orders=(0,))
    assert found is not None
    same = found.view(np.uint8).reshape(x.size, dtype_of(goal).itemsize) == expected.view(np.uint8).reshape(
        x.size, dtype_of(goal).itemsize
    )
    wrong = ~same.all(1)
    if dtype_of(goal).itemsize > 1 and dtype_of(goal).kind not in "iub":
        wrong &= ~(np.isnan(found.astype(np.float64)) & np.isnan(expected.astype(np.float64)))
    assert not wrong.any(), (x[wrong][:5], found[wrong][:5], expected[wrong][:5])


@pytest.mark.parametrize("goal", NARROW)
def test_to_narrow(goal: str) -> None:
    check(values("float32"), goal, {})


@pytest.mark.parametrize("goal", ["float8_e4m3fn", "float8_e8m0fnu", "int4"])
@pytest.mark.parametrize("source", ["float64", "int64", "uint64"])
def test_rounds_once(source: str, goal: str) -> None:
    check(values(source), goal, {})


@pytest.mark.parametrize("source", NARROW)
def test_from_narrow(source: str) -> None:
    check(values(source), "float32", {})


_OTHERS = [
    ("float8_e4m3fn", "float16"),
    ("float8_e5m2", "bfloat16"),
    ("float8_e8m0fnu", "int64"),
    ("float8_e8m0fnu", "uint8"),
    ("float8_e8m0fnu", "float16"),
    ("float6_e3m2fn", "bool"),
    ("float4_e2m1fn", "float64"),
    ("int4", "uint64"),
    ("uint4", "bool"),
    ("int2", "float16"),
    ("bool", "float8_e4m3fnuz"),
    ("bool", "uint4"),
    ("float16", "float8_e5m2"),
    ("bfloat16", "int2"),
    ("uint8", "float8_e5m2fnuz"),
    ("int32", "float6_e2m3fn"),
    ("float8_e5m2", "float8_e4m3fn"),
    ("int4", "float8_e4m3fn"),
    ("float8_e8m0fnu", "uint4"),
]


@pytest.mark.parametrize(("source", "goal"), _OTHERS)
def test_pairs(source: str, goal: str) -> None:
    check(values(source), goal, {})


@pytest.mark.parametrize("goal", [name for name in NARROW if name.startswith("float8")])
def test_without_saturation(goal: str) -> None:
    check(values("float32"), goal, {"saturate": 0})


@pytest.mark.parametrize("saturate", [0, 1])
@pytest.mark.parametrize("mode", ["down", "nearest"])
def test_round_modes(mode: str, saturate: int) -> None:
    check(values("float64"), "float8_e8m0fnu", {"round_mode": mode, "saturate": saturate})


@pytest.mark.parametrize("opset", [21, 23])
@pytest.mark.parametrize("goal", ["int4", "uint4", "float4_e2m1fn", "float8_e5m2"])
def test_before_24(goal: str, opset: int) -> None:
    check(values("float32"), goal, {}, opset)
    check(values("int64"), goal, {}, opset)


def test_large_and_empty_and_scalar() -> None:
    large = np.resize(values("float32"), (1 << 18) + 3)
    check(large, "float8_e4m3fn", {})
    for count in (0, 1, 3, 4, 15, 16, 17):
        check(values("float32")[:count], "float8_e4m3fn", {})
    x = np.array(1.3, np.float32)
    (found,) = run_on_device("Cast", [x], [((), dtype_of("float8_e4m3fn"))], {"to": 17})
    assert found is not None
    assert float(found) == 1.25


def test_cast_like_and_channels_last() -> None:
    x = values("float32")[:120].reshape(2, 5, 3, 4)
    like = np.zeros(1, dtype_of("float8_e4m3fn"))
    (found,) = run_on_device(
        "CastLike", [x, like], [(x.shape, like.dtype)], channels_last=[0], outputs_last=[0]
    )
    (expected,) = reference("CastLike", [x, like], {}, 24)
    assert found is not None
    np.testing.assert_array_equal(found.view(np.uint8), expected.view(np.uint8))


@pytest.mark.parametrize(
    ("source", "goal"), [("float32", "int32"), ("int4", "uint4"), ("uint8", "float8_e5m2")]
)
def test_bit_cast(source: str, goal: str) -> None:
    x = values(source)[:40]
    to = int(from_numpy(dtype_of(goal)))
    (expected,) = reference("BitCast", [x], {"to": to}, 26)
    (found,) = run_on_device("BitCast", [x], [(x.shape, dtype_of(goal))], {"to": to}, opset=26)
    assert found is not None
    assert found.tobytes() == expected.tobytes()


def test_refusals() -> None:
    x = np.zeros(3, np.float32)
    wanted = [((3,), dtype_of("float8_e8m0fnu"))]
    with pytest.raises(Unsupported, match="round_mode"):
        run_on_device("Cast", [x], wanted, {"to": 24, "round_mode": "odd"})
    with pytest.raises(Unsupported, match="widths"):
        run_on_device("BitCast", [x.astype("int8")], [((3,), dtype_of("int4"))], {"to": 22}, opset=26)
    with pytest.raises(Unsupported, match="a cast"):
        run_on_device("Cast", [np.zeros(3, dtype_of("int4"))], [((3,), np.dtype(object))], {"to": 8})
