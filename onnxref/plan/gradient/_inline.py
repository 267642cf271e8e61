"""Calls of model-local functions, written out; and renaming, which cloned nodes need too."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ...graph import Function, FunctionKey, Graph, Node, names_used
from .._functions import bind_attributes, check_call, function_graph
from ._tape import Tape, Term


def inline(
    tape: Tape, node: Node, function: Function, functions: Mapping[FunctionKey, Function]
) -> list[Term | None]:
    """Append the body of the function that a node calls, and return the terms of its outputs."""
    from ._expand import expand_gradients  # which comes here by way of _backward

    check_call(node, function)
    graph = function_graph(function, bind_attributes(node, function))
    body = expand_gradients(graph, functions, tape.budget)
    given = node.inputs + ("",) * (len(function.inputs) - len(node.inputs))
    names = dict(zip(function.inputs, given, strict=True))
    for inner in body.nodes:
        add_renamed(tape, inner, names)
    return [tape.term(names[name]) for name in function.outputs]


def add_renamed(tape: Tape, node: Node, names: dict[str, str]) -> None:
    """Append a copy of a node that reads renamed values, and whose outputs get fresh names."""
    fresh = {name: tape.fresh(node.op_type) for name in node.outputs if name}
    attributes = {key: _rename_graph(value, names) for key, value in node.attributes.items()}
    tape.add(
        replace(
            node,
            inputs=tuple(names.get(name, name) for name in node.inputs),
            outputs=tuple(fresh.get(name, "") for name in node.outputs),
            attributes=attributes,
        )
    )
    names.update(fresh)


def _rename_graph(value: Any, names: Mapping[str, str]) -> Any:
    """Return a subgraph that takes renamed values from outside; other attributes as they are."""
    if not isinstance(value, Graph):
        return value
    own = {v.name for v in value.inputs} | set(value.initializers)
    own.update(name for node in value.nodes for name in node.outputs)
    outer = {old: new for old, new in names.items() if old not in own}
    if outer.keys().isdisjoint(_names(value)):
        return value
    nodes = tuple(
        replace(
            node,
            inputs=tuple(outer.get(name, name) for name in node.inputs),
            attributes={key: _rename_graph(v, outer) for key, v in node.attributes.items()},
        )
        for node in value.nodes
    )
    outputs = tuple(replace(v, name=outer.get(v.name, v.name)) for v in value.outputs)
    return replace(value, nodes=nodes, outputs=outputs)


def _names(graph: Graph) -> set[str]:
    used = {value.name for value in graph.outputs}
    return used.union(*(names_used(node) for node in graph.nodes))
