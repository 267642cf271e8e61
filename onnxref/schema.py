"""Operator schemas of the installed onnx package, in the form that the checks need.

The C++ schema objects are slow to read; each is turned once into a small frozen dataclass.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import onnx.defs

from .errors import UnsupportedOperatorError


@dataclass(frozen=True, slots=True)
class Parameter:
    """A formal input or output.

    Attributes:
        type_var: name of its type variable (`T`), or a type string where it is fixed.
        types: allowed type strings.
    """

    name: str
    type_var: str
    types: frozenset[str]
    optional: bool
    variadic: bool
    homogeneous: bool


@dataclass(frozen=True, slots=True)
class AttributeSchema:
    """A formal attribute; `kind` is the name of its `AttributeProto.AttributeType`."""

    name: str
    kind: str
    required: bool


@dataclass(frozen=True, slots=True)
class Schema:
    """One version of one operator."""

    domain: str
    name: str
    since_version: int
    inputs: tuple[Parameter, ...]
    outputs: tuple[Parameter, ...]
    attributes: Mapping[str, AttributeSchema]
    min_inputs: int
    max_inputs: int
    min_outputs: int
    max_outputs: int

    def input_at(self, index: int) -> Parameter:
        """Return the formal input that takes the node's input `index`."""
        return self.inputs[min(index, len(self.inputs) - 1)]

    def output_at(self, index: int) -> Parameter:
        """Return the formal output that gives the node's output `index`."""
        return self.outputs[min(index, len(self.outputs) - 1)]


@cache
def newest_opset(domain: str) -> int | None:
    """Return the newest version of a standard domain, None for a domain that onnx does not define."""
    return _domain_versions().get(domain)


@cache
def _domain_versions() -> dict[str, int]:
    newest: dict[str, int] = {}
    for schema in onnx.defs.get_all_schemas_with_history():
        newest[schema.domain] = max(schema.since_version, newest.get(schema.domain, 0))
    # The newest opset may change no operator; the release still defines it.
    newest[""] = max(newest[""], onnx.defs.onnx_opset_version())
    return newest


@cache
def find(domain: str, op_type: str, opset: int) -> Schema | None:
    """Return the schema in force when a model imports version `opset` of `domain`, None if onnx has none.

    Raises:
        UnsupportedOperatorError: the opset is newer than the installed onnx package.
    """
    newest = newest_opset(domain)
    if newest is None:
        return None
    if opset > newest:
        raise UnsupportedOperatorError(
            f"opset {opset} of {domain or 'ai.onnx'} is not supported: onnx {onnx.__version__} "
            f"defines versions up to {newest}"
        )
    if not onnx.defs.has(op_type, domain):
        return None
    try:
        raw = onnx.defs.get_schema(op_type, opset, domain)
    except onnx.defs.SchemaError:
        return None
    return _convert(raw)


def _convert(raw: onnx.defs.OpSchema) -> Schema:
    constraints = {c.type_param_str: frozenset(c.allowed_type_strs) for c in raw.type_constraints}

    def parameter(p: onnx.defs.OpSchema.FormalParameter) -> Parameter:
        option = onnx.defs.OpSchema.FormalParameterOption
        return Parameter(
            name=p.name,
            type_var=p.type_str,
            types=constraints.get(p.type_str, frozenset((p.type_str,))),
            optional=p.option == option.Optional,
            variadic=p.option == option.Variadic,
            homogeneous=p.is_homogeneous,
        )

    return Schema(
        domain=raw.domain,
        name=raw.name,
        since_version=raw.since_version,
        inputs=tuple(parameter(p) for p in raw.inputs),
        outputs=tuple(parameter(p) for p in raw.outputs),
        attributes={
            name: AttributeSchema(name, str(a.type).partition(".")[2], a.required)
            for name, a in raw.attributes.items()
        },
        min_inputs=raw.min_input,
        max_inputs=raw.max_input,
        min_outputs=raw.min_output,
        max_outputs=raw.max_output,
    )
