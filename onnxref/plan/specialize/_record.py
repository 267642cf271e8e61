"""What one run with the reference kernels teaches about a piece of a plan.

The first run with new input shapes executes the steps as usual, or shape rules tell what they would make, and
a `Record` notes every shape on the way. What was computed from shapes and constants alone is the same in
every run with these input shapes, so its value is noted too and the step never runs again.

Rules
    1. A region ends before the first step whose output shapes could differ in another run with the same
       input shapes: one shaped by a value that is not known, other control flow, sequences, functions of
       the user. It ends before a step that makes strings, too; to read some from outside is allowed.
    2. A value is known if a deterministic step made it from known ones, as long as all known values of a
       region together stay below a limit. What a deferred step makes is left to the passes.
    3. The default of an input is known in the runs that leave it out.
    4. A branch behind a known condition, and the body of a function, become part of the region. Inputs that
       conditions are computed from are known by their value, if they are a few integers.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ...lowering import Operand
from .._steps import NO_SLOT, Plan, Step, read_only
from ._shapes import OF_SHAPE, RANDOM, shaped_by


@dataclass(slots=True, eq=False)
class Frame:
    """The slots of a plan while a run teaches; those of an inner one stand for numbers after the outer's.

    Attributes:
        outer: the frame around a branch or a function's body; None for the plan that the region is of.
        captured: slots that are another name for a slot of `outer`.
        base: what is added to a slot to make its number in the record.
    """

    plan: Plan
    slots: list[Any]
    outer: Frame | None = None
    captured: Mapping[int, int] = field(default_factory=dict)
    base: int = 0

    def origin(self, slot: int) -> tuple[Frame, int]:
        """Return the frame that a slot's value belongs to, and its slot there."""
        frame = self
        while frame.outer is not None and slot in frame.captured:
            frame, slot = frame.outer, frame.captured[slot]
        return frame, slot

    def number(self, slot: int) -> int:
        """Return the number of a slot in the record; `NO_SLOT` stays what it is."""
        frame = self
        if self.outer is not None:
            frame, slot = self.origin(slot)
        return frame.base + slot if slot else NO_SLOT


class Record:
    """Notes of one run, from step `begin` on.

    Args:
        known_bytes: limit of rule 2.
        deciding: slots whose values are part of what the region is found by.
        texts: whether steps of the region may read strings.

    Attributes:
        operands: by number; the numbers of the outermost frame are its slots.
        end: the first step that is not part of the region.
        steps: those of the region that must run: their values are not known. Their slots are numbers.
        inputs: slots that the region reads.
    """

    def __init__(
        self,
        plan: Plan,
        begin: int,
        slots: list[Any],
        known_bytes: int,
        deciding: Collection[int] = (),
        *,
        texts: bool = False,
    ) -> None:
        self.plan = plan
        self.frame = Frame(plan, slots)
        self.begin = begin
        self.end = begin
        self.operands: dict[int, Operand] = {}
        self.steps: list[Step] = []
        self.inputs: list[int] = []
        self._deciding = deciding
        self._texts = texts
        self._known_left = known_bytes
        self._numbers = len(slots)

    def inner(self, step: Step, body: Plan, slots: list[Any], outer: Frame) -> Frame:
        """Return the frame of a body that `step` runs, a chosen branch or a function's."""
        captured = {inner: captured for captured, inner in body.captures}
        if not is_branch(step):
            captured.update(zip(body.input_slots, step.inputs, strict=True))
        base, self._numbers = self._numbers, self._numbers + len(slots)
        return Frame(body, slots, outer, captured, base)

    def chosen_body(self, step: Step, frame: Frame) -> Plan | None:
        """Return the body that a step runs in every run: of a function, or behind a known condition."""
        if not step.bodies or step.user_defined:
            return None
        if not is_branch(step):
            return step.bodies.get("body") if step.type_rule is None else None
        condition = self._operand(step.inputs[0], "", frame)
        if condition is None or condition.constant is None or condition.size != 1:
            return None
        body = step.bodies["then_branch" if condition.constant.reshape(-1)[0] else "else_branch"]
        return body if len(body.output_slots) == len(step.outputs) else None

    def accepts(self, step: Step, frame: Frame) -> bool:
        """Whether the step's output shapes follow from what the region is given (rule 1)."""
        if step.user_defined or step.bodies or step.type_rule is None:
            return False
        shaping = shaped_by(step.node)
        if shaping is None:
            return False
        for position, slot in enumerate(step.inputs):
            if slot == NO_SLOT:
                continue
            operand = self._operand(slot, step.node.inputs[position], frame)
            if frame.origin(slot)[1] and (
                operand is None or (position in shaping and operand.constant is None)
            ):
                return False
        return True

    def add(self, step: Step, outputs: Sequence[Any], frame: Frame) -> bool:
        """Note what a step made; False where its outputs show that it cannot be part of the region."""
        made = [(slot, y) for slot, y in zip(step.outputs, outputs, strict=False) if slot]
        if not all(_is_numeric(y) for _, y in made):
            self._forget_texts(step, frame)
            return False
        size = sum(y.nbytes for _, y in made)
        known = self.is_known(step, frame) and size <= self._known_left
        self._known_left -= size if known else 0
        for slot, name, value in zip(step.outputs, step.node.outputs, outputs, strict=False):
            if slot:
                # A copy: the value may be a view of an input, or go out to a caller who changes it.
                constant = read_only(np.array(value, order="C")) if known else None
                self.operands[frame.number(slot)] = Operand(value.shape, value.dtype, name, constant)
        if not known:
            self.steps.append(step if frame.outer is None else _renumbered(step, frame))
        return True

    def link(self, step: Step, frame: Frame, body: Frame) -> bool:
        """Note that a step's outputs are those of the body that it ran; False if they are no tensors."""
        for slot, inner in zip(step.outputs, body.plan.output_slots, strict=False):
            if slot:
                operand = self._operand(inner, "", body)
                if operand is None or operand.dtype.hasobject:
                    return False
                self.operands[frame.number(slot)] = operand
        return True

    def close(self) -> None:
        """Let go of the values of the run that taught."""
        self.frame.slots = []

    def forget_after(self, count: int) -> None:
        """Drop the steps noted after the first `count`."""
        del self.steps[count:]

    def _forget_texts(self, step: Step, frame: Frame) -> None:
        """Drop inputs of strings that only a step reads which is no part of the region."""
        used = {number for own in self.steps for number in own.inputs}
        for number in {frame.number(slot) for slot in step.inputs} - used:
            if number in self.inputs and self.operands[number].dtype.hasobject:
                self.inputs.remove(number)
                del self.operands[number]

    def is_known(self, step: Step, frame: Frame) -> bool:
        """Whether a step makes the same in every run with these input shapes."""
        node = step.node
        if node.op_type in OF_SHAPE and not node.domain:
            return True
        if node.op_type in RANDOM or step.deferred:
            return False
        numbers = map(frame.number, step.inputs)
        return all(self.operands[number].constant is not None for number in numbers if number)

    def _operand(self, slot: int, name: str, frame: Frame) -> Operand | None:
        """Return the operand in a slot, None where it is no tensor of numbers."""
        owner, slot = frame.origin(slot)
        found = self.operands.get(owner.base + slot)
        if found is not None:
            return found
        value = owner.slots[slot]
        if not _is_numeric(value) and not (self._texts and isinstance(value, np.ndarray)):
            return None
        is_given = owner.outer is None and slot in self._deciding and decides(value)
        fixed = is_given or is_default(owner.plan, slot, value)
        constant = (value.copy() if is_given else value) if fixed else None
        made = self.operands[owner.base + slot] = Operand(value.shape, value.dtype, name, constant)
        if not fixed:
            assert owner.outer is None, "only the outermost frame has values from outside"
            self.inputs.append(slot)
        return made


def _renumbered(step: Step, frame: Frame) -> Step:
    """Return a step over numbers instead of the slots of a frame."""
    reads, writes = (tuple(map(frame.number, slots)) for slots in (step.inputs, step.outputs))
    return replace(step, inputs=reads, outputs=writes)


def is_branch(step: Step) -> bool:
    """Whether a step is an If."""
    return step.node.op_type == "If" and not step.node.domain


def decides(value: Any) -> bool:
    """Whether a value is small enough to tell regions apart: a flag, a rate, a mode."""
    return isinstance(value, np.ndarray) and value.size <= 4 and value.dtype.kind in "biu"


def is_default(plan: Plan, slot: int, value: Any) -> bool:
    """Whether a slot holds what the plan put there, and no caller's value."""
    default = plan.template[slot]
    return default is not None and (value is default or getattr(value, "base", None) is default)


def _is_numeric(value: Any) -> bool:
    """Whether a value is a tensor that native code can address: whole bytes, no strings."""
    return isinstance(value, np.ndarray) and value.dtype != np.object_


def region_outputs(record: Record) -> list[int]:
    """Return the slots that the region makes and something after it reads."""
    plan = record.plan
    later = set(plan.output_slots)
    for step in plan.steps[record.end :]:
        later.update(step.inputs)
        for body in step.bodies.values():
            later.update(outer for outer, _ in body.captures)
    made = {slot for step in plan.steps[record.begin : record.end] for slot in step.outputs if slot}
    return sorted(made & later)
