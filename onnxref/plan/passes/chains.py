"""Fuses neighbouring elementwise ops into `Chain` ops, which go through memory once.

Rules
    1. All ops of a group have results of one shape; types may change within it.
    2. A value that is read outside of the group, or is a result of the block, becomes an output of the
       chain. Its readers outside must come after the last op of the group, where the chain will stand.
    3. A group keeps to `_MAX_INSTRUCTIONS`, `_MAX_TENSORS` inputs of more than one element,
       `_MAX_INPUTS` inputs in all and `_MAX_OUTPUTS` outputs.
    4. Only ops for which vector code exists: one that calls the C library would slow down the others.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import ml_dtypes

from ...lowering import Op, Operand
from ...registry import INTERNAL, ONNX
from ._block import Block

_MAX_INSTRUCTIONS = 24
_MAX_TENSORS = 8
_MAX_INPUTS = 16
_MAX_OUTPUTS = 4
_MAX_RANK = 6

# (name, operands, attributes as sorted pairs)
Instruction: TypeAlias = tuple[str, tuple[int, ...], tuple[tuple[str, Any], ...]]

_FLOATS = frozenset(("float32", "float64", "float16", "bfloat16"))
_SINGLE = frozenset(("float32", "float16", "bfloat16"))
_INTS = frozenset(f"{u}int{bits}" for u in ("", "u") for bits in (8, 16, 32, 64))
_NUMBERS = _FLOATS | _INTS
_BOOL = frozenset(("bool",))
_ALL = _NUMBERS | _BOOL


@dataclass(frozen=True, slots=True)
class _Fusable:
    """An operator that may be part of a chain.

    Attributes:
        dtypes: types that all of its inputs may have (those behind the condition, of Where).
        opset: version from which on it has its present meaning.
        inputs: how many inputs it takes; None for one or more.
        attributes: those that the instruction carries, with their defaults.
        accepts: what else must hold.
    """

    dtypes: frozenset[str]
    opset: int = 7
    inputs: int | None = 1
    attributes: Mapping[str, Any] = field(default_factory=dict)
    accepts: Callable[[Op], bool] | None = None


def _is_quotient_of_floats(op: Op) -> bool:
    return op.inputs[0] is not None and op.inputs[0].dtype.name in _FLOATS


def _has_known_power(op: Op) -> bool:
    exponent = _power(op)
    x, y = op.inputs
    if exponent not in _POWERS or x is None or y is None:
        return False
    if x.dtype.name in _FLOATS or exponent == 1.0:
        return True
    # An integer to the power of a float saturates, a product of integers wraps.
    return exponent in (2.0, 3.0) and y.dtype.kind in "iu"


def _has_known_bounds(op: Op) -> bool:
    for bound in op.inputs[1:]:
        if bound is not None and (
            bound.constant is None or bound.size != 1 or bound.constant != bound.constant
        ):
            return False
    return not any(math.isnan(op.attributes.get(name, 0.0)) for name in ("min", "max"))


def _can_cast(op: Op) -> bool:
    x, y = op.inputs[0], op.outputs[0]
    assert x is not None
    assert y is not None
    return not (y.dtype.name == "bfloat16" and x.dtype.name in ("int64", "uint64"))


def _has_rounded_threshold(op: Op) -> bool:
    return op.inputs[0] is not None and op.inputs[0].dtype.name in ("float32", "float64")


_POWERS = (-1.0, 0.5, 1.0, 2.0, 3.0)
_LARGEST = 3.4028234663852886e38
_FUSABLE: dict[str, _Fusable] = {
    **{name: _Fusable(_NUMBERS, 7, 2) for name in ("Add", "Sub", "Mul", "PRelu")},
    "Div": _Fusable(_FLOATS, 7, 2, accepts=_is_quotient_of_floats),
    "Pow": _Fusable(_NUMBERS, 7, 2, accepts=_has_known_power),
    **{name: _Fusable(_NUMBERS, 8, None) for name in ("Max", "Min", "Sum")},
    "Mean": _Fusable(_FLOATS, 8, None),
    "Where": _Fusable(_ALL, 9, 3),
    **{name: _Fusable(_ALL, 7, 2) for name in ("Equal", "Less", "Greater")},
    **{name: _Fusable(_ALL, 12, 2) for name in ("LessOrEqual", "GreaterOrEqual")},
    **{name: _Fusable(_BOOL, 7, 2) for name in ("And", "Or", "Xor")},
    "Not": _Fusable(_BOOL),
    **{name: _Fusable(_FLOATS) for name in ("Neg", "Abs", "Sqrt", "Reciprocal", "Floor", "Ceil", "Round")},
    "Sign": _Fusable(_NUMBERS),
    "IsNaN": _Fusable(_FLOATS),
    **{name: _Fusable(_SINGLE) for name in ("Exp", "Log", "Tanh", "Sigmoid", "Erf", "Softplus", "Mish")},
    "Softsign": _Fusable(_FLOATS),
    "Relu": _Fusable(_NUMBERS),
    "Clip": _Fusable(_NUMBERS, 6, None, accepts=_has_known_bounds),
    "LeakyRelu": _Fusable(_FLOATS, attributes={"alpha": 0.009999999776482582}),
    "Elu": _Fusable(_SINGLE, attributes={"alpha": 1.0}),
    "Selu": _Fusable(_SINGLE, attributes={"alpha": 1.6732631921768188, "gamma": 1.0507010221481323}),
    "Celu": _Fusable(
        _SINGLE, 12, attributes={"alpha": 1.0}, accepts=lambda op: op.attributes.get("alpha", 1) > 0
    ),
    "HardSigmoid": _Fusable(_FLOATS, attributes={"alpha": 0.20000000298023224, "beta": 0.5}),
    "HardSwish": _Fusable(_FLOATS, 14),
    "Swish": _Fusable(_SINGLE, 24, attributes={"alpha": 1.0}),
    "Gelu": _Fusable(_SINGLE, 20, attributes={"approximate": "none"}),
    "ThresholdedRelu": _Fusable(_FLOATS, 10, attributes={"alpha": 1.0}, accepts=_has_rounded_threshold),
    "Cast": _Fusable(_ALL, 6, accepts=_can_cast),
}
_MIXED = frozenset(("Pow", "Where", "Cast", "Clip"))  # may have inputs of several types


def _power(op: Op) -> float | None:
    """Return the exponent of a Pow by one constant, which must not add dimensions."""
    x, y = op.inputs
    if x is None or y is None or y.constant is None or y.size != 1 or y.ndim > x.ndim:
        return None
    return float(y.constant.item())


def is_fusable(op: Op) -> bool:
    """Whether an op can be an instruction of a chain."""
    known = _FUSABLE.get(op.op_type) if op.domain == ONNX else None
    if known is None or op.opset < known.opset or len(op.outputs) != 1 or not op.inputs:
        return False
    y = op.outputs[0]
    present = [x for x in op.inputs if x is not None]
    if (
        y is None
        or y.ndim > _MAX_RANK
        or y.dtype.name not in _ALL
        or (None in op.inputs and op.op_type != "Clip")
    ):
        return False
    if known.inputs is not None and len(op.inputs) != known.inputs:
        return False
    tested = [
        x.dtype.name
        for x in (present[1:] if op.op_type == "Where" else present[:1] if op.op_type == "Pow" else present)
    ]
    if not known.dtypes.issuperset(tested) or (op.op_type not in _MIXED and len(set(tested)) != 1):
        return False
    if any(x.ndim > y.ndim for x in present):
        return False
    return known.accepts is None or known.accepts(op)


def _instruction(op: Op, numbers: Mapping[Operand, int]) -> Instruction:
    """Return the instruction for an op whose inputs have these numbers."""
    known = _FUSABLE[op.op_type]
    attributes = {key: op.attributes.get(key, default) for key, default in known.attributes.items()}
    if op.op_type == "Clip":
        attributes = _bounds(op)
    if op.op_type == "Pow":
        attributes = {"exponent": _power(op)}
    operands = tuple(numbers[x] for x in _operands(op))
    return op.op_type, operands, tuple(sorted(attributes.items()))


def _operands(op: Op) -> list[Operand]:
    """Return the inputs that an op's instruction reads."""
    inputs = op.inputs[:1] if op.op_type in ("Clip", "Pow") else op.inputs
    return [x for x in inputs if x is not None]


def _bounds(op: Op) -> dict[str, float | None]:
    """Return the bounds of Clip; absent ones of floats are the finite numbers of the type (ONNX Clip-13)."""
    x = op.inputs[0]
    assert x is not None
    bounds: list[float | None]
    if op.opset < 11:
        bounds = [op.attributes.get("min", -_LARGEST), op.attributes.get("max", _LARGEST)]
    else:
        given = [*op.inputs[1:], None, None][:2]
        bounds = [None if b is None or b.constant is None else b.constant.item() for b in given]
    if x.dtype.name in _FLOATS:
        limits = ml_dtypes.finfo(x.dtype)  # type: ignore[no-untyped-call]
        finite = (float(limits.min), float(limits.max))
        bounds = [limit if b is None else b for b, limit in zip(bounds, finite, strict=True)]
    return dict(zip(("low", "high"), bounds, strict=True))


@dataclass(slots=True, eq=False)
class _Group:
    """Ops that become one chain, with their places in the block."""

    ops: list[tuple[int, Op]]

    @property
    def values(self) -> list[Operand]:
        return [y for _, op in self.ops for y in op.outputs if y is not None]

    @property
    def inputs(self) -> list[Operand]:
        """What the group reads and does not make, each once."""
        made = set(self.values)
        return list(dict.fromkeys(x for _, op in self.ops for x in _operands(op) if x not in made))


class _Fuser:
    def __init__(self, block: Block) -> None:
        self.block = block
        self.results = set(block.outputs)
        self.group_of: dict[Operand, _Group] = {}
        self.readers: dict[Operand, list[int]] = {}
        for place, op in enumerate(block.ops):
            for x in op.inputs:
                if x is not None:
                    self.readers.setdefault(x, []).append(place)

    def outputs(self, group: _Group) -> list[Operand]:
        """Return the values of a group that are needed outside of it."""
        inside = {place for place, _ in group.ops}
        return [
            y
            for y in group.values
            if y in self.results or any(place not in inside for place in self.readers.get(y, ()))
        ]

    def is_allowed(self, group: _Group) -> bool:
        """Whether a group keeps rules 2 and 3."""
        if len(group.ops) > _MAX_INSTRUCTIONS:
            return False
        inputs = group.inputs
        if len(inputs) > _MAX_INPUTS or sum(x.size > 1 for x in inputs) > _MAX_TENSORS:
            return False
        outputs = self.outputs(group)
        inside = {place for place, _ in group.ops}
        last = max(inside)
        early = any(
            place < last and place not in inside for y in outputs for place in self.readers.get(y, ())
        )
        return len(outputs) <= _MAX_OUTPUTS and not early

    def add(self, place: int, op: Op) -> None:
        """Put an op into a group with as many of the groups before it as the rules allow."""
        (y,) = op.outputs
        assert y is not None
        made = _Group([(place, op)])
        before = [self.group_of[x] for x in _operands(op) if x in self.group_of]
        for group in dict.fromkeys(before):
            if group.ops[0][1].outputs[0].shape != y.shape:  # type: ignore[union-attr]  # fusable ops have one
                continue
            union = _Group(sorted([*group.ops, *made.ops], key=lambda item: item[0]))
            if self.is_allowed(union):
                made = union
        for value in made.values:
            self.group_of[value] = made


def fuse_chains(block: Block) -> int:
    """Fuse groups of elementwise ops into `Chain` ops; return how many were made."""
    fuser = _Fuser(block)
    for place, op in enumerate(block.ops):
        if is_fusable(op):
            fuser.add(place, op)
    groups = [group for group in dict.fromkeys(fuser.group_of.values()) if len(group.ops) > 1]
    slots: list[Op | None] = list(block.ops)
    for group in groups:
        for place, _ in group.ops:
            slots[place] = None
        slots[group.ops[-1][0]] = _chain([op for _, op in group.ops], group.inputs, fuser.outputs(group))
    block.set_ops(op for op in slots if op is not None)
    return len(groups)


def _chain(ops: Sequence[Op], inputs: Sequence[Operand], outputs: Sequence[Operand]) -> Op:
    """Return the op that does what `ops` do."""
    numbers = {x: i for i, x in enumerate(inputs)}
    program = []
    for op in ops:
        program.append(_instruction(op, numbers))
        (y,) = op.outputs
        assert y is not None
        numbers[y] = len(numbers)
    attributes = {
        "program": tuple(program),
        "dtypes": tuple(value.dtype.name for value in numbers),
        "results": tuple(numbers[y] for y in outputs),
    }
    nodes = tuple(node for op in reversed(ops) for node in op.nodes)
    return Op("Chain", list(inputs), list(outputs), attributes, INTERNAL, 1, nodes)
