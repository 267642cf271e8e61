"""From ops to native calls: asks each op's lowering, and keeps the reference kernel where it refuses."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeGuard

from ... import registry, schema
from ...errors import KernelError, UnsupportedOperatorError
from ...gpu import Convolution, DeviceCall, LibraryCall, LibraryOp, Matmul
from ...graph import Node
from ...lowering import (
    NO_PAD,
    Blocked,
    BlockedUse,
    Call,
    Lowering,
    Op,
    Operand,
    Site,
    Unsupported,
    blocked_layout,
    find_lowering,
)
from ...registry import INTERNAL
from .._steps import Step
from ..passes import Block
from ._layout import assign_layouts
from ._pitch import assign_pitches

LAYOUTS = ("layout", "pitch")


class NoReferenceError(Exception):
    """A pass made an operator that no lowering takes here, and that the reference does not know."""


@dataclass(slots=True)
class Lowered:
    """An op with what computes it: native calls, or a step of the reference.

    Attributes:
        site: what the lowering asked for; None where the reference runs.
        step: the reference's step; None where native code runs.
        reason: why there is no native code.
    """

    op: Op
    site: Site | None = None
    step: Step | None = None
    reason: str = ""

    @property
    def calls(self) -> list[Call]:
        return self.site.calls if self.site else []

    @property
    def launches(self) -> list[DeviceCall]:
        return self.site.launches if self.site else []


@dataclass(slots=True)
class _Saved:
    """A block before layouts were assigned, to go back to."""

    ops: list[tuple[Op, list[Operand | None]]]
    outputs: list[Operand]
    operands: set[Operand] = field(default_factory=set)

    @classmethod
    def of(cls, block: Block) -> _Saved:
        operands = {x for op in block.ops for x in (*op.inputs, *op.outputs) if x is not None}
        return cls([(op, list(op.inputs)) for op in block.ops], list(block.outputs), operands)

    def restore(self, block: Block) -> None:
        block.ops[:] = [op for op, _ in self.ops]
        for op, inputs in self.ops:
            op.inputs[:] = inputs
        block.outputs[:] = self.outputs
        for operand in self.operands:
            operand.layout = operand.place = None


def lower_block(
    block: Block,
    steps: Mapping[Op, Step],
    backend: str,
    *,
    without: Collection[str] = (),
    libraries: frozenset[str] = frozenset(),
    refused: Collection[LibraryOp] = (),
) -> list[Lowered]:
    """Return what computes each op of a block, in order.

    Args:
        steps: the reference's step of each op that no pass has changed.
        without: which of `LAYOUTS` to leave out; "pitch" is that tensors lie in others.
        libraries: what lowerings may call, see `Site`.
        refused: operations that they turned out not to do.
    """
    saved = _Saved.of(block)
    banned: set[Op] = set()
    unpitched: set[Op] = set()
    layout = blocked_layout(backend)

    def rule(op: Op) -> BlockedUse | None:
        lowering = _lowering(op, backend)
        return lowering.blocked(op, layout(NO_PAD).lanes) if lowering and lowering.blocked else None

    while True:
        if "layout" not in without and assign_layouts(block, layout, rule, banned) and "pitch" not in without:
            assign_pitches(block, rule, unpitched)
        results = [_lower(op, block, steps, backend, libraries, refused) for op in block.ops]
        undone = {
            found.op
            for found in results
            if found.site is None
            and any(x is not None and x.layout for x in (*found.op.inputs, *found.op.outputs))
        }
        if not undone:
            return results
        pitched = set(filter(_has_places, undone))
        unpitched |= pitched
        banned |= undone - pitched
        saved.restore(block)


def _lower(
    op: Op,
    block: Block,
    steps: Mapping[Op, Step],
    backend: str,
    libraries: frozenset[str],
    refused: Collection[LibraryOp],
) -> Lowered:
    lowering = _lowering(op, backend)
    if lowering is None:
        return Lowered(op, step=_reference(op, steps), reason="no native kernel")
    if not lowering.text and any(x is not None and x.dtype.hasobject for x in op.inputs):
        return Lowered(op, step=_reference(op, steps), reason="an input is strings")
    site = Site(op, block.packs, block.precision, block.hurried, libraries=libraries)
    try:
        lowering.emit(site, *op.inputs, **op.attributes)
        _zero_borders(site, backend)
    except Unsupported as refusal:
        return Lowered(op, step=_reference(op, steps), reason=str(refusal))
    called = [call for call in site.launches if isinstance(call, LibraryCall)]
    failed = {call.library for call in called if _is_refused(call.op, refused)}
    if failed and _has_places(op):
        return Lowered(op, reason="a library wants tensors without gaps")
    if failed:
        return _lower(op, block, steps, backend, libraries - failed, refused)
    return Lowered(op, site)


def _has_places(op: Op) -> bool:
    """Whether an op's tensors lie in others: if it is not done, it may be if they do not."""
    return any(x is not None and x.place is not None for x in (*op.inputs, *op.outputs))


def _is_refused(op: LibraryOp, refused: Collection[LibraryOp]) -> bool:
    """Whether a library refused an operation, or one of its kind for its pitches alone, as far as known."""
    if op in refused:
        return True
    return _is_pitched(op) and any(
        type(other) is type(op) and _is_pitched(other) and replace(other, pitches=(0, 0, 0)) not in refused
        for other in refused
    )


def _is_pitched(op: LibraryOp) -> TypeGuard[Matmul | Convolution]:
    return isinstance(op, Matmul | Convolution) and any(op.pitches)


def _zero_borders(site: Site, backend: str) -> None:
    """Emit the zeroing of the outputs' borders, which the op itself never touches.

    An output that is made up of parts has theirs.
    """
    whole = {part.output for part in site.parts}
    for y in site.outputs:
        if y is not None and y not in whole and isinstance(y.layout, Blocked) and any(y.layout.pad):
            border = find_lowering(backend, INTERNAL, "ZeroBorder", 1)
            if border is None:
                raise Unsupported("there is nothing that zeroes borders")
            border.emit(site, y)


def _lowering(op: Op, backend: str) -> Lowering | None:
    since = schema.version_in_force(op.domain, op.op_type, op.opset)
    return find_lowering(backend, op.domain, op.op_type, since)


def _reference(op: Op, steps: Mapping[Op, Step]) -> Step | None:
    """Return the reference's step for an op; None where it sees blocks, which only native code can."""
    if any(x is not None and x.layout for x in (*op.inputs, *op.outputs)):
        return None
    if op in steps:
        return steps[op]
    name = op.nodes[0].name if op.nodes else ""
    node = Node(
        op.op_type,
        tuple(x.name if x else "" for x in op.inputs),
        tuple(y.name if y else "" for y in op.outputs),
        dict(op.attributes),
        op.domain,
        name,
        opset=op.opset,
        position=op.nodes[0].position if op.nodes else 0,
    )
    try:
        operator = registry.find(op.domain, op.op_type, op.opset)
        arguments = {"prepared": operator.prepare(**op.attributes)} if operator.prepare else op.attributes
    except (UnsupportedOperatorError, KernelError) as error:
        raise NoReferenceError(f"{op}: {error}") from error
    return Step(
        node=node,
        kernel=operator.kernel,
        arguments=arguments,
        inputs=tuple(1 if x else 0 for x in op.inputs),
        outputs=tuple(1 if y else 0 for y in op.outputs),
        takes_context=operator.takes_context,
        cost=operator.cost,
        cost_arguments=op.attributes,
    )
