"""Softmax, LogSoftmax and Hardmax on the emulator, held to the reference."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnxref.kernels.cupy.softmax  # noqa: F401
import pytest

from onnxref.dtypes import Array
from onnxref.lowering import Unsupported
from tests.lowered import reference

from .lowered import run_on_device


def dtype_of(name: str) -> Any:
    return np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name)


def normal(shape: tuple[int, ...], name: str = "float32") -> Array:
    return (np.random.default_rng(0).standard_normal(shape) * 4).astype(dtype_of(name))


def check(op_type: str, x: Array, axis: int, opset: int = 13) -> None:
    (expected,) = reference(op_type, [x.astype(np.float64)], {"axis": axis}, opset)
    (found,) = run_on_device(op_type, [x], [(x.shape, x.dtype)], {"axis": axis}, opset=opset)
    assert found is not None
    if op_type == "Hardmax":
        np.testing.assert_array_equal(found.astype(np.float64), expected)
        return
    eps = float(ml_dtypes.finfo(x.dtype).eps)
    largest = float(np.nanmax(np.abs(np.where(np.isinf(expected), 0, expected)), initial=0.0))
    np.testing.assert_allclose(found.astype(np.float64), expected, rtol=4 * eps, atol=4 * eps * largest)


@pytest.mark.parametrize("name", ["float32", "float64", "float16", "bfloat16"])
@pytest.mark.parametrize(("shape", "axis"), [((3, 1000), -1), ((2, 7, 5), 1), ((1, 33), 0), ((4, 1), 1)])
@pytest.mark.parametrize("op_type", ["Softmax", "LogSoftmax"])
def test_rows(op_type: str, shape: tuple[int, ...], axis: int, name: str) -> None:
    check(op_type, normal(shape, name), axis)


@pytest.mark.parametrize("n", [2, 4, 8, 12, 31, 64, 65, 128, 256, 260, 516, 2052, 4100])
def test_row_lengths(n: int) -> None:
    check("Softmax", normal((3, n)), 1)


def test_many_rows_take_a_warp_each() -> None:
    check("Softmax", normal((132 * 16, 320)), 1)


@pytest.mark.parametrize("op_type", ["Softmax", "LogSoftmax"])
def test_rows_that_no_block_holds(op_type: str) -> None:
    x = normal((2, 32772))
    x[1, :20000] = -np.inf
    check(op_type, x, 1)


@pytest.mark.parametrize("shape", [(2, 64, 40), (1, 33, 6), (40, 3, 2), (1, 2, 300)])
@pytest.mark.parametrize("op_type", ["Softmax", "LogSoftmax", "Hardmax"])
def test_columns(op_type: str, shape: tuple[int, ...]) -> None:
    check(op_type, normal(shape), 1)


@pytest.mark.parametrize("op_type", ["Softmax", "LogSoftmax", "Hardmax"])
def test_special_values(op_type: str) -> None:
    inf, nan = np.inf, np.nan
    rows = [[1, nan, 2, 0], [inf, 1, 2, 0], [-inf, 1, 2, -inf], [-inf] * 4, [nan] * 4, [inf, -inf, nan, 1]]
    rows += [[-1e38, 1e38, 0, 0], [0.0, -0.0, 0.0, 0.0]]
    x = np.array(rows, np.float32)
    check(op_type, x, 1)
    check(op_type, np.ascontiguousarray(x.T), 0)
    if op_type != "Hardmax":
        long = np.zeros((len(rows), 32772), np.float32)
        long[:] = np.tile(x, (1, 8193))
        check(op_type, long[:6], 1)


@pytest.mark.parametrize("op_type", ["Softmax", "LogSoftmax", "Hardmax"])
def test_as_a_matrix(op_type: str) -> None:
    check(op_type, normal((3, 4, 5)), 1, opset=11)
    check(op_type, normal((3, 4, 5)), -1, opset=1)


@pytest.mark.parametrize("name", ["float64", "float16", "bfloat16"])
@pytest.mark.parametrize("shape", [(3, 16), (3, 17), (20,)])
def test_hardmax_types(shape: tuple[int, ...], name: str) -> None:
    check("Hardmax", normal(shape, name), -1)


def test_empty() -> None:
    check("Softmax", np.zeros((0, 3), np.float32), 1)
    check("Hardmax", np.zeros((2, 0), np.float32), 1)


def test_refusals() -> None:
    with pytest.raises(Unsupported, match="axis"):
        run_on_device("Softmax", [normal((2, 3))], [((2, 3), np.float32)], {"axis": 2}, opset=13)
    with pytest.raises(Unsupported, match="softmax of"):
        run_on_device("Softmax", [normal((2, 3))], [((2, 3), np.float32)], channels_last=[0])
