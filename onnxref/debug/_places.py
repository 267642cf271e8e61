"""Where a node is in a model: paths through bodies and functions, and graphs at their ends."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from ..errors import OutputError
from ..graph import FunctionKey, Graph, Model, Node, names_used, subgraphs
from ..plan import bind_attributes, function_graph

_MOST_NEAR = 5  # nodes that an error names


@dataclass(frozen=True, slots=True)
class Level:
    """One step from a graph into a body of one of its nodes.

    Attributes:
        index: which node.
        body: the attribute that holds the graph; empty for a function.
        function: the function that is called; None for a graph.
    """

    index: int
    body: str
    function: FunctionKey | None


@dataclass(frozen=True, slots=True)
class Place:
    """A graph of a model, and how to get there.

    Attributes:
        scope: as observers tell it: empty for the main graph, else ending in "/".
        graphs: the graph itself last, before it those whose values it sees.
    """

    scope: str
    levels: tuple[Level, ...]
    graphs: tuple[Graph, ...]
    owner: Node | None = None

    @property
    def graph(self) -> Graph:
        """The graph itself."""
        return self.graphs[-1]


def main_place(model: Model) -> Place:
    """Return the main graph."""
    return Place("", (), (model.graph,))


def find_node(model: Model, path: str) -> tuple[Place, int]:
    """Return the graph and index of a node.

    Args:
        path: of the node, or of a value that it makes.

    Raises:
        OutputError: there is no such node, or there are several.
    """
    found: dict[tuple[str, int], Place] = {}
    for place, tail in _splits(model, main_place(model), path):
        for index, node in enumerate(place.graph.nodes):
            if tail in (node.label, f"{node.op_type}#{node.position}"):
                found[place.scope, index] = place
    if not found:
        for place, tail in _splits(model, main_place(model), path):
            for index, node in enumerate(place.graph.nodes):
                if tail and tail in node.outputs:
                    found[place.scope, index] = place
    if not found:
        raise OutputError(f"the model has no node or computed value {path!r}{_similar(model, path)}")
    if len(found) > 1:
        nodes = [(p.scope, p.graph.nodes[i]) for (_, i), p in found.items()]
        names = ", ".join(f"{scope}{node.op_type}#{node.position}" for scope, node in nodes)
        raise OutputError(f"{path!r} means several nodes: {names}")
    ((_, index), place) = next(iter(found.items()))
    return place, index


def find_value(model: Model, path: str) -> tuple[Place, str]:
    """Return the graph and name of a value, whether it is computed, an input or an initializer.

    Raises:
        OutputError: there is no such value.
    """
    for place, tail in _splits(model, main_place(model), path):
        graph = place.graph
        known = {value.name for value in graph.inputs} | set(graph.initializers) | outputs_of(graph.nodes)
        if tail in known:
            return place, tail
    raise OutputError(f"the model has no value {path!r}")


def _similar(model: Model, path: str) -> str:
    """Name some nodes whose paths end as a path does, or whose labels hold its last part."""
    word = path.rpartition("/")[2].partition("#")[0].lower()
    alike: list[str] = []
    near: list[str] = []
    for label in _labels(model, main_place(model)) if word else ():
        if label.endswith(path):
            alike.append(label)
        elif word in label.rpartition("/")[2].lower() and len(near) < _MOST_NEAR:
            near.append(label)
        if len(alike) == _MOST_NEAR:
            break
    shown = alike or near or [node.label for node in model.graph.nodes[:_MOST_NEAR]]
    return f"; it has: {', '.join(shown)} ..." if shown else ""


def _labels(model: Model, place: Place) -> Iterator[str]:
    """Return the paths of all nodes, those of bodies as in their first call."""
    for index, node in enumerate(place.graph.nodes):
        yield place.scope + node.label
        if (node.domain, node.op_type, node.overload) in model.functions:
            yield from _labels(model, enter(model, place, index, "", 0))
        else:
            for name in subgraphs(node):
                yield from _labels(model, enter(model, place, index, name, 0))


def _splits(model: Model, place: Place, path: str) -> Iterator[tuple[Place, str]]:
    """Return every graph that a path may lead into, with what is left of the path there."""
    yield place, path
    for index, node in enumerate(place.graph.nodes):
        for label in dict.fromkeys((node.label, f"{node.op_type}#{node.position}")):
            if path.startswith(label):
                for inner, rest in _enter(model, place, index, path[len(label) :]):
                    yield from _splits(model, inner, rest)


def _enter(model: Model, place: Place, index: int, rest: str) -> Iterator[tuple[Place, str]]:
    node = place.graph.nodes[index]
    key = (node.domain, node.op_type, node.overload)
    if key in model.functions:
        if rest.startswith("/"):
            yield enter(model, place, index, "", 0), rest[1:]
        return
    for name in subgraphs(node):
        matched = re.match(rf"(?:\[(\d+)\])?/{re.escape(name)}/", rest)
        if matched and (matched[1] is None) == (node.op_type == "If"):
            yield enter(model, place, index, name, int(matched[1] or 0)), rest[matched.end() :]


def enter(model: Model, place: Place, index: int, body: str, call: int) -> Place:
    """Return the body of a node in one of its calls; `body` is empty for a function."""
    node = place.graph.nodes[index]
    label = place.scope + node.label
    owner = place.owner or node
    key = (node.domain, node.op_type, node.overload)
    if not body:
        function = model.functions[key]
        graph = function_graph(function, bind_attributes(node, function))
        return Place(f"{label}/", (*place.levels, Level(index, "", key)), (graph,), owner)
    times = "" if node.op_type == "If" else f"[{call}]"
    levels = (*place.levels, Level(index, body, None))
    return Place(f"{label}{times}/{body}/", levels, (*place.graphs, subgraphs(node)[body]), owner)


def is_constant(node: Node) -> bool:
    """Whether a node is a Constant, which is evaluated when a run is planned."""
    return node.op_type == "Constant" and not node.domain


def outputs_of(nodes: Iterable[Node]) -> set[str]:
    """Return the names of all values that some nodes make."""
    return {name for node in nodes for name in node.outputs if name}


def reachable(graph: Graph, start: int) -> set[int]:
    """Return the nodes that depend on a node, itself included."""
    found, names = {start}, outputs_of([graph.nodes[start]])
    for index, node in enumerate(graph.nodes):
        if index > start and names & names_used(node):
            found.add(index)
            names |= outputs_of([node])
    return found


def needed(graph: Graph, outputs: Iterable[str], stops: Collection[str]) -> set[int]:
    """Return the nodes that some values depend on, without looking behind others."""
    wanted, found = set(outputs), set()
    for index in reversed(range(len(graph.nodes))):
        node = graph.nodes[index]
        if (wanted - set(stops)).intersection(node.outputs) - {""}:
            found.add(index)
            wanted |= names_used(node)
    return found


# Changing ----------------------------------------------------------------------------------------

NodesChange = Callable[[tuple[Node, ...]], tuple[Node, ...]]


def changed_model(model: Model, place: Place, change: NodesChange) -> Model:
    """Return a model in which the nodes of one graph, or of one function, are others."""
    calls = [i for i, level in enumerate(place.levels) if level.function is not None]
    inner = place.levels[calls[-1] + 1 :] if calls else place.levels
    key = place.levels[calls[-1]].function if calls else None
    if key is None:
        nodes = _changed_nodes(model.graph.nodes, inner, change)
        return replace(model, graph=replace(model.graph, nodes=nodes))
    function = model.functions[key]
    changed = replace(function, nodes=_changed_nodes(function.nodes, inner, change))
    return replace(model, functions={**model.functions, key: changed})


def _changed_nodes(nodes: tuple[Node, ...], levels: Sequence[Level], change: NodesChange) -> tuple[Node, ...]:
    if not levels:
        return change(nodes)
    level, *inner = levels
    node = nodes[level.index]
    body = node.attributes[level.body]
    if not isinstance(body, Graph):
        raise OutputError(f"{node}: its body is an attribute of a function, whose inside cannot be reached")
    graph = replace(body, nodes=_changed_nodes(body.nodes, inner, change))
    changed = replace(node, attributes={**node.attributes, level.body: graph})
    return (*nodes[: level.index], changed, *nodes[level.index + 1 :])
