"""TopK, NonZero and Unique: kernels/numpy/selection.py."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from helpers import dtypes, run_op, versions
from hypothesis import given, settings
from hypothesis import strategies as st
from moving import palette, same

from onnxref import registry
from onnxref.errors import KernelError, ResourceLimitError
from onnxref.limits import Budget, Limits
from onnxref.registry import Context


def i64(*values: int) -> np.ndarray[Any, Any]:
    return np.array(values, np.int64)


# --- TopK ----------------------------------------------------------------------------------------

NUMBERS = st.sampled_from([0.0, -0.0, 1.0, -1.0, 2.5, -2.5, math.inf, -math.inf, math.nan])


def slow_order(row: list[float], largest: bool) -> list[int]:
    """Indices in order: NaN above everything, equal values by index."""
    rank = [(1, 0.0) if math.isnan(v) else (0, v) for v in row]
    if largest:
        rank = [(-n, -v) for n, v in rank]
    return sorted(range(len(row)), key=lambda i: (rank[i], i))


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=7), st.booleans(), st.integers(0, 1), st.data()
)
def test_top_k_against_sorting(rows: list[tuple[float, float]], largest: bool, axis: int, data: Any) -> None:
    k = data.draw(st.integers(0, len(rows)))
    x = np.array(rows, np.float32)
    expected = np.array([slow_order(x[:, j].tolist(), largest)[:k] for j in range(2)], np.int64).T
    x, expected = (x, expected) if axis == 0 else (x.T, expected.T)
    values, indices = run_op("TopK", x, i64(k), opset=11, n_outputs=2, largest=int(largest), axis=axis)
    np.testing.assert_array_equal(indices, expected.reshape(indices.shape), strict=True)
    np.testing.assert_array_equal(values, np.take_along_axis(x, indices, axis), strict=True)


@pytest.mark.parametrize("version", versions("TopK"))
def test_top_k_of_every_type(version: int) -> None:
    for dtype in dtypes("TopK", version):
        info = np.iinfo(dtype) if np.dtype(dtype).kind in "iu" else None
        low, high = (int(info.min), int(info.max)) if info else (-3, 9)
        x = np.array([5, high, low, 5, low, high], dtype)
        arguments: Any = ([x], {"k": 3}) if version == 1 else ([x, i64(3)], {})
        values, indices = run_op("TopK", *arguments[0], opset=version, n_outputs=2, **arguments[1])
        expected = slow_order([5, high, low, 5, low, high], True)[:3]
        assert indices.tolist() == expected, dtype
        assert indices.dtype == np.int64
        assert same(values, x[expected])
        if version >= 11:
            _, indices = run_op("TopK", x, i64(3), opset=version, n_outputs=2, largest=0, sorted=0)
            assert indices.tolist() == [2, 4, 0], dtype


# --- NonZero -------------------------------------------------------------------------------------


def test_non_zero_of_every_type() -> None:
    for version in versions("NonZero"):
        for dtype in dtypes("NonZero", version):
            x = palette(dtype)[[[0, 1, 0], [1, 0, 1]]]
            assert same(run_op("NonZero", x, opset=version), np.array([[0, 1, 1], [1, 0, 2]])), dtype
    assert run_op("NonZero", np.array([-0.0, np.nan, 1e-45], np.float32), opset=13).tolist() == [[1, 2]]


def test_non_zero_of_scalars_has_no_rows() -> None:
    assert run_op("NonZero", np.array(3), opset=13).shape == (0, 1)
    assert run_op("NonZero", np.array(0), opset=13).shape == (0, 0)
    assert run_op("NonZero", np.zeros((0, 3)), opset=13).shape == (2, 0)


def test_non_zero_asks_before_it_allocates() -> None:
    ctx = Context(budget=Budget(Limits(tensor_bytes=2**10)))
    with pytest.raises(ResourceLimitError, match="tensor_bytes"):
        registry.find("", "NonZero", 13).kernel(np.ones((8, 8), bool), ctx=ctx)


# --- Unique --------------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(*[st.integers(-3, 3)] * 2), max_size=6), st.sampled_from([None, 0, 1, -2]))
def test_unique_is_numpys(rows: list[tuple[int, int]], axis: int | None) -> None:
    for dtype in (np.int8, np.float32, np.uint16, np.complex64):
        x = np.array(rows, np.int64).reshape(-1, 2).astype(dtype)
        expected = np.unique(x, return_index=True, return_inverse=True, return_counts=True, axis=axis)
        found = run_op("Unique", x, opset=11, n_outputs=4, axis=axis)
        for got, want in zip(found, expected, strict=True):
            assert got.tolist() == (want if got is found[0] else want.reshape(-1)).tolist()


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from(["b", "a", "", "é", "ab"]), max_size=8), st.integers(0, 1))
def test_unique_strings_by_first_occurrence_or_sorted(words: list[str], sort: int) -> None:
    x = np.array(words, object)
    y, first, inverse, counts = run_op("Unique", x, opset=11, n_outputs=4, sorted=sort)
    distinct = sorted(set(words)) if sort else list(dict.fromkeys(words))
    assert y.tolist() == distinct
    assert first.tolist() == [words.index(w) for w in distinct]
    assert y[inverse].tolist() == words
    assert counts.tolist() == [words.count(w) for w in distinct]
    assert {a.dtype for a in (first, inverse, counts)} == {np.dtype(np.int64)}


def test_unique_of_every_type_by_row() -> None:
    for version in versions("Unique"):
        for dtype in dtypes("Unique", version):
            values = palette(dtype)
            x = values[[[1, 0], [0, 1], [1, 0]]]
            y, first, inverse, counts = run_op("Unique", x, opset=version, n_outputs=4, axis=0)
            assert same(y, values[[[0, 1], [1, 0]]]), dtype
            assert (first.tolist(), inverse.tolist(), counts.tolist()) == ([1, 0], [1, 0, 1], [1, 2])
            y, *_ = run_op("Unique", x, opset=version, n_outputs=4, axis=0, sorted=0)
            assert same(y, values[[[1, 0], [0, 1]]]), dtype


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.complex64])
def test_unique_takes_all_nan_for_one_and_zeros_for_one(dtype: Any) -> None:
    x = np.array([np.nan, 0.0, -0.0, -np.inf, -np.nan], dtype)
    y, first, inverse, counts = run_op("Unique", x, opset=11, n_outputs=4)
    assert first.tolist() == [3, 1, 0]
    assert inverse.tolist() == [2, 1, 1, 0, 2]
    assert counts.tolist() == [1, 2, 2]
    assert np.isnan(y[-1])
    y, *_ = run_op("Unique", np.stack([x, x[[4, 2, 1, 3, 0]]]), opset=11, n_outputs=4, axis=0)
    assert len(y) == 1


def test_unique_of_nothing() -> None:
    y, first, inverse, counts = run_op("Unique", np.zeros((0, 3), np.float32), opset=11, n_outputs=4, axis=0)
    assert y.shape == (0, 3)
    assert [len(a) for a in (first, inverse, counts)] == [0, 0, 0]
    y, first, inverse, counts = run_op("Unique", np.zeros((3, 0), np.float32), opset=11, n_outputs=4, axis=0)
    assert y.shape == (1, 0)
    assert (first.tolist(), inverse.tolist(), counts.tolist()) == ([0], [0, 0, 0], [3])
    assert run_op("Unique", np.array(5), opset=11).tolist() == [5]


# --- errors --------------------------------------------------------------------------------------

X = np.zeros((2, 3), np.float32)


@pytest.mark.parametrize(
    ("op_type", "opset", "inputs", "attributes", "message"),
    [
        ("TopK", 11, [X, i64(4)], {}, r"k must be in \[0, 3\], the size of axis 1 \(got 4\)"),
        ("TopK", 1, [X], {"k": -1}, r"\(got -1\)"),
        ("TopK", 10, [X, i64(1, 1)], {}, r"k must have one element \(got shape \(2,\)\)"),
        ("TopK", 10, [X, i64(1)], {"axis": 2}, r"axis must be in \[-2, 1\]"),
        ("Unique", 11, [X], {"axis": 2}, r"axis must be in \[-2, 1\] for rank 2 \(got 2\)"),
        ("Unique", 11, [X], {"sorted": 2}, r"sorted must be one of 0, 1 \(got 2\)"),
    ],
)
def test_errors(
    op_type: str, opset: int, inputs: list[Any], attributes: dict[str, Any], message: str
) -> None:
    with pytest.raises(KernelError, match=message):
        run_op(op_type, *inputs, opset=opset, **attributes)
