"""Resize and Upsample along the last two axes, by tables of positions and weights made while planning.

nearest moves elements of 1, 2, 4 or 8 bytes and is exact. linear and cubic (also with antialias) sum n
weighted values per axis in the type (float32 for float16 and bfloat16, float64 for integers), rounded
once: within 2n + 2 ulps of the sum of the weighted magnitudes.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np

from onnxref.dtypes import Array
from onnxref.lowering import Argument, BlockedUse, Op, Operand, Packed, Site, Unsupported
from onnxref.native import native

from ..common.resize import RESIZES, Resampling, nearest_table, tap_table
from ..numpy._interpolation import Axis, Filter
from .layout import goes_along, image_shape, steps

CODE = "onnxref.kernels.numba.code.resize"
_INTERPOLATED = ("float32", "float64", "float16", "bfloat16", "uint8", "int8")


def blocked_resize(op: Op, lanes: int) -> BlockedUse | None:
    """Resizing of height and width goes along with blocks."""
    x, y = op.inputs[0], op.outputs[0]
    if x is None or y is None or x.dtype != np.float32 or x.ndim not in (3, 4) or x.size * y.size == 0:
        return None
    if (
        x.shape[:2] != y.shape[:2]
        or op.attributes.get("coordinate_transformation_mode") == "tf_crop_and_resize"
    ):
        return None
    if any(i is not None and i.constant is None and i.size for i in op.inputs[1:]):
        return None
    return goes_along(0)


# Tables -------------------------------------------------------------------------------------------


def _nearest_table(length: int, a: Axis | None, how: Filter) -> Array:
    return np.arange(length, dtype=np.int64) if a is None else nearest_table(a, how)


def _tap_table(length: int, a: Axis | None, how: Filter) -> tuple[Array, Array, Array]:
    """Return (counts, positions, weights): for each output the taps whose weight is not zero come first."""
    if a is None:
        return np.ones(length, np.int64), np.arange(length, dtype=np.int64)[:, None], np.ones((length, 1))
    found = tap_table(a, how)
    if not found.counts.all():
        raise Unsupported("an output without any input")
    return found.counts, found.places, found.weights


def _packs(site: Site, key: Hashable, tables: Sequence[Array]) -> list[Packed]:
    return [
        site.pack((), ("resize", key, at), lambda table=table: table)  # type: ignore[misc]
        for at, table in enumerate(tables)
    ]


# Calls --------------------------------------------------------------------------------------------


def _resample(site: Site, asked: Resampling) -> None:
    x, plan, how = asked
    (y,) = site.outputs
    if y is None or y.size == 0:
        return
    if how.positions == "tf_crop_and_resize":
        raise Unsupported("cropping")
    if x.ndim == 0:
        raise Unsupported("a scalar")
    by_axis = {a.axis - x.ndim: a for a in plan if not a.untouched}
    if any(axis < -2 for axis in by_axis) or (x.layout is not None and x.ndim == 3 and -2 in by_axis):
        raise Unsupported("resizing of other than the last two axes")
    row, column = (by_axis.get(axis) for axis in (-2, -1))
    if x.layout is not None or y.layout is not None:
        _resample_blocked(site, x, y, row, column, how)
    else:
        _resample_plain(site, x, y, row, column, how)


def _resample_blocked(
    site: Site, x: Operand, y: Operand, row: Axis | None, column: Axis | None, how: Filter
) -> None:
    if x.layout is None or y.layout is None or x.layout.lanes != y.layout.lanes or x.dtype != np.float32:
        raise Unsupported("resizing with input and output in different layouts")
    lanes = x.layout.lanes
    here, there = steps(x.shape, x.layout, 4), steps(y.shape, y.layout, 4)
    height, width = image_shape(x.shape)[2:]
    out = image_shape(y.shape)[2:]
    places: list[Argument] = [x + here.begin, here.image, here.plane, here.row]
    places += [y + there.begin, there.image, there.plane, there.row]
    units = y.shape[0] * here.planes * out[0]
    key = (row, column, how, height, width)
    if how.mode == "nearest":
        tables = _nearest_table(height, row, how), _nearest_table(width, column, how)
        site.call(
            native(CODE, "nearest", 4, lanes, 0),
            *(*places, here.planes, *out, *_packs(site, key, tables)),
            units=units,
            work=y.nbytes / 8,
        )
        return
    rows, columns = _tap_table(height, row, how), _tap_table(width, column, how)
    memory = site.scratch(width * lanes * 4, per_thread=True)
    arguments: list[Argument] = []
    for at, (counts, index, weights) in enumerate((rows, columns)):
        table = (counts, index, weights.astype(np.float32))
        arguments += [index.shape[1], *_packs(site, (*key, at), table)]
    site.call(
        native(CODE, "blocked_taps", lanes, 4 if width >= 4 else 1),
        *(*places, here.planes, *out, width, *arguments, memory, memory.nbytes),
        units=units,
        work=y.nbytes / 4,
    )


def _repeats(table: Array, width: int) -> int:
    """Return how often each column is taken in turn, 0 where it is not 1 or 2 times."""
    for repeats in (1, 2):
        if np.array_equal(table, np.repeat(np.arange(width), repeats)):
            return repeats
    return 0


def _rows_columns(x: Operand) -> tuple[int, int]:
    return (x.shape[-2] if x.ndim > 1 else 1), x.shape[-1]


def _resample_plain(
    site: Site, x: Operand, y: Operand, row: Axis | None, column: Axis | None, how: Filter
) -> None:
    (height, width), out = _rows_columns(x), _rows_columns(y)
    size = x.dtype.itemsize
    key = (row, column, how, height, width)
    if how.mode == "nearest" or (row is None and column is None):
        if size not in (1, 2, 4, 8) or x.dtype.hasobject:
            raise Unsupported(f"resizing of {x.dtype}")
        pair = _nearest_table(height, row, how), _nearest_table(width, column, how)
        planes = y.size // (out[0] * out[1])
        source: list[Argument] = [x, 0, height * width * size, width * size]
        goal: list[Argument] = [y, 0, out[0] * out[1] * size, out[1] * size]
        repeats = _repeats(pair[1], width)
        site.call(
            native(CODE, "nearest", size, 1, repeats),
            *source,
            *goal,
            planes,
            *out,
            *_packs(site, (*key, "plain"), pair),
            units=planes * out[0],
            work=y.size,
        )
        return
    if x.dtype.name not in _INTERPOLATED:
        raise Unsupported(f"interpolation of {x.dtype.name}")
    wide = np.float32 if x.dtype.name in ("float32", "float16", "bfloat16") else np.float64
    rows, columns = _tap_table(height, row, how), _tap_table(width, column, how)
    memory = site.scratch((width + out[1]) * np.dtype(wide).itemsize, per_thread=True)
    down = (*rows[:2], rows[2].astype(wide))
    along = (columns[1].T, columns[2].astype(wide).T)
    name = np.dtype(wide).name
    site.call(
        native(CODE, "plain_taps", x.dtype.name),
        *(x, y, height, width, *out),
        *(rows[1].shape[1], *_packs(site, (*key, name, "rows"), down)),
        *(columns[1].shape[1], *_packs(site, (*key, name, "columns"), along)),
        *(memory, memory.nbytes),
        units=y.size // out[1],
        work=y.size * columns[1].shape[1] + x.size,
    )


RESIZES.register("numba", _resample, blocked_resize)
