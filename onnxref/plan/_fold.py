"""Constant folding: a step whose inputs are all constants runs once, while planning.

Rules
    1. Only operators without subgraphs, randomness or other context are folded, and none of the
       user's own, which may have side effects.
    2. All folded values of a model together stay below `FOLDED_BYTES` and the caller's limits, so that
       a small file cannot grow into a large plan; what would not fit is left for the run. So is
       what comes after `FOLDING_SECONDS`, because loading has no other limit on its time.
    3. A step that fails is left in place: it may stand in a branch that no run takes. If a run does
       get there, it fails again, and then its error is shown.
    4. The DequantizeLinear of 8-bit weights stays where native code may want the integers, which are a
       quarter of the size: where only products read it whose other side is dequantized too. It counts as
       folded, because a pass folds what no other one takes (`passes/weights.py`). It runs right before
       its reader, so that a run on the reference holds few such weights as floats.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from ..graph import Node
from ..limits import MIB, Limits
from ._steps import Step, read_only

FOLDED_BYTES = 256 * MIB
FOLDING_SECONDS = 5.0

_PRODUCTS = ("Conv", "Gemm", "MatMul")
_FLOAT_BYTES = 4  # of what DequantizeLinear makes of a byte, at most

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

    def defer(self, step: Step, inputs: list[Any]) -> bool:
        """Leave a step of rule 4 to the passes, if what it makes may be folded at all."""
        size = inputs[0].nbytes * _FLOAT_BYTES
        if size > self._left:
            return False
        self._left -= size
        step.deferred = True
        return True


def feeds_products(node: Node, readers: Collection[Node], makers: Mapping[str, Node]) -> bool:
    """Whether a node is a DequantizeLinear of which only products of dequantized tensors make use.

    Args:
        readers: the nodes that read its output.
        makers: the nodes of the graph by the names of their outputs.
    """
    return (
        _is_dequantization(node)
        and bool(readers)
        and all(
            reader.op_type in _PRODUCTS
            and not reader.domain
            and [i for i, name in enumerate(reader.inputs) if name == node.outputs[0]] == [1]
            and _is_dequantization(makers.get(reader.inputs[0]))
            for reader in readers
        )
    )


def _is_dequantization(node: Node | None) -> bool:
    return node is not None and node.op_type == "DequantizeLinear" and not node.domain


def is_foldable(step: Step) -> bool:
    """Whether rule 1 lets the step be folded, given that its inputs are constants."""
    return not (step.takes_context or step.bodies or step.user_defined)
