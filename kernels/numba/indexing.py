"""Lowerings of operators that read or write at given places.

All are exact. The range of constant indices is checked while planning, and they become a table of
places; others are checked and turned into places at run time (`places.py`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from onnxref.dtypes import Array
from onnxref.lowering import Operand, Packed, Scratch, Site, Unsupported, lower
from onnxref.native import native

from ..common.checks import check_movable, check_result, only_output, refusing
from ..common.indexing import check_reduction, element_axis, equal_steps, tuples_of
from ..common.strides import Dim
from ..numpy._checks import normalize_axis, scalar_int
from ..numpy._common import row_strides
from .boxes import CODE as COPIES
from .boxes import emit_box
from .places import emit_axis_places, emit_tuple_places

CODE = "onnxref.kernels.numba.code.indexing"
_CHUNK = 1 << 14
_BYTES_PER_NS = 10.0
_ELEMENT_NS = 0.8


def _from_front(indices: Array, size: int, lowest: int | None = None) -> Array:
    """Return indices counted from the front."""
    wide = indices.astype(np.int64)
    if wide.min(initial=0) < (-size if lowest is None else lowest) or wide.max(initial=-1) >= size:
        raise Unsupported("indices out of range")
    return np.where(wide < 0, wide + size, wide)


def emit_take(
    site: Site,
    source: Operand,
    places: Packed | Scratch,
    *,
    outer: int,
    count: int,
    outer_elements: int,
    row_elements: int,
) -> None:
    """Add the call that reads rows at `count` places in bytes, for each outer position."""
    goal, size = only_output(site), source.dtype.itemsize
    row = row_elements * size
    units = outer * count
    element = row in (1, 2, 4, 8)
    function = native(CODE, "take_elements", row) if element else native(CODE, "take_rows")
    work = units * (_ELEMENT_NS if element else 3.0 + row / _BYTES_PER_NS)
    site.call(
        function,
        source,
        goal,
        places,
        count,
        outer_elements * size,
        row,
        units=units if row else 0,
        work=work,
        grain=max(1, _CHUNK // max(row, 1)),
    )


def _gather(site: Site, data: Operand, indices: Operand, axis: int, lowest: int | None) -> None:
    goal = only_output(site)
    check_movable(data)
    at = normalize_axis(axis, data.ndim)
    size, outer, inner = data.shape[at], math.prod(data.shape[:at]), math.prod(data.shape[at + 1 :])
    row = inner * data.dtype.itemsize
    check_result(goal, (*data.shape[:at], *indices.shape, *data.shape[at + 1 :]))
    places: Packed | Scratch
    if indices.constant is None:
        places = emit_axis_places(site, indices, size=size, step=row, lowest=lowest)
    else:
        flat = _from_front(indices.constant, size, lowest).ravel()
        box = equal_steps(flat, outer, size, inner) if goal.size else None
        if box is not None:
            emit_box(site, goal, data, box[0], source_offset=box[1])
        if box is not None or not goal.size:
            return
        places = site.pack((indices,), ("Gather", size, row), lambda: flat * row)
    emit_take(
        site, data, places, outer=outer, count=indices.size, outer_elements=size * inner, row_elements=inner
    )


@lower("Gather", since=1)
@refusing
def gather_1(site: Site, data: Operand, indices: Operand, *, axis: int = 0) -> None:
    """ONNX Gather-1."""
    _gather(site, data, indices, axis, 0)


@lower("Gather", since=(11, 13))
@refusing
def gather(site: Site, data: Operand, indices: Operand, *, axis: int = 0) -> None:
    """Read slices; those at equal distances are one box (ONNX Gather-13)."""
    _gather(site, data, indices, axis, None)


# --- places --------------------------------------------------------------------------------------


def _element_offsets(shape: Sequence[int], indices: Array, axis: int, lowest: int | None) -> Array:
    """Return the flat offset for each index: its own position, but on `axis` its value."""
    strides = row_strides(shape)
    offsets = _from_front(indices, shape[axis], lowest) * strides[axis]
    for i, stride in enumerate(strides):
        if i != axis:
            position = np.arange(indices.shape[i]) * stride
            offsets = offsets + position.reshape([-1 if j == i else 1 for j in range(len(shape))])
    return np.asarray(offsets)


def _tuple_offsets(shape: Sequence[int], indices: Array) -> Array:
    """Return the flat offset that each index tuple, the last axis of `indices`, means in `shape`."""
    offsets = np.zeros(indices.shape[:-1], np.int64)
    for i, stride in enumerate(row_strides(shape)):
        offsets += _from_front(indices[..., i], shape[i]) * stride
    return offsets


@dataclass(frozen=True, slots=True)
class _Places:
    """Where the slices lie that the indices of a gather or scatter mean.

    Attributes:
        key: all that the places depend on, beside the indices.
        count: number of slices.
        width: elements of a slice.
        known: offsets in elements, where the indices are constant.
        emit: adds the call that finds them in bytes, at run time.
    """

    indices: Operand
    key: tuple[Hashable, ...]
    count: int
    width: int
    known: Callable[[], Array] | None
    emit: Callable[[], Scratch]


def _along_axis(site: Site, data: Operand, indices: Operand, axis: int, lowest: int | None = None) -> _Places:
    """Return the places of GatherElements."""
    check_movable(data)
    at = element_axis(data, indices, axis)
    shape, size, constant = data.shape, data.dtype.itemsize, indices.constant
    strides = row_strides(shape)
    steps = [0 if i == at else stride * size for i, stride in enumerate(strides)]
    known = None if constant is None else lambda: _element_offsets(shape, constant, at, lowest).ravel()
    return _Places(
        indices, ("elements", shape, at, lowest), indices.size, 1, known,
        lambda: emit_axis_places(
            site, indices, size=shape[at], step=strides[at] * size, lowest=lowest, steps=steps
        ),
    )  # fmt: skip


def _at_tuples(site: Site, data: Operand, indices: Operand, batch_dims: int) -> _Places:
    """Return the places of GatherND."""
    check_movable(data)
    constant = indices.constant
    batches, indexed, width, _ = tuples_of(data, indices, batch_dims)
    step = width * data.dtype.itemsize

    def find(values: Array) -> Array:
        offsets = _tuple_offsets(indexed, values).reshape(batches, -1)
        return ((offsets + np.arange(batches)[:, None] * math.prod(indexed)) * width).ravel()

    return _Places(
        indices, ("tuples", data.shape, batch_dims), math.prod(indices.shape[:-1]), width,
        None if constant is None else lambda: find(constant),
        lambda: emit_tuple_places(
            site, indices, sizes=indexed, steps=[stride * step for stride in row_strides(indexed)],
            batches=batches, batch_step=math.prod(indexed) * step,
        ),
    )  # fmt: skip


# --- reading -------------------------------------------------------------------------------------


def _take(site: Site, data: Operand, places: _Places) -> None:
    size = data.dtype.itemsize
    held: Packed | Scratch
    if places.known is None:
        held = places.emit()
    else:
        offsets = places.known()
        held = site.pack((places.indices,), ("take", *places.key, size), lambda: offsets * size)
    emit_take(site, data, held, outer=1, count=places.count, outer_elements=0, row_elements=places.width)


@lower("GatherElements", since=(11, 13))
@refusing
def gather_elements(site: Site, data: Operand, indices: Operand, *, axis: int = 0) -> None:
    """ONNX GatherElements-13."""
    places = _along_axis(site, data, indices, axis)
    check_result(only_output(site), indices.shape)
    _take(site, data, places)


@lower("GatherND", since=(11, 12, 13))
@refusing
def gather_nd(site: Site, data: Operand, indices: Operand, *, batch_dims: int = 0) -> None:
    """ONNX GatherND-13."""
    check_result(only_output(site), tuples_of(data, indices, batch_dims).shape)
    places = _at_tuples(site, data, indices, batch_dims)
    _take(site, data, places)


# --- writing -------------------------------------------------------------------------------------


def _scatter(site: Site, data: Operand, updates: Operand, places: _Places, reduction: str) -> None:
    """Copy the data, then write or reduce the updates at their places, in their order."""
    goal = only_output(site)
    check_result(goal, data.shape)
    if updates.dtype != data.dtype:
        raise Unsupported("updates of another type")
    separate = updates.nbytes != data.nbytes  # else they may lie in the same memory, under other shapes
    if reduction == "none" and places.known is not None:
        if separate:
            site.may_overwrite(goal, data)
        sources, goals = _last_writers(site, places, places.known(), data.dtype.itemsize)
        _emit_copy(site, data, goal)
        _emit_put(site, updates, sources, goals, places.width * data.dtype.itemsize)
        return
    check_reduction(data, reduction, site.opset)
    if separate:
        site.may_overwrite(goal, data)
    found = places.emit()
    _emit_copy(site, data, goal)
    _emit_put_in_order(site, updates, found, places, reduction)


def _emit_copy(site: Site, data: Operand, goal: Operand) -> None:
    nbytes = data.nbytes
    site.call(
        native(COPIES, "flat"), data, goal, nbytes, _CHUNK,
        units=-(-nbytes // _CHUNK), work=nbytes / _BYTES_PER_NS,
    )  # fmt: skip


def _last_writers(site: Site, places: _Places, offsets: Array, size: int) -> tuple[Packed, Packed]:
    """Return where in the updates and in the goal the slices begin that stay, in bytes."""
    row = places.width * size
    last = len(offsets) - 1 - np.unique(offsets[::-1], return_index=True)[1]
    sources = site.pack((places.indices,), ("put sources", *places.key, row), lambda: last * row)
    goals = site.pack((places.indices,), ("put goals", *places.key, size), lambda: offsets[last] * size)
    return sources, goals


def _emit_put(site: Site, updates: Operand, sources: Packed, goals: Packed, row: int) -> None:
    count = goals.array.size
    site.call(
        native(CODE, "put_rows"), updates, only_output(site), sources, goals, row,
        units=count if row else 0, work=count * (3.0 + row / _BYTES_PER_NS),
        grain=max(1, _CHUNK // max(row, 1)),
    )  # fmt: skip


def _emit_put_in_order(site: Site, updates: Operand, found: Scratch, places: _Places, reduction: str) -> None:
    """Emit the writing of updates where some may meet: each unit takes a part of all slices."""
    size = updates.dtype.itemsize
    row = places.width * size
    if reduction == "none":
        function, chunk, speed = native(CODE, "put_in_order"), _CHUNK, _BYTES_PER_NS
    else:
        function = native(CODE, "reduce_in_order", updates.dtype.name, reduction)
        chunk, speed = _CHUNK // size, size / 1.0
    length = row if reduction == "none" else places.width
    site.call(
        function, updates, only_output(site), found, places.count, length, chunk,
        units=-(-length // chunk) if places.count else 0,
        work=places.count * (3.0 + row / speed),
    )  # fmt: skip


def _scatter_elements(
    site: Site,
    data: Operand,
    indices: Operand,
    updates: Operand,
    axis: int,
    lowest: int | None = None,
    reduction: str = "none",
) -> None:
    places = _along_axis(site, data, indices, axis, lowest)
    if updates.shape != indices.shape:
        raise Unsupported("updates that do not fit the indices")
    _scatter(site, data, updates, places, reduction)


@lower("Scatter", since=9)
@refusing
def scatter_9(site: Site, data: Operand, indices: Operand, updates: Operand, *, axis: int = 0) -> None:
    """ONNX Scatter-9."""
    _scatter_elements(site, data, indices, updates, axis, 0)


@lower("Scatter", since=11)
@lower("ScatterElements", since=(11, 13, 16, 18))
@refusing
def scatter_elements(
    site: Site, data: Operand, indices: Operand, updates: Operand, *, axis: int = 0, reduction: str = "none"
) -> None:
    """ONNX ScatterElements-18."""
    _scatter_elements(site, data, indices, updates, axis, None, reduction)


@lower("ScatterND", since=(11, 13, 16, 18))
@refusing
def scatter_nd(
    site: Site, data: Operand, indices: Operand, updates: Operand, *, reduction: str = "none"
) -> None:
    """ONNX ScatterND-18."""
    places = _at_tuples(site, data, indices, 0)
    if updates.shape != indices.shape[:-1] + data.shape[indices.shape[-1] :]:
        raise Unsupported("updates that do not fit the indices")
    _scatter(site, data, updates, places, reduction)


# --- made of indices or shapes -------------------------------------------------------------------


def _one_hot(site: Site, indices: Operand, depth: Operand, values: Operand, axis: int, lowest: int) -> None:
    goal = only_output(site)
    check_movable(values)
    if indices.dtype.name not in ("int32", "int64", "float32", "float64"):
        raise Unsupported(f"indices are {indices.dtype.name}")
    if depth.constant is None or values.shape != (2,) or values.dtype.itemsize == 16:
        raise Unsupported("depth is not constant, or values are no pair")
    at, classes = normalize_axis(axis, indices.ndim + 1), scalar_int(depth.constant, "depth")
    check_result(goal, (*indices.shape[:at], classes, *indices.shape[at:]))
    outer = math.prod(indices.shape[:at])
    inner = math.prod(indices.shape[at:])
    site.call(
        native(CODE, "one_hot", indices.dtype.name, values.dtype.itemsize),
        indices,
        values,
        goal,
        classes,
        inner,
        lowest * classes,
        units=outer if inner * classes else 0,
        work=goal.nbytes / _BYTES_PER_NS + indices.size,
        grain=max(1, _CHUNK // max(1, classes * inner)),
    )


@lower("OneHot", since=9)
@refusing
def one_hot_9(site: Site, indices: Operand, depth: Operand, values: Operand, *, axis: int = -1) -> None:
    """ONNX OneHot-9."""
    _one_hot(site, indices, depth, values, axis, 0)


@lower("OneHot", since=(11, 28))
@refusing
def one_hot(site: Site, indices: Operand, depth: Operand, values: Operand, *, axis: int = -1) -> None:
    """ONNX OneHot-28."""
    _one_hot(site, indices, depth, values, axis, -1)


@lower("Trilu", since=14)
@refusing
def trilu(site: Site, input: Operand, k: Operand | None = None, *, upper: int = 1) -> None:
    """ONNX Trilu-14."""
    goal = only_output(site)
    check_movable(input)
    if input.ndim < 2 or (k is not None and k.constant is None):
        raise Unsupported("rank below 2, or k is not constant")
    rows, columns = input.shape[-2:]
    diagonal = 0
    if k is not None and k.constant is not None:
        diagonal = min(max(scalar_int(k.constant, "k"), -rows - 1), columns + 1)
    check_result(goal, input.shape)
    site.call(
        native(CODE, "triangle"),
        input,
        goal,
        rows,
        columns,
        diagonal,
        int(upper != 0),
        input.dtype.itemsize,
        units=math.prod(input.shape[:-1]) if columns else 0,
        work=input.nbytes / _BYTES_PER_NS,
        grain=max(1, _CHUNK // max(1, columns * input.dtype.itemsize)),
    )


@lower("EyeLike", since=(9, 22))
def eye_like(site: Site, input: Operand, *, dtype: int | None = None, k: int = 0) -> None:
    """ONNX EyeLike-22."""
    goal = only_output(site)
    check_movable(goal)
    if input.ndim != 2 or goal.shape != input.shape:
        raise Unsupported("rank must be 2")
    rows, columns = goal.shape
    pair = np.array([0, 1]).astype(goal.dtype)
    values = site.pack((), ("EyeLike", goal.dtype.name), lambda: pair)
    emit_box(site, goal, values, [Dim(goal.size, 1, 0)])
    first, last = max(0, -k), max(0, min(rows, columns - k))
    if -rows < k < columns and last > first:
        emit_box(
            site,
            goal,
            values,
            [Dim(last - first, columns + 1, 0)],
            goal_offset=first * columns + first + k,
            source_offset=1,
        )
