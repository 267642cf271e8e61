"""Models of one node, for the test modules that run operators through the whole interpreter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import onnx
from onnx import helper
from onnxref.conformance.suites._type_specs import element as element
from onnxref.conformance.suites._type_specs import node_model as node_model
from onnxref.conformance.suites._type_specs import type_proto as type_proto

from onnxref import SparseTensor
from onnxref.dtypes import tensor_type_string


def type_of(value: Any) -> str:
    """Return the ONNX type string of an array, a sparse tensor or a sequence that has elements."""
    if isinstance(value, list):
        return f"seq({type_of(value[0])})"
    if isinstance(value, SparseTensor):
        return f"sparse_{tensor_type_string(value.values.dtype)}"
    return tensor_type_string(value.dtype)


def make_node(
    op_type: str,
    inputs: Sequence[Any],
    n_outputs: int,
    attributes: Mapping[str, Any],
    domain: str = "",
) -> onnx.NodeProto:
    """Return a node whose inputs are `i0`, `i1` ... (no name where the value is None) and outputs `o0` ..."""
    names = [f"i{i}" if value is not None else "" for i, value in enumerate(inputs)]
    while names and not names[-1]:
        names.pop()
    outputs = [f"o{i}" for i in range(n_outputs)]
    return helper.make_node(op_type, names, outputs, domain=domain, **attributes)


def feeds(inputs: Sequence[Any]) -> dict[str, Any]:
    """Return the values that are given, under the names that `make_node` gives them."""
    return {f"i{i}": value for i, value in enumerate(inputs) if value is not None}
