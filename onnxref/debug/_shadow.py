"""Nodes run in float64, and the float64 values that accompany those of a run.

A shadow belongs to an array, not to a name: kernels of loops, branches and functions hand the same arrays on
under other names, so the shadow follows them everywhere, and goes when its array goes.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ..dtypes import LOW_PRECISION, Array, ElementType, memory_owner
from ..errors import OnnxRefError
from ..graph import Model, Node, subgraphs
from ..limits import DEFAULT, Limits
from ..session import InferenceSession
from ._pieces import single_node, type_of

# Operators that draw random numbers: a second run has nothing to do with the first.
RANDOM = frozenset(
    {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial"}
)
_FLOATS = frozenset(
    {ElementType.FLOAT, ElementType.FLOAT16, ElementType.BFLOAT16, ElementType.DOUBLE, ElementType.UNDEFINED}
)


def is_float(value: Any) -> bool:
    """Whether a value is a tensor of real floating-point numbers."""
    return isinstance(value, np.ndarray) and (value.dtype.kind == "f" or value.dtype in LOW_PRECISION)


def widened(value: Any) -> Any:
    """Return floats as float64, lists element by element, anything else as it is."""
    if isinstance(value, list):
        return [widened(item) for item in value]
    return value.astype(np.float64) if is_float(value) else value


class Shadows:
    """Float64 counterparts of the arrays that are alive."""

    def __init__(self) -> None:
        self._known: dict[Any, tuple[weakref.ref[Array], Array]] = {}

    def put(self, array: Array, shadow: Array) -> None:
        """Note the shadow of an array, for as long as its memory lives."""
        key = _key(array)
        owner = weakref.ref(memory_owner(array), lambda gone: self._forget(key, gone))
        self._known[key] = (owner, shadow)

    def get(self, array: Array) -> Array | None:
        """Return the shadow of an array or of an equal view; None if it has none."""
        found = self._known.get(_key(array))
        return None if found is None else found[1]

    def _forget(self, key: Any, gone: weakref.ref[Array]) -> None:
        found = self._known.get(key)
        if found is not None and found[0] is gone:
            del self._known[key]


def _key(array: Array) -> Any:
    return array.__array_interface__["data"][0], array.shape, array.strides, array.dtype


class WideNodes:
    """Runs single nodes in float64, where their schema has it.

    Args:
        model: gives opsets and functions.
    """

    def __init__(self, model: Model, limits: Limits = DEFAULT) -> None:
        self.model = model
        self.limits = limits
        self._sessions: dict[Any, tuple[Node, InferenceSession | None]] = {}

    def can_run(self, node: Node) -> bool:
        """Whether a node is one to run: an operator without a body, without randomness."""
        is_call = (node.domain, node.op_type, node.overload) in self.model.functions
        return not (is_call or subgraphs(node) or (node.op_type in RANDOM and not node.domain))

    def run(self, node: Node, inputs: Sequence[Any]) -> list[Any] | None:
        """Return the outputs of a node for widened inputs; None where it does not run in float64."""
        session = self._session(node, inputs)
        if session is None:
            return None
        feeds = {name: value for name, value in zip(node.inputs, inputs, strict=False) if name}
        try:
            found = iter(session.run(None, feeds))
        except OnnxRefError:
            return None
        return [widened(next(found)) if name else None for name in node.outputs]

    def _session(self, node: Node, inputs: Sequence[Any]) -> InferenceSession | None:
        key = (id(node), tuple(str(type_of(value)) for value in inputs))
        if key not in self._sessions:
            # The node is kept with it, so that no other node can get its identity.
            self._sessions[key] = (node, self._open(node, inputs))
        return self._sessions[key][1]

    def _open(self, node: Node, inputs: Sequence[Any]) -> InferenceSession | None:
        small, _ = single_node(_widened_node(node), inputs, self.model)
        try:
            return InferenceSession(small, backend="numpy", optimize="none", limits=self.limits)
        except OnnxRefError:
            return None


def _widened_node(node: Node) -> Node:
    """Return a node whose attributes name float64 where they name a float type to compute in."""
    changed = {
        name: int(ElementType.DOUBLE)
        for name in ("to", "dtype", "stash_type", "softmax_precision", "output_dtype")
        if node.attributes.get(name) in _FLOATS and node.attributes.get(name)
    }
    if node.op_type == "LayerNormalization" and node.opset >= 17:
        changed["stash_type"] = int(ElementType.DOUBLE)
    value = node.attributes.get("value")
    if node.op_type == "ConstantOfShape" and (value is None or is_float(value)):
        made = np.zeros(1) if value is None else value.astype(np.float64)
        return replace(node, attributes={**node.attributes, "value": made})
    return replace(node, attributes={**node.attributes, **changed}) if changed else node


def narrowed(values: Sequence[Any], like: Sequence[Any]) -> list[Any]:
    """Return shadows in the types of the values that they accompany."""
    return [
        value.astype(one.dtype) if is_float(value) and is_float(one) else value
        for value, one in zip(values, like, strict=True)
    ]
