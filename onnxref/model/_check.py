"""Structural rules of the ONNX IR that need no knowledge of operators.

Rules
    1. Every value that a node uses is defined: by an input, an initializer, another node of the same
       graph, or a surrounding graph. Function bodies see nothing around them.
    2. A value is defined once in a graph.
    3. The nodes of a graph form no cycle. The specification also wants them sorted; files that are
       not are sorted on loading (`sort_nodes`), as other runtimes do.
    4. Functions do not call themselves, directly or through others.
    5. Every operator's domain is imported.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ..errors import InvalidGraphError, ResourceLimitError
from ..graph import Function, FunctionKey, Graph, Model, Node, names_used, subgraphs
from ..limits import Limits


def sort_nodes(nodes: tuple[Node, ...]) -> tuple[Node, ...]:
    """Return the nodes in topological order, unchanged where they have it already.

    Raises:
        InvalidGraphError: the nodes form a cycle (rule 3).
    """
    producer = {name: i for i, node in enumerate(nodes) for name in node.outputs if name}
    needs = [{producer[n] for n in names_used(node) if n in producer} for node in nodes]
    if all(j < i for i, before in enumerate(needs) for j in before):
        return nodes
    users: list[list[int]] = [[] for _ in nodes]
    for i, before in enumerate(needs):
        for j in before:
            users[j].append(i)
    waiting = [len(before) for before in needs]
    ready = [i for i, count in enumerate(waiting) if not count]
    order: list[int] = []
    for i in ready:  # grows while it is walked
        order.append(i)
        for user in users[i]:
            waiting[user] -= 1
            if not waiting[user]:
                ready.append(user)
    if len(order) < len(nodes):
        stuck = [str(node) for node, count in zip(nodes, waiting, strict=True) if count]
        shown = ", ".join(stuck[:5]) + (" ..." if len(stuck) > 5 else "")
        raise InvalidGraphError(f"the graph has a cycle among {len(stuck)} nodes: {shown}")
    return tuple(nodes[i] for i in order)


def check_model(model: Model, limits: Limits) -> None:
    """Check the rules above.

    Raises:
        InvalidGraphError: a rule is broken; the message names the node and the value.
        ResourceLimitError: functions nest deeper than the limits allow.
    """
    _check_graph(model.graph, frozenset(), model)
    for function in model.functions.values():
        _check_function(function, model)
    _check_calls(model, limits)


def _check_graph(graph: Graph, outer: frozenset[str], model: Model) -> None:
    inputs = [value.name for value in graph.inputs]
    _check_unique(inputs, f"graph {graph.name!r}: input")
    where = f"graph {graph.name!r}"
    known = _check_nodes(graph.nodes, {*inputs, *graph.initializers}, outer, where, model)
    for value in graph.outputs:
        if value.name and value.name not in known and value.name not in outer:
            raise InvalidGraphError(f"{where}: output {value.name!r} is never defined")


def _check_function(function: Function, model: Model) -> None:
    where = f"function {function.domain}:{function.name}"
    _check_unique(function.inputs, f"{where}: input")
    known = _check_nodes(function.nodes, set(function.inputs), frozenset(), where, model)
    for name in function.outputs:
        if name not in known:
            raise InvalidGraphError(f"{where}: output {name!r} is never defined")


def _check_nodes(
    nodes: Iterable[Node], known: set[str], outer: frozenset[str], where: str, model: Model
) -> set[str]:
    for node in nodes:
        for name in node.inputs:
            if name and name not in known and name not in outer:
                raise InvalidGraphError(f"{where}: {node} uses {name!r}, which nothing defines")
        for graph in subgraphs(node).values():
            _check_graph(graph, outer | known, model)
        for name in node.outputs:
            if not name:
                continue
            if name in known:
                raise InvalidGraphError(f"{where}: {node} defines {name!r}, which is defined already")
            known.add(name)
        if not node.opset and (node.domain, node.op_type, node.overload) not in model.functions:
            raise InvalidGraphError(
                f"{where}: {node} belongs to domain {node.domain or 'ai.onnx'!r}, "
                "of which the model imports no version"
            )
    return known


def _check_unique(names: Iterable[str], what: str) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise InvalidGraphError(f"{what} {name!r} is listed twice")
        seen.add(name)


def _called(nodes: Iterable[Node], model: Model) -> Iterator[FunctionKey]:
    for node in nodes:
        key = (node.domain, node.op_type, node.overload)
        if key in model.functions:
            yield key
        for graph in subgraphs(node).values():
            yield from _called(graph.nodes, model)


def _check_calls(model: Model, limits: Limits) -> None:
    """Rule 4, and the bound on how deep calls nest."""
    calls = {key: set(_called(f.nodes, model)) for key, f in model.functions.items()}
    depth: dict[FunctionKey, int] = {}
    path: list[FunctionKey] = []

    def visit(key: FunctionKey) -> int:
        if key in path:
            chain = " -> ".join(f"{d}:{n}" for d, n, _ in [*path[path.index(key) :], key])
            raise InvalidGraphError(f"functions call each other in a circle: {chain}")
        if key not in depth:
            check_depth(len(path) + 1)
            path.append(key)
            depth[key] = 1 + max((visit(inner) for inner in calls[key]), default=0)
            path.pop()
        # What lies below was perhaps visited before, on a shorter path.
        check_depth(len(path) + depth[key])
        return depth[key]

    def check_depth(reached: int) -> None:
        if limits.depth is not None and reached > limits.depth:
            raise ResourceLimitError(f"limit 'depth' is {limits.depth}: functions nest deeper")

    for key in calls:
        visit(key)
