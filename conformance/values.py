"""One `.pb` file of a test folder: to the Python value that a backend is given, and back.

The declared type decides what a file holds, because the files of old releases say it wrongly: bfloat16 was
stored as uint16, and an empty optional as an optional tensor without a type.
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import numpy_helper

from .errors import BrokenCaseError

_SEQUENCE_FIELDS: dict[int, str] = {
    onnx.SequenceProto.TENSOR: "tensor_values",
    onnx.SequenceProto.SEQUENCE: "sequence_values",
    onnx.SequenceProto.MAP: "map_values",
    onnx.SequenceProto.OPTIONAL: "optional_values",
}
_OPTIONAL_FIELDS: dict[int, str] = {
    onnx.OptionalProto.TENSOR: "tensor_value",
    onnx.OptionalProto.SEQUENCE: "sequence_value",
    onnx.OptionalProto.MAP: "map_value",
    onnx.OptionalProto.OPTIONAL: "optional_value",
}
_MESSAGES: dict[str, Any] = {
    "tensor_type": onnx.TensorProto,
    "sequence_type": onnx.SequenceProto,
    "optional_type": onnx.OptionalProto,
    "map_type": onnx.MapProto,
}


def decode(data: bytes, declared: onnx.TypeProto) -> Any:
    """Return the value that serialised bytes hold: array, list, dict, or None for an absent optional.

    Raises:
        BrokenCaseError: the bytes hold no such value.
    """
    kind = declared.WhichOneof("value") or "tensor_type"
    if kind not in _MESSAGES:
        raise BrokenCaseError(f"values of the kind {kind} cannot be read from test data")
    message = _MESSAGES[kind]()
    try:
        message.ParseFromString(data)
        return _decode(message, declared)
    except (DecodeError, ValueError, TypeError, AttributeError, KeyError, IndexError) as error:
        raise BrokenCaseError(f"the data holds no value of its declared {kind}: {error}") from error


def _decode(message: Any, declared: onnx.TypeProto) -> Any:
    match message:
        case onnx.TensorProto():
            return _tensor(message, declared.tensor_type.elem_type)
        case onnx.SequenceProto():
            field = _SEQUENCE_FIELDS.get(message.elem_type)
            if field is None and message.ListFields() and message.elem_type:
                raise ValueError(f"sequence elements of the kind {message.elem_type} cannot be read")
            element = declared.sequence_type.elem_type
            return [_decode(item, element) for item in getattr(message, field or "tensor_values")]
        case onnx.OptionalProto():
            return _optional(message, declared.optional_type.elem_type)
        case onnx.MapProto():
            keys: list[Any] = list(message.keys) or [key.decode() for key in message.string_keys]
            element = onnx.TypeProto()
            element.sequence_type.elem_type.CopyFrom(declared.map_type.value_type)
            return dict(zip(keys, _decode(message.values, element), strict=True))
    raise TypeError(f"a {type(message).__name__} is no value")


def _tensor(message: onnx.TensorProto, declared: int) -> np.ndarray[Any, Any]:
    array = np.array(numpy_helper.to_array(message))
    if message.data_type == onnx.TensorProto.STRING:
        array = array.astype(object)
    elif declared == onnx.TensorProto.BFLOAT16 and array.dtype == np.uint16:
        array = array.view(ml_dtypes.bfloat16)
    return array


def _optional(message: onnx.OptionalProto, element: onnx.TypeProto) -> Any:
    field = _OPTIONAL_FIELDS.get(message.elem_type)
    if field is None:
        return None
    inner = getattr(message, field)
    if isinstance(inner, onnx.TensorProto) and inner.data_type == onnx.TensorProto.UNDEFINED:
        return None
    return _decode(inner, element)


def encode(value: Any, declared: onnx.TypeProto) -> bytes:
    """Return a value as the bytes of a `.pb` file."""
    return bytes(_encode(value, declared).SerializeToString(deterministic=True))


def _encode(value: Any, declared: onnx.TypeProto) -> Any:
    match declared.WhichOneof("value"):
        case "sequence_type":
            return _encode_sequence(value, declared.sequence_type.elem_type)
        case "optional_type":
            return _encode_optional(value, declared.optional_type.elem_type)
        case "map_type":
            values = _encode_sequence(list(value.values()), declared.map_type.value_type)
            made = onnx.MapProto(key_type=declared.map_type.key_type, values=values)
            if declared.map_type.key_type == onnx.TensorProto.STRING:
                made.string_keys.extend(key.encode() for key in value)
            else:
                made.keys.extend(value)
            return made
        case _:
            # The suite stores some of its values as messages already.
            return (
                value if isinstance(value, onnx.TensorProto) else numpy_helper.from_array(np.asarray(value))
            )


def _encode_sequence(values: Any, element: onnx.TypeProto) -> onnx.SequenceProto:
    kinds = {
        "sequence_type": onnx.SequenceProto.SEQUENCE,
        "map_type": onnx.SequenceProto.MAP,
        "optional_type": onnx.SequenceProto.OPTIONAL,
    }
    kind = kinds.get(element.WhichOneof("value") or "", onnx.SequenceProto.TENSOR)
    made = onnx.SequenceProto(elem_type=kind)
    getattr(made, _SEQUENCE_FIELDS[kind]).extend(_encode(item, element) for item in values)
    return made


def _encode_optional(value: Any, element: onnx.TypeProto) -> onnx.OptionalProto:
    if value is None:
        return onnx.OptionalProto()
    kinds = {"sequence_type": onnx.OptionalProto.SEQUENCE, "map_type": onnx.OptionalProto.MAP}
    kind = kinds.get(element.WhichOneof("value") or "", onnx.OptionalProto.TENSOR)
    made = onnx.OptionalProto(elem_type=kind)
    getattr(made, _OPTIONAL_FIELDS[kind]).CopyFrom(_encode(value, element))
    return made
