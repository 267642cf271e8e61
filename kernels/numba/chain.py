"""Elementwise programs as calls of generated kernels: single operators, casts, and chains of them.

Arithmetic is bit-equal to NumPy's. Transcendental functions of float32 are within the errors that
`code/_math.py` states, those of float64 within the C library's. float16 and bfloat16 are computed in
float32 and rounded after each operator.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxref.dtypes import Array
from onnxref.lowering import NO_PAD, Argument, BlockedUse, Op, Operand, Packed, Site, Unsupported
from onnxref.native import native

from ..common.instructions import (
    ALL,
    BOOL,
    FLOATS,
    INTS,
    NUMBERS,
    SIGNED,
    Instruction,
    Shape,
    check_program,
    register_chain,
)
from ..common.strides import collapse

_CODE = "onnxref.kernels.numba.code.chain"

# --- what there is -------------------------------------------------------------------------------

_CHEAP, _DIVISION, _SERIES, _WAVE, _LIBRARY = (
    0.02,
    0.08,
    0.4,
    1.4,
    6.0,
)  # nanoseconds for an element in the cache


@dataclass(frozen=True, slots=True)
class _Known:
    """What is known of an instruction.

    Attributes:
        dtypes: types that its operands may have; all but a condition have the same.
        cost: nanoseconds for an element.
        tame: finite for all finite operands of usual size: lanes past the last channel may go through it.
    """

    dtypes: frozenset[str]
    cost: float = _CHEAP
    tame: bool = True


_KNOWN: dict[str, _Known] = {
    **{name: _Known(NUMBERS) for name in ("Add", "Sub", "Mul", "Max", "Min", "Sum", "Clip", "Relu", "PRelu")},
    "Div": _Known(NUMBERS, _DIVISION, tame=False),
    "Mod": _Known(NUMBERS, _LIBRARY, tame=False),
    "Pow": _Known(NUMBERS, _LIBRARY, tame=False),
    "Mean": _Known(FLOATS, _DIVISION),
    "Where": _Known(ALL),
    **{name: _Known(ALL) for name in ("Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual", "Cast")},
    **{name: _Known(BOOL) for name in ("And", "Or", "Xor", "Not")},
    **{name: _Known(INTS) for name in ("BitwiseAnd", "BitwiseOr", "BitwiseXor", "BitwiseNot", "BitShift")},
    "IsNaN": _Known(FLOATS),
    "IsInf": _Known(FLOATS),
    "Neg": _Known(FLOATS | SIGNED),
    "Abs": _Known(NUMBERS),
    "Sign": _Known(NUMBERS),
    "Sqrt": _Known(FLOATS, _DIVISION, tame=False),
    "Reciprocal": _Known(FLOATS, _DIVISION, tame=False),
    **{name: _Known(FLOATS) for name in ("Floor", "Ceil", "Round")},
    **{name: _Known(FLOATS, _SERIES, tame=False) for name in ("Exp", "Log")},
    **{
        name: _Known(FLOATS, _SERIES)
        for name in ("Tanh", "Erf", "Sigmoid", "Swish", "Softplus", "Mish", "Gelu")
    },
    **{name: _Known(FLOATS, _SERIES) for name in ("Elu", "Selu", "Celu", "SwiGLU")},
    **{name: _Known(FLOATS, _WAVE) for name in ("Sin", "Cos")},
    **{name: _Known(FLOATS, _LIBRARY) for name in ("Asinh", "Atan")},
    **{name: _Known(FLOATS, _LIBRARY, tame=False) for name in ("Tan", "Sinh", "Cosh", "Asin", "Acos")},
    **{name: _Known(FLOATS, _LIBRARY, tame=False) for name in ("Acosh", "Atanh")},
    **{
        name: _Known(FLOATS)
        for name in ("LeakyRelu", "ThresholdedRelu", "Shrink", "HardSigmoid", "HardSwish")
    },
    "Softsign": _Known(FLOATS, _DIVISION),
}
_TYPES = {name: known.dtypes for name, known in _KNOWN.items()}


def _check_details(name: str, of: list[str], goal: str, attributes: dict[str, Any]) -> None:
    match name:
        case "Clip" if any(bound != bound for bound in attributes.values()):
            raise Unsupported("a bound is NaN")
        case "Pow" if len(of) > 1 and (of[0] not in FLOATS or of[1] == "bool"):
            raise Unsupported("integer powers")
        case "Mod" if of[0] in FLOATS and not attributes["fmod"]:
            raise Unsupported("remainders of floats with the sign of the divisor")
        case "Celu" if not attributes["alpha"] > 0:
            raise Unsupported("alpha is not positive")
        case "Cast" if goal == "bfloat16" and of[0] in ("int64", "uint64"):
            raise Unsupported("64-bit integers to bfloat16, which takes two roundings here")


def _cost(program: Sequence[Instruction]) -> float:
    total = 0.0
    for name, operands, _ in program:
        cost = _KNOWN[name].cost
        if name == "Pow" and len(operands) == 1:
            cost = _DIVISION
        total += cost * max(1, len(operands) - 1)
    return total


# --- where the operands lie ----------------------------------------------------------------------


@dataclass(slots=True)
class _View:
    """How an operand is walked along the dimensions of the result.

    Attributes:
        strides: in bytes, 0 where the operand repeats.
        offset: bytes before its first element.
    """

    source: Operand | Packed
    itemsize: int
    strides: list[int]
    offset: int = 0

    @property
    def address(self) -> Argument:
        return self.source + self.offset if self.offset else self.source


def _plain_view(operand: Operand, shape: Shape, goal: Shape) -> _View:
    """View an operand, seen under `shape`, as broadcast to `goal`."""
    if len(shape) > len(goal):
        raise Unsupported(f"an input of rank {len(shape)} for a result of rank {len(goal)}")
    size = operand.dtype.itemsize
    strides = [0] * (len(goal) - len(shape))
    for i, (extent, wanted) in enumerate(zip(shape, goal[len(strides) :], strict=True)):
        if extent not in (1, wanted):
            raise Unsupported(f"shape {shape} does not broadcast to {goal}")
        strides.append(0 if extent == 1 else math.prod(shape[i + 1 :]) * size)
    return _View(operand, size, strides)


def _is_scalar(shape: Shape) -> bool:
    return math.prod(shape) == 1


def _channels_first(shape: Shape, rank: int) -> Shape:
    """Return a shape with leading ones up to `rank`."""
    return (1,) * (rank - len(shape)) + tuple(shape)


def _is_per_channel(shape: Shape, goal: Shape) -> bool:
    """Whether a shape is (N or 1, C, 1 ...) for a goal of (N, C, ...)."""
    full = _channels_first(shape, len(goal))
    return len(full) == len(goal) and full[0] in (1, goal[0]) and full[1] == goal[1] and _is_scalar(full[2:])


def _blocked_extents(shape: Shape, lanes: int) -> list[int]:
    """Return (N, blocks, H, W, lanes)."""
    n, c, h, w = (*shape[:2], 1, shape[2]) if len(shape) == 3 else shape
    return [n, -(-c // lanes), h, w, lanes]


def _blocked_view(site: Site, operand: Operand, goal: Shape, lanes: int) -> _View:
    """View an operand along (N, blocks, H, W, lanes)."""
    size = operand.dtype.itemsize
    if _is_scalar(operand.shape) and operand.layout is None:
        return _View(operand, size, [0] * 5)
    if operand.layout is not None:
        if operand.layout.lanes != lanes or len(operand.shape) != len(goal):
            raise Unsupported("operands in different blocks")
        n, blocks, rows, columns, _ = operand.layout.extents(operand.shape)
        steps = [blocks * rows * columns, rows * columns, columns, 1]
        inner = operand.shape[2:] == goal[2:]
        if (
            operand.shape[1] != goal[1]
            or n not in (1, goal[0])
            or not (inner or _is_scalar(operand.shape[2:]))
        ):
            raise Unsupported(f"a blocked operand of shape {operand.shape} for {goal}")
        kept = [n == goal[0], True, inner, inner]
        strides = [step * lanes * size if keep else 0 for step, keep in zip(steps, kept, strict=True)]
        return _View(operand, size, [*strides, size], operand.layout.element_offset(operand.shape) * size)
    full = _channels_first(operand.shape, len(goal))
    if operand.constant is None or not _is_per_channel(operand.shape, goal) or full[0] != 1:
        raise Unsupported(f"a plain operand of shape {operand.shape} beside blocked ones")
    packed = site.pack((operand,), ("channels", lanes), lambda: _in_lanes(operand, lanes))
    return _View(packed, size, [0, lanes * size, 0, 0, size])


def _in_lanes(operand: Operand, lanes: int) -> Array:
    """Return a constant of one value per channel, filled up with ones to whole blocks."""
    assert operand.constant is not None
    values = operand.constant.reshape(-1)
    full = np.ones(-(-len(values) // lanes) * lanes, values.dtype)
    full[: len(values)] = values
    return full


def _collapse(extents: Sequence[int], views: Sequence[_View]) -> list[int]:
    """Drop and merge dimensions of all views; return the extents of those that are left."""
    kept, strides = collapse(extents, [view.strides for view in views])
    for view, found in zip(views, strides, strict=True):
        view.strides = found
    return kept


# --- calls ---------------------------------------------------------------------------------------

_PIECE = 8192  # elements of a unit where no dimension is left outside
_MAX_OUTER = 5


def emit_program(
    site: Site,
    inputs: Sequence[Operand],
    outputs: Sequence[Operand],
    program: Sequence[Instruction],
    results: Sequence[int],
    dtypes: Sequence[str] | None = None,
    shapes: Sequence[Shape] | None = None,
) -> None:
    """Describe the calls of a program whose results all have one shape; see `EmitProgram`."""
    if dtypes is None:
        dtypes = [*(x.dtype.name for x in inputs), outputs[0].dtype.name]
    check_program(program, dtypes, _TYPES, _check_details)
    goal = outputs[0].shape
    if any(y.shape != goal for y in outputs):
        raise Unsupported("outputs of different shapes")
    lanes = next((x.layout.lanes for x in (*inputs, *outputs) if x.layout is not None), 0)
    if lanes:
        extents = _blocked_extents(goal, lanes)
        if any(y.layout is None for y in outputs):
            raise Unsupported("plain outputs beside blocked operands")
        views = [_blocked_view(site, x, goal, lanes) for x in (*inputs, *outputs)]
    else:
        extents = list(goal)
        seen = [*(shapes or [x.shape for x in inputs]), *(y.shape for y in outputs)]
        views = [_plain_view(x, s, goal) for x, s in zip((*inputs, *outputs), seen, strict=True)]
    for y in outputs:
        for x in inputs:
            if x.shape == y.shape and x.layout == y.layout and x.dtype.itemsize == y.dtype.itemsize:
                site.may_overwrite(y, x)
    if math.prod(goal):
        _emit_rows(site, extents, views, tuple(program), tuple(dtypes), tuple(results), lanes)


def _emit_rows(
    site: Site,
    extents: list[int],
    views: list[_View],
    program: tuple[Instruction, ...],
    dtypes: tuple[str, ...],
    results: tuple[int, ...],
    lanes: int,
) -> None:
    elements = math.prod(extents)
    moved = sum(view.itemsize * (0.06 if any(view.strides) else 0) for view in views)
    work = elements * (moved + _cost(program))
    sources = views[: len(views) - len(results)]
    dims = _collapse(extents, views)
    row, lanes = _split_row(dims, views, lanes)
    classes = tuple(_class_of(view, lanes) for view in sources)
    inner = 2 if lanes else 1
    outer = max(0, len(dims) - inner)
    if outer > _MAX_OUTER:
        raise Unsupported(f"{outer + 1} dimensions that cannot be merged")
    kernel = native(_CODE, "chain", program, dtypes, results, classes, outer, lanes)
    if not outer and not lanes:
        flat: list[Argument] = [row, _PIECE]
        for view in views:
            flat += [view.address, view.strides[-1] if view.strides else 0]
        site.call(kernel, *flat, units=-(-row // _PIECE), work=work)
        return
    if not outer:  # pixels of one block
        outer, dims = 1, [1, *dims]
        for view in views:
            view.strides = [0, *view.strides]
        kernel = native(_CODE, "chain", program, dtypes, results, classes, outer, lanes)
    arguments: list[Argument] = [row, *dims[:outer]]
    for view in views:
        arguments += [view.address, *view.strides[:outer]]
    units = math.prod(dims[:outer])
    site.call(kernel, *arguments, units=units, work=work, grain=max(1, 4096 * units // elements))


def _split_row(dims: list[int], views: Sequence[_View], lanes: int) -> tuple[int, int]:
    """Return (elements of a row, 0), or (pixels of a row, lanes) where one value per lane repeats."""
    if lanes and len(dims) > 1 and dims[-1] == lanes:
        repeats = any(view.strides[-1] and not view.strides[-2] for view in views)
        dense = all(view.strides[-2] in (0, lanes * view.itemsize) for view in views)
        if repeats and dense:
            return dims[-2], lanes
    return (dims[-1] if dims else 1), 0


def _class_of(view: _View, lanes: int) -> str:
    if not view.strides or not view.strides[-1]:
        return "s"
    return "l" if lanes and not view.strides[-2] else "c"


# --- the fused operator --------------------------------------------------------------------------


def blocked_use(op: Op, lanes: int, program: Sequence[Instruction] | None = None) -> BlockedUse | None:
    """Say how an elementwise operator goes along with blocked tensors of float32."""
    outputs = [y for y in op.outputs if y is not None]
    inputs = [(i, x) for i, x in enumerate(op.inputs) if x is not None]
    if not outputs or len(outputs) != len(op.outputs):
        return None
    goal = outputs[0].shape
    operands = (*(x for _, x in inputs), *outputs)
    if (
        len(goal) not in (3, 4)
        or any(x.dtype != np.float32 for x in operands)
        or any(y.shape != goal for y in outputs)
    ):
        return None
    names = [name for name, _, _ in program] if program is not None else [op.op_type]
    if goal[1] % lanes and not all(name in _KNOWN and _KNOWN[name].tame for name in names):
        return None
    wanted = {}
    for i, x in inputs:
        if x.constant is not None or _is_scalar(x.shape):
            full = _channels_first(x.shape, len(goal))
            if not _is_scalar(x.shape) and not (_is_per_channel(x.shape, goal) and full[0] == 1):
                return None
        elif x.shape == goal or (len(x.shape) == len(goal) and _is_per_channel(x.shape, goal)):
            wanted[i] = NO_PAD
        else:
            return None
    return BlockedUse(wanted, tuple(range(len(outputs)))) if wanted else None


def _blocked_chain(op: Op, lanes: int) -> BlockedUse | None:
    return blocked_use(op, lanes, op.attributes["program"])


register_chain("numba", emit_program, _blocked_chain)
