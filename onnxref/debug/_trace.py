"""Every value of a run, or some, as the executor makes them: statistics always, tensors on demand.

`trace` runs a model to its end and returns what was seen; `Tracer` hands over one node after the other, with
the run standing still in between. Both watch the executor's own observers on the reference kernels, with the
graph as it is written, so that values inside of subgraphs and functions are seen too.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ..errors import OnnxRefError
from ..graph import Graph, Model, Node
from ..limits import DEFAULT, Limits
from ..model import load_model
from ..runtime import Execution, bind_inputs
from ..session import InferenceSession
from ._html import html_table
from ._lock_step import lock_step
from ._pieces import made_values
from ._select import Patterns, Selection, matches
from ._stats import ValueStatistics
from ._store import MemoryStore, Store, StoreFormat, open_store

MOST_VALUES = 100_000
"""Values that a `Trace` holds the statistics of, about 1 KB each, unless it is told otherwise."""
COLUMNS = ("value", "made by", "type and shape", "range", "mean", "std", "counts", "of fp16's range")


@dataclass(frozen=True, slots=True)
class TracedValue:
    """One value as it was made.

    Attributes:
        path: where it is, and its name: `loop[3]/body/y`.
        node: path of the node that made it; empty for the model's inputs and initializers.
        op_type: of that node.
        step: how many nodes had been executed, this one included.
        seconds: time of the node's kernel, without what tracing took.
    """

    path: str
    node: str
    op_type: str
    step: int
    seconds: float
    statistics: ValueStatistics

    def to_json(self) -> dict[str, Any]:
        """Return the record as plain data for `json.dumps`."""
        found: dict[str, Any] = {"path": self.path, "node": self.node, "op_type": self.op_type}
        return found | {"step": self.step, "seconds": self.seconds} | self.statistics.to_json()

    def cells(self) -> tuple[str, ...]:
        """Return the cells of a table's row, as `COLUMNS` names them."""
        # The whole path of a node hardly ever says more than that of its value.
        label = self.node if len(self.node) <= _LONGEST else f".../{self.node.rpartition('/')[2]}"
        maker = label if f"{self.op_type}#" in label else f"{self.op_type} {label}".strip() or "given"
        return (self.path, maker, *self.statistics.cells())

    def __str__(self) -> str:
        return f"{self.path}: {self.statistics}"


_MOST_TIMES = 8192
_LONGEST = 40  # characters of a node's path in a table

Predicate = Callable[[TracedValue], bool]


@dataclass(frozen=True, slots=True, eq=False)
class TraceEvent:
    """One executed node; the run stands still while it is looked at.

    The arrays are those of the run: the next step may free them or write into them. Copy what must stay.

    Attributes:
        execution: what the executor tells of it.
        values: the outputs that were selected, with their statistics.
    """

    execution: Execution
    values: tuple[TracedValue, ...]

    @property
    def path(self) -> str:
        """Scope and name of the node."""
        return self.execution.path

    @property
    def node(self) -> Node:
        """The node as the model has it."""
        return self.execution.node

    @property
    def inputs(self) -> dict[str, Any]:
        """The node's inputs by name; absent ones are left out."""
        return _named(self.node.inputs, self.execution.inputs)

    @property
    def outputs(self) -> dict[str, Any]:
        """The node's outputs by name; those that nothing uses are left out."""
        return _named(self.node.outputs, self.execution.outputs)

    def __str__(self) -> str:
        return "\n".join([f"{self.path} ({self.node.op_type})", *(f"  {value}" for value in self.values)])


@dataclass(frozen=True, slots=True, eq=False)
class Trace:
    """What a run showed, in the order of execution.

    Attributes:
        values: one record for each selected value.
        nodes: how many nodes were executed, those inside of subgraphs and functions included.
        seconds: time of the run, tracing included.
        tensors: copies of the values by path, where they were asked for.
        stored: the file or folder that has the values, where one was asked for.
        not_stored: paths of the values that its format has no place for.
        left_out: selected values that came after `most` others, and are not in `values`.
        error: what ended the run early; None where it went to its end.
    """

    values: tuple[TracedValue, ...]
    nodes: int
    seconds: float
    tensors: Mapping[str, Any] = field(default_factory=dict)
    stored: Path | None = None
    not_stored: tuple[str, ...] = ()
    left_out: int = 0
    error: OnnxRefError | None = None

    def __len__(self) -> int:
        return len(self.values)

    def __iter__(self) -> Iterator[TracedValue]:
        return iter(self.values)

    def __getitem__(self, path: str) -> TracedValue:
        """Return the record of a path; the first, where nodes share a name."""
        for value in self.values:
            if value.path == path:
                return value
        raise KeyError(path)

    def find(self, pattern: str) -> list[TracedValue]:
        """Return the records whose path matches a pattern with `*` and `?`."""
        return [value for value in self.values if matches(pattern, value.path)]

    def to_json(self) -> dict[str, Any]:
        """Return the trace without its tensors as plain data for `json.dumps`."""
        return {
            "values": [value.to_json() for value in self.values],
            "nodes": self.nodes,
            "seconds": self.seconds,
            "stored": None if self.stored is None else str(self.stored),
            "not_stored": list(self.not_stored),
            "left_out": self.left_out,
            "error": None if self.error is None else f"{type(self.error).__name__}: {self.error}",
        }

    @property
    def title(self) -> str:
        """One line about the whole."""
        values = f"{len(self.values)} value{'' if len(self.values) == 1 else 's'}"
        parts = [f"{values} of {self.nodes} executed nodes, {self.seconds:.2f} s"]
        if self.left_out:
            parts.append(f"{self.left_out} more values left out")
        if self.stored is not None:
            parts.append(f"written to {self.stored}")
        if self.not_stored:
            parts.append(f"{len(self.not_stored)} of them could not be")
        if self.error is not None:
            parts.append(f"ended by {type(self.error).__name__}: {self.error}")
        return "; ".join(parts)

    def __str__(self) -> str:
        return "\n".join([self.title, *map(str, self.values)])

    def _repr_html_(self) -> str:
        return html_table([value.cells() for value in self.values], COLUMNS, title=self.title)


def trace(
    model: Any,
    feeds: Any = None,
    *,
    values: Patterns = "*",
    op_types: Patterns = None,
    nodes: Patterns = None,
    predicate: Predicate | None = None,
    outputs: Any = None,
    store: Literal["memory"] | Path | str | None = None,
    store_format: StoreFormat | None = None,
    initializers: bool = False,
    backend: str = "numpy",
    limits: Limits | None = None,
    most: int = MOST_VALUES,
    errors: Literal["raise", "keep"] = "raise",
    on_value: Callable[[TracedValue], None] | None = None,
) -> Trace:
    """Run a model and record the statistics of its values, and the values themselves on demand.

    Args:
        model, feeds: as for `onnxref.run`.
        values: patterns for the paths or names of values: `*` for any text, `?` for one character.
        op_types: patterns for the operators that made them, such as `Conv` or `ai.onnx.ml:*`.
        nodes: patterns for the paths or names of the nodes that made them.
        predicate: takes a record only where this returns true; it sees the statistics.
        outputs: names of the values to compute, so that only what they need is run; None runs what the
            model's outputs need, and values that are named in full.
        store: "memory" keeps copies in `Trace.tensors`; a path writes the values there one by one.
        store_format: of the file; None takes it from the name: `.npz`, `.safetensors`, or a folder.
        initializers: record the main graph's initializers too.
        backend: "numpy" watches every node; of any other runner, "numba" or "onnxruntime", the main graph's
            values are fetched in batches, and times are not known.
        limits: bounds on memory, time and size; None means `onnxref.DEFAULT`.
        most: values to hold records of; what comes after is counted in `Trace.left_out`, and still stored.
        errors: "keep" returns what was seen before a node failed, with the error in `Trace.error`.
        on_value: called with every record, also of those that are left out.

    Raises:
        OutputError: nothing of what was run is selected, or the values cannot be written.
        ModelError, InputError, NodeError, ResourceLimitError: as for `onnxref.run`.
    """
    if errors not in ("raise", "keep"):
        raise ValueError(f"errors must be 'raise' or 'keep' (got {errors!r})")
    limits = DEFAULT if limits is None else limits
    loaded = load_model(model, limits)
    given = given_values(loaded.graph, feeds)
    selection = Selection.of(values, op_types, nodes)
    opened = _open(store, store_format, loaded, given)
    collector = _Collector(selection, predicate, opened, most, on_value)
    started = time.perf_counter()
    failure: OnnxRefError | None = None
    try:
        collector.add_given(given)
        if initializers:
            collector.add_given(loaded.graph.initializers)
        if backend == "numpy":
            session = InferenceSession(loaded, backend="numpy", optimize="none", limits=limits)
            session.run_named(_wanted(loaded.graph, outputs, selection), feeds, observers=[collector.observe])
        else:
            _fetch(collector, backend, loaded, given, outputs, limits)
    except OnnxRefError as error:
        if errors == "raise":
            raise
        failure = error
    finally:
        if opened is not None:
            opened.close()
    if not collector.selected and failure is None:
        native = f" ({backend} may have optimised it away)" if backend != "numpy" else ""
        selection.nothing_found(loaded, native)
    return Trace(
        tuple(collector.records),
        collector.recorder.steps,
        time.perf_counter() - started,
        opened.values if isinstance(opened, MemoryStore) else {},
        Path(store) if store is not None and store != "memory" else None,
        tuple(collector.not_stored),
        collector.left_out,
        failure,
    )


class Tracer:
    """A run of a model, node by node: the run stands still until the next one is asked for.

    Args:
        model, feeds: as for `onnxref.run`.
        values, op_types, nodes, predicate, outputs, limits: as for `trace`. Only nodes with a selected value
            are handed over.

    Attributes:
        results: the model's outputs by name, once the run has ended.

    Example:
        >>> for event in Tracer("model.onnx", feeds, op_types="Softmax"):  # doctest: +SKIP
        ...     if event.values[0].statistics.nan:
        ...         break  # ends the run
    """

    def __init__(
        self,
        model: Any,
        feeds: Any = None,
        *,
        values: Patterns = "*",
        op_types: Patterns = None,
        nodes: Patterns = None,
        predicate: Predicate | None = None,
        outputs: Any = None,
        limits: Limits | None = None,
    ) -> None:
        self._limits = DEFAULT if limits is None else limits
        self._model = load_model(model, self._limits)
        self._session = InferenceSession(self._model, backend="numpy", optimize="none", limits=self._limits)
        self._feeds = feeds
        self._selection = Selection.of(values, op_types, nodes)
        self._predicate = predicate
        self._wanted = _wanted(self._model.graph, outputs, self._selection)
        self.results: dict[str, Any] = {}

    def __iter__(self) -> Generator[TraceEvent, None, None]:
        """Run the model anew; closing the iterator, or leaving its `for` loop, ends the run.

        Raises:
            InputError, NodeError, ResourceLimitError: as for `onnxref.run`.
        """
        recorder = _Recorder(self._selection, self._predicate)
        self.results = {}

        def work(emit: Callable[[TraceEvent], None]) -> None:
            def observe(execution: Execution) -> None:
                with recorder.watch(execution) as seconds:
                    values = tuple(record for record, _ in recorder.records(execution, seconds))
                    if values:
                        emit(TraceEvent(execution, values))

            found = self._session.run_named(self._wanted, self._feeds, observers=[observe])
            self.results = {v.name: found[v.name] for v in self._model.graph.outputs if v.name in found}

        return lock_step(work)


class _Recorder:
    """Makes records of what observers are told of."""

    def __init__(self, selection: Selection, predicate: Predicate | None) -> None:
        self._selection = selection
        self._predicate = predicate
        self._own: list[tuple[float, float]] = []  # when observing a node began, and how long it took
        self.steps = 0

    def watch(self, execution: Execution) -> _Watch:
        """Return a context for observing a node, which gives the node's own time."""
        self.steps += 1
        return _Watch(self._own, execution.seconds)

    def records(self, execution: Execution, seconds: float) -> Iterator[tuple[TracedValue, Any]]:
        """Yield the records of a node's selected values, each with its value."""
        scope, node, selection = execution.scope, execution.node, self._selection
        if not selection.wants_node(scope, node):
            return
        for name, value in _named(node.outputs, execution.outputs).items():
            if selection.wants_value(scope, name):
                yield from self.record(scope + name, execution.path, node.op_type, seconds, value)

    def record(
        self, path: str, node: str, op_type: str, seconds: float, value: Any
    ) -> Iterator[tuple[TracedValue, Any]]:
        """Yield the record of one value, unless the predicate is against it."""
        record = TracedValue(path, node, op_type, self.steps, seconds, ValueStatistics.of(value))
        if self._predicate is None or self._predicate(record):
            yield record, value


class _Watch:
    """Takes the time that observing a node's inner nodes took off the time of the node.

    Nodes are told of in the order in which they end, so that the inner ones stand at the end of the list.
    """

    def __init__(self, own: list[tuple[float, float]], seconds: float) -> None:
        self._own, self._seconds = own, seconds
        self._entered = time.perf_counter()

    def __enter__(self) -> float:
        began = self._entered - self._seconds
        self._inner = 0.0
        while self._own and self._own[-1][0] >= began:
            self._inner += self._own.pop()[1]
        return max(self._seconds - self._inner, 0.0)

    def __exit__(self, *_: object) -> None:
        now = time.perf_counter()
        own = self._own
        own.append((self._entered, self._inner + now - self._entered))
        if len(own) > _MOST_TIMES:  # a long loop; its first steps are added up in pairs
            old = own[: _MOST_TIMES // 2]
            own[: len(old)] = [(a[0], a[1] + b[1]) for a, b in zip(old[::2], old[1::2], strict=True)]


class _Collector:
    """Collects the records of a run up to a number, and hands the values to a store."""

    def __init__(
        self,
        selection: Selection,
        predicate: Predicate | None,
        store: Store | None,
        most: int,
        on_value: Callable[[TracedValue], None] | None,
    ) -> None:
        self.recorder = _Recorder(selection, predicate)
        self.records: list[TracedValue] = []
        self.not_stored: list[str] = []
        self.left_out = 0
        self.selected = 0
        self._selection = selection
        self._store, self._most, self._on_value = store, most, on_value

    def observe(self, execution: Execution) -> None:
        """Take a node's values; an observer of the executor."""
        with self.recorder.watch(execution) as seconds:
            self.selected += self._selects(execution)
            for record, value in self.recorder.records(execution, seconds):
                self._take(record, value)

    def add(self, path: str, node: Node | None, value: Any) -> None:
        """Take a value of the main graph that was fetched, or given."""
        if node is None and not self._selection.takes_given:
            return
        if node is not None and not self._selection.wants_node("", node):
            return
        if not self._selection.wants_value("", path):
            return
        self.selected += 1
        label, op_type = ("", "") if node is None else (node.label, node.op_type)
        for record, item in self.recorder.record(path, label, op_type, 0.0, value):
            self._take(record, item)

    def add_given(self, values: Mapping[str, Any]) -> None:
        """Take values that no node makes."""
        for name, value in values.items():
            self.add(name, None, value)

    def _selects(self, execution: Execution) -> bool:
        """Whether the patterns, without the predicate, select anything of a node."""
        scope, node = execution.scope, execution.node
        if self.selected or not self._selection.wants_node(scope, node):
            return False
        return any(self._selection.wants_value(scope, name) for name in node.outputs if name)

    def _take(self, record: TracedValue, value: Any) -> None:
        if self._on_value is not None:
            self._on_value(record)
        if len(self.records) < self._most:
            self.records.append(record)
        else:
            self.left_out += 1
        if self._store is not None and not self._store.add(record.path, value):
            self.not_stored.append(record.path)


def _fetch(
    collector: _Collector, backend: str, model: Model, feeds: Mapping[str, Any], outputs: Any, limits: Limits
) -> None:
    """Take the main graph's values from a runner that shows no nodes."""
    from ._runners import open_runner

    makers = {name: node for node in model.graph.nodes for name in node.outputs if name}
    names = [outputs] if isinstance(outputs, str) else outputs or list(made_values(model.graph))
    for name, value in open_runner(backend, model, limits=limits).values(feeds, names):
        collector.add(name, makers.get(name), value)


def given_values(graph: Graph, feeds: Any) -> dict[str, Any]:
    """Return the inputs by name as the run gets them; those with their default are initializers."""
    bound = zip(graph.inputs, bind_inputs(graph, feeds), strict=True)
    defaults = graph.initializers
    return {value.name: item for value, item in bound if item is not defaults.get(value.name, graph)}


def _wanted(graph: Graph, outputs: Any, selection: Selection) -> list[str]:
    """Return what to ask the session for: what was named, else the outputs and what is selected by name."""
    if outputs is not None:
        return [outputs] if isinstance(outputs, str) else list(outputs)
    made = set(made_values(graph))
    names = [value.name for value in graph.outputs if value.name]
    # A value that nothing uses is not made, unless somebody asks for it.
    return list(dict.fromkeys([*names, *(name for name in selection.values if name in made)]))


def _open(
    store: Path | str | None, kind: StoreFormat | None, model: Model, feeds: Mapping[str, Any]
) -> MemoryStore | Store | None:
    if store is None:
        return None
    return MemoryStore() if store == "memory" else open_store(store, model, feeds, kind)


def _named(names: Any, values: Any) -> dict[str, Any]:
    pairs = zip(names, values, strict=False)
    return {name: value for name, value in pairs if name and value is not None}
