"""Has a value the type and shape that a graph declares? For cases whose values nobody foretold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx

from .compare import Comparison, Difference


def compare_declared(declared: Sequence[onnx.ValueInfoProto], actual: Sequence[Any]) -> Comparison:
    """Compare outputs with the types of a graph's outputs; a dimension without a size may have any.

    No error is measured, because there is nothing to measure it against.
    """
    if not isinstance(actual, (list, tuple)) or len(actual) != len(declared):
        return Comparison(f"there must be {len(declared)} outputs (got {actual!r})", None, None)
    for index, (info, value) in enumerate(zip(declared, actual, strict=True)):
        difference = _difference(f"output[{index}]", info.type, value)
        if difference is not None:
            message = f"{difference.where} must be {difference.expected} (got {difference.actual})"
            return Comparison(message, None, None, (difference,))
    return Comparison("", None, None)


def _difference(where: str, declared: onnx.TypeProto, value: Any) -> Difference | None:
    match declared.WhichOneof("value"):
        case "tensor_type":
            return _tensor(where, declared.tensor_type, np.asarray(value) if _is_scalar(value) else value)
        case "sequence_type" if isinstance(value, (list, tuple)):
            element = declared.sequence_type.elem_type
            found = (_difference(f"{where}[{i}]", element, item) for i, item in enumerate(value))
            return next((one for one in found if one is not None), None)
        case "optional_type":
            return None if value is None else _difference(where, declared.optional_type.elem_type, value)
        case "map_type" if isinstance(value, dict):
            text = declared.map_type.key_type == onnx.TensorProto.STRING
            right = all(isinstance(key, str if text else (int, np.integer)) for key in value)
            return None if right else Difference(where, "a map with other keys", f"keys {list(value)!r}")
    return Difference(where, f"a {declared.WhichOneof('value')}", f"a {type(value).__name__}")


def _tensor(where: str, declared: onnx.TypeProto.Tensor, value: Any) -> Difference | None:
    if not isinstance(value, np.ndarray):
        return Difference(where, "a tensor", f"a {type(value).__name__}")
    dtype = onnx.helper.tensor_dtype_to_np_dtype(declared.elem_type)
    texts = declared.elem_type == onnx.TensorProto.STRING
    if (value.dtype.kind not in "OUT") if texts else (value.dtype != dtype):
        return Difference(f"{where}.dtype", "string" if texts else dtype.name, value.dtype.name)
    if not declared.HasField("shape"):
        return None
    sizes = [dim.dim_value if dim.HasField("dim_value") else None for dim in declared.shape.dim]
    if len(sizes) == value.ndim and all(w in (None, g) for w, g in zip(sizes, value.shape, strict=True)):
        return None
    return Difference(f"{where}.shape", f"({', '.join(str(s or '?') for s in sizes)})", str(value.shape))


def _is_scalar(value: Any) -> bool:
    return isinstance(value, np.generic)
