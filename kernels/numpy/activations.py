"""Activation functions of any shape, and the softmax family.

FLOAT attributes are float32 numbers: the defaults below are the schemas' values to the last digit, so
that a float64 input sees the same coefficient as where the model spells it out. Low-precision inputs
are computed in float32 with these coefficients and rounded once; a threshold, however, is first
rounded to the input's type, as in the function bodies of the specification.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np

from onnxref.dtypes import LOW_PRECISION, Array
from onnxref.errors import KernelError
from onnxref.registry import op

from ._checks import broadcasts_to, check_choice, check_shape, normalize_axis, scalar
from ._common import in_float32, like_first_input, log_softmax, narrow, sigmoid, softmax, widen, wrap
from .elementwise import error_function

# `consumed_inputs` of version 1 is a hint for in-place execution; it never changes a result.
Hint = tuple[int, ...] | None


@op("Relu", since=(1, 6, 13, 14))
@in_float32
def relu(x: Array, *, consumed_inputs: Hint = None) -> Any:
    """Return max(0, x) (ONNX Relu-14)."""
    return np.maximum(x, 0)


@op("LeakyRelu", since=(1, 6, 16))
@in_float32
def leaky_relu(x: Array, *, alpha: float = 0.009999999776482582, consumed_inputs: Hint = None) -> Any:
    """Return x where it is not negative, else alpha * x (ONNX LeakyRelu-16)."""
    return np.where(x < 0, alpha * x, x)


@op("PRelu", since=(1, 6))
@in_float32
def prelu_by_channel(x: Array, slope: Array, *, consumed_inputs: Hint = None) -> Any:
    """Leak `x` (N, C, ...) with one slope for all, or one for each channel (C,) (ONNX PRelu-6)."""
    if slope.size == 1:
        slope = slope.reshape(())
    elif x.ndim > 1 and slope.shape == x.shape[1:2]:
        slope = slope.reshape(slope.shape + (1,) * (x.ndim - 2))
    elif slope.shape != x.shape:
        raise KernelError(f"slope must have one element or one per channel of {x.shape} (got {slope.shape})")
    return np.where(x < 0, slope * x, x)


@op("PRelu", since=(7, 9, 16))
@in_float32
def prelu(x: Array, slope: Array) -> Any:
    """Leak `x` with slopes that broadcast to its shape, one way only (ONNX PRelu-16)."""
    if not broadcasts_to(slope.shape, x.shape):
        raise KernelError(f"slope must broadcast to the shape {x.shape} of X (got {slope.shape})")
    return np.where(x < 0, slope * x, x)


@op("Elu", since=(1, 6, 22))
@in_float32
def elu(x: Array, *, alpha: float = 1.0, consumed_inputs: Hint = None) -> Any:
    """Return x where it is not negative, else alpha * (exp(x) - 1) (ONNX Elu-22)."""
    return np.where(x < 0, alpha * np.expm1(np.minimum(x, 0)), x)


def _selu(x: Array, alpha: float, gamma: float) -> Any:
    return gamma * np.where(x <= 0, alpha * np.expm1(np.minimum(x, 0)), x)


@op("Selu", since=1)
@in_float32
def selu_1(
    x: Array,
    *,
    alpha: float = 1.673200011253357,
    gamma: float = 1.0506999492645264,
    consumed_inputs: Hint = None,
) -> Any:
    """Return Elu scaled by gamma, with the shorter constants of version 1 (ONNX Selu-1)."""
    return _selu(x, alpha, gamma)


@op("Selu", since=(6, 22))
@in_float32
def selu(x: Array, *, alpha: float = 1.6732631921768188, gamma: float = 1.0507010221481323) -> Any:
    """Return Elu scaled by gamma (ONNX Selu-22)."""
    return _selu(x, alpha, gamma)


@op("Celu", since=(12, 28))
@in_float32
def celu(x: Array, *, alpha: float = 1.0) -> Any:
    """Return max(0, x) + min(0, alpha * (exp(x / alpha) - 1)) (ONNX Celu-28)."""
    return np.maximum(x, 0) + np.minimum(alpha * np.expm1(x / alpha), 0)


@op("Sigmoid", since=(1, 6, 13))
@in_float32
def sigmoid_(x: Array, *, consumed_inputs: Hint = None) -> Any:
    """Return 1 / (1 + exp(-x)) (ONNX Sigmoid-13)."""
    return sigmoid(x)


@op("HardSigmoid", since=(1, 6, 22))
@in_float32
def hard_sigmoid(
    x: Array, *, alpha: float = 0.20000000298023224, beta: float = 0.5, consumed_inputs: Hint = None
) -> Any:
    """Return max(0, min(1, alpha * x + beta)) (ONNX HardSigmoid-22)."""
    return np.clip(alpha * x + beta, 0, 1)


@op("HardSwish", since=(14, 22))
@in_float32
def hard_swish(x: Array) -> Any:
    """Return x * max(0, min(1, x / 6 + 0.5)) (ONNX HardSwish-22)."""
    return x * np.clip(x / 6 + 0.5, 0, 1)


@op("Swish", since=24)
@in_float32
def swish(x: Array, *, alpha: float = 1.0) -> Any:
    """Return x * sigmoid(alpha * x) (ONNX Swish-24)."""
    return x * sigmoid(alpha * x)


@op("SwiGLU", since=28)
@in_float32
def swiglu(a: Array, b: Array, *, alpha: float = 1.0) -> Any:
    """Return the Swish of gate `a` times `b` of the same shape (ONNX SwiGLU-28)."""
    check_shape(b, a.shape, "B")
    return a * sigmoid(alpha * a) * b


def _softplus(x: Array) -> Any:
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


@op("Softplus", since=(1, 22))
@in_float32
def softplus(x: Array) -> Any:
    """Return log(1 + exp(x)), without overflow (ONNX Softplus-22)."""
    return _softplus(x)


@op("Mish", since=(18, 22))
@in_float32
def mish(x: Array) -> Any:
    """Return x * tanh(softplus(x)) (ONNX Mish-22)."""
    return x * np.tanh(_softplus(x))


@op("Softsign", since=(1, 22))
@in_float32
def softsign(input: Array) -> Any:
    """Return x / (1 + |x|) (ONNX Softsign-22)."""
    return input / (1 + np.abs(input))


@op("Gelu", since=20, cost=like_first_input(40))  # float64 and its temporaries
def gelu(x: Array, *, approximate: str = "none") -> Array:
    """Return x times the normal distribution function of x, or its tanh approximation (ONNX Gelu-20)."""
    check_choice(approximate, ("none", "tanh"), "approximate")
    # In float64, because 1 + erf(x) cancels for negative x and would leave few digits of float32.
    wide = x.astype(np.float64)
    if approximate == "none":
        phi = 1 + error_function(wide / math.sqrt(2), single=x.dtype != np.float64)
    else:
        phi = 1 + np.tanh(math.sqrt(2 / math.pi) * (wide + 0.044715 * wide * wide * wide))
    return narrow(0.5 * wide * phi, x.dtype)


@op("ThresholdedRelu", since=(10, 22))
def thresholded_relu(x: Array, *, alpha: float = 1.0) -> Array:
    """Return x where it is greater than alpha, else 0 (ONNX ThresholdedRelu-22)."""
    threshold = np.asarray(alpha, np.float32).astype(x.dtype)
    return np.where(x > threshold, x, x.dtype.type(0))


@op("Shrink", since=9)
def shrink(input: Array, *, bias: float = 0.0, lambd: float = 0.5) -> Any:
    """Move x beyond [-lambd, lambd] by bias toward zero, and all within to 0 (ONNX Shrink-9)."""
    x, dtype = input, input.dtype
    if dtype.kind == "f":
        step, limit = np.asarray([bias, lambd], np.float32).astype(dtype)
    else:
        if not math.isfinite(bias):
            raise KernelError(f"bias must be finite for integer inputs (got {bias})")
        step, limit = wrap(bias, dtype), lambd
    zero = dtype.type(0)
    return np.where(x < -limit, x + step, np.where(x > limit, x - step, zero))


@op("Clip", since=1)
def clip_1(
    input: Array, *, max: float | None = None, min: float | None = None, consumed_inputs: Hint = None
) -> Array:
    """Limit to [min, max], by default to the finite numbers of the type (ONNX Clip-1)."""
    return _clip(input, min, max)


@op("Clip", since=6)
def clip_6(input: Array, *, max: float = 3.4028234663852886e38, min: float = -3.4028234663852886e38) -> Array:
    """Limit to [min, max], by default to the finite numbers of float32 (ONNX Clip-6)."""
    return _clip(input, min, max)


@op("Clip", since=(11, 12, 13))
def clip(input: Array, min: Array | None = None, max: Array | None = None) -> Array:
    """Limit to [min, max], by default to the finite numbers of the type; max wins (ONNX Clip-13)."""
    # The schema wants scalars; exporters write shape (1,) too, and other runtimes take it.
    low, high = (
        None if bound is None else scalar(bound, name) for bound, name in ((min, "min"), (max, "max"))
    )
    return _clip(input, low, high)


def _clip(x: Array, low: float | None, high: float | None) -> Array:
    wide = widen(x)
    if x.dtype.kind not in "iu":  # integers have no values beyond their limits
        limits = ml_dtypes.finfo(x.dtype)  # type: ignore[no-untyped-call]
        low = float(limits.min) if low is None else low
        high = float(limits.max) if high is None else high
    if low is not None:
        wide = np.maximum(wide, low)
    if high is not None:
        wide = np.minimum(wide, high)
    return narrow(wide, x.dtype)


def _hardmax(x: Array, axis: int) -> Array:
    result = np.zeros_like(x)
    np.put_along_axis(result, x.argmax(axis, keepdims=True), 1, axis)
    return result


@op("Softmax", since=13)
def softmax_13(input: Array, *, axis: int = -1) -> Array:
    """Divide exp(input) by its sum along one axis of any shape (ONNX Softmax-13).

    float16 and bfloat16 are rounded after every step, as in the function body; the official tests
    tell this from rounding once.
    """
    axis = normalize_axis(axis, input.ndim)
    if not input.size:
        return input
    if input.dtype not in LOW_PRECISION:
        return softmax(input, axis)
    x = widen(input)
    shifted = narrow(x - x.max(axis, keepdims=True), input.dtype)
    powers = widen(narrow(np.exp(widen(shifted)), input.dtype))
    total = widen(narrow(powers.sum(axis, keepdims=True), input.dtype))
    return narrow(powers / total, input.dtype)


def _register_coerced(op_type: str, function: Callable[[Array, int], Any]) -> None:
    @op(op_type, since=(1, 11))
    @in_float32
    def coerced(input: Array, *, axis: int = 1) -> Any:
        """Work on the matrix (product of dims before `axis`, product of the others)."""
        split = normalize_axis(axis, input.ndim)
        if input.size == 0:
            return input
        rows = input.reshape(math.prod(input.shape[:split]), -1)
        return function(rows, 1).reshape(input.shape)


def _register_along_axis(op_type: str, function: Callable[[Array, int], Any]) -> None:
    @op(op_type, since=13)
    @in_float32
    def along_axis(input: Array, *, axis: int = -1) -> Any:
        """Work along one axis of any shape."""
        axis = normalize_axis(axis, input.ndim)
        return function(input, axis) if input.size else input


_register_coerced("Softmax", softmax)
_register_coerced("LogSoftmax", log_softmax)
_register_coerced("Hardmax", _hardmax)
_register_along_axis("LogSoftmax", log_softmax)
_register_along_axis("Hardmax", _hardmax)
