"""Lowerings of the operators that rearrange, repeat, cut or extend a tensor without computing.

All of them are exact and hold for every element type that has a fixed size: a change of shape is an
alias, everything else is a few copies between boxes (`Box`), which `emit_box` turns into calls.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any, TypeVar, cast

import numpy as np

from onnxref.dtypes import Array, DType
from onnxref.errors import KernelError
from onnxref.lowering import NO_PAD, Blocked, BlockedUse, Op, Operand, Packed, Site, Unsupported, lower
from onnxref.native import native, target

from ..numpy._checks import int_vector, normalize_axes, normalize_axis

CODE = "onnxref.kernels.numba.code.shape"
_L = TypeVar("_L", bound=Callable[..., None])

_CHUNK = 1 << 14  # bytes that are worth a unit of their own
_FLAT_ROWS = 8  # rows up to which each becomes a call, so that all threads work on one row
_MAX_BOXES = 81  # of a Pad: three pieces along each of four axes
_BYTES_PER_NS = 8.0


# --- what all lowerings here check ---------------------------------------------------------------


def refusing(emit: _L) -> _L:
    """Turn the error about an invalid node into Unsupported: the reference kernel raises it again."""

    @wraps(emit)
    def guarded(*arguments: Any, **attributes: Any) -> None:
        try:
            emit(*arguments, **attributes)
        except KernelError as error:
            raise Unsupported(str(error)) from None

    return cast(_L, guarded)


def known_ints(operand: Operand, name: str) -> list[int]:
    """Return the value of an input of integers that decides about shapes or places."""
    if operand.constant is None:
        raise Unsupported(f"{name} is not constant")
    return int_vector(operand.constant, name)


def check_movable(*operands: Operand) -> None:
    """Refuse elements that are not of a fixed size, or not of a size that is copied at once."""
    for operand in operands:
        if operand.dtype.kind == "O" or operand.dtype.itemsize not in (1, 2, 4, 8, 16):
            raise Unsupported(f"elements of type {operand.dtype.name}")


def check_result(output: Operand, shape: Iterable[int]) -> None:
    """Refuse a node whose inputs make another shape than the planner knows."""
    if output.shape != tuple(shape):
        raise Unsupported(f"shape {tuple(shape)} is not the {output.shape} of the plan")


def row_strides(shape: Sequence[int]) -> tuple[int, ...]:
    """Return the strides, in elements, of a C-contiguous tensor."""
    strides = [1] * len(shape)
    for i in range(len(shape) - 1, 0, -1):
        strides[i - 1] = strides[i] * shape[i]
    return tuple(strides)


# --- boxes ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Dim:
    """One dimension of a box: its size, and its strides in the goal and in the source, in elements."""

    size: int
    goal: int
    source: int


def _collapsed(dims: Iterable[Dim]) -> list[Dim]:
    """Drop dimensions of one element and join those that are one on both sides."""
    joined: list[Dim] = []
    for dim in dims:
        if dim.size == 1:
            continue
        last = joined[-1] if joined else None
        if last and last.goal == dim.goal * dim.size and last.source == dim.source * dim.size:
            joined[-1] = Dim(last.size * dim.size, dim.goal, dim.source)
        else:
            joined.append(dim)
    return joined


def emit_box(
    site: Site,
    goal: Operand,
    source: Operand | Packed,
    dims: Iterable[Dim],
    *,
    goal_offset: int = 0,
    source_offset: int = 0,
) -> None:
    """Add the calls that copy a box of elements of the type of `goal`; offsets count elements."""
    size = goal.dtype.itemsize
    held = list(dims)
    if size == 16:  # two halves
        size = 8
        held = [*(Dim(d.size, 2 * d.goal, 2 * d.source) for d in held), Dim(2, 1, 1)]
        goal_offset, source_offset = 2 * goal_offset, 2 * source_offset
    if math.prod(d.size for d in held):
        places = (source + source_offset * size, goal + goal_offset * size)
        _Mover(site, places, size).move(_collapsed(held))


@dataclass(frozen=True, slots=True)
class _Mover:
    """Chooses the kernel for a box."""

    site: Site
    places: tuple[Any, Any]
    size: int

    def move(self, dims: list[Dim]) -> None:
        if not dims:
            dims = [Dim(1, 1, 1)]
        row = next((d for d in dims if d.goal == d.source == 1), None)
        if row is not None:
            self._rows(dims, row)
            return
        across = next((d for d in dims if d.goal == 1), None)
        along = next((d for d in dims if d.source == 1), None)
        if across and along:
            edge = min(16, target().vector_bytes // self.size)
            if min(across.size, along.size) >= edge:
                stripes = -(-along.size // edge)
                self._call("transposed", (self.size, edge), dims, along, across, per_outer=stripes)
                return
            if 2 <= across.size <= 4 and along.goal == across.size:
                self._call("interleaved", (self.size, across.size), dims, along, across, per_outer=1)
                return
            if 2 <= along.size <= 4 and across.source == along.size:
                self._call("parted", (self.size, along.size), dims, along, across, per_outer=1)
                return
        candidates = [d for d in (across, along, dims[-1]) if d is not None]
        inner = max(candidates, key=lambda d: min(d.size, 32))
        self._call("strided", (self.size,), dims, _middle(dims, inner), inner)

    def _rows(self, dims: list[Dim], row: Dim) -> None:
        nbytes = row.size * self.size
        outer = [d for d in dims if d is not row]
        if nbytes > 2 * _CHUNK and math.prod(d.size for d in outer) <= _FLAT_ROWS:
            for index in itertools.product(*(range(d.size) for d in outer)):
                to = sum(i * d.goal for i, d in zip(index, outer, strict=True)) * self.size
                origin = sum(i * d.source for i, d in zip(index, outer, strict=True)) * self.size
                places = (self.places[0] + origin, self.places[1] + to)
                units, work = -(-nbytes // _CHUNK), nbytes / _BYTES_PER_NS
                self.site.call(native(CODE, "flat"), *places, nbytes, _CHUNK, units=units, work=work)
            return
        self._call("rows", (), dims, _middle(dims, row), row)

    def _call(
        self, kernel: str, parameters: tuple[int, ...], dims: list[Dim], m: Dim, n: Dim, per_outer: int = 0
    ) -> None:
        """Add one call; `per_outer` is the number of units in an outer position, 0 for the size of m."""
        outer = [d for d in dims if d is not m and d is not n]
        size, total = self.size, math.prod(d.size for d in dims) * self.size
        n_size = n.size * size if kernel == "rows" else n.size
        inner = (m.size, m.goal * size, m.source * size, n_size, n.goal, n.source)
        rest = itertools.chain.from_iterable((d.size, d.goal * size, d.source * size) for d in outer)
        units = math.prod(d.size for d in outer) * (per_outer or m.size)
        work = total / _BYTES_PER_NS if kernel == "rows" else total / min(size, 4)
        self.site.call(
            native(CODE, kernel, *parameters),
            *self.places,
            *inner,
            len(outer),
            *rest,
            units=units,
            work=work,
            grain=max(1, units * _CHUNK // total),
        )


def _middle(dims: list[Dim], inner: Dim) -> Dim:
    """Return the dimension to walk along next: the innermost one that is not tiny, else the longest."""
    others = [d for d in dims if d is not inner]
    return next((d for d in reversed(others) if d.size >= 8), max(others, key=lambda d: d.size, default=_ONE))


_ONE = Dim(1, 0, 0)


# --- the same elements under another shape -------------------------------------------------------


def _alias(site: Site, data: Operand) -> None:
    (output,) = site.outputs
    assert output is not None
    if output.size != data.size or output.dtype != data.dtype:
        raise Unsupported(f"{data} does not become {output} by a change of shape")
    site.alias(output, data)


@lower("Reshape", since=1)
def reshape_1(site: Site, data: Operand, **_: Any) -> None:
    """ONNX Reshape-1."""
    _alias(site, data)


@lower("Reshape", since=(5, 13, 14, 19, 21, 23, 24, 25))
@refusing
def reshape(site: Site, data: Operand, shape: Operand, *, allowzero: int = 0) -> None:
    """ONNX Reshape-25."""
    known_ints(shape, "shape")
    _alias(site, data)


@lower("Squeeze", since=(1, 11))
@lower("Unsqueeze", since=(1, 11))
@lower("Flatten", since=(1, 9, 11, 13, 21, 23, 24, 25))
@lower("Identity", since=(1, 13, 14, 16, 19, 21, 23, 24, 25))
def flatten(site: Site, data: Operand, **_: Any) -> None:
    """ONNX Flatten-25, Identity-25, Squeeze-11, Unsqueeze-11."""
    _alias(site, data)


@lower("Squeeze", since=(13, 21, 23, 24, 25))
@lower("Unsqueeze", since=(13, 21, 23, 24, 25))
@refusing
def squeeze(site: Site, data: Operand, axes: Operand | None = None) -> None:
    """ONNX Squeeze-25, Unsqueeze-25."""
    if axes is not None:
        known_ints(axes, "axes")
    _alias(site, data)


# --- permutation ---------------------------------------------------------------------------------


def _permute(site: Site, data: Operand, shape: Sequence[int], order: Sequence[int]) -> None:
    """Copy the data, seen in `shape`, with its axes in `order`."""
    (output,) = site.outputs
    assert output is not None
    check_movable(data)
    strides = row_strides(shape)
    goal = [shape[axis] for axis in order]
    dims = [Dim(n, to, strides[axis]) for n, to, axis in zip(goal, row_strides(goal), order, strict=True)]
    if all(d.goal == d.source for d in dims if d.size > 1):
        _alias(site, data)
    else:
        emit_box(site, output, data, dims)


@lower("Transpose", since=(1, 13, 21, 23, 24, 25))
def transpose(site: Site, data: Operand, *, perm: tuple[int, ...] | None = None) -> None:
    """Copy in any order of the axes; those that move together count as one (ONNX Transpose-25)."""
    order = tuple(reversed(range(data.ndim))) if perm is None else tuple(perm)
    if sorted(order) != list(range(data.ndim)):
        raise Unsupported(f"perm {order} is no permutation")
    _permute(site, data, data.shape, order)


@lower("DepthToSpace", since=(1, 11, 13, 28))
def depth_to_space(site: Site, input: Operand, *, blocksize: int, mode: str = "DCR") -> None:
    """ONNX DepthToSpace-28."""
    b = blocksize
    if input.ndim != 4 or b < 1 or input.shape[1] % (b * b) or mode not in ("DCR", "CRD"):
        raise Unsupported("invalid arguments")
    n, c, h, w = input.shape
    c //= b * b
    if mode == "DCR":
        _permute(site, input, (n, b, b, c, h, w), (0, 3, 4, 1, 5, 2))
    else:
        _permute(site, input, (n, c, b, b, h, w), (0, 1, 4, 2, 5, 3))


@lower("SpaceToDepth", since=(1, 13, 28))
def space_to_depth(site: Site, input: Operand, *, blocksize: int, mode: str = "DCR") -> None:
    """ONNX SpaceToDepth-28."""
    b = blocksize
    if input.ndim != 4 or b < 1 or mode not in ("DCR", "CRD") or input.shape[2] % b or input.shape[3] % b:
        raise Unsupported("invalid arguments")
    n, c, h, w = input.shape
    order = (0, 3, 5, 1, 2, 4) if mode == "DCR" else (0, 1, 3, 5, 2, 4)
    _permute(site, input, (n, c, h // b, b, w // b, b), order)


# --- repetition ----------------------------------------------------------------------------------


@lower("Expand", since=(8, 13))
@refusing
def expand(site: Site, input: Operand, shape: Operand) -> None:
    """ONNX Expand-13."""
    (output,) = site.outputs
    assert output is not None
    check_movable(input)
    wanted = known_ints(shape, "shape")
    rank = max(input.ndim, len(wanted))
    ours = [1] * (rank - input.ndim) + list(input.shape)
    theirs = [1] * (rank - len(wanted)) + wanted
    if any(d < 0 or (d != n and 1 not in (d, n)) for d, n in zip(theirs, ours, strict=True)):
        raise Unsupported(f"shape {wanted} does not broadcast with {input.shape}")
    goal = [d if n == 1 else n for d, n in zip(theirs, ours, strict=True)]
    check_result(output, goal)
    if goal == ours:
        _alias(site, input)
        return
    places = zip(goal, row_strides(goal), ours, row_strides(ours), strict=True)
    emit_box(site, output, input, [Dim(d, to, 0 if n == 1 else origin) for d, to, n, origin in places])


@lower("Tile", since=(6, 13))
@refusing
def tile(site: Site, input: Operand, repeats: Operand) -> None:
    """ONNX Tile-13."""
    (output,) = site.outputs
    assert output is not None
    check_movable(input)
    times = known_ints(repeats, "repeats")
    if len(times) != input.ndim or any(r < 0 for r in times):
        raise Unsupported(f"repeats {times} do not fit {input.shape}")
    goal = [d * r for d, r in zip(input.shape, times, strict=True)]
    check_result(output, goal)
    dims: list[Dim] = []
    for d, r, to, origin in zip(input.shape, times, row_strides(goal), row_strides(input.shape), strict=True):
        dims += [Dim(r, to * d, 0), Dim(d, to, origin)]
    emit_box(site, output, input, dims)


# --- joining and cutting -------------------------------------------------------------------------


def _layout_dims(operand: Operand) -> tuple[list[int], int]:
    """Return the strides of (N, block, row, element of a row) and the offset of a blocked tensor."""
    assert operand.layout is not None
    _, blocks, rows, columns, lanes = operand.layout.extents(operand.shape)
    line = columns * lanes
    return [blocks * rows * line, rows * line, line, 1], operand.layout.element_offset(operand.shape)


def _copy_blocked(
    site: Site, goal: Operand, source: Operand, channels: int, goal_block: int, source_block: int
) -> None:
    """Copy whole blocks of channels; the counts of blocks say where they begin on both sides."""
    assert goal.layout is not None and source.layout is not None
    shape, lanes = source.shape, goal.layout.lanes
    height = shape[2] if len(shape) == 4 else 1
    to, to_start = _layout_dims(goal)
    origin, start = _layout_dims(source)
    sizes = (shape[0], -(-channels // lanes), height, shape[-1] * lanes)
    emit_box(
        site,
        goal,
        source,
        [Dim(n, a, b) for n, a, b in zip(sizes, to, origin, strict=True)],
        goal_offset=to_start + goal_block * to[1],
        source_offset=start + source_block * origin[1],
    )


def _is_blocked(operands: Iterable[Operand | None]) -> bool:
    """Whether tensors are blocked; all of them must be then, in blocks of one size."""
    layouts = [x.layout for x in operands if x is not None]
    if all(layout is None for layout in layouts):
        return False
    if len({layout.lanes if isinstance(layout, Blocked) else 0 for layout in layouts}) > 1:
        raise Unsupported("tensors of different layouts")
    return True


def _whole_blocks(channels: Sequence[int], lanes: int) -> bool:
    """Whether each piece begins with a new block; only the last may end within one."""
    return all(c > 0 for c in channels) and all(c % lanes == 0 for c in channels[:-1])


def _concat_blocked(op: Op, lanes: int) -> BlockedUse | None:
    inputs = [x for x in op.inputs if x is not None]
    axis = op.attributes.get("axis", 1)
    if len(inputs) != len(op.inputs) or any(x.ndim not in (3, 4) for x in inputs):
        return None
    if axis not in (1, 1 - inputs[0].ndim) or not _whole_blocks([x.shape[1] for x in inputs], lanes):
        return None
    return BlockedUse({i: NO_PAD for i in range(len(inputs))})


def _concat(site: Site, inputs: Sequence[Operand], axis: int) -> None:
    (output,) = site.outputs
    assert output is not None
    at = normalize_axis(axis, output.ndim)
    check_movable(*inputs)
    shape = output.shape
    if any(x.shape[:at] + x.shape[at + 1 :] != shape[:at] + shape[at + 1 :] for x in inputs):
        raise Unsupported("inputs of different shapes")
    check_result(output, [*shape[:at], sum(x.shape[at] for x in inputs), *shape[at + 1 :]])
    if _is_blocked([output, *inputs]):
        assert output.layout is not None
        lanes = output.layout.lanes
        if at != 1 or not _whole_blocks([x.shape[1] for x in inputs], lanes):
            raise Unsupported("pieces that share a block")
        begin = 0
        for x in inputs:
            _copy_blocked(site, output, x, x.shape[1], begin, 0)
            begin += -(-x.shape[1] // lanes)
        return
    strides = row_strides(shape)
    begin = 0
    for x in inputs:
        places = zip(x.shape, strides, row_strides(x.shape), strict=True)
        emit_box(site, output, x, [Dim(*place) for place in places], goal_offset=begin * strides[at])
        begin += x.shape[at]


@lower("Concat", since=1, blocked=_concat_blocked)
@refusing
def concat_1(site: Site, *inputs: Operand, axis: int | None = None) -> None:
    """ONNX Concat-1."""
    _concat(site, inputs, 1 if axis is None else axis)


@lower("Concat", since=(4, 11, 13), blocked=_concat_blocked)
@refusing
def concat(site: Site, *inputs: Operand, axis: int) -> None:
    """Copy each input to its place; in blocks where each begins with a whole one (ONNX Concat-13)."""
    _concat(site, inputs, axis)


def _split_lengths(op: Op) -> list[int]:
    """Return how long the pieces of a Split are, by the rules of its version."""
    data, attributes, parts = op.inputs[0], op.attributes, len(op.outputs)
    assert data is not None
    total = data.shape[normalize_axis(attributes.get("axis") or 0, data.ndim)]
    given = op.inputs[1] if len(op.inputs) > 1 else None
    lengths = attributes.get("split") if given is None else known_ints(given, "split")
    if lengths is None and attributes.get("num_outputs") is not None:
        chunk = -(-total // parts)
        lengths = [max(0, min(chunk, total - i * chunk)) for i in range(parts)]
    elif lengths is None:
        lengths = [total // parts] * parts
    if len(lengths) != parts or sum(lengths) != total or any(n < 0 for n in lengths):
        raise Unsupported(f"lengths {list(lengths)} do not make up {total}")
    return list(lengths)


def _split_blocked(op: Op, lanes: int) -> BlockedUse | None:
    data, axis = op.inputs[0], op.attributes.get("axis") or 0
    if data is None or data.ndim not in (3, 4) or axis not in (1, 1 - data.ndim):
        return None
    try:
        if not _whole_blocks(_split_lengths(op), lanes):
            return None
    except (Unsupported, KernelError):
        return None
    return BlockedUse({0: NO_PAD}, tuple(i for i, y in enumerate(op.outputs) if y is not None))


@lower("Split", since=(2, 11, 13, 18), blocked=_split_blocked)
@refusing
def split(site: Site, input: Operand, split: Operand | None = None, *, axis: int = 0, **_: Any) -> None:
    """ONNX Split-18."""
    check_movable(input)
    at = normalize_axis(axis, input.ndim)
    lengths = _split_lengths(site.op)
    blocked = _is_blocked([input, *site.outputs])
    if blocked:
        assert input.layout is not None
        if at != 1 or not _whole_blocks(lengths, input.layout.lanes):
            raise Unsupported("pieces that share a block")
    for output, length in zip(site.outputs, lengths, strict=True):
        if output is not None:
            check_result(output, [*input.shape[:at], length, *input.shape[at + 1 :]])
    begin = 0
    strides = row_strides(input.shape)
    for output, length in zip(site.outputs, lengths, strict=True):
        if output is not None and input.layout is not None:
            _copy_blocked(site, output, input, length, 0, begin // input.layout.lanes)
        elif output is not None:
            places = zip(output.shape, row_strides(output.shape), strides, strict=True)
            emit_box(
                site, output, input, [Dim(*place) for place in places], source_offset=begin * strides[at]
            )
        begin += length


def _first_and_count(start: int, end: int, step: int, size: int) -> tuple[int, int]:
    """Return the first index and the number of indices of a slice, by the rules of ONNX Slice-13."""
    if step == 0:
        raise Unsupported("a step of zero")
    start += size if start < 0 else 0
    end += size if end < 0 else 0
    if step > 0:
        start, end = min(max(start, 0), size), min(max(end, 0), size)
        return start, max(0, -((start - end) // step))
    start, end = min(max(start, 0), size - 1), min(max(end, -1), size - 1)
    return start, max(0, -((end - start) // -step)) if size else 0


def _slice(
    site: Site, data: Operand, starts: Sequence[int], ends: Sequence[int], axes: Any, steps: Any
) -> None:
    (output,) = site.outputs
    assert output is not None
    check_movable(data)
    steps = [1] * len(starts) if steps is None else steps
    axes = range(len(starts)) if axes is None else axes
    if len({len(starts), len(ends), len(axes), len(steps)}) > 1:
        raise Unsupported("starts, ends, axes and steps of different lengths")
    strides = row_strides(data.shape)
    shape, jumps, offset = list(data.shape), list(strides), 0
    for axis, start, end, step in zip(normalize_axes(axes, data.ndim), starts, ends, steps, strict=True):
        first, shape[axis] = _first_and_count(start, end, step, data.shape[axis])
        # A step beyond the axis is taken at most once, and may be any number.
        jumps[axis] = strides[axis] * (step if shape[axis] > 1 else 0)
        offset += first * strides[axis]
    check_result(output, shape)
    if output.size == data.size and all(jump >= 0 for jump in jumps):
        _alias(site, data)
        return
    places = zip(shape, row_strides(shape), jumps, strict=True)
    emit_box(site, output, data, [Dim(*place) for place in places], source_offset=offset)


@lower("Slice", since=1)
@refusing
def slice_1(
    site: Site,
    data: Operand,
    *,
    starts: tuple[int, ...],
    ends: tuple[int, ...],
    axes: tuple[int, ...] | None = None,
) -> None:
    """ONNX Slice-1."""
    _slice(site, data, starts, ends, axes, None)


@lower("Slice", since=(10, 11, 13))
@refusing
def slice_(
    site: Site,
    data: Operand,
    starts: Operand,
    ends: Operand,
    axes: Operand | None = None,
    steps: Operand | None = None,
) -> None:
    """ONNX Slice-13."""
    _slice(
        site,
        data,
        known_ints(starts, "starts"),
        known_ints(ends, "ends"),
        None if axes is None else known_ints(axes, "axes"),
        None if steps is None else known_ints(steps, "steps"),
    )


# --- padding -------------------------------------------------------------------------------------

_Piece = tuple[int, int, int, int]  # begin in the goal, first source index, its step, length


def _pieces(mode: str, size: int, begin: int, end: int) -> list[_Piece]:
    """Cut a padded axis into pieces along which the source index moves by a constant step."""
    position = np.arange(-begin, size + end)
    if mode == "edge":
        source = position.clip(0, size - 1)
    elif mode == "wrap":
        source = position % size
    else:
        period = max(2 * size - 2, 1)
        source = position % period
        source = np.minimum(source, period - source)
    step = np.diff(source)
    pieces: list[_Piece] = []
    at = 0
    while at < len(source):
        run = 1
        if at < len(step) and abs(step[at]) <= 1:
            while at + run < len(source) and step[at + run - 1] == step[at]:
                run += 1
        pieces.append((at, int(source[at]), int(step[at]) if run > 1 else 0, run))
        at += run
    return pieces


def _pad_widths(data: Operand, pads: Sequence[int], axes: Sequence[int] | None) -> list[tuple[int, int]]:
    targets = range(data.ndim) if axes is None else normalize_axes(axes, data.ndim)
    if len(pads) != 2 * len(targets):
        raise Unsupported("pads of the wrong number")
    widths = [(0, 0)] * data.ndim
    for i, axis in enumerate(targets):
        begin, end = pads[i], pads[len(targets) + i]
        if data.shape[axis] + min(begin, 0) + min(end, 0) < 0:
            raise Unsupported("pads that crop more than there is")
        widths[axis] = (begin, end)
    return widths


def _pad(
    site: Site, data: Operand, widths: Sequence[tuple[int, int]], mode: str, value: Operand | Packed
) -> None:
    """Copy what is left after cropping, and fill the border around it in boxes."""
    (output,) = site.outputs
    assert output is not None
    check_movable(data)
    check_result(output, (d + b + e for d, (b, e) in zip(data.shape, widths, strict=True)))
    strides = row_strides(data.shape)
    crop = sum(max(-b, 0) * stride for (b, _), stride in zip(widths, strides, strict=True))
    inner = [d - max(-b, 0) - max(-e, 0) for d, (b, e) in zip(data.shape, widths, strict=True)]
    added = [(max(b, 0), max(e, 0)) for b, e in widths]
    if mode == "constant":
        _pad_constant(site, output, data, inner, added, crop, value)
        return
    if any(n == 0 and any(width) for n, width in zip(inner, added, strict=True)):
        raise Unsupported("an empty dimension has nothing to repeat")
    if not output.size:
        return
    per_axis = [_pieces(mode, n, b, e) for n, (b, e) in zip(inner, added, strict=True)]
    if math.prod(map(len, per_axis)) > _MAX_BOXES:
        raise Unsupported("padding of many pieces")
    goals = row_strides(output.shape)
    for box in itertools.product(*per_axis):
        emit_box(
            site,
            output,
            data,
            [Dim(p[3], to, p[2] * origin) for p, to, origin in zip(box, goals, strides, strict=True)],
            goal_offset=sum(p[0] * to for p, to in zip(box, goals, strict=True)),
            source_offset=crop + sum(p[1] * origin for p, origin in zip(box, strides, strict=True)),
        )


def _pad_constant(
    site: Site,
    output: Operand,
    data: Operand,
    inner: Sequence[int],
    added: Sequence[tuple[int, int]],
    crop: int,
    value: Operand | Packed,
) -> None:
    goals = row_strides(output.shape)
    places = zip(inner, goals, row_strides(data.shape), strict=True)
    start = sum(b * to for (b, _), to in zip(added, goals, strict=True))
    emit_box(site, output, data, [Dim(*place) for place in places], goal_offset=start, source_offset=crop)
    # The border along an axis spans the inner part of the axes before it and all of those behind.
    corner = 0
    for axis, (begin, end) in enumerate(added):
        rest = output.shape[axis + 1 :]
        for width, at in ((begin, 0), (end, begin + inner[axis])):
            sizes = [*inner[:axis], width, *rest]
            fill = [Dim(n, to, 0) for n, to in zip(sizes, goals, strict=True)]
            emit_box(site, output, value, fill, goal_offset=corner + at * goals[axis])
        corner += begin * goals[axis]


def _pad_attributes(site: Site, data: Operand, pads: Sequence[int], mode: str, value: float) -> None:
    if mode not in ("constant", "reflect", "edge"):
        raise Unsupported(f"mode {mode}")
    check_movable(data)
    with np.errstate(over="ignore"):
        held = np.full(1, value, data.dtype)
    fill = site.pack((), ("Pad", data.dtype.str, data.dtype.name, held.tobytes()), lambda: held)
    _pad(site, data, _pad_widths(data, pads, None), mode, fill)


@lower("Pad", since=1)
@refusing
def pad_1(
    site: Site, data: Operand, *, paddings: tuple[int, ...], mode: str = "constant", value: float = 0.0
) -> None:
    """ONNX Pad-1."""
    _pad_attributes(site, data, paddings, mode, value)


@lower("Pad", since=2)
@refusing
def pad_2(
    site: Site, data: Operand, *, pads: tuple[int, ...], mode: str = "constant", value: float = 0.0
) -> None:
    """ONNX Pad-2."""
    _pad_attributes(site, data, pads, mode, value)


@lower("Pad", since=(11, 13, 18, 19, 21, 23, 24, 25))
@refusing
def pad(
    site: Site,
    data: Operand,
    pads: Operand,
    constant_value: Operand | None = None,
    axes: Operand | None = None,
    *,
    mode: str = "constant",
) -> None:
    """ONNX Pad-25, in all modes."""
    if mode not in ("constant", "reflect", "edge", *(("wrap",) if site.opset >= 19 else ())):
        raise Unsupported(f"mode {mode}")
    check_movable(data)
    widths = _pad_widths(data, known_ints(pads, "pads"), None if axes is None else known_ints(axes, "axes"))
    if constant_value is not None and (constant_value.size != 1 or constant_value.dtype != data.dtype):
        raise Unsupported("constant_value of another type or size")
    fill = constant_value or site.pack((), ("Pad", data.dtype.itemsize), lambda: _zero(data.dtype))
    _pad(site, data, widths, mode, fill)


def _zero(dtype: DType) -> Array:
    return np.zeros(dtype.itemsize, np.uint8)
