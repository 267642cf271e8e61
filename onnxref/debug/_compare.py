"""Where two runners part ways: every node's error, told apart into what it inherited and what it made.

The *cumulative* error compares the values of two whole runs. The *local* error is that of one node alone:
the other side runs it on the golden values of its inputs. Where the other side cannot run single nodes, our
reference kernels run it on the other side's inputs, and the other side's outputs are compared with that.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..errors import BackendError, InputError, OnnxRefError, OutputError
from ..graph import Graph, Model, Node, names_used, subgraphs
from ..limits import DEFAULT, Limits
from ..model import load_model
from ._align import Alignment, Fingerprint, align, fingerprint
from ._comparison import FAILURES, Comparison, NodeComparison, ValueComparison, Verdict
from ._errors_between import Errors, Tolerance, errors_between
from ._pieces import Pieces, made_values, value_bytes
from ._runners import MEMORY, Feeds, ModelRunner, OnnxRefRunner, Runner, bound_feeds, open_runner

__all__ = [
    "Comparison",
    "NodeComparison",
    "ValueComparison",
    "Verdict",
    "Work",
    "align_models",
    "compare",
    "iterate_comparison",
]

_ITERATION = re.compile(r"\[\d+\]/")  # of a loop, in a path
_RANDOM = frozenset(
    {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial"}
)


def compare(
    model: Any,
    feeds: Any = None,
    against: Any = "onnxruntime",
    *,
    golden: Any = "numpy",
    other_model: Any = None,
    rtol: float = 1e-3,
    atol: float | None = None,
    stop: bool = False,
    local: bool = True,
    memory: int = MEMORY,
    limits: Limits = DEFAULT,
) -> Comparison:
    """Compare every value of two runs of a model, or of two models.

    Args:
        model: in any form that `onnxref.run` takes.
        feeds: its inputs, as for `onnxref.run`.
        against: the side to judge: the name of a runner, a path, a function from feeds to values by name, a
            mapping of recorded values, or a `Runner`; see `open_runner`.
        golden: the side to trust, named in the same way.
        other_model: a second model, whose values are aligned with those of the first; `against` runs it.
        rtol, atol: how far an element may be off, see `Tolerance`.
        stop: end at the first node that fails.
        local: measure local errors too.
        memory: bytes of values to hold at a time, on each side.

    Raises:
        BackendError: there is no such runner, or neither the whole nor any node runs there.
        ModelError, InputError: the model or the feeds are wrong.
    """
    work = _open(model, feeds, against, golden, other_model, Tolerance(rtol, atol), local, memory, limits)
    nodes: list[NodeComparison] = []
    for node in work.nodes(stop=stop):
        nodes.append(node)
        if stop and node.failed:
            break
    if nodes and work.problem and all(node.verdict is Verdict.unseen for node in nodes):
        raise BackendError(work.problem)
    rules = Counter(work.alignment.rules.values())
    stopped = stop and bool(nodes) and nodes[-1].failed
    return Comparison(work.golden.label, work.label, tuple(nodes), stopped, work.problem, rules)


def iterate_comparison(
    model: Any,
    feeds: Any = None,
    against: Any = "onnxruntime",
    *,
    golden: Any = "numpy",
    other_model: Any = None,
    rtol: float = 1e-3,
    atol: float | None = None,
    local: bool = True,
    memory: int = MEMORY,
    limits: Limits = DEFAULT,
) -> Iterator[NodeComparison]:
    """Yield node after node of a comparison, while both sides run; arguments are those of `compare`."""
    work = _open(model, feeds, against, golden, other_model, Tolerance(rtol, atol), local, memory, limits)
    yield from work.nodes()


def _open(
    model: Any,
    feeds: Any,
    against: Any,
    golden: Any,
    other_model: Any,
    tolerance: Tolerance,
    local: bool,
    memory: int,
    limits: Limits,
) -> Work:
    loaded = load_model(model, limits)
    bound = bound_feeds(loaded.graph, feeds)
    first = open_runner(golden, loaded, memory=memory, limits=limits)
    second_model = loaded if other_model is None else load_model(other_model, limits)
    second = open_runner(against, second_model, memory=memory, limits=limits)
    driver = loaded if first.model is None else first.model
    alignment = _align_runners(driver, second, bound, first, same_source=loaded)
    return Work(loaded, driver.graph, first, second, bound, alignment, tolerance, local, memory)


def _align_runners(
    driver: Model, second: Runner, feeds: Feeds, first: Runner, *, same_source: Model
) -> Alignment:
    """Return the counterparts of the golden values: equal names for one model, else by structure."""
    source = getattr(second, "source", None)
    if source is None or source is same_source:
        known = None if second.names is None else set(second.names)
        names = [name for name in made_values(driver.graph) if known is None or name in known]
        inputs = {value.name: value.name for value in driver.graph.inputs}
        return Alignment({name: name for name in names}, {}, inputs)
    return align_models(driver, source, feeds, runners=(first, second))


def align_models(
    first: Model,
    second: Model,
    feeds: Any = None,
    *,
    runners: tuple[Runner, Runner] | None = None,
    rtol: float = 1e-3,
    limits: Limits = DEFAULT,
) -> Alignment:
    """Return the counterparts of one model's values in another, looking at values where there are feeds.

    Args:
        feeds: inputs of the first model.
        runners: what runs the models; None means the reference kernels.
    """
    plain = align(first.graph, second.graph)
    if feeds is None or len(plain.values) == len(list(made_values(second.graph))):
        return plain
    named = _renamed_feeds(feeds, plain.inputs)
    sides = runners or (OnnxRefRunner(first, limits=limits), OnnxRefRunner(second, limits=limits))
    try:
        prints = _prints(sides[0], feeds), _prints(sides[1], named)
    except OnnxRefError:
        return plain  # one of them does not run as a whole
    return align(first.graph, second.graph, prints, rtol=rtol)


def _prints(runner: Runner, feeds: Feeds) -> dict[str, Fingerprint]:
    found = ((name, fingerprint(value)) for name, value in runner.values(feeds))
    return {name: print_ for name, print_ in found if print_ is not None}


def _renamed_feeds(feeds: Feeds, names: Mapping[str, str]) -> dict[str, Any]:
    return {names[name]: value for name, value in feeds.items() if name in names}


# The work, also of `what_if` and `compare_quantised` -------------------------------------------


@dataclass(slots=True)
class Step:
    """One executed node of the golden side.

    Attributes:
        outputs: values by name, without the scope; those that the golden side does not have are left out.
        inputs: in the node's order; None for nodes of the main graph, whose inputs are held by name.
    """

    node: Node
    scope: str
    outputs: dict[str, Any]
    inputs: Sequence[Any] | None = None

    @property
    def path(self) -> str:
        return self.scope + self.node.label


@dataclass(slots=True)
class Work:
    """One comparison while it goes on.

    Attributes:
        model: the golden side's model as it was given.
        driver: the graph whose nodes are compared: what the golden side executes.
        wanted: which golden values are compared; None means all.
        run_inner: how the other side runs a node of a subgraph; None where it is the same model.
        problem: why the other side cannot run as a whole, once that is known.
        held: golden values that a later node's local error needs.
        failed: values whose cumulative error is beyond the tolerance.
    """

    model: Model
    driver: Graph
    golden: Runner
    other: Runner
    feeds: Feeds
    alignment: Alignment
    tolerance: Tolerance
    local: bool
    memory: int
    run_inner: Callable[[Node, Sequence[Any]], list[Any]] | None = None
    wanted: Callable[[Any], bool] | None = None
    problem: str = ""
    held: dict[str, Any] = field(default_factory=dict)
    failed: set[str] = field(default_factory=set)
    failed_nodes: set[str] = field(default_factory=set)
    last_uses: dict[str, int] = field(default_factory=dict)
    order: dict[int, int] = field(default_factory=dict)
    reference: OnnxRefRunner | None = None
    inner: dict[str, tuple[Node, Mapping[str, Any]]] | None = None
    golden_pieces: Pieces | None = None

    @property
    def label(self) -> str:
        """The other side's name, told apart where both have the same."""
        return self.other.label if self.other.label != self.golden.label else f"the other {self.other.label}"

    @property
    def runs_nodes(self) -> bool:
        """Whether the other side runs single nodes as it runs them in the whole model."""
        if isinstance(self.other, OnnxRefRunner):
            return self.other.is_reference
        return isinstance(self.other, ModelRunner)

    @property
    def is_one_model(self) -> bool:
        source = getattr(self.other, "source", self.model)
        return source is self.model

    def nodes(self, *, stop: bool = False) -> Iterator[NodeComparison]:
        """Yield the comparison of every node."""
        self.order = {id(node): i for i, node in enumerate(self.driver.nodes)}
        if self.local and self.runs_nodes:
            self.last_uses = self._find_last_uses()
        self.held = dict(self.feeds)
        batch: list[Step] = []
        size = 0
        for step in self.steps():
            batch.append(step)
            size += sum(map(value_bytes, step.outputs.values()))
            if size > self.memory / 2 or (stop and len(batch) >= 64):
                yield from self.judge(batch)
                batch, size = [], 0
        yield from self.judge(batch)

    def steps(self) -> Iterator[Step]:
        """Yield the golden side's nodes with their values."""
        if isinstance(self.golden, OnnxRefRunner) and self.golden.is_reference:
            for found in self.golden.executions(self.feeds):
                pairs = zip(found.node.outputs, found.outputs, strict=False)
                outputs = {name: value for name, value in pairs if name}
                yield Step(found.node, found.scope, outputs, found.inputs if found.scope else None)
            return
        makers = {name: node for node in self.driver.nodes for name in node.outputs if name}
        step: Step | None = None
        for name, value in self.golden.values(self.feeds, list(made_values(self.driver))):
            node = makers[name]
            if step is not None and step.node is not node:
                yield step
                step = None
            step = step or Step(node, "", {})
            step.outputs[name] = value
        if step is not None:
            yield step

    def judge(self, batch: Sequence[Step]) -> Iterator[NodeComparison]:
        """Yield the comparisons of some nodes, whose values are dropped after that."""
        found = self._fetch(batch)
        for step in batch:
            if not step.scope:
                self.held.update(step.outputs)
            yield self._judge_node(step, found)
            if not step.scope:
                self._drop(self.order[id(step.node)])

    def _fetch(self, batch: Sequence[Step]) -> dict[str, Any]:
        names = [other for step in batch for name in step.outputs if (other := self._counterpart(step, name))]
        if self.local and not self.runs_nodes:
            inputs = (name for step in batch if not step.scope for name in sorted(names_used(step.node)))
            names += [name for name in inputs if name not in self.model.graph.initializers]
        if not names or self.problem:
            return {}
        try:
            feeds = _renamed_feeds(self.feeds, self.alignment.inputs)
            return self.other.fetch(feeds, list(dict.fromkeys(names)))
        except OnnxRefError as error:
            if isinstance(error, (InputError, OutputError)) or not self.runs_nodes:
                raise
            self.problem = str(error)
            return {}

    def _counterpart(self, step: Step, name: str) -> str | None:
        """Return the other side's name of a value; inner ones keep their path."""
        if not step.scope:
            if self.other.names is None:
                return name
            return self.alignment.values.get(name)
        observes = not isinstance(self.other, ModelRunner) or (
            isinstance(self.other, OnnxRefRunner) and self.other.is_reference
        )
        return step.scope + name if observes else None

    def _judge_node(self, step: Step, found: Mapping[str, Any]) -> NodeComparison:
        if step.node.op_type in _RANDOM and not step.node.domain:
            return NodeComparison(step.path, step.node.op_type, Verdict.random, ())
        locals_, note = self._local(step, found) if self.local else ({}, "")
        outputs = []
        for name, value in step.outputs.items():
            if self.wanted is not None and not self.wanted(value):
                continue
            other = self._counterpart(step, name)
            cumulative = None
            if other is not None and other in found:
                cumulative = errors_between(value, self._floats(other, found[other]), self.tolerance)
            elif not note or name in locals_:
                note = note or self._missing(step, other)
            path = step.scope + name
            if cumulative is None:
                # What cannot be seen is taken to hand on what went into it.
                is_suspect = any(step.scope + used in self.failed for used in names_used(step.node))
            else:
                is_suspect = not cumulative.passed
            if is_suspect:
                self.failed.add(path)
            outputs.append(ValueComparison(path, other, cumulative, locals_.get(name), note))
        verdict = self._verdict(step, outputs)
        if verdict in FAILURES:
            self.failed_nodes.add(step.path)
        merged = self._merged(step) if verdict in FAILURES else ()
        return NodeComparison(step.path, step.node.op_type, verdict, tuple(outputs), merged)

    def _merged(self, step: Step) -> tuple[str, ...]:
        """Return the nodes between this one and the values before it that the other side has."""
        if step.scope or not isinstance(self.other, ModelRunner):
            return ()
        if self.golden_pieces is None:
            self.golden_pieces = Pieces(self.driver)
        known = {*self.alignment.values, *self.feeds} - set(step.outputs)
        nodes = self.golden_pieces.find(list(step.outputs), known).nodes
        return tuple(
            node.label
            for node in nodes
            if node is not step.node and (node.op_type != "Constant" or node.domain)
        )

    def _missing(self, step: Step, other: str | None) -> str:
        if self.problem:
            return ""
        if other is None and step.scope:
            return "the other side does not show what is inside of subgraphs and functions"
        return "the other side has no such value" if other is None else "not among the other side's values"

    def _verdict(self, step: Step, outputs: Sequence[ValueComparison]) -> Verdict:
        if any(value.local is not None and not value.local.passed for value in outputs):
            return Verdict.inherited if self._failed_inside(step) else Verdict.wrong
        if any(value.cumulative is not None and not value.cumulative.passed for value in outputs):
            if not any(value.local is not None for value in outputs):
                return Verdict.inherited if self._failed_inside(step) else Verdict.differs
            inherited = any(step.scope + name in self.failed for name in names_used(step.node))
            return Verdict.inherited if inherited or step.scope else Verdict.amplified
        if any(value.local is not None or value.cumulative is not None for value in outputs):
            return Verdict.agrees
        if not step.scope or not self._has_inner(step.node):
            return Verdict.unseen
        # A node that runs others is judged by them where it cannot be run alone.
        return Verdict.inherited if self._failed_inside(step) else Verdict.agrees

    def _failed_inside(self, step: Step) -> bool:
        prefixes = f"{step.path}/", f"{step.path}["
        return self._has_inner(step.node) and any(path.startswith(prefixes) for path in self.failed_nodes)

    def _has_inner(self, node: Node) -> bool:
        is_call = (node.domain, node.op_type, node.overload) in self.model.functions
        return is_call or bool(subgraphs(node))

    # Local errors

    def _local(self, step: Step, found: Mapping[str, Any]) -> tuple[dict[str, Errors], str]:
        """Return the errors of the node alone by output, and why there are none."""
        try:
            if step.scope:
                return self._local_inner(step), ""
            return (self._local_golden if self.runs_nodes else self._local_own)(step, found), ""
        except OnnxRefError as error:
            return {}, f"not run alone: {error}"

    def _local_inner(self, step: Step) -> dict[str, Errors]:
        """Run a node of a subgraph or function on its golden inputs."""
        if subgraphs(step.node):
            return {}  # it may use values of the scopes around it; the nodes inside are run one by one
        if self.run_inner is not None:
            values = self.run_inner(step.node, step.inputs or ())
            return self._errors(step, dict(zip(step.node.outputs, values, strict=False)))
        if not isinstance(self.other, ModelRunner) or not self.runs_nodes:
            return {}
        node, inputs = step.node, list(step.inputs or ())
        if not self.is_one_model:
            if (twin := self._twin(step)) is None:
                return {}
            node, constants = twin
            inputs = [constants.get(name, value) for name, value in zip(node.inputs, inputs, strict=False)]
        values = self.other.run_node(node, inputs)
        return self._errors(step, dict(zip(step.node.outputs, values, strict=False)))

    def _twin(self, step: Step) -> tuple[Node, Mapping[str, Any]] | None:
        """Return the node of another model that is at the same place, and the constants that it sees."""
        if self.inner is None:
            assert isinstance(self.other, ModelRunner)
            self.inner = dict(_inner_nodes(self.other.source.graph, "", {}))
        found = self.inner.get(_ITERATION.sub("/", step.path))
        if found is None or found[0].op_type != step.node.op_type:
            return None
        return found if len(found[0].inputs) == len(step.node.inputs) else None

    def _local_golden(self, step: Step, found: Mapping[str, Any]) -> dict[str, Errors]:
        """Run what the other side has between golden values and the node's outputs."""
        assert isinstance(self.other, ModelRunner)
        pairs = {name: other for name in step.outputs if (other := self._counterpart(step, name)) is not None}
        if not pairs:
            return {}
        known = ((name, other) for name, other in self._known() if name in self.held)
        given = {other: self._stored(other, self.held[name]) for name, other in known}
        values = self.other.compute(list(pairs.values()), given)
        found = {name: self._floats(other, values[other]) for name, other in pairs.items()}
        return self._errors(step, found)

    def _floats(self, other: str, value: Any) -> Any:
        """Return a value of the other side as floats, where its integers stand for some."""
        scale = self.alignment.scales.get(other)
        is_integer = isinstance(value, np.ndarray) and value.dtype.kind in "iu"
        return value if scale is None or not is_integer else scale.to_float(value)

    def _stored(self, other: str, value: Any) -> Any:
        """Return a golden value as the other side holds it."""
        scale = self.alignment.scales.get(other)
        is_float = isinstance(value, np.ndarray) and value.dtype.kind == "f"
        return value if scale is None or not is_float else scale.to_integers(value)

    def _local_own(self, step: Step, found: Mapping[str, Any]) -> dict[str, Errors]:
        """Run the node on our reference with the other side's inputs, and compare its outputs with that."""
        if self.reference is None:
            self.reference = OnnxRefRunner(self.model)
        given = {name: value for name, value in self.feeds.items() if name not in found} | dict(found)
        needed = [n for n in names_used(step.node) if n not in self.model.graph.initializers]
        if any(name not in given for name in needed):
            return {}
        names = [name for name in step.outputs if name in found]
        if not names:
            return {}
        values = self.reference.compute(names, {name: given[name] for name in needed})
        return {name: errors_between(values[name], found[name], self.tolerance) for name in names}

    def _errors(self, step: Step, values: Mapping[str, Any]) -> dict[str, Errors]:
        return {
            name: errors_between(value, values[name], self.tolerance)
            for name, value in step.outputs.items()
            if name in values
        }

    def _known(self) -> Iterator[tuple[str, str]]:
        yield from self.alignment.inputs.items()
        yield from self.alignment.values.items()

    def _find_last_uses(self) -> dict[str, int]:
        """Return for each golden value the last node whose local error needs it."""
        assert isinstance(self.other, ModelRunner)
        known = {other: name for name, other in self._known()}
        found: dict[str, int] = {}
        for i, node in enumerate(self.driver.nodes):
            outputs = [self.alignment.values[n] for n in node.outputs if n in self.alignment.values]
            if outputs:
                for name in self.other.pieces.find(outputs, known.keys()).inputs:
                    if name in known:
                        found[known[name]] = i
        return found

    def _drop(self, index: int) -> None:
        """Forget the values that no later node needs."""
        for name in [name for name in self.held if self.last_uses.get(name, -1) <= index]:
            if name not in self.feeds:
                del self.held[name]


def _inner_nodes(
    graph: Graph, scope: str, outside: Mapping[str, Any]
) -> Iterator[tuple[str, tuple[Node, Mapping[str, Any]]]]:
    """Yield the nodes of subgraphs by path, without iterations, each with the constants that it sees."""
    constants = {**outside, **graph.initializers}
    for node in graph.nodes:
        if node.op_type == "Constant" and isinstance(value := node.attributes.get("value"), np.ndarray):
            constants[node.outputs[0]] = value
        if scope:
            yield scope + node.label, (node, constants)
        for name, inner in subgraphs(node).items():
            yield from _inner_nodes(inner, f"{scope}{node.label}/{name}/", constants)
