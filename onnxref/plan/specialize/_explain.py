"""What became of each node: for people who ask why a model is not faster."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from .._steps import Plan, Step
from ._device_program import DeviceProgram
from ._join import ELSEWHERE
from ._lower import Lowered
from ._regions import Region
from ._static_text import gives_names


@dataclass(frozen=True, slots=True)
class NodeExplanation:
    """What became of one node, or of several that were fused.

    Attributes:
        nodes: names of the model's nodes, `op_type#position` for those without one.
        operator: the operator that runs in their place.
        kind: "native", "device" (a GPU), "reference", "view" (no work at all), "known" (computed while
            planning), "inlined" (its body is part of the region), or "control".
        kernel: the native functions, or the CUDA kernels and operations of libraries, in order.
        result: type, shape and layout of the first output.
        reason: why it is not native, or not of the precision that was asked for.
        libraries: what runs it on a device: "raw" for kernels of our own, "cublaslt", "cudnn".
        copies: tensors that go to the host and back because the reference runs between pieces of a device.
        captured: whether it runs as part of a captured graph.
    """

    nodes: tuple[str, ...]
    operator: str
    kind: str
    kernel: str = ""
    result: str = ""
    reason: str = ""
    libraries: tuple[str, ...] = ()
    copies: int = 0
    captured: bool = False

    def __str__(self) -> str:
        shown = "+".join(self.nodes)
        parts = (self.operator, self.kind, self.kernel, self.reason, self.result)
        return f"{shown}: {' '.join(filter(None, parts))}"


def explain_plan(plan: Plan) -> list[NodeExplanation]:
    """Return what became of every step of a plan, for the shapes that it was last run with."""
    newest: dict[int, Region] = {}
    if plan.regions is not None:
        for region in plan.regions.regions():
            newest[region.record.begin] = region
        plan = plan.regions.plan
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
            NodeExplanation(tuple(node.label for node in s.nodes), s.node.op_type, "reference", reason=reason)
            for s in steps
        )
        return
    must_run = {id(step) for step in region.record.steps}
    for step in steps:
        if id(step) not in must_run:
            yield NodeExplanation(
                tuple(node.label for node in step.nodes),
                step.node.op_type,
                "inlined" if step.bodies else "known",
            )
    on_device = isinstance(region.program, DeviceProgram)
    for found in region.program.lowered:
        row = _on_device(found) if on_device else _of_op(found)
        yield replace(row, reason="; ".join(filter(None, (row.reason, region.note))))


def _of_op(found: Lowered) -> NodeExplanation:
    names = tuple(node.label for node in found.op.nodes)
    first = next((y for y in found.op.outputs if y is not None), None)
    if found.step is not None:
        kind, kernel = "reference", ""
    elif found.calls:
        kind, kernel = "native", ", ".join(repr(call.function) for call in found.calls)
    else:
        kind, kernel = "view", ""
    reason = found.reason if found.site is None else "; ".join(found.site.notes)
    return NodeExplanation(names, str(found.op), kind, kernel, str(first or ""), reason)


def _on_device(found: Lowered) -> NodeExplanation:
    """Return what became of an op of a device's program."""
    row = _of_op(found)
    if found.step is not None:
        moved = [x for x in found.op.inputs if x is not None and x.constant is None]
        return replace(row, copies=len(moved) + sum(y is not None for y in found.op.outputs))
    if found.site is not None and ELSEWHERE in found.site.notes:
        return replace(row, kind="device", libraries=("raw",), captured=True)
    if not found.launches:
        return row
    libraries = dict.fromkeys(call.library for call in found.launches)
    kernels = ", ".join(map(str, found.launches))
    return replace(row, kind="device", kernel=kernels, libraries=tuple(libraries), captured=True)


def _alone(step: Step, *, ran: bool) -> NodeExplanation:
    if step.bodies:
        kind, reason = "control", "its subgraphs are planned by themselves"
    elif gives_names(step):
        kind, reason = "reference", "strings are made by the interpreter"
    else:
        kind = "reference"
        reason = "shapes depend on values" if ran else "not run yet, or shapes depend on values"
    return NodeExplanation(tuple(node.label for node in step.nodes), step.node.op_type, kind, reason=reason)
