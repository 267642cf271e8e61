"""Pieces of a model: the nodes between some values and others, as a model of their own."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..dtypes import from_numpy
from ..errors import OutputError
from ..graph import (
    Graph,
    MapType,
    Model,
    Node,
    OptionalType,
    SequenceType,
    SparseTensor,
    SparseTensorType,
    TensorType,
    Value,
    ValueType,
    names_used,
)


@dataclass(frozen=True, slots=True)
class Piece:
    """The nodes that compute some values from others.

    Attributes:
        nodes: in topological order.
        inputs: the values they need from outside, constants left out.
    """

    nodes: tuple[Node, ...]
    inputs: tuple[str, ...]


class Pieces:
    """Finds pieces of one graph."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.makers = {name: node for node in graph.nodes for name in node.outputs if name}
        self._order = {id(node): i for i, node in enumerate(graph.nodes)}

    def find(self, outputs: Sequence[str], known: Collection[str]) -> Piece:
        """Return the nodes between `known` values and `outputs`; the latter are computed even if known.

        Raises:
            OutputError: the graph has no such value.
        """
        nodes: dict[int, Node] = {}
        inputs: dict[str, None] = {}
        waiting = [self._maker(name) for name in outputs]
        while waiting:
            node = waiting.pop()
            if id(node) in nodes:
                continue
            nodes[id(node)] = node
            for name in names_used(node):
                maker = self.makers.get(name)
                if name in self.graph.initializers and maker is None and name not in known:
                    continue
                if maker is None or name in known:
                    inputs[name] = None
                else:
                    waiting.append(maker)
        ordered = sorted(nodes.values(), key=lambda node: self._order[id(node)])
        return Piece(tuple(ordered), tuple(inputs))

    def _maker(self, name: str) -> Node:
        if name not in self.makers:
            raise OutputError(f"no node of the model makes {name!r}")
        return self.makers[name]


def extract(model: Model, piece: Piece, outputs: Sequence[str], given: Mapping[str, Any]) -> Model:
    """Return a piece as a model; `given` holds a value for each of its inputs, for their types."""
    graph = model.graph
    used = set().union(*(names_used(node) for node in piece.nodes)) if piece.nodes else set()
    inputs = tuple(Value(name, type_of(given.get(name))) for name in piece.inputs)
    constants = {name: graph.initializers[name] for name in graph.initializers if name in used}
    for name in piece.inputs:
        constants.pop(name, None)
    small = replace(
        graph,
        inputs=inputs,
        outputs=tuple(Value(name) for name in outputs),
        nodes=piece.nodes,
        initializers=constants,
        value_types={},
    )
    return replace(model, graph=small)


def single_node(node: Node, inputs: Sequence[Any], model: Model) -> tuple[Model, dict[str, Any]]:
    """Return a model of one node, and what to feed it; `model` gives functions and opsets.

    Args:
        inputs: its inputs in order; None for absent ones.
    """
    feeds = {name: value for name, value in zip(node.inputs, inputs, strict=False) if name}
    graph = Graph(
        name="node",
        inputs=tuple(Value(name, type_of(value)) for name, value in feeds.items()),
        outputs=tuple(Value(name) for name in node.outputs if name),
        nodes=(node,),
    )
    return replace(model, graph=graph, opset_imports={**model.opset_imports, node.domain: node.opset}), feeds


def type_of(value: Any) -> ValueType | None:
    """Return the type of a value at hand, its shape left open; None where it cannot be told."""
    match value:
        case np.ndarray():
            return TensorType(int(from_numpy(value.dtype)), (None,) * value.ndim)
        case SparseTensor():
            return SparseTensorType(int(from_numpy(value.values.dtype)), value.shape)
        case list():
            inner = type_of(value[0]) if value else None
            if isinstance(inner, TensorType):  # elements may have different ranks
                inner = replace(inner, shape=None)
            return SequenceType(inner)
        case dict() if value:
            key, item = next(iter(value.items()))
            kind = from_numpy(np.asarray(key).dtype)
            return MapType(int(kind), type_of(np.asarray(item)))
        case None:
            return OptionalType(None)
        case _:
            return None


def value_bytes(value: Any) -> int:
    """Return how much memory a value takes, as far as that can be told."""
    match value:
        case np.ndarray():
            return value.nbytes
        case SparseTensor():
            return value.values.nbytes + value.indices.nbytes
        case list():
            return sum(map(value_bytes, value))
        case dict():
            return 64 * len(value)
        case _:
            return 0


def made_values(graph: Graph) -> Iterator[str]:
    """Yield the values that nodes compute while the model runs, in topological order."""
    for node in graph.nodes:
        if node.op_type != "Constant" or node.domain:
            yield from (name for name in node.outputs if name)
