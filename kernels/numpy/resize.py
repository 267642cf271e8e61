"""Resampling at positions: Resize, Upsample, GridSample, AffineGrid."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from onnxref.dtypes import Array
from onnxref.errors import KernelError
from onnxref.registry import Cost, op

from ._checks import check_choice, check_shape, int_vector
from ._common import narrow, widen, zeros
from ._interpolation import (
    Axis,
    Filter,
    from_float,
    plan_axes,
    resample,
    resample_cost,
    to_float,
)

# GridSample visits taps ** rank neighbours per point; beyond this many a model is not serious.
_MAX_NEIGHBOURS = 65536

POSITIONS_13 = (
    "half_pixel",
    "pytorch_half_pixel",
    "align_corners",
    "asymmetric",
    "tf_crop_and_resize",
)
POSITIONS_11 = (*POSITIONS_13, "tf_half_pixel_for_nn")
POSITIONS_19 = (*POSITIONS_13, "half_pixel_symmetric")


# ------------------------------------------------------------------ Resize, Upsample


def _resize(
    x: Array,
    roi: Array | None,
    scales: Array | None,
    sizes: Array | None,
    how: Filter,
    known_positions: Sequence[str],
    axes: tuple[int, ...] | None = None,
    policy: str = "stretch",
) -> Array:
    cropping = how.positions == "tf_crop_and_resize"
    plan = plan_axes(x, roi, scales, sizes, axes=axes, policy=policy, cropping=cropping)
    check_filter(how, known_positions, plan)
    return resample(x, plan, how)


def check_filter(how: Filter, known_positions: Sequence[str], plan: list[Axis]) -> None:
    check_choice(how.mode, ("nearest", "linear", "cubic"), "mode")
    check_choice(how.positions, known_positions, "coordinate_transformation_mode")
    rounding = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")
    check_choice(how.nearest_mode, rounding, "nearest_mode")
    if how.antialias and how.mode != "nearest":
        for a in plan:
            if a.resized and a.scale * a.length < 0.5:
                raise KernelError(f"scales must be >= 0.5 / {a.length} with antialias (got {a.scale})")


def _resize_cost(
    x: Array,
    roi: Array | None = None,
    scales: Array | None = None,
    sizes: Array | None = None,
    *,
    mode: str = "nearest",
    coordinate_transformation_mode: str = "half_pixel",
    antialias: int = 0,
    axes: tuple[int, ...] | None = None,
    keep_aspect_ratio_policy: str = "stretch",
    **_attributes: Any,
) -> Cost:
    cropping = coordinate_transformation_mode == "tf_crop_and_resize"
    plan = plan_axes(x, roi, scales, sizes, axes=axes, policy=keep_aspect_ratio_policy, cropping=cropping)
    how = Filter(mode, coordinate_transformation_mode, antialias=bool(antialias))
    return resample_cost(x, plan, how)


@op("Resize", since=11, cost=_resize_cost)
def resize_11(
    x: Array,
    roi: Array,
    scales: Array,
    sizes: Array | None = None,
    *,
    mode: str = "nearest",
    coordinate_transformation_mode: str = "half_pixel",
    nearest_mode: str = "round_prefer_floor",
    cubic_coeff_a: float = -0.75,
    exclude_outside: int = 0,
    extrapolation_value: float = 0.0,
) -> Array:
    """Resample `x` by `scales`, or to `sizes` where `scales` is empty (ONNX Resize-11)."""
    how = Filter(
        mode,
        coordinate_transformation_mode,
        nearest_mode,
        cubic_coeff_a,
        bool(exclude_outside),
        extrapolation_value,
    )
    return _resize(x, roi, scales, sizes, how, POSITIONS_11)


@op("Resize", since=13, cost=_resize_cost)
def resize_13(
    x: Array,
    roi: Array | None = None,
    scales: Array | None = None,
    sizes: Array | None = None,
    *,
    mode: str = "nearest",
    coordinate_transformation_mode: str = "half_pixel",
    nearest_mode: str = "round_prefer_floor",
    cubic_coeff_a: float = -0.75,
    exclude_outside: int = 0,
    extrapolation_value: float = 0.0,
) -> Array:
    """Resample `x` by `scales` or to `sizes` (ONNX Resize-13)."""
    how = Filter(
        mode,
        coordinate_transformation_mode,
        nearest_mode,
        cubic_coeff_a,
        bool(exclude_outside),
        extrapolation_value,
    )
    return _resize(x, roi, scales, sizes, how, POSITIONS_13)


def _make_resize_18(known_positions: Sequence[str]) -> Callable[..., Array]:
    """Make Resize-18 or -19, which differ in the coordinate transformations they know."""

    def resize_18(
        x: Array,
        roi: Array | None = None,
        scales: Array | None = None,
        sizes: Array | None = None,
        *,
        mode: str = "nearest",
        coordinate_transformation_mode: str = "half_pixel",
        nearest_mode: str = "round_prefer_floor",
        cubic_coeff_a: float = -0.75,
        exclude_outside: int = 0,
        extrapolation_value: float = 0.0,
        antialias: int = 0,
        axes: tuple[int, ...] | None = None,
        keep_aspect_ratio_policy: str = "stretch",
    ) -> Array:
        """Resample `axes` of `x` by `scales` or to `sizes` (ONNX Resize-18, -19)."""
        how = Filter(
            mode,
            coordinate_transformation_mode,
            nearest_mode,
            cubic_coeff_a,
            bool(exclude_outside),
            extrapolation_value,
            bool(antialias),
        )
        return _resize(x, roi, scales, sizes, how, known_positions, axes, keep_aspect_ratio_policy)

    return resize_18


op("Resize", since=18, cost=_resize_cost)(_make_resize_18(POSITIONS_13))
op("Resize", since=19, cost=_resize_cost)(_make_resize_18(POSITIONS_19))


def scale_only(x: Array, scales: Array, mode: str, smallest: float) -> tuple[list[Axis], Filter]:
    """Read the arguments of Upsample and Resize-10: `x_original = x_resized / scale`."""
    # "linear (including bilinear, trilinear, etc)"
    mode = "linear" if mode in ("bilinear", "trilinear") else mode
    check_choice(mode, ("nearest", "linear"), "mode")
    if scales.size and not (scales >= smallest).all():
        raise KernelError(f"scales must be >= {smallest:g} (got {scales.tolist()})")
    return plan_axes(x, None, scales, None), Filter(mode, "asymmetric", "simple")


def _resize_10_cost(x: Array, scales: Array, *, mode: str = "nearest") -> Cost:
    return resample_cost(x, *scale_only(x, scales, mode, 0.0))


@op("Resize", since=10, cost=_resize_10_cost)
def resize_10(x: Array, scales: Array, *, mode: str = "nearest") -> Array:
    """Resample `x` by `scales`, one per axis (ONNX Resize-10)."""
    return resample(x, *scale_only(x, scales, mode, 0.0))


def _upsample_9_cost(x: Array, scales: Array, *, mode: str = "nearest") -> Cost:
    return resample_cost(x, *scale_only(x, scales, mode, 1.0))


@op("Upsample", since=(9, 10), cost=_upsample_9_cost)
def upsample_9(x: Array, scales: Array, *, mode: str = "nearest") -> Array:
    """Enlarge `x` by `scales` >= 1, one per axis (ONNX Upsample-9, and its deprecated -10)."""
    return resample(x, *scale_only(x, scales, mode, 1.0))


def _upsample_7_cost(x: Array, *, scales: tuple[float, ...], mode: str = "nearest") -> Cost:
    return _upsample_9_cost(x, np.array(scales, np.float32), mode=mode)


@op("Upsample", since=7, cost=_upsample_7_cost)
def upsample_7(x: Array, *, scales: tuple[float, ...], mode: str = "nearest") -> Array:
    """Enlarge `x` by `scales` >= 1, one per axis (ONNX Upsample-7)."""
    return upsample_9(x, np.array(scales, np.float32), mode=mode)


def _image_scales(x: Array, height_scale: float, width_scale: float) -> tuple[float, ...]:
    if x.ndim != 4:
        raise KernelError(f"X must have rank 4 (got {x.ndim})")
    return 1.0, 1.0, height_scale, width_scale


def _upsample_1_cost(x: Array, *, height_scale: float, width_scale: float, mode: str = "nearest") -> Cost:
    return _upsample_7_cost(x, scales=_image_scales(x, height_scale, width_scale), mode=mode)


@op("Upsample", since=1, cost=_upsample_1_cost)
def upsample_1(x: Array, *, height_scale: float, width_scale: float, mode: str = "nearest") -> Array:
    """Enlarge height and width of `x` (N, C, H, W) (ONNX Upsample-1)."""
    return upsample_7(x, scales=_image_scales(x, height_scale, width_scale), mode=mode)


# ------------------------------------------------------------------ GridSample, AffineGrid


def _denormalize(grid: Array, length: int, align_corners: bool) -> Array:
    """Map [-1, 1] to pixel positions of an axis: to the corner pixels' centres, or their edges."""
    if align_corners:
        return (grid + 1) / 2 * (length - 1)
    return ((grid + 1) * length - 1) / 2


def _pad_positions(positions: Array, length: int, padding: str, align_corners: bool) -> Array:
    """Bring positions outside the input to where their value is found."""
    if padding == "zeros":
        return np.clip(positions, -3, length + 2)  # farther out is zero as well, and infinity is tame
    if padding == "border":
        return np.clip(positions, 0, length - 1)
    low, high = (0.0, length - 1.0) if align_corners else (-0.5, length - 0.5)
    if high == low:
        return np.zeros_like(positions)
    # Reflection at both borders repeats itself after twice the distance between them.
    turn = np.mod(positions - low, 2 * (high - low))
    return low + np.minimum(turn, 2 * (high - low) - turn)


def _grid_taps(
    grid: Array, length: int, how: Filter, padding: str, align_corners: bool
) -> tuple[Array, Array | None, Array]:
    """Return indices, weights (None for nearest) and validity of one axis' taps, each (taps, N, points)."""
    positions = _denormalize(grid, length, align_corners)
    nearest = how.mode == "nearest"
    if nearest:
        positions = np.rint(positions)
    positions = _pad_positions(positions, length, padding, align_corners)
    weights = None
    if nearest:
        index = np.rint(positions)[None]
    else:
        offsets = np.arange(1 - how.radius, how.radius + 1).reshape(-1, 1, 1)
        index = np.floor(positions) + offsets
        weights = how.kernel(positions - index)
        if padding != "zeros":
            index = np.rint(_pad_positions(index, length, padding, align_corners))
    if padding != "zeros":
        index = np.clip(index, 0, length - 1)
    # A NaN position has no pixel: weights carry the NaN on, nearest takes it as lying outside.
    valid = (index >= 0) & (index < length)
    if weights is not None:
        valid &= weights != 0  # so that 0 * inf cannot occur
    return np.where(valid, index, 0).astype(np.intp), weights, valid


def _grid_sample(x: Array, grid: Array, how: Filter, padding: str, align_corners: bool) -> Array:
    """Sample `x` (N, C, D1 ... Dr) at `grid` (N, points, r), giving (N, points, C) before the cast."""
    batch, channels, *spatial = x.shape
    rank = len(spatial)
    # One row of channels per pixel, and a last row of zeros for everything outside.
    pixels = np.moveaxis(x, 1, -1).reshape(-1, channels)
    pixels = np.concatenate([pixels, zeros((1, channels), x.dtype)])
    axes = [
        # The grid's vectors list coordinates from the innermost axis to the outermost.
        _grid_taps(grid[..., rank - 1 - d], spatial[d], how, padding, align_corners)
        for d in range(rank)
    ]
    first = np.arange(batch)[:, None] * math.prod(spatial)
    result = np.zeros((*grid.shape[:2], channels), x.dtype)
    for taps in itertools.product(range(len(axes[0][0])), repeat=rank):
        flat, inside, weight = first, np.True_, None
        stride = math.prod(spatial)
        for (index, weights, valid), length, tap in zip(axes, spatial, taps, strict=True):
            stride //= max(length, 1)
            flat = flat + index[tap] * stride
            inside = inside & valid[tap]
            if weights is not None:
                weight = weights[tap] if weight is None else weight * weights[tap]
        values = pixels.take(np.where(inside, flat, len(pixels) - 1), axis=0)
        if weight is None:
            return values
        result += values * weight.astype(x.real.dtype)[..., None]
    return result


def _check_grid(x: Array, grid: Array, padding: str) -> None:
    rank = x.ndim - 2
    if rank < 1 or grid.ndim != x.ndim or grid.shape[-1] != rank:
        raise KernelError(
            f"grid must be (N, D1 ... Dr, r) for X of rank r + 2 (got {grid.shape} for {x.shape})"
        )
    if grid.shape[0] != x.shape[0]:
        raise KernelError(f"grid must have the batch size of X, {x.shape[0]} (got {grid.shape[0]})")
    check_choice(padding, ("zeros", "border", "reflection"), "padding_mode")
    if padding != "zeros" and 0 in x.shape[2:] and 0 not in grid.shape:
        raise KernelError(f"X must not be empty with padding_mode {padding} (got shape {x.shape})")


def _sample(x: Array, grid: Array, mode: str, padding: str, align_corners: bool) -> Array:
    _check_grid(x, grid, padding)
    shape = (*x.shape[:2], *grid.shape[1:-1])
    if 0 in shape:
        return np.empty(shape, x.dtype)
    how = Filter(mode, "grid")
    if mode != "nearest":
        if x.dtype == object:
            raise KernelError(f"mode must be nearest for strings (got {mode!r})")
        if (2 * how.radius) ** (x.ndim - 2) > _MAX_NEIGHBOURS:
            raise KernelError(f"X must have fewer axes for mode {mode} (got {x.ndim - 2} spatial ones)")
    points = widen(grid).reshape(grid.shape[0], -1, grid.shape[-1])
    y = _grid_sample(x if mode == "nearest" else to_float(x), points, how, padding, align_corners)
    # "cast to integer at the end": as Cast does, toward zero.
    y = y if mode == "nearest" else from_float(y, x.dtype, rounded=False)
    return np.moveaxis(y, -1, 1).reshape(shape)


def _grid_cost(x: Array, grid: Array, **_attributes: Any) -> Cost:
    """N and the points come from `grid`, C from `x`: the output may be larger than both."""
    if x.ndim < 3 or grid.ndim != x.ndim:
        return Cost(0)  # the kernel says what is wrong
    points = math.prod(grid.shape[:-1])
    out = points * x.shape[1] * x.dtype.itemsize
    width = max(x.dtype.itemsize, 8)
    return Cost(out, 3 * points * x.shape[1] * width + 2 * x.size * width + points * grid.shape[-1] * 160)


@op("GridSample", since=16, cost=_grid_cost)
def grid_sample_16(
    x: Array, grid: Array, *, align_corners: int = 0, mode: str = "bilinear", padding_mode: str = "zeros"
) -> Array:
    """Sample `x` (N, C, H, W) at `grid` (N, H_out, W_out, 2) (ONNX GridSample-16)."""
    names = {"bilinear": "linear", "nearest": "nearest", "bicubic": "cubic"}
    check_choice(mode, tuple(names), "mode")
    if x.ndim != 4:
        raise KernelError(f"X must have rank 4 (got {x.ndim})")
    return _sample(x, grid, names[mode], padding_mode, bool(align_corners))


@op("GridSample", since=(20, 22), cost=_grid_cost)
def grid_sample(
    x: Array, grid: Array, *, align_corners: int = 0, mode: str = "linear", padding_mode: str = "zeros"
) -> Array:
    """Sample `x` (N, C, D1 ... Dr) at `grid` (N, E1 ... Er, r) (ONNX GridSample-20, -22)."""
    check_choice(mode, ("linear", "nearest", "cubic"), "mode")
    return _sample(x, grid, mode, padding_mode, bool(align_corners))


def _affine_shape(theta: Array, size: Array) -> list[int]:
    """Return [N, spatial sizes ..., number of spatial axes]."""
    wanted = int_vector(size, "size")
    rank = len(wanted) - 2
    if rank not in (2, 3) or min(wanted) < 0:
        raise KernelError(f"size must be (N, C, H, W) or (N, C, D, H, W), none negative (got {wanted})")
    check_shape(theta, (wanted[0], rank, rank + 1), "theta")
    return [wanted[0], *wanted[2:], rank]


def _affine_cost(theta: Array, size: Array, *, align_corners: int = 0) -> Cost:
    shape = _affine_shape(theta, size)
    values = math.prod(shape)
    return Cost(values * theta.dtype.itemsize, 2 * values * max(theta.dtype.itemsize, 4) + 32 * sum(shape))


@op("AffineGrid", since=20, cost=_affine_cost)
def affine_grid(theta: Array, size: Array, *, align_corners: int = 0) -> Array:
    """Map a regular grid by `theta`, to (N, H, W, 2) or (N, D, H, W, 3) (ONNX AffineGrid-20)."""
    batch, *spatial, rank = _affine_shape(theta, size)
    matrix = widen(theta)
    grid = np.empty((batch, *spatial, rank), matrix.dtype)
    each = (batch, *(1,) * rank)
    for row in range(rank):
        position = matrix[:, row, rank].reshape(each)
        for d in reversed(range(rank)):  # rows and columns of theta go from x, the last axis, outward
            centres = _grid_centres(spatial[d], bool(align_corners)).astype(matrix.dtype)
            column = matrix[:, row, rank - 1 - d].reshape(each)
            position = position + column * centres.reshape(-1, *(1,) * (rank - 1 - d))
        grid[..., row] = position
    return narrow(grid, theta.dtype)


def _grid_centres(length: int, align_corners: bool) -> Array:
    """Return evenly spaced positions in [-1, 1]; a single aligned one is -1, as in the function body."""
    i = np.arange(length, dtype=np.float64)
    if align_corners:
        return i * (2.0 / max(length - 1, 1)) - 1
    return (2 * i + 1) / max(length, 1) - 1
