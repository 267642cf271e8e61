"""Where a model loses accuracy: its run accompanied by float64, node by node.

For every node there are three results: the actual one in the model's types, the one in float64 from the
actual inputs, and the one in float64 from float64 inputs, the *shadow*. The first two differ by the node's
*own* error, the last two by what it *inherited*, the first and the last by the *total*. Errors are in units
of the model's own type, see `Rounding`.

The *condition* of a node is the relative change of its output over a small relative change of its inputs: how
much larger inherited errors leave it than they came.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from ..dtypes import Array, tensor_type_string
from ..limits import DEFAULT, Limits
from ..runtime import Execution
from ._errors_between import Rounding, rounding_between
from ._html import html_table
from ._runners import OnnxRefRunner, bound_feeds
from ._shadow import RANDOM, Shadows, WideNodes, is_float, narrowed, widened
from ._stats import json_number, short

_CHANGE = 2.0**-20  # of the inputs, relative, to estimate the condition

Ranking = Literal["own", "total", "condition"]


@dataclass(frozen=True, slots=True)
class NodePrecision:
    """The accuracy of one executed node.

    Attributes:
        path: scope and name of the node.
        output: the output with the largest own error.
        dtype: type of that output.
        own: error that the node itself made; None where it does not run in float64.
        inherited: change of its output that the errors of its inputs make.
        total: distance of the actual output from the shadow.
        condition: estimated factor from relative input to relative output errors; None where nothing that
            it computes from is a float, or where it was not asked for.
        flips: elements of integer and boolean outputs that the shadow would decide otherwise.
        note: why an error is missing.
    """

    path: str
    op_type: str
    output: str = ""
    dtype: str = ""
    own: Rounding | None = None
    inherited: Rounding | None = None
    total: Rounding | None = None
    condition: float | None = None
    flips: int = 0
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return the accuracy as plain data for `json.dumps`."""
        parts = {"own": self.own, "inherited": self.inherited, "total": self.total}
        return {
            "node": self.path,
            "op_type": self.op_type,
            "output": self.output,
            "type": self.dtype,
            **{name: None if part is None else part.to_json() for name, part in parts.items()},
            "condition": json_number(self.condition),
            "flips": self.flips,
            "note": self.note,
        }

    def cells(self) -> list[str]:
        """Return the cells of a table's row, see `COLUMNS`."""
        return [
            self.path,
            self.op_type,
            self.dtype,
            _ulp(self.own),
            _ulp(self.inherited),
            _ulp(self.total),
            "" if self.total is None else short(self.total.snr),
            short(self.condition),
            self.note or (f"{self.flips} decided otherwise" if self.flips else ""),
        ]

    def __str__(self) -> str:
        text = f"{self.path} ({self.op_type}): own {_ulp(self.own) or '?'} ulp"
        text += f", inherited {_ulp(self.inherited) or '?'} ulp, total {_ulp(self.total) or '?'} ulp"
        if self.condition is not None:
            text += f", condition {short(self.condition)}"
        return f"{text} ({self.note})" if self.note else text


COLUMNS = (
    "node",
    "operator",
    "type",
    "own (ulp)",
    "inherited (ulp)",
    "total (ulp)",
    "SNR (dB)",
    "condition",
    "note",
)


def _ulp(part: Rounding | None) -> str:
    return "" if part is None else short(part.ulp)


@dataclass(frozen=True, slots=True)
class PrecisionReport:
    """The accuracy of every executed node, in the order of execution.

    Attributes:
        outputs: the total error of the model's outputs that are floats.
    """

    nodes: tuple[NodePrecision, ...]
    outputs: dict[str, Rounding] = field(default_factory=dict)

    def worst(self, count: int = 10, by: Ranking = "own") -> list[NodePrecision]:
        """Return the nodes with the largest own error, total error or condition, the worst first."""
        measure: Callable[[NodePrecision], float] = {
            "own": lambda node: _size(node.own),
            "total": lambda node: _size(node.total),
            "condition": lambda node: -1.0 if node.condition is None else node.condition,
        }[by]
        ranked = sorted(self.nodes, key=measure, reverse=True)
        return [node for node in ranked if measure(node) >= 0][:count]

    def above(self, ulp: float) -> list[NodePrecision]:
        """Return the nodes whose own error is larger."""
        return [node for node in self.nodes if node.own is not None and node.own.ulp > ulp]

    def to_json(self) -> dict[str, Any]:
        """Return the report as plain data for `json.dumps`."""
        return {
            "outputs": {name: found.to_json() for name, found in self.outputs.items()},
            "nodes": [node.to_json() for node in self.nodes],
        }

    @property
    def title(self) -> str:
        """The accuracy of the outputs, in a line."""
        found = [f"{name} {short(r.ulp)} ulp ({short(r.snr)} dB)" for name, r in self.outputs.items()]
        return f"{len(self.nodes)} nodes; outputs against float64: {', '.join(found) or 'no floats'}"

    def __str__(self) -> str:
        return "\n".join([self.title, *map(str, self.worst())])

    def _repr_html_(self) -> str:
        rows = [node.cells() for node in self.worst(len(self.nodes))]
        return html_table(rows, COLUMNS, title=self.title)


def _size(part: Rounding | None) -> float:
    return -1.0 if part is None else part.ulp


def precision(
    model: Any,
    feeds: Any = None,
    *,
    condition: bool = True,
    seed: int = 0,
    limits: Limits = DEFAULT,
) -> PrecisionReport:
    """Run a model in its own types with float64 beside it, and return the error of every node.

    Args:
        model: in any form that `onnxref.run` takes.
        feeds: its inputs, as for `onnxref.run`; they count as exact.
        condition: estimate the condition of every node, which takes one run of it more.
        seed: of the perturbation.

    Raises:
        ModelError, InputError: the model or the feeds are wrong.
    """
    runner = OnnxRefRunner(model, limits=limits)
    bound = bound_feeds(runner.model.graph, feeds)
    watch = _Watch(runner, condition=condition, seed=seed, limits=limits)
    names = {value.name for value in runner.model.graph.outputs}
    nodes: list[NodePrecision] = []
    outputs: dict[str, Rounding] = {}
    for execution in runner.executions(bound):
        nodes.append(watch.judge(execution))
        if not execution.scope:
            for name, value in zip(execution.node.outputs, execution.outputs, strict=False):
                if name in names and is_float(value):
                    outputs[name] = rounding_between(watch.shadow_of(value), value)
    return PrecisionReport(tuple(nodes), outputs)


class _Watch:
    """Accompanies one run."""

    def __init__(self, runner: OnnxRefRunner, *, condition: bool, seed: int, limits: Limits) -> None:
        self.wide = WideNodes(runner.model, limits)
        self.shadows = Shadows()
        self.condition = condition
        self.rng = np.random.default_rng(seed)
        self.given = {value.name for value in runner.model.graph.inputs}

    def shadow_of(self, value: Any) -> Any:
        """Return the shadow of a value; the value itself in float64 where it has none."""
        if isinstance(value, list):
            return [self.shadow_of(item) for item in value]
        if not is_float(value):
            return value
        found = self.shadows.get(value)
        return value.astype(np.float64) if found is None else found

    def judge(self, execution: Execution) -> NodePrecision:
        """Measure one executed node, and note the shadows of its outputs."""
        node, path = execution.node, execution.path
        if not self.wide.can_run(node):
            # What it hands on from its body has its shadows from there.
            return self._handed_on(execution)
        exact = [widened(value) for value in execution.inputs]
        shadow = [self.shadow_of(value) for value in execution.inputs]
        moved = any(is_float(v) and self.shadows.get(v) is not None for v in execution.inputs)
        own = self.wide.run(node, exact)
        note = ""
        if own is None:
            note = "not in float64 by its schema"
            total = self._run_narrow(execution, shadow)
        else:
            total = (self.wide.run(node, shadow) if moved else own) or own
        measured = self._measure(execution, own, total)
        for value, wide in zip(execution.outputs, total, strict=False):
            self._note_shadow(value, wide)
        condition = self._condition(execution, exact, own) if self.condition and own is not None else None
        return NodePrecision(path, node.op_type, condition=condition, note=note, **measured)

    def _handed_on(self, execution: Execution) -> NodePrecision:
        measured = self._measure(execution, None, [self.shadow_of(value) for value in execution.outputs])
        is_random = execution.node.op_type in RANDOM
        note = "draws random numbers" if is_random else "made by the nodes inside"
        return NodePrecision(execution.path, execution.node.op_type, note=note, **measured)

    def _run_narrow(self, execution: Execution, shadow: list[Any]) -> list[Any]:
        """Run a node that has no float64 in its own types, on the shadows rounded to them."""
        values = self.wide.run(execution.node, narrowed(shadow, execution.inputs))
        return [widened(value) for value in (values if values is not None else execution.outputs)]

    def _measure(self, execution: Execution, own: list[Any] | None, total: Sequence[Any]) -> dict[str, Any]:
        """Return the errors of the worst output, and how many decisions differ."""
        worst: dict[str, Any] = {}
        flips = 0
        for i, (name, value) in enumerate(zip(execution.node.outputs, execution.outputs, strict=False)):
            wide = total[i] if i < len(total) else None
            if not name or not isinstance(value, np.ndarray) or not isinstance(wide, np.ndarray):
                continue
            if value.shape != wide.shape:
                continue
            if not is_float(value):
                flips += int(np.count_nonzero(value != wide)) if value.dtype.kind in "iub" else 0
                continue
            exact = None if own is None else own[i]
            parts = _parts(value, exact, wide)
            if not worst or _size(parts["own"] or parts["total"]) > _size(worst["own"] or worst["total"]):
                worst = {"output": execution.scope + name, "dtype": tensor_type_string(value.dtype), **parts}
        return {**worst, "flips": flips}

    def _note_shadow(self, value: Any, wide: Any) -> None:
        if isinstance(value, list) and isinstance(wide, list):
            for one, other in zip(value, wide, strict=False):
                self._note_shadow(one, other)
        elif is_float(value) and is_float(wide) and value.shape == wide.shape and value.size:
            self.shadows.put(value, wide)

    def _condition(self, execution: Execution, exact: list[Any], own: list[Any]) -> float | None:
        changed = list(exact)
        found = False
        for i, (name, value) in enumerate(zip(execution.node.inputs, execution.inputs, strict=False)):
            is_given = not execution.scope and name in self.given
            if is_float(value) and value.size and (is_given or self.shadows.get(value) is not None):
                signs = self.rng.integers(0, 2, size=value.shape) * 2 - 1
                changed[i] = exact[i] * (1 + _CHANGE * signs)
                found = True
        after = self.wide.run(execution.node, changed) if found else None
        if after is None:
            return None
        pairs = [(a, b) for a, b in zip(own, after, strict=True) if is_float(a) and is_float(b)]
        sizes = [size for a, b in pairs if (size := _relative_change(a, b)) is not None]
        return max(sizes) / _CHANGE if sizes else None


def _parts(value: Array, exact: Array | None, shadow: Array) -> dict[str, Rounding | None]:
    return {
        "own": None if exact is None else rounding_between(exact, value),
        "inherited": None if exact is None else rounding_between(shadow, exact, value.dtype),
        "total": rounding_between(shadow, value),
    }


def _relative_change(before: Array, after: Array) -> float | None:
    """Return the length of the change over the length; None where neither can be told."""
    if before.shape != after.shape:
        return None
    with np.errstate(all="ignore"):
        usable = np.isfinite(before) & np.isfinite(after)
        scale = float(np.max(np.abs(before[usable]), initial=0.0))
        if not scale:
            return None
        length = float(np.linalg.norm((before[usable] / scale).reshape(-1)))
        change = float(np.linalg.norm(((after[usable] - before[usable]) / scale).reshape(-1)))
    return change / length if math.isfinite(change) and length else None
