"""TopK on the emulator, held to the reference bit by bit."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnxref.kernels.cupy.selection  # noqa: F401
import pytest

from onnxref.dtypes import Array
from onnxref.lowering import Unsupported
from tests.lowered import reference

from .lowered import run_on_device


def check(
    x: Array, k: int, axis: int = -1, largest: int = 1, wanted: tuple[bool, bool] = (True, True)
) -> None:
    inputs = [x, np.array([k], np.int64)]
    attributes = {"axis": axis, "largest": largest}
    expected = reference("TopK", inputs, attributes, 11)
    outputs = [
        (y.shape, y.dtype) if is_wanted else None for y, is_wanted in zip(expected, wanted, strict=True)
    ]
    found = run_on_device("TopK", inputs, outputs, attributes, opset=11, constants=[1])
    for got, want in zip(found, expected, strict=True):
        assert got is None or got.tobytes() == want.tobytes()


def coarse(shape: tuple[int, ...], dtype: Any = np.float32) -> Array:
    """Return values many of which are equal."""
    return np.random.default_rng(0).integers(0, 40, shape).astype(dtype)


@pytest.mark.parametrize("largest", [0, 1])
@pytest.mark.parametrize(("n", "k"), [(1, 1), (2, 1), (7, 7), (8, 3), (33, 5), (128, 64), (520, 100)])
def test_rows(n: int, k: int, largest: int) -> None:
    check(coarse((5, n)), k, largest=largest)


@pytest.mark.parametrize(("shape", "axis"), [((2, 17, 3), 1), ((40, 5), 0), ((3, 2, 2, 2), -3), ((9,), 0)])
def test_axes(shape: tuple[int, ...], axis: int) -> None:
    check(coarse(shape), 2, axis)


@pytest.mark.parametrize(
    "name",
    ["float16", "bfloat16", "float64", *(f"{u}int{bits}" for u in ("", "u") for bits in (8, 16, 32, 64))],
)
def test_types(name: str) -> None:
    dtype = np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name)
    rng = np.random.default_rng(3)
    if dtype.kind in "iu":
        info = np.iinfo(dtype)
        x = rng.integers(info.min, info.max, (3, 21), dtype, endpoint=True)
        x[0, :3] = info.min, info.max, info.min
    else:
        x = rng.standard_normal((3, 21)).astype(dtype)
    check(x, 8)


@pytest.mark.parametrize("name", ["float32", "float16"])
@pytest.mark.parametrize("largest", [0, 1])
def test_special_values(name: str, largest: int) -> None:
    inf, nan = np.inf, np.nan
    x = np.array([[0.0, -0.0, nan, -inf, inf, -nan, 1, -1, 0.0, nan, -0.0, 1e-7, -1e-7]], name)
    check(x, x.size, largest=largest)


@pytest.mark.parametrize("wanted", [(True, True), (False, True), (True, False)])
def test_long_rows_in_pieces(wanted: tuple[bool, bool]) -> None:
    check(coarse((1, 4100)), 7, wanted=wanted)


def test_long_columns_in_pieces() -> None:
    check(coarse((4200, 2)), 3, axis=0)


def test_pieces_of_pieces() -> None:
    check(coarse((1, 8200)), 2000)


def test_whole_rows_are_merged() -> None:
    x = coarse((2, 8500))
    x[0, 5:8] = np.nan
    check(x, 5000)
    check(np.ascontiguousarray(x[:1].T), 8500, axis=0, largest=0)


def test_nothing() -> None:
    check(coarse((2, 5)), 0)
    check(coarse((0, 5)), 2)


@pytest.mark.parametrize("opset", [1, 10])
def test_old_versions(opset: int) -> None:
    x = coarse((3, 6))
    inputs = [x] if opset == 1 else [x, np.array([2])]
    attributes = {"k": 2} if opset == 1 else {}
    expected = reference("TopK", inputs, attributes, opset)
    outputs = [(y.shape, y.dtype) for y in expected]
    found = run_on_device("TopK", inputs, outputs, attributes, opset=opset, constants=[1])
    for got, want in zip(found, expected, strict=True):
        np.testing.assert_array_equal(got, want)


def test_refusals() -> None:
    x, k = coarse((2, 3)), np.array([4])
    outputs = [((2, 4), x.dtype), ((2, 4), np.int64)]
    with pytest.raises(Unsupported, match="not constant"):
        run_on_device("TopK", [x, k], outputs, opset=11)
    with pytest.raises(Unsupported, match="out of range"):
        run_on_device("TopK", [x, k], outputs, opset=11, constants=[1])
