"""What became of each node: for people who ask why a model is not faster."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ...graph import Node
from .._steps import Plan, Step
from ._lower import Lowered
from ._regions import Region


@dataclass(frozen=True, slots=True)
class NodeExplanation:
    """What became of one node, or of several that were fused.

    Attributes:
        nodes: names of the model's nodes, `op_type#position` for those without one.
        operator: the operator that runs in their place.
        kind: "native", "reference", "view" (no work at all), "known" (computed while planning), "inlined"
            (its body is part of the region), or "control".
        kernel: the native functions, in order.
        result: type, shape and layout of the first output.
        reason: why it is not native.
    """

    nodes: tuple[str, ...]
    operator: str
    kind: str
    kernel: str = ""
    result: str = ""
    reason: str = ""

    def __str__(self) -> str:
        shown = "+".join(self.nodes)
        return f"{shown}: {self.operator} {self.kind} {self.kernel or self.reason} {self.result}".rstrip()


def explain_plan(plan: Plan) -> list[NodeExplanation]:
    """Return what became of every step of a plan, for the shapes that it was last run with."""
    newest: dict[int, Region] = {}
    if plan.regions is not None:
        for region in plan.regions.regions():
            newest[region.record.begin] = region
    rows: list[NodeExplanation] = []
    position = 0
    while position < len(plan.steps):
        found = newest.get(position)
        if found is None or found.end == position:
            rows.append(_alone(plan.steps[position], ran=found is not None))
            position += 1
        else:
            rows.extend(_of_region(plan, found))
            position = found.end
    return rows


def _of_region(plan: Plan, region: Region) -> Iterator[NodeExplanation]:
    steps = plan.steps[region.record.begin : region.end]
    if region.program is None:
        reason = region.hopeless or "its native code is not compiled yet"
        yield from (
            NodeExplanation((_name(s.node),), s.node.op_type, "reference", reason=reason) for s in steps
        )
        return
    must_run = {id(step) for step in region.record.steps}
    for step in steps:
        if id(step) not in must_run:
            yield NodeExplanation(
                (_name(step.node),), step.node.op_type, "inlined" if step.bodies else "known"
            )
    yield from map(_of_op, region.program.lowered)


def _of_op(found: Lowered) -> NodeExplanation:
    names = tuple(map(_name, found.op.nodes))
    first = next((y for y in found.op.outputs if y is not None), None)
    if found.step is not None:
        kind, kernel = "reference", ""
    elif found.calls:
        kind, kernel = "native", ", ".join(repr(call.function) for call in found.calls)
    else:
        kind, kernel = "view", ""
    return NodeExplanation(names, str(found.op), kind, kernel, str(first or ""), found.reason)


def _alone(step: Step, *, ran: bool) -> NodeExplanation:
    if step.bodies:
        kind, reason = "control", "its subgraphs are planned by themselves"
    else:
        kind = "reference"
        reason = "shapes depend on values" if ran else "not run yet, or shapes depend on values"
    return NodeExplanation((_name(step.node),), step.node.op_type, kind, reason=reason)


def _name(node: Node) -> str:
    return node.name or f"{node.op_type}#{node.position}"
