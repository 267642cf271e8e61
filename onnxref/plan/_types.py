"""Type checks of a node's inputs against its schema, by type string.

The same rule serves while planning, where some types are known, and while running, where all are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..dtypes import DType, tensor_type_string
from ..errors import KernelError, TypeMismatchError
from ..graph import Node, SparseTensor
from ..schema import Schema

_tensor_strings: dict[DType, str] = {}


def value_type_string(value: Any) -> str | None:
    """Return the type string of a value at run time; None where the value does not tell (empty list)."""
    match value:
        case np.ndarray():
            found = _tensor_strings.get(value.dtype)
            if found is None:
                found = _tensor_strings[value.dtype] = tensor_type_string(value.dtype)
            return found
        case list():
            inner = value_type_string(value[0]) if value else None
            return f"seq({inner})" if inner else None
        case SparseTensor():
            return f"sparse_{tensor_type_string(value.values.dtype)}"
        case dict():
            return _map_type_string(value)
        case _:
            return None


def _map_type_string(value: dict[Any, Any]) -> str | None:
    if not value:
        return None
    key, item = next(iter(value.items()))
    key_name = "string" if isinstance(key, str) else "int64"
    bare = "string" if isinstance(item, str) else tensor_type_string(np.asarray(item).dtype)[7:-1]
    return f"map({key_name}, {bare})"


class TypeRule:
    """What a schema says about the types of one node's inputs and outputs."""

    __slots__ = ("_approved", "node", "schema")

    def __init__(self, node: Node, schema: Schema) -> None:
        self.node = node
        self.schema = schema
        self._approved: set[tuple[Any, ...]] = set()

    def check_values(self, values: Sequence[Any]) -> None:
        """Check a step's inputs; a combination of types that passed once costs one set look-up."""
        key = tuple([v.dtype if type(v) is np.ndarray else value_type_string(v) for v in values])
        if key not in self._approved:
            self._check_present(values)
            self.bind([value_type_string(v) for v in values])
            self._approved.add(key)

    def _check_present(self, values: Sequence[Any]) -> None:
        """Refuse an absent value, of a function's input that its call leaves out, where one is needed."""
        for index, (name, value) in enumerate(zip(self.node.inputs, values, strict=True)):
            if value is not None or not name:
                continue
            parameter = self.schema.input_at(index)
            if not parameter.optional and not any(t.startswith("optional(") for t in parameter.types):
                raise KernelError(f"input {parameter.name!r} is required by {self._version} (got none)")

    def bind(self, types: Sequence[str | None]) -> dict[str, str]:
        """Check the inputs' types and return what each type variable stands for.

        Raises:
            TypeMismatchError: a type is not allowed, or two inputs that share a variable differ.
        """
        bound: dict[str, str] = {}
        for index, actual in enumerate(types):
            if actual is None:
                continue
            parameter = self.schema.input_at(index)
            if actual not in parameter.types and f"optional({actual})" not in parameter.types:
                raise TypeMismatchError(
                    f"{self.node}: input {parameter.name!r} must be {_shown(parameter.types, actual)} "
                    f"by {self._version} (got {actual})"
                )
            if parameter.variadic and not parameter.homogeneous:
                continue
            other = bound.setdefault(parameter.type_var, actual)
            if other != actual and f"optional({actual})" != other and f"optional({other})" != actual:
                raise TypeMismatchError(
                    f"{self.node}: inputs of type {parameter.type_var} must agree by {self._version} "
                    f"(input {parameter.name!r} is {actual}, another is {other})"
                )
        return bound

    def output_types(self, bound: dict[str, str]) -> list[str | None]:
        """Return the outputs' types as far as the inputs' types decide them."""
        found: list[str | None] = []
        for index in range(len(self.node.outputs)):
            parameter = self.schema.output_at(index)
            if parameter.variadic and not parameter.homogeneous:
                found.append(None)
            elif len(parameter.types) == 1:
                found.append(next(iter(parameter.types)))
            else:
                found.append(bound.get(parameter.type_var))
        return found

    @property
    def _version(self) -> str:
        return f"{self.schema.name}-{self.schema.since_version}"


def _shown(types: frozenset[str], actual: str) -> str:
    """Return the allowed types: those of the same container as `actual`, all if there are none."""
    container = actual.rpartition("(")[0]
    names = sorted(t for t in types if t.rpartition("(")[0] == container) or sorted(types)
    return names[0] if len(names) == 1 else "one of " + ", ".join(names)
