"""Constant folding: a step whose inputs are all constants runs once, while planning.

Rules
    1. Only operators without subgraphs, randomness or other context are folded, and none of the
       user's own, which may have side effects.
    2. All folded values of a model together stay below `FOLDED_BYTES` and the caller's limits, so that
       a small file cannot grow into a large plan; what would not fit is left for the run. So is
       what comes after `FOLDING_SECONDS`, because loading has no other limit on its time.
    3. A step that fails is left in place: it may stand in a branch that no run takes. If a run does
       get there, it fails again, and then its error is shown.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from ..limits import MIB, Limits
from ._steps import Step, read_only

FOLDED_BYTES = 256 * MIB
FOLDING_SECONDS = 5.0

_TENSORS = (np.ndarray, np.generic)  # sequences are cheap to make, and may be shared and long


class Folder:
    """Folds the steps of one model's plans, counting what that takes."""

    def __init__(self, limits: Limits) -> None:
        bounds = (FOLDED_BYTES, limits.tensor_bytes, limits.live_bytes, limits.total_bytes)
        self._left = min(bound for bound in bounds if bound is not None)
        self._seconds_left = (
            FOLDING_SECONDS if limits.seconds is None else min(FOLDING_SECONDS, limits.seconds)
        )

    def fold(self, step: Step, inputs: list[Any]) -> list[Any] | None:
        """Return the step's outputs, or None where it must stay (rules 2 and 3)."""
        if self._seconds_left <= 0:
            return None
        started = time.monotonic()
        try:
            return self._computed(step, inputs)
        finally:
            self._seconds_left -= time.monotonic() - started

    def _computed(self, step: Step, inputs: list[Any]) -> list[Any] | None:
        try:
            if step.type_rule is not None:
                step.type_rule.check_values(inputs)
            if step.cost is not None and sum(step.cost(*inputs, **step.cost_arguments)) > self._left:
                return None
            with np.errstate(all="ignore"):
                result = step.kernel(*inputs, **step.arguments)
        except Exception:  # noqa: BLE001 - not swallowed: rule 3
            return None
        outputs = result if isinstance(result, tuple) else (result,)
        if len(outputs) < len(step.node.outputs) or not all(isinstance(y, _TENSORS) for y in outputs):
            return None
        arrays = [np.asarray(y) for y in outputs]
        if any(y.dtype == np.object_ for y in arrays):
            return None  # strings are charged by their length, which only a run does
        size = sum(y.nbytes for y in arrays)
        if size > self._left:
            return None
        self._left -= size
        return [read_only(y) for y in arrays]


def is_foldable(step: Step) -> bool:
    """Whether rule 1 lets the step be folded, given that its inputs are constants."""
    return not (step.takes_context or step.bodies or step.user_defined)
