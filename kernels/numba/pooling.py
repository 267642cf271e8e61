"""Pools over windows and whole images: MaxPool, AveragePool, LpPool (p of 1 and 2) and the global ones.

Maxima are exact. Sums of n elements run in the type (float32 for float16 and bfloat16, rounded once), in
another order than the reference's: within n ulps of the mean magnitude for windows, and within
(32 + n / 256) of it for whole images.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from onnxref.dtypes import Array
from onnxref.lowering import (
    NO_PAD,
    Blocked,
    BlockedUse,
    Op,
    Operand,
    Packed,
    Scratch,
    Site,
    Unsupported,
    lower,
)
from onnxref.native import native, target

from ..common.windows import over_axes, pool_windows
from ..numpy._windows import Windows
from ..numpy.pooling import window_counts
from .grouped import blocked_bytes
from .layout import convert, goes_along, image_shape, padded_copy, steps

CODE = "onnxref.kernels.numba.code.pooling"
_FLOATS = ("float32", "float64", "float16", "bfloat16")
_INTS = ("int8", "uint8")
_MOST_AXES = 3
_CACHED = 1 << 21  # bytes that a nearby cache holds


def blocked_pool(op: Op, lanes: int) -> BlockedUse | None:
    """Pools of float32 with one output go along with blocks."""
    x = op.inputs[0]
    if x is None or x.dtype != np.float32 or x.ndim not in (3, 4) or x.size == 0:
        return None
    if any(y is not None for y in op.outputs[1:]):
        return None
    a = dict(op.attributes)
    if "kernel_shape" in a:
        names = ("kernel_shape", "strides", "dilations", "pads", "auto_pad", "ceil_mode")
        try:
            windows = pool_windows(x, _MOST_AXES, **{name: a[name] for name in names if name in a})
        except Unsupported:
            return None
        if _has_empty(windows):
            return None
    return goes_along(0)


def _has_empty(windows: Windows) -> bool:
    """Whether a window covers nothing but padding.

    Its result is not finite, which lanes past the last channel must be.
    """
    return not all(_spans(windows, axis)[:, 1].all() for axis in range(len(windows.size)))


def _spans(windows: Windows, axis: int) -> Array:
    """Return for each window of an axis (first element in the image, elements in the image)."""
    first = np.arange(windows.out[axis], dtype=np.int64) * windows.strides[axis] - windows.begins[axis]
    dilation = windows.dilations[axis]
    skipped = np.maximum(0, -(first // dilation))
    stop = np.minimum(windows.kernel[axis], -((first - windows.size[axis]) // dilation))
    counts = np.maximum(0, stop - skipped)
    return np.stack([np.where(counts > 0, first + skipped * dilation, 0), counts], axis=1)


def _counts(site: Site, windows: Windows, axis: int, dtype: str, include_pad: bool) -> Packed:
    def build() -> Array:
        return window_counts(windows, axis, include_pad=include_pad).astype(dtype)

    return site.pack((), ("window counts", windows, axis, dtype, include_pad), build)


def _factors(site: Site, windows: Windows, axis: int, include_pad: bool) -> Packed:
    """Return one over the counts, infinity for none: a mean over nothing is NaN."""

    def build() -> Array:
        counts = window_counts(windows, axis, include_pad=include_pad)
        with np.errstate(divide="ignore"):
            return (1 / counts.astype(np.float64)).astype(np.float32)

    return site.pack((), ("window factors", windows, axis, include_pad), build)


def _span_table(site: Site, windows: Windows, axis: int) -> Packed:
    return site.pack((), ("window spans", windows, axis), lambda: _spans(windows, axis))


def _pool(
    site: Site, x: Operand, y: Operand, windows: Windows, kind: str, *, include_pad: bool = False
) -> None:
    if y.size == 0:
        return
    if 0 in windows.size:
        raise Unsupported("windows over nothing")
    if x.layout is not None or y.layout is not None or _pays_in_blocks(x, windows, kind):
        _pool_blocked(site, x, y, over_axes(windows, 2), kind, include_pad)
    else:
        _pool_plain(site, x, y, over_axes(windows, 3), kind, include_pad)


def _pool_blocked(site: Site, x: Operand, y: Operand, windows: Windows, kind: str, include_pad: bool) -> None:
    if x.dtype != np.float32 or kind not in ("max", "mean") or _has_empty(windows):
        raise Unsupported("in blocks: types but float32, norms, windows over nothing")
    lanes = target().lanes
    (out, width), layouts = (windows.out[1], windows.size[1]), [x.layout, y.layout]
    if any(layout is not None and layout.lanes != lanes for layout in layouts):
        raise Unsupported("blocks of another size")
    source, in_layout = (x, x.layout) if x.layout else padded_copy(site, x, lanes, NO_PAD)
    goal: Operand | Scratch = y
    out_layout = y.layout or Blocked(lanes)
    if y.layout is None:
        goal = site.scratch(blocked_bytes(y, out_layout))
    here, there = steps(x.shape, in_layout, 4), steps(y.shape, out_layout, 4)
    whole = _line_length(windows)
    memory = site.scratch(whole * lanes * 4, per_thread=True)
    site.call(
        native(CODE, "blocked_windows", lanes, _tile(width), _tile(out), kind == "max"),
        *(source + here.begin, here.image, here.plane, here.row),
        *(goal + there.begin, there.image, there.plane, there.row),
        *(here.planes, *windows.out),
        _span_table(site, windows, 0),
        *(_factors(site, windows, axis, include_pad) for axis in (0, 1)),
        *(*windows.dilations, windows.strides[1], windows.kernel[1]),
        *(windows.begins[1], width, whole),
        memory,
        memory.nbytes,
        units=y.shape[0] * here.planes * windows.out[0],
        work=max(x.nbytes / 12, y.size * sum(windows.kernel) / 16),
    )
    if goal is not y:
        convert(site, y.shape, 4, goal, out_layout, y, None)


def _pays_in_blocks(x: Operand, windows: Windows, kind: str) -> bool:
    """Whether to pool a plain tensor in blocks, where vectors are full whatever the columns.

    That pays for two conversions only as long as they stay in the cache.
    """
    fits = x.dtype == np.float32 and kind in ("max", "mean") and len(windows.size) <= 2
    return fits and x.shape[1] >= target().lanes and x.nbytes <= _CACHED and not _has_empty(windows)


def _tile(columns: int) -> int:
    """Return how many of `columns` pixels to make at once: few choices, as each is compiled."""
    return next(n for n in (8, 4, 1) if n <= columns)


def _line_length(windows: Windows) -> int:
    """Return the columns of a line that holds all that a row of windows covers."""
    reach = (windows.out[-1] - 1) * windows.strides[-1] + windows.extent[-1]
    return max(reach, windows.begins[-1] + windows.size[-1])


def _pool_plain(site: Site, x: Operand, y: Operand, windows: Windows, kind: str, include_pad: bool) -> None:
    size = 8 if x.dtype == np.float64 else 4 if x.dtype.name in _FLOATS else x.dtype.itemsize
    counted = "float64" if size == 8 else "float32"
    if x.dtype.name in _INTS:
        counted = x.dtype.name  # not looked at
    out, step = windows.out[2], windows.strides[2]
    whole = _line_length(windows)
    memory = site.scratch((whole + out) * size, per_thread=True)
    site.call(
        native(CODE, "plain_windows", x.dtype.name, kind, step if step <= 2 else 0),
        *(x, y, memory, memory.nbytes),
        *windows.size,
        *windows.out,
        *(_span_table(site, windows, axis) for axis in (0, 1)),
        *(_counts(site, windows, axis, counted, include_pad) for axis in (0, 1, 2)),
        *windows.dilations,
        *(windows.begins[2], whole, step, windows.kernel[2], x.dtype.itemsize),
        units=y.size // out,
        work=max(x.nbytes / 10, y.size * sum(windows.kernel) / 4),
    )


def _check(x: Operand, dtypes: tuple[str, ...]) -> None:
    if x.dtype.name not in dtypes:
        raise Unsupported(f"pool of {x.dtype.name}")


@lower("MaxPool", since=(1, 8, 10, 11, 12, 22), blocked=blocked_pool)
def max_pool(
    site: Site,
    x: Operand,
    *,
    kernel_shape: tuple[int, ...],
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    dilations: tuple[int, ...] | None = None,
    pads: tuple[int, ...] | None = None,
    storage_order: int = 0,
    strides: tuple[int, ...] | None = None,
) -> None:
    """Lower MaxPool without indices. Exact."""
    y, *indices = site.outputs
    if any(index is not None for index in indices):
        raise Unsupported("indices of maxima")
    _check(x, _FLOATS + _INTS)
    windows = pool_windows(x, _MOST_AXES, kernel_shape, strides, dilations, pads, auto_pad, ceil_mode)
    if y is not None:
        _pool(site, x, y, windows, "max")


@lower("AveragePool", since=(1, 7, 10, 11, 19, 22), blocked=blocked_pool)
def average_pool(
    site: Site,
    x: Operand,
    *,
    kernel_shape: tuple[int, ...],
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    count_include_pad: int = 0,
    dilations: tuple[int, ...] | None = None,
    pads: tuple[int, ...] | None = None,
    strides: tuple[int, ...] | None = None,
) -> None:
    """Lower AveragePool; within n ulps of the mean magnitude of a window's n elements."""
    (y,) = site.outputs
    _check(x, _FLOATS)
    windows = pool_windows(x, _MOST_AXES, kernel_shape, strides, dilations, pads, auto_pad, ceil_mode)
    if y is not None:
        _pool(site, x, y, windows, "mean", include_pad=bool(count_include_pad))


def _lp_pool(site: Site, x: Operand, p: float, windows: Windows) -> None:
    (y,) = site.outputs
    if p not in (1, 2):
        raise Unsupported(f"norms with p = {p}")
    if y is not None:
        _pool(site, x, y, windows, "lp1" if p == 1 else "lp2")


@lower("LpPool", since=(1, 2, 11, 18, 22))
def lp_pool(
    site: Site,
    x: Operand,
    *,
    kernel_shape: tuple[int, ...] | None = None,
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    dilations: tuple[int, ...] | None = None,
    p: float = 2,
    pads: tuple[int, ...] | None = None,
    strides: tuple[int, ...] | None = None,
) -> None:
    """Lower LpPool of p 1 and 2; within n + 1 ulps for windows of n elements."""
    _check(x, _FLOATS)
    if kernel_shape is None:
        raise Unsupported("no kernel_shape")
    _lp_pool(
        site, x, p, pool_windows(x, _MOST_AXES, kernel_shape, strides, dilations, pads, auto_pad, ceil_mode)
    )


def _global_pool(is_max: bool) -> Callable[..., Any]:
    def emit(site: Site, x: Operand) -> None:
        """Lower GlobalAveragePool or GlobalMaxPool."""
        (y,) = site.outputs
        if x.dtype.name not in _FLOATS or x.ndim < 2:
            raise Unsupported(f"global pool of {x}")
        if y is None or y.size == 0:
            return
        if x.layout is None and y.layout is None:
            count = x.size // y.size
            code = "narrow_images" if x.dtype.itemsize == 2 else "plain_images"
            function = native(CODE, code, x.dtype.name, is_max)
            site.call(function, x, y, count, units=y.size, work=x.nbytes / 12)
            return
        if x.layout is None or x.dtype != np.float32 or x.size == 0:
            raise Unsupported("global pool from a plain to a blocked layout")
        lanes = x.layout.lanes
        if y.layout is not None and y.layout.lanes != lanes:
            raise Unsupported("blocks of different sizes")
        n, c, h, w = image_shape(x.shape)
        here, there = steps(x.shape, x.layout, 4), steps(y.shape, y.layout, 4)
        count = h * w
        if x.layout.pad[1] == x.layout.pad[3] == 0 and w < 16:
            h, w = (1, h * w) if h * w <= 256 else (h, w)
        in_blocks = y.layout is not None
        site.call(
            native(CODE, "blocked_images", lanes, is_max),
            *(x + here.begin, here.image, here.plane, here.row),
            *(y + there.begin, there.image, there.plane if in_blocks else 4 * lanes),
            # A block is written as a whole, a plain tensor has no room behind its last channel.
            *(here.planes, h, w, here.planes * lanes if in_blocks else c, count),
            units=n * here.planes,
            work=x.nbytes / 12,
        )

    return emit


lower("GlobalAveragePool", since=(1, 22), blocked=blocked_pool)(_global_pool(False))
lower("GlobalMaxPool", since=(1, 22), blocked=blocked_pool)(_global_pool(True))
