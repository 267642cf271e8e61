"""Every type that a schema allows, run: (schema version, type variable, allowed type) is a cell.

For each cell a minimal node is made with the specs of the suite `types`, every input of the variable
having the type under test and the others a usual one. It must run, and every output must have the
type that the schema demands.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx.defs import OpSchema
from onnxref.conformance.suites._type_cases import IMPOSSIBLE, SPECS
from onnxref.conformance.suites._type_models import cells, formal_of, is_impossible, make_call
from onnxref.conformance.suites._type_specs import inner

import onnxref
from onnxref.dtypes import element_name, from_numpy, tensor_type_string

SCHEMAS = onnx.defs.get_all_schemas_with_history()


def _label(schema: OpSchema) -> str:
    return f"{schema.domain or 'ai.onnx'}-{schema.name}-{schema.since_version}"


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
    call = make_call(schema, variable, allowed)
    try:
        outputs = onnxref.run(call.model, call.values, backend="numpy")
    except onnxref.OnnxRefError as error:
        return f"{type(error).__name__}: {error}"
    for (name, value), expected in zip(outputs.items(), call.output_types, strict=True):
        if not has_type(value, expected):
            shown = value.dtype if isinstance(value, np.ndarray) else type(value).__name__
            return f"output {name} must be {expected} (got {shown})"
    given = {formal_of(schema.inputs, int(n[1:])).type_str for n in call.model.graph.node[-1].input if n}
    made = {formal_of(schema.outputs, i).type_str for i in range(len(outputs))}
    return "" if variable in given | made else f"no input or output of the spec has the type {variable}"


def test_cell_count() -> None:
    assert sum(len(list(cells(schema))) for schema in SCHEMAS) == 8898


def test_specs_are_of_operators_and_versions_that_exist() -> None:
    known = {(s.domain, s.name, s.since_version) for s in SCHEMAS}
    assert sorted(SPECS.keys() - known) == []


def test_impossible_cells_exist_and_have_a_reason() -> None:
    for entry in IMPOSSIBLE:
        assert entry.reason
        assert any(entry.covers(s, *cell) for s in SCHEMAS for cell in cells(s)), entry


@pytest.mark.parametrize("schema", SCHEMAS, ids=_label)
def test_version(schema: OpSchema) -> None:
    wrong = {}
    for variable, allowed in cells(schema):
        problem = _check_cell(schema, variable, allowed)
        if is_impossible(schema, variable, allowed):
            problem = "" if problem else "runs, but is listed as impossible"
        if problem:
            wrong[f"{variable} = {allowed}"] = problem
    assert not wrong, "\n".join(f"{cell}: {problem}" for cell, problem in wrong.items())
