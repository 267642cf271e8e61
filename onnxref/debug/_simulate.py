"""What if some nodes ran in fewer bits: their inputs and outputs rounded through a narrow type.

The nodes themselves are computed in the model's own types, as hardware with wide accumulators does.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import ml_dtypes
import numpy as np

from ..dtypes import Array
from ..errors import InputError
from ..graph import Graph, Model, Node, subgraphs
from ..limits import DEFAULT, Limits
from ..model import load_model
from ..registry import register_op
from ._align import Alignment
from ._compare import Work
from ._comparison import NodeComparison, ValueComparison
from ._errors_between import Errors, Tolerance, errors_between
from ._html import html_table
from ._pieces import made_values
from ._runners import MEMORY, OnnxRefRunner, bound_feeds
from ._select import Patterns, Selection
from ._shadow import is_float
from ._stats import short

_DOMAIN = "onnxref.debug"
_ITERATION = re.compile(r"\[\d+\]/")  # of a loop, in a path


def _through(dtype: Any, value: Array) -> Array:
    with np.errstate(all="ignore"):
        return value.astype(dtype).astype(value.dtype)


def _through_saturating(dtype: Any, value: Array) -> Array:
    largest = float(ml_dtypes.finfo(dtype).max)  # type: ignore[no-untyped-call]
    return _through(dtype, np.where(np.isfinite(value), np.clip(value, -largest, largest), value))


def _through_int8(value: Array) -> Array:
    """Symmetric, one scale for the whole tensor, so that its largest magnitude is 127."""
    finite = value[np.isfinite(value)]
    scale = float(np.max(np.abs(finite), initial=0.0)) / 127
    if not scale:
        return value
    return np.asarray(np.clip(np.rint(value / scale), -127, 127) * scale, dtype=value.dtype)


KINDS: Mapping[str, Callable[[Array], Array]] = {
    "fp16": lambda value: _through(np.float16, value),
    "bf16": lambda value: _through(ml_dtypes.bfloat16, value),
    "e4m3": lambda value: _through_saturating(ml_dtypes.float8_e4m3fn, value),
    "e5m2": lambda value: _through_saturating(ml_dtypes.float8_e5m2, value),
    "int8": _through_int8,
}
"""How a value is rounded: fp16 and bf16 overflow to infinity, float8 saturates as ONNX's Cast does."""

_ALIASES = {"float16": "fp16", "bfloat16": "bf16", "fp8": "e4m3", "fp8_e4m3": "e4m3", "fp8_e5m2": "e5m2"}


def _kind(name: str) -> str:
    found = _ALIASES.get(name, name)
    if found not in KINDS:
        raise InputError(f"there is no simulation of {name!r}; choose from {', '.join(KINDS)}")
    return found


def _register() -> None:
    @register_op("Round", domain=_DOMAIN)
    def round_through(value: Any, *, to: str) -> Any:
        return KINDS[to](value) if is_float(value) else value


def simulate(model: Model, kind: str, selection: Selection) -> tuple[Model, list[str]]:
    """Return a model in which chosen nodes see and give rounded values, and the paths of those nodes.

    Args:
        kind: one of `KINDS`.
        selection: which nodes, in subgraphs too; the calls of a function count as nodes.

    Raises:
        InputError: there is no such kind.
    """
    _register()
    maker = _Editor(_kind(kind), selection)
    graph = maker.graph(model.graph, "")
    imports = {**model.opset_imports, _DOMAIN: 1}
    return replace(model, graph=graph, opset_imports=imports), maker.chosen


class _Editor:
    def __init__(self, kind: str, selection: Selection) -> None:
        self.kind = kind
        self.selection = selection
        self.chosen: list[str] = []
        self.numbers = itertools.count()

    def graph(self, graph: Graph, scope: str) -> Graph:
        nodes = [made for node in graph.nodes for made in self.node(node, scope)]
        return replace(graph, nodes=tuple(nodes))

    def node(self, node: Node, scope: str) -> Iterator[Node]:
        label = node.label
        if inner := subgraphs(node):
            edited = {name: self.graph(graph, f"{scope}{label}/{name}/") for name, graph in inner.items()}
            yield replace(node, attributes={**node.attributes, **edited})
            return
        is_constant = node.op_type == "Constant" and not node.domain
        if is_constant or not self.selection.wants_node(scope, node):
            yield node
            return
        self.chosen.append(scope + label)
        inputs = []
        for name in node.inputs:
            rounded = self.fresh(name) if name else ""
            inputs.append(rounded)
            if name:
                yield self.rounding(name, rounded)
        outputs = tuple(self.fresh(name) if name else "" for name in node.outputs)
        # It keeps the label that it has by its position.
        yield replace(node, name=label, inputs=tuple(inputs), outputs=outputs)
        for exact, name in zip(outputs, node.outputs, strict=True):
            if name:
                yield self.rounding(exact, name)

    def fresh(self, name: str) -> str:
        return f"{name}:{self.kind}:{next(self.numbers)}"

    def rounding(self, name: str, rounded: str) -> Node:
        return Node("Round", (name,), (rounded,), {"to": self.kind}, domain=_DOMAIN, opset=1)


@dataclass(frozen=True, slots=True)
class SimulatedNode:
    """The effect of a simulation on one node of the main graph.

    Attributes:
        chosen: whether the node was simulated.
        own: change of its output by rounding its own inputs and output; None where it was not simulated.
        total: change of its output in the whole run.
        alone: change of the model's outputs if only this node is simulated; None unless asked for.
    """

    path: str
    op_type: str
    chosen: bool
    own: Errors | None = None
    total: Errors | None = None
    alone: Errors | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the effect as plain data for `json.dumps`."""
        parts = {"own": self.own, "total": self.total, "alone": self.alone}
        return {
            "node": self.path,
            "op_type": self.op_type,
            "chosen": self.chosen,
            **{name: None if part is None else part.to_json() for name, part in parts.items()},
        }

    def cells(self) -> list[str]:
        """Return the cells of a table's row, see `WHAT_IF_COLUMNS`."""
        shown = ["" if part is None else short(part.snr) for part in (self.own, self.total, self.alone)]
        return [self.path, self.op_type, "yes" if self.chosen else "", *shown, _odd(self.total)]


WHAT_IF_COLUMNS = (
    "node",
    "operator",
    "simulated",
    "own SNR",
    "total SNR",
    "alone: SNR of outputs",
    "largest error",
)


def _odd(errors: Errors | None) -> str:
    if errors is None or errors.where is None:
        return ""
    return f"{short(errors.value)} instead of {short(errors.golden)}"


@dataclass(frozen=True, slots=True)
class WhatIf:
    """What a model would make of fewer bits.

    Attributes:
        kind: the simulated type.
        chosen: paths of the nodes that were simulated.
        nodes: those of the main graph, in the order of execution.
        outputs: change of the model's outputs by name.
    """

    kind: str
    chosen: tuple[str, ...]
    nodes: tuple[SimulatedNode, ...]
    outputs: Mapping[str, Errors]

    def worst(self, count: int = 10) -> list[SimulatedNode]:
        """Return the simulated nodes that cost most: alone, where that was measured, else by themselves."""

        def snr(node: SimulatedNode) -> float:
            part = node.alone or node.own
            return float("inf") if part is None else part.snr

        return sorted((node for node in self.nodes if node.chosen), key=snr)[:count]

    @property
    def snr(self) -> float:
        """The signal-to-noise ratio of the worst output, in dB."""
        return min((errors.snr for errors in self.outputs.values()), default=float("inf"))

    def to_json(self) -> dict[str, Any]:
        """Return the result as plain data for `json.dumps`."""
        return {
            "kind": self.kind,
            "chosen": list(self.chosen),
            "outputs": {name: errors.to_json() for name, errors in self.outputs.items()},
            "nodes": [node.to_json() for node in self.nodes],
        }

    @property
    def title(self) -> str:
        """The change of the outputs, in a line."""
        found = [f"{name} {short(errors.snr)} dB" for name, errors in self.outputs.items()]
        return f"{len(self.chosen)} nodes in {self.kind}; outputs: {', '.join(found)}"

    def __str__(self) -> str:
        lines = [f"{n.path} ({n.op_type}): own {n.own or '?'}" for n in self.worst()]
        return "\n".join([self.title, *lines])

    def _repr_html_(self) -> str:
        return html_table([node.cells() for node in self.nodes], WHAT_IF_COLUMNS, title=self.title)


def what_if(
    model: Any,
    feeds: Any = None,
    kind: str = "fp16",
    *,
    nodes: Patterns = None,
    op_types: Patterns = None,
    each: bool = False,
    memory: int = MEMORY,
    limits: Limits = DEFAULT,
) -> WhatIf:
    """Return what changes if chosen nodes run on values rounded to a narrow type.

    Args:
        model: in any form that `onnxref.run` takes.
        feeds: its inputs, as for `onnxref.run`.
        kind: "fp16", "bf16", "e4m3", "e5m2" (float8) or "int8" (symmetric, one scale for each tensor).
        nodes: patterns for paths or names of nodes; None simulates all.
        op_types: patterns for operator types.
        each: also simulate every chosen node alone, which takes one run for each.
        memory: bytes of values to hold at a time.

    Raises:
        InputError: there is no such kind.
        OutputError: no node is chosen.
    """
    loaded = load_model(model, limits)
    selection = Selection.of(nodes=nodes, op_types=op_types)
    edited, chosen = simulate(loaded, kind, selection)
    if not chosen:
        selection.nothing_found(loaded)
    feeds = bound_feeds(loaded.graph, feeds)
    golden, other = OnnxRefRunner(loaded, limits=limits), OnnxRefRunner(edited, limits=limits)
    names = [value.name for value in loaded.graph.outputs if value.name]
    exact = golden.session.run_named(names, feeds)
    rounded = other.session.run_named(names, feeds)
    found = []
    simulated = set(chosen)
    for node in _compared(loaded, golden, other, feeds, _Rounder(golden, selection, _kind(kind)), memory):
        path = _ITERATION.sub("/", node.path)
        worst = min(node.outputs, key=_snr, default=ValueComparison(""))
        own = worst.local if path in simulated else None
        alone = None
        if each and path in simulated:
            alone = _alone(loaded, path, kind, feeds, names, exact, limits)
        found.append(SimulatedNode(node.path, node.op_type, path in simulated, own, worst.cumulative, alone))
    outputs = {name: errors_between(exact[name], rounded[name]) for name in names}
    return WhatIf(_kind(kind), tuple(chosen), tuple(found), outputs)


def _snr(value: ValueComparison) -> float:
    return float("inf") if value.cumulative is None else value.cumulative.snr


@dataclass(frozen=True, slots=True)
class _Rounder:
    """Runs nodes of subgraphs one by one, the chosen ones on rounded values."""

    runner: OnnxRefRunner
    selection: Selection
    kind: str

    def __call__(self, node: Node, inputs: Sequence[Any]) -> list[Any]:
        if not self.selection.wants_node("", node):
            return self.runner.run_node(node, inputs)
        values = self.runner.run_node(node, [self.rounded(value) for value in inputs])
        return [self.rounded(value) for value in values]

    def rounded(self, value: Any) -> Any:
        return KINDS[self.kind](value) if is_float(value) else value


def _compared(
    model: Model,
    golden: OnnxRefRunner,
    other: OnnxRefRunner,
    feeds: Mapping[str, Any],
    rounder: _Rounder,
    memory: int,
) -> Iterator[NodeComparison]:
    values = {name: name for name in made_values(model.graph)}
    alignment = Alignment(values, {}, {value.name: value.name for value in model.graph.inputs})
    work = Work(model, model.graph, golden, other, feeds, alignment, Tolerance(), True, memory, rounder)
    yield from work.nodes()


def _alone(
    model: Model,
    path: str,
    kind: str,
    feeds: Mapping[str, Any],
    names: list[str],
    exact: Mapping[str, Any],
    limits: Limits,
) -> Errors:
    """Return the change of the worst output if one node is simulated."""
    edited, _ = simulate(model, kind, Selection(nodes=(path,)))
    values = OnnxRefRunner(edited, limits=limits).session.run_named(names, feeds)
    return min((errors_between(exact[name], values[name]) for name in names), key=lambda errors: errors.snr)
