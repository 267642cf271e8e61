"""Slices, the gather and scatter families, Compress: kernels/numpy/indexing.py."""

from __future__ import annotations

import math
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from helpers import run_op, versions
from hypothesis import given, settings
from hypothesis import strategies as st
from moving import check_moving, cost_of

from onnxref.errors import KernelError

IDS = np.random.default_rng(0).integers(0, 2, (2, 3, 4), dtype=np.uint8)


def i64(*values: int) -> np.ndarray[Any, Any]:
    return np.array(values, np.int64)


def draw_indices(data: Any, shape: Any, low: int, high: int) -> np.ndarray[Any, Any]:
    count = math.prod(shape)
    values = data.draw(st.lists(st.integers(low, high), min_size=count, max_size=count))
    return np.array(values, np.int64).reshape(shape)


# operator, versions, inputs, attributes
MOVES: list[tuple[str, tuple[int, ...], list[Any], dict[str, Any]]] = [
    ("Slice", (1,), [IDS], {"starts": (0, -3), "ends": (1, 9), "axes": (1, 2)}),
    ("Slice", (10, 11, 13), [IDS, i64(-1), i64(-9), i64(2), i64(-2)], {}),
    ("ReverseSequence", (10, 28), [IDS, i64(1, 2, 0)], {}),
    ("Gather", (1, 11, 13), [IDS, i64(2, 0, 2, 1)], {"axis": 1}),
    ("GatherElements", (11, 13), [IDS, np.ones((2, 1, 3), np.int32)], {"axis": 2}),
    ("GatherND", (11, 12, 13), [IDS, np.array([[1, 2], [0, -1]])], {}),
    ("Scatter", (9, 11), [IDS, np.ones((1, 2, 3), np.int64), IDS[1:, 1:, 1:]], {"axis": 1}),
    ("ScatterElements", (11, 13, 16, 18), [IDS, np.ones((1, 2, 3), np.int64), IDS[1:, 1:, 1:]], {"axis": 1}),
    ("ScatterND", (11, 13, 16, 18), [IDS, np.array([[1], [0]]), IDS[:, ::-1]], {}),
    ("TensorScatter", (24,), [IDS, IDS[:, 1:], i64(2, 1)], {"mode": "circular"}),
    ("Compress", (9, 11, 28), [IDS, np.array([True, False, True])], {"axis": 2}),
    ("Compress", (9, 11, 28), [IDS, np.array([True, False, True])], {}),
]


@pytest.mark.parametrize(("op_type", "since", "inputs", "attributes"), MOVES)
def test_every_element_type_moves_alike(
    op_type: str, since: tuple[int, ...], inputs: list[Any], attributes: dict[str, Any]
) -> None:
    assert list(since) == versions(op_type) or op_type == "Slice"
    for version in since:
        check_moving(op_type, version, inputs, **attributes)


# --- Slice and ReverseSequence -------------------------------------------------------------------

LIMITS = [-(2**63), -(2**31), -7, -3, -1, 0, 1, 2, 5, 9, 2**31 - 1, 2**63 - 1]


def slow_slice(dim: int, start: int, end: int, step: int) -> list[int]:
    """The effective values as ONNX Slice-13 words them, then one element after another."""
    start += dim if start < 0 else 0
    end += dim if end < 0 else 0
    if step > 0:
        start, end = max(0, min(start, dim)), max(0, min(end, dim))
    else:
        start, end = max(0, min(start, dim - 1)), max(-1, min(end, dim - 1))
    return list(range(start, end, step)) if dim else []


@settings(max_examples=200, deadline=None)
@given(
    st.integers(0, 5),
    st.sampled_from(LIMITS),
    st.sampled_from(LIMITS),
    st.sampled_from([v for v in LIMITS if v]),
)
def test_slice_of_one_axis(dim: int, start: int, end: int, step: int) -> None:
    x = np.arange(2 * dim).reshape(2, dim)
    out = run_op("Slice", x, i64(start), i64(end), i64(-1), i64(step), opset=13)
    np.testing.assert_array_equal(out, x[:, slow_slice(dim, start, end, step)])
    if step == 1:
        assert run_op("Slice", x, opset=1, starts=(start,), ends=(end,), axes=(1,)).tolist() == out.tolist()


def test_slice_without_axes_begins_at_the_first() -> None:
    x = np.arange(12).reshape(3, 4)
    assert run_op("Slice", x, i64(1), i64(2), opset=10).tolist() == x[1:2].tolist()
    assert run_op("Slice", x, opset=1, starts=(1, 1), ends=(2, 3)).tolist() == x[1:2, 1:3].tolist()


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 4), st.integers(0, 4), st.booleans(), st.data())
def test_reverse_sequence_against_a_loop(steps: int, batch: int, batch_first: bool, data: Any) -> None:
    lens = draw_indices(data, (batch,), 0, steps)
    x = np.arange(steps * batch * 2).reshape(steps, batch, 2)
    expected = x.copy()
    for b, n in enumerate(lens):
        expected[:n, b] = x[:n, b][::-1]
    if batch_first:
        x, expected = x.swapaxes(0, 1), expected.swapaxes(0, 1)
    axes = {"batch_axis": 0, "time_axis": 1} if batch_first else {}
    np.testing.assert_array_equal(run_op("ReverseSequence", x, lens, opset=10, **axes), expected)


# --- Gather --------------------------------------------------------------------------------------


@settings(max_examples=50, deadline=None)
@given(st.integers(-2, 1), st.lists(st.integers(0, 3), max_size=3), st.data())
def test_gather_is_numpy_take(axis: int, shape: list[int], data: Any) -> None:
    x = np.arange(12).reshape(3, 4)
    indices = draw_indices(data, shape, -x.shape[axis], x.shape[axis] - 1).astype(np.int32)
    out = run_op("Gather", x, indices, opset=13, axis=axis)
    np.testing.assert_array_equal(out, np.take(x, indices, axis), strict=True)
    assert cost_of("Gather", x, indices, opset=13, axis=axis).out_bytes == out.nbytes


@settings(max_examples=50, deadline=None)
@given(st.tuples(st.integers(0, 3), st.integers(0, 4), st.integers(0, 2)), st.integers(-3, 2), st.data())
def test_gather_elements_against_a_loop(shape: tuple[int, ...], axis: int, data: Any) -> None:
    x = np.arange(24).reshape(3, 4, 2)
    indices = draw_indices(data, shape, -x.shape[axis], x.shape[axis] - 1)
    expected = np.zeros(shape, np.int64)
    for where in np.ndindex(shape):
        source = list(where)
        source[axis] = indices[where]
        expected[where] = x[tuple(source)]
    np.testing.assert_array_equal(run_op("GatherElements", x, indices, opset=13, axis=axis), expected)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2), st.integers(0, 3), st.data())
def test_gather_nd_against_a_loop(batch_dims: int, count: int, data: Any) -> None:
    x = np.arange(16).reshape(2, 2, 2, 2)
    k = data.draw(st.integers(1, 4 - batch_dims))
    batch = x.shape[:batch_dims]
    indices = draw_indices(data, (*batch, count, k), -2, 1)
    expected = np.zeros((*batch, count, *x.shape[batch_dims + k :]), np.int64)
    for where in np.ndindex(*batch, count):
        expected[where] = x[where[:batch_dims] + tuple(indices[where])]
    out = run_op("GatherND", x, indices, opset=12, batch_dims=batch_dims)
    np.testing.assert_array_equal(out, expected, strict=True)
    assert cost_of("GatherND", x, indices, opset=12, batch_dims=batch_dims).out_bytes == out.nbytes


@pytest.mark.parametrize("shape", [(0, 3), (3, 0)])
def test_gathering_nothing_from_nothing(shape: tuple[int, int]) -> None:
    x = np.zeros(shape)
    assert run_op("Gather", x, np.zeros((2, 0), np.int64), opset=13).shape == (2, 0, shape[1])
    assert run_op("GatherElements", x, np.zeros((0, 0), np.int64), opset=13).shape == (0, 0)
    assert run_op("GatherND", x, np.zeros((0, 1), np.int64), opset=13).shape == (0, shape[1])


# --- Scatter -------------------------------------------------------------------------------------

REDUCE: dict[str, Any] = {
    "none": lambda _, y: y,
    "add": lambda x, y: x + y,
    "mul": lambda x, y: x * y,
    "max": max,
    "min": min,
}


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(REDUCE)), st.integers(-2, 1), st.data())
def test_scatter_elements_against_a_loop(reduction: str, axis: int, data: Any) -> None:
    x = np.arange(12, dtype=np.int32).reshape(3, 4)
    shape = data.draw(st.tuples(st.integers(0, 3), st.integers(0, 4)))
    indices = draw_indices(data, shape, -x.shape[axis], x.shape[axis] - 1)
    updates = draw_indices(data, shape, -5, 5).astype(np.int32)
    expected = x.copy()
    for where in np.ndindex(shape):
        target = list(where)
        target[axis] = indices[where]
        expected[tuple(target)] = REDUCE[reduction](expected[tuple(target)], updates[where])
    attributes = {} if reduction == "none" else {"reduction": reduction}
    for version in (16, 18) if reduction not in ("max", "min") else (18,):
        out = run_op("ScatterElements", x, indices, updates, opset=version, axis=axis, **attributes)
        np.testing.assert_array_equal(out, expected, strict=True)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(REDUCE)), st.integers(0, 3), st.integers(0, 4), st.data())
def test_scatter_nd_against_a_loop(reduction: str, k: int, count: int, data: Any) -> None:
    x = np.arange(8, dtype=np.int64).reshape(2, 2, 2)
    indices = draw_indices(data, (count, k), -2, 1)
    updates = draw_indices(data, (count, *x.shape[k:]), -5, 5)
    expected = x.copy()
    for i in range(count):
        target = tuple(indices[i])
        combine = np.frompyfunc(REDUCE[reduction], 2, 1)
        expected[target] = combine(expected[target], updates[i])
    attributes = {} if reduction == "none" else {"reduction": reduction}
    for version in (16, 18) if reduction not in ("max", "min") else (18,):
        out = run_op("ScatterND", x, indices, updates, opset=version, **attributes)
        np.testing.assert_array_equal(out, expected, strict=True)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_low_precision_reductions_round_once(dtype: Any) -> None:
    """A thousand ones added to 2048 or 256, where each single addition would be lost."""
    big = 2048 if dtype == np.float16 else 256
    x, ones = np.array([big, 3], dtype), np.ones(1000, dtype)
    zeros = np.zeros(1000, np.int64)
    out = run_op("ScatterElements", x, zeros, ones, opset=18, reduction="add")
    assert out.dtype == dtype
    assert out.astype(float).tolist() == [float(np.array(big + 1000).astype(dtype)), 3.0]
    out = run_op("ScatterND", x, zeros[:, None], ones, opset=18, reduction="add")
    assert out.astype(float).tolist() == [float(np.array(big + 1000).astype(dtype)), 3.0]


def test_reductions_keep_nan_and_wrap_integers() -> None:
    x = np.array([1.0, np.nan], np.float32)
    out = run_op("ScatterElements", x, i64(0, 1), np.float32([np.nan, 5]), opset=18, reduction="max")
    assert np.isnan(out).all()
    out = run_op(
        "ScatterElements",
        np.array([250], np.uint8),
        i64(0),
        np.array([10], np.uint8),
        opset=18,
        reduction="add",
    )
    assert out.tolist() == [4]
    out = run_op("ScatterND", np.array([1j]), np.array([[0]]), np.array([2j]), opset=18, reduction="mul")
    assert out.tolist() == [-2]
    out = run_op("ScatterND", np.array([True]), np.array([[0]]), np.array([False]), opset=18, reduction="min")
    assert out.tolist() == [False]


@settings(max_examples=60, deadline=None)
@given(st.sampled_from([1, 2, -1, -2]), st.integers(0, 3), st.booleans(), st.data())
def test_tensor_scatter_is_its_pseudocode(axis: int, steps: int, circular: bool, data: Any) -> None:
    cache = np.arange(2 * 3 * 3).reshape(2, 3, 3)
    update = -1 - np.arange(2 * 3 * steps).reshape(2, 3, steps)
    update = np.moveaxis(update, -1, axis % 3)
    first = draw_indices(data, (2,), 0, 9 if circular else 3 - steps)
    expected = cache.copy()
    for b in range(2):
        for s in range(steps):
            target = (first[b] + s) % 3 if circular else first[b] + s
            np.moveaxis(expected, axis, 1)[b, target] = np.moveaxis(update, axis, 1)[b, s]
    mode = "circular" if circular else "linear"
    out = run_op("TensorScatter", cache, update, first, opset=24, axis=axis, mode=mode)
    np.testing.assert_array_equal(out, expected, strict=True)
    if not first.any():
        np.testing.assert_array_equal(run_op("TensorScatter", cache, update, opset=24, axis=axis), expected)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.booleans(), max_size=6), st.sampled_from([None, 1, -1]))
def test_compress_is_numpys(condition: list[bool], axis: int | None) -> None:
    x = np.arange(12).reshape(2, 6)
    out = run_op("Compress", x, np.array(condition, bool), opset=11, axis=axis)
    np.testing.assert_array_equal(out, np.compress(condition, x, axis=axis), strict=True)


# --- errors and costs ----------------------------------------------------------------------------

X = np.zeros((2, 3), np.float32)
MANY = np.zeros((1,) * 40, np.int64)


@pytest.mark.parametrize(
    ("op_type", "opset", "inputs", "attributes", "message"),
    [
        ("Slice", 13, [X, i64(0), i64(1), i64(0), i64(0)], {}, r"steps must not be zero"),
        ("Slice", 13, [X, i64(0), i64(1, 1)], {}, r"equally many \(got \(1, 2, 1, 1\)\)"),
        ("Slice", 13, [X, i64(0, 0), i64(1, 1), i64(0, -2)], {}, r"axes must not repeat"),
        ("Slice", 1, [X], {"starts": (0,) * 3, "ends": (1,) * 3}, r"axes must be in \[-2, 1\]"),
        ("ReverseSequence", 10, [X, i64(3, 0, 0)], {}, r"sequence_lens must be in \[0, 2\] \(got 3\)"),
        ("ReverseSequence", 10, [X, i64(0)], {}, r"sequence_lens must have shape \(3,\)"),
        ("ReverseSequence", 10, [X, i64(0, 0)], {"batch_axis": 0}, r"must be 0 and 1 \(got 0, 0\)"),
        ("ReverseSequence", 10, [X[0], i64(0)], {}, r"rank 2 or more"),
        ("Gather", 1, [X, i64(0, -1)], {}, r"indices must be in \[0, 1\] for axis 0 \(got -1\)"),
        ("Gather", 13, [X, i64(0, 2)], {}, r"indices must be in \[-2, 1\] for axis 0 \(got 2\)"),
        ("Gather", 13, [X, i64(-4)], {"axis": 1}, r"in \[-3, 2\] for axis 1 \(got -4\)"),
        ("Gather", 13, [X[0, 0], i64(0)], {}, r"axis must be in"),
        ("Gather", 13, [MANY, MANY], {}, r"rank of the output must be at most 64 \(got 79\)"),
        ("GatherElements", 13, [X, np.array([[0, 0, -3]])], {}, r"in \[-2, 1\] for axis 0 \(got -3\)"),
        ("GatherElements", 13, [X, i64(0)], {}, r"fit the data's \(2, 3\) except along axis 0"),
        ("GatherElements", 13, [X, np.zeros((1, 4), np.int64)], {}, r"\(got shape \(1, 4\)\)"),
        (
            "GatherND",
            13,
            [X, np.array([[0, 3]])],
            {},
            r"in \[-3, 2\] for axis 1 of the indexed dim.* \(got 3\)",
        ),
        (
            "GatherND",
            13,
            [X, np.zeros((1, 3), np.int64)],
            {},
            r"last dimension of indices must be in \[1, 2\]",
        ),
        ("GatherND", 13, [X, np.zeros((1, 0), np.int64)], {}, r"\(got 0\)"),
        ("GatherND", 12, [X, np.zeros((1, 1), np.int64)], {"batch_dims": 1}, r"data's batch, \(2,\)"),
        ("GatherND", 12, [X, i64(0)], {"batch_dims": 1}, r"batch_dims must be in \[0, 0\] \(got 1\)"),
        ("GatherND", 13, [X, np.array(0)], {}, r"rank 1 or more \(got 2, 0\)"),
        ("Scatter", 9, [X, i64(-1)[None], X[:1, :1]], {}, r"in \[0, 1\] for axis 0 \(got -1\)"),
        ("Scatter", 11, [X, i64(-3)[None], X[:1, :1]], {}, r"in \[-2, 1\] for axis 0 \(got -3\)"),
        (
            "ScatterElements",
            11,
            [X, i64(0)[None], X],
            {},
            r"updates must have shape \(1, 1\) \(got \(2, 3\)\)",
        ),
        (
            "ScatterElements",
            16,
            [X, i64(0)[None], X[:1, :1]],
            {"reduction": "max"},
            r"none, add, mul \(got 'max'\)",
        ),
        (
            "ScatterElements",
            18,
            [X, i64(0)[None], X[:1, :1]],
            {"reduction": "sub"},
            r"max, min \(got 'sub'\)",
        ),
        (
            "ScatterElements",
            18,
            [X.astype(object), i64(0)[None], X[:1, :1]],
            {"reduction": "add"},
            r"defined for",
        ),
        (
            "ScatterND",
            18,
            [X * 1j, np.array([[0]]), X[:1] * 1j],
            {"reduction": "max"},
            r"complex64 \(got max\)",
        ),
        ("ScatterND", 11, [X, np.array([[2]]), X[:1]], {}, r"in \[-2, 1\] for axis 0"),
        (
            "ScatterND",
            11,
            [X, np.array([[0]]), X[:1, :1]],
            {},
            r"updates must have shape \(1, 3\) \(got \(1, 1\)\)",
        ),
        ("ScatterND", 11, [X, np.zeros((1, 3), np.int64), X[0, :1]], {}, r"at most 2 \(got 3\)"),
        ("ScatterND", 16, [X, np.array([[0]]), X[:1]], {"reduction": "min"}, r"none, add, mul \(got 'min'\)"),
        ("TensorScatter", 24, [X, X], {}, r"axis must not be the batch's, 0 \(got -2\)"),
        ("TensorScatter", 24, [X, X[:, :2], i64(0, 2)], {"axis": 1}, r"in \[0, 1\] in linear mode \(got 2\)"),
        ("TensorScatter", 24, [X, X[:, :2], i64(0)], {"axis": 1}, r"write_indices must have shape \(2,\)"),
        ("TensorScatter", 24, [X, X[:, :2]], {"axis": 1, "mode": "x"}, r"linear, circular \(got 'x'\)"),
        (
            "TensorScatter",
            24,
            [X, np.zeros((2, 4))],
            {"axis": 1},
            r"or be shorter on axis 1 \(got \(2, 4\)\)",
        ),
        ("TensorScatter", 24, [X, np.zeros(2)], {"axis": 1}, r"or be shorter on axis 1 \(got \(2,\)\)"),
        ("Compress", 11, [X, np.ones(4, bool)], {"axis": 1}, r"of at most 3 \(got shape \(4,\)\)"),
        ("Compress", 11, [X, np.ones((2, 3), bool)], {}, r"condition must have one dimension"),
    ],
)
def test_errors(
    op_type: str, opset: int, inputs: list[Any], attributes: dict[str, Any], message: str
) -> None:
    with pytest.raises(KernelError, match=message):
        run_op(op_type, *inputs, opset=opset, **attributes)


def test_gathering_large_slices_is_charged_beforehand() -> None:
    big = np.broadcast_to(np.float32(0), (1, 2**40))
    assert cost_of("Gather", big, np.zeros((5, 7), np.int64), opset=13).out_bytes == 35 * 2**42
    assert cost_of("GatherND", big, np.zeros((5, 7, 1), np.int64), opset=13).out_bytes == 35 * 2**42
