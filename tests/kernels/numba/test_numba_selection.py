"""TopK in native code: the same elements in the same order as the reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxref.kernels.numba.selection  # noqa: F401 - registers the lowerings
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lowered import check_lowered, run_lowered

from onnxref.lowering import Unsupported

RNG = np.random.default_rng(2)


def check(x: Any, k: int, opset: int = 24, **attributes: Any) -> None:
    inputs = [x, np.array([k])]
    for parallel in (False, True):
        check_lowered("TopK", inputs, attributes, opset=opset, n_outputs=2, constants=(1,), parallel=parallel)


@pytest.mark.parametrize("largest", [0, 1])
@pytest.mark.parametrize("k", [0, 1, 2, 7, 63, 64, 65, 299, 300])
def test_rows(k: int, largest: int) -> None:
    check(RNG.standard_normal((3, 300)).astype(np.float32), k, largest=largest)
    check(RNG.integers(0, 9, (3, 300)).astype(np.float32), k, largest=largest)  # many equal ones


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_any_axis(axis: int) -> None:
    check(RNG.standard_normal((5, 6, 7)).astype(np.float32), 4, axis=axis)


@pytest.mark.parametrize("dtype", ["float16", "float64", "int8", "int64", "uint64"])
def test_types(dtype: str) -> None:
    x = (RNG.standard_normal((3, 100)) * 50).astype(dtype)
    if dtype == "uint64":
        x[:, ::7] += np.uint64(2**63)
    for largest in (0, 1):
        check(x, 10, largest=largest)


def test_special_values() -> None:
    x = RNG.choice(np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1.0], np.float32), (6, 90))
    for largest in (0, 1):
        for k in (5, 90):
            check(x, k, largest=largest)


def test_versions_and_what_is_not_taken() -> None:
    x = RNG.standard_normal((3, 30)).astype(np.float32)
    check(x, 4, opset=10)
    check_lowered("TopK", [x], {"k": 4}, opset=1, n_outputs=2)
    check(x[:0], 4)
    like = ((3, 4), np.float32)
    indices = run_lowered("TopK", [x, np.array([4])], [None, ((3, 4), np.int64)], constants=(1,))[1]
    np.testing.assert_array_equal(indices, np.argsort(-x, axis=1)[:, :4])
    with pytest.raises(Unsupported):
        run_lowered("TopK", [x, np.array([4])], [like, ((3, 4), np.int64)])


@given(st.lists(st.integers(-4, 4), min_size=1, max_size=200), st.data())
@settings(max_examples=60, deadline=None)
def test_any_row(row: list[int], data: st.DataObject) -> None:
    check(np.array(row, np.float32), data.draw(st.integers(0, len(row))))
