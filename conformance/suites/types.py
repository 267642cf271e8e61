"""Every type that a schema allows: one case for each (schema version, type variable, allowed type).

The group says what a case can find. `values`: the expected outputs come from an oracle that knows nothing
of any kernel (see `_type_oracles.py`). `types-only`: there is no such oracle; the model must run, and its
outputs must have the types that the schema demands and the shapes that onnx infers.
"""

from __future__ import annotations

import re
from typing import Any

import onnx
from onnx import helper
from onnx.defs import OpSchema

from .. import values
from ..cases import Case, DataSet
from ._type_models import Call, cells, is_impossible, make_call
from ._type_oracles import expected_outputs, tolerance

SUITE = "types"
VALUES, TYPES_ONLY = "values", "types-only"


def load() -> list[Case]:
    """Return all cases, in a fixed order."""
    schemas = sorted(onnx.defs.get_all_schemas_with_history(), key=_key)
    return [
        make_case(schema, *cell)
        for schema in schemas
        for cell in cells(schema)
        if not is_impossible(schema, *cell)
    ]


def make_case(schema: OpSchema, variable: str, allowed: str) -> Case:
    """Return the case of one cell."""
    call = make_call(schema, variable, allowed)
    expected = expected_outputs(call)
    _set_ir_version(call.model)
    data_set = DataSet(
        tuple(values.encode(call.values[info.name], info.type) for info in call.model.graph.input),
        () if expected is None else _encode(call, expected),
    )
    return Case(
        suite=SUITE,
        group=TYPES_ONLY if expected is None else VALUES,
        name=_name(schema, variable, allowed),
        operator=schema.name,
        domain=schema.domain,
        opset=schema.since_version,
        type=_short(allowed),
        types_only=expected is None,
        rtol=tolerance(call),
        model=call.model.SerializeToString(deterministic=True),
        data_sets=(data_set,),
    )


def _key(schema: OpSchema) -> tuple[str, str, int]:
    return schema.domain, schema.name, schema.since_version


def _name(schema: OpSchema, variable: str, allowed: str) -> str:
    """Return a name that can be a folder's: Add-14-T-float."""
    domain = f"{schema.domain}-" if schema.domain else ""
    return f"{domain}{schema.name}-{schema.since_version}-{variable}-{_short(allowed)}"


def _short(allowed: str) -> str:
    plain = re.fullmatch(r"tensor\((\w+)\)", allowed)
    return plain[1] if plain else re.sub(r"\W+", "_", allowed).strip("_")


def _set_ir_version(model: onnx.ModelProto) -> None:
    """Claim no newer format than the operators need, so that other backends do not refuse the file."""
    used = {node.domain for node in model.graph.node}
    imports = [entry for entry in model.opset_import if entry.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(imports)
    # onnx knows no format for the opset versions between releases, nor for previews.
    known = [entry for entry in imports if entry.version >= 7 and "preview" not in entry.domain]
    model.ir_version = max([8, *(helper.find_min_ir_version_for([entry]) for entry in known)])


def _encode(call: Call, expected: tuple[Any, ...]) -> tuple[bytes, ...]:
    return tuple(
        values.encode(value, info.type) for value, info in zip(expected, call.model.graph.output, strict=True)
    )
