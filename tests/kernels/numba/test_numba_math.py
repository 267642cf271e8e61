"""The float32 functions of native kernels against float64, over dense samples and at the extremes."""

from __future__ import annotations

import math

import numpy as np
import pytest
from onnxref.kernels.numpy.elementwise import error_function

from onnxref.native._target import target

numba = pytest.importorskip("numba")
from onnxref.kernels.numba.code import _math as functions  # noqa: E402 - it imports Numba

_RNG = np.random.default_rng(0)
_X = np.concatenate(
    [
        np.linspace(-110, 110, 400_001),
        np.linspace(-6, 6, 400_001),
        _RNG.standard_normal(200_000),
        np.exp(_RNG.uniform(-100, 88, 200_000)) * _RNG.choice([-1, 1], 200_000),
        [
            0.0,
            -0.0,
            1e-45,
            -1e-45,
            1.17549435e-38,
            3.4028235e38,
            -3.4028235e38,
            math.inf,
            -math.inf,
            math.nan,
        ],
    ]
).astype(np.float32)


def _sigmoid(x):
    tail = np.exp(-np.abs(x))
    return np.where(x < 0, tail, 1) / (1 + tail)


def _softplus(x):
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


def _gelu(x):
    from scipy.special import ndtr

    return x * ndtr(x)


def _mish(x):
    return x * np.tanh(_softplus(x))


def _gelu_tanh(x):
    return x * _sigmoid(2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))


def _bound_of_gelu(x):
    return np.where(x < 0, 4 + x * x / 2, 4)


def _bound_of_gelu_tanh(x):
    return np.where(x < 0, 8 + np.abs(x) ** 3 / 4, 3)


# Below this much they may be 0.
_FLUSHED = {"sigmoid32": 3e-39, "silu32": 3e-37, "gelu_tanh32": 3e-37}
# name, reference in float64, largest error in ulp
_CASES = (
    ("exp32", np.exp, 1.01),
    ("expm1_32", lambda x: np.where(x > 0, 0, np.expm1(x)), 2),
    ("log32", np.log, 1),
    ("sin32", np.sin, 2),
    ("cos32", np.cos, 2),
    ("tanh32", np.tanh, 3),
    ("erf32", error_function, 2),
    ("sigmoid32", _sigmoid, 3),
    ("silu32", lambda x: x * _sigmoid(x), 3),
    ("softplus32", _softplus, 3),
    ("mish32", _mish, 5),
    ("gelu32", _gelu, _bound_of_gelu),
    ("gelu_tanh32", _gelu_tanh, _bound_of_gelu_tanh),
)


_SLACK = 1.0 if target().lanes > 4 else 1.5  # without a fused multiply-add


def _looped(function):
    @numba.njit(["void(float32[::1], float32[::1])"], fastmath={"contract"}, error_model="numpy")
    def loop(x, y):
        for i in range(x.size):
            y[i] = function(x[i])

    return loop


@pytest.mark.parametrize(("name", "reference", "bound"), _CASES, ids=[case[0] for case in _CASES])
def test_error_in_ulp(name, reference, bound):
    if name == "gelu32":
        pytest.importorskip("scipy")
    loop = _looped(getattr(functions, name))
    found = np.empty_like(_X)
    loop(_X, found)
    with np.errstate(all="ignore"):
        wanted = reference(_X.astype(np.float64))
        rounded = wanted.astype(np.float32)
        limit = (
            _SLACK
            * (bound(_X) if callable(bound) else bound)
            * np.spacing(np.abs(rounded)).astype(np.float64)
        )
        limit = np.where(np.abs(wanted) < 1e-36, np.maximum(limit, _FLUSHED.get(name, 1.3e-43)), limit)
        close = np.abs(found.astype(np.float64) - wanted) <= limit
    same = (found == rounded) | (np.isnan(found) & np.isnan(rounded))
    wrong = ~(close | same)
    assert not wrong.any(), list(zip(_X[wrong][:5], found[wrong][:5], wanted[wrong][:5], strict=True))
    zeros = (_X == 0) & (rounded == 0)
    np.testing.assert_array_equal(np.signbit(found[zeros]), np.signbit(rounded[zeros]))


@pytest.mark.skipif(target().lanes != 16, reason="looks for the registers of AVX-512")
@pytest.mark.parametrize("name", [case[0] for case in _CASES])
def test_loops_are_vectorised(name):
    (assembly,) = _looped(getattr(functions, name)).inspect_asm().values()
    assert "%zmm" in assembly


@pytest.mark.parametrize(
    ("name", "alpha", "beta", "reference"),
    [
        ("", 0, 0, lambda v: v),
        ("Relu", 0, 0, lambda v: np.maximum(v, 0)),
        ("Clip", -1, 2, lambda v: np.clip(v, -1, 2)),
        ("LeakyRelu", 0.25, 0, lambda v: np.where(v < 0, 0.25 * v, v)),
        ("Sigmoid", 0, 0, _sigmoid),
        ("HardSigmoid", 0.25, 0.5, lambda v: np.clip(0.25 * v + 0.5, 0, 1)),
        ("HardSwish", 0, 0, lambda v: v * np.clip(v / 6 + 0.5, 0, 1)),
        ("Silu", 0, 0, lambda v: v * _sigmoid(v)),
        ("Tanh", 0, 0, np.tanh),
        ("Gelu", 0, 0, lambda v: 0.5 * v * (1 + error_function(v / math.sqrt(2)))),
        ("GeluTanh", 0, 0, _gelu_tanh),
    ],
)
def test_activations(name, alpha, beta, reference):
    function = functions.activation32(name)
    a, b = np.float32(alpha), np.float32(beta)
    loop = _looped(numba.njit(lambda v: function(v, a, b)))
    x = np.array([-7, -3, -1, -0.25, -0.0, 0, 0.5, 1, 3, 8, math.nan], np.float32)
    found = np.empty_like(x)
    loop(x, found)
    np.testing.assert_allclose(found, reference(x.astype(np.float64)), rtol=1e-6, atol=1e-10)
