"""Models of one node, for the test modules that run operators through the whole interpreter."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import onnx
from onnx import helper

from onnxref import SparseTensor
from onnxref.dtypes import ElementType, tensor_type_string

_WRAPPED = re.compile(r"(tensor|sparse_tensor|seq|optional|map)\((.*)\)")


def element(name: str) -> int:
    """Return the number of an element type: `element("float")` is 1."""
    return ElementType[name.upper()].value


def type_proto(type_string: str) -> onnx.TypeProto:
    """Return the type that an ONNX type string such as `seq(tensor(float))` names, without a shape."""
    match = _WRAPPED.fullmatch(type_string)
    assert match is not None, type_string
    kind, inner = match.groups()
    proto = onnx.TypeProto()
    match kind:
        case "tensor":
            proto.tensor_type.elem_type = element(inner)
        case "sparse_tensor":
            proto.sparse_tensor_type.elem_type = element(inner)
        case "seq":
            proto.sequence_type.elem_type.CopyFrom(type_proto(inner))
        case "optional":
            proto.optional_type.elem_type.CopyFrom(type_proto(inner))
        case "map":
            key, _, value = inner.partition(",")
            proto.map_type.key_type = element(key)
            value = value.strip()
            value = value if "(" in value else f"tensor({value})"
            proto.map_type.value_type.CopyFrom(type_proto(value))
    return proto


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


def node_model(
    node: onnx.NodeProto,
    opsets: Mapping[str, int],
    types: Mapping[str, str],
    functions: Iterable[onnx.FunctionProto] = (),
) -> onnx.ModelProto:
    """Return the model that is this node, its inputs declared by type string."""
    graph = onnx.GraphProto(name="one node", node=[node])
    for name, type_string in types.items():
        graph.input.add(name=name, type=type_proto(type_string))
    for name in node.output:
        if name:
            graph.output.add(name=name)
    model = onnx.ModelProto(ir_version=onnx.IR_VERSION, graph=graph, functions=functions)
    for domain, version in opsets.items():
        model.opset_import.add(domain=domain, version=version)
    return model


def feeds(inputs: Sequence[Any]) -> dict[str, Any]:
    """Return the values that are given, under the names that `make_node` gives them."""
    return {f"i{i}": value for i, value in enumerate(inputs) if value is not None}
