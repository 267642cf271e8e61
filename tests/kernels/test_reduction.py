"""Reductions, arg-extremes and cumulative operators, against direct definitions in Python."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from helpers import run_op
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from onnxref import registry
from onnxref.errors import KernelError

BF16 = np.dtype(ml_dtypes.bfloat16)
INF, NAN = math.inf, math.nan

# What each operator makes of the values of one group, in exact or double arithmetic.
DEFINITIONS: dict[str, Callable[[list[float]], float]] = {
    "ReduceL1": lambda v: math.fsum(abs(x) for x in v),
    "ReduceL2": lambda v: math.sqrt(math.fsum(x * x for x in v)),
    "ReduceLogSum": lambda v: math.log(math.fsum(v)),
    "ReduceLogSumExp": lambda v: math.log(math.fsum(math.exp(x) for x in v)),
    "ReduceMax": max,
    "ReduceMean": lambda v: math.fsum(v) / len(v),
    "ReduceMin": min,
    "ReduceProd": math.prod,
    "ReduceSum": math.fsum,
    "ReduceSumSquare": lambda v: math.fsum(x * x for x in v),
}
FLOATS = (np.float32, np.float64, np.float16)
INTEGERS = (np.int32, np.int64, np.uint32, np.uint64)
LAST_WITH_ATTRIBUTE = {name: 11 if name == "ReduceSum" else 13 for name in DEFINITIONS}
TOLERANCE = {np.dtype(np.float16): 1e-3, BF16: 8e-3, np.dtype(np.float32): 1e-6, np.dtype(np.float64): 1e-14}


def reduce(name: str, data: Any, axes: Any, opset: int, keepdims: int = 1) -> Any:
    """Call a reduction with its axes as an attribute or an input, whichever the version has."""
    if opset <= LAST_WITH_ATTRIBUTE[name]:
        attributes = {} if axes is None else {"axes": tuple(axes)}
        return run_op(name, data, opset=opset, keepdims=keepdims, **attributes)
    return run_op(
        name, data, None if axes is None else np.array(axes, np.int64), opset=opset, keepdims=keepdims
    )


def by_definition(name: str, data: Any, axes: tuple[int, ...], keepdims: int) -> Any:
    kept = [i for i in range(data.ndim) if i not in axes]
    rows = data.transpose(*kept, *axes).reshape(math.prod(data.shape[i] for i in kept), -1)
    values = np.array([DEFINITIONS[name]([float(x) for x in row]) for row in rows])
    shape = [1 if i in axes else d for i, d in enumerate(data.shape) if keepdims or i not in axes]
    return values.reshape(shape)


def versions_and_types() -> list[Any]:
    rows = []
    for name in DEFINITIONS:
        first = (1, 11, 13, 18)
        for opset in (*first, 20, 28):
            types = [*FLOATS, *INTEGERS]
            if opset >= 13:
                types.append(BF16)
            if name in ("ReduceMax", "ReduceMin") and opset >= 13:
                types += [np.int8, np.uint8]
            if name in ("ReduceLogSum", "ReduceLogSumExp") and opset == 28:
                types = [*FLOATS, BF16]
            rows += [
                pytest.param(name, opset, np.dtype(t), id=f"{name}-{opset}-{np.dtype(t)}") for t in types
            ]
    return rows


@pytest.mark.parametrize(("name", "opset", "dtype"), versions_and_types())
def test_every_version_and_type(name: str, opset: int, dtype: Any) -> None:
    data = (1 + np.arange(12).reshape(2, 3, 2) % 5).astype(dtype)
    for axes, keepdims in itertools.product(((1,), (0, 2)), (0, 1)):
        got = reduce(name, data, axes, opset, keepdims)
        want = by_definition(name, data, axes, keepdims)
        assert got.dtype == dtype
        if dtype.kind in "iu":
            np.testing.assert_array_equal(got, np.trunc(want).astype(dtype))
        else:
            np.testing.assert_allclose(got.astype(float), want, rtol=TOLERANCE[dtype])


@settings(max_examples=50, deadline=None)
@given(st.data(), st.sampled_from(sorted(DEFINITIONS)), st.integers(0, 1))
def test_any_axes(data: st.DataObject, name: str, keepdims: int) -> None:
    shape = data.draw(hnp.array_shapes(min_dims=1, max_dims=4, max_side=4))
    x = data.draw(hnp.arrays(np.float64, shape, elements=st.floats(0.5, 4)))
    axes = data.draw(st.lists(st.integers(0, len(shape) - 1), unique=True))
    signed = tuple(a - len(shape) if data.draw(st.booleans()) else a for a in axes)
    want = by_definition(name, x, tuple(axes) or tuple(range(len(shape))), keepdims)
    np.testing.assert_allclose(reduce(name, x, signed, 18, keepdims), want, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(reduce(name, x, signed, 11, keepdims), want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", sorted(DEFINITIONS))
def test_scalar(name: str) -> None:
    data = np.array(2.5, np.float32)
    for axes in (None, ()):
        got = reduce(name, data, axes, 18)
        assert got.shape == ()
        np.testing.assert_allclose(got, DEFINITIONS[name]([2.5]), rtol=1e-6)


EMPTY = {
    "ReduceL1": 0,
    "ReduceL2": 0,
    "ReduceLogSum": -INF,
    "ReduceLogSumExp": -INF,
    "ReduceMax": -INF,
    "ReduceMean": NAN,
    "ReduceMin": INF,
    "ReduceProd": 1,
    "ReduceSum": 0,
    "ReduceSumSquare": 0,
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, BF16])
@pytest.mark.parametrize(("name", "identity"), EMPTY.items())
def test_empty_set(name: str, identity: float, dtype: Any) -> None:
    data = np.zeros((2, 0, 3), dtype)
    for keepdims, shape in ((1, (2, 1, 3)), (0, (2, 3))):
        got = reduce(name, data, (1,), 18, keepdims)
        assert (got.shape, got.dtype) == (shape, np.dtype(dtype))
        np.testing.assert_array_equal(got.astype(float), np.full(shape, identity))
    assert reduce(name, data, (0,), 18).shape == (1, 0, 3)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32, np.int64, np.uint32, np.uint64])
def test_empty_set_of_integers(dtype: Any) -> None:
    data, info = np.zeros((0, 2), dtype), np.iinfo(dtype)
    assert reduce("ReduceMax", data, (0,), 18).tolist() == [[info.min] * 2]
    assert reduce("ReduceMin", data, (0,), 18).tolist() == [[info.max] * 2]


def test_bool() -> None:
    data = np.array([[True, False], [False, False], [True, True]])
    assert reduce("ReduceMax", data, (1,), 20, 0).tolist() == [True, False, True]
    assert reduce("ReduceMin", data, (1,), 20, 0).tolist() == [False, False, True]
    assert reduce("ReduceMax", data[:0], (0,), 20, 0).tolist() == [False, False]
    assert reduce("ReduceMin", data[:0], (0,), 20, 0).tolist() == [True, True]


# What is left of an operator where there is nothing to reduce over.
NOOP: dict[str, Callable[[Any], Any]] = {
    "ReduceL1": np.abs,
    "ReduceL2": np.abs,
    "ReduceLogSum": np.log,
    "ReduceLogSumExp": lambda x: x,
    "ReduceMax": lambda x: x,
    "ReduceMean": lambda x: x,
    "ReduceMin": lambda x: x,
    "ReduceProd": lambda x: x,
    "ReduceSum": lambda x: x,
    "ReduceSumSquare": np.square,
}


@pytest.mark.parametrize("name", sorted(NOOP))
def test_noop_with_empty_axes(name: str) -> None:
    data = np.array([[1.5, 2], [3, 0.25]], np.float32)
    for axes in (None, np.zeros(0, np.int64)):
        for keepdims in (0, 1):
            attributes = {"keepdims": keepdims, "noop_with_empty_axes": 1}
            got = run_op(name, data, axes, opset=18, **attributes)
            np.testing.assert_allclose(got, NOOP[name](data), rtol=1e-6)
    # Axes that are given are reduced nevertheless.
    assert run_op(name, data, np.array([0]), opset=18, noop_with_empty_axes=1).shape == (1, 2)


def test_empty_axes_attribute_means_all() -> None:
    assert run_op("ReduceSum", np.ones((2, 3), np.float32), opset=11, axes=()).tolist() == [[6]]


def test_integers_wrap() -> None:
    data = np.array([2**31 - 1, 1], np.int32)
    assert reduce("ReduceSum", data, None, 13, 0) == -(2**31)
    assert reduce("ReduceProd", np.array([2**16, 2**16 + 1], np.uint32), None, 18, 0) == 2**16
    assert reduce("ReduceSumSquare", np.array([2**16, 3], np.int32), None, 18, 0) == 9
    assert reduce("ReduceL1", np.array([-(2**31)], np.int32), None, 18, 0) == -(2**31)


@pytest.mark.parametrize(
    ("values", "dtype", "want"),
    [
        ([7, 8, 8], np.int32, 7),
        ([-7, -8, -8], np.int32, -7),  # toward zero
        ([2**31 - 1] * 3, np.int32, 2**31 - 1),  # the sum does not wrap
        ([2**32 - 1, 2**32 - 3], np.uint32, 2**32 - 2),
        ([-(2**62), 0], np.int64, -(2**61)),
        ([2**63, 2**62], np.uint64, 2**62 + 2**61),
        ([], np.int64, 0),
    ],
)
def test_integer_mean(values: list[int], dtype: Any, want: int) -> None:
    got = reduce("ReduceMean", np.array(values, dtype), None, 18, 0)
    assert (got, got.dtype) == (want, np.dtype(dtype))


def test_integer_logarithm_saturates() -> None:
    assert reduce("ReduceLogSum", np.array([-1, 1], np.int32), None, 13, 0) == -(2**31)  # log 0
    assert reduce("ReduceLogSum", np.array([-2, 1], np.int32), None, 13, 0) == 0  # log -1
    assert reduce("ReduceLogSumExp", np.array([2**40], np.int64), None, 13, 0) == 2**40


@pytest.mark.parametrize(
    ("values", "want"),
    [
        ([1000.0, 1000.0], 1000 + math.log(2)),
        ([-1000.0, -1000.0], -1000 + math.log(2)),
        ([INF, 0.0], INF),
        ([INF, -INF], INF),
        ([-INF, -INF], -INF),
        ([-INF, 3.0], 3),
        ([NAN, INF], NAN),
        ([-20.0, -20.0, math.log(1 - 2 * math.exp(-20))], 0),  # needs more than float32
    ],
)
def test_log_sum_exp_is_stable(values: list[float], want: float) -> None:
    got = reduce("ReduceLogSumExp", np.array(values), None, 18, 0)
    np.testing.assert_allclose(got, want, rtol=1e-14, atol=1e-15)
    assert reduce("ReduceLogSumExp", np.array(values, np.float32), None, 18, 0).dtype == np.float32


@pytest.mark.parametrize("dtype", [np.float16, BF16])
def test_low_precision_accumulates_in_float32(dtype: Any) -> None:
    data = np.full(4096, 1, dtype)  # bfloat16 itself stops counting at 256, float16 at 2048
    assert reduce("ReduceSum", data, None, 13, 0) == 4096
    assert reduce("ReduceMean", data, None, 18, 0) == 1
    assert reduce("ReduceL2", np.full(4, 300, dtype), None, 18, 0) == 600  # 300**2 overflows float16
    ones = run_op("CumSum", data, np.array(0), opset=14)
    assert ones[-1] == 4096


def test_nan_propagates() -> None:
    data = np.array([[NAN, 1], [2, 3]], np.float32)
    for name in ("ReduceMax", "ReduceMin"):
        for dtype in (np.float32, np.float16, BF16):
            got = reduce(name, data.astype(dtype), (0,), 18, 0).astype(float)
            assert math.isnan(got[0])
            assert not math.isnan(got[1])


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ([2], r"axes must be in \[-2, 1\] for rank 2 \(got 2\)"),
        ([-3], r"axes must be in \[-2, 1\] for rank 2 \(got -3\)"),
        ([0, -2], r"axes must not repeat \(got \(0, 0\)\)"),
        ([[0]], r"axes must be 1-D \(got shape \(1, 1\)\)"),
    ],
)
def test_bad_axes(axes: Any, message: str) -> None:
    with pytest.raises(KernelError, match=message):
        run_op("ReduceSum", np.ones((2, 2), np.float32), np.array(axes), opset=13)


def test_cost_sees_outputs_larger_than_inputs() -> None:
    operator = registry.find("", "ReduceSum", 13)
    assert operator.cost is not None
    huge = np.zeros((0, 10**12), np.float32)
    assert operator.cost(huge, np.array([0])).out_bytes == 4 * 10**12
    assert operator.cost(huge, None, noop_with_empty_axes=1).out_bytes == 0


# ArgMax and ArgMin

ARG_TYPES = [np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32, np.uint64, *FLOATS, BF16]


@pytest.mark.parametrize("dtype", ARG_TYPES)
@pytest.mark.parametrize("opset", [1, 11, 12, 13])
def test_arg_every_version_and_type(opset: int, dtype: Any) -> None:
    data = np.array([[1, 5, 5], [2, 0, 0]]).astype(dtype)
    for name, axis, want in (("ArgMax", 1, [1, 0]), ("ArgMin", -1, [0, 1]), ("ArgMax", 0, [1, 0, 0])):
        got = run_op(name, data, opset=opset, axis=axis, keepdims=0)
        assert (got.tolist(), got.dtype) == (want, np.int64)
    assert run_op("ArgMax", data, opset=opset).shape == (1, 3)


@settings(max_examples=50, deadline=None)
@given(st.data(), st.sampled_from(["ArgMax", "ArgMin"]), st.booleans())
def test_arg_extreme_is_first_or_last(data: st.DataObject, name: str, last: bool) -> None:
    x = data.draw(hnp.arrays(np.int32, hnp.array_shapes(max_dims=3), elements=st.integers(-2, 2)))
    axis = data.draw(st.integers(-x.ndim, x.ndim - 1))
    got = run_op(name, x, opset=13, axis=axis, keepdims=1, select_last_index=int(last))
    extreme = (x.max if name == "ArgMax" else x.min)(axis=axis, keepdims=True)
    np.testing.assert_array_equal(np.take_along_axis(x, got, axis), extreme)
    index = np.arange(x.shape[axis]).reshape([-1 if i == axis % x.ndim else 1 for i in range(x.ndim)])
    outside = index > got if last else index < got
    assert not ((x == extreme) & outside).any()


def test_arg_extreme_of_nan() -> None:
    data = np.array([1, NAN, 3, NAN], np.float32)
    assert run_op("ArgMax", data, opset=13, keepdims=0) == 1
    assert run_op("ArgMin", data, opset=13, keepdims=0, select_last_index=1) == 3


@pytest.mark.parametrize(
    ("shape", "axis", "message"),
    [
        ((2, 0), 1, r"data must have elements along axis 1 \(got shape \(2, 0\)\)"),
        ((2, 2), 2, r"axis must be in \[-2, 1\] for rank 2 \(got 2\)"),
    ],
)
def test_arg_errors(shape: tuple[int, ...], axis: int, message: str) -> None:
    with pytest.raises(KernelError, match=message):
        run_op("ArgMax", np.zeros(shape, np.float32), opset=13, axis=axis)


# CumSum and CumProd


@pytest.mark.parametrize(
    ("exclusive", "reverse", "sums", "products"),
    [
        (0, 0, [1, 3, 6], [1, 2, 6]),
        (1, 0, [0, 1, 3], [1, 1, 2]),
        (0, 1, [6, 5, 3], [6, 6, 3]),
        (1, 1, [5, 3, 0], [6, 3, 1]),
    ],
)
@pytest.mark.parametrize("dtype", [*INTEGERS, *FLOATS, BF16])
def test_cumulative_every_type(
    dtype: Any, exclusive: int, reverse: int, sums: list[int], products: list[int]
) -> None:
    x = np.array([1, 2, 3]).astype(dtype)
    flags = {"exclusive": exclusive, "reverse": reverse}
    for name, opset, axis, want in (
        ("CumSum", 11, np.array(0, np.int32), sums),
        ("CumSum", 14, np.array([-1], np.int64), sums),
        ("CumProd", 26, np.array(0, np.int64), products),
    ):
        got = run_op(name, x, axis, opset=opset, **flags)
        assert (got.tolist(), got.dtype) == (want, x.dtype)


@settings(max_examples=50, deadline=None)
@given(st.data(), st.booleans(), st.booleans())
def test_cumulative_sum_by_definition(data: st.DataObject, exclusive: bool, reverse: bool) -> None:
    x = data.draw(hnp.arrays(np.int64, hnp.array_shapes(max_dims=3, min_side=0, max_side=4)))
    axis = data.draw(st.integers(-x.ndim, x.ndim - 1))
    n = x.shape[axis]
    part_of_sum = np.array(  # [i, j]: whether input j is a part of output i
        [[(j > i if reverse else j < i) or (j == i and not exclusive) for j in range(n)] for i in range(n)],
        bool,
    ).reshape(n, n)
    want = np.moveaxis(np.tensordot(part_of_sum.astype(np.int64), x, (1, axis)), 0, axis)
    got = run_op("CumSum", x, np.array(axis), opset=14, exclusive=int(exclusive), reverse=int(reverse))
    np.testing.assert_array_equal(got, want)


def test_cumulative_integers_wrap() -> None:
    got = run_op("CumProd", np.array([2**31, 3], np.uint32), np.array(0), opset=26)
    assert got.tolist() == [2**31, 2**31]


@pytest.mark.parametrize(
    ("x", "axis", "message"),
    [
        (np.ones(3), np.array([0, 0]), r"axis must have one element \(got shape \(2,\)\)"),
        (np.ones(3), np.array(1), r"axis must be in \[-1, 0\] for rank 1 \(got 1\)"),
    ],
)
def test_cumulative_errors(x: Any, axis: Any, message: str) -> None:
    with pytest.raises(KernelError, match=message):
        run_op("CumSum", x, axis, opset=14)
