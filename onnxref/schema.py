"""Operator schemas of the installed onnx package, and a few of others, in the form that the checks need.

The C++ schema objects are slow to read; each is turned once into a small frozen dataclass.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import onnx.defs

from .errors import UnsupportedOperatorError

# Domains that onnx has a version of and no operator in: nothing is known about their nodes.
_EMPTY_DOMAINS = frozenset(("ai.onnx.training",))


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


_STRINGS = frozenset(("tensor(string)",))
_REAL = frozenset(("tensor(float)", "tensor(float16)", "tensor(bfloat16)"))


def _tokenizer() -> Schema:
    """Return the schema of Tokenizer-1 as ONNX Runtime's ContribOperators.md states it."""
    kinds = {"mark": "INT", "mincharnum": "INT", "pad_value": "STRING"}
    optional = {"separators": "STRINGS", "tokenexp": "STRING"}
    attributes = {name: AttributeSchema(name, kind, True) for name, kind in kinds.items()}
    attributes |= {name: AttributeSchema(name, kind, False) for name, kind in optional.items()}
    x, y = (Parameter(name, "T", _STRINGS, False, False, True) for name in "XY")
    return Schema("com.microsoft", "Tokenizer", 1, (x,), (y,), attributes, 1, 1, 1, 1)


def _matmul_nbits() -> Schema:
    """Return the schema of MatMulNBits-1 as ONNX Runtime's ContribOperators.md states it."""
    bytes_, ints = frozenset(("tensor(uint8)",)), frozenset(("tensor(int32)",))
    types = {"T1": _REAL, "T2": bytes_, "T3": bytes_ | _REAL, "T4": ints}

    def parameter(name: str, variable: str, optional: bool = False) -> Parameter:
        return Parameter(name, variable, types[variable], optional, False, True)

    required = [parameter("A", "T1"), parameter("B", "T2"), parameter("scales", "T1")]
    optional = [("zero_points", "T3"), ("g_idx", "T4"), ("bias", "T1")]
    inputs = (*required, *(parameter(*given, optional=True) for given in optional))
    attributes = {name: AttributeSchema(name, "INT", True) for name in ("K", "N", "block_size")}
    more = ("bits", "accuracy_level", "weight_prepacked")
    attributes |= {name: AttributeSchema(name, "INT", False) for name in more}
    return Schema(
        "com.microsoft", "MatMulNBits", 1, inputs, (parameter("Y", "T1"),), attributes, 3, len(inputs), 1, 1
    )


# Operators of other domains than onnx's that kernels implement, by the documents that define them.
OTHERS = {(schema.domain, schema.name): schema for schema in (_tokenizer(), _matmul_nbits())}


@cache
def newest_opset(domain: str) -> int | None:
    """Return the newest version of a standard domain, None for a domain that onnx does not define."""
    if domain in _EMPTY_DOMAINS:
        return None
    versions = onnx.defs.C.schema_version_map().get(domain)
    return versions[1] if versions else None


@cache
def version_in_force(domain: str, op_type: str, opset: int) -> int:
    """Return the version of the schema in force, see `find`; operators without a schema have version 1."""
    found = find(domain, op_type, opset)
    return found.since_version if found else 1


def find(domain: str, op_type: str, opset: int) -> Schema | None:
    """Return the schema in force when a model imports version `opset` of `domain`, None if there is none.

    Raises:
        UnsupportedOperatorError: the opset is newer than the installed onnx package.
    """
    newest = newest_opset(domain)
    if newest is None:
        return OTHERS.get((domain, op_type))
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
