"""The verdict follows the suite's rule; the error is measured in representable numbers."""

from __future__ import annotations

import math
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from onnxref.conformance.compare import compare_outputs


def compare(expected: Any, actual: Any, rtol: float = 1e-3, atol: float = 1e-7) -> Any:
    return compare_outputs([expected], [actual], rtol=rtol, atol=atol)


NEXT = np.nextafter
ONE_ULP_APART = [
    (np.float32([1.0]), NEXT(np.float32([1.0]), np.float32(2))),
    (np.float64([-1.0]), NEXT(np.float64([-1.0]), 0.0)),
    (np.float16([0.0]), NEXT(np.float16([0.0]), np.float16(-1))),
    (np.array([1.0], ml_dtypes.bfloat16), np.array([1 + 2**-7], ml_dtypes.bfloat16)),
    (np.array([1.0], ml_dtypes.float8_e4m3fn), np.array([1.125], ml_dtypes.float8_e4m3fn)),
    (np.array([-1.0], ml_dtypes.float4_e2m1fn), np.array([-1.5], ml_dtypes.float4_e2m1fn)),
    (np.array([1.0], ml_dtypes.float8_e8m0fnu), np.array([2.0], ml_dtypes.float8_e8m0fnu)),
    (np.array([-8], ml_dtypes.int4), np.array([-7], ml_dtypes.int4)),
    (np.int64([2**62]), np.int64([2**62 + 1])),
    (np.uint64([2**64 - 1]), np.uint64([2**64 - 2])),
    (np.bool_([True]), np.bool_([False])),
    (np.complex64([1j]), np.complex64([1j * NEXT(np.float32(1), np.float32(2))])),
]


@pytest.mark.parametrize(("expected", "actual"), ONE_ULP_APART, ids=lambda a: str(a.dtype))
def test_one_ulp(expected: Any, actual: Any) -> None:
    assert compare(expected, actual).max_ulp == 1
    assert compare(expected, expected).max_ulp == 0


def test_the_largest_distances_do_not_overflow() -> None:
    low, high = np.int64([-(2**63)]), np.int64([2**63 - 1])
    assert compare(low, high).max_ulp == 2.0**64  # 2**64 - 1, to the nearest float
    assert compare(np.float64([-math.inf]), np.float64([math.inf])).max_ulp == pytest.approx(
        2.0**64, rel=1e-2
    )


def test_both_zeros_are_one_number() -> None:
    found = compare(np.float32([0.0]), np.float32([-0.0]))
    assert found.passed
    assert found.max_ulp == 0


def test_nan_and_infinity() -> None:
    values = np.float32([math.nan, math.inf, -math.inf])
    found = compare(values, values.copy())
    assert found.passed
    assert (found.max_ulp, found.max_abs) == (0, 0)
    found = compare(np.float32([math.nan]), np.float32([1]))
    assert not found.passed
    assert (found.max_ulp, found.max_abs) == (None, None)
    assert not compare(np.float32([math.inf]), np.float32([3e38])).passed


def test_tolerances() -> None:
    assert compare(np.float32([1000]), np.float32([1000.9])).passed
    assert not compare(np.float32([1000]), np.float32([1001.1])).passed
    assert compare(np.float32([0]), np.float32([0.9e-7])).passed
    assert not compare(np.float32([0]), np.float32([1.1e-7])).passed


def test_bfloat16_is_granted_two_ulp() -> None:
    one, two_off, three_off = (np.array([1 + k * 2**-7], ml_dtypes.bfloat16) for k in (0, 2, 3))
    assert compare(one, two_off).passed
    assert not compare(one, three_off).passed


@pytest.mark.parametrize(
    ("expected", "actual", "message"),
    [
        (np.zeros((2, 3), np.float32), np.zeros((3, 2), np.float32), "shape (3, 2) instead of (2, 3)"),
        (np.zeros(1, np.float32), np.zeros(1), "dtype float64 instead of float32"),
        (np.array(["a"], object), np.zeros(1), "dtype float64 instead of string"),
        (np.array(["a"], object), np.array(["b"], object), "1 of 1 elements differ"),
        ([np.zeros(1)], [np.zeros(1)] * 2, "output[0] has 2 values instead of 1"),
        ([np.zeros(1)], np.zeros(1), "must be a list"),
        (None, np.zeros(1), "must be None"),
        (np.zeros(1), None, "must be a tensor of float64 (got None)"),
        ({1: 2.0}, {1: 3.0}, "elements differ"),
        ({1: 2.0}, {2: 2.0}, "must be a dict"),
    ],
)
def test_faults(expected: Any, actual: Any, message: str) -> None:
    assert message in compare(expected, actual).message


@pytest.mark.parametrize(
    ("expected", "actual"),
    [
        (np.array(["a", "ü"], object), np.array(["a", "ü"])),
        ([np.ones(2), np.ones(3)], (np.ones(2), np.ones(3))),
        ([], []),
        (None, None),
        (np.array(1.0, np.float32), np.float32(1)),
        (np.zeros((0, 3)), np.zeros((0, 3))),
        ({"a": 1.0}, {"a": 1.0}),
    ],
)
def test_equals(expected: Any, actual: Any) -> None:
    assert compare(expected, actual).message == ""


def test_the_differences_say_where() -> None:
    expected, actual = np.zeros((2, 2), np.int32), np.int32([[0, 1], [2, 0]])
    found = compare_outputs([expected], [actual], rtol=0, atol=0, shown=5)
    assert [(d.where, d.expected, d.actual) for d in found.differences] == [
        ("output[0][0, 1]", 0, 1),
        ("output[0][1, 0]", 0, 2),
    ]


def test_too_few_outputs() -> None:
    assert compare_outputs([np.ones(1)], [], rtol=0, atol=0).message == "output has 0 values instead of 1"
    assert "must be a list or tuple" in compare_outputs([np.ones(1)], np.ones(1), rtol=0, atol=0).message  # type: ignore[arg-type]
