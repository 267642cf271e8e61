"""Casts on the emulator: equal to the reference, bit for bit."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from onnxref.kernels.cupy import cast  # noqa: F401 - registers

from onnxref.dtypes import Array, from_numpy
from onnxref.lowering import Op, Operand, Site, Unsupported, find_lowering
from onnxref.registry import INTERNAL
from tests.lowered import reference

from .lowered import run_on_device

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
_TYPES = [
    np.dtype(bool),
    *(np.dtype(f"{u}int{bits}") for u in ("", "u") for bits in (8, 16, 32, 64)),
    *(np.dtype(f"float{bits}") for bits in (16, 32, 64)),
    BFLOAT16,
]
_EDGES = [0.0, -0.0, 0.5, -0.5, 1.5, -1.99, 127.5, 128.0, 255.9, -129.0, 65504.0, 65519.9, 65520.0, 70000.0]
_EDGES += [2.0**n + d for n in (31, 32, 53, 62) for d in (-1.0, 0.0, 1.0)]
_EDGES += [-(2.0**n) for n in (31, 33, 52, 63)] + [2.0**63, 2.0**64 - 2.0**12, 2.0**64, 1.5 * 2.0**66, 1e300]
_EDGES += [
    1e-8,
    6e-8,
    5.96e-8,
    1e-40,
    1 + 2.0**-11 + 2.0**-30,
    1 + 2.0**-8 + 2.0**-40,
    np.inf,
    -np.inf,
    np.nan,
]


def _values(dtype: np.dtype[Any]) -> Array:
    rng = np.random.default_rng(1)
    if dtype.kind in "iu":
        info = np.iinfo(dtype)
        near = np.array([info.min, info.max, 0, 1, info.max - 1, info.max // 3], dtype)
        halfway = [(257 << 23) + 1, (257 << 23), (259 << 53) + 1, (1 << 53) + 1, (1 << 25) + (1 << 13) + 1]
        more = np.array([n for n in halfway if n <= info.max], np.uint64).astype(dtype)
        return np.concatenate([near, more, rng.integers(info.min, info.max, 50, dtype, endpoint=True)])
    if dtype.kind == "b":
        return rng.random(70) < 0.5
    with np.errstate(all="ignore"):
        some = rng.standard_normal(60) * 10.0 ** rng.integers(-6, 25, 60)
        return np.concatenate([np.array(_EDGES), some]).astype(dtype)


@pytest.mark.parametrize("source", _TYPES, ids=lambda dtype: dtype.name)
def test_from_one_type_to_all(source: np.dtype[Any]) -> None:
    x = _values(source)
    goals = [dtype for dtype in _TYPES if dtype != source]
    program = tuple(("Cast", (0,), ()) for _ in goals)
    found = run_on_device(
        "Chain",
        [x],
        [(x.shape, dtype) for dtype in goals],
        {
            "program": program,
            "dtypes": (source.name, *(dtype.name for dtype in goals)),
            "results": tuple(range(1, len(goals) + 1)),
        },
        domain=INTERNAL,
        opset=1,
    )
    for y, dtype in zip(found, goals, strict=True):
        (expected,) = reference("Cast", [x], {"to": int(from_numpy(dtype))}, 24)
        assert y is not None
        if dtype.kind in "iub":
            np.testing.assert_array_equal(y, expected, err_msg=dtype.name)
        else:
            np.testing.assert_array_equal(y.astype("f8"), expected.astype("f8"), err_msg=dtype.name)


@pytest.mark.parametrize("opset", [6, 13, 19, 21, 23, 24, 25])
@pytest.mark.parametrize("op_type", ["Cast", "CastLike"])
def test_every_version(op_type: str, opset: int) -> None:
    if op_type == "CastLike" and opset < 15:
        return
    x = _values(np.dtype("float32"))
    inputs = [x] if op_type == "Cast" else [x, np.zeros(3, "int32")]
    attributes = {"to": 6} if op_type == "Cast" else {}
    (found,) = run_on_device(op_type, inputs, [(x.shape, "int32")], attributes, opset=opset, orders=(0,))
    (expected,) = reference(op_type, inputs, attributes, opset)
    np.testing.assert_array_equal(found, expected)


def test_channels_last_and_same_type() -> None:
    x = np.arange(2 * 6 * 3 * 5).reshape(2, 6, 3, 5).astype("int64")
    (found,) = run_on_device(
        "Cast", [x], [(x.shape, "float32")], {"to": 1}, channels_last=[0], outputs_last=[0], orders=(0,)
    )
    np.testing.assert_array_equal(found, x.astype("float32"))
    operand = Operand((3,), np.dtype("f4"))
    site = Site(Op("Cast", [operand], [Operand((3,), np.dtype("f4"))], {"to": 1}))
    lowering = find_lowering("cupy", "", "Cast", 24)
    assert lowering is not None
    lowering.emit(site, operand, to=1)
    assert not site.launches
    assert site.aliases == [(site.outputs[0], operand, 0)]


@pytest.mark.parametrize("goal", [np.complex64, object])
def test_other_types_are_refused(goal: Any) -> None:
    x = np.zeros(3, "f4")
    with pytest.raises(Unsupported):
        run_on_device("Cast", [x], [(x.shape, goal)], {"to": 17})
