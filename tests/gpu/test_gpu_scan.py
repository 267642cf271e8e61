"""CumSum and CumProd on the emulator, held to the reference."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnxref.kernels.cupy.scan  # noqa: F401
import pytest

from onnxref.dtypes import Array
from onnxref.lowering import Unsupported
from tests.lowered import reference

from .lowered import run_on_device


def check(x: Array, axis: int, exclusive: int = 0, reverse: int = 0, op_type: str = "CumSum") -> None:
    opset = 14 if op_type == "CumSum" else 26
    inputs = [x, np.array(axis)]
    attributes = {"exclusive": exclusive, "reverse": reverse}
    (expected,) = reference(op_type, inputs, attributes, opset)
    (found,) = run_on_device(op_type, inputs, [(x.shape, x.dtype)], attributes, opset=opset, constants=[1])
    assert found is not None
    if x.dtype.kind in "iu":
        np.testing.assert_array_equal(found, expected)
        return
    got, want = found.astype(np.float64), expected.astype(np.float64)
    if op_type == "CumSum":
        (scale,) = reference("CumSum", [np.abs(x.astype(np.float64)), inputs[1]], attributes, 14)
    else:
        scale = np.abs(want)
    eps = float(ml_dtypes.finfo(x.dtype).eps)
    relative = {"float32": 4e-6, "float64": 1e-13}.get(x.dtype.name, 2 * eps)
    with np.errstate(all="ignore"):
        same = (got == want) | (np.isnan(got) & np.isnan(want))
        assert (same | (np.abs(got - want) <= relative * scale)).all()
    zeros = (want == 0) & (got == 0)
    assert (np.signbit(got) == np.signbit(want))[zeros].all()


def normal(shape: tuple[int, ...], dtype: Any = np.float32) -> Array:
    return np.random.default_rng(0).standard_normal(shape).astype(dtype)


@pytest.mark.parametrize(("exclusive", "reverse"), [(0, 0), (0, 1), (1, 0), (1, 1)])
@pytest.mark.parametrize(("shape", "axis"), [((3, 44), 1), ((2, 37, 6), 1), ((2, 700), -1), ((40, 3), 0)])
def test_directions(shape: tuple[int, ...], axis: int, exclusive: int, reverse: int) -> None:
    check(normal(shape), axis, exclusive, reverse)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 31, 32, 33, 127, 128, 129, 512, 516, 1030, 2056])
def test_row_lengths(n: int) -> None:
    check(normal((3, n)), 1)


@pytest.mark.parametrize(("exclusive", "reverse"), [(0, 0), (1, 1)])
def test_long_rows_in_parts(exclusive: int, reverse: int) -> None:
    check(normal((1, 33000)), 1, exclusive, reverse)
    check(np.random.default_rng(1).integers(-9, 9, 9001), 0, exclusive, reverse)


@pytest.mark.parametrize("shape", [(9, 1, 4), (2, 300, 5), (1, 8, 520), (3, 2, 7)])
def test_columns(shape: tuple[int, ...]) -> None:
    check(normal(shape), 1)


@pytest.mark.parametrize("name", ["float64", "float16", "bfloat16"])
def test_float_types(name: str) -> None:
    dtype = np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name)
    check(normal((2, 40), dtype), 1)
    check(normal((2, 40, 2), dtype), 1)


@pytest.mark.parametrize("name", ["int32", "int64", "uint32", "uint64"])
def test_integers_wrap(name: str) -> None:
    info = np.iinfo(name)
    x = np.random.default_rng(2).integers(info.min, info.max, (3, 50), name)
    check(x, 1)
    check(x, 1, op_type="CumProd")


@pytest.mark.parametrize("exclusive", [0, 1])
@pytest.mark.parametrize("axis", [0, 1])
def test_products(axis: int, exclusive: int) -> None:
    check(np.exp(normal((20, 36)) / 9), axis, exclusive, op_type="CumProd")


@pytest.mark.parametrize("op_type", ["CumSum", "CumProd"])
@pytest.mark.parametrize("exclusive", [0, 1])
def test_special_values(op_type: str, exclusive: int) -> None:
    inf, nan = np.inf, np.nan
    rows = [[1, nan, 2, 3], [inf, 1, -inf, 2], [-0.0, -0.0, 0.0, -0.0], [0, inf, 1, 1], [-inf, 1, 1, 0]]
    x = np.array(rows, np.float32)
    check(x, 1, exclusive, op_type=op_type)
    check(np.ascontiguousarray(x.T), 0, exclusive, op_type=op_type)


def test_empty() -> None:
    check(np.zeros((0, 3), np.float32), 1)
    check(np.zeros((3, 0), np.float32), 1)


def test_refusals() -> None:
    x = normal((2, 3))
    with pytest.raises(Unsupported, match="not constant"):
        run_on_device("CumSum", [x, np.array(0)], [(x.shape, x.dtype)], opset=14)
    with pytest.raises(Unsupported, match="axis must be in"):
        run_on_device("CumSum", [x, np.array(2)], [(x.shape, x.dtype)], opset=14, constants=[1])
