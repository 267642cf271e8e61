"""The short way on a card: inputs as they were last time, straight into the one program of a model.

A card may compute a token in less time than Python takes to look at fifty tensors twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np

from ..dtypes import DType
from ..gpu import DeviceTensor, fetched
from ..limits import Budget, Limits
from ..plan import Plan
from ..plan.specialize import DeviceProgram, RefusedError, decides


@dataclass(frozen=True, slots=True)
class DeviceShortcut:
    """A whole model for one signature.

    Attributes:
        inputs: (name, shape, dtype) of every input that a caller must give.
        chosen: positions of those that the program reads, in its order.
        order: positions of the model's outputs among the program's.
        steps: how many nodes the program stands for.
    """

    program: DeviceProgram
    inputs: tuple[tuple[str, tuple[int, ...], DType], ...]
    chosen: tuple[int, ...]
    order: tuple[int, ...]
    steps: int
    limits: Limits

    def run(self, feeds: Any) -> list[Any] | None:
        """Return the model's outputs, or None where the long way has to look at what came."""
        if type(feeds) is not dict or len(feeds) != len(self.inputs):
            return None
        device = self.program.device
        found: list[Any] = []
        stay = False
        for name, shape, dtype in self.inputs:
            x = feeds.get(name)
            if type(x) is not np.ndarray:
                x = device.adopt(x)
                stay = True
            if x is None or x.shape != shape or x.dtype != dtype:
                return None
            found.append(x)
        budget = Budget(self.limits)
        budget.step(self.steps)
        try:
            outputs = self.program.run([found[i] for i in self.chosen], budget, _no_reference)
        except RefusedError:
            return None
        if stay:
            return [device.export(outputs[i]) for i in self.order]
        return list(fetched([outputs[i] for i in self.order]))


def _no_reference(*_: Any) -> NoReturn:
    raise AssertionError("a program with steps of the reference has no shortcut")


def find_device_shortcut(plan: Plan, inputs: Sequence[Any], limits: Limits) -> DeviceShortcut | None:
    """Return the shortcut for inputs like these, None where the model needs the long way."""
    if plan.regions is None or len(inputs) != len(plan.input_names):
        return None
    if not all(isinstance(x, (np.ndarray, DeviceTensor)) for x in inputs):
        return None
    region = plan.regions.shortcut(inputs)
    if region is None or not isinstance(region.program, DeviceProgram):
        return None
    if region.end < len(plan.regions.plan.steps):
        return None
    slots = plan.input_slots
    if any(plan.template[slot] is not None for slot in slots):
        return None  # an input with a default may be left out
    if any(slot in plan.regions.deciding and decides(x) for slot, x in zip(slots, inputs, strict=True)):
        return None
    places = {slot: i for i, slot in enumerate(slots)}
    made = region.outputs
    if not set(region.inputs) <= set(places) or not set(plan.output_slots) <= set(made):
        return None
    if len(set(plan.output_slots)) < len(plan.output_slots):
        return None
    return DeviceShortcut(
        region.program,
        tuple((name, x.shape, x.dtype) for name, x in zip(plan.input_names, inputs, strict=True)),
        tuple(places[slot] for slot in region.inputs),
        tuple(made.index(slot) for slot in plan.output_slots),
        region.end - region.record.begin,
        limits,
    )
