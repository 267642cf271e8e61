"""Separable resampling, the arithmetic behind Resize, Upsample and (its kernels) GridSample.

Each axis is resampled on its own, by indexing (nearest) or by a few weighted taps (linear, cubic).
Positions are computed in float64, whatever the type of the data.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

from onnxref.dtypes import Array, DType
from onnxref.errors import KernelError
from onnxref.registry import Cost

from ._checks import check_choice, int_vector, normalize_axes
from ._common import narrow, to_integers, widen

# Axes up to this length are resampled by one matrix product, longer ones tap by tap: measured
# on float32, BLAS wins as long as a row of the weight matrix is short.
_DENSE_LENGTH = 128

# ------------------------------------------------------------------ what becomes of each axis


class Axis(NamedTuple):
    """How one axis is resized.

    The scale is `numerator / denominator`: where it comes from `sizes` both are integers, and
    positions that should be integers or halves are exactly that.
    """

    axis: int
    length: int
    resized: int
    target: float  # the length before it was rounded to `resized`
    numerator: float
    denominator: float
    exact: bool  # whether numerator and denominator are integers
    start: float = 0.0
    end: float = 1.0

    @property
    def scale(self) -> float:
        return self.numerator / self.denominator

    @property
    def untouched(self) -> bool:
        """Whether every output position is the same input position."""
        whole = (self.start, self.end) == (0.0, 1.0)
        return whole and self.length == self.resized and self.numerator == self.denominator


def _scaled_length(length: int, scale: float) -> float:
    """Return `length * scale` to float32 precision.

    `scales` is a float32 tensor: 10 * 0.7 is meant to be 7, and is 6.9999999 in float64. Above
    2**24 float32 cannot hold the product, and float64 says more.
    """
    product = length * scale
    return float(np.float32(product)) if product < 2**24 else product


def _regions(roi: Array | None, count: int, cropping: bool) -> list[tuple[float, float]]:
    """Return (start, end) per resized axis; `roi` counts in tf_crop_and_resize only."""
    if not cropping:
        return [(0.0, 1.0)] * count
    if roi is None or roi.size != 2 * count:
        given = "none" if roi is None else str(roi.size)
        raise KernelError(f"roi must hold {2 * count} values for tf_crop_and_resize (got {given})")
    values = [float(v) for v in roi.astype(np.float64).ravel().tolist()]
    return list(zip(values[:count], values[count:], strict=True))


def _axes_from_scales(
    shape: Sequence[int], axes: Sequence[int], scales: Array, regions: list[tuple[float, float]]
) -> list[Axis]:
    if scales.size != len(axes):
        raise KernelError(f"scales must hold {len(axes)} values (got {scales.size})")
    plan = []
    for axis, scale, (start, end) in zip(axes, scales.ravel().tolist(), regions, strict=True):
        if not (scale > 0 and math.isfinite(scale)):
            raise KernelError(f"scales must be positive and finite (got {scale})")
        target = _scaled_length(shape[axis], (end - start) * scale)
        if not math.isfinite(target) or target < 0:
            raise KernelError(f"roi must have end >= start, both finite (got {start}, {end})")
        plan.append(Axis(axis, shape[axis], math.floor(target), target, scale, 1.0, False, start, end))
    return plan


def _axes_from_sizes(
    shape: Sequence[int],
    axes: Sequence[int],
    sizes: Array,
    policy: str,
    regions: list[tuple[float, float]],
) -> list[Axis]:
    wanted = int_vector(sizes, "sizes")
    if len(wanted) != len(axes) or min(wanted) < 0:
        raise KernelError(f"sizes must hold {len(axes)} values >= 0 (got {wanted})")
    check_choice(policy, ("stretch", "not_larger", "not_smaller"), "keep_aspect_ratio_policy")
    if any(shape[axis] == 0 and size for axis, size in zip(axes, wanted, strict=True)):
        raise KernelError(f"sizes must be 0 where X is empty (got {wanted} for axes {list(axes)})")
    ratios = [
        Fraction(size, shape[axis]) if shape[axis] else Fraction(1)
        for axis, size in zip(axes, wanted, strict=True)
    ]
    if policy != "stretch":
        ratios = [min(ratios) if policy == "not_larger" else max(ratios)] * len(axes)
    plan = []
    for axis, ratio, (start, end) in zip(axes, ratios, regions, strict=True):
        target = shape[axis] * ratio
        resized = math.floor(target + Fraction(1, 2))
        scale = (float(ratio.numerator), float(ratio.denominator))
        plan.append(Axis(axis, shape[axis], resized, float(target), *scale, True, start, end))
    return plan


def plan_axes(
    x: Array,
    roi: Array | None,
    scales: Array | None,
    sizes: Array | None,
    *,
    axes: tuple[int, ...] | None = None,
    policy: str = "stretch",
    cropping: bool = False,
) -> list[Axis]:
    """Return what becomes of each axis named; an empty input tensor counts as absent."""
    which = tuple(range(x.ndim)) if axes is None else normalize_axes(axes, x.ndim)
    if not which:
        return []
    scales = None if scales is None or scales.size == 0 else scales
    sizes = None if sizes is None or sizes.size == 0 else sizes
    regions = _regions(roi, len(which), cropping)
    if scales is not None and sizes is None:
        return _axes_from_scales(x.shape, which, scales, regions)
    if sizes is not None and scales is None:
        return _axes_from_sizes(x.shape, which, sizes, policy, regions)
    raise KernelError(
        f"exactly one of scales and sizes must be given (got {'none' if scales is None else 'both'})"
    )


def resized_shape(x: Array, plan: list[Axis]) -> tuple[int, ...]:
    shape = list(x.shape)
    for a in plan:
        shape[a.axis] = a.resized
    return tuple(shape)


# ------------------------------------------------------------------ positions, taps, weights


@dataclass(frozen=True, slots=True)
class Filter:
    """The attributes of Resize that say how a value is found, as in Resize-19."""

    mode: str
    positions: str
    nearest_mode: str = "round_prefer_floor"
    cubic_coeff_a: float = -0.75
    exclude_outside: bool = False
    extrapolation_value: float = 0.0
    antialias: bool = False

    @property
    def radius(self) -> int:
        return 2 if self.mode == "cubic" else 1

    def stretch(self, a: Axis) -> float:
        return max(1.0, 1.0 / a.scale) if self.antialias else 1.0

    def taps(self, a: Axis) -> int:
        """How many input positions one output position looks at."""
        return 2 * math.ceil(self.radius * self.stretch(a))

    def kernel(self, distance: Array) -> Array:
        """Weight of an input at this distance, in units of the stretched input grid."""
        d = np.abs(distance)
        if self.mode == "linear":
            return np.maximum(1.0 - d, 0.0)
        a = self.cubic_coeff_a
        near = ((a + 2) * d - (a + 3)) * d * d + 1
        far = ((d - 5) * d + 8) * d * a - 4 * a
        return np.where(d <= 1, near, np.where(d < 2, far, 0.0))


def _divide(position: Array, a: Axis, mode: str) -> Array:
    """Return positions divided by the axis' scale."""
    quotient: Array = position * a.denominator / a.numerator
    if a.exact or mode != "nearest":
        return quotient
    # A float32 scale gives float32 quotients: 1 / float32(1/3) is meant to be 3, not 2.9999999.
    # Those too large for float32 to hold their fraction stay as they are.
    return np.where(quotient < 2**20, quotient.astype(np.float32), quotient)


def source_positions(a: Axis, how: Filter) -> Array:
    """Return where each output position lies in the input, (resized,) float64.

    `length_resized` of align_corners and half_pixel_symmetric is the length before rounding: the
    official test cases need it so. That of the other modes is the output's own length.
    """
    i = np.arange(a.resized, dtype=np.float64)
    if how.positions == "asymmetric":
        return _divide(i, a, how.mode)
    if how.positions == "align_corners":
        return np.zeros_like(i) if a.target == 1 else i * (a.length - 1) / (a.target - 1)
    if how.positions == "tf_crop_and_resize":
        if a.resized == 1:
            return np.full(1, 0.5 * (a.start + a.end) * (a.length - 1))
        step = (a.end - a.start) * (a.length - 1) / (a.resized - 1)
        return a.start * (a.length - 1) + i * step
    centres = _divide(i + 0.5, a, how.mode)
    if how.positions == "tf_half_pixel_for_nn":
        return centres
    if how.positions == "pytorch_half_pixel" and a.resized == 1:
        return np.zeros_like(i)
    if how.positions == "half_pixel_symmetric":
        centres = centres + a.length / 2 * (1 - a.resized / a.target)
    return centres - 0.5


def nearest_indices(a: Axis, positions: Array, mode: str) -> Array:
    """Return the input index for each position (resized,)."""
    if mode == "simple":
        # Upsample and Resize-10 name no rule. As in ONNX Runtime and the test cases of onnx 1.5:
        # floor where the axis grows, ceil where it shrinks.
        mode = "ceil" if a.scale < 1 else "floor"
    if mode == "floor":
        index = np.floor(positions)
    elif mode == "ceil":
        index = np.ceil(positions)
    elif mode == "round_prefer_floor":
        index = np.ceil(positions - 0.5)
    else:
        index = np.floor(positions + 0.5)
    return np.clip(index, 0, a.length - 1).astype(np.intp)


def filter_taps(a: Axis, positions: Array, how: Filter) -> tuple[Array, Array]:
    """Return input indices and weights, both (resized, taps); outside lies the edge's value."""
    taps = how.taps(a)
    stretch = how.stretch(a)
    index = np.floor(positions)[:, None] + np.arange(1 - taps // 2, taps // 2 + 1)
    weights = how.kernel((index - positions[:, None]) / stretch)
    if how.exclude_outside:
        weights[(index < 0) | (index >= a.length)] = 0.0
    if how.exclude_outside or how.antialias:
        total = weights.sum(axis=1, keepdims=True)
        weights /= np.where(total == 0, 1.0, total)
    return np.clip(index, 0, a.length - 1).astype(np.intp), weights


# ------------------------------------------------------------------ applying them


def _weigh(x: Array, axis: int, index: Array, weights: Array) -> Array:
    """Replace `axis` of `x` by weighted sums of its entries.

    A weight of zero contributes nothing, even where the value is infinite or NaN.
    """
    resized, taps = index.shape
    weights = weights.astype(x.real.dtype)
    # The sum is finite only if every value is, so that 0 * inf cannot occur in the product.
    if x.shape[axis] <= _DENSE_LENGTH and x.dtype.kind == "f" and np.isfinite(x.sum()):
        return _weigh_dense(x, axis, index, weights)
    shape = (*x.shape[:axis], resized, *x.shape[axis + 1 :])
    result = np.zeros(shape, x.dtype)
    before: tuple[Any, ...] = (slice(None),) * axis
    if taps > resized:
        for i in range(resized):
            used = np.flatnonzero(weights[i])
            values = x.take(index[i, used], axis, mode="clip")
            result[(*before, i)] = np.tensordot(values, weights[i, used], axes=(axis, 0))
        return result
    column = (-1, *(1,) * (x.ndim - axis - 1))
    for k in range(taps):
        chosen: Any = slice(None) if weights[:, k].all() else np.flatnonzero(weights[:, k])
        values = x.take(index[chosen, k], axis, mode="clip")
        values *= weights[chosen, k].reshape(column)
        result[(*before, chosen)] += values
    return result


def _weigh_dense(x: Array, axis: int, index: Array, weights: Array) -> Array:
    resized, length = len(index), x.shape[axis]
    matrix = np.zeros((resized, length), x.dtype)
    np.add.at(matrix, (np.arange(resized)[:, None], index), weights)
    before, after = x.shape[:axis], x.shape[axis + 1 :]
    if math.prod(after) == 1:
        product = x.reshape(-1, length) @ matrix.T
    else:
        product = matrix @ x.reshape(math.prod(before), length, -1)
    result: Array = product.reshape(*before, resized, *after)
    return result


def to_float(x: Array) -> Array:
    """Return `x` in the type it is interpolated in: float64 for integers and bool."""
    return x.astype(np.float64) if x.dtype.kind in "iub" else widen(x)


def from_float(y: Array, dtype: DType, *, rounded: bool) -> Array:
    """Return interpolated values in the data's type; integers saturate."""
    if dtype.kind not in "iub":
        return narrow(y, dtype)
    if rounded:
        y = np.rint(y)
    return y.astype(np.bool_) if dtype.kind == "b" else to_integers(y, dtype)


def resample(x: Array, plan: list[Axis], how: Filter) -> Array:
    """Return `x` resampled along every axis of the plan."""
    shape = resized_shape(x, plan)
    if 0 in shape:
        return np.empty(shape, x.dtype)
    # Shrinking axes go first, so that nothing in between is larger than both ends.
    order = sorted((a for a in plan if not a.untouched), key=lambda a: (a.resized / a.length, -a.axis))
    interpolate = how.mode != "nearest"
    if interpolate and x.dtype == object:
        raise KernelError(f"mode must be nearest for strings (got {how.mode!r})")
    y = to_float(x) if interpolate and order else x
    cropped = []
    for a in order:
        positions = source_positions(a, how)
        if how.positions == "tf_crop_and_resize":
            inside = (positions >= 0) & (positions <= a.length - 1)
            cropped.append((a.axis, ~inside))
            positions = np.where(inside, positions, 0.0)  # replaced below; keeps the index small
        if interpolate:
            y = _weigh(y, a.axis, *filter_taps(a, positions, how))
        else:
            y = y.take(nearest_indices(a, positions, how.nearest_mode), a.axis, mode="clip")
    y = from_float(y, x.dtype, rounded=True) if interpolate and order else y
    for axis, outside in cropped:
        if outside.any():
            where: tuple[Any, ...] = (*(slice(None),) * axis, outside)
            y[where] = _extrapolated(how.extrapolation_value, x.dtype)
    return y


def _extrapolated(value: float, dtype: DType) -> Any:
    if dtype.kind == "O":
        raise KernelError("roi must lie inside X for strings (extrapolation_value is a number)")
    return from_float(np.array([value]), dtype, rounded=True)[0]


def resample_cost(x: Array, plan: list[Axis], how: Filter) -> Cost:
    shape = resized_shape(x, plan)
    out = Cost.of(shape, x.dtype).out_bytes
    if 0 in shape:
        return Cost(0)
    largest = max(math.prod(shape), x.size)
    if how.mode == "nearest":
        return Cost(out, largest * x.dtype.itemsize + sum(48 * a.resized for a in plan))
    width = max(x.dtype.itemsize, 8 if x.dtype.kind in "iub" else 4)
    weights = sum(a.resized * (48 * how.taps(a) + 8 * min(a.length, _DENSE_LENGTH)) for a in plan)
    return Cost(out, 4 * largest * width + weights)
