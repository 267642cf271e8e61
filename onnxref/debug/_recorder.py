"""Adds up what a run tells of: nodes that the executor runs, ops as the planner made them."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from .. import registry
from ..errors import BackendError, OnnxRefError
from ..graph import Graph, Node, subgraphs
from ..plan import Step
from ..plan.specialize import Lowered
from ..runtime import Execution
from ._timeline import MOST_EVENTS, Event

_ITERATION = re.compile(r"\[\d+\]/")

# Path, labels of the nodes, operator, kernel.
Key: TypeAlias = tuple[str, tuple[str, ...], str, str]


@dataclass(slots=True)
class Tally:
    """One op in one run."""

    nodes: tuple[Node, ...]
    operator: str
    kernel: str
    kind: str
    calls: int = 0
    seconds: float = 0.0
    own_seconds: float = 0.0


@dataclass(slots=True)
class Ran:
    """One execution, whoever told of it."""

    scope: str
    nodes: tuple[Node, ...]
    operator: str
    kernel: str
    kind: str
    started: float
    seconds: float


class Recorder:
    """Adds up executions by their paths, and keeps them as events where asked.

    Args:
        paths: by the identity of a node, its path; for nodes that the planner took out of their bodies.
    """

    def __init__(self, paths: Mapping[int, str], *, keeps_events: bool = False) -> None:
        self.tallies: dict[Key, Tally] = {}
        self.dropped = 0
        self._paths = paths
        self._keeps_events = keeps_events
        self._events: list[tuple[str, Event]] = []
        # By scope whose node has not ended yet: seconds of its ops, and seconds that watching them took.
        self._inner: dict[str, tuple[float, float]] = {}
        self._kernels: dict[int, str] = {}
        self.began = time.perf_counter()

    def observe(self, execution: Execution) -> None:
        """Take note of a node that the executor ran."""
        told = time.perf_counter()
        node, now = execution.node, told - self.began
        kernel = self._kernels.get(id(node))
        if kernel is None:
            kernel = self._kernels[id(node)] = _reference_kernel(node)
        kind = "control" if subgraphs(node) else "reference"
        ran = Ran(
            execution.scope,
            (node,),
            _operator(node.domain, node.op_type),
            kernel,
            kind,
            max(0.0, now - execution.seconds),
            execution.seconds,
        )
        self._add(ran, told)

    def watch(self, scope: str, op: Lowered | Step, started: float, seconds: float) -> None:
        """Take note of an op as the planner runs it."""
        self.note(scope, op, started, seconds)

    def note(self, scope: str, op: Lowered | Step, started: float, seconds: float) -> Ran:
        """Like `watch`, and return what was noted."""
        told = time.perf_counter()
        ran = _of_lowered(scope, op) if isinstance(op, Lowered) else _of_step(scope, op)
        ran.started, ran.seconds = started - self.began, seconds
        self._add(ran, told)
        return ran

    def path(self, ran: Ran) -> str:
        """Return the path of an execution, with its iterations."""
        if not ran.nodes:
            return f"{ran.scope}{ran.operator}"
        own = ran.scope + ran.nodes[0].label
        # The planner takes branches out of their If: such a node's own path is longer than the scope says.
        written = self._paths.get(id(ran.nodes[0]))
        return written if written is not None and not ran.scope else own

    def finished_events(self) -> Iterator[Event]:
        """Return the events with their depths, which the scopes tell once all are known."""
        scopes = {scope for scope, _ in self._events}
        depths: dict[str, int] = {}
        for scope, event in self._events:
            if scope not in depths:
                ends = [i + 1 for i, letter in enumerate(scope) if letter == "/"]
                depths[scope] = sum(scope[:end] in scopes for end in ends)
            yield Event(
                event.path,
                event.operator,
                event.kernel,
                event.kind,
                event.started,
                event.seconds,
                depths[scope],
            )

    def _add(self, ran: Ran, told: float) -> None:
        path = self.path(ran)
        any_iteration = all_iterations(path)
        inner = self._take_inner(any_iteration)
        kind = "control" if inner is not None else ran.kind
        key = (any_iteration, tuple(node.label for node in ran.nodes), ran.operator, ran.kernel)
        tally = self.tallies.get(key)
        if tally is None:
            tally = self.tallies[key] = Tally(ran.nodes, ran.operator, ran.kernel, kind)
        ops, watching = inner or (0.0, 0.0)
        seconds = max(0.0, ran.seconds - watching)
        tally.calls += 1
        tally.seconds += seconds
        tally.own_seconds += max(0.0, seconds - ops)
        if self._keeps_events:
            self._keep(ran, path, kind)
        scope = all_iterations(ran.scope)
        before = self._inner.get(scope, (0.0, 0.0))
        watching += time.perf_counter() - told
        self._inner[scope] = (before[0] + seconds, before[1] + watching)

    def _keep(self, ran: Ran, path: str, kind: str) -> None:
        if len(self._events) < MOST_EVENTS:
            event = Event(path, ran.operator, ran.kernel, kind, ran.started, ran.seconds)
            self._events.append((ran.scope, event))
        else:
            self.dropped += 1

    def _take_inner(self, path: str) -> tuple[float, float] | None:
        """Return what the bodies took that a node has just run; None where it ran none."""
        inside = [scope for scope in self._inner if scope.startswith((f"{path}/", f"{path}[*]/"))]
        if not inside:
            return None
        # A body's own bodies are part of its nodes' times: they were taken when those ended.
        found = [self._inner.pop(scope) for scope in inside]
        return math.fsum(ops for ops, _ in found), math.fsum(watching for _, watching in found)


def all_iterations(path: str) -> str:
    """Return a path with `[*]` in place of the number of every iteration."""
    return _ITERATION.sub("[*]/", path) if "]/" in path else path


def paths_of(graph: Graph, scope: str = "") -> dict[int, str]:
    """Return the paths of all nodes of a graph and its bodies by their identities."""
    found: dict[int, str] = {}
    for node in graph.nodes:
        path = scope + node.label
        found[id(node)] = path
        for name, body in subgraphs(node).items():
            index = "" if node.op_type == "If" else "[*]"
            found |= paths_of(body, f"{path}{index}/{name}/")
    return found


def _of_lowered(scope: str, lowered: Lowered) -> Ran:
    if lowered.step is not None:
        kind, kernel = "reference", _function_name(lowered.step.kernel)
    elif lowered.calls:
        functions = dict.fromkeys(repr(call.function).partition("(")[0] for call in lowered.calls)
        kind, kernel = "native", ", ".join(functions)
    else:
        kind, kernel = "view", ""
    return Ran(scope, lowered.op.nodes, str(lowered.op), kernel, kind, 0.0, 0.0)


def _of_step(scope: str, step: Step) -> Ran:
    node = step.node
    kind = "control" if step.bodies else "reference"
    kernel = "" if step.type_rule is None and step.bodies else _function_name(step.kernel)
    return Ran(scope, (node,), _operator(node.domain, node.op_type), kernel, kind, 0.0, 0.0)


def _operator(domain: str, op_type: str) -> str:
    return f"{domain}:{op_type}" if domain else op_type


def _reference_kernel(node: Node) -> str:
    try:
        return _function_name(registry.find(node.domain, node.op_type, node.opset).kernel)
    except (OnnxRefError, BackendError):  # a function of the model
        return ""


def _function_name(kernel: Any) -> str:
    module = str(getattr(kernel, "__module__", "")).rpartition(".")[2]
    return f"{module}.{getattr(kernel, '__name__', type(kernel).__name__)}".strip(".")
