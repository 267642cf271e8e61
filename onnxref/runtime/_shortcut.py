"""The short way for small models: inputs as they were last time, straight into the native program.

Everything that the long way checks has the same answer for inputs of the same names, shapes and types;
so it is checked once, when the shortcut is made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..dtypes import DType
from ..limits import Limits
from ..plan import Plan, Step
from ..plan.specialize import Program, RefusedError, decides

# Longer programs look at the clock and give an account of their memory.
_LONGEST = 20e6  # nanoseconds of estimated work
_LARGEST = 64 << 20  # bytes


@dataclass(frozen=True, slots=True)
class Shortcut:
    """A whole model for one signature.

    Attributes:
        inputs: (name, shape, dtype, value) of every input that a caller must give; the value is None but for
            those few that decide what is computed.
        chosen: positions of those that the program reads, in its order; None: all of them, in the same order.
        after: steps behind the program, with the positions of their inputs among the outputs so far, which
            each adds its own to.
        order: all these outputs in the order of the model's; None: they are in that order.
    """

    program: Program
    inputs: tuple[tuple[str, tuple[int, ...], DType, bytes | None], ...]
    chosen: tuple[int, ...] | None
    after: tuple[tuple[Step, tuple[int, ...]], ...]
    order: tuple[int, ...] | None

    def run(self, feeds: Any) -> list[Any] | None:
        """Return the model's outputs, or None where the long way has to look at what came."""
        if type(feeds) is not dict or len(feeds) != len(self.inputs):
            return None
        found = []
        for name, shape, dtype, value in self.inputs:
            x = feeds.get(name)
            if type(x) is not np.ndarray or x.shape != shape or x.dtype != dtype:
                return None
            if value is not None and x.tobytes() != value:
                return None
            found.append(x)
        try:
            outputs: list[Any] = self.program.call(
                found if self.chosen is None else [found[i] for i in self.chosen]
            )
        except RefusedError:
            return None
        for step, positions in self.after:
            outputs.append(step.kernel(*[outputs[i] for i in positions], **step.arguments))
        return outputs if self.order is None else [outputs[i] for i in self.order]


def find_shortcut(plan: Plan, inputs: Sequence[Any], limits: Limits) -> Shortcut | None:
    """Return the shortcut for inputs like these, None where the model needs the long way."""
    if plan.regions is None or len(inputs) != len(plan.input_names):
        return None
    if not all(isinstance(x, np.ndarray) for x in inputs):
        return None
    region = plan.regions.shortcut(inputs)
    if region is None or not isinstance(region.program, Program):
        return None
    after = plan.regions.plan.steps[region.end :]
    if not _is_light(region.program, after, limits):
        return None
    if any(plan.template[slot] is not None for slot in plan.input_slots):
        return None  # an input with a default may be left out
    places = {slot: i for i, slot in enumerate(plan.input_slots)}
    if any(slot not in places for slot in region.inputs):
        return None
    made = [*region.outputs, *(step.outputs[0] for step in after)]
    if len(set(plan.output_slots)) < len(plan.output_slots) or not set(plan.output_slots) <= set(made):
        return None
    chosen = tuple(places[slot] for slot in region.inputs)
    types = (
        (name, x.shape, x.dtype, x.tobytes() if slot in plan.regions.deciding and decides(x) else None)
        for name, slot, x in zip(plan.input_names, plan.input_slots, inputs, strict=True)
    )
    order = tuple(made.index(slot) for slot in plan.output_slots)
    return Shortcut(
        region.program,
        tuple(types),
        None if chosen == tuple(range(len(inputs))) else chosen,
        tuple((step, tuple(map(made.index, step.inputs))) for step in after),
        None if order == tuple(range(len(made))) else order,
    )


def _is_light(program: Program, after: Sequence[Step], limits: Limits) -> bool:
    """Whether no run of a program, and of the steps after it, can come near a limit."""
    elements = sum(y.size for y in program.outputs)
    longest = max((len(name) for step in after for name in step.node.attributes.get("names", ())), default=0)
    # An object takes some 100 bytes, a character 4 at most.
    objects = elements * len(after) * (100 + 4 * longest)
    used = program.arena_bytes + sum(y.nbytes for y in program.outputs) + objects
    bounds = (_LARGEST, limits.tensor_bytes, limits.live_bytes, limits.total_bytes, limits.string_bytes)
    if any(bound is not None and used > bound for bound in bounds):
        return False
    if after and limits.sequence_length is not None and elements > limits.sequence_length:
        return False
    if limits.executed_nodes is not None and len(program.lowered) + len(after) > limits.executed_nodes:
        return False
    return program.work <= _LONGEST and (limits.seconds is None or program.work <= limits.seconds * 1e8)
