"""What one run with the reference kernels teaches about a piece of a plan.

The first run with new input shapes executes the steps as usual, and a `Record` notes every shape on the
way. What was computed from shapes and constants alone is the same in every run with these input
shapes, so its value is noted too and the step never runs again.

Rules
    1. A region ends before the first step whose output shapes could differ in another run with the same
       input shapes: one shaped by a value that is not known, control flow, sequences, strings, functions
       of the model or the user.
    2. A value is known if a deterministic step made it from known ones. Large ones stay unknown:
       `KNOWN_BYTES` for all of a region.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...limits import MIB
from ...lowering import Operand
from .._steps import NO_SLOT, Plan, Step, read_only
from ._shapes import OF_SHAPE, RANDOM, shaped_by

KNOWN_BYTES = 16 * MIB


class Record:
    """Notes of one run, from step `begin` on.

    Attributes:
        operands: by slot.
        end: the first step that is not part of the region.
        steps: those of the region that must run: their values are not known.
    """

    def __init__(self, plan: Plan, begin: int, slots: Sequence[Any]) -> None:
        self.plan = plan
        self.begin = begin
        self.end = begin
        self.operands: dict[int, Operand] = {}
        self.steps: list[Step] = []
        self.inputs: list[int] = []
        self._slots = slots
        self._known_left = KNOWN_BYTES
        self._overridable = frozenset(plan.input_slots)
        self._made: set[int] = set()

    def accepts(self, step: Step) -> bool:
        """Whether the step's output shapes follow from what the region is given (rule 1)."""
        if step.user_defined or step.bodies or step.type_rule is None:
            return False
        shaping = shaped_by(step.node)
        if shaping is None:
            return False
        for position, slot in enumerate(step.inputs):
            if slot == NO_SLOT:
                continue
            operand = self._operand(slot, step.node.inputs[position])
            if operand is None or (position in shaping and operand.constant is None):
                return False
        return True

    def add(self, step: Step, outputs: Sequence[Any]) -> bool:
        """Note what a step made; False where its outputs show that it cannot be part of the region."""
        if not all(_is_numeric(y) for y, slot in zip(outputs, step.outputs, strict=False) if slot):
            return False
        known = self._is_known(step)
        size = sum(y.nbytes for y, slot in zip(outputs, step.outputs, strict=False) if slot)
        if known:
            known = size <= self._known_left
            self._known_left -= size if known else 0
        for slot, name, value in zip(step.outputs, step.node.outputs, outputs, strict=False):
            if slot:
                constant = read_only(np.ascontiguousarray(value).reshape(value.shape)) if known else None
                self.operands[slot] = Operand(value.shape, value.dtype, name, constant)
                self._made.add(slot)
        if not known:
            self.steps.append(step)
        self.end += 1
        return True

    def _is_known(self, step: Step) -> bool:
        node = step.node
        if node.op_type in OF_SHAPE and not node.domain:
            return True
        if node.op_type in RANDOM:
            return False
        used = [self.operands[slot] for slot in step.inputs if slot]
        return all(operand.constant is not None for operand in used)

    def _operand(self, slot: int, name: str) -> Operand | None:
        """Return the operand in a slot, None where it is no tensor of numbers."""
        found = self.operands.get(slot)
        if found is not None:
            return found
        value = self._slots[slot]
        if not _is_numeric(value):
            return None
        fixed = self.plan.template[slot] is not None and slot not in self._overridable
        constant = value if fixed else None
        self.operands[slot] = made = Operand(value.shape, value.dtype, name, constant)
        if not fixed:
            self.inputs.append(slot)
        return made


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
    return sorted(record._made & later)
