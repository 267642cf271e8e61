"""Normalizations: batch, instance, group, layer, RMS, local response, Lp, mean and variance."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from onnxref.dtypes import Array, DType
from onnxref.errors import KernelError
from onnxref.registry import Context, Cost, op

from ._checks import broadcasts_to, check_choice, float_dtype, normalize_axes, normalize_axis
from ._common import in_float32, like_first_input, mean, narrow, widen

# Attributes are float32, and so are their defaults: it shows where the tensors are float64.
_EPSILON, _MOMENTUM, _LRN_ALPHA = (float(np.float32(x)) for x in (1e-5, 0.9, 1e-4))


def _end_of_stage_one(y: Array, stash: DType, dtype: DType) -> Array:
    """Round to the stash type and then to that of X, as the spec says; ready for stage two."""
    return widen(narrow(narrow(y, stash), dtype))


def _moments(x: Array, axes: tuple[int, ...]) -> tuple[Array, Array, Array]:
    """Return mean, deviation and population variance, the reduced axes kept with size 1.

    Two passes: E[x^2] - E[x]^2, as some function bodies have it, cancels and can go below zero.
    """
    average = mean(x, axes)
    deviation = x - average
    return average, deviation, mean(np.square(deviation), axes)


def _inverse_std(variance: Array, epsilon: float) -> Array:
    return 1 / np.sqrt(variance + variance.dtype.type(epsilon))  # type: ignore[no-any-return]


def _check_channels(channels: int, unit: str = "channel", **parameters: Array) -> None:
    for name, value in parameters.items():
        if value.shape != (channels,):
            raise KernelError(f"{name} must have shape ({channels},), one per {unit} (got {value.shape})")


# BatchNormalization ---------------------------------------------------------------------------


def _to_float(*values: Array) -> list[Array]:
    """Return all in the widest of their types, and float32 at least."""
    dtype = np.result_type(*(widen(v).dtype for v in values))
    return [v.astype(dtype, copy=False) for v in values]


def _batch_normalize(
    inputs: tuple[Array, ...], epsilon: float, momentum: float, training: bool, spatial: bool = True
) -> tuple[Array, ...]:
    """Normalize `(N, C, ...)`; return Y, or in training Y, running mean and var, batch mean and var."""
    x, scale, b, mean, var = inputs
    if x.ndim == 0:
        raise KernelError("X must have at least one dimension (got a scalar)")
    if x.ndim == 1:
        shape: tuple[int, ...] = (x.shape[0], 1, 1)  # a single dimension is N, with C = 1
    elif spatial:
        shape = (*x.shape[:2], math.prod(x.shape[2:]))
    else:
        # every feature is a channel; later versions advise to flatten the input in this way
        shape = (x.shape[0], math.prod(x.shape[1:]), 1)
    for name, value in (("scale", scale), ("B", b), ("mean", mean), ("var", var)):
        if value.size != shape[1]:
            raise KernelError(f"{name} must have {shape[1]} elements, one per channel (got {value.size})")
    wide, *parameters = _to_float(x.reshape(shape), scale, b, mean, var)
    wide_scale, wide_b, old_mean, old_var = (p.reshape(1, -1, 1) for p in parameters)
    if training:
        batch_mean, y, batch_var = _moments(wide, (0, 2))
    else:
        batch_mean, batch_var = old_mean, old_var
        y = wide - batch_mean
    y *= wide_scale * _inverse_std(batch_var, epsilon)
    y += wide_b
    normalized = narrow(y.reshape(x.shape), x.dtype)
    if not training:
        return (normalized,)
    kept = batch_mean.dtype.type(momentum)
    running = (old_mean * kept + batch_mean * (1 - kept), old_var * kept + batch_var * (1 - kept))
    statistics = zip((*running, batch_mean, batch_var), (mean, var) * 2, strict=True)
    return (normalized, *(narrow(s.reshape(like.shape), like.dtype) for s, like in statistics))


@op("BatchNormalization", since=(1, 6))
def batch_normalization_6(
    x: Array,
    scale: Array,
    b: Array,
    mean: Array,
    var: Array,
    *,
    consumed_inputs: tuple[int, ...] | None = None,
    epsilon: float = _EPSILON,
    is_test: int = 0,
    momentum: float = _MOMENTUM,
    spatial: int = 1,
) -> tuple[Array, ...]:
    """Normalize `(N, C, ...)` per channel, in training mode unless `is_test` (ONNX BatchNormalization-6)."""
    # consumed_inputs is a hint that an input's memory may be reused; it never changes a result.
    return _batch_normalize((x, scale, b, mean, var), epsilon, momentum, not is_test, bool(spatial))


@op("BatchNormalization", since=7)
def batch_normalization_7(
    x: Array,
    scale: Array,
    b: Array,
    mean: Array,
    var: Array,
    *,
    ctx: Context,
    epsilon: float = _EPSILON,
    momentum: float = _MOMENTUM,
    spatial: int = 1,
) -> tuple[Array, ...]:
    """Normalize `(N, C, ...)`, in training mode if it has outputs besides Y (ONNX BatchNormalization-7)."""
    training = ctx.n_outputs > 1
    return _batch_normalize((x, scale, b, mean, var), epsilon, momentum, training, bool(spatial))


@op("BatchNormalization", since=9)
def batch_normalization_9(
    x: Array,
    scale: Array,
    b: Array,
    mean: Array,
    var: Array,
    *,
    ctx: Context,
    epsilon: float = _EPSILON,
    momentum: float = _MOMENTUM,
) -> tuple[Array, ...]:
    """Normalize `(N, C, ...)`, in training mode if it has outputs besides Y (ONNX BatchNormalization-9)."""
    return _batch_normalize((x, scale, b, mean, var), epsilon, momentum, ctx.n_outputs > 1)


@op("BatchNormalization", since=(14, 15))
def batch_normalization(
    x: Array,
    scale: Array,
    b: Array,
    input_mean: Array,
    input_var: Array,
    *,
    ctx: Context,
    epsilon: float = _EPSILON,
    momentum: float = _MOMENTUM,
    training_mode: int = 0,
) -> tuple[Array, ...]:
    """Normalize `(N, C, ...)` by given statistics, or in training by its own (ONNX BatchNormalization-15)."""
    if not training_mode and any(ctx.wanted[1:]):
        raise KernelError("training_mode must be 1 where outputs besides Y are used (got 0)")
    inputs = (x, scale, b, input_mean, input_var)
    return _batch_normalize(inputs, epsilon, momentum, bool(training_mode))[:3]


# InstanceNormalization, GroupNormalization ----------------------------------------------------


@op("InstanceNormalization", since=(1, 6, 22))
@in_float32
def instance_normalization(
    input: Array,
    scale: Array,
    b: Array,
    *,
    consumed_inputs: tuple[int, ...] | None = None,
    epsilon: float = _EPSILON,
) -> Array:
    """Normalize `(N, C, ...)` per instance and channel, scale and shift (ONNX InstanceNormalization-22)."""
    if input.ndim < 2:
        raise KernelError(f"input must have shape (N, C, ...) (got {input.shape})")
    _check_channels(input.shape[1], scale=scale, B=b)
    per_channel = (-1,) + (1,) * (input.ndim - 2)
    _, y, variance = _moments(input, tuple(range(2, input.ndim)))
    y *= _inverse_std(variance, epsilon) * scale.reshape(per_channel)
    y += b.reshape(per_channel)
    return y


def _standardize_groups(x: Array, num_groups: int, epsilon: float) -> Array:
    """Give each group of channels of `(N, C, ...)` zero mean and unit variance; keeps `(N, C, rest)`."""
    if x.ndim < 2:
        raise KernelError(f"X must have shape (N, C, ...) (got {x.shape})")
    n, channels = x.shape[:2]
    if not 1 <= num_groups <= max(channels, 1) or channels % num_groups:
        raise KernelError(f"num_groups must divide the {channels} channels (got {num_groups})")
    spatial = math.prod(x.shape[2:])
    groups = x.reshape(n, num_groups, channels // num_groups * spatial)
    _, y, variance = _moments(groups, (2,))
    y *= _inverse_std(variance, epsilon)
    return y.reshape(n, channels, spatial)


@op("GroupNormalization", since=18)
@in_float32
def group_normalization_18(
    x: Array, scale: Array, bias: Array, *, num_groups: int, epsilon: float = _EPSILON
) -> Array:
    """Normalize groups of channels; one scale and bias per group (ONNX GroupNormalization-18)."""
    y = _standardize_groups(x, num_groups, epsilon)
    _check_channels(num_groups, "group", scale=scale, bias=bias)
    grouped = y.reshape(x.shape[0], num_groups, x.shape[1] // num_groups * y.shape[2])
    return (grouped * scale[:, None] + bias[:, None]).reshape(x.shape)


@op("GroupNormalization", since=21)
def group_normalization(
    x: Array, scale: Array, bias: Array, *, num_groups: int, epsilon: float = _EPSILON, stash_type: int = 1
) -> Array:
    """Normalize groups of channels; one scale and bias per channel (ONNX GroupNormalization-21)."""
    stash = float_dtype(stash_type, "stash_type")
    normalized = _standardize_groups(widen(narrow(x, stash)), num_groups, epsilon)
    normalized = _end_of_stage_one(normalized, stash, x.dtype)
    _check_channels(x.shape[1], scale=scale, bias=bias)
    y = normalized * widen(scale)[:, None] + widen(bias)[:, None]
    return narrow(y.reshape(x.shape), x.dtype)


# LayerNormalization, RMSNormalization ---------------------------------------------------------


def _trailing_axes(x: Array, axis: int) -> tuple[int, ...]:
    return tuple(range(normalize_axis(axis, x.ndim), x.ndim))


def _broadcast_to(parameter: Array, x: Array, name: str) -> Array:
    """Return `parameter` ready to meet `x`, to which it must broadcast in one direction."""
    if not broadcasts_to(parameter.shape, x.shape):
        raise KernelError(f"{name} must broadcast to {x.shape}, the shape of X (got {parameter.shape})")
    return widen(parameter)


@op("LayerNormalization", since=17, cost=like_first_input(16))  # float32 and its temporaries
def layer_normalization(
    x: Array,
    scale: Array,
    b: Array | None = None,
    *,
    axis: int = -1,
    epsilon: float = _EPSILON,
    stash_type: int = 1,
) -> tuple[Array, Array, Array]:
    """Normalize over the axes from `axis` on; also mean, inverse std. dev. (ONNX LayerNormalization-17)."""
    stash = float_dtype(stash_type, "stash_type")
    axes = _trailing_axes(x, axis)
    average, y, variance = _moments(widen(narrow(x, stash)), axes)
    inverse_std = _inverse_std(variance, epsilon)
    y *= inverse_std
    y = _end_of_stage_one(y, stash, x.dtype) * _broadcast_to(scale, x, "Scale")
    if b is not None:
        y += _broadcast_to(b, x, "B")
    return narrow(y, x.dtype), narrow(average, stash), narrow(inverse_std, stash)


@op("RMSNormalization", since=23)
def rms_normalization(
    x: Array, scale: Array, *, axis: int = -1, epsilon: float = _EPSILON, stash_type: int = 1
) -> Array:
    """Divide by the root mean square over the axes from `axis` on; the result has scale's type.

    Source: ONNX RMSNormalization-23.
    """
    stash = float_dtype(stash_type, "stash_type")
    stashed = widen(narrow(x, stash))
    mean_square = mean(np.square(stashed), _trailing_axes(x, axis))
    normalized = _end_of_stage_one(stashed * _inverse_std(mean_square, epsilon), stash, x.dtype)
    return narrow(normalized * _broadcast_to(scale, x, "scale"), scale.dtype)


# LRN, LpNormalization, MeanVarianceNormalization ----------------------------------------------


def _window_sum(x: Array, length: int) -> Array:
    """Sum `length` neighbours along axis 1; the result is shorter by `length - 1`.

    By doubling: O(log length) additions per element, and none of the cancellation that
    differences of cumulative sums would bring.
    """
    total: Array | None = None
    power, width, done = x, 1, 0  # power[:, i] sums x[:, i : i + width]
    size = x.shape[1] - length + 1
    while True:
        if length & width:
            part = power[:, done : done + size]
            total = part if total is None else total + part
            done += width
            if done == length:
                return total
        power = power[:, :-width] + power[:, width:]
        width *= 2


def _lrn_cost(x: Array, *, size: int, **_attributes: Any) -> Cost:
    if x.ndim < 2:
        return Cost(x.nbytes)  # the kernel refuses it
    # Four tensors of squares at a time, each with channels added at both ends.
    channels = x.shape[1] + 2 * min(max(size, 1) // 2, x.shape[1])
    return Cost(x.nbytes, 4 * max(x.itemsize, 4) * x.size * channels // max(x.shape[1], 1))


@op("LRN", since=(1, 13), cost=_lrn_cost)
@in_float32
def lrn(x: Array, *, size: int, alpha: float = _LRN_ALPHA, beta: float = 0.75, bias: float = 1.0) -> Array:
    """Divide by a power of the squares summed over `size` neighbouring channels (ONNX LRN-13)."""
    if size < 1:
        raise KernelError(f"size must be at least 1 (got {size})")
    if x.ndim < 2:
        raise KernelError(f"X must have shape (N, C, ...) (got {x.shape})")
    if not x.size:
        return x.copy()
    n, channels = x.shape[:2]
    before, after = (min(reach, channels - 1) for reach in ((size - 1) // 2, size // 2))
    # zeros stand for the channels beyond the ends
    squares = np.zeros((n, before + channels + after, *x.shape[2:]), x.dtype)
    np.square(x, out=squares[:, before : before + channels])
    base = _window_sum(squares, before + after + 1) * x.dtype.type(alpha / size)
    base += x.dtype.type(bias)
    return x / np.power(base, x.dtype.type(beta), out=base)  # type: ignore[no-any-return]


@op("LpNormalization", since=(1, 22))
@in_float32
def lp_normalization(input: Array, *, axis: int = -1, p: int = 2) -> Array:
    """Divide by the L1 or L2 norm along `axis`, zero where that is zero (ONNX LpNormalization-22)."""
    axis = normalize_axis(axis, input.ndim)
    check_choice(p, (1, 2), "p")
    if p == 1:
        norm = np.abs(input).sum(axis=axis, keepdims=True)
    else:
        norm = np.sqrt(np.square(input).sum(axis=axis, keepdims=True))
    return input / np.where(norm == 0, norm.dtype.type(np.inf), norm)  # type: ignore[no-any-return]


@op("MeanVarianceNormalization", since=(9, 13))
@in_float32
def mean_variance_normalization(x: Array, *, axes: tuple[int, ...] = (0, 2, 3)) -> Array:
    """Subtract the mean and divide by the standard deviation (ONNX MeanVarianceNormalization-13)."""
    reduced = normalize_axes(axes, x.ndim) if axes else tuple(range(x.ndim))
    _, y, variance = _moments(x, reduced)
    y /= np.sqrt(variance) + x.dtype.type(1e-9)  # the function body's guard against 0 / 0
    return y
