"""Rules that a node must keep to by its operator's schema, or by its kernel's signature."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import InvalidAttributeError, InvalidGraphError
from ..graph import (
    Graph,
    MapType,
    Node,
    OptionalType,
    SequenceType,
    SparseTensor,
    SparseTensorType,
    TensorType,
)
from ..registry import Operator
from ..schema import Schema

_KINDS: tuple[tuple[type | tuple[type, ...], str], ...] = (
    (int, "INT"),
    (float, "FLOAT"),
    (str, "STRING"),
    (np.ndarray, "TENSOR"),
    (Graph, "GRAPH"),
    (SparseTensor, "SPARSE_TENSOR"),
    ((TensorType, SparseTensorType, SequenceType, OptionalType, MapType), "TYPE_PROTO"),
)


def check_against_schema(node: Node, schema: Schema) -> None:
    """Check the number of inputs and outputs, and the attributes.

    Raises:
        InvalidGraphError: too few or too many inputs or outputs.
        InvalidAttributeError: an attribute is unknown, missing, or of another kind.
    """
    version = f"{schema.name}-{schema.since_version}"
    given = len(node.inputs)
    if not schema.min_inputs <= given <= schema.max_inputs:
        _raise_count(node, version, "inputs", schema.min_inputs, schema.max_inputs, given)
    for index, name in enumerate(node.inputs):
        parameter = schema.input_at(index)
        if not name and not parameter.optional and not parameter.variadic:
            raise InvalidGraphError(f"{node}: input {parameter.name!r} is required by {version}")
    if not schema.min_outputs <= len(node.outputs) <= schema.max_outputs:
        _raise_count(node, version, "outputs", schema.min_outputs, schema.max_outputs, len(node.outputs))
    for name, value in node.attributes.items():
        formal = schema.attributes.get(name)
        if formal is None:
            known = ", ".join(sorted(schema.attributes)) or "none"
            raise InvalidAttributeError(f"{node}: {version} has no attribute {name!r} (it has: {known})")
        kind = attribute_kind(value)
        if kind not in (formal.kind, "EMPTY") or (kind == "EMPTY" and not formal.kind.endswith("S")):
            raise InvalidAttributeError(
                f"{node}: attribute {name!r} must be {formal.kind} by {version} (got {kind})"
            )
    for name, formal in schema.attributes.items():
        if formal.required and name not in node.attributes:
            raise InvalidAttributeError(f"{node}: {version} requires the attribute {name!r}")


def check_against_signature(node: Node, operator: Operator) -> None:
    """Check a node without a schema against the parameters of the kernel that a user registered."""
    positional = [
        p for p in operator.parameters.values() if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
    ]
    variadic = any(p.kind is p.VAR_POSITIONAL for p in operator.parameters.values())
    fewest = sum(p.default is p.empty for p in positional)
    most = len(node.inputs) if variadic else len(positional)
    if not fewest <= len(node.inputs) <= most:
        _raise_count(node, "its kernel", "inputs", fewest, most, len(node.inputs))
    for name in node.attributes:
        if name not in operator.attributes:
            known = ", ".join(sorted(operator.attributes)) or "none"
            raise InvalidAttributeError(f"{node}: its kernel takes no attribute {name!r} (it takes: {known})")
    for name, parameter in operator.attributes.items():
        if parameter.default is parameter.empty and name not in node.attributes:
            raise InvalidAttributeError(f"{node}: its kernel requires the attribute {name!r}")


def attribute_kind(value: Any) -> str:
    """Return the name of the `AttributeProto.AttributeType` that a loaded value has."""
    if isinstance(value, tuple):
        return f"{attribute_kind(value[0])}S" if value else "EMPTY"
    for types, kind in _KINDS:
        if isinstance(value, types):
            return kind
    return type(value).__name__


def _raise_count(node: Node, version: str, what: str, fewest: int, most: int, given: int) -> None:
    bounds = f"{fewest}" if fewest == most else f"{fewest} to {most}"
    raise InvalidGraphError(f"{node}: {version} takes {bounds} {what} (got {given})")
