"""Statistics of one value: against NumPy, for every kind of value, in bounded memory."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from onnxref import SparseTensor
from onnxref.debug._stats import BINS, HALF_LARGEST, ValueStatistics, short


@settings(max_examples=150, deadline=None)
@given(
    npst.arrays(
        st.sampled_from([np.float16, np.float32, np.float64]),
        npst.array_shapes(min_dims=0, max_dims=3, max_side=6),
        elements={"allow_subnormal": True},
    )
)
def test_floats_against_numpy(array: Any) -> None:
    found = ValueStatistics.of(array)
    wide = array.astype(np.longdouble)
    finite = wide[np.isfinite(wide)]
    assert found.shape == array.shape
    assert found.size == array.size
    assert found.nan == np.isnan(array).sum()
    assert found.inf == np.isinf(array).sum()
    assert found.zeros == (array == 0).sum()
    json.dumps(found.to_json(), allow_nan=False)
    if not finite.size:
        assert found.min is None
        assert found.histogram is None
        return
    assert found.histogram is not None
    assert found.min == finite.min()
    assert found.max == finite.max()
    assert found.mean == pytest.approx(float(finite.mean()), rel=1e-12, abs=1e-12 * float(abs(finite).max()))
    assert found.std == pytest.approx(float(finite.std()), rel=1e-9, abs=1e-9 * float(abs(finite).max()))
    assert sum(found.histogram.counts) == finite.size
    assert found.headroom == pytest.approx(float(abs(finite).max()) / HALF_LARGEST)
    nonzero = abs(finite[finite != 0])
    if nonzero.size:
        assert found.below_half == pytest.approx((nonzero < 2.0**-14).mean())
        with np.errstate(over="ignore"):
            assert found.vanishing == pytest.approx((nonzero.astype(np.float16) == 0).mean())


@pytest.mark.parametrize(
    "order", [lambda x: x, lambda x: x.transpose(2, 0, 1), lambda x: x[:, ::-2], lambda x: x[..., :1]]
)
def test_chunks_and_layouts(order: Any) -> None:
    array = order(np.random.default_rng(0).normal(3, 2, (40, 50, 60)).astype(np.float32))
    found = ValueStatistics.of(array)
    assert found.mean == pytest.approx(array.mean(dtype=np.float64), rel=1e-12)
    assert found.std == pytest.approx(array.std(dtype=np.float64), rel=1e-9)
    assert found.histogram is not None
    counts = np.array(found.histogram.counts)
    expected, edges = np.histogram(array.astype(np.float64), BINS)
    # An element on the border of two bins may fall into either by rounding.
    assert np.abs(counts - expected).sum() <= 4
    np.testing.assert_allclose(found.histogram.edges, edges, atol=1e-12)


def test_integers_are_exact() -> None:
    found = ValueStatistics.of(np.array([2**63 - 1, -(2**63), 0, 5], np.int64))
    assert (found.min, found.max, found.zeros) == (-(2**63), 2**63 - 1, 1)
    assert found.headroom is found.below_half is found.vanishing is None


@pytest.mark.parametrize(
    ("value", "dtype", "shape", "size"),
    [
        (np.ones(3, ml_dtypes.bfloat16), "tensor(bfloat16)", (3,), 3),
        (np.ones(3, ml_dtypes.float8_e4m3fn), "tensor(float8e4m3fn)", (3,), 3),
        (np.ones(3, ml_dtypes.int4), "tensor(int4)", (3,), 3),
        (np.array([True, False]), "tensor(bool)", (2,), 2),
        (np.float32(3), "tensor(float)", (), 1),
        (np.array([3 + 4j, 1]), "tensor(complex128)", (2,), 2),
        (np.zeros((0, 4), np.float32), "tensor(float)", (0, 4), 0),
        (np.array(["a"], object), "tensor(string)", (1,), 0),
        ([np.ones(2, np.float32), np.zeros(3, np.float32)], "seq(tensor(float))", (2,), 5),
        ({1: 2.0}, "map", (1,), 0),
        (None, "optional", (), 0),
        (
            SparseTensor(np.ones(2, np.float32), np.array([1, 5]), (3, 4)),
            "sparse_tensor(float)",
            (3, 4),
            2,
        ),
    ],
)
def test_every_kind_of_value(value: Any, dtype: str, shape: tuple[int, ...], size: int) -> None:
    found = ValueStatistics.of(value)
    assert (found.dtype, found.shape, found.size) == (dtype, shape, size)
    json.dumps(found.to_json(), allow_nan=False)
    assert str(found).startswith(dtype)
    assert dtype in found._repr_html_()


def test_complex_elements_count_by_magnitude() -> None:
    found = ValueStatistics.of(np.array([3 + 4j, complex(np.nan, 0), 0]))
    assert (found.min, found.max, found.nan) == (0, 5, 1)


def test_extremes_do_not_overflow() -> None:
    found = ValueStatistics.of(np.float64([1.7e308, -1.7e308, 1.7e308]))
    assert found.mean == pytest.approx(1.7e308 / 3)
    assert found.std == pytest.approx(1.7e308 * np.sqrt(8 / 9))
    assert found.histogram is not None
    assert found.histogram.counts[0] == 1
    assert found.histogram.counts[-1] == 2


def test_memory_is_bounded() -> None:
    array = np.random.default_rng(0).standard_normal((64, 300, 200)).astype(np.float32)
    views = (array, array.transpose(2, 0, 1), array[:, ::2])
    for view in views:
        tracemalloc.start()
        try:
            ValueStatistics.of(view)
            assert tracemalloc.get_traced_memory()[1] < 2 * 2**20
        finally:
            tracemalloc.stop()


def test_how_it_reads() -> None:
    found = ValueStatistics.of(np.float32([1, 2, np.nan, -np.inf, 0, 70_000]))
    assert str(found) == (
        "tensor(float) [6]; 0 to 7e+04, mean 1.75e+04, std 3.031e+04; 1 NaN, 1 Inf, 1 zero; "
        "107% of float16's range"
    )
    assert str(found.histogram) == "█" + " " * 30 + "▃"
    assert found.histogram is not None
    assert found.histogram.coarse(4) == "█  ▃"
    assert not found.finite
    assert found.largest == 70_000
    assert short(None) == ""
