"""ONNX element types and their NumPy counterparts.

`ElementType` numbers are those of `TensorProto.DataType`. Types that NumPy lacks come from
`ml_dtypes`; strings are object arrays of `str`.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
DType = np.dtype[Any]


class ElementType(IntEnum):
    """Element type of a tensor, numbered as in `TensorProto.DataType`."""

    UNDEFINED = 0
    FLOAT = 1
    UINT8 = 2
    INT8 = 3
    UINT16 = 4
    INT16 = 5
    INT32 = 6
    INT64 = 7
    STRING = 8
    BOOL = 9
    FLOAT16 = 10
    DOUBLE = 11
    UINT32 = 12
    UINT64 = 13
    COMPLEX64 = 14
    COMPLEX128 = 15
    BFLOAT16 = 16
    FLOAT8E4M3FN = 17
    FLOAT8E4M3FNUZ = 18
    FLOAT8E5M2 = 19
    FLOAT8E5M2FNUZ = 20
    UINT4 = 21
    INT4 = 22
    FLOAT4E2M1 = 23
    FLOAT8E8M0 = 24
    UINT2 = 25
    INT2 = 26
    FLOAT6E2M3 = 27
    FLOAT6E3M2 = 28


_NUMPY: dict[ElementType, Any] = {
    ElementType.FLOAT: np.float32,
    ElementType.UINT8: np.uint8,
    ElementType.INT8: np.int8,
    ElementType.UINT16: np.uint16,
    ElementType.INT16: np.int16,
    ElementType.INT32: np.int32,
    ElementType.INT64: np.int64,
    ElementType.STRING: np.object_,
    ElementType.BOOL: np.bool_,
    ElementType.FLOAT16: np.float16,
    ElementType.DOUBLE: np.float64,
    ElementType.UINT32: np.uint32,
    ElementType.UINT64: np.uint64,
    ElementType.COMPLEX64: np.complex64,
    ElementType.COMPLEX128: np.complex128,
    ElementType.BFLOAT16: ml_dtypes.bfloat16,
    ElementType.FLOAT8E4M3FN: ml_dtypes.float8_e4m3fn,
    ElementType.FLOAT8E4M3FNUZ: ml_dtypes.float8_e4m3fnuz,
    ElementType.FLOAT8E5M2: ml_dtypes.float8_e5m2,
    ElementType.FLOAT8E5M2FNUZ: ml_dtypes.float8_e5m2fnuz,
    ElementType.UINT4: ml_dtypes.uint4,
    ElementType.INT4: ml_dtypes.int4,
    ElementType.FLOAT4E2M1: ml_dtypes.float4_e2m1fn,
    ElementType.FLOAT8E8M0: ml_dtypes.float8_e8m0fnu,
    ElementType.UINT2: ml_dtypes.uint2,
    ElementType.INT2: ml_dtypes.int2,
    ElementType.FLOAT6E2M3: ml_dtypes.float6_e2m3fn,
    ElementType.FLOAT6E3M2: ml_dtypes.float6_e3m2fn,
}

_TO_NUMPY: dict[ElementType, DType] = {element: np.dtype(t) for element, t in _NUMPY.items()}
_FROM_NUMPY: dict[DType, ElementType] = {dtype: element for element, dtype in _TO_NUMPY.items()}

# Bits per element where the ONNX wire format packs elements without regard to bytes.
PACKED_BITS: dict[ElementType, int] = {
    ElementType.UINT4: 4,
    ElementType.INT4: 4,
    ElementType.FLOAT4E2M1: 4,
    ElementType.FLOAT6E2M3: 6,
    ElementType.FLOAT6E3M2: 6,
    ElementType.UINT2: 2,
    ElementType.INT2: 2,
}

# Floating-point types narrower than float32: computed in float32, rounded once (docs/numerics.md).
LOW_PRECISION: frozenset[DType] = frozenset(
    _TO_NUMPY[e]
    for e in (
        ElementType.FLOAT16,
        ElementType.BFLOAT16,
        ElementType.FLOAT8E4M3FN,
        ElementType.FLOAT8E4M3FNUZ,
        ElementType.FLOAT8E5M2,
        ElementType.FLOAT8E5M2FNUZ,
        ElementType.FLOAT8E8M0,
        ElementType.FLOAT6E2M3,
        ElementType.FLOAT6E3M2,
        ElementType.FLOAT4E2M1,
    )
)


def to_numpy(element: int) -> DType:
    """Return the NumPy dtype of an ONNX element type.

    Raises:
        ValueError: `element` is not an ONNX element type, or is UNDEFINED.
    """
    try:
        return _TO_NUMPY[ElementType(element)]
    except (KeyError, ValueError):
        raise ValueError(f"{element} is not an ONNX element type") from None


def from_numpy(dtype: DType) -> ElementType:
    """Return the ONNX element type of a NumPy dtype; `str` dtypes (`<U`, StringDType) are STRING.

    Raises:
        ValueError: ONNX has no such element type.
    """
    found = _FROM_NUMPY.get(dtype)
    if found is not None:
        return found
    if dtype.kind in "UT":
        return ElementType.STRING
    native = _FROM_NUMPY.get(dtype.newbyteorder("="))
    if native is None:
        raise ValueError(f"ONNX has no element type for NumPy's {dtype}")
    return native


def element_name(element: int) -> str:
    """Return the name used in type strings: `float`, `int64`, `float8e4m3fn` ..."""
    return ElementType(element).name.lower()


def tensor_type_string(dtype: DType) -> str:
    """Return the ONNX type string of a tensor of this dtype, such as `tensor(float)`."""
    return f"tensor({element_name(from_numpy(dtype))})"


def memory_owner(array: Array) -> Array:
    """Return the array that a view looks into, itself where it is no view."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array
