"""What one run teaches about a piece of a plan, or what shape rules foresee of it.

Both follow the steps in the same way, into branches behind known conditions and bodies of functions too; they
differ in what is done at a step: the kernel runs, or a shape rule tells what it would have made.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, TypeAlias

from .. import schema
from ..errors import KernelError
from ..plan import Plan, Step
from ..plan.specialize import Frame, Record
from ..registry import Context, Kernel, find_shape_rule

if TYPE_CHECKING:
    from ._execute import Run

# Runs a step over slots, or does as if; `accepted` tells whether its shapes follow from what is known.
Perform: TypeAlias = "Callable[[Step, Frame, bool], Sequence[Any]]"


class UnforeseenError(Exception):
    """A step's outputs cannot be told without running it.

    Attributes:
        for_good: whether that holds for all shapes of inputs.
    """

    def __init__(self, message: str, *, for_good: bool = False) -> None:
        super().__init__(message)
        self.for_good = for_good


@dataclass(slots=True)
class Lesson:
    """A walk along the steps of a plan that fills a record."""

    record: Record
    run: Run
    perform: Perform

    def follow(self, plan: Plan, begin: int) -> int:
        """Go as far as shapes are fixed, at least one step; return where that ended."""
        record = self.record
        position = begin
        while position < len(plan.steps):
            noted = self._note(plan.steps[position], record.frame, must=position == begin)
            if noted is None:
                break
            position += 1
            if not noted:
                break
            record.end = position
        return position

    def _note(self, step: Step, frame: Frame, *, must: bool = True) -> bool | None:
        """Do one step and note it; False where it, or a step inside of it, cannot be part of a region.

        None where that is clear before it is done, and it need not be done.
        """
        record = self.record
        body = record.chosen_body(step, frame)
        if body is not None:
            return self._note_body(step, body, frame)
        accepted = record.accepts(step, frame)
        if not accepted and not must:
            return None
        outputs = self.perform(step, frame, accepted)
        return accepted and record.add(step, outputs, frame)

    def _note_body(self, step: Step, body: Plan, frame: Frame) -> bool:
        """Do the steps of a branch or of a function's body in place of its step."""
        record, run = self.record, self.run
        run.budget.check_depth(run.depth + 1)
        run.depth += 1
        try:
            run.budget.step()
            slots = body.template.copy()
            inner = record.inner(step, body, slots, frame)
            for slot, outer in inner.captured.items():
                slots[slot] = frame.slots[outer]
            before = len(record.steps)
            noted = True
            for own in body.steps:
                if noted:
                    noted = bool(self._note(own, inner))
                else:
                    self.perform(own, inner, False)
            for slot, result in zip(step.outputs, body.output_slots, strict=False):
                if slot:
                    frame.slots[slot] = slots[result]
            noted = noted and record.link(step, frame, inner)
            if not noted:
                record.forget_after(before)
            for slot in step.frees:
                frame.slots[slot] = None
            return noted
        finally:
            run.depth -= 1


def imagine(step: Step, frame: Frame, run: Run) -> Sequence[Any]:
    """Put ghosts of a step's outputs into the slots, by its shape rule, and return them.

    Raises:
        UnforeseenError: there is no rule, or it refuses these inputs; only the kernel can tell.
    """
    rule = _rule(step)
    if rule is None:
        raise UnforeseenError(f"{step.node}: it has no shape rule", for_good=True)
    values = [frame.slots[slot] for slot in step.inputs]
    arguments = dict(step.arguments)
    if step.takes_context:
        arguments["ctx"] = Context(step.wanted, run.budget, step.node.opset, run.generator)
    try:
        if step.type_rule is not None:
            step.type_rule.check_values(values)
        made = rule(*values, **arguments)
        outputs = made if isinstance(made, tuple) else (made,)
        for y in outputs:
            run.budget.check_bytes(y.nbytes)
        if any(step.outputs[len(outputs) :]):
            raise KernelError(f"its shape rule tells of {len(outputs)} outputs")
    except Exception as error:  # whatever it is, the kernel is going to raise it, or knows better
        raise UnforeseenError(f"{step.node}: {error}") from error
    for slot, value in zip(step.outputs, outputs, strict=False):
        if slot:
            frame.slots[slot] = value
    for slot in step.frees:
        frame.slots[slot] = None
    return outputs


def _rule(step: Step) -> Kernel | None:
    if step.user_defined:
        return None
    node = step.node
    return _rule_of(node.domain, node.op_type, node.opset)


@cache
def _rule_of(domain: str, op_type: str, opset: int) -> Kernel | None:
    return find_shape_rule(domain, op_type, schema.version_in_force(domain, op_type, opset))
