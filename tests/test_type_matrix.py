"""Every type that a schema allows, run: (schema version, type variable, allowed type) is a cell.

For each cell a minimal node is made with the specs of `type_cases.py`, every input of the variable
having the type under test and the others a usual one. It must run, and every output must have the
type that the schema demands.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
import onnx
import pytest
from node_models import node_model
from onnx import helper
from onnx.defs import OpSchema
from type_cases import IMPOSSIBLE, SPECS
from type_specs import Of, Spec, Types, inner, value_of

import onnxref
from onnxref.dtypes import element_name, from_numpy, tensor_type_string

SCHEMAS = onnx.defs.get_all_schemas_with_history()
OPTIONAL = OpSchema.FormalParameterOption.Optional
PREFERRED = ("tensor(float)", "tensor(int64)", "tensor(uint8)", "seq(tensor(float))")


def _label(schema: OpSchema) -> str:
    return f"{schema.domain or 'ai.onnx'}-{schema.name}-{schema.since_version}"


def _cells(schema: OpSchema) -> Iterator[tuple[str, str]]:
    for constraint in schema.type_constraints:
        for allowed in constraint.allowed_type_strs:
            yield constraint.type_param_str, allowed


def _impossible(schema: OpSchema, variable: str, allowed: str) -> bool:
    return any(entry.covers(schema, variable, allowed) for entry in IMPOSSIBLE)


@cache
def _spec(domain: str, name: str, since: int) -> Spec:
    found = [(version, made) for (d, n, version), made in SPECS.items() if (d, n) == (domain, name)]
    known = [item for item in found if item[0] <= since]
    return max(known, key=lambda item: item[0])[1] if known else Spec()


def _bind(schema: OpSchema, spec: Spec, variable: str, allowed: str) -> dict[str, str]:
    types = {}
    for constraint in schema.type_constraints:
        choices = constraint.allowed_type_strs
        types[constraint.type_param_str] = next((t for t in PREFERRED if t in choices), choices[0])
    types[variable] = allowed
    spec.link(types, variable)
    return types


def _formal(parameters: Any, index: int) -> Any:
    return parameters[min(index, len(parameters) - 1)]


def _type(types: Types, formal: Any) -> str:
    return types.get(formal.type_str, formal.type_str)


def _call(schema: OpSchema, spec: Spec, types: Types) -> tuple[onnx.ModelProto, dict[str, Any]]:
    """Return the model of one node, and its inputs."""
    items = spec.inputs
    if items is None:
        items = tuple((2, 3) for formal in schema.inputs if formal.option != OPTIONAL)
    names, declared, values = [], {}, {}
    for index, item in enumerate(items):
        name = "" if item is None else f"i{index}"
        names.append(name)
        if name:
            formal = _formal(schema.inputs, index)
            declared[name] = types[item.variable] if isinstance(item, Of) else _type(types, formal)
            values[name] = value_of(declared[name], item)
    for name, type_string in spec.captured(types).items():
        declared[name], values[name] = type_string, value_of(type_string)
    attributes = {k: v(types) if callable(v) else v for k, v in spec.attributes.items()}
    node = helper.make_node(
        schema.name,
        names,
        [f"o{i}" for i in range(spec.n_outputs)],
        domain=schema.domain,
        **{k: v for k, v in attributes.items() if v is not None},
    )
    opsets = {"": onnx.defs.onnx_opset_version(), schema.domain: schema.since_version}
    model = node_model(node, opsets, declared)
    for earlier in reversed(spec.nodes):
        model.graph.node.insert(0, earlier)
    return model, values


def has_type(value: Any, type_string: str) -> bool:
    """Whether a value is of an ONNX type; an empty sequence is of every sequence type."""
    if type_string.startswith("optional("):
        return has_type(value, inner(type_string))
    match value:
        case np.ndarray():
            return tensor_type_string(value.dtype) == type_string
        case list():
            return type_string.startswith("seq(") and all(has_type(v, inner(type_string)) for v in value)
        case dict():
            key, element = (part.strip() for part in inner(type_string).split(","))
            items = value.items()
            return all(_has_element(k, key) and _has_element(v, element) for k, v in items)
        case _:
            return False


def _has_element(value: Any, name: str) -> bool:
    """Whether a map's key or value is of an element type; keys are Python's own numbers."""
    if isinstance(value, int):
        return name == "int64"
    return isinstance(value, str) if name == "string" else element_name(from_numpy(value.dtype)) == name


def _check_cell(schema: OpSchema, variable: str, allowed: str) -> str:
    """Return what is wrong with a cell, nothing if it is right."""
    spec = _spec(schema.domain, schema.name, schema.since_version)
    types = _bind(schema, spec, variable, allowed)
    model, values = _call(schema, spec, types)
    try:
        outputs = onnxref.run(model, values, backend="numpy")
    except onnxref.OnnxRefError as error:
        return f"{type(error).__name__}: {error}"
    for index, (name, value) in enumerate(outputs.items()):
        expected = _type(types, _formal(schema.outputs, index))
        if not has_type(value, expected):
            shown = value.dtype if isinstance(value, np.ndarray) else type(value).__name__
            return f"output {name} must be {expected} (got {shown})"
    given = {_formal(schema.inputs, int(n[1:])).type_str for n in model.graph.node[-1].input if n}
    made = {_formal(schema.outputs, i).type_str for i in range(len(outputs))}
    return "" if variable in given | made else f"no input or output of the spec has the type {variable}"


def test_cell_count() -> None:
    assert sum(len(list(_cells(schema))) for schema in SCHEMAS) == 8898


def test_specs_are_of_operators_and_versions_that_exist() -> None:
    known = {(s.domain, s.name, s.since_version) for s in SCHEMAS}
    assert sorted(SPECS.keys() - known) == []


def test_impossible_cells_exist_and_have_a_reason() -> None:
    for entry in IMPOSSIBLE:
        assert entry.reason
        assert any(entry.covers(s, *cell) for s in SCHEMAS for cell in _cells(s)), entry


@pytest.mark.parametrize("schema", SCHEMAS, ids=_label)
def test_version(schema: OpSchema) -> None:
    wrong = {}
    for variable, allowed in _cells(schema):
        problem = _check_cell(schema, variable, allowed)
        if _impossible(schema, variable, allowed):
            problem = "" if problem else "runs, but is listed as impossible"
        if problem:
            wrong[f"{variable} = {allowed}"] = problem
    assert not wrong, "\n".join(f"{cell}: {problem}" for cell, problem in wrong.items())
