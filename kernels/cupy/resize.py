"""Resize and Upsample by tables of positions and weights made while planning, one launch each.

nearest moves elements of any size and is exact. linear and cubic (also with antialias) sum n weighted values
per axis in float32 (float64 for float64 and integers), rounded once: within 2n + 2 units in the last
place of the sum of the weighted magnitudes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from onnxref.dtypes import Array
from onnxref.gpu import CTYPES, cuda_kernel, grid_for
from onnxref.lowering import NO_PAD, BlockedUse, Op, Operand, Packed, Site, Unsupported

from ..common.checks import check_movable, check_result, only_output
from ..common.resize import RESIZES, Resampling, nearest_table, tap_table
from ..numpy._interpolation import Axis, Filter, from_float
from ._rows import FLOATS
from .mapped import Axis as LyingAxis
from .mapped import Table, axes_of, emit_mapped, gap_of
from .movement import CODE, emit_alias, index_type, magic

_INTEGERS = ("uint8", "int8", "uint16", "int16", "uint32", "int32")
_UNROLLED = 4  # taps of an axis up to which the kernel's loop over them is unrolled
_PLANES = 4  # that one thread does where there are many
_MANY = 1 << 18  # elements


def resize_along(op: Op, lanes: int) -> BlockedUse | None:
    """Resizing goes along with any layout where its arguments are known."""
    x, y = op.inputs[0], op.outputs[0]
    if x is None or y is None or x.ndim < 3 or x.size * y.size == 0:
        return None
    if any(i is not None and i.constant is None and i.size for i in op.inputs[1:]):
        return None
    return BlockedUse({0: NO_PAD}, pitched=op.attributes.get("mode", "nearest") == "nearest")


def _resample(site: Site, asked: Resampling) -> None:
    x, plan, how = asked
    y = only_output(site)
    check_movable(x)
    shape = list(x.shape)
    for a in plan:
        shape[a.axis] = a.resized
    check_result(y, shape)
    if y.size == 0:
        return
    if x.size == 0:
        raise Unsupported("an empty tensor")
    moved = [a for a in plan if not a.untouched]
    if not moved and x.layout == y.layout:
        emit_alias(site, x)
        return
    extrapolated = from_float(np.array([how.extrapolation_value]), x.dtype, rounded=True)
    fill = site.pack((), ("Resize", x.dtype.name, extrapolated.tobytes()), lambda: extrapolated)
    if how.mode == "nearest" or not moved:
        tables: dict[int, Table] = {a.axis: nearest_table(a, how) for a in moved}
        emit_mapped(site, y, x, tables, fill)
        return
    _emit_taps(site, x, y, moved, how, fill)


def _tap_tables(a: Axis, stride: int, how: Filter) -> tuple[Array, Array]:
    """Return offsets and weights of an axis, both (resized, taps), without columns that are all zero."""
    found = tap_table(a, how)
    offsets = found.places * stride
    offsets[found.outside, 0] = -1
    return offsets, found.weights


def _joined_tables(
    axes: Sequence[LyingAxis], by_axis: Mapping[int, Axis], how: Filter
) -> tuple[list[int], Array, Array]:
    """Return (taps and begin of the tables of each resized axis, offsets, weights)."""
    begin, taps = 0, []
    offsets, weights = [], []
    for a in axes:
        if a.table is not None:
            found = _tap_tables(by_axis[-1 - int(a.table[0])], a.stride, how)
            taps += [found[0].shape[1], begin]
            begin += found[0].size
            offsets.append(found[0].ravel())
            weights.append(found[1].ravel())
    if max(int(table.max()) for table in offsets) >= 1 << 31:
        raise Unsupported("offsets beyond 32 bits")
    return taps, np.concatenate(offsets).astype(np.int32), np.concatenate(weights)


def _emit_taps(site: Site, x: Operand, y: Operand, moved: list[Axis], how: Filter, fill: Packed) -> None:
    name = x.dtype.name
    if name not in (*FLOATS, *_INTEGERS) or len(moved) > 3:
        raise Unsupported(f"interpolation of {name} along {len(moved)} axes")
    by_axis = {a.axis: a for a in moved}
    # A table marks the axes that are resized; it is of no other use here.
    axes = axes_of(y, x, {axis: np.full(a.resized, -1 - axis) for axis, a in by_axis.items()})
    if gap_of(axes):
        raise Unsupported("weighted sums into channels of another tensor")
    vector = 1
    if axes[-1].table is None and axes[-1].stride == 1:
        vector = math.gcd(16 // x.dtype.itemsize, axes[-1].size, *(a.stride for a in axes[:-1]))
    mask = sum(1 << d for d, a in enumerate(axes) if a.table is not None)
    taps, places, weights = _joined_tables(axes, by_axis, how)
    wide = np.dtype(np.float32 if name in ("float32", "float16", "bfloat16") else np.float64)
    factors = weights.astype(wide)
    sizes = [*(a.size for a in axes[:-1]), axes[-1].size // vector]
    strides = [*(a.stride for a in axes[:-1]), axes[-1].stride * vector]
    # Tables are read once for several planes where there are enough to keep the card busy.
    items = _PLANES if vector == 1 and not mask & 1 and y.size >= _MANY else 1
    first = (0, 0, 0) if mask & 1 else (sizes[0], strides[0], math.prod(sizes[1:]))
    sizes[0] = -(-sizes[0] // items)
    counts = [n if n <= _UNROLLED else 0 for n in taps[::2]] + [0, 0]
    limits = np.iinfo(x.dtype if name in _INTEGERS else np.int8)
    kernel = cuda_kernel(
        CODE, "taps.cu", "taps",
        T=CTYPES[name], W=CTYPES[wide.name], RANK=len(axes), MASK=mask, AXES=len(moved), VEC=vector,
        ITEMS=items, COUNT_0=counts[0], COUNT_1=counts[1], COUNT_2=counts[2],
        IS_INTEGER=int(name in _INTEGERS), LOW=f"({float(limits.min)})", HIGH=f"({float(limits.max)})",
        INDEX=index_type(x.buffer_bytes // x.dtype.itemsize, y.size + 4096, places.size),
    )  # fmt: skip
    site.launch(
        kernel,
        *(x, fill, site.pack((), ("taps", places.tobytes()), lambda: places)),
        *(site.pack((), ("taps", wide.name, factors.tobytes()), lambda: factors), y, math.prod(sizes)),
        *((*sizes, *map(magic, sizes), *strides), first, tuple(taps)),
        grid=grid_for(math.prod(sizes)),
    )


RESIZES.register("cupy", _resample, resize_along)
