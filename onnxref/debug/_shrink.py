"""The search for a smaller model that still fails.

What is tried, over and over until nothing helps
    1. Nodes: some are kept. What they took from others becomes an input with the value that it really had,
       a constant if it was one; so every choice of nodes is a valid model (after ddmin, Zeller and
       Hildebrandt 2002).
    2. Outputs: only one of several.
    3. Control flow: an If becomes its branch, a Loop or Scan one iteration, a call its function's body, each
       with the values that it really had there.
    4. Where a loop must stay: fewer iterations, and constants in place of nodes of its body.
    5. Attributes: left out.
    6. Sizes: every dimension of one size is cut to 1 or to a half, in inputs and weights at once, and in
       single tensors.

A candidate counts only if `onnx.checker` accepts it (where it accepts the original), if the reference kernels
run it (where they run the original), and if the check says that it still fails.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx
import onnx.checker
import onnx.shape_inference

from .. import schema
from ..errors import InputError, OnnxRefError
from ..graph import Graph, Model, Node, names_used, subgraphs
from ..limits import Limits
from ..model import to_proto
from ..session import InferenceSession
from ._places import Place, changed_model, enter, is_constant, main_place
from ._shrink_graphs import (
    ancestors,
    count_calls,
    count_nodes,
    cuts,
    is_valid,
    moving_nodes,
    replacing,
    run_scopes,
    sinks,
    spread,
    values_of_run,
    with_inferred_types,
    with_output_types,
    without_output,
    without_shapes,
    without_unused,
)
from ._subgraph import Part, assemble, record, select, value_type

Check = Callable[[onnx.ModelProto, dict[str, Any]], bool]
"""Whether a model still fails with these inputs."""

_MOST_DETAILED = 50  # nodes of a model whose attributes and sizes are tried


@dataclass(frozen=True, slots=True)
class Progress:
    """What a reduction has come to: trials so far, nodes of the candidate, and what it is."""

    trials: int
    nodes: int
    what: str


class SpentError(Exception):
    """Time or trials are used up."""


@dataclass
class Search:
    """The smallest failing model so far, and how to find a smaller one.

    Attributes:
        model, feeds: the smallest so far, and its inputs.
        outputs: what the reference kernels give; None where they fail, as they did for the original.
        steps: what helped.
    """

    model: Model
    feeds: dict[str, Any]
    check: Check
    most_trials: int
    most_seconds: float
    limits: Limits | None = None
    progress: Callable[[Progress], None] | None = None
    outputs: dict[str, Any] | None = None
    trials: int = 0
    steps: list[str] = field(default_factory=list)
    _runs: bool = True
    _is_checked: bool = True
    _began: float = field(default_factory=time.monotonic)
    _chunk: int = 0
    _offset: int = 0

    def start(self) -> None:
        """See how the original behaves.

        Raises:
            InputError: it does not fail the check.
        """
        self.outputs = self.run(self.model, self.feeds)
        self._runs = self.outputs is not None
        proto = to_proto(self.model)
        self._is_checked = is_valid(proto)
        if not self._runs:
            self.model = with_inferred_types(self.model, proto)
        self.trials += 1
        if not self.check(proto, dict(self.feeds)):
            raise InputError("the model does not fail the check as it is: there is nothing to reduce")

    def go(self) -> None:
        """Shrink the model until nothing helps.

        Raises:
            SpentError: time or trials are used up; what was reached is kept.
        """
        phases = (
            ("nodes", self.drop_nodes),
            ("outputs", self.drop_outputs),
            ("control flow", self.enter_bodies),
            ("iterations", self.run_fewer_iterations),
            ("nodes of bodies", self.simplify_bodies),
            ("attributes", self.drop_attributes),
            ("sizes", self.cut_sizes),
        )
        position = 0
        while position < len(phases):
            helped = self._phase(*phases[position])
            # With fewer nodes everything else is faster, so they come first again.
            position = 0 if helped and position else position + 1
            self._chunk = 0

    def _phase(self, name: str, phase: Callable[[], bool]) -> bool:
        """Run a phase as long as it helps; return whether it did."""
        nodes, trials, helped = count_nodes(self.model), self.trials, False
        try:
            while phase():
                helped = True
        finally:
            if helped:
                after, spent = count_nodes(self.model), self.trials - trials
                self.steps.append(f"{name}: {nodes} -> {after} nodes, {spent} trials")
        return helped

    # Trying ---------------------------------------------------------------------------------------

    def run(self, model: Model, feeds: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return what the reference kernels give; None where they fail."""
        try:
            session = InferenceSession(model, backend="numpy", optimize="none", limits=self.limits)
            return session.run_named(None, dict(feeds))
        except OnnxRefError:
            return None

    def attempt(self, model: Model, feeds: Mapping[str, Any], what: str) -> bool:
        """Try a candidate, and take it if it still fails."""
        if self.trials >= self.most_trials or time.monotonic() - self._began > self.most_seconds:
            raise SpentError
        self.trials += 1
        if self.progress is not None:
            self.progress(Progress(self.trials, count_nodes(model), what))
        outputs = self.run(model, feeds)
        if outputs is None and self._runs:
            return False
        if outputs is not None:
            model = with_output_types(model, outputs)
        try:
            proto = to_proto(model)
        except OnnxRefError:
            return False
        if (self._is_checked and not is_valid(proto)) or not self.check(proto, dict(feeds)):
            return False
        self.model, self.feeds, self.outputs = model, dict(feeds), outputs
        return True

    def attempt_part(self, part: Part, values: Mapping[str, Any], what: str) -> bool:
        """Try some nodes with the values that they were fed with."""
        if any(name not in values for name in part.externals):
            return False
        known = all(name in values for name in part.outputs)
        made = assemble(self.model, part, values, error="" if known else "outputs are not known")
        return self.attempt(made.model, made.inputs, what)

    # 1, 2. Nodes and outputs ----------------------------------------------------------------------

    def drop_nodes(self) -> bool:
        """Keep some nodes: one of ever smaller pieces, or all but one of them."""
        place = main_place(self.model)
        nodes = place.graph.nodes
        moving = moving_nodes(place)
        values = values_of_run(self.model, self.feeds, self.limits)

        def keep(kept: Collection[int]) -> bool:
            part = select(place, kept, sinks(place.graph, kept))
            if any(name not in values for name in (*part.externals, *part.outputs)):
                values.update(record(self.model, self.feeds, part, limits=self.limits)[0])
            return self.attempt_part(part, values, f"keep {len(kept)} of {len(nodes)} nodes")

        # What is the same in every run is computed once and stored, if that does no harm.
        if 0 < len(moving) < sum(not is_constant(node) for node in nodes) and keep(moving):
            return True
        size = self._chunk or -(-len(moving) // 2)
        while 0 < size < len(moving):
            starts = list(range(0, len(moving), size))
            starts = starts[self._offset :] + starts[: self._offset]
            for start in starts:
                if keep(moving[start : start + size]):
                    self._chunk, self._offset = 0, 0
                    return True
            for start in starts if len(starts) > 2 else ():
                if keep(moving[:start] + moving[start + size :]):
                    self._chunk, self._offset = size, start // size
                    return True
            size, self._offset = size // 2, 0
        self._chunk, self._offset = 0, 0
        return False

    def drop_outputs(self) -> bool:
        """Keep one output only."""
        outputs = self.model.graph.outputs
        for value in outputs if len(outputs) > 1 else ():
            place = main_place(self.model)
            kept = ancestors(place.graph, value.name)
            graph = replace(
                self.model.graph,
                outputs=(value,),
                nodes=tuple(node for i, node in enumerate(place.graph.nodes) if i in kept),
            )
            model, feeds = without_unused(replace(self.model, graph=graph), self.feeds)
            if self.attempt(model, feeds, f"only output {value.name!r}"):
                return True
        return False

    # 3, 4. Control flow ---------------------------------------------------------------------------

    def enter_bodies(self) -> bool:
        """Put one call of a body, with the values that it had, in place of everything."""
        for index, node in enumerate(self.model.graph.nodes):
            for place in self._called(index, node):
                inner = [i for i, own in enumerate(place.graph.nodes) if not is_constant(own)]
                if not inner:
                    continue
                part = select(place, inner)
                values, _ = record(self.model, self.feeds, part, limits=self.limits)
                if self.attempt_part(part, values, f"only {place.scope.rstrip('/')}"):
                    return True
        return False

    def _called(self, index: int, node: Node) -> list[Place]:
        """Return bodies of a node as they were called, spread over all calls."""
        main, bodies = main_place(self.model), subgraphs(node)
        if (node.domain, node.op_type, node.overload) in self.model.functions:
            return [enter(self.model, main, index, "", 0)]
        if not bodies:
            return []
        scopes = run_scopes(self.model, self.feeds, self.limits)
        found = []
        for name in bodies:
            if node.op_type == "If":
                places = [enter(self.model, main, index, name, 0)]
            else:
                calls = range(count_calls(scopes, node, name))
                places = [enter(self.model, main, index, name, call) for call in calls]
            found += spread([place for place in places if place.scope in scopes])
        return found

    def run_fewer_iterations(self) -> bool:
        """Let a loop end after one, or half of its iterations."""
        initializers = self.model.graph.initializers
        for node in self.model.graph.nodes:
            name = node.inputs[0] if node.op_type == "Loop" and node.inputs else ""
            count = self.feeds.get(name, initializers.get(name))
            if not isinstance(count, np.ndarray) or count.size != 1 or int(count.reshape(-1)[0]) <= 1:
                continue
            ran = count_calls(run_scopes(self.model, self.feeds, self.limits), node, "body")
            for fewer in dict.fromkeys((1, ran // 2, ran - 1)):
                if 0 < fewer < int(count.reshape(-1)[0]):
                    model, feeds = self._with_value(name, np.full_like(count, fewer))
                    if self.attempt(model, feeds, f"{fewer} iterations of {node.label}"):
                        return True
        return False

    def _with_value(self, name: str, array: Any) -> tuple[Model, dict[str, Any]]:
        if name in self.feeds:
            return self.model, {**self.feeds, name: array}
        changed = {**self.model.graph.initializers, name: array}
        return replace(self.model, graph=replace(self.model.graph, initializers=changed)), self.feeds

    def simplify_bodies(self) -> bool:
        """Put constants in place of nodes of a body: the values that they had in its first call."""
        for index, node in enumerate(self.model.graph.nodes):
            if self._drop_carried(index, node):
                return True
            for name in subgraphs(node):
                place = enter(self.model, main_place(self.model), index, name, 0)
                if self._simplify(place):
                    return True
        return False

    def _drop_carried(self, index: int, node: Node) -> bool:
        """Take from a Loop what it carries or collects and nobody uses."""
        graph = self.model.graph
        used = {value.name for value in graph.outputs}.union(*map(names_used, graph.nodes))
        for at, name in enumerate(node.outputs if node.op_type == "Loop" else ()):
            if name in used or len(node.outputs) == 1:
                continue
            nodes = (*graph.nodes[:index], without_output(node, at), *graph.nodes[index + 1 :])
            model, feeds = without_unused(replace(self.model, graph=replace(graph, nodes=nodes)), self.feeds)
            if self.attempt(model, feeds, f"{node.label} without {name or 'an output'}"):
                return True
        return False

    def _simplify(self, place: Place) -> bool:
        version = self.model.opset_imports.get("", 0)
        moving = [i for i, node in enumerate(place.graph.nodes) if not is_constant(node)]
        if not version or not moving:
            return False
        part = select(place, moving, [name for i in moving for name in place.graph.nodes[i].outputs if name])
        values, _ = record(self.model, self.feeds, part, limits=self.limits)
        size = len(moving)
        while size:
            for start in range(0, len(moving), size):
                chosen = {place.graph.nodes[i].outputs for i in moving[start : start + size]}
                changed = changed_model(self.model, place, replacing(chosen, values, version))
                model, feeds = without_unused(changed, self.feeds)
                if self.attempt(model, feeds, f"{len(chosen)} constants in {place.scope.rstrip('/')}"):
                    return True
            size //= 2
        return False

    # 5, 6. Attributes and sizes -------------------------------------------------------------------

    def drop_attributes(self) -> bool:
        """Leave out an attribute."""
        nodes = self.model.graph.nodes
        for index, node in enumerate(nodes if len(nodes) <= _MOST_DETAILED else ()):
            found = schema.find(node.domain, node.op_type, node.opset)
            required = {k for k, a in found.attributes.items() if a.required} if found else set()
            for name in node.attributes:
                if name in required or isinstance(node.attributes[name], Graph) or is_constant(node):
                    continue
                fewer = {k: v for k, v in node.attributes.items() if k != name}
                changed = (*nodes[:index], replace(node, attributes=fewer), *nodes[index + 1 :])
                model = replace(self.model, graph=replace(self.model.graph, nodes=changed))
                if self.attempt(model, self.feeds, f"{node.label} without {name}"):
                    return True
        return False

    def cut_sizes(self) -> bool:
        """Cut dimensions of inputs and initializers."""
        if len(self.model.graph.nodes) > _MOST_DETAILED:
            return False
        arrays = {**self.model.graph.initializers, **self.feeds}
        arrays = {name: array for name, array in arrays.items() if isinstance(array, np.ndarray)}
        for what, changed in cuts(arrays):
            initializers = {k: changed.get(k, v) for k, v in self.model.graph.initializers.items()}
            feeds = {k: changed.get(k, v) for k, v in self.feeds.items()}
            types = {k: value_type(v) for k, v in feeds.items() if k in changed}
            inputs = tuple(replace(v, type=types.get(v.name, v.type)) for v in self.model.graph.inputs)
            graph = replace(self.model.graph, initializers=initializers, inputs=inputs, value_types={})
            if self.attempt(replace(self.model, graph=without_shapes(graph)), feeds, what):
                return True
        return False
