"""Reductions, arg-extremes and scans in native code against the reference kernels."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import ml_dtypes
import numpy as np
import onnxref.kernels.numba.reduction  # noqa: F401 - registers the lowerings
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lowered import check_lowered, run_lowered

from onnxref.lowering import Unsupported

RNG = np.random.default_rng(5)
OPS = (
    *("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax"),
    *("ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare"),
)
TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}
HALF = {"float16": {"rtol": 2e-3, "atol": 2e-3}, "bfloat16": {"rtol": 1e-2, "atol": 1e-2}}
NARROW = {"float16": np.dtype(np.float16), "bfloat16": np.dtype(ml_dtypes.bfloat16)}


def real(*shape: int, dtype: Any = "float32") -> np.ndarray[Any, Any]:
    return RNG.standard_normal(shape).astype(dtype)


def check(op_type: str, x: Any, axes: tuple[int, ...], **options: Any) -> None:
    check_lowered(op_type, [x], {"axes": axes}, opset=11, **options)


# --- axes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("axes", [c for k in range(1, 5) for c in combinations(range(4), k)])
def test_any_axes(axes: tuple[int, ...]) -> None:
    x = abs(real(3, 5, 4, 7)) + np.float32(0.1)
    every = axes in ((3,), (1,))
    for op_type in OPS if every else ("ReduceL2", "ReduceMax", "ReduceMean"):
        if op_type != "ReduceLogSumExp" or axes == (3,):
            check(op_type, x, axes, **TOLERANCE)


def test_axes_of_size_1_and_no_axes() -> None:
    x = real(2, 1, 3, 1)
    for axes in ((1,), (1, 3), (0, 1), (-1, -3)):
        for op_type in ("ReduceMax", "ReduceMean", "ReduceL2"):
            check(op_type, x, axes, **TOLERANCE)
    for op_type in ("ReduceSum", "ReduceSumSquare", "ReduceL1"):
        check_lowered(op_type, [x, None], {"noop_with_empty_axes": 1}, **TOLERANCE)
        check_lowered(op_type, [x, None], {"keepdims": 0}, **TOLERANCE)


@pytest.mark.parametrize("keepdims", [0, 1])
def test_axes_that_are_an_input(keepdims: int) -> None:
    x = real(3, 4, 5)
    for op_type in ("ReduceSum", "ReduceMax"):
        inputs = [x, np.array([-1, 0])]
        check_lowered(op_type, inputs, {"keepdims": keepdims}, constants=(1,), **TOLERANCE)
        with pytest.raises(Unsupported):
            check_lowered(op_type, inputs)


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0, 0)])
@pytest.mark.parametrize("axes", [(0,), (1,), (0, 1)])
def test_nothing_to_reduce(shape: tuple[int, ...], axes: tuple[int, ...]) -> None:
    for op_type in OPS:
        check(op_type, real(*shape), axes)
    for op_type in ("ReduceMean", "ReduceMax", "ReduceL2"):
        check(op_type, real(*shape).astype(np.int32), axes)


# --- sizes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 15, 16, 17, 49, 63, 65, 130, 4095, 4096, 4097, 9000])
def test_rows_of_any_length(n: int) -> None:
    x = real(3, n)
    for op_type in ("ReduceSum", "ReduceMax", "ReduceMin", "ReduceL1", "ReduceL2", "ReduceLogSumExp"):
        check(op_type, x, (1,), rtol=1e-5, atol=2e-4, parallel=n % 2 == 0)


@pytest.mark.parametrize("parallel", [False, True])
@pytest.mark.parametrize(
    ("shape", "axes"),
    [
        ((200_001,), (0,)),
        ((3001, 70), (0,)),
        ((2, 100_000), (1,)),
        ((40, 60, 70), (0, 2)),
        ((5, 9, 700), (1,)),
    ],
)
def test_large_reductions_are_cut(parallel: bool, shape: tuple[int, ...], axes: tuple[int, ...]) -> None:
    x = real(*shape)
    x.flat[12345] = 9
    check("ReduceMax", x, axes, parallel=parallel)
    expected = x.astype(np.float64).sum(axes, keepdims=True)
    magnitude = abs(x).sum(axes, dtype=np.float64, keepdims=True)
    like = [(expected.shape, np.float32)]
    serial = run_lowered("ReduceSum", [x], like, {"axes": axes}, opset=11)[0]
    found = run_lowered("ReduceSum", [x], like, {"axes": axes}, opset=11, parallel=parallel)[0]
    assert (abs(found - expected) <= 2e-6 * magnitude).all()
    np.testing.assert_array_equal(found, serial)  # the same bits on any number of threads


# --- types and special values ----------------------------------------------------------------------


@pytest.mark.parametrize("axes", [(1,), (0, 2)])
def test_double(axes: tuple[int, ...]) -> None:
    for op_type in ("ReduceMean", "ReduceMax", "ReduceL2"):
        check(op_type, real(6, 70, 9, dtype="float64"), axes, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("dtype", ["int8", "int32", "uint64"])
def test_integers_wrap(dtype: str) -> None:
    info = np.iinfo(dtype)
    x = RNG.integers(info.min, info.max, (5, 40), dtype=dtype, endpoint=True)
    x[0] = info.max
    for axes in ((1,), (0,)):
        for op_type in ("ReduceSum", "ReduceMean", "ReduceMax"):
            check(op_type, x, axes)
    if dtype == "int32":
        for op_type in ("ReduceProd", "ReduceL1", "ReduceSumSquare", "ReduceL2", "ReduceLogSum"):
            check(op_type, x, (1,))


def test_bool() -> None:
    x = RNG.random((4, 30)) < 0.1
    for axis in (0, 1):
        for op_type in ("ReduceMax", "ReduceMin"):
            check_lowered(op_type, [x, np.array([axis])], constants=(1,))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_low_precision(dtype: str) -> None:
    x = real(5, 300).astype(NARROW[dtype])
    wide = x.astype(np.float64)
    for op_type, reduce in (("ReduceL1", lambda *a, **k: abs(a[0]).sum(**k)), ("ReduceMean", np.mean)):
        for axis in (0, 1):
            like = [((1, 300) if axis == 0 else (5, 1), x.dtype)]
            (y,) = run_lowered(op_type, [x], like, {"axes": (axis,)}, opset=13)
            assert y is not None
            expected = reduce(wide, axis=axis, keepdims=True)
            np.testing.assert_allclose(y.astype(np.float64), expected, **HALF[dtype])
    (y,) = run_lowered("ReduceMax", [x], [((1, 300), x.dtype)], {"axes": (0,)}, opset=13)
    np.testing.assert_array_equal(y, x.max(0, keepdims=True))


def test_special_values() -> None:
    x = real(8, 50)
    x[0, 3], x[1, 4], x[2, 5], x[3] = np.nan, np.inf, -np.inf, -np.inf
    x[4, 1], x[4, 2] = np.inf, -np.inf
    x[5, 49], x[6, 0] = np.nan, np.nan
    for axis, array in ((1, x), (0, np.ascontiguousarray(x.T))):
        for op_type in ("ReduceMax", "ReduceMin", "ReduceSum", "ReduceL2"):
            check(op_type, array, (axis,), **TOLERANCE)
    check("ReduceLogSumExp", x, (1,), **TOLERANCE)
    check("ReduceLogSumExp", x * np.float32(1e30), (1,), **TOLERANCE)


# --- arg-extremes ----------------------------------------------------------------------------------


@pytest.mark.parametrize("last", [0, 1])
@pytest.mark.parametrize("op_type", ["ArgMax", "ArgMin"])
@pytest.mark.parametrize("dtype", ["float32", "int32"])
def test_arg_extremes(op_type: str, last: int, dtype: str) -> None:
    x = RNG.integers(0, 9, (3, 37, 300)).astype(dtype)  # with many equal ones
    for axis in (0, 1, -1):
        check_lowered(op_type, [x], {"axis": axis, "select_last_index": last}, parallel=True)
    check_lowered(op_type, [x], {"keepdims": 0}, opset=11)


@pytest.mark.parametrize("last", [0, 1])
@pytest.mark.parametrize("op_type", ["ArgMax", "ArgMin"])
def test_arg_extremes_of_special_values(op_type: str, last: int) -> None:
    x = real(6, 20)
    x[0, [3, 7]], x[1], x[2], x[3], x[4, 0] = np.nan, np.nan, np.inf, -np.inf, np.nan
    attributes = {"select_last_index": last}
    check_lowered(op_type, [x], {"axis": 1, **attributes})
    check_lowered(op_type, [np.ascontiguousarray(x.T)], {"axis": 0, **attributes})
    check_lowered(op_type, [real(0, 3)], {"axis": 1, **attributes})
    with pytest.raises(Unsupported):
        run_lowered(op_type, [real(0, 3)], [((1, 3), np.int64)], {"axis": 0})


# --- scans -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("exclusive", [0, 1])
@pytest.mark.parametrize("reverse", [0, 1])
@pytest.mark.parametrize("op_type", ["CumSum", "CumProd"])
def test_scans_are_exact(op_type: str, exclusive: int, reverse: int) -> None:
    attributes = {"exclusive": exclusive, "reverse": reverse}
    opset = 14 if op_type == "CumSum" else 26
    x = real(3, 5, 300)
    for axis in (0, 1, -1):
        inputs = [x, np.array(axis)]
        check_lowered(op_type, inputs, attributes, constants=(1,), opset=opset, parallel=True)
    x[1, 2, 3] = np.inf
    check_lowered(op_type, [x, np.array([0])], attributes, constants=(1,), opset=opset)


def test_scans_of_other_types() -> None:
    for dtype in ("int32", "float64", "float16"):
        x = RNG.integers(-9, 9, (4, 70)).astype(dtype)
        for axis in (0, 1):
            check_lowered("CumSum", [x, np.array(axis)], constants=(1,))
    check_lowered("CumSum", [real(3, 0), np.array(0)], constants=(1,))


@given(st.lists(st.integers(1, 6), min_size=1, max_size=5), st.data())
@settings(max_examples=60, deadline=None)
def test_integer_sums_of_any_shape(shape: list[int], data: st.DataObject) -> None:
    x = np.arange(np.prod(shape), dtype=np.int32).reshape(shape)
    axes = data.draw(st.sets(st.integers(-len(shape), -1), min_size=1))
    check("ReduceSum", x, tuple(axes))
