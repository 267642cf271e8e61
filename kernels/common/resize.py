"""Resize and Upsample (ONNX Resize-19, Upsample-9): how each axis is resampled, and by which taps.

Coordinates and weights are the reference's own (`numpy/_interpolation.py`); here they become tables that a
kernel reads, made while planning.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from onnxref.dtypes import Array
from onnxref.lowering import Operand, Site, Unsupported

from ..numpy._interpolation import Axis, Filter, filter_taps, nearest_indices, plan_axes, source_positions
from ..numpy.resize import POSITIONS_11, POSITIONS_13, POSITIONS_19, check_filter, scale_only
from .checks import known
from .rules import Rules


class Resampling(NamedTuple):
    """What becomes of the axes of `x`, and how values are found."""

    x: Operand
    plan: list[Axis]
    how: Filter


RESIZES: Rules[Resampling] = Rules()


# --- operators -----------------------------------------------------------------------------------


def _known(operand: Operand | None, name: str) -> Array | None:
    """Return an input that counts as absent where it is empty."""
    return None if operand is None or operand.size == 0 else known(operand, name)


def _resizing(known_positions: Sequence[str]) -> Callable[..., Resampling]:
    def resize(
        site: Site,
        x: Operand,
        roi: Operand | None = None,
        scales: Operand | None = None,
        sizes: Operand | None = None,
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
    ) -> Resampling:
        """Lower Resize with constant scales or sizes."""
        how = Filter(
            mode,
            coordinate_transformation_mode,
            nearest_mode,
            cubic_coeff_a,
            bool(exclude_outside),
            extrapolation_value,
            bool(antialias),
        )
        cropping = coordinate_transformation_mode == "tf_crop_and_resize"
        region = _known(roi, "roi") if cropping else None
        given = (_known(scales, "scales"), _known(sizes, "sizes"))
        like: Any = x  # only its shape is asked for
        plan = plan_axes(like, region, *given, axes=axes, policy=keep_aspect_ratio_policy, cropping=cropping)
        check_filter(how, known_positions, plan)
        return Resampling(x, plan, how)

    return resize


RESIZES.rule("Resize", since=11)(_resizing(POSITIONS_11))
RESIZES.rule("Resize", since=(13, 18))(_resizing(POSITIONS_13))
RESIZES.rule("Resize", since=19)(_resizing(POSITIONS_19))


def _by_scales(x: Operand, scales: Array | None, mode: str, smallest: float) -> Resampling:
    if scales is None:
        raise Unsupported("no scales")
    like: Any = x
    return Resampling(x, *scale_only(like, scales, mode, smallest))


@RESIZES.rule("Resize", since=10)
def resize_10(site: Site, x: Operand, scales: Operand, *, mode: str = "nearest") -> Resampling:
    return _by_scales(x, _known(scales, "scales"), mode, 0.0)


@RESIZES.rule("Upsample", since=(9, 10))
def upsample_9(site: Site, x: Operand, scales: Operand, *, mode: str = "nearest") -> Resampling:
    return _by_scales(x, _known(scales, "scales"), mode, 1.0)


@RESIZES.rule("Upsample", since=7)
def upsample_7(site: Site, x: Operand, *, scales: tuple[float, ...], mode: str = "nearest") -> Resampling:
    return _by_scales(x, np.array(scales, np.float32), mode, 1.0)


@RESIZES.rule("Upsample", since=1)
def upsample_1(
    site: Site, x: Operand, *, height_scale: float, width_scale: float, mode: str = "nearest"
) -> Resampling:
    if x.ndim != 4:
        raise Unsupported("other than four axes")
    return _by_scales(x, np.array((1, 1, height_scale, width_scale), np.float32), mode, 1.0)


# --- tables --------------------------------------------------------------------------------------


def _positions(a: Axis, how: Filter) -> tuple[Array, Array]:
    """Return where each output lies in the input, and which lie outside of it."""
    positions = source_positions(a, how)
    if how.positions != "tf_crop_and_resize":
        return positions, np.zeros(len(positions), np.bool_)
    outside = ~((positions >= 0) & (positions <= a.length - 1))
    return np.where(outside, 0.0, positions), outside


def nearest_table(a: Axis, how: Filter) -> Array:
    """Return the input index of each output along an axis, int64; -1 outside of the input."""
    positions, outside = _positions(a, how)
    return np.where(outside, -1, nearest_indices(a, positions, how.nearest_mode)).astype(np.int64)


class Taps(NamedTuple):
    """The inputs that each output of an axis is a weighted sum of: (resized, taps), those that count first.

    Attributes:
        counts: how many count, that is, whose weight is not zero; (resized,), int64.
        places: input indices, int64.
        weights: float64.
        outside: which outputs lie outside of the input; (resized,), bool.
    """

    counts: Array
    places: Array
    weights: Array
    outside: Array


def tap_table(a: Axis, how: Filter) -> Taps:
    """Return the taps of an axis, without columns in which none counts (but for one)."""
    positions, outside = _positions(a, how)
    index, weights = filter_taps(a, positions, how)
    order = np.argsort(weights == 0, axis=1, kind="stable")
    index, weights = (np.take_along_axis(table, order, axis=1) for table in (index, weights))
    counts = (weights != 0).sum(axis=1)
    most = max(1, int(counts.max(initial=0)))
    return Taps(counts.astype(np.int64), index[:, :most].astype(np.int64), weights[:, :most], outside)
