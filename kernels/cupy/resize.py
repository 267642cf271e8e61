"""Resize and Upsample by tables of positions and weights made while planning, one launch each.

nearest moves elements of any size and is exact. linear and cubic (also with antialias) sum n weighted values
per axis in float32 (float64 for float64 and integers), rounded once: within 2n + 2 units in the last
place of the sum of the weighted magnitudes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from onnxref.dtypes import Array
from onnxref.errors import KernelError
from onnxref.gpu import CTYPES, cuda_kernel, grid_for
from onnxref.lowering import NO_PAD, BlockedUse, Op, Operand, Packed, Site, Unsupported, lower

from ..numpy import _interpolation
from ..numpy._interpolation import Axis, Filter, from_float, plan_axes
from ..numpy.resize import POSITIONS_11, POSITIONS_13, POSITIONS_19, check_filter, scale_only
from .mapped import Axis as LyingAxis
from .mapped import Table, axes_of, emit_mapped
from .movement import CODE, check_movable, check_result, emit_alias, index_type, magic, only_output

_FLOATS = ("float32", "float64", "float16", "bfloat16")
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
    return BlockedUse({0: NO_PAD})


def _positions(a: Axis, how: Filter) -> tuple[Array, Array]:
    """Return where each output lies in the input, and which lie outside of it."""
    positions = _interpolation.source_positions(a, how)
    if how.positions != "tf_crop_and_resize":
        return positions, np.zeros(len(positions), np.bool_)
    outside = ~((positions >= 0) & (positions <= a.length - 1))
    return np.where(outside, 0.0, positions), outside


def _resample(site: Site, x: Operand, plan: list[Axis], how: Filter) -> None:
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
        tables: dict[int, Table] = {}
        for a in moved:
            positions, outside = _positions(a, how)
            index = _interpolation.nearest_indices(a, positions, how.nearest_mode)
            tables[a.axis] = np.where(outside, -1, index)
        emit_mapped(site, y, x, tables, fill)
        return
    _emit_taps(site, x, y, moved, how, fill)


def _tap_tables(a: Axis, stride: int, how: Filter) -> tuple[Array, Array]:
    """Return offsets and weights of an axis, both (resized, taps), without columns that are all zero."""
    positions, outside = _positions(a, how)
    index, weights = _interpolation.filter_taps(a, positions, how)
    order = np.argsort(weights == 0, axis=1, kind="stable")
    index, weights = (np.take_along_axis(table, order, axis=1) for table in (index, weights))
    most = max(1, int((weights != 0).sum(axis=1).max(initial=0)))
    offsets = index[:, :most] * stride
    offsets[outside, 0] = -1
    return offsets, weights[:, :most]


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
    if name not in (*_FLOATS, *_INTEGERS) or len(moved) > 3:
        raise Unsupported(f"interpolation of {name} along {len(moved)} axes")
    by_axis = {a.axis: a for a in moved}
    # A table marks the axes that are resized; it is of no other use here.
    axes = axes_of(y, x, {axis: np.full(a.resized, -1 - axis) for axis, a in by_axis.items()})
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
        INDEX=index_type(x.size, y.size + 4096, places.size),
    )  # fmt: skip
    site.launch(
        kernel,
        *(x, fill, site.pack((), ("taps", places.tobytes()), lambda: places)),
        *(site.pack((), ("taps", wide.name, factors.tobytes()), lambda: factors), y, math.prod(sizes)),
        *((*sizes, *map(magic, sizes), *strides), first, tuple(taps)),
        grid=grid_for(math.prod(sizes)),
    )


# Lowerings ----------------------------------------------------------------------------------------


def _known(operand: Operand | None, name: str) -> Array | None:
    if operand is None or operand.size == 0:
        return None
    if operand.constant is None:
        raise Unsupported(f"{name} that is not constant")
    return operand.constant


def _resizing(known_positions: Sequence[str]) -> Callable[..., None]:
    def emit(
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
    ) -> None:
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
        try:
            like: Any = x
            plan = plan_axes(
                like, region, *given, axes=axes, policy=keep_aspect_ratio_policy, cropping=cropping
            )
            check_filter(how, known_positions, plan)
        except KernelError as error:  # the reference kernel says it again
            raise Unsupported(str(error)) from error
        _resample(site, x, plan, how)

    return emit


lower("Resize", since=11, backend="cupy", blocked=resize_along)(_resizing(POSITIONS_11))
lower("Resize", since=(13, 18), backend="cupy", blocked=resize_along)(_resizing(POSITIONS_13))
lower("Resize", since=19, backend="cupy", blocked=resize_along)(_resizing(POSITIONS_19))


def _resize_by(site: Site, x: Operand, scales: Array | None, mode: str, smallest: float) -> None:
    if scales is None:
        raise Unsupported("no scales")
    try:
        like: Any = x
        plan, how = scale_only(like, scales, mode, smallest)
    except KernelError as error:
        raise Unsupported(str(error)) from error
    _resample(site, x, plan, how)


@lower("Resize", since=10, backend="cupy", blocked=resize_along)
def resize_10(site: Site, x: Operand, scales: Operand, *, mode: str = "nearest") -> None:
    """Lower Resize-10."""
    _resize_by(site, x, _known(scales, "scales"), mode, 0.0)


@lower("Upsample", since=(9, 10), backend="cupy", blocked=resize_along)
def upsample_9(site: Site, x: Operand, scales: Operand, *, mode: str = "nearest") -> None:
    """Lower Upsample-9."""
    _resize_by(site, x, _known(scales, "scales"), mode, 1.0)


@lower("Upsample", since=7, backend="cupy", blocked=resize_along)
def upsample_7(site: Site, x: Operand, *, scales: tuple[float, ...], mode: str = "nearest") -> None:
    """Lower Upsample-7."""
    _resize_by(site, x, np.array(scales, np.float32), mode, 1.0)


@lower("Upsample", since=1, backend="cupy", blocked=resize_along)
def upsample_1(
    site: Site, x: Operand, *, height_scale: float, width_scale: float, mode: str = "nearest"
) -> None:
    """Lower Upsample-1."""
    if x.ndim != 4:
        raise Unsupported("other than four axes")
    _resize_by(site, x, np.array((1, 1, height_scale, width_scale), np.float32), mode, 1.0)
