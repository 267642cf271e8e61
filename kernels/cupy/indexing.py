"""Lowerings of operators that read or write at given places.

All are exact, bit for bit, reductions too (they go in the order of the updates). Indices are checked where
they are used; where some updates meet, the last one counts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from onnxref.gpu import CTYPES, Kernel, cuda_kernel, grid_for
from onnxref.lowering import FAULT, Fault, Operand, Site, Unsupported, lower

from ..common.checks import check_movable, check_result, only_output, refusing
from ..common.indexing import check_reduction, element_axis, equal_steps, tuples_of
from ..common.strides import Dim, join_dims
from ..numpy._checks import normalize_axis
from ..numpy._common import row_strides
from ._values import fault_of
from .movement import CODE, check_plain, emit_copy, emit_range, index_type, magic, widest

_MANY = 1 << 20  # bytes from which a thread moves several units
_SCANNED = 32  # slices up to which each looks for a later one at its place
_MOST_WALKED = 1 << 15  # updates in a row that one thread may reduce


@dataclass(frozen=True, slots=True)
class _Places:
    """Where the slices lie that the indices of a gather or scatter mean.

    Attributes:
        positions: the box of positions, in order; `source` is the step of the places in slices, `goal`
            that among the tuples of indices.
        sizes, steps: of the axes that a tuple goes along, in slices.
        width: elements of a slice.
        lowest: the lowest index allowed, in sizes: -1 or 0.
        reach: slices in all.
    """

    indices: Operand
    positions: tuple[Dim, ...]
    sizes: tuple[int, ...]
    steps: tuple[int, ...]
    width: int
    reach: int
    lowest: int = -1

    @property
    def count(self) -> int:
        return math.prod(d.size for d in self.positions)

    def check(self) -> None:
        """Refuse indices that no check at run time can save."""
        if self.indices.dtype.name not in ("int32", "int64"):
            raise Unsupported(f"indices are {self.indices.dtype.name}")
        if self.count and 0 in self.sizes:
            raise Unsupported("indices into an empty axis")
        constant = self.indices.constant
        if constant is not None:
            found = constant.reshape(-1, len(self.sizes)).astype(np.int64)
            sizes = np.array(self.sizes, np.int64)
            if ((found < self.lowest * sizes) | (found >= sizes)).any():
                raise Unsupported("indices out of range")

    @property
    def fault(self) -> Fault | int:
        """Where kernels report bad indices; `check` has seen those that are known."""
        return FAULT if self.indices.constant is None else 0

    def distinct(self) -> bool:
        """Say whether constant indices mean no place twice."""
        constant = self.indices.constant
        if constant is None:
            return False
        found = constant.reshape(-1, len(self.sizes)).astype(np.int64)
        sizes = np.array(self.sizes, np.int64)
        places = np.where(found < 0, found + sizes, found) @ np.array(self.steps, np.int64)
        for d, step in zip(self.positions, row_strides([d.size for d in self.positions]), strict=True):
            places = places + np.arange(self.count) // step % d.size * d.source
        return bool(np.unique(places).size == places.size)

    def axes(self, ratio: int = 1) -> tuple[int, ...]:
        """Return the positions as `places.cuh` wants them; a slice counts as `ratio`."""
        dims = self.positions
        sizes = [d.size for d in dims]
        return (*sizes, *map(magic, sizes), *(d.source * ratio for d in dims), *(d.goal for d in dims))

    def tuples(self, ratio: int = 1) -> tuple[int, ...]:
        return (*self.sizes, *(step * ratio for step in self.steps))

    def kernel(self, file: str, entry: str, units: int, **defines: int) -> Kernel:
        """Return a kernel over these places, given how many units the largest tensor has."""
        return cuda_kernel(
            CODE,
            file,
            entry,
            RANK=len(self.positions),
            K=len(self.sizes),
            INDICES=CTYPES[self.indices.dtype.name],
            INDEX=index_type(units, self.indices.size),
            **defines,
        )


def _joined(dims: Sequence[Dim]) -> tuple[Dim, ...]:
    """Join neighbouring positions that are one; their order stays."""
    return tuple(join_dims(dims)) or (Dim(1, 0, 0),)


def _along_axis(data: Operand, indices: Operand, axis: int, lowest: int = -1) -> _Places:
    """Return the places of GatherElements."""
    at = element_axis(data, indices, axis)
    strides = row_strides(data.shape)
    dims = [
        Dim(n, to, 0 if i == at else stride)
        for i, (n, to, stride) in enumerate(
            zip(indices.shape, row_strides(indices.shape), strides, strict=True)
        )
    ]
    return _Places(indices, _joined(dims), (data.shape[at],), (strides[at],), 1, data.size, lowest)


def _at_tuples(data: Operand, indices: Operand, batch_dims: int) -> _Places:
    """Return the places of GatherND."""
    batches, indexed, width, _ = tuples_of(data, indices, batch_dims)
    tuples, k = math.prod(indices.shape[batch_dims:-1]), len(indexed)
    dims = [Dim(batches, tuples * k, math.prod(indexed)), Dim(tuples, k, 0)]
    return _Places(indices, _joined(dims), indexed, row_strides(indexed), width, batches * math.prod(indexed))


# --- reading -------------------------------------------------------------------------------------


def _emit_gather(site: Site, data: Operand, places: _Places) -> None:
    goal = only_output(site)
    check_movable(data)
    check_plain(data, places.indices, goal)
    places.check()
    size = data.dtype.itemsize
    unit = widest(size, places.width * size)
    row = places.width * size // unit
    total = places.count * row
    items = 4 if total * unit >= _MANY else 1
    units = max(total + 1024, places.reach * row)
    site.launch(
        places.kernel("gather.cu", "gather", units, UNIT=unit, ITEMS=items),
        *(data, places.indices, goal, places.fault, total, (row, magic(row))),
        *(places.axes(row), places.tuples(row), places.lowest),
        grid=grid_for(total, 256, items) if total else (0, 1, 1),
    )


def _gather(site: Site, data: Operand, indices: Operand, axis: int, lowest: int) -> None:
    goal = only_output(site)
    check_movable(data)
    check_plain(data, goal)
    at = normalize_axis(axis, data.ndim)
    size, outer, inner = data.shape[at], math.prod(data.shape[:at]), math.prod(data.shape[at + 1 :])
    check_result(goal, (*data.shape[:at], *indices.shape, *data.shape[at + 1 :]))
    dims = _joined([Dim(outer, 0, size), Dim(indices.size, 1, 0)])
    places = _Places(indices, dims, (size,), (1,), inner, outer * size, lowest)
    places.check()
    if not goal.size:
        return
    if indices.constant is not None:
        flat = indices.constant.astype(np.int64).ravel()
        box = equal_steps(np.where(flat < 0, flat + size, flat), outer, size, inner)
        if box is not None:
            emit_range(site, goal, data, box[0], source_offset=box[1])
            return
    _emit_gather(site, data, places)


@lower("Gather", since=1, backend="cupy")
@refusing
def gather_1(site: Site, data: Operand, indices: Operand, *, axis: int = 0) -> None:
    """ONNX Gather-1."""
    _gather(site, data, indices, axis, 0)


@lower("Gather", since=(11, 13), backend="cupy")
@refusing
def gather(site: Site, data: Operand, indices: Operand, *, axis: int = 0) -> None:
    """Read slices; those at constant equal distances are one box (ONNX Gather-13)."""
    _gather(site, data, indices, axis, -1)


@lower("GatherElements", since=(11, 13), backend="cupy")
@refusing
def gather_elements(site: Site, data: Operand, indices: Operand, *, axis: int = 0) -> None:
    """ONNX GatherElements-13."""
    check_result(only_output(site), indices.shape)
    _emit_gather(site, data, _along_axis(data, indices, axis))


@lower("GatherND", since=(11, 12, 13), backend="cupy")
@refusing
def gather_nd(site: Site, data: Operand, indices: Operand, *, batch_dims: int = 0) -> None:
    """ONNX GatherND-13."""
    check_result(only_output(site), tuples_of(data, indices, batch_dims).shape)
    places = _at_tuples(data, indices, batch_dims)
    _emit_gather(site, data, places)


# --- writing -------------------------------------------------------------------------------------


def _begin_scatter(site: Site, data: Operand, updates: Operand, places: _Places) -> Operand:
    """Check what all scatters want, and copy the data to the output, which is returned."""
    goal = only_output(site)
    check_movable(data)
    check_plain(data, places.indices, updates, goal)
    check_result(goal, data.shape)
    places.check()
    if updates.dtype != data.dtype:
        raise Unsupported("updates of another type")
    if updates.nbytes != data.nbytes:  # else they may lie in the same memory, under other shapes
        site.may_overwrite(goal, data)
    emit_copy(site, goal, data)
    return goal


def _scatter(site: Site, data: Operand, updates: Operand, places: _Places) -> None:
    """Copy the data, then write the updates at their places, the last one where some meet."""
    goal = _begin_scatter(site, data, updates, places)
    size = data.dtype.itemsize
    unit = widest(size, places.width * size)
    row = places.width * size // unit
    count, total = places.count, places.count * row
    if not total:
        return
    units = max(total + 1024, places.reach * row)
    meant = (places.axes(), places.tuples(), places.lowest)
    cut = (row, magic(row))
    put = places.kernel("scatter.cu", "put", units, UNIT=unit)
    is_distinct = places.distinct()
    if is_distinct or count <= _SCANNED:
        scanned = 0 if is_distinct else count
        site.launch(
            put,
            *(updates, places.indices, goal, places.fault, total, scanned, cut, *meant),
            grid=grid_for(total),
        )
        return
    claims = site.scratch(4 * places.reach)
    for entry in ("unclaim", "claim"):
        site.launch(
            places.kernel("scatter.cu", entry, units, UNIT=unit),
            *(places.indices, claims, places.fault, count, *meant),
            grid=grid_for(count),
        )
    site.launch(
        places.kernel("scatter.cu", "put_claimed", units, UNIT=unit),
        *(updates, places.indices, claims, goal, places.fault, total, cut, *meant),
        grid=grid_for(total),
    )


@dataclass(frozen=True, slots=True)
class _Line:
    """One axis of the lines of a scatter that reduces: size, steps in the goal, among tuples and updates."""

    size: int
    goal: int
    index: int
    update: int


def _reduce(
    site: Site,
    data: Operand,
    updates: Operand,
    places: _Places,
    lines: Sequence[_Line],
    walk: tuple[int, int, int],
    reduction: str,
) -> None:
    """Copy the data, then reduce the updates at their places, each line in order.

    Args:
        walk: updates of a line, their step among the tuples and among the updates.
    """
    check_reduction(data, reduction, site.opset)
    if walk[0] > _MOST_WALKED:
        raise Unsupported(f"{walk[0]} updates in a row to reduce in order")
    goal = _begin_scatter(site, data, updates, places)
    count = math.prod(line.size for line in lines)
    if not count * walk[0]:
        return
    held = [line for line in lines if line.size > 1] or [_Line(1, 0, 0, 0)]
    sizes = [line.size for line in held]
    axes = (*sizes, *map(magic, sizes), *(line.goal for line in held))
    axes += (*(line.index for line in held), *(line.update for line in held))
    kernel = cuda_kernel(
        CODE, "scatter_reduce.cu", "scatter_reduce",
        T=CTYPES[data.dtype.name], REDUCE=f"op_{reduction}", RANK=len(held), K=len(places.sizes),
        INDICES=CTYPES[places.indices.dtype.name],
        INDEX=index_type(data.size, updates.size, places.indices.size),
    )  # fmt: skip
    site.launch(
        kernel,
        *(
            updates,
            places.indices,
            goal,
            places.fault,
            count,
            axes,
            walk,
            places.tuples(places.width),
            places.lowest,
        ),
        grid=grid_for(count, 64),
        block=(64, 1, 1),
    )


def _scatter_elements(
    site: Site,
    data: Operand,
    indices: Operand,
    updates: Operand,
    axis: int,
    lowest: int = -1,
    reduction: str = "none",
) -> None:
    places = _along_axis(data, indices, axis, lowest)
    if updates.shape != indices.shape:
        raise Unsupported("updates that do not fit the indices")
    if reduction == "none":
        _scatter(site, data, updates, places)
        return
    at = normalize_axis(axis, data.ndim)
    strides, ours = row_strides(data.shape), row_strides(indices.shape)
    lines = [
        _Line(n, to, step, step)
        for i, (n, to, step) in enumerate(zip(indices.shape, strides, ours, strict=True))
        if i != at
    ]
    _reduce(site, data, updates, places, lines, (indices.shape[at], ours[at], ours[at]), reduction)


@lower("Scatter", since=9, backend="cupy")
@refusing
def scatter_9(site: Site, data: Operand, indices: Operand, updates: Operand, *, axis: int = 0) -> None:
    """ONNX Scatter-9."""
    _scatter_elements(site, data, indices, updates, axis, 0)


@lower("Scatter", since=11, backend="cupy")
@lower("ScatterElements", since=(11, 13, 16, 18), backend="cupy")
@refusing
def scatter_elements(
    site: Site, data: Operand, indices: Operand, updates: Operand, *, axis: int = 0, reduction: str = "none"
) -> None:
    """ONNX ScatterElements-18."""
    _scatter_elements(site, data, indices, updates, axis, -1, reduction)


@lower("ScatterND", since=(11, 13, 16, 18), backend="cupy")
@refusing
def scatter_nd(
    site: Site, data: Operand, indices: Operand, updates: Operand, *, reduction: str = "none"
) -> None:
    """ONNX ScatterND-18."""
    places = _at_tuples(data, indices, 0)
    k = indices.shape[-1]
    if updates.shape != indices.shape[:-1] + data.shape[k:]:
        raise Unsupported("updates that do not fit the indices")
    if reduction == "none":
        _scatter(site, data, updates, places)
        return
    walk = (places.count, k, places.width)
    _reduce(site, data, updates, places, [_Line(places.width, 1, 0, 1)], walk, reduction)


@lower("TensorScatter", since=24, backend="cupy")
@refusing
def tensor_scatter(
    site: Site,
    past_cache: Operand,
    update: Operand,
    write_indices: Operand | None = None,
    *,
    axis: int = -2,
    mode: str = "linear",
) -> None:
    """Write into the cache, in its own memory where nothing else needs it (ONNX TensorScatter-24)."""
    goal = only_output(site)
    check_movable(past_cache)
    check_plain(past_cache, update, write_indices, goal)
    check_result(goal, past_cache.shape)
    at = normalize_axis(axis, past_cache.ndim)
    shape = past_cache.shape
    steps = update.shape[at] if update.ndim == past_cache.ndim else 0
    fits = update.shape == (*shape[:at], steps, *shape[at + 1 :]) and steps <= shape[at]
    if at == 0 or not fits or update.dtype != past_cache.dtype or mode not in ("linear", "circular"):
        raise Unsupported("invalid arguments")
    if write_indices is not None and (write_indices.shape, write_indices.dtype.name) != (shape[:1], "int64"):
        raise Unsupported(f"write_indices {write_indices}")
    if not update.size and write_indices is not None and mode == "linear":
        raise Unsupported("places of an empty update")
    if update.nbytes != past_cache.nbytes:
        site.may_overwrite(goal, past_cache)
    emit_copy(site, goal, past_cache)
    if not update.size:
        return
    size = update.dtype.itemsize
    inner = math.prod(shape[at + 1 :])
    unit = widest(size, inner * size)
    row = inner * size // unit
    axes = (shape[0], math.prod(shape[1:at]), steps, row)
    total = math.prod(axes)
    kernel = cuda_kernel(
        CODE, "tensor_scatter.cu", "tensor_scatter",
        UNIT=unit, CIRCULAR=int(mode == "circular"), HAS_PLACES=int(write_indices is not None),
        INDEX=index_type(past_cache.nbytes // unit, total),
    )  # fmt: skip
    places = update if write_indices is None else write_indices
    fault = 0 if mode == "circular" else fault_of(write_indices, 0, shape[at] - steps)
    site.launch(
        kernel,
        *(update, places, goal, fault, total, shape[at], (*axes, *map(magic, axes))),
        grid=grid_for(total),
    )


@lower("ReverseSequence", since=(10, 28), backend="cupy")
@refusing
def reverse_sequence(
    site: Site, input: Operand, sequence_lens: Operand, *, batch_axis: int = 1, time_axis: int = 0
) -> None:
    """ONNX ReverseSequence-28."""
    goal = only_output(site)
    check_movable(input)
    check_plain(input, goal)
    if input.ndim < 2 or {batch_axis, time_axis} != {0, 1}:
        raise Unsupported("invalid axes")
    check_result(goal, input.shape)
    if sequence_lens.shape != (input.shape[batch_axis],) or sequence_lens.dtype.name != "int64":
        raise Unsupported(f"sequence_lens {sequence_lens}")
    if not input.size:
        raise Unsupported("an empty tensor")
    size, inner = input.dtype.itemsize, math.prod(input.shape[2:])
    unit = widest(size, inner * size)
    axes = (*input.shape[:2], inner * size // unit)
    total = math.prod(axes)
    kernel = cuda_kernel(
        CODE, "reverse_sequence.cu", "reverse_sequence",
        UNIT=unit, TIME_FIRST=int(time_axis == 0), INDEX=index_type(total),
    )  # fmt: skip
    fault = fault_of(sequence_lens, 0, input.shape[time_axis])
    site.launch(
        kernel,
        *(input, sequence_lens, goal, fault, total, (*axes, *map(magic, axes))),
        grid=grid_for(total),
    )
