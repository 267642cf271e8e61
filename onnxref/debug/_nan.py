"""The first node that makes a NaN, an infinity or what float16 cannot hold, and what it made it from."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np

from ..dtypes import Array, tensor_type_string
from ..errors import OnnxRefError
from ..graph import Graph, Model, Node, subgraphs
from ..limits import DEFAULT, Limits
from ..model import load_model
from ..runtime import Execution
from ..session import InferenceSession
from ._causes import Cause, find_cause, is_float
from ._half import HalfWatcher, KeptNode
from ._html import html_table
from ._pieces import single_node
from ._stats import HALF_LARGEST, ValueStatistics, short
from ._trace import given_values

FindingKind: TypeAlias = Literal["nan", "infinity", "overflow"]
_Given: TypeAlias = tuple[str, Literal["input", "initializer", "constant"], Any]

MOST_CAUSES = 5
"""Elements of a finding that are explained, unless `find_nan` is told otherwise."""
_WORDS: dict[FindingKind, str] = {"nan": "a NaN", "infinity": "an infinity", "overflow": "a float16 overflow"}


@dataclass(frozen=True, slots=True)
class NanFinding:
    """The first node that makes one kind of number from inputs that have none of it.

    Attributes:
        kind: "nan"; "infinity"; "overflow": a finite number over 65504 in a wider type, or an infinity that a
            float16 model has only because of its type.
        path: of the node.
        output: path of the value.
        type, shape: of the value.
        count: how many of its elements are of this kind.
        causes: the first of these elements, each with the input elements that made it.
        step: how many nodes had been executed, this one included.
        from_finite: whether all inputs were finite; a NaN may also be made of infinities.
    """

    kind: FindingKind
    path: str
    op_type: str
    output: str
    type: str
    shape: tuple[int, ...]
    count: int
    causes: tuple[Cause, ...]
    step: int
    from_finite: bool = True

    def to_json(self) -> dict[str, Any]:
        """Return the finding as plain data for `json.dumps`."""
        names = ("kind", "path", "op_type", "output", "type", "count", "step", "from_finite")
        found: dict[str, Any] = {name: getattr(self, name) for name in names}
        found["shape"] = list(self.shape)
        found["causes"] = [cause.to_json() for cause in self.causes]
        return found

    @property
    def title(self) -> str:
        """One line: which node makes what."""
        size = int(np.prod(self.shape))
        source = "" if self.from_finite else ", from infinities"
        return (
            f"{_WORDS[self.kind]} is first made by {self.path} ({self.op_type}), node {self.step} of the run"
            f"{source}: {self.count} of {size} elements of {self.output}, {self.type}{list(self.shape)}"
        )

    def __str__(self) -> str:
        return "\n".join([self.title, *(f"  {cause}" for cause in self.causes)])


@dataclass(frozen=True, slots=True)
class GivenFault:
    """What the model was given that is not finite, or not a float16.

    Attributes:
        name: of an input, an initializer, or the output of a Constant.
        nan, inf: how many elements are NaN or infinite.
        largest: the largest finite magnitude, if it is over 65504.
    """

    name: str
    source: Literal["input", "initializer", "constant"]
    nan: int
    inf: int
    largest: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the fault as plain data for `json.dumps`."""
        found = {"name": self.name, "source": self.source, "nan": self.nan, "inf": self.inf}
        return found | {"largest": self.largest}

    def __str__(self) -> str:
        parts = [f"{count} {what}" for count, what in ((self.nan, "NaN"), (self.inf, "Inf")) if count]
        if self.largest is not None:
            parts.append(f"numbers up to {short(self.largest)}, which float16 does not")
        return f"{self.source} {self.name} holds {', '.join(parts)}"


@dataclass(frozen=True, slots=True)
class NanReport:
    """What a run made that is not a number, not finite, or too large for float16.

    Attributes:
        findings: the first of each kind, in the order of execution.
        given: NaNs, infinities and numbers over 65504 that the model was given.
        keep_float32: nodes that would overflow or lose precision in float16, in the order of execution.
        nodes: how many nodes were executed.
        error: what ended the run early; None where it went to its end.
    """

    findings: tuple[NanFinding, ...]
    given: tuple[GivenFault, ...]
    keep_float32: tuple[KeptNode, ...]
    nodes: int
    error: str | None = None

    @property
    def first(self) -> NanFinding | None:
        """The finding to start with: the earlier of NaN and infinity, else the overflow."""
        real = [finding for finding in self.findings if finding.kind != "overflow"]
        return next(iter(real or self.findings), None)

    @property
    def failed(self) -> bool:
        """Whether a node made any of these numbers, or a NaN or a number over 65504 was given."""
        return bool(self.findings) or any(fault.nan or fault.largest is not None for fault in self.given)

    @property
    def node_names(self) -> list[str]:
        """Names of the nodes to keep in float32, as converters to float16 take them for their block lists."""
        return list(dict.fromkeys(kept.name for kept in self.keep_float32))

    def to_json(self) -> dict[str, Any]:
        """Return the report as plain data for `json.dumps`."""
        return {
            "findings": [finding.to_json() for finding in self.findings],
            "given": [fault.to_json() for fault in self.given],
            "keep_float32": [kept.to_json() for kept in self.keep_float32],
            "nodes": self.nodes,
            "error": self.error,
        }

    def __str__(self) -> str:
        lines = [*map(str, self.given), *map(str, self.findings)]
        if self.error is not None:
            lines.append(f"the run ended early: {self.error}")
        if self.keep_float32:
            lines.append(f"{len(self.keep_float32)} nodes to keep in float32:")
            lines += [f"  {kept}" for kept in self.keep_float32]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        causes = [
            (
                f.kind,
                f"{f.path} ({f.op_type})",
                str(cause.output),
                ", ".join(map(str, cause.inputs)),
                cause.how,
            )
            for f in self.findings
            for cause in f.causes
        ]
        columns = ("kind", "first made by", "element", "from", "")
        found = html_table(causes, columns, title=f"{self.nodes} nodes were run")
        kept = [(k.path, k.op_type, k.largest, "; ".join(k.reasons)) for k in self.keep_float32]
        return found + html_table(kept, ("node", "operator", "largest", "why"), title="to keep in float32")


def find_nan(
    model: Any,
    feeds: Any = None,
    *,
    half: bool = True,
    most: int = MOST_CAUSES,
    limits: Limits | None = None,
) -> NanReport | None:
    """Run a model as it is written and find the first node that makes what is not finite.

    Args:
        model, feeds: as for `onnxref.run`.
        half: look for what float16 could not hold too, and for the nodes to keep in float32.
        most: elements of each finding to explain.
        limits: bounds on memory, time and size; None means `onnxref.DEFAULT`.

    Returns:
        None where all is well: nothing of these was made, no NaN was given, and nothing that float16 loses.

    Raises:
        ModelError, InputError, NodeError, ResourceLimitError: as for `onnxref.run`; a failure of a node after
            something was found is told in the report.
    """
    limits = DEFAULT if limits is None else limits
    loaded = load_model(model, limits)
    given: list[_Given] = [(k, "input", value) for k, value in given_values(loaded.graph, feeds).items()]
    given += _constants(loaded)
    watcher = _Watcher(loaded, {name for name, *_ in given}, limits, half=half, most=most)
    session = InferenceSession(loaded, backend="numpy", optimize="none", limits=limits)
    error = None
    try:
        session.run_named(None, feeds, observers=[watcher.observe])
    except OnnxRefError as failure:
        if not watcher.findings:
            raise
        error = f"{type(failure).__name__}: {failure}"
    faults = tuple(_given_faults(given, half=half))
    kept = watcher.half.result() if watcher.half is not None else ()
    findings = sorted(watcher.findings.values(), key=lambda finding: finding.step)
    report = NanReport(tuple(findings), faults, kept, watcher.steps, error)
    return report if report.failed or kept else None


class _Watcher:
    """Looks at every node that has no body: what a node with a body makes, a node of its body made before."""

    def __init__(
        self, model: Model, given: Collection[str], limits: Limits, *, half: bool, most: int
    ) -> None:
        self._model, self._limits, self._most = model, limits, most
        self._kinds: tuple[FindingKind, ...] = (
            ("nan", "infinity", "overflow") if half else ("nan", "infinity")
        )
        self.half = HalfWatcher(given, self._rerun) if half else None
        self.findings: dict[FindingKind, NanFinding] = {}
        self.steps = 0

    def observe(self, execution: Execution) -> None:
        """Take a node; an observer of the executor."""
        self.steps += 1
        node = execution.node
        if subgraphs(node) or (node.domain, node.op_type, node.overload) in self._model.functions:
            return
        statistics: dict[str, ValueStatistics] = {}
        for name, value in zip(node.outputs, execution.outputs, strict=False):
            for label, array in _arrays(name, value):
                found = ValueStatistics.of(array, histogram=False)
                statistics[label] = found
                self._look(execution, label, array, found)
        if self.half is not None:
            self.half.look(execution, statistics)

    def _look(self, execution: Execution, name: str, array: Array, found: ValueStatistics) -> None:
        exceeds = found.headroom is not None and found.headroom > 1
        if found.nan and "nan" not in self.findings and not _hold(execution.inputs, np.isnan):
            self._add("nan", execution, name, array, np.isnan(array))
        if found.inf and len(self.findings) < len(self._kinds) and not _hold(execution.inputs, _not_finite):
            self._look_at_infinities(execution, name, array)
        if exceeds and "overflow" in self._kinds and "overflow" not in self.findings:
            magnitude = np.abs(array)
            bad = np.isfinite(magnitude) & (magnitude > HALF_LARGEST)
            # Who only passes on what is too large already did not make it.
            if not _hold(execution.inputs, lambda x: np.abs(x) > HALF_LARGEST):
                self._add("overflow", execution, name, array, bad)

    def _look_at_infinities(self, execution: Execution, name: str, array: Array) -> None:
        bad = np.isinf(array)
        kind: FindingKind = "infinity"
        if array.dtype == np.float16 and self._is_overflow(execution, name, bad):
            kind = "overflow"
        if kind in self._kinds and kind not in self.findings:
            self._add(kind, execution, name, array, bad)

    def _is_overflow(self, execution: Execution, name: str, bad: Array) -> bool:
        """Whether the infinities are finite numbers if the node computes in float32."""
        node, inputs = execution.node, execution.inputs
        if node.op_type == "Cast":
            return True  # of finite numbers, which are too large
        wide = [x.astype(np.float32) if is_float(x) and x.dtype == np.float16 else x for x in inputs]
        found = self._rerun(node, wide)
        position = node.outputs.index(name) if name in node.outputs else 0
        if found is None or position >= len(found) or not isinstance(found[position], np.ndarray):
            return False
        exact = found[position]
        return exact.shape == bad.shape and bool(np.isfinite(exact[bad]).all())

    def _add(self, kind: FindingKind, execution: Execution, name: str, array: Array, bad: Array) -> None:
        first = np.flatnonzero(bad)[: self._most]
        places = [tuple(int(at) for at in np.unravel_index(flat, array.shape)) for flat in first]
        inputs = execution.inputs
        self.findings[kind] = NanFinding(
            kind,
            execution.path,
            execution.node.op_type,
            execution.scope + name,
            tensor_type_string(array.dtype),
            array.shape,
            int(np.count_nonzero(bad)),
            tuple(find_cause(execution.node, inputs, array, name, place) for place in places),
            self.steps,
            not _hold(inputs, _not_finite),
        )

    def _rerun(self, node: Node, inputs: Sequence[Any]) -> Sequence[Any] | None:
        """Run one node on other inputs; None where it does not take them."""
        try:
            small, feeds = single_node(node, inputs, self._model)
            session = InferenceSession(small, backend="numpy", optimize="none", limits=self._limits)
            return session.run(None, feeds)
        except OnnxRefError:
            return None


def _arrays(name: str, value: Any) -> Iterator[tuple[str, Array]]:
    """Yield the tensors of floating-point numbers in a value, with names."""
    if is_float(value):
        yield name, value
    elif isinstance(value, list):
        for i, item in enumerate(value):
            yield from _arrays(f"{name}[{i}]", item)


def _hold(values: Sequence[Any], test: Any) -> bool:
    """Whether a test is true for any element of the given values."""
    return any(bool(test(array).any()) for value in values for _, array in _arrays("", value))


def _not_finite(array: Array) -> Array:
    finite: Array = np.isfinite(array)
    return ~finite


def _constants(model: Model) -> Iterator[_Given]:
    """Yield the initializers and constants of a model, at any depth."""

    def inside(graph: Graph) -> Iterator[_Given]:
        yield from ((name, "initializer", array) for name, array in graph.initializers.items())
        yield from among(graph.nodes)

    def among(nodes: Iterable[Node]) -> Iterator[_Given]:
        for node in nodes:
            if node.op_type == "Constant" and not node.domain:
                for key, value in node.attributes.items():
                    floats = key in ("value_float", "value_floats") and isinstance(value, (float, tuple))
                    yield node.outputs[0], "constant", np.float32(value) if floats else value
            for graph in subgraphs(node).values():
                yield from inside(graph)

    yield from inside(model.graph)
    for function in model.functions.values():
        yield from among(function.nodes)


def _given_faults(given: Iterable[_Given], *, half: bool) -> Iterator[GivenFault]:
    for name, source, value in given:
        if not is_float(value):
            continue
        found = ValueStatistics.of(value, histogram=False)
        largest = found.largest if half and found.headroom is not None and found.headroom > 1 else None
        if not found.finite or largest is not None:
            yield GivenFault(name, source, found.nan, found.inf, largest)
