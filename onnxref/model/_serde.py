"""Protobuf messages to the dataclasses of `onnxref.graph`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from onnx import AttributeProto

from ..dtypes import Array
from ..errors import InvalidAttributeError, InvalidGraphError
from ..graph import (
    AttributeReference,
    Dim,
    Function,
    FunctionKey,
    Graph,
    MapType,
    Model,
    Node,
    OptionalType,
    SequenceType,
    SparseTensorType,
    TensorType,
    Value,
    ValueType,
)
from ..limits import Budget
from ._check import sort_nodes
from ._tensors import decode_sparse, decode_tensor
from ._wire import Payloads


def canonical_domain(domain: str) -> str:
    """Return the domain's one spelling: `ai.onnx` is the empty string."""
    return "" if domain == "ai.onnx" else domain


@dataclass(slots=True)
class _Reader:
    """What is the same for a whole file while it is read."""

    folder: Path | None
    budget: Budget
    imports: Mapping[str, int]
    payloads: Payloads | None

    def scoped(self, imports: Mapping[str, int]) -> _Reader:
        return _Reader(self.folder, self.budget, {**self.imports, **imports}, self.payloads)


def read_model(
    proto: onnx.ModelProto, folder: Path | None, budget: Budget, payloads: Payloads | None = None
) -> Model:
    """Return the model as plain data.

    Args:
        folder: where external data may lie; None refuses external data.
        payloads: tensors that were taken out of the message; the others are maps or copies of its data.
    """
    imports = _read_imports(proto.opset_import)
    if not proto.opset_import and proto.ir_version < 3:
        imports = {"": 1}  # IR versions 1 and 2 had no opset_import; all operators were at version 1
    reader = _Reader(folder, budget, imports, payloads)
    functions: dict[FunctionKey, Function] = {}
    for function_proto in proto.functions:
        function = _read_function(function_proto, reader)
        key = (function.domain, function.name, function.overload)
        if key in functions:
            raise InvalidGraphError(f"function {key} is defined twice")
        functions[key] = function
    return Model(
        graph=_read_graph(proto.graph, reader, depth=0),
        functions=functions,
        opset_imports=imports,
        ir_version=proto.ir_version,
        producer_name=proto.producer_name,
        producer_version=proto.producer_version,
        domain=proto.domain,
        version=proto.model_version,
        doc=proto.doc_string,
        metadata={entry.key: entry.value for entry in proto.metadata_props},
    )


def _read_imports(entries: Iterable[onnx.OperatorSetIdProto]) -> dict[str, int]:
    return {canonical_domain(entry.domain): entry.version for entry in entries}


def _read_function(proto: onnx.FunctionProto, reader: _Reader) -> Function:
    inner = reader.scoped(_read_imports(proto.opset_import))
    return Function(
        domain=canonical_domain(proto.domain),
        name=proto.name,
        overload=proto.overload,
        inputs=tuple(proto.input),
        outputs=tuple(proto.output),
        attributes=tuple(proto.attribute),
        attribute_defaults={a.name: _read_attribute(a, inner, 0) for a in proto.attribute_proto},
        nodes=_read_nodes(proto.node, inner, depth=0),
        doc=proto.doc_string,
    )


def _read_graph(proto: onnx.GraphProto, reader: _Reader, depth: int) -> Graph:
    reader.budget.check_depth(depth)
    return Graph(
        name=proto.name,
        inputs=tuple(_read_value(v) for v in proto.input),
        outputs=tuple(_read_value(v) for v in proto.output),
        nodes=_read_nodes(proto.node, reader, depth),
        initializers=_read_initializers(proto, reader),
        value_types={v.name: t for v in proto.value_info if (t := read_type(v.type)) is not None},
        doc=proto.doc_string,
    )


def _read_initializers(proto: onnx.GraphProto, reader: _Reader) -> dict[str, Array]:
    found: dict[str, Array] = {}
    for tensor in proto.initializer:
        if tensor.name in found:
            raise InvalidGraphError(f"graph {proto.name!r}: initializer {tensor.name!r} is defined twice")
        found[tensor.name] = decode_tensor(tensor, reader.folder, reader.payloads)
    for sparse in proto.sparse_initializer:
        tensor_ = decode_sparse(sparse, reader.folder, reader.payloads)
        reader.budget.check_bytes(tensor_.dense_bytes, f"sparse initializer {sparse.values.name!r}")
        dense = tensor_.to_dense()
        dense.flags.writeable = False
        found[sparse.values.name] = dense
    return found


def _read_nodes(protos: Iterable[onnx.NodeProto], reader: _Reader, depth: int) -> tuple[Node, ...]:
    return sort_nodes(tuple(_read_node(proto, reader, depth, i) for i, proto in enumerate(protos)))


def _read_node(proto: onnx.NodeProto, reader: _Reader, depth: int, position: int) -> Node:
    reader.budget.add_node()
    domain = canonical_domain(proto.domain)
    attributes: dict[str, Any] = {}
    for attribute in proto.attribute:
        if attribute.name in attributes:
            label = repr(proto.name) if proto.name else f"#{position}"
            raise InvalidAttributeError(
                f"node {label} ({proto.op_type}): attribute {attribute.name!r} is given twice"
            )
        attributes[attribute.name] = _read_attribute(attribute, reader, depth)
    return Node(
        op_type=proto.op_type,
        inputs=tuple(proto.input),
        outputs=tuple(proto.output),
        attributes=attributes,
        domain=domain,
        name=proto.name,
        overload=proto.overload,
        opset=reader.imports.get(domain, 0),
        position=position,
        metadata={entry.key: entry.value for entry in proto.metadata_props},
    )


def decode_text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")


def _read_attribute(proto: AttributeProto, reader: _Reader, depth: int) -> Any:
    if proto.ref_attr_name:
        return AttributeReference(proto.ref_attr_name)
    match proto.type or _guess_kind(proto):
        case AttributeProto.FLOAT:
            return proto.f
        case AttributeProto.INT:
            return proto.i
        case AttributeProto.STRING:
            return decode_text(proto.s)
        case AttributeProto.TENSOR:
            return decode_tensor(proto.t, reader.folder, reader.payloads)
        case AttributeProto.GRAPH:
            return _read_graph(proto.g, reader, depth + 1)
        case AttributeProto.SPARSE_TENSOR:
            return decode_sparse(proto.sparse_tensor, reader.folder, reader.payloads)
        case AttributeProto.TYPE_PROTO:
            return read_type(proto.tp)
        case AttributeProto.FLOATS:
            return tuple(proto.floats)
        case AttributeProto.INTS:
            return _shared_integers(proto.ints)
        case AttributeProto.STRINGS:
            return _shared_texts(proto.strings)
        case AttributeProto.TENSORS:
            return tuple(decode_tensor(t, reader.folder, reader.payloads) for t in proto.tensors)
        case AttributeProto.GRAPHS:
            return tuple(_read_graph(g, reader, depth + 1) for g in proto.graphs)
        case AttributeProto.SPARSE_TENSORS:
            return tuple(decode_sparse(s, reader.folder, reader.payloads) for s in proto.sparse_tensors)
        case AttributeProto.TYPE_PROTOS:
            return tuple(read_type(t) for t in proto.type_protos)
        case unknown:
            raise InvalidAttributeError(f"attribute {proto.name!r} has the unknown type {unknown}")


_MOST_SHARED = 1 << 12  # different values of a list that are looked for at a time
_SAMPLE = 64  # every so many-th value of a list is looked at
_CACHED = 256  # CPython shares the integers up to this one itself


def _shared_integers(values: Sequence[int]) -> tuple[int, ...]:
    """Return a list of integers in which equal ones are mostly the same object.

    Tree ensembles have lists of many thousands, of few different values. Objects of their own would take
    four times the memory of the pointers to them.
    """
    if len(values) < _MOST_SHARED or max(values[::_SAMPLE]) <= _CACHED:
        return tuple(values)
    found: list[int] = []
    seen: dict[int, int] = {}
    for start in range(0, len(values), _MOST_SHARED):
        if len(seen) > _MOST_SHARED:
            seen = {}  # so that values that are all different cost little
        part = values[start : start + _MOST_SHARED]
        found.extend(map(seen.setdefault, part, part))
    return tuple(found)


def _shared_texts(values: Sequence[bytes]) -> tuple[str, ...]:
    """Return a list of strings in which equal ones are the same object."""
    held = list(values)
    texts = {raw: decode_text(raw) for raw in set(held)}
    return tuple(map(texts.__getitem__, held))


# IR version 1 did not require `type`; the field that is set tells.
_FIELD_KINDS = {
    "f": AttributeProto.FLOAT,
    "i": AttributeProto.INT,
    "s": AttributeProto.STRING,
    "t": AttributeProto.TENSOR,
    "g": AttributeProto.GRAPH,
    "floats": AttributeProto.FLOATS,
    "ints": AttributeProto.INTS,
    "strings": AttributeProto.STRINGS,
    "tensors": AttributeProto.TENSORS,
    "graphs": AttributeProto.GRAPHS,
}


def _guess_kind(proto: AttributeProto) -> int:
    kinds = [_FIELD_KINDS[f.name] for f, _ in proto.ListFields() if f.name in _FIELD_KINDS]
    if len(kinds) != 1:
        raise InvalidAttributeError(f"attribute {proto.name!r} has no type and {len(kinds)} values")
    return kinds[0]


def _read_value(proto: onnx.ValueInfoProto) -> Value:
    return Value(proto.name, read_type(proto.type))


def _read_shape(proto: onnx.TensorShapeProto) -> tuple[Dim, ...]:
    def dim(d: onnx.TensorShapeProto.Dimension) -> Dim:
        if d.HasField("dim_value"):
            # Some exporters write -1 for "unknown", as other formats do.
            return d.dim_value if d.dim_value >= 0 else None
        return d.dim_param or None

    return tuple(dim(d) for d in proto.dim)


def read_type(proto: onnx.TypeProto) -> ValueType | None:
    """Return the type, None where the message does not set one."""
    match proto.WhichOneof("value"):
        case "tensor_type":
            tensor = proto.tensor_type
            shape = _read_shape(tensor.shape) if tensor.HasField("shape") else None
            return TensorType(tensor.elem_type, shape)
        case "sparse_tensor_type":
            sparse = proto.sparse_tensor_type
            shape = _read_shape(sparse.shape) if sparse.HasField("shape") else None
            return SparseTensorType(sparse.elem_type, shape)
        case "sequence_type":
            return SequenceType(read_type(proto.sequence_type.elem_type))
        case "optional_type":
            return OptionalType(read_type(proto.optional_type.elem_type))
        case "map_type":
            return MapType(proto.map_type.key_type, read_type(proto.map_type.value_type))
        case "opaque_type":
            raise InvalidGraphError("opaque types have no defined contents and cannot be run")
        case _:
            return None
