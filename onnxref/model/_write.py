"""The dataclasses of `onnxref.graph` back to protobuf messages and files.

What `load_model` does not keep cannot be written: documentation of values, quantisation annotations, training
information, and that an initializer was sparse. Everything else comes back equal when it is loaded again.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import onnx
from onnx import AttributeProto, numpy_helper

from .. import schema
from ..dtypes import PACKED_BITS, Array, ElementType, from_numpy
from ..errors import InputError, InvalidAttributeError, InvalidGraphError, OutputError
from ..graph import (
    AttributeReference,
    Dim,
    Function,
    Graph,
    MapType,
    Model,
    Node,
    OptionalType,
    SequenceType,
    SparseTensor,
    SparseTensorType,
    TensorType,
    Value,
    ValueType,
    subgraphs,
)

EXTERNAL_ABOVE = 1 << 30  # bytes of tensors; protobuf itself ends at 2 GiB
_SMALLEST_EXTERNAL = 1 << 10  # bytes of one tensor
_ALIGNMENT = 64  # of a tensor in the file, so that it can be mapped


def to_proto(model: Model) -> onnx.ModelProto:
    """Return a model as a message that `onnx.checker`, other runtimes and `load_model` read.

    Args:
        model: a model, loaded or made by hand. An `ir_version` below 3 becomes 3, the first that can say
            which opsets it imports.

    Raises:
        InvalidGraphError: a node has another opset than the model imports.
        InvalidAttributeError: an attribute has a value that ONNX has no attribute type for.
    """
    return _Writer(None).model(model)


def save_model(model: Model, path: Path | str, *, external_above: int = EXTERNAL_ABOVE) -> None:
    """Write a model to a file.

    Args:
        path: where to; `model.onnx` gets its tensors in `model.onnx.data` beside it if they are large.
        external_above: put tensors into a file of their own if all together are larger, in bytes.

    Raises:
        OutputError: the file cannot be written.
        InvalidGraphError, InvalidAttributeError: as for `to_proto`.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if sum(array.nbytes for array in _initializers(model)) <= external_above:
            path.write_bytes(to_proto(model).SerializeToString(deterministic=True))
            return
        data = path.with_name(path.name + ".data")
        with data.open("wb") as file:
            proto = _Writer(_Sink(data.name, file)).model(model)
        path.write_bytes(proto.SerializeToString(deterministic=True))
    except OSError as error:
        raise OutputError(f"cannot write the model {str(path)!r}: {error.strerror}") from error


def write_case(
    folder: Path | str,
    model: Model,
    inputs: Mapping[str, Any],
    outputs: Mapping[str, Any] | None = None,
    *,
    rtol: float | None = None,
    atol: float | None = None,
) -> None:
    """Write a model and one set of values in the layout of the official tests.

    Args:
        folder: gets `model.onnx`, `test_data_set_0/input_0.pb` ... and `output_0.pb` ..., and `data.json`
            where a tolerance is given. A data set that is there already is replaced.
        inputs: values by name. An input that is left out must have an initializer; it is written too
            where one after it is given, since files have numbers and no names.
        outputs: values by name for every output of the model; None writes no outputs.

    Raises:
        InputError: an input without an initializer is missing, or a name is none of the model's inputs.
        OutputError: a value is missing, or the folder cannot be written.
    """
    folder = Path(folder)
    graph = model.graph
    files = [("input", i, v, x) for i, (v, x) in enumerate(_ordered_inputs(graph, inputs))]
    if outputs is not None:
        missing = [value.name for value in graph.outputs if value.name not in outputs]
        if missing:
            raise OutputError(f"output {missing[0]!r} has no value to write")
        files += [("output", i, value, outputs[value.name]) for i, value in enumerate(graph.outputs)]
    save_model(model, folder / "model.onnx")
    data = folder / "test_data_set_0"
    try:
        data.mkdir(exist_ok=True)
        for old in (*data.glob("input_*.pb"), *data.glob("output_*.pb")):
            old.unlink()
        for kind, index, declared, value in files:
            message = encode_value(value, declared.type)
            (data / f"{kind}_{index}.pb").write_bytes(message.SerializeToString(deterministic=True))
        tolerances = {k: v for k, v in (("rtol", rtol), ("atol", atol)) if v is not None}
        if tolerances:
            (folder / "data.json").write_text(json.dumps(tolerances) + "\n", encoding="utf-8")
    except OSError as error:
        raise OutputError(f"cannot write the case {str(folder)!r}: {error.strerror}") from error


def _ordered_inputs(graph: Graph, inputs: Mapping[str, Any]) -> list[tuple[Value, Any]]:
    names = [value.name for value in graph.inputs]
    unknown = [name for name in inputs if name not in names]
    if unknown:
        raise InputError(f"{unknown[0]!r} is no input of the model (it has: {', '.join(names) or 'none'})")
    last = max((names.index(name) for name in inputs), default=-1)
    found = []
    for i, value in enumerate(graph.inputs):
        if value.name in inputs:
            found.append((value, inputs[value.name]))
        elif value.name not in graph.initializers:
            raise InputError(f"input {value.name!r} has no value to write")
        elif i < last:
            found.append((value, graph.initializers[value.name]))
    return found


def _initializers(model: Model) -> Iterator[Array]:
    """Return all initializers, those of subgraphs and function bodies included."""

    def inside(nodes: Iterable[Node]) -> Iterator[Array]:
        for node in nodes:
            for graph in subgraphs(node).values():
                yield from graph.initializers.values()
                yield from inside(graph.nodes)

    yield from model.graph.initializers.values()
    yield from inside(model.graph.nodes)
    for function in model.functions.values():
        yield from inside(function.nodes)


# Models -------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Sink:
    """A file that takes the bytes of large tensors."""

    name: str
    file: BinaryIO

    def put(self, proto: onnx.TensorProto, raw: bytes) -> None:
        self.file.write(bytes(-self.file.tell() % _ALIGNMENT))
        proto.data_location = onnx.TensorProto.EXTERNAL
        entries = {"location": self.name, "offset": str(self.file.tell()), "length": str(len(raw))}
        for key, value in entries.items():
            proto.external_data.add(key=key, value=value)
        self.file.write(raw)


@dataclass(slots=True)
class _Writer:
    """What is the same for a whole model while it is written."""

    sink: _Sink | None
    imports: Mapping[str, int] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)

    def model(self, model: Model) -> onnx.ModelProto:
        proto = onnx.ModelProto(
            ir_version=max(model.ir_version, 3),
            producer_name=model.producer_name,
            producer_version=model.producer_version,
            domain=model.domain,
            model_version=model.version,
            doc_string=model.doc,
        )
        self.imports = model.opset_imports
        for domain, version in model.opset_imports.items():
            proto.opset_import.add(domain=domain, version=version)
        self.graph(model.graph, proto.graph)
        for function in model.functions.values():
            self.function(function, proto.functions.add())
        _write_entries(proto.metadata_props, model.metadata)
        return proto

    def function(self, function: Function, proto: onnx.FunctionProto) -> None:
        proto.domain, proto.name, proto.doc_string = function.domain, function.name, function.doc
        if function.overload:
            proto.overload = function.overload
        proto.input.extend(function.inputs)
        proto.output.extend(function.outputs)
        proto.attribute.extend(function.attributes)
        inner = _Writer(self.sink, _imports_of(function), function.attribute_defaults)
        for domain, version in inner.imports.items():
            proto.opset_import.add(domain=domain, version=version)
        for name, value in function.attribute_defaults.items():
            self.attribute(name, value, None, proto.attribute_proto.add())
        for node in function.nodes:
            inner.node(node, proto.node.add())

    def graph(self, graph: Graph, proto: onnx.GraphProto) -> None:
        proto.name, proto.doc_string = graph.name, graph.doc
        for value in graph.inputs:
            _write_value(value, proto.input.add())
        for value in graph.outputs:
            _write_value(value, proto.output.add())
        for name, array in graph.initializers.items():
            self.tensor(array, proto.initializer.add(), name)
        for name, value_type in graph.value_types.items():
            _write_value(Value(name, value_type), proto.value_info.add())
        for node in graph.nodes:
            self.node(node, proto.node.add())

    def node(self, node: Node, proto: onnx.NodeProto) -> None:
        if node.opset and node.opset != self.imports.get(node.domain):
            raise InvalidGraphError(
                f"{node} cannot be written: its surroundings import version "
                f"{self.imports.get(node.domain, 'none')} of {node.domain or 'ai.onnx'!r}"
            )
        proto.op_type, proto.name, proto.domain = node.op_type, node.name, node.domain
        if node.overload:
            proto.overload = node.overload
        proto.input.extend(node.inputs)
        proto.output.extend(node.outputs)
        for name, value in node.attributes.items():
            self.attribute(name, value, node, proto.attribute.add())
        _write_entries(proto.metadata_props, node.metadata)

    def attribute(self, name: str, value: Any, node: Node | None, proto: AttributeProto) -> None:
        """Write an attribute; `node` tells the type of what does not tell it itself."""
        proto.name = name
        if isinstance(value, AttributeReference):
            proto.ref_attr_name = value.name
            proto.type = self._type_by_schema(node, name, self.defaults.get(value.name))
        elif isinstance(value, (tuple, list)):
            self._list_attribute(value, node, proto)
        else:
            self._single_attribute(value, proto)

    def _single_attribute(self, value: Any, proto: AttributeProto) -> None:
        proto.type = _kind_of(value, proto.name)
        match value:
            case bool() | int() | np.integer() | np.bool_():
                proto.i = int(value)
            case float() | np.floating():
                proto.f = float(value)
            case str():
                proto.s = encode_text(value)
            case np.ndarray():
                self.tensor(value, proto.t)
            case Graph():
                self.graph(value, proto.g)
            case SparseTensor():
                self.sparse(value, proto.sparse_tensor)
            case _:
                _write_type(value, proto.tp)
                proto.tp.SetInParent()

    def _list_attribute(self, values: Sequence[Any], node: Node | None, proto: AttributeProto) -> None:
        kinds = {_kind_of(value, proto.name) for value in values}
        if kinds == {AttributeProto.INT, AttributeProto.FLOAT}:
            kinds = {AttributeProto.FLOAT}
        if len(kinds) > 1:
            raise InvalidAttributeError(f"attribute {proto.name!r} is a list of different kinds of values")
        if not kinds:
            proto.type = self._type_by_schema(node, proto.name, None) or AttributeProto.INTS
            return
        kind = kinds.pop()
        proto.type = _LIST_KINDS[kind]
        match kind:
            case AttributeProto.INT:
                proto.ints.extend(int(value) for value in values)
            case AttributeProto.FLOAT:
                proto.floats.extend(float(value) for value in values)
            case AttributeProto.STRING:
                proto.strings.extend(encode_text(value) for value in values)
            case AttributeProto.TENSOR:
                for value in values:
                    self.tensor(value, proto.tensors.add())
            case AttributeProto.GRAPH:
                for value in values:
                    self.graph(value, proto.graphs.add())
            case AttributeProto.SPARSE_TENSOR:
                for value in values:
                    self.sparse(value, proto.sparse_tensors.add())
            case _:
                for value in values:
                    _write_type(value, proto.type_protos.add())

    def _type_by_schema(self, node: Node | None, name: str, default: Any) -> AttributeProto.AttributeType:
        """Return the type that the node's schema gives an attribute; else that of the default; else 0."""
        found = None if node is None else schema.find(node.domain, node.op_type, node.opset)
        if found is not None and name in found.attributes:
            return cast("AttributeProto.AttributeType", getattr(AttributeProto, found.attributes[name].kind))
        if default is None:
            return AttributeProto.UNDEFINED
        described = AttributeProto()
        _Writer(None).attribute(name, default, None, described)
        return described.type

    def tensor(self, array: Array, proto: onnx.TensorProto, name: str = "") -> None:
        _write_tensor(array, proto, name, self.sink)

    def sparse(self, tensor: SparseTensor, proto: onnx.SparseTensorProto) -> None:
        proto.dims.extend(tensor.shape)
        self.tensor(tensor.values, proto.values)
        self.tensor(tensor.indices, proto.indices)


def _imports_of(function: Function) -> dict[str, int]:
    """Return the opsets that a function's nodes belong to, by domain."""
    found: dict[str, int] = {}

    def visit(nodes: Iterable[Node]) -> None:
        for node in nodes:
            if node.opset:
                found.setdefault(node.domain, node.opset)
            for graph in subgraphs(node).values():
                visit(graph.nodes)

    visit(function.nodes)
    return found


_LIST_KINDS = {
    AttributeProto.FLOAT: AttributeProto.FLOATS,
    AttributeProto.INT: AttributeProto.INTS,
    AttributeProto.STRING: AttributeProto.STRINGS,
    AttributeProto.TENSOR: AttributeProto.TENSORS,
    AttributeProto.GRAPH: AttributeProto.GRAPHS,
    AttributeProto.SPARSE_TENSOR: AttributeProto.SPARSE_TENSORS,
    AttributeProto.TYPE_PROTO: AttributeProto.TYPE_PROTOS,
}


def _kind_of(value: Any, name: str) -> AttributeProto.AttributeType:
    match value:
        case bool() | int() | np.integer() | np.bool_():
            return AttributeProto.INT
        case float() | np.floating():
            return AttributeProto.FLOAT
        case str():
            return AttributeProto.STRING
        case np.ndarray():
            return AttributeProto.TENSOR
        case Graph():
            return AttributeProto.GRAPH
        case SparseTensor():
            return AttributeProto.SPARSE_TENSOR
        case None | TensorType() | SparseTensorType() | SequenceType() | OptionalType() | MapType():
            return AttributeProto.TYPE_PROTO
    raise InvalidAttributeError(
        f"attribute {name!r} cannot be written: ONNX has no attributes of the kind {type(value).__name__}"
    )


def encode_text(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _write_entries(entries: Any, texts: Mapping[str, str]) -> None:
    for key, value in texts.items():
        entries.add(key=key, value=value)


def _write_value(value: Value, proto: onnx.ValueInfoProto) -> None:
    proto.name = value.name
    if value.type is not None:
        _write_type(value.type, proto.type)


def _write_type(value_type: ValueType | None, proto: onnx.TypeProto) -> None:
    match value_type:
        case TensorType(element, shape):
            proto.tensor_type.elem_type = element
            _write_shape(shape, proto.tensor_type)
        case SparseTensorType(element, shape):
            proto.sparse_tensor_type.elem_type = element
            _write_shape(shape, proto.sparse_tensor_type)
        case SequenceType(inner):
            proto.sequence_type.SetInParent()
            _write_type(inner, proto.sequence_type.elem_type)
        case OptionalType(inner):
            proto.optional_type.SetInParent()
            _write_type(inner, proto.optional_type.elem_type)
        case MapType(key, inner):
            proto.map_type.key_type = key
            _write_type(inner, proto.map_type.value_type)


def _write_shape(shape: tuple[Dim, ...] | None, owner: Any) -> None:
    if shape is None:
        return
    owner.shape.SetInParent()
    for size in shape:
        dim = owner.shape.dim.add()
        if isinstance(size, str):
            dim.dim_param = size
        elif size is not None:
            dim.dim_value = size


# Values -------------------------------------------------------------------------------------------


def _write_tensor(array: Array, proto: onnx.TensorProto, name: str = "", sink: _Sink | None = None) -> None:
    element = from_numpy(array.dtype)
    proto.name = name
    proto.data_type = element
    proto.dims.extend(array.shape)
    if element == ElementType.STRING:
        proto.string_data.extend(encode_text(str(text)) for text in array.reshape(-1))
        return
    raw = _raw(array, element)
    if sink is not None and len(raw) >= _SMALLEST_EXTERNAL:
        sink.put(proto, raw)
    else:
        proto.raw_data = raw


def _raw(array: Array, element: ElementType) -> bytes:
    if element in PACKED_BITS:
        return numpy_helper.from_array(np.ascontiguousarray(array)).raw_data
    if array.dtype.byteorder == ">" or (array.dtype.byteorder == "=" and sys.byteorder == "big"):
        array = array.astype(array.dtype.newbyteorder("<"))
    return array.tobytes()


def encode_value(value: Any, declared: ValueType | None = None) -> Any:
    """Return a value as the message that the official test data holds for it.

    Args:
        value: an array, list, dict, `SparseTensor`, or None for an absent optional.
        declared: its type, which says what an empty list or an absent optional would hold.

    Raises:
        OutputError: the value is of none of ONNX's kinds.
    """
    if isinstance(declared, OptionalType):
        return _optional(value, declared)
    match value:
        case None:
            return _optional(value, OptionalType(declared))
        case SparseTensor():
            sparse = onnx.SparseTensorProto()
            _Writer(None).sparse(value, sparse)
            return sparse
        case list() | tuple():
            return _sequence(value, declared.element if isinstance(declared, SequenceType) else None)
        case Mapping():
            return _map(value, declared)
    tensor = onnx.TensorProto()
    try:
        _write_tensor(np.asarray(value), tensor)
    except ValueError as error:
        raise OutputError(f"a value cannot be written: {error}") from error
    return tensor


_FIELDS: dict[type, str] = {
    onnx.TensorProto: "tensor",
    onnx.SparseTensorProto: "sparse_tensor",
    onnx.SequenceProto: "sequence",
    onnx.MapProto: "map",
    onnx.OptionalProto: "optional",
}
_EMPTY: dict[type, type] = {
    SparseTensorType: onnx.SparseTensorProto,
    SequenceType: onnx.SequenceProto,
    MapType: onnx.MapProto,
    OptionalType: onnx.OptionalProto,
}


def _sequence(values: Collection[Any], element: ValueType | None) -> onnx.SequenceProto:
    messages = [encode_value(value, element) for value in values]
    kind = _FIELDS[type(messages[0]) if messages else _EMPTY.get(type(element), onnx.TensorProto)]
    made = onnx.SequenceProto(elem_type=onnx.SequenceProto.DataType.Value(kind.upper()))
    getattr(made, f"{kind}_values").extend(messages)
    return made


def _optional(value: Any, declared: OptionalType) -> onnx.OptionalProto:
    if value is None:
        return onnx.OptionalProto()
    message = encode_value(value, declared.element)
    kind = _FIELDS[type(message)]
    made = onnx.OptionalProto(elem_type=onnx.OptionalProto.DataType.Value(kind.upper()))
    getattr(made, f"{kind}_value").CopyFrom(message)
    return made


def _map(value: Mapping[Any, Any], declared: ValueType | None) -> onnx.MapProto:
    known = declared if isinstance(declared, MapType) else None
    texts = all(isinstance(key, str) for key in value) if value or known is None else known.key == 8
    made = onnx.MapProto(
        key_type=ElementType.STRING if texts else (known.key if known else ElementType.INT64)
    )
    if texts:
        made.string_keys.extend(encode_text(key) for key in value)
    else:
        made.keys.extend(int(key) for key in value)
    made.values.CopyFrom(_sequence(value.values(), known.value if known else None))
    return made
