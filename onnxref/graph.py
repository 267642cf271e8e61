"""The model as plain data: what `onnxref.model` loads and everything else reads.

Nothing here knows protobuf. All classes are frozen; tensors are NumPy arrays (possibly
memory-mapped), subgraph attributes are `Graph`s.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from .dtypes import Array, element_name

Dim: TypeAlias = int | str | None


@dataclass(frozen=True, slots=True)
class TensorType:
    """A dense tensor; `element` 0 and `shape` None where the model does not say."""

    element: int = 0
    shape: tuple[Dim, ...] | None = None


@dataclass(frozen=True, slots=True)
class SparseTensorType:
    """A sparse tensor in the COO form of `SparseTensorProto`."""

    element: int = 0
    shape: tuple[Dim, ...] | None = None


@dataclass(frozen=True, slots=True)
class SequenceType:
    """A list of values of one type."""

    element: ValueType | None = None


@dataclass(frozen=True, slots=True)
class OptionalType:
    """A value that may be absent."""

    element: ValueType | None = None


@dataclass(frozen=True, slots=True)
class MapType:
    """A dictionary from an integer or string key to values of one type."""

    key: int
    value: ValueType | None = None


ValueType: TypeAlias = TensorType | SparseTensorType | SequenceType | OptionalType | MapType


def type_string(value_type: ValueType | None) -> str | None:
    """Return the ONNX type string, such as `seq(tensor(float))`; None where it is not fully known."""
    match value_type:
        case TensorType(element=element):
            return f"tensor({element_name(element)})" if element else None
        case SparseTensorType(element=element):
            return f"sparse_tensor({element_name(element)})" if element else None
        case SequenceType(element=inner):
            shown = type_string(inner)
            return f"seq({shown})" if shown else None
        case OptionalType(element=inner):
            shown = type_string(inner)
            return f"optional({shown})" if shown else None
        case MapType(key=key, value=inner):
            # Schemas write the value of a map as a bare element type: map(string, float).
            shown = type_string(inner)
            if shown is None:
                return None
            bare = element_name(inner.element) if isinstance(inner, TensorType) else shown
            return f"map({element_name(key)}, {bare})"
        case _:
            return None


@dataclass(frozen=True, slots=True, eq=False)
class SparseTensor:
    """A tensor of which only some elements are stored (ONNX `SparseTensorProto`).

    Attributes:
        values: (NNZ,) stored elements.
        indices: (NNZ,) linearised or (NNZ, rank) coordinates, int64, ascending.
        shape: shape of the dense tensor.
    """

    values: Array
    indices: Array
    shape: tuple[int, ...]

    @property
    def dense_bytes(self) -> int:
        """Size of the dense tensor in bytes."""
        return math.prod(self.shape) * self.values.dtype.itemsize

    def to_dense(self) -> Array:
        """Return the dense tensor; elements that are not stored are zero."""
        if self.values.dtype == np.object_:
            dense = np.full(self.shape, "", dtype=np.object_)
        else:
            dense = np.zeros(self.shape, dtype=self.values.dtype)
        if self.indices.ndim == 2:
            dense[tuple(self.indices.T)] = self.values
        else:
            dense.reshape(-1)[self.indices] = self.values
        return dense


@dataclass(frozen=True, slots=True)
class AttributeReference:
    """In a function body: take the attribute `name` of the calling node."""

    name: str


@dataclass(frozen=True, slots=True)
class Value:
    """A named input, output or intermediate of a graph."""

    name: str
    type: ValueType | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Node:
    """One operator call.

    Attributes:
        opset: version of `domain` that the surrounding model or function imports.
        position: index in the graph as written, to name nodes that have no name.
    """

    op_type: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    domain: str = ""
    name: str = ""
    overload: str = ""
    opset: int = 0
    position: int = 0
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """Its name; operator and position where it has none."""
        return self.name or f"{self.op_type}#{self.position}"

    def __str__(self) -> str:
        label = f"'{self.name}'" if self.name else f"#{self.position}"
        domain = f"{self.domain}:" if self.domain else ""
        return f"node {label} ({domain}{self.op_type}, opset {self.opset})"


@dataclass(frozen=True, slots=True, eq=False)
class Graph:
    """Nodes in topological order, with the names and types around them."""

    name: str
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    nodes: tuple[Node, ...]
    initializers: Mapping[str, Array] = field(default_factory=dict)
    value_types: Mapping[str, ValueType] = field(default_factory=dict)
    doc: str = ""

    @property
    def required_inputs(self) -> tuple[Value, ...]:
        """The inputs that have no initializer: those that a caller must give."""
        return tuple(value for value in self.inputs if value.name not in self.initializers)


@dataclass(frozen=True, slots=True, eq=False)
class Function:
    """A model-local function: an operator defined by nodes."""

    domain: str
    name: str
    overload: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: tuple[str, ...]
    attribute_defaults: Mapping[str, Any]
    nodes: tuple[Node, ...]
    doc: str = ""


FunctionKey: TypeAlias = tuple[str, str, str]


@dataclass(frozen=True, slots=True, eq=False)
class Model:
    """A loaded model."""

    graph: Graph
    functions: Mapping[FunctionKey, Function]
    opset_imports: Mapping[str, int]
    ir_version: int = 0
    producer_name: str = ""
    producer_version: str = ""
    domain: str = ""
    version: int = 0
    doc: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)


def subgraphs(node: Node) -> dict[str, Graph]:
    """Return the node's graph-valued attributes by name."""
    return {name: value for name, value in node.attributes.items() if isinstance(value, Graph)}


def names_used(node: Node) -> set[str]:
    """Return the values a node needs: its inputs, and what its subgraphs take from outside."""
    used = {name for name in node.inputs if name}
    for graph in subgraphs(node).values():
        used |= outer_names(graph)
    return used


def outer_names(graph: Graph) -> set[str]:
    """Return the names that a graph uses but does not define: those of the surrounding scopes."""
    defined = {value.name for value in graph.inputs} | set(graph.initializers)
    used = {value.name for value in graph.outputs if value.name}
    for node in graph.nodes:
        used |= names_used(node)
        defined.update(node.outputs)
    return used - defined
