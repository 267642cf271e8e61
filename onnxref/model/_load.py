"""Everything that a caller may call a model, turned into a `Model`."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any, TypeAlias

import onnx
import onnx.parser
from google.protobuf.message import DecodeError

from ..errors import ModelLoadError
from ..graph import Model
from ..limits import DEFAULT, Budget, Limits
from ..schema import newest_opset
from ._check import check_model
from ._serde import read_model
from ._wire import Payloads, SeekableFile, take_payloads

_TEXT_SUFFIXES = {".onnxtxt", ".onnxtext"}
_FORMATS = {
    ".json": "json",
    ".onnxjson": "json",
    ".textproto": "textproto",
    ".prototxt": "textproto",
    ".pbtxt": "textproto",
}


def load_model(source: Any, limits: Limits = DEFAULT) -> Model:
    """Load and check a model.

    Args:
        source: a path (`.onnx`, ONNX text `.onnxtxt`, JSON or text protobuf), the serialised bytes, a
            binary file object, or a `ModelProto`, `GraphProto`, `FunctionProto` or `NodeProto`. A bare
            graph or node is taken to use the newest opsets.
        limits: bounds on nodes, nesting and tensor sizes.

    Raises:
        ModelLoadError: the source cannot be read as an ONNX model.
        ModelError: the model breaks a rule of the specification.
    """
    if isinstance(source, Model):
        return source
    proto, folder, payloads = _to_proto(source)
    model = read_model(proto, folder, Budget(limits), payloads)
    check_model(model, limits)
    return model


_Parsed: TypeAlias = "tuple[onnx.ModelProto, Path | None, Payloads | None]"
"""A message, the folder of its external data, and what was taken out of it."""


def _to_proto(source: Any) -> _Parsed:
    match source:
        case onnx.ModelProto():
            return source, None, None
        case onnx.GraphProto():
            return _wrap(source), None, None
        case onnx.FunctionProto():
            return _wrap_function(source), None, None
        case onnx.NodeProto():
            return _wrap(_wrap_node(source)), None, None
        case bytes() | bytearray() | memoryview():
            return _parse(io.BytesIO(bytes(source)), "the given bytes", None)
        case str() | os.PathLike():
            return _read_path(Path(source))
    if hasattr(source, "read"):
        return _read_object(source)
    raise ModelLoadError(
        "model must be a path, bytes, a binary file object or an ONNX protobuf object "
        f"(got {type(source).__name__})"
    )


def _read_object(source: Any) -> _Parsed:
    name = getattr(source, "name", None)
    folder = Path(name).parent if isinstance(name, str) else None
    where = "the given file object"
    if isinstance(source, io.BufferedReader) and isinstance(source.raw, io.FileIO) and source.seekable():
        parsed = _parse(source, where, folder)
        source.seek(0, os.SEEK_END)
        return parsed
    data = source.read()
    if not isinstance(data, bytes):
        raise ModelLoadError("the model's file object must be opened in binary mode")
    return _parse(io.BytesIO(data), where, folder)


def _read_path(path: Path) -> _Parsed:
    suffix = path.suffix.lower()
    is_text = suffix in _TEXT_SUFFIXES or suffix in _FORMATS
    try:
        with path.open("rb", buffering=0) as file:
            if not is_text and file.seekable():
                return _parse(file, repr(str(path)), path.parent)
            data = file.read()
    except OSError as error:
        raise ModelLoadError(f"cannot read the model {str(path)!r}: {error.strerror}") from error
    if suffix in _TEXT_SUFFIXES:
        return _parse_text(data, path), path.parent, None
    if suffix in _FORMATS:
        try:
            proto = onnx.load_model_from_string(data, format=_FORMATS[suffix])
        except Exception as error:  # each format's parser has exceptions of its own
            raise ModelLoadError(f"{str(path)!r} is not an ONNX model in {suffix}: {error}") from error
        return proto, path.parent, None
    return _parse(io.BytesIO(data), repr(str(path)), path.parent)


def _parse(file: SeekableFile, where: str, folder: Path | None) -> _Parsed:
    """Parse a serialised model, from where its file stands to its end."""
    begin = file.tell()
    if file.read(8)[4:] == b"ORTM":
        raise ModelLoadError(f"{where} is in ONNX Runtime's own .ort format; export it as .onnx")
    file.seek(begin)
    data, payloads = take_payloads(file)
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(data)
    except DecodeError as error:
        raise ModelLoadError(f"{where} is not an ONNX model, or is broken or truncated ({error})") from error
    if not proto.HasField("graph"):
        raise ModelLoadError(f"{where} holds no graph: not an ONNX model, or truncated")
    return proto, folder, payloads


def _parse_text(data: bytes, path: Path) -> onnx.ModelProto:
    try:
        return onnx.parser.parse_model(data.decode("utf-8"))
    except (onnx.parser.ParseError, UnicodeDecodeError) as error:
        raise ModelLoadError(f"{str(path)!r} is not valid ONNX text: {error}") from error


def _wrap(graph: onnx.GraphProto, imports: list[onnx.OperatorSetIdProto] | None = None) -> onnx.ModelProto:
    model = onnx.ModelProto(ir_version=onnx.IR_VERSION)
    model.graph.CopyFrom(graph)
    if imports is not None:
        model.opset_import.extend(imports)
        return model
    domains = {node.domain for node in graph.node} | {""}
    for domain in sorted(domains):
        model.opset_import.add(domain=domain, version=newest_opset(domain) or 1)
    return model


def _wrap_node(node: onnx.NodeProto) -> onnx.GraphProto:
    graph = onnx.GraphProto(name=node.name or node.op_type)
    graph.node.append(node)
    for name in dict.fromkeys(n for n in node.input if n):
        graph.input.add(name=name)
    for name in node.output:
        if name:
            graph.output.add(name=name)
    return graph


def _wrap_function(function: onnx.FunctionProto) -> onnx.ModelProto:
    """A model that calls the function once, its attributes at their defaults."""
    call = onnx.NodeProto(
        op_type=function.name,
        domain=function.domain,
        overload=function.overload,
        input=function.input,
        output=function.output,
    )
    imports = list(function.opset_import)
    if not any(entry.domain == function.domain for entry in imports):
        imports.append(onnx.OperatorSetIdProto(domain=function.domain, version=1))
    model = _wrap(_wrap_node(call), imports)
    model.functions.append(function)
    return model
