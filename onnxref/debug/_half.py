"""Which nodes would not survive float16: values and internal sums over its range, values under it."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np

from ..dtypes import Array
from ..graph import Node
from ..runtime import Execution
from ._causes import is_float, reduced_axes
from ._stats import HALF_LARGEST, ValueStatistics, json_number, short

LOSS = 2.0**-8
"""Relative error of a value as a whole, ||x - float16(x)|| / ||x||, from which on it counts as lost.

Rounding of normal numbers gives at most 2**-11.
"""
_MOST_REASONS = 4  # of one node, which may run many times
_CHUNK = 1 << 16

Rerun: TypeAlias = Callable[[Node, Sequence[Any]], Sequence[Any] | None]
_Misfit: TypeAlias = tuple[str, float | None]  # why a value does not fit, and its largest number


@dataclass(frozen=True, slots=True)
class KeptNode:
    """A node that should stay in float32.

    Attributes:
        path: where it is; the numbers of iterations are left out.
        name: as the model has it; `Op#position` where it has none.
        largest: the largest number that it meets, its sums included; None where small ones are the reason.
        reasons: one sentence each.
    """

    path: str
    name: str
    op_type: str
    largest: float | None
    reasons: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the node as plain data for `json.dumps`."""
        found: dict[str, Any] = {"path": self.path, "name": self.name, "op_type": self.op_type}
        return found | {"largest": json_number(self.largest), "reasons": list(self.reasons)}

    def __str__(self) -> str:
        return f"{self.path} ({self.op_type}): {'; '.join(self.reasons)}"


@dataclass(slots=True)
class _Found:
    """What is known of a node while the model runs."""

    node: Node
    largest: float | None = None
    reasons: dict[str, None] = field(default_factory=dict)

    def add(self, reason: str, largest: float | None) -> None:
        if len(self.reasons) < _MOST_REASONS:
            self.reasons[reason] = None
        if largest is not None:
            self.largest = max(largest, self.largest or 0.0)


class HalfWatcher:
    """Collects the nodes to keep in float32 while a model runs.

    Args:
        given: names of the values that no node computes: inputs, initializers and constants, at any depth.
        rerun: runs one node on other inputs; None where that fails.
    """

    def __init__(self, given: Collection[str], rerun: Rerun) -> None:
        self._rerun = rerun
        self._given = given
        self._nodes: dict[str, _Found] = {}
        # By path of a value: why it does not fit into float16 and its largest number; None where it fits.
        self._misfits: dict[str, _Misfit | None] = {}
        self._of_given: dict[tuple[str, int], _Misfit | None] = {}  # by name and place in memory

    def look(self, execution: Execution, outputs: Mapping[str, ValueStatistics]) -> None:
        """Take a node that has no body, with the statistics of its outputs by name."""
        node, scope = execution.node, execution.scope
        for name, value in zip(node.inputs, execution.inputs, strict=False):
            misfit = self._misfit_of_input(scope, name, value)
            if misfit is not None:
                self._add(execution, f"reads {name}, which {misfit[0]}", misfit[1])
        for name, value in zip(node.outputs, execution.outputs, strict=False):
            if name in outputs:
                misfit = describe_misfit(value, outputs[name])
                if misfit is not None or self._misfits.get(scope + name) is not None:
                    self._misfits[scope + name] = misfit
                if misfit is not None:
                    self._add(execution, f"makes {name}, which {misfit[0]}", misfit[1])
        bound = internal_sum(node, execution.inputs, self._rerun)
        if bound > HALF_LARGEST:
            self._add(execution, f"sums up to {short(bound)} inside", bound)

    def _misfit_of_input(self, scope: str, name: str, value: Any) -> _Misfit | None:
        if not name or not is_float(value):
            return None
        for outer in (scope, *_outer_scopes(scope)):
            if (known := self._misfits.get(outer + name)) is not None:
                return known
        if name not in self._given:
            return None
        key = name, value.__array_interface__["data"][0]
        if key not in self._of_given:
            self._of_given[key] = describe_misfit(value, ValueStatistics.of(value, histogram=False))
        return self._of_given[key]

    def _add(self, execution: Execution, reason: str, largest: float | None) -> None:
        path = static_path(execution.path)
        self._nodes.setdefault(path, _Found(execution.node)).add(reason, largest)

    def result(self) -> tuple[KeptNode, ...]:
        """Return the nodes in the order in which they were met."""
        return tuple(
            KeptNode(path, found.node.label, found.node.op_type, found.largest, tuple(found.reasons))
            for path, found in self._nodes.items()
        )


def static_path(path: str) -> str:
    """Return a path without the numbers of iterations: `loop/body/Add` for `loop[3]/body/Add`."""
    return re.sub(r"\[\d+\](?=/)", "", path)


def _outer_scopes(scope: str) -> list[str]:
    """Return what a scope may be inside of, as text: names may have slashes too."""
    ends = [i + 1 for i, char in enumerate(scope[:-1]) if char == "/"]
    return [scope[:end] for end in reversed(ends)] + [""] if scope else []


def describe_misfit(value: Any, statistics: ValueStatistics) -> _Misfit | None:
    """Return why a value does not fit into float16, and its largest number; None where it fits."""
    largest = statistics.largest
    if largest is None or not is_float(value) or value.dtype.kind == "c":
        return None
    if largest > HALF_LARGEST:
        return f"reaches {short(largest)}", largest
    if value.dtype == np.float16:
        return ("overflows", None) if statistics.inf else None
    if not statistics.below_half or (loss := half_loss(value)) <= LOSS:
        return None
    lost = f"{loss:.1%} of it as a whole" if loss < 1 else "all of it"
    return f"is so small (at most {short(largest)}) that float16 loses {lost}", None


def half_loss(value: Array) -> float:
    """Return ||x - float16(x)|| / ||x|| over the elements in float16's range."""
    lost = total = 0.0
    flat = value.reshape(-1)
    scale = float(np.abs(ValueStatistics.of(value, histogram=False).largest or 1.0))
    with np.errstate(all="ignore"):
        for start in range(0, flat.size, _CHUNK):
            wide = flat[start : start + _CHUNK].astype(np.float64)
            wide = wide[np.abs(wide) <= HALF_LARGEST]
            error = (wide - wide.astype(np.float16)) / scale
            wide /= scale
            lost += float(np.square(error, out=error).sum())
            total += float(np.square(wide, out=wide).sum())
    return float(np.sqrt(lost / total)) if total else 0.0


# Internal sums ------------------------------------------------------------------------------------


def internal_sum(node: Node, inputs: Sequence[Any], rerun: Rerun) -> float:
    """Return the largest sum of magnitudes that a node adds up inside; 0 where there is none worth a look.

    It bounds every partial sum, in whatever order a kernel adds. Known are products of matrices,
    convolutions, and reductions and normalisations, which add the elements themselves or their squares.
    """
    if node.domain or not inputs or not is_float(inputs[0]) or not inputs[0].size:
        return 0.0
    with np.errstate(all="ignore"):
        if node.op_type in ("MatMul", "Gemm", "Conv"):
            return _sum_of_products(node, inputs, rerun)
        if node.op_type in _SUMS or node.op_type in _SQUARES:
            return _sum_of_row(node, inputs)
    return 0.0


_SUMS = ("ReduceSum", "ReduceMean", "ReduceL1", "GlobalAveragePool")
_SQUARES = (
    "InstanceNormalization",
    "LayerNormalization",
    "LpNormalization",
    "MeanVarianceNormalization",
    "RMSNormalization",
    "ReduceL2",
    "ReduceSumSquare",
)


def _sum_of_products(node: Node, inputs: Sequence[Any], rerun: Rerun) -> float:
    x, w = inputs[0], inputs[1]
    if not w.size:
        return 0.0
    length = w[0].size if node.op_type == "Conv" else w.size / max(w.shape[-1 if _is_plain(node) else 0], 1)
    if _largest(x) * _largest(w) * length <= HALF_LARGEST:
        return 0.0  # by the shapes alone
    magnitudes = [_magnitude(value) if is_float(value) else value for value in inputs]
    if node.op_type == "Gemm" and len(magnitudes) > 2:
        magnitudes[2] = None  # C is added to the finished sum
    found = rerun(_without_bias(node), magnitudes[:2] if node.op_type != "MatMul" else magnitudes)
    return _largest(found[0]) if found else 0.0


def _is_plain(node: Node) -> bool:
    """Whether the last axis of a product's second factor stays in the result."""
    return node.op_type == "MatMul" or not node.attributes.get("transB", 0)


def _without_bias(node: Node) -> Node:
    attributes = {name: value for name, value in node.attributes.items() if name not in ("alpha", "beta")}
    return replace(node, inputs=node.inputs[:2], attributes=attributes)


def _sum_of_row(node: Node, inputs: Sequence[Any]) -> float:
    x = inputs[0]
    try:
        axes = reduced_axes(node, inputs)
    except (IndexError, KeyError):
        return 0.0
    squares = node.op_type in _SQUARES
    largest, length = _largest(x), int(np.prod([x.shape[axis] for axis in axes]))
    if length * (largest * largest if squares else largest) <= HALF_LARGEST:
        return 0.0
    wide = _magnitude(x)
    if squares:
        wide = np.square(wide, out=wide)
    return float(wide.sum(axis=axes, dtype=np.float64).max())


def _largest(value: Array) -> float:
    """Return the largest finite magnitude."""
    return ValueStatistics.of(value, histogram=False).largest or 0.0


def _magnitude(value: Array) -> Array:
    """Return |x| in float32 or wider; what is not finite counts as zero, since it is not a sum's fault."""
    wide = np.abs(value if value.dtype.kind == "f" and value.itemsize >= 4 else value.astype(np.float32))
    found: Array = np.nan_to_num(wide, copy=False, nan=0.0, posinf=0.0)
    return found
