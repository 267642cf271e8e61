"""The cells of the type matrix, (schema version, type variable, allowed type), and a model for each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import onnx
from onnx import helper
from onnx.defs import OpSchema

from ._type_cases import IMPOSSIBLE, SPECS
from ._type_specs import Item, Of, Spec, Types, node_model, type_proto, value_of

_OPTIONAL = OpSchema.FormalParameterOption.Optional
_PREFERRED = ("tensor(float)", "tensor(int64)", "tensor(uint8)", "seq(tensor(float))")


@dataclass(frozen=True, slots=True)
class Call:
    """One node with its inputs.

    Attributes:
        inputs: the node's inputs in schema order, None where one is left out.
        attributes: as the node has them, tensors and graphs as messages.
        input_types, output_types: type strings, by the schema.
        values: the inputs of the graph by name.
    """

    schema: OpSchema
    types: Types
    inputs: tuple[Any, ...]
    attributes: dict[str, Any]
    input_types: tuple[str, ...]
    output_types: tuple[str, ...]
    values: dict[str, Any]
    model: onnx.ModelProto


def cells(schema: OpSchema) -> Iterator[tuple[str, str]]:
    """Yield each type variable of a schema with each type that it allows."""
    for constraint in schema.type_constraints:
        for allowed in constraint.allowed_type_strs:
            yield constraint.type_param_str, allowed


def is_impossible(schema: OpSchema, variable: str, allowed: str) -> bool:
    """Whether no node can have this cell."""
    return any(entry.covers(schema, variable, allowed) for entry in IMPOSSIBLE)


def make_call(schema: OpSchema, variable: str, allowed: str) -> Call:
    """Return the call for a cell: the variable has the type under test, the others a usual one."""
    spec = _spec(schema.domain, schema.name, schema.since_version)
    types = _bind(schema, spec, variable, allowed)
    input_types, inputs, values, declared = [], [], {}, {}
    for index, item in enumerate(_items(schema, spec, types)):
        type_string = types[item.variable] if isinstance(item, Of) else _type(types, schema.inputs, index)
        value = None if item is None else value_of(type_string, item)
        input_types.append(type_string)
        inputs.append(value)
        if item is not None:
            values[f"i{index}"], declared[f"i{index}"] = value, type_string
    for name, type_string in spec.captured(types).items():
        declared[name], values[name] = type_string, value_of(type_string)
    attributes = {k: v(types) if callable(v) else v for k, v in spec.attributes.items()}
    attributes = {k: v for k, v in attributes.items() if v is not None}
    names = [f"i{i}" if value is not None else "" for i, value in enumerate(inputs)]
    outputs = [f"o{i}" for i in range(spec.n_outputs)]
    node = helper.make_node(schema.name, names, outputs, domain=schema.domain, **attributes)
    model = node_model(
        node, {"": onnx.defs.onnx_opset_version(), schema.domain: schema.since_version}, declared
    )
    for earlier in reversed(spec.nodes):
        model.graph.node.insert(0, earlier)
    output_types = tuple(_type(types, schema.outputs, i) for i in range(spec.n_outputs))
    _declare_shapes(model, values)
    _declare_outputs(model, output_types)
    return Call(schema, types, tuple(inputs), attributes, tuple(input_types), output_types, values, model)


@cache
def _spec(domain: str, name: str, since: int) -> Spec:
    found = [(version, made) for (d, n, version), made in SPECS.items() if (d, n) == (domain, name)]
    known = [item for item in found if item[0] <= since]
    return max(known, key=lambda item: item[0])[1] if known else Spec()


def _bind(schema: OpSchema, spec: Spec, variable: str, allowed: str) -> dict[str, str]:
    types = {}
    for constraint in schema.type_constraints:
        choices = constraint.allowed_type_strs
        types[constraint.type_param_str] = next((t for t in _PREFERRED if t in choices), choices[0])
    types[variable] = allowed
    spec.link(types, variable)
    return types


def _items(schema: OpSchema, spec: Spec, types: Types) -> tuple[Item, ...]:
    if callable(spec.inputs):
        return spec.inputs(types)
    if spec.inputs is not None:
        return spec.inputs
    return tuple((2, 3) for formal in schema.inputs if formal.option != _OPTIONAL)


def formal_of(parameters: Any, index: int) -> Any:
    """Return the parameter of an index; the last one may be variadic."""
    return parameters[min(index, len(parameters) - 1)]


def _type(types: Types, parameters: Any, index: int) -> str:
    name = formal_of(parameters, index).type_str
    return types.get(name, name)


def _declare_shapes(model: onnx.ModelProto, values: dict[str, Any]) -> None:
    for info in model.graph.input:
        if info.type.WhichOneof("value") == "tensor_type":
            shape = info.type.tensor_type.shape
            shape.SetInParent()
            for size in values[info.name].shape:
                shape.dim.add(dim_value=size)


def _declare_outputs(model: onnx.ModelProto, types: tuple[str, ...]) -> None:
    """Declare the types that the schema demands, and the shapes that onnx infers."""
    try:
        inferred = onnx.shape_inference.infer_shapes(model).graph.output
    except onnx.shape_inference.InferenceError:
        inferred = model.graph.output  # then no shape is demanded
    for info, found, type_string in zip(model.graph.output, inferred, types, strict=True):
        info.type.CopyFrom(type_proto(type_string))
        shape = found.type.tensor_type.shape
        if info.type.HasField("tensor_type") and found.type.tensor_type.HasField("shape"):
            info.type.tensor_type.shape.CopyFrom(shape)
            for dim in info.type.tensor_type.shape.dim:
                dim.ClearField("dim_param")
