"""The short way for small models: inputs as they were last time, straight into the native program.

Everything that the long way checks has the same answer for inputs of the same names, shapes and types;
so it is checked once, when the shortcut is made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..dtypes import Array, DType
from ..limits import Limits
from ..plan import Plan
from ..plan.specialize import Program, RefusedError

# Longer programs look at the clock and give an account of their memory.
_LONGEST = 20e6  # nanoseconds of estimated work
_LARGEST = 64 << 20  # bytes


@dataclass(frozen=True, slots=True)
class Shortcut:
    """A whole model for one signature.

    Attributes:
        inputs: (name, shape, dtype) of every input that a caller must give.
        chosen: positions of those that the program reads, in its order; None: all of them, in the same order.
        order: the program's outputs in the order of the model's; None: they are in that order.
    """

    program: Program
    inputs: tuple[tuple[str, tuple[int, ...], DType], ...]
    chosen: tuple[int, ...] | None
    order: tuple[int, ...] | None

    def run(self, feeds: Any) -> list[Array] | None:
        """Return the model's outputs, or None where the long way has to look at what came."""
        if type(feeds) is not dict or len(feeds) != len(self.inputs):
            return None
        found = []
        for name, shape, dtype in self.inputs:
            x = feeds.get(name)
            if type(x) is not np.ndarray or x.shape != shape or x.dtype != dtype:
                return None
            found.append(x)
        try:
            outputs = self.program.call(found if self.chosen is None else [found[i] for i in self.chosen])
        except RefusedError:
            return None
        return outputs if self.order is None else [outputs[i] for i in self.order]


def find_shortcut(plan: Plan, inputs: Sequence[Any], limits: Limits) -> Shortcut | None:
    """Return the shortcut for inputs like these, None where the model needs the long way."""
    region = plan.regions.shortcut() if plan.regions is not None else None
    if region is None or not isinstance(region.program, Program) or not _is_light(region.program, limits):
        return None
    if len(inputs) != len(plan.input_names) or not all(isinstance(x, np.ndarray) for x in inputs):
        return None
    if any(plan.template[slot] is not None for slot in plan.input_slots):
        return None  # an input with a default may be left out
    places = {slot: i for i, slot in enumerate(plan.input_slots)}
    if any(slot not in places for slot in region.inputs):
        return None
    if len(set(plan.output_slots)) < len(plan.output_slots) or not set(plan.output_slots) <= set(
        region.outputs
    ):
        return None
    expected = [x.shape for x in region.program.inputs]
    chosen = tuple(places[slot] for slot in region.inputs)
    if [inputs[i].shape for i in chosen] != expected:
        return None  # another thread's run came in between
    types = ((n, x.shape, x.dtype) for n, x in zip(plan.input_names, inputs, strict=True))
    order = tuple(region.outputs.index(slot) for slot in plan.output_slots)
    return Shortcut(
        region.program,
        tuple(types),
        None if chosen == tuple(range(len(inputs))) else chosen,
        None if order == tuple(range(len(region.outputs))) else order,
    )


def _is_light(program: Program, limits: Limits) -> bool:
    """Whether no run of a program can come near a limit."""
    used = program.arena_bytes + sum(y.nbytes for y in program.outputs)
    bounds = (_LARGEST, limits.tensor_bytes, limits.live_bytes, limits.total_bytes)
    if any(bound is not None and used > bound for bound in bounds):
        return False
    if limits.executed_nodes is not None and len(program.lowered) > limits.executed_nodes:
        return False
    return program.work <= _LONGEST and (limits.seconds is None or program.work <= limits.seconds * 1e8)
