"""A call of a model-local function as a graph: its body with the call's attributes put in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ..errors import InvalidAttributeError, InvalidGraphError
from ..graph import AttributeReference, Function, Graph, Node, Value


def check_call(node: Node, function: Function) -> None:
    """Check the number of inputs and outputs of a call.

    Raises:
        InvalidGraphError: the function has fewer.
    """
    if len(node.inputs) > len(function.inputs) or len(node.outputs) > len(function.outputs):
        raise InvalidGraphError(
            f"{node}: the function takes {len(function.inputs)} inputs and gives "
            f"{len(function.outputs)} outputs (got {len(node.inputs)} and {len(node.outputs)})"
        )


def bind_attributes(node: Node, function: Function) -> dict[str, Any]:
    """Return the values of the function's attributes in a call, its defaults included.

    Raises:
        InvalidAttributeError: the call gives an attribute that the function does not have.
    """
    known = {*function.attributes, *function.attribute_defaults}
    for name in node.attributes:
        if name not in known:
            raise InvalidAttributeError(f"{node}: the function has no attribute {name!r}")
    return {**function.attribute_defaults, **node.attributes}


def function_graph(function: Function, bindings: Mapping[str, Any]) -> Graph:
    """Return the function's body for given values of its attributes."""
    return Graph(
        name=f"{function.domain}:{function.name}",
        inputs=tuple(Value(name) for name in function.inputs),
        outputs=tuple(Value(name) for name in function.outputs),
        nodes=tuple(_substitute(inner, bindings) for inner in function.nodes),
    )


def _substitute(node: Node, bindings: Mapping[str, Any]) -> Node:
    """Return the node with references to the function's attributes replaced by their values.

    A reference to an attribute that the call leaves out makes the inner attribute absent too.
    """
    attributes: dict[str, Any] = {}
    for name, value in node.attributes.items():
        if isinstance(value, AttributeReference):
            if value.name in bindings:
                attributes[name] = bindings[value.name]
        elif isinstance(value, Graph):
            inner = tuple(_substitute(child, bindings) for child in value.nodes)
            attributes[name] = replace(value, nodes=inner)
        else:
            attributes[name] = value
    return replace(node, attributes=attributes)
