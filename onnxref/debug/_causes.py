"""Which elements of a node's inputs made one element of its output.

For operators that work element by element these are the elements at the same (broadcast) coordinates; for
sums of products the largest terms; for reductions, normalisations and pools the largest of the row or window
that is reduced. For other operators, only the extremes of each input can be told.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from ..dtypes import LOW_PRECISION, Array
from ..graph import Node
from ._stats import json_number, short

Coordinates: TypeAlias = tuple[int, ...]
Places: TypeAlias = list[tuple[int, Coordinates]]  # (which input, where in it)

_TERMS = 2  # of a sum, row or window, that are shown

_NAMES = (
    "Abs Acos Acosh Add Asin Asinh Atan Atanh Cast CastLike Ceil Celu Clip Cos Cosh Div Elu Erf Exp Floor "
    "Gelu HardSigmoid HardSwish Identity LeakyRelu Log Max Mean Min Mish Mod Mul Neg PRelu Pow Reciprocal "
    "Relu Round Selu Shrink Sigmoid Sign Sin Sinh Softplus Softsign Sqrt Sub Sum Swish Tan Tanh "
    "ThresholdedRelu Where"
)
ELEMENTWISE = frozenset(_NAMES.split())
"""Operators of which an output element depends on the input elements at its own coordinates only."""


@dataclass(frozen=True, slots=True)
class Element:
    """One element of a value."""

    name: str
    coordinates: Coordinates
    value: float

    def to_json(self) -> dict[str, Any]:
        """Return the element as plain data for `json.dumps`."""
        return {"name": self.name, "coordinates": list(self.coordinates), "value": json_number(self.value)}

    def __str__(self) -> str:
        where = f"{list(self.coordinates)}" if self.coordinates else ""
        return f"{self.name}{where} = {short(self.value)}"


@dataclass(frozen=True, slots=True)
class Cause:
    """An output element, and the input elements that made it.

    Attributes:
        how: how the inputs were chosen, such as "the largest of 64 terms"; empty for all there are.
    """

    output: Element
    inputs: tuple[Element, ...]
    how: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return the cause as plain data for `json.dumps`."""
        inputs = [element.to_json() for element in self.inputs]
        return {"output": self.output.to_json(), "inputs": inputs, "how": self.how}

    def __str__(self) -> str:
        made = ", ".join(map(str, self.inputs)) or "nothing"
        return f"{self.output} from {made}" + (f" ({self.how})" if self.how else "")


def find_cause(node: Node, inputs: Sequence[Any], output: Array, name: str, where: Coordinates) -> Cause:
    """Return what made one element of a node's output.

    Args:
        inputs: the node's inputs in order.
        output: the whole output.
        name: what to call the output.
        where: the coordinates of the element.
    """
    rule = None if node.domain else _RULES.get(node.op_type)
    places, how = [], ""
    try:
        if node.op_type in ELEMENTWISE and not node.domain:
            places = _same(inputs, output.shape, where)
        elif rule is not None:
            places, how = rule(node, inputs, where)
    except (IndexError, ValueError, KeyError):
        places = []  # a form of the operator that the rule does not know
    if not places:
        places, how = _extremes(inputs), "the extremes of each input"
    made = dict.fromkeys(Element(node.inputs[i], at, _plain(inputs[i][at])) for i, at in places)
    return Cause(Element(name, where, _plain(output[where])), tuple(made), how)


def is_float(value: Any) -> bool:
    """Whether a value is a tensor of floating-point numbers."""
    return isinstance(value, np.ndarray) and (value.dtype.kind in "fc" or value.dtype in LOW_PRECISION)


def _plain(item: Any) -> float:
    return float(abs(item)) if isinstance(item, np.complexfloating) else float(item)


def _same(inputs: Sequence[Any], shape: Coordinates, where: Coordinates) -> Places:
    """Return the broadcast coordinates in every input."""
    return [(i, _broadcast(x.shape, where)) for i, x in _tensors(inputs) if x.ndim <= len(shape)]


def _broadcast(shape: Coordinates, where: Coordinates) -> Coordinates:
    inner = where[len(where) - len(shape) :]
    return tuple(0 if size == 1 else at for size, at in zip(shape, inner, strict=True))


def _tensors(inputs: Sequence[Any]) -> Iterator[tuple[int, Array]]:
    for i, value in enumerate(inputs):
        if isinstance(value, np.ndarray) and value.size and value.dtype.kind not in "OSU":
            yield i, value


def _extremes(inputs: Sequence[Any]) -> Places:
    places: Places = []
    for i, x in _tensors(inputs):
        if is_float(x):
            magnitude = _magnitude(x)
            ends = {int(magnitude.argmax()), int(magnitude.argmin())}
            places += [(i, _unravel(end, x.shape)) for end in sorted(ends)]
    return places


def _magnitude(x: Array) -> Array:
    """Return |x|, in which a NaN counts as the largest of all."""
    wide = np.abs(x if x.dtype.kind in "fc" and x.dtype not in LOW_PRECISION else x.astype(np.float32))
    found: Array = np.nan_to_num(wide, copy=False, nan=np.inf, posinf=np.inf)
    return found


def _unravel(flat: int, shape: Coordinates) -> Coordinates:
    return tuple(int(at) for at in np.unravel_index(flat, shape))


def _top(values: Array, count: int = _TERMS) -> list[int]:
    """Return where the largest magnitudes of a flat array are, the largest first."""
    magnitude = _magnitude(values)
    best = np.argpartition(magnitude, -count)[-count:] if magnitude.size > count else np.arange(values.size)
    return [int(at) for at in best[np.argsort(-magnitude[best], kind="stable")]]


def _of(count: int, what: str) -> str:
    return f"the largest of {count} {what}" if count > _TERMS else ""


# Sums of products ---------------------------------------------------------------------------------


def _matmul(node: Node, inputs: Sequence[Any], where: Coordinates) -> tuple[Places, str]:
    a, b = inputs[0], inputs[1]
    rows = where[:-1] if b.ndim > 1 else where
    batch = rows[:-1] if a.ndim > 1 else rows
    left = (*_broadcast(a.shape[:-2], _last(batch, a.ndim - 2)), rows[-1]) if a.ndim > 1 else ()
    right = _broadcast(b.shape[:-2], _last(batch, b.ndim - 2)) if b.ndim > 1 else ()
    column = b[(*right, slice(None), where[-1])] if b.ndim > 1 else b
    terms = a[left].astype(np.float64) * column.astype(np.float64)
    places: Places = []
    for k in _top(terms):
        places += [(0, (*left, k)), (1, (*right, k, where[-1]) if b.ndim > 1 else (k,))]
    return places, _of(terms.size, "terms of the sum")


def _last(values: Coordinates, count: int) -> Coordinates:
    return values[len(values) - count :] if count > 0 else ()


def _gemm(node: Node, inputs: Sequence[Any], where: Coordinates) -> tuple[Places, str]:
    row, column = where
    flipped = [bool(node.attributes.get(name, 0)) for name in ("transA", "transB")]
    a = inputs[0][:, row] if flipped[0] else inputs[0][row]
    b = inputs[1][column] if flipped[1] else inputs[1][:, column]
    terms = a.astype(np.float64) * b.astype(np.float64)
    places: Places = []
    for k in _top(terms):
        places.append((0, (k, row) if flipped[0] else (row, k)))
        places.append((1, (column, k) if flipped[1] else (k, column)))
    if len(inputs) > 2 and inputs[2] is not None:
        places.append((2, _broadcast(inputs[2].shape, where)))
    return places, _of(terms.size, "terms of the sum")


def _conv(node: Node, inputs: Sequence[Any], where: Coordinates) -> tuple[Places, str]:
    x, w = inputs[0], inputs[1]
    sample, filter_ = where[0], where[1]
    group = filter_ * node.attributes.get("group", 1) // w.shape[0]
    channels = np.arange(group * w.shape[1], (group + 1) * w.shape[1])
    taps, spots = _window(node, x.shape[2:], w.shape[2:], where[2:])
    patch = x[np.ix_(np.array([sample]), channels, *spots)][0].astype(np.float64)
    weights = w[np.ix_(np.array([filter_]), np.arange(w.shape[1]), *taps)][0].astype(np.float64)
    terms = patch * weights
    places: Places = []
    for flat in _top(terms.reshape(-1)):
        channel, *at = _unravel(flat, terms.shape)
        spot = tuple(int(spots[d][i]) for d, i in enumerate(at))
        tap = tuple(int(taps[d][i]) for d, i in enumerate(at))
        places += [(0, (sample, int(channels[channel]), *spot)), (1, (filter_, channel, *tap))]
    if len(inputs) > 2 and inputs[2] is not None:
        places.append((2, (filter_,)))
    return places, _of(terms.size, "terms of the sum")


def _window(
    node: Node, sizes: Coordinates, kernel: Coordinates, at: Coordinates
) -> tuple[list[Array], list[Array]]:
    """Return, for each spatial dimension, the kernel's elements that meet the input, and where they do."""
    count = len(sizes)
    strides = node.attributes.get("strides") or (1,) * count
    dilations = node.attributes.get("dilations") or (1,) * count
    pads = _pads(node, sizes, kernel, strides, dilations)
    taps, spots = [], []
    for d in range(count):
        all_taps = np.arange(kernel[d])
        all_spots = at[d] * strides[d] - pads[d] + all_taps * dilations[d]
        inside = (all_spots >= 0) & (all_spots < sizes[d])
        taps.append(all_taps[inside])
        spots.append(all_spots[inside])
    return taps, spots


def _pads(node: Node, sizes: Coordinates, kernel: Coordinates, strides: Any, dilations: Any) -> Sequence[int]:
    """Return how much is padded before each spatial dimension."""
    auto = node.attributes.get("auto_pad", "NOTSET")
    if not str(auto).startswith("SAME"):
        return (
            node.attributes.get("pads") or (0,) * (2 * len(sizes)) if auto == "NOTSET" else (0,) * len(sizes)
        )
    found = []
    for size, taps, stride, dilation in zip(sizes, kernel, strides, dilations, strict=True):
        total = max((math.ceil(size / stride) - 1) * stride + (taps - 1) * dilation + 1 - size, 0)
        found.append(total // 2 if auto == "SAME_UPPER" else total - total // 2)
    return found


# Rows and windows ---------------------------------------------------------------------------------


def reduced_axes(node: Node, inputs: Sequence[Any]) -> tuple[int, ...]:
    """Return the axes over which a reduction or normalisation takes the elements of its first input.

    Raises:
        KeyError: the operator is none of these.
    """
    rank = inputs[0].ndim
    axes: Any
    if node.op_type.startswith("Reduce"):
        axes = node.attributes.get("axes")
        if axes is None and len(inputs) > 1 and inputs[1] is not None:
            axes = inputs[1].tolist()
        if not axes:
            axes = () if node.attributes.get("noop_with_empty_axes", 0) else range(rank)
    elif node.op_type in ("LayerNormalization", "RMSNormalization"):
        axes = range(node.attributes.get("axis", -1) % rank, rank)
    elif node.op_type in ("Softmax", "LogSoftmax"):
        old = node.opset < 13  # it took its input as a matrix
        axis = node.attributes.get("axis", 1 if old else -1) % rank
        axes = range(axis, rank) if old else (axis,)
    elif node.op_type == "LpNormalization":
        axes = (node.attributes.get("axis", -1),)
    elif node.op_type == "MeanVarianceNormalization":
        axes = node.attributes.get("axes", (0, 2, 3))
    elif node.op_type in _OVER_SPACE:
        axes = range(2, rank)
    else:
        raise KeyError(node.op_type)
    return tuple(axis % rank for axis in axes)


_OVER_SPACE = ("InstanceNormalization", "GlobalAveragePool", "GlobalLpPool", "GlobalMaxPool")


def _row(node: Node, inputs: Sequence[Any], where: Coordinates) -> tuple[Places, str]:
    x = inputs[0]
    axes = reduced_axes(node, inputs)
    if len(where) != x.ndim:  # a reduction that drops its axes
        given = iter(where)
        where = tuple(0 if axis in axes else next(given) for axis in range(x.ndim))
    index = tuple(slice(None) if axis in axes else at for axis, at in enumerate(where))
    row = x[index]
    inner = sorted(axes)
    places: Places = []
    for flat in _top(row.reshape(-1)):
        place = list(where)
        for axis, at in zip(inner, _unravel(flat, row.shape), strict=True):
            place[axis] = at
        places.append((0, tuple(place)))
    return places, _of(row.size, "elements of its row")


def _pool(node: Node, inputs: Sequence[Any], where: Coordinates) -> tuple[Places, str]:
    x = inputs[0]
    _, spots = _window(node, x.shape[2:], tuple(node.attributes["kernel_shape"]), where[2:])
    patch = x[np.ix_(*np.array(where[:2])[:, np.newaxis], *spots)][0, 0]
    places: Places = []
    for flat in _top(patch.reshape(-1)):
        at = tuple(int(spots[d][i]) for d, i in enumerate(_unravel(flat, patch.shape)))
        places.append((0, (*where[:2], *at)))
    return places, _of(patch.size, "elements of its window")


def _batch_norm(node: Node, inputs: Sequence[Any], where: Coordinates) -> tuple[Places, str]:
    channel = (where[1] if len(where) > 1 else 0,)
    return [(0, where), *((i, channel) for i in range(1, 5))], ""


_Rule: TypeAlias = Callable[[Node, Sequence[Any], Coordinates], tuple[Places, str]]
_RULES: dict[str, _Rule] = {
    "MatMul": _matmul,
    "Gemm": _gemm,
    "Conv": _conv,
    "BatchNormalization": _batch_norm,
    "AveragePool": _pool,
    "LpPool": _pool,
    "MaxPool": _pool,
} | dict.fromkeys(
    (
        *(
            f"Reduce{kind}"
            for kind in ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum")
        ),
        "ReduceSumSquare",
        "LayerNormalization",
        "LogSoftmax",
        "LpNormalization",
        "MeanVarianceNormalization",
        "RMSNormalization",
        "Softmax",
        *_OVER_SPACE,
    ),
    _row,
)
