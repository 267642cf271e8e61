"""Element-wise functions of one tensor."""

from __future__ import annotations

import math
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from elementwise_cases import SHAPES, assert_close, exact, rows, sample
from helpers import dtypes, run_op
from hypothesis import given, settings
from hypothesis import strategies as st

# Operator: slow definition for one Python number, and where to try it.
DEFINITIONS: dict[str, tuple[Any, float, float]] = {
    "Abs": (abs, -5, 5),
    "Acos": (math.acos, -0.9, 0.9),
    "Acosh": (math.acosh, 1.1, 5),
    "Asin": (math.asin, -0.9, 0.9),
    "Asinh": (math.asinh, -5, 5),
    "Atan": (math.atan, -5, 5),
    "Atanh": (math.atanh, -0.9, 0.9),
    "Ceil": (math.ceil, -5, 5),
    "Cos": (math.cos, -5, 5),
    "Cosh": (math.cosh, -4, 4),
    "Exp": (math.exp, -4, 4),
    "Floor": (math.floor, -5, 5),
    "Log": (math.log, 0.1, 5),
    "Neg": (lambda v: -v, -5, 5),
    "Reciprocal": (lambda v: 1 / v, 0.1, 5),
    "Round": (round, -5, 5),
    "Sign": (lambda v: (v > 0) - (v < 0), -5, 5),
    "Sin": (math.sin, -5, 5),
    "Sinh": (math.sinh, -4, 4),
    "Sqrt": (math.sqrt, 0, 5),
    "Tan": (math.tan, -1.4, 1.4),
    "Tanh": (math.tanh, -4, 4),
}


@pytest.mark.parametrize(("op_type", "version", "dtype"), rows(*DEFINITIONS), ids=str)
def test_definition(op_type, version, dtype):
    define, low, high = DEFINITIONS[op_type]
    for shape in SHAPES:
        x = sample(dtype, shape, low, high)
        before = x.tobytes()
        got = run_op(op_type, x, opset=version)
        want = np.vectorize(define, otypes=[object])(exact(x))
        assert_close(got, want if dtype.kind in "iu" else want.astype(float), dtype)
        assert x.tobytes() == before


@pytest.mark.parametrize(
    "op_type", ["Abs", "Ceil", "Exp", "Floor", "Log", "Neg", "Reciprocal", "Sqrt", "Tanh"]
)
def test_version_1_takes_the_in_place_hint(op_type):
    x = np.array([0.5, 2], np.float32)
    np.testing.assert_array_equal(
        run_op(op_type, x, opset=1, consumed_inputs=(1,)), run_op(op_type, x, opset=13)
    )


@pytest.mark.parametrize(("op_type", "dtype"), [(o, t) for o in ("Abs", "Neg") for t in (np.int8, np.int64)])
def test_the_lowest_integer_wraps(op_type, dtype):
    lowest = np.array([np.iinfo(dtype).min], dtype)
    np.testing.assert_array_equal(run_op(op_type, lowest, opset=13), lowest)


def test_round_takes_halves_to_even_and_keeps_what_is_integral():
    x = np.array([0.5, 1.5, 2.5, -0.5, -4.5, -0.0, np.inf, -np.inf, np.nan], np.float32)
    got = run_op("Round", x, opset=11)
    np.testing.assert_array_equal(got, [0, 2, 2, -0.0, -4, -0.0, np.inf, -np.inf, np.nan])
    assert np.signbit(got).tolist() == [False, False, False, True, True, True, False, True, False]


def test_sign_of_nan_and_zero():
    got = run_op("Sign", np.array([np.nan, 0.0, -np.inf], np.float32), opset=13)
    np.testing.assert_array_equal(got, [np.nan, 0, -1])


@pytest.mark.parametrize(("op_type", "version", "dtype"), rows("Erf"), ids=str)
def test_erf_at_every_type(op_type, version, dtype):
    for shape in SHAPES:
        x = sample(dtype, shape, -7, 7)
        want = np.vectorize(math.erf, otypes=[float])(exact(x).astype(float))
        assert_close(run_op("Erf", x, opset=version), want.astype(dtype), dtype, factor=1)


@given(st.floats(-7, 7))
@settings(max_examples=200, deadline=None)
def test_erf_is_accurate_to_the_last_place(value):
    want = math.erf(value)
    got = float(run_op("Erf", np.array([value]), opset=13)[0])
    assert abs(got - want) <= 2 * math.ulp(want)
    assert float(run_op("Erf", np.array([-value]), opset=13)[0]) == -got
    single = np.float32(value)
    got_single = run_op("Erf", np.array([single]), opset=13)[0]
    assert abs(got_single - np.float32(math.erf(single))) <= np.spacing(np.abs(got_single))


def test_erf_is_accurate_on_a_dense_grid():
    x = np.concatenate([np.linspace(-6.5, 6.5, 20001), np.nextafter(1.0, [0, 2]), [1e-300, 5e-324]])
    want = np.vectorize(math.erf)(x)
    error = np.abs(run_op("Erf", x, opset=13) - want) / np.spacing(np.abs(want))
    assert error.max() <= 2


def test_erf_of_special_values():
    got = run_op("Erf", np.array([np.inf, -np.inf, np.nan, 0.0, -0.0, 1e30], np.float32), opset=13)
    np.testing.assert_array_equal(got, [1, -1, np.nan, 0, -0.0, 1])
    assert np.signbit(got[[3, 4]]).tolist() == [False, True]


@pytest.mark.parametrize(("op_type", "version", "dtype"), rows("IsInf", "IsNaN"), ids=str)
def test_predicates_at_every_type(op_type, version, dtype):
    x = np.array([1, np.nan, 0, -np.inf, np.inf], np.float32).astype(dtype)
    as_python = [float(v) for v in x]
    wanted = math.isinf if op_type == "IsInf" else math.isnan
    got = run_op(op_type, x, opset=version)
    assert got.dtype == bool
    assert got.tolist() == [wanted(v) for v in as_python]
    assert run_op(op_type, x[1], opset=version).shape == ()


@pytest.mark.parametrize("negative", [0, 1])
@pytest.mark.parametrize("positive", [0, 1])
def test_is_inf_detects_the_wanted_signs(negative, positive):
    x = np.array([-np.inf, 0, np.inf, np.nan], np.float32)
    got = run_op("IsInf", x, opset=10, detect_negative=negative, detect_positive=positive)
    assert got.tolist() == [bool(negative), False, bool(positive), False]


def test_float8_without_infinities_has_none():
    x = np.array([448, 1e9], np.float32).astype(ml_dtypes.float8_e4m3fn)
    assert run_op("IsInf", x, opset=20).tolist() == [False, False]
    assert run_op("IsNaN", x, opset=20).tolist() == [False, True]


@pytest.mark.parametrize(("op_type", "version", "dtype"), rows("Not", "BitwiseNot"), ids=str)
def test_negation_of_bits(op_type, version, dtype):
    x = sample(dtype, (3, 4), -100, 100)
    mask = 1 if dtype.kind == "b" else 2 ** (8 * dtype.itemsize) - 1
    want = (x.astype(object) ^ mask).tolist() if dtype.kind != "i" else (-1 - x.astype(object)).tolist()
    got = run_op(op_type, x, opset=version)
    assert got.dtype == dtype
    assert got.tolist() == want


@pytest.mark.parametrize("dtype", dtypes("Identity", 25), ids=str)
def test_identity_of_every_tensor_type(dtype):
    x = np.array(["a"], object) if dtype.kind == "O" else np.ones((2, 1)).astype(dtype)
    got = run_op("Identity", x, opset=25)
    assert got.dtype == dtype
    assert got.tolist() == x.tolist()


@pytest.mark.parametrize("value", [None, [], [np.ones(2), np.zeros(())], np.ones((0, 3))])
def test_identity_of_sequences_and_optionals(value):
    assert run_op("Identity", value, opset=16) is value
