"""What takes the place of a Gradient node.

Rules
    1. A Gradient node names the independent values `xs` and `zs`; its inputs say at which values to
       differentiate `y`. The nodes between are found by walking back from `y` to those names.
    2. Where an input is the very value of its name, what the forward pass computed is used; nodes
       that depend on another one are cloned with the input in its place.
    3. The gradient of `y` starts with ones: for a tensor `y` the result is that of its sum.
    4. An x that `y` does not depend on, or not differentiably, gets zeros.
    5. The node `y` may itself come from another Gradient node, which is then expanded first.
    6. All of this happens in one graph: a subgraph or function resolves its own Gradient nodes, and
       `y` must be made there.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace

from ... import schema
from ...errors import InvalidGraphError
from ...graph import Function, FunctionKey, Graph, Node, names_used
from ...limits import Budget
from ...registry import TRAINING
from .._check import check_against_schema
from ._backward import backpropagate
from ._inline import add_renamed
from ._tape import OPSET, Tape, Term

# Schema versions that have no kernel because their nodes are replaced before kernels are chosen.
LOWERED = frozenset({(TRAINING, "Gradient", 1)})


def expand_gradients(graph: Graph, functions: Mapping[FunctionKey, Function], budget: Budget) -> Graph:
    """Return the graph with every Gradient node replaced by the nodes that compute it.

    Raises:
        InvalidGraphError, InvalidAttributeError: a Gradient node names what is not there.
        UnsupportedOperatorError: the derivative of a node is not known.
        ResourceLimitError: the derivatives have more nodes than the budget allows.
    """
    if not any(is_gradient(node, functions) for node in graph.nodes):
        return graph
    return _Expansion(graph, functions, budget).run()


def is_gradient(node: Node, functions: Mapping[FunctionKey, Function]) -> bool:
    """Return whether a node is a Gradient, and not a call of a function of that name."""
    key = (node.domain, node.op_type, node.overload)
    return key[:2] == (TRAINING, "Gradient") and key not in functions


class _Expansion:
    """Expands the Gradient nodes of one graph."""

    def __init__(self, graph: Graph, functions: Mapping[FunctionKey, Function], budget: Budget) -> None:
        self.graph = graph
        self.functions = functions
        self.budget = budget
        # What stands for each node of the graph: itself, or the expansion of a Gradient node.
        self.results: dict[Node, list[Node]] = {}
        self.producers = {name: node for node in graph.nodes for name in node.outputs if name}
        self.names = {value.name for value in graph.inputs} | set(graph.initializers)
        self.names.update(value.name for value in graph.outputs)
        self.names.update(self.producers, *(names_used(node) for node in graph.nodes))
        self.in_progress: list[Node] = []

    def run(self) -> Graph:
        for node in self.graph.nodes:
            if is_gradient(node, self.functions):
                self.expand(node)
        found = [n for node in self.graph.nodes for n in self.results.get(node, [node])]
        ordered = _postorder(found, lambda node: self.before(node, ()), self.graph.name)
        return replace(self.graph, nodes=tuple(ordered))

    def expand(self, node: Node) -> None:
        """Find the nodes that take the place of a Gradient node, unless that is done already."""
        if node in self.results:
            return
        if node in self.in_progress:
            raise InvalidGraphError(f"{node}: its y depends on its own outputs")
        self.in_progress.append(node)
        self.budget.check_depth(len(self.in_progress))
        given = self.independent_values(node)
        y = node.attributes["y"]
        producer = None if y in given else self.producer(y)
        between = _postorder([producer], lambda n: self.before(n, given), self.graph.name) if producer else []
        for _ in between:  # many Gradient nodes over one long graph are work too
            self.budget.add_node()
        tape = Tape(f"gradient of {y}", self.names.__contains__, self.budget)
        self.differentiate(tape, node, between, given)
        self.commit(tape, node)
        self.in_progress.pop()

    def independent_values(self, node: Node) -> dict[str, str]:
        """Check a Gradient node, and return the input given for each name in `xs` and `zs`."""
        found = schema.find(node.domain, node.op_type, node.opset)
        if found is None:
            raise InvalidGraphError(f"{node}: {TRAINING} came with version 1")
        check_against_schema(node, found)
        xs, y = node.attributes["xs"], node.attributes["y"]
        names = (*xs, *node.attributes.get("zs", ()))
        if len(names) != len(node.inputs):
            raise InvalidGraphError(
                f"{node}: it needs one input for each of xs and zs, {len(names)} (got {len(node.inputs)})"
            )
        if len(set(names)) < len(names):
            raise InvalidGraphError(f"{node}: xs and zs must not repeat a name (got {', '.join(names)})")
        if len(node.outputs) > len(xs):
            raise InvalidGraphError(
                f"{node}: it has an output for each of xs, {len(xs)} (got {len(node.outputs)})"
            )
        for name in names:
            if name not in self.names:
                raise InvalidGraphError(f"{node}: graph {self.graph.name!r} has no value {name!r}")
        if y not in self.producers and y not in names:
            raise InvalidGraphError(f"{node}: y is {y!r}, which no node of graph {self.graph.name!r} makes")
        return dict(zip(names, node.inputs, strict=True))

    def producer(self, name: str) -> Node | None:
        """Return the node that makes a value; a Gradient node is expanded first (rule 5)."""
        found = self.producers.get(name)
        if found is not None and is_gradient(found, self.functions):
            self.expand(found)
            found = self.producers[name]
        return found

    def before(self, node: Node, leaves: Collection[str]) -> list[Node]:
        """Return the nodes whose results a node uses, not looking behind the leaves."""
        names = sorted(names_used(node) - set(leaves))
        return [found for name in names if (found := self.producer(name)) is not None]

    def differentiate(self, tape: Tape, node: Node, between: list[Node], given: dict[str, str]) -> None:
        nodes, renamed = _substitute(tape, between, given)
        y_name = node.attributes["y"]
        y = Term(tape, renamed.get(y_name, y_name))
        wanted = [(x, out) for x, out in zip(node.attributes["xs"], node.outputs, strict=False) if out]
        targets = [renamed.get(x, x) for x, _ in wanted]
        grads = backpropagate(tape, nodes, {y.name: y.filled(1.0)}, targets, self.functions)
        for target, (_, out) in zip(targets, wanted, strict=True):
            grad = grads.get(target) or Term(tape, target).filled(0.0)
            copy = Node("Identity", (grad.name,), (out,), name=node.name or out, opset=OPSET)
            tape.add(copy)
        tape.keep_only(out for _, out in wanted)

    def commit(self, tape: Tape, node: Node) -> None:
        """Put the tape in the node's place."""
        for old, new in tape.replaced.items():
            self.amend(old, new)
        self.results[node] = tape.nodes
        for made in tape.nodes:
            self.producers.update((name, made) for name in made.outputs if name)
            self.names.update(made.outputs)

    def amend(self, old: Node, new: Node) -> None:
        """Put a node that lists more outputs in the place of one of an earlier result or of the graph."""
        for nodes in self.results.values():
            if old in nodes:
                nodes[nodes.index(old)] = new
                break
        else:
            self.results[old] = [new]
        self.names.update(new.outputs)
        self.producers.update((name, new) for name in new.outputs if name)


def _substitute(
    tape: Tape, nodes: Iterable[Node], given: Mapping[str, str]
) -> tuple[list[Node], dict[str, str]]:
    """Clone what depends on substituted values; return the nodes to differentiate and the new names.

    A substituted value is copied under a fresh name: the same value may also play another part.
    """
    renamed: dict[str, str] = {}
    for name, value in given.items():
        if name != value:
            renamed[name] = Term(tape, value).apply("Identity").name
    result = []
    for node in nodes:
        if renamed.keys().isdisjoint(names_used(node)):
            result.append(node)
        else:
            add_renamed(tape, node, renamed)
            result.append(tape.nodes[-1])
    return result, renamed


def _postorder(roots: Iterable[Node], before: Callable[[Node], list[Node]], graph: str) -> list[Node]:
    """Return the roots and what they depend on, each after its own dependencies.

    Raises:
        InvalidGraphError: the nodes form a cycle.
    """
    order: list[Node] = []
    done: set[Node] = set()
    open_: set[Node] = set()
    stack = [(root, False) for root in reversed(list(roots))]
    while stack:
        node, ready = stack.pop()
        if ready:
            open_.discard(node)
            done.add(node)
            order.append(node)
        elif node not in done:
            if node in open_:
                raise InvalidGraphError(f"graph {graph!r}: {node} depends on its own result")
            open_.add(node)
            stack.append((node, True))
            stack.extend((other, False) for other in reversed(before(node)) if other not in done)
    return order
