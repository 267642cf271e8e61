"""Activation functions and the softmax family."""

from __future__ import annotations

import math
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from elementwise_cases import SHAPES, assert_close, exact, rows, sample
from helpers import run_op, versions
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from onnxref.errors import KernelError

F32 = np.float32


def f32(*values: float) -> np.ndarray[Any, Any]:
    return np.array(values, F32)


def sigmoid(v: float) -> float:
    return 1 / (1 + math.exp(-v))


def softplus(v: float) -> float:
    return math.log(1 + math.exp(v))


LEAK, SELU_ALPHA, SELU_GAMMA = map(float, f32(0.01, 1.67326319217681884765625, 1.05070102214813232421875))

# Operator: attributes, and the formula of the specification for one number.
FORMULAS: dict[str, tuple[dict[str, Any], Any]] = {
    "Relu": ({}, lambda v: max(0, v)),
    "LeakyRelu": ({}, lambda v: LEAK * v if v < 0 else v),
    "LeakyRelu ": ({"alpha": 0.25}, lambda v: 0.25 * v if v < 0 else v),
    "Elu": ({}, lambda v: math.exp(v) - 1 if v < 0 else v),
    "Elu ": ({"alpha": 2.5}, lambda v: 2.5 * (math.exp(v) - 1) if v < 0 else v),
    "Selu ": ({"alpha": 0.5, "gamma": 3.0}, lambda v: 1.5 * (math.exp(v) - 1) if v <= 0 else 3 * v),
    "Celu": ({}, lambda v: max(0, v) + min(0, math.exp(v) - 1)),
    "Celu ": ({"alpha": 2.0}, lambda v: max(0, v) + min(0, 2 * (math.exp(v / 2) - 1))),
    "Celu  ": ({"alpha": -2.0}, lambda v: max(0, v) + min(0, -2 * (math.exp(v / -2) - 1))),
    "Sigmoid": ({}, sigmoid),
    "HardSigmoid": ({}, lambda v: max(0, min(1, float(F32(0.2)) * v + 0.5))),
    "HardSigmoid ": ({"alpha": 0.5, "beta": 0.25}, lambda v: max(0, min(1, 0.5 * v + 0.25))),
    "HardSwish": ({}, lambda v: v * max(0, min(1, v / 6 + 0.5))),
    "Swish": ({}, lambda v: v * sigmoid(v)),
    "Swish ": ({"alpha": -1.5}, lambda v: v * sigmoid(-1.5 * v)),
    "Mish": ({}, lambda v: v * math.tanh(softplus(v))),
    "Gelu": ({}, lambda v: 0.5 * v * (1 + math.erf(v / math.sqrt(2)))),
    "Gelu ": (
        {"approximate": "tanh"},
        lambda v: 0.5 * v * (1 + math.tanh(math.sqrt(2 / math.pi) * (v + 0.044715 * v**3))),
    ),
    "Softplus": ({}, softplus),
    "Softsign": ({}, lambda v: v / (1 + abs(v))),
    "ThresholdedRelu": ({}, lambda v: v if v > 1 else 0),
    "ThresholdedRelu ": ({"alpha": -1.5}, lambda v: v if v > -1.5 else 0),
    "Shrink": ({}, lambda v: v if v < -0.5 or v > 0.5 else 0),
    "Shrink ": ({"lambd": 1.5, "bias": 1.0}, lambda v: v + 1 if v < -1.5 else v - 1 if v > 1.5 else 0),
}


@pytest.mark.parametrize(
    ("name", "version", "dtype"),
    [(name, v, dtype) for name in FORMULAS for _, v, dtype in rows(name.strip())],
    ids=str,
)
def test_formula(name, version, dtype):
    attributes, formula = FORMULAS[name]
    for shape in SHAPES:
        x = sample(dtype, shape)
        want = np.vectorize(formula, otypes=[object])(exact(x))
        got = run_op(name.strip(), x, opset=version, **attributes)
        assert_close(got, want if dtype.kind in "iu" else want.astype(float), dtype, factor=8)


@pytest.mark.parametrize("op_type", ["Relu", "LeakyRelu", "Elu", "Selu", "Sigmoid", "HardSigmoid", "Clip"])
def test_version_1_takes_the_in_place_hint(op_type):
    x = f32(-1, 0.5, 2)
    np.testing.assert_array_equal(
        run_op(op_type, x, opset=1, consumed_inputs=(1,)), run_op(op_type, x, opset=1)
    )


@pytest.mark.parametrize(
    ("version", "alpha", "gamma"),
    [(1, 1.6732, 1.0507), (6, SELU_ALPHA, SELU_GAMMA), (22, SELU_ALPHA, SELU_GAMMA)],
)
def test_selu_defaults_of_each_version(version, alpha, gamma):
    x = np.array([-2.0, 3.0])  # float64 tells the constants apart
    want = [float(F32(gamma)) * float(F32(alpha)) * math.expm1(-2.0), 3 * float(F32(gamma))]
    np.testing.assert_allclose(run_op("Selu", x, opset=version), want, rtol=1e-14)


@pytest.mark.parametrize(
    ("op_type", "x", "want"),
    [
        ("Sigmoid", [-1000, -100, 1000], [0, math.exp(-100), 1]),
        ("Softplus", [-1000, -100, 1000, np.inf, -np.inf], [0, math.exp(-100), 1000, np.inf, 0]),
        ("Mish", [-80, 1000], [-80 * math.exp(-80), 1000]),
        ("Elu", [1000, -1000, -1e-6], [1000, -1, math.expm1(-1e-6)]),
        ("Celu", [1000, -1000], [1000, -1]),
        ("Selu", [1000], [1000 * SELU_GAMMA]),
        ("Swish", [-80, 1000], [-80 * math.exp(-80), 1000]),
        ("Gelu", [-7, 100], [-7 * 0.5 * math.erfc(7 / math.sqrt(2)), 100]),
    ],
)
def test_far_from_zero(op_type, x, want):
    version = versions(op_type)[-1]
    got = run_op(op_type, f32(*x), opset=version)
    # 1e-45 is the smallest float32: results down there have few digits.
    np.testing.assert_allclose(got, f32(*want), rtol=2e-4, atol=3e-45)


@pytest.mark.parametrize(
    "op_type",
    [
        "Relu",
        "LeakyRelu",
        "Elu",
        "Selu",
        "Celu",
        "Sigmoid",
        "HardSigmoid",
        "HardSwish",
        "Swish",
        "Mish",
        "Gelu",
    ]
    + ["Softplus", "Softsign", "Clip"],
)
def test_nan_propagates(op_type):
    assert np.isnan(run_op(op_type, f32(np.nan), opset=versions(op_type)[-1]))[0]


def test_low_precision_rounds_once():
    x = np.array([-2.5, -1, 0.3, 1.7, 6], np.float16)
    wide = run_op("Mish", x.astype(F32), opset=22)
    np.testing.assert_array_equal(run_op("Mish", x, opset=22), wide.astype(np.float16))
    # In float16 itself 1 + 60000 would round.
    assert run_op("Softsign", np.array([60000], np.float16), opset=22)[0] == np.float16(60000 / 60001)


def test_thresholds_are_rounded_to_the_input_type():
    # float16(0.3) is above 0.3: only equal after rounding the threshold as the function body does.
    x = np.array([0.3], np.float16)
    assert run_op("ThresholdedRelu", x, opset=22, alpha=0.3)[0] == 0
    assert run_op("Shrink", x, opset=9, lambd=0.3)[0] == 0


def test_shrink_of_integers_uses_the_integer_part_of_bias():
    got = run_op("Shrink", np.array([-3, 0, 5], np.int32), opset=9, bias=1.5, lambd=0.5)
    assert got.tolist() == [-2, 0, 4]
    wrapped = run_op("Shrink", np.array([1, 250], np.uint8), opset=9, bias=-10.0)
    assert wrapped.tolist() == [11, 4]
    with pytest.raises(KernelError, match=r"bias must be finite for integer inputs \(got inf\)"):
        run_op("Shrink", np.array([1]), opset=9, bias=math.inf)


# PRelu


@pytest.mark.parametrize(("op_type", "version", "dtype"), rows("PRelu"), ids=str)
def test_prelu_at_every_type(op_type, version, dtype):
    x, slope = sample(dtype, (2, 3), -4, 4), sample(dtype, (1,), 2, 2)
    want = np.where(exact(x) < 0, exact(x) * 2, exact(x))
    assert_close(run_op(op_type, x, slope, opset=version), want, dtype)


def test_prelu_slopes_are_channels_before_version_7():
    x = -np.ones((2, 3, 3), F32)
    slope = f32(1, 2, 3)
    old = run_op("PRelu", x, slope, opset=6)
    new = run_op("PRelu", x, slope, opset=7)
    np.testing.assert_array_equal(old, np.broadcast_to([[-1], [-2], [-3]], (2, 3, 3)))
    np.testing.assert_array_equal(new, np.broadcast_to([-1, -2, -3], (2, 3, 3)))


@pytest.mark.parametrize(
    ("version", "slope", "message"),
    [
        (1, (2, 1), r"one element or one per channel of \(2, 3\) \(got \(2, 1\)\)"),
        (6, (2,), r"one element or one per channel of \(2, 3\) \(got \(2,\)\)"),
        (7, (4, 2, 3), r"broadcast to the shape \(2, 3\) of X \(got \(4, 2, 3\)\)"),
        (16, (2,), r"broadcast to the shape \(2, 3\) of X \(got \(2,\)\)"),
    ],
)
def test_prelu_slopes_of_a_wrong_shape(version, slope, message):
    with pytest.raises(KernelError, match=message):
        run_op("PRelu", np.ones((2, 3), F32), np.ones(slope, F32), opset=version)


def test_prelu_never_grows_its_input():
    with pytest.raises(KernelError, match="must broadcast to the shape"):
        run_op("PRelu", np.ones((1, 3), F32), np.ones((5, 3), F32), opset=16)


# SwiGLU and Gelu


@pytest.mark.parametrize(("op_type", "version", "dtype"), rows("SwiGLU"), ids=str)
def test_swiglu(op_type, version, dtype):
    a, b = sample(dtype, (2, 3)), sample(dtype, (2, 3), 1, 2)
    want = [x * sigmoid(0.5 * x) * y for x, y in zip(exact(a).flat, exact(b).flat, strict=True)]
    assert_close(run_op(op_type, a, b, opset=version, alpha=0.5), np.reshape(want, (2, 3)), dtype)


def test_swiglu_does_not_broadcast():
    with pytest.raises(KernelError, match=r"B must have shape \(2, 3\) \(got \(3,\)\)"):
        run_op("SwiGLU", np.ones((2, 3), F32), np.ones(3, F32), opset=28)


def test_gelu_refuses_other_approximations():
    with pytest.raises(KernelError, match=r"approximate must be one of none, tanh \(got 'sigmoid'\)"):
        run_op("Gelu", f32(1), opset=20, approximate="sigmoid")


# Clip


@pytest.mark.parametrize(("op_type", "version", "dtype"), rows("Clip"), ids=str)
def test_clip_at_every_type(op_type, version, dtype):
    for shape in SHAPES:
        x = sample(dtype, shape, -4, 4)
        if version < 11:
            got = run_op("Clip", x, opset=version, min=1.0, max=2.0)
        else:
            got = run_op("Clip", x, np.array(1, dtype), np.array(2, dtype), opset=version)
        assert_close(got, np.minimum(np.maximum(exact(x), 1), 2), dtype)


def test_clip_with_one_bound_or_none():
    x = f32(-3, 0, 3)
    assert run_op("Clip", x, opset=13).tolist() == [-3, 0, 3]
    assert run_op("Clip", x, f32(1).reshape(()), opset=13).tolist() == [1, 1, 3]
    assert run_op("Clip", x, None, f32(1).reshape(()), opset=13).tolist() == [-3, 0, 1]
    assert run_op("Clip", np.array([1, 9], np.uint8), None, np.array([5], np.uint8), opset=12).tolist() == [
        1,
        5,
    ]


@pytest.mark.parametrize(
    ("version", "dtype", "largest"),
    [
        (1, np.float16, 65504.0),
        (1, np.float64, np.finfo(np.float64).max),
        (6, np.float32, float(np.finfo(F32).max)),
        (6, np.float64, float(np.finfo(F32).max)),  # the default of version 6 is a number of float32
        (13, np.float64, np.finfo(np.float64).max),
        (13, ml_dtypes.bfloat16, float(ml_dtypes.finfo(ml_dtypes.bfloat16).max)),
    ],
)
def test_clip_defaults_to_finite_numbers(version, dtype, largest):
    got = run_op("Clip", np.array([-np.inf, np.inf]).astype(dtype), opset=version)
    assert got.astype(float).tolist() == [-largest, largest]


def test_clip_prefers_max_where_the_bounds_cross():
    got = run_op("Clip", f32(0, 5, 9), f32(6).reshape(()), f32(2).reshape(()), opset=13)
    assert got.tolist() == [2, 2, 2]


def test_clip_bounds_must_be_scalars():
    with pytest.raises(KernelError, match=r"min must have one element \(got shape \(2,\)\)"):
        run_op("Clip", f32(0), f32(1, 2), opset=13)


# Softmax, LogSoftmax, Hardmax


def slow(op_type: str, row: list[float]) -> list[float]:
    """The definition of the specification for one group of numbers."""
    if op_type == "Hardmax":
        return [float(k == row.index(max(row))) for k in range(len(row))]
    total = math.fsum(math.exp(v) for v in row)
    if op_type == "Softmax":
        return [math.exp(v) / total for v in row]
    return [v - math.log(total) for v in row]


FAMILY = ("Softmax", "LogSoftmax", "Hardmax")


@pytest.mark.parametrize(("op_type", "version", "dtype"), rows(*FAMILY), ids=str)
@pytest.mark.parametrize("axis", [None, 0, 1, 2, -1, -3])
def test_softmax_family(op_type, version, dtype, axis):
    x = sample(dtype, (2, 3, 4))
    attributes = {} if axis is None else {"axis": axis}
    got = run_op(op_type, x, opset=version, **attributes)
    if version < 13:
        start = (1 if axis is None else axis) % 3
        groups = exact(x).reshape(math.prod(x.shape[:start]), -1)
        want = np.array([slow(op_type, row.tolist()) for row in groups]).reshape(x.shape)
    else:
        axis = -1 if axis is None else axis
        want = np.apply_along_axis(lambda row: slow(op_type, row.tolist()), axis, exact(x))
    # The logarithm of a probability near 1 is a difference of numbers near 1. Softmax-13 rounds
    # low precision before the exponential, which multiplies that error by up to max(x) - min(x).
    loose = op_type == "LogSoftmax" or (op_type == "Softmax" and version == 13 and dtype.itemsize < 4)
    assert_close(got, want, dtype, factor=8, scale=1 if loose else 0.01)


def test_softmax_13_rounds_low_precision_like_its_body():
    x = sample(np.dtype(np.float16), (5, 7))
    powers = np.exp((x - x.max(-1, keepdims=True)).astype(F32)).astype(np.float16).astype(F32)
    total = powers.sum(-1, keepdims=True).astype(np.float16).astype(F32)
    np.testing.assert_array_equal(run_op("Softmax", x, opset=13), (powers / total).astype(np.float16))


@pytest.mark.parametrize("op_type", FAMILY)
def test_softmax_axis_changed_its_meaning_at_13(op_type):
    x = sample(np.dtype(F32), (2, 3, 4))
    old, new = (run_op(op_type, x, opset=v, axis=1) for v in (11, 13))
    assert not np.allclose(old, new)


@pytest.mark.parametrize("op_type", FAMILY)
@pytest.mark.parametrize("version", [1, 11, 13])
@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (2, 0, 3)])
def test_softmax_of_nothing(op_type, version, shape):
    assert run_op(op_type, np.ones(shape, F32), opset=version).shape == shape


@pytest.mark.parametrize("op_type", FAMILY)
@pytest.mark.parametrize(
    ("version", "shape", "axis"), [(1, (2, 3), 2), (11, (3,), 1), (13, (2,), -2), (13, (), -1)]
)
def test_softmax_axis_out_of_range(op_type, version, shape, axis):
    with pytest.raises(KernelError, match=r"axis must be in"):
        run_op(op_type, np.ones(shape, F32), opset=version, axis=axis)


@given(
    hnp.arrays(F32, st.tuples(st.integers(1, 4), st.integers(1, 6)), elements=st.floats(-1e4, 1e4, width=32))
)
@settings(max_examples=50, deadline=None)
def test_softmax_laws(x):
    p = run_op("Softmax", x, opset=13)
    assert (p >= 0).all()
    np.testing.assert_allclose(p.sum(-1), 1, rtol=1e-6)
    log_p = run_op("LogSoftmax", x, opset=13)
    assert np.isfinite(log_p).all()
    np.testing.assert_allclose(np.exp(log_p), p, rtol=2e-5, atol=1e-37)
    hard = run_op("Hardmax", x, opset=13)
    np.testing.assert_array_equal(hard.argmax(-1), x.argmax(-1))
    np.testing.assert_array_equal(hard.sum(-1), 1)


def test_hardmax_takes_the_first_of_equal_maxima():
    assert run_op("Hardmax", f32(1, 3, 3).reshape(1, 3), opset=13).tolist() == [[0, 1, 0]]
