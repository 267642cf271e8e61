"""Random tensors: RandomNormal, RandomUniform (and their Like forms), Multinomial, Bernoulli, Dropout.

The spec fixes distributions, not streams. Numbers are drawn in float64 and rounded once to the
output type, so that one seed gives the same sample in every type, up to rounding.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from onnxref.dtypes import Array, ElementType, from_numpy, to_numpy
from onnxref.errors import KernelError
from onnxref.registry import Context, Cost, op

from ._checks import FLOAT_TYPES, INTEGER_TYPES, check_addressable, element_type, scalar
from ._common import narrow, widen
from .cast import cast_array

_COUNTS = (ElementType.INT32, ElementType.INT64)
_BERNOULLI = (*FLOAT_TYPES, *INTEGER_TYPES, ElementType.BOOL)

Draw = Callable[[np.random.Generator, tuple[int, ...]], Array]


def _element_like(dtype: int | None, input: Array, allowed: tuple[ElementType, ...]) -> ElementType:
    """Return the output type: the attribute `dtype`, or the type of the input where there is none."""
    return element_type(from_numpy(input.dtype) if dtype is None else dtype, "dtype", allowed)


def _check_shape(shape: tuple[int, ...]) -> None:
    if any(d < 0 for d in shape):
        raise KernelError(f"shape must have no negative dimension (got {shape})")
    check_addressable(shape, np.dtype(np.float64))


def _sample_cost(shape: tuple[int, ...], element: ElementType) -> Cost:
    elements = math.prod(max(d, 0) for d in shape)
    return Cost(elements * to_numpy(element).itemsize, 24 * elements)


def _shaped_cost(*, shape: tuple[int, ...], dtype: int = ElementType.FLOAT, **_: object) -> Cost:
    return _sample_cost(shape, element_type(dtype, "dtype", FLOAT_TYPES))


def _real_like_cost(input: Array, *, dtype: int | None = None, **_: object) -> Cost:
    return _sample_cost(input.shape, _element_like(dtype, input, FLOAT_TYPES))


def _normal(mean: float, scale: float) -> Draw:
    if not scale >= 0:
        raise KernelError(f"scale must not be negative (got {scale:g})")

    def draw(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
        sample = np.asarray(rng.standard_normal(shape))
        sample *= scale
        sample += mean
        return sample

    return draw


def _uniform(low: float, high: float) -> Draw:
    if not low <= high:
        raise KernelError(f"low must not be above high (got {low:g} and {high:g})")

    def draw(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
        sample = np.asarray(rng.random(shape))
        sample *= high - low
        sample += low
        return sample

    return draw


@op("RandomNormal", since=(1, 22), cost=_shaped_cost)
def random_normal(
    *,
    shape: tuple[int, ...],
    dtype: int = ElementType.FLOAT,
    mean: float = 0.0,
    scale: float = 1.0,
    seed: float | None = None,
    ctx: Context,
) -> Array:
    """Draw a tensor of `shape` from the normal distribution (ONNX RandomNormal-22)."""
    element = element_type(dtype, "dtype", FLOAT_TYPES)
    _check_shape(shape)
    return cast_array(_normal(mean, scale)(ctx.rng(seed), shape), element)


@op("RandomUniform", since=(1, 22), cost=_shaped_cost)
def random_uniform(
    *,
    shape: tuple[int, ...],
    dtype: int = ElementType.FLOAT,
    low: float = 0.0,
    high: float = 1.0,
    seed: float | None = None,
    ctx: Context,
) -> Array:
    """Draw a tensor of `shape` evenly from [low, high) (ONNX RandomUniform-22)."""
    element = element_type(dtype, "dtype", FLOAT_TYPES)
    _check_shape(shape)
    return cast_array(_uniform(low, high)(ctx.rng(seed), shape), element)


@op("RandomNormalLike", since=(1, 22), cost=_real_like_cost)
def random_normal_like(
    input: Array,
    *,
    dtype: int | None = None,
    mean: float = 0.0,
    scale: float = 1.0,
    seed: float | None = None,
    ctx: Context,
) -> Array:
    """Draw a tensor in the shape of `input` from the normal distribution (ONNX RandomNormalLike-22)."""
    element = _element_like(dtype, input, FLOAT_TYPES)
    return cast_array(_normal(mean, scale)(ctx.rng(seed), input.shape), element)


@op("RandomUniformLike", since=(1, 22), cost=_real_like_cost)
def random_uniform_like(
    input: Array,
    *,
    dtype: int | None = None,
    low: float = 0.0,
    high: float = 1.0,
    seed: float | None = None,
    ctx: Context,
) -> Array:
    """Draw a tensor in the shape of `input` evenly from [low, high) (ONNX RandomUniformLike-22)."""
    element = _element_like(dtype, input, FLOAT_TYPES)
    return cast_array(_uniform(low, high)(ctx.rng(seed), input.shape), element)


def _bernoulli_cost(input: Array, *, dtype: int | None = None, **_: object) -> Cost:
    return _sample_cost(input.shape, _element_like(dtype, input, _BERNOULLI))


@op("Bernoulli", since=(15, 22), cost=_bernoulli_cost)
def bernoulli(input: Array, *, dtype: int | None = None, seed: float | None = None, ctx: Context) -> Array:
    """Draw 1 with the probabilities `input`, else 0, in the same shape (ONNX Bernoulli-22).

    The text of the schema holds; its function body has the two outcomes the other way round.
    """
    element = _element_like(dtype, input, _BERNOULLI)
    p = widen(input)
    if not np.all((p >= 0) & (p <= 1)):
        raise KernelError(f"input must be in [0, 1] (got values from {np.min(p):g} to {np.max(p):g})")
    return cast_array(np.asarray(ctx.rng(seed).random(p.shape) < p), element)


def _multinomial_cost(input: Array, *, dtype: int = 6, sample_size: int = 1, **_: object) -> Cost:
    element = element_type(dtype, "dtype", _COUNTS)
    samples = math.prod(input.shape[:1]) * max(sample_size, 0)
    return Cost(samples * to_numpy(element).itemsize, 48 * samples + 24 * input.size)


@op("Multinomial", since=(7, 22), cost=_multinomial_cost)
def multinomial(
    input: Array,
    *,
    dtype: int = ElementType.INT32,
    sample_size: int = 1,
    seed: float | None = None,
    ctx: Context,
) -> Array:
    """Draw classes (N, sample_size) by their log-probabilities (N, C), which need no normalizing.

    ONNX Multinomial-22.
    """
    element = element_type(dtype, "dtype", _COUNTS)
    if input.ndim != 2:
        raise KernelError(f"input must be of rank 2 (got {input.ndim})")
    if sample_size < 0:
        raise KernelError(f"sample_size must not be negative (got {sample_size})")
    batch, classes = input.shape
    if batch == 0 or sample_size == 0:
        return np.zeros((batch, sample_size), dtype=to_numpy(element))
    if classes == 0:
        raise KernelError("input must have at least one class (got 0)")
    logits = widen(input).astype(np.float64)
    cumulative = np.cumsum(np.exp(logits - logits.max(axis=1, keepdims=True)), axis=1)
    total = cumulative[:, -1:]
    if not np.all(np.isfinite(total)):
        raise KernelError("each row of input must have a finite maximum and no NaN")
    drawn = ctx.rng(seed).random((batch, sample_size)) * total
    return _first_above(cumulative, drawn).astype(to_numpy(element))


def _first_above(cumulative: Array, drawn: Array) -> Array:
    """Return, for `drawn` (N, S), the first index of its row of `cumulative` (N, C) with a greater value.

    A binary search in all rows at once.
    """
    low = np.zeros(drawn.shape, dtype=np.int64)
    high = np.full(drawn.shape, cumulative.shape[1] - 1)
    for _ in range(cumulative.shape[1].bit_length()):
        middle = (low + high) // 2
        above = np.take_along_axis(cumulative, middle, axis=1) > drawn
        high = np.where(above, middle, high)
        low = np.where(above, low, np.minimum(middle + 1, high))
    return low


@op("Dropout", since=(12, 13, 22))
def dropout(
    data: Array,
    ratio: Array | None = None,
    training_mode: Array | None = None,
    *,
    seed: int | None = None,
    ctx: Context,
) -> tuple[Array, Array]:
    """Return `data * mask / (1 - ratio)` and mask; outside training `data` and ones (ONNX Dropout-12)."""
    fraction = 0.5 if ratio is None else scalar(ratio, "ratio")
    if training_mode is None or not scalar(training_mode, "training_mode") or fraction == 0:
        return data, np.ones(data.shape, dtype=np.bool_)
    if seed is None:
        return _drop(data, fraction, ctx.generator.random(data.shape))
    # The stream behind the official tests, which NumPy has promised to keep as it is.
    return _drop(data, fraction, np.random.RandomState(seed % 2**32).random_sample(data.shape))


@op("Dropout", since=10)
def dropout_10(data: Array, *, ratio: float = 0.5) -> tuple[Array, Array]:
    """Return `data` and a mask of ones: inference keeps everything (ONNX Dropout-10)."""
    return data, np.ones(data.shape, dtype=np.bool_)


@op("Dropout", since=7)
def dropout_7(data: Array, *, ratio: float = 0.5) -> tuple[Array, Array]:
    """Return `data` and a mask of ones in its type: inference keeps everything (ONNX Dropout-7)."""
    return data, np.ones(data.shape, dtype=data.dtype)


@op("Dropout", since=6)
def dropout_6(
    data: Array, *, is_test: int = 0, ratio: float = 0.5, ctx: Context
) -> tuple[Array, Array | None]:
    """Drop a `ratio` of `data` at random unless `is_test`; the mask has its type (ONNX Dropout-6)."""
    if is_test:
        return data, None
    output, mask = _drop(data, ratio, ctx.generator.random(data.shape))
    return output, mask.astype(data.dtype)


@op("Dropout", since=1)
def dropout_1(
    data: Array,
    *,
    consumed_inputs: tuple[int, ...] | None = None,
    is_test: int = 0,
    ratio: float = 0.5,
    ctx: Context,
) -> tuple[Array, Array | None]:
    """Dropout-6 with `consumed_inputs`, a hint about working in place that changes no result."""
    return dropout_6(data, is_test=is_test, ratio=ratio, ctx=ctx)


def _drop(data: Array, ratio: float, uniform: Array | float) -> tuple[Array, Array]:
    """Return `scale * data * mask` and the mask, true where `uniform` in [0, 1) reaches the ratio."""
    if not 0 <= ratio < 1:
        raise KernelError(f"ratio must be in [0, 1) (got {ratio:g})")
    mask = np.asarray(uniform >= ratio)
    wide = widen(data)
    scale = wide.dtype.type(1 / (1 - ratio))
    return narrow(wide * scale * mask, data.dtype), mask
