"""Checks of arguments that several kernel families share; what fails is a KernelError."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from functools import lru_cache
from typing import Any, Final

import numpy as np

from onnxref.dtypes import Array, DType, ElementType, element_name, to_numpy
from onnxref.errors import KernelError

Shape = tuple[int, ...]

# The types that arithmetic may be asked to run in: by `stash_type`, `softmax_precision`, `precision`.
FLOAT_TYPES: Final = (ElementType.FLOAT, ElementType.FLOAT16, ElementType.DOUBLE, ElementType.BFLOAT16)

INTEGER_TYPES: Final = (
    *(ElementType.UINT8, ElementType.UINT16, ElementType.UINT32, ElementType.UINT64),
    *(ElementType.INT8, ElementType.INT16, ElementType.INT32, ElementType.INT64),
)

_MAX_RANK: Final = 64  # NumPy's
_MAX_BYTES: Final = 2**63 - 1


def normalize_axis(axis: int, rank: int, name: str = "axis") -> int:
    """Return `axis` counted from the front; it must be in [-rank, rank)."""
    if not -rank <= axis < rank:
        raise KernelError(f"{name} must be in [{-rank}, {rank - 1}] for rank {rank} (got {axis})")
    return int(axis) + rank if axis < 0 else int(axis)


def normalize_axes(axes: Iterable[int], rank: int, name: str = "axes") -> Shape:
    """Return `axes` counted from the front; each in [-rank, rank), none twice."""
    found = tuple(normalize_axis(axis, rank, name) for axis in axes)
    if len(set(found)) != len(found):
        raise KernelError(f"{name} must not repeat (got {found})")
    return found


def check_choice(value: Any, choices: Collection[Any], name: str) -> None:
    """Refuse an attribute that is none of `choices`."""
    if value not in choices:
        raise KernelError(f"{name} must be one of {', '.join(map(str, choices))} (got {value!r})")


def only_one(**given: Any) -> tuple[str, Any]:
    """Return name and value of the only attribute that is there."""
    found = [(name, value) for name, value in given.items() if value is not None]
    if len(found) != 1:
        names = ", ".join(name for name, _ in found) or "none"
        raise KernelError(f"exactly one of {', '.join(given)} must be given (got {names})")
    return found[0]


def check_shape(x: Array, shape: Shape, name: str) -> None:
    """Refuse a tensor of another shape."""
    if x.shape != shape:
        raise KernelError(f"{name} must have shape {shape} (got {x.shape})")


def int_vector(values: Array, name: str) -> list[int]:
    """Return a 1-D (or 0-d) integer tensor as Python ints."""
    if values.ndim > 1:
        raise KernelError(f"{name} must be 1-D (got shape {values.shape})")
    return [int(v) for v in np.atleast_1d(values).tolist()]


def one_element(value: Array, name: str) -> Array:
    """Return a tensor of one element, in any shape, as a 0-d tensor."""
    if value.size != 1:
        raise KernelError(f"{name} must have one element (got shape {value.shape})")
    return value.reshape(())


def scalar(value: Array, name: str) -> Any:
    """Return the only element of a tensor as a Python number or str."""
    return one_element(value, name).item()


def scalar_int(value: Array, name: str) -> int:
    """Return the only element of a tensor, truncated to an int."""
    number = scalar(value, name)
    if not math.isfinite(number):
        raise KernelError(f"{name} must be finite (got {number})")
    return int(number)


def element_type(value: int, name: str, allowed: Collection[ElementType] | None = None) -> ElementType:
    """Return an attribute as the element type that it numbers, one of `allowed` or any."""
    try:
        element = ElementType(value)
    except ValueError:
        raise KernelError(f"{name} must be an element type (got {value})") from None
    if element is ElementType.UNDEFINED:
        raise KernelError(f"{name} must be an element type (got undefined)")
    if allowed is not None and element not in allowed:
        names = ", ".join(map(element_name, allowed))
        raise KernelError(f"{name} must be one of {names} (got {element_name(element)})")
    return element


def float_dtype(value: int, name: str) -> DType:
    """Return the dtype of an attribute that names one of `FLOAT_TYPES`."""
    return to_numpy(element_type(value, name, FLOAT_TYPES))


def check_addressable(shape: Sequence[int], dtype: DType) -> Shape:
    """Return `shape` if NumPy can hold a tensor of it, which also restricts tensors without elements."""
    if len(shape) > _MAX_RANK:
        raise KernelError(f"rank of the output must be at most {_MAX_RANK} (got {len(shape)})")
    if math.prod(d for d in shape if d) * dtype.itemsize > _MAX_BYTES:
        raise KernelError(f"shape of the output must be addressable (got {tuple(shape)})")
    return tuple(shape)


@lru_cache(maxsize=4096)  # elementwise operators ask at every run
def broadcast_shape(*shapes: Shape, names: str = "inputs") -> Shape:
    """Return the shape that `shapes` broadcast to, both ways (ONNX Broadcasting)."""
    if not shapes:
        raise KernelError(f"{names} must be one or more (got none)")
    if len(set(shapes)) == 1:
        return shapes[0]
    rank = max(map(len, shapes))
    result = []
    for dims in zip(*((1,) * (rank - len(s)) + s for s in shapes), strict=True):
        wide = {d for d in dims if d != 1}
        if len(wide) > 1:
            raise KernelError(f"{names} must broadcast to one shape (got {' and '.join(map(str, shapes))})")
        result.append(wide.pop() if wide else 1)
    return tuple(result)


def broadcasts_to(shape: Shape, target: Shape) -> bool:
    """Whether `shape` broadcasts to `target` one way (ONNX unidirectional Broadcasting)."""
    if len(shape) > len(target):
        return False
    return all(d in (1, t) for d, t in zip(reversed(shape), reversed(target), strict=False))
