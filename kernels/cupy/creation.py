"""Lowerings that make tensors of indices, shapes or parts of matrices; all are exact."""

from __future__ import annotations

import math

import numpy as np

from onnxref.dtypes import Array
from onnxref.gpu import CTYPES, cuda_kernel, grid_for
from onnxref.lowering import Operand, Site, Unsupported, lower

from ..common.checks import check_movable, check_result, known_ints, only_output, refusing
from ..common.strides import Dim
from ..numpy._checks import normalize_axis, scalar_int
from .movement import CODE, check_plain, emit_box, index_type, magic

_INDICES = (
    "float32",
    "float64",
    "float16",
    *(f"{u}int{bits}" for u in ("", "u") for bits in (8, 16, 32)),
    "int64",
)


def _one_hot(site: Site, indices: Operand, depth: Operand, values: Operand, axis: int, lowest: int) -> None:
    goal = only_output(site)
    check_movable(values)
    check_plain(indices, values, goal)
    if indices.dtype.name not in _INDICES:
        raise Unsupported(f"indices are {indices.dtype.name}")
    if depth.constant is None or values.shape != (2,):
        raise Unsupported("depth is not constant, or values are no pair")
    at, classes = normalize_axis(axis, indices.ndim + 1), scalar_int(depth.constant, "depth")
    check_result(goal, (*indices.shape[:at], classes, *indices.shape[at:]))
    if not goal.size:
        return
    axes = (classes, math.prod(indices.shape[at:]))
    kernel = cuda_kernel(
        CODE, "one_hot.cu", "one_hot",
        UNIT=values.dtype.itemsize, INDICES=CTYPES[indices.dtype.name], INDEX=index_type(goal.size + 1024),
        HAS_FRACTION=int(indices.dtype.kind == "f"),
    )  # fmt: skip
    site.launch(
        kernel,
        *(indices, values, goal, goal.size, (*axes, *map(magic, axes)), lowest),
        grid=grid_for(goal.size),
    )


@lower("OneHot", since=9, backend="cupy")
@refusing
def one_hot_9(site: Site, indices: Operand, depth: Operand, values: Operand, *, axis: int = -1) -> None:
    """ONNX OneHot-9."""
    _one_hot(site, indices, depth, values, axis, 0)


@lower("OneHot", since=(11, 28), backend="cupy")
@refusing
def one_hot(site: Site, indices: Operand, depth: Operand, values: Operand, *, axis: int = -1) -> None:
    """ONNX OneHot-28."""
    _one_hot(site, indices, depth, values, axis, -1)


@lower("Trilu", since=14, backend="cupy")
@refusing
def trilu(site: Site, input: Operand, k: Operand | None = None, *, upper: int = 1) -> None:
    """ONNX Trilu-14."""
    goal = only_output(site)
    check_movable(input)
    check_plain(input, goal)
    if input.ndim < 2 or (k is not None and k.constant is None) or input.dtype.name == "float8_e8m0fnu":
        raise Unsupported("rank below 2, k that is not constant, or a type without zero")
    rows, columns = input.shape[-2:]
    diagonal = 0
    if k is not None and k.constant is not None:
        diagonal = min(max(scalar_int(k.constant, "k"), -rows - 1), columns + 1)
    check_result(goal, input.shape)
    if not input.size:
        return
    size = input.dtype.itemsize
    vector = 16 // size
    kernel = cuda_kernel(
        CODE, "trilu.cu", "trilu",
        UNIT=size, VEC=vector, UPPER=int(upper != 0), INDEX=index_type(input.size + 4096),
    )  # fmt: skip
    site.launch(
        kernel,
        *(input, goal, input.size, (rows, columns, magic(rows), magic(columns)), diagonal),
        grid=grid_for(input.size, 256, vector),
    )


def _filled(site: Site, goal: Operand, value: Array) -> None:
    """Emit the filling of the output with one element."""
    held = np.ascontiguousarray(value.reshape(-1)[:1])
    source = site.pack((), ("filled", held.dtype.name, held.tobytes()), lambda: held)
    emit_box(site, goal, source, [Dim(goal.size, 1, 0)])


@lower("EyeLike", since=(9, 22), backend="cupy")
def eye_like(site: Site, input: Operand, *, dtype: int | None = None, k: int = 0) -> None:
    """ONNX EyeLike-22."""
    goal = only_output(site)
    check_movable(goal)
    check_plain(goal)
    if input.ndim != 2 or goal.shape != input.shape:
        raise Unsupported("rank must be 2")
    rows, columns = goal.shape
    pair = np.array([0, 1]).astype(goal.dtype)
    _filled(site, goal, pair[:1])
    first, last = max(0, -k), max(0, min(rows, columns - k))
    if -rows < k < columns and last > first:
        one = site.pack((), ("EyeLike", goal.dtype.name), lambda: pair[1:])
        dims = [Dim(last - first, columns + 1, 0)]
        emit_box(site, goal, one, dims, goal_offset=first * columns + first + k, alone=True)


@lower("ConstantOfShape", since=(9, 20, 21, 23, 24, 25), backend="cupy")
@refusing
def constant_of_shape(site: Site, input: Operand, *, value: Array | None = None) -> None:
    """ONNX ConstantOfShape-25."""
    goal = only_output(site)
    check_movable(goal)
    check_plain(goal)
    fill = np.zeros(1, np.float32) if value is None else np.asarray(value)
    check_result(goal, known_ints(input, "input"))
    if fill.size != 1 or fill.dtype != goal.dtype:
        raise Unsupported("a value of another type or size")
    _filled(site, goal, fill)


@lower("Dropout", since=(7, 10), backend="cupy")
def dropout_7(site: Site, data: Operand, *, ratio: float = 0.5) -> None:
    """ONNX Dropout-10: nothing is dropped."""
    output, mask = (*site.outputs, None)[:2]
    check_plain(data, *site.outputs)
    if output is not None:
        site.alias(output, data)
    if mask is not None:
        check_movable(mask)
        _filled(site, mask, np.ones(1, mask.dtype))


@lower("Dropout", since=(12, 13, 22), backend="cupy")
def dropout(
    site: Site,
    data: Operand,
    ratio: Operand | None = None,
    training_mode: Operand | None = None,
    *,
    seed: int | None = None,
) -> None:
    """ONNX Dropout-22 outside of training."""
    training = None if training_mode is None else training_mode.constant
    if training_mode is not None and (training is None or training.any()):
        raise Unsupported("training, perhaps")
    if ratio is not None and (ratio.constant is None or ratio.size != 1):
        raise Unsupported("ratio is not constant")
    dropout_7(site, data)
