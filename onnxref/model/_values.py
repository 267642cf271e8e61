"""Values stored as protobuf files: the `input_0.pb` and `output_0.pb` of the official test data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError

from ..errors import ModelLoadError
from ..graph import MapType, OptionalType, SequenceType, SparseTensorType, ValueType
from ._serde import decode_text
from ._tensors import decode_sparse, decode_tensor

_MESSAGES: dict[type, type] = {
    SequenceType: onnx.SequenceProto,
    OptionalType: onnx.OptionalProto,
    MapType: onnx.MapProto,
    SparseTensorType: onnx.SparseTensorProto,
}


def read_value_file(path: Path, expected: ValueType | None) -> Any:
    """Return the value in a `.pb` file.

    Args:
        path: a serialised `TensorProto`, `SequenceProto`, `OptionalProto`, `MapProto` or `SparseTensorProto`.
        expected: the declared type, which says which of them it is; None means a tensor.

    Raises:
        ModelLoadError: the file cannot be read, or does not hold such a message.
    """
    message = _MESSAGES.get(type(expected), onnx.TensorProto)()
    try:
        message.ParseFromString(path.read_bytes())
    except OSError as error:
        raise ModelLoadError(f"cannot read {str(path)!r}: {error.strerror}") from error
    except DecodeError as error:
        raise ModelLoadError(f"{str(path)!r} holds no {type(message).__name__}") from error
    return decode_value(message)


def decode_value(message: Any) -> Any:
    """Return the value that a message holds: array, list, dict, `SparseTensor`, or None."""
    match message:
        case onnx.TensorProto():
            return decode_tensor(message)
        case onnx.SparseTensorProto():
            return decode_sparse(message)
        case onnx.SequenceProto():
            return _sequence(message)
        case onnx.OptionalProto():
            return _optional(message)
        case onnx.MapProto():
            keys: list[Any] = list(message.keys) or [decode_text(key) for key in message.string_keys]
            values = _sequence(message.values)
            return dict(zip(keys, values, strict=True))
    raise ModelLoadError(f"{type(message).__name__} is not a value")


def _sequence(message: onnx.SequenceProto) -> list[Any]:
    kinds = onnx.SequenceProto
    fields: dict[int, Any] = {
        kinds.TENSOR: message.tensor_values,
        kinds.SPARSE_TENSOR: message.sparse_tensor_values,
        kinds.SEQUENCE: message.sequence_values,
        kinds.MAP: message.map_values,
        kinds.OPTIONAL: message.optional_values,
    }
    return [decode_value(item) for item in fields.get(message.elem_type, ())]


def _optional(message: onnx.OptionalProto) -> Any:
    kinds = onnx.OptionalProto
    fields: dict[int, Any] = {
        kinds.TENSOR: "tensor_value",
        kinds.SPARSE_TENSOR: "sparse_tensor_value",
        kinds.SEQUENCE: "sequence_value",
        kinds.MAP: "map_value",
        kinds.OPTIONAL: "optional_value",
    }
    field = fields.get(message.elem_type)
    # Releases up to 1.10 wrote an empty optional as one that holds a tensor without a type.
    untyped = message.elem_type == kinds.TENSOR and not message.tensor_value.data_type
    if field is None or untyped:
        return None
    return decode_value(getattr(message, field))
