"""Slice, Concat and Split (ONNX Slice-13, Concat-13, Split-18): where pieces begin and how long they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from onnxref.lowering import Op, Operand, Site, Unsupported

from ..numpy._checks import normalize_axes, normalize_axis
from ..numpy.indexing import effective_slice
from ..numpy.shape import joined_shape
from .checks import check_movable, check_result, known_ints, only_output
from .rules import Rules

# --- Slice ---------------------------------------------------------------------------------------


class Slicing(NamedTuple):
    """A part of `data`.

    Attributes:
        firsts: the first index along each axis.
        jumps: the distance of neighbouring indices, 0 where there is only one of them.
    """

    data: Operand
    output: Operand
    firsts: list[int]
    jumps: list[int]


SLICE: Rules[Slicing] = Rules()


def _slice(
    site: Site,
    data: Operand,
    starts: Sequence[int],
    ends: Sequence[int],
    axes: Sequence[int] | None,
    steps: Sequence[int] | None,
) -> Slicing:
    output = only_output(site)
    check_movable(data)
    steps = [1] * len(starts) if steps is None else steps
    axes = range(len(starts)) if axes is None else axes
    if len({len(starts), len(ends), len(axes), len(steps)}) > 1:
        raise Unsupported("starts, ends, axes and steps of different lengths")
    shape, firsts, jumps = list(data.shape), [0] * data.ndim, [1] * data.ndim
    for axis, start, end, step in zip(normalize_axes(axes, data.ndim), starts, ends, steps, strict=True):
        size = data.shape[axis]
        chosen = range(size)[effective_slice(start, end, step, size)]
        # A step beyond the axis is taken at most once, and may be any number.
        firsts[axis], shape[axis], jumps[axis] = chosen.start, len(chosen), step if len(chosen) > 1 else 0
    check_result(output, shape)
    return Slicing(data, output, firsts, jumps)


@SLICE.rule("Slice", since=1)
def slice_1(
    site: Site,
    data: Operand,
    *,
    starts: tuple[int, ...],
    ends: tuple[int, ...],
    axes: tuple[int, ...] | None = None,
) -> Slicing:
    """ONNX Slice-1."""
    return _slice(site, data, starts, ends, axes, None)


@SLICE.rule("Slice", since=(10, 11, 13))
def slice_(
    site: Site,
    data: Operand,
    starts: Operand,
    ends: Operand,
    axes: Operand | None = None,
    steps: Operand | None = None,
) -> Slicing:
    """ONNX Slice-13."""
    return _slice(
        site,
        data,
        known_ints(starts, "starts"),
        known_ints(ends, "ends"),
        None if axes is None else known_ints(axes, "axes"),
        None if steps is None else known_ints(steps, "steps"),
    )


# --- Concat --------------------------------------------------------------------------------------


class Joining(NamedTuple):
    """Inputs one behind the other along an axis."""

    inputs: Sequence[Operand]
    output: Operand
    axis: int


CONCAT: Rules[Joining] = Rules()


def _concat(site: Site, inputs: Sequence[Operand], axis: int) -> Joining:
    output = only_output(site)
    check_movable(*inputs)
    like: Any = inputs  # only shapes are asked for
    check_result(output, joined_shape(like, axis))
    return Joining(inputs, output, normalize_axis(axis, output.ndim))


@CONCAT.rule("Concat", since=1)
def concat_1(site: Site, *inputs: Operand, axis: int | None = None) -> Joining:
    """ONNX Concat-1."""
    return _concat(site, inputs, 1 if axis is None else axis)


@CONCAT.rule("Concat", since=(4, 11, 13))
def concat(site: Site, *inputs: Operand, axis: int) -> Joining:
    """ONNX Concat-13."""
    return _concat(site, inputs, axis)


# --- Split ---------------------------------------------------------------------------------------


class Splitting(NamedTuple):
    """`data` cut along an axis into pieces of these lengths.

    Attributes:
        outputs: one for each piece, None where nothing wants it.
    """

    data: Operand
    outputs: tuple[Operand | None, ...]
    axis: int
    lengths: list[int]


SPLIT: Rules[Splitting] = Rules()


def split_lengths(op: Op) -> list[int]:
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


def _split(site: Site, data: Operand, axis: int) -> Splitting:
    check_movable(data)
    at, lengths = normalize_axis(axis, data.ndim), split_lengths(site.op)
    for output, length in zip(site.outputs, lengths, strict=True):
        if output is not None:
            check_result(output, [*data.shape[:at], length, *data.shape[at + 1 :]])
    return Splitting(data, site.outputs, at, lengths)


@SPLIT.rule("Split", since=1)
def split_1(
    site: Site,
    input: Operand,
    split: Operand | None = None,
    *,
    axis: int | None = None,
    **attributes: Any,
) -> Splitting:
    """ONNX Split-1, whose lengths are an attribute or an input."""
    if split is not None and attributes.get("split") is not None:
        raise Unsupported("lengths from two places")
    return _split(site, input, axis or 0)


@SPLIT.rule("Split", since=(2, 11, 13, 18))
def split(
    site: Site, input: Operand, split: Operand | None = None, *, axis: int = 0, **attributes: Any
) -> Splitting:
    """ONNX Split-18."""
    return _split(site, input, axis)
