"""What shape rules share."""

from __future__ import annotations

from onnxref.dtypes import Array, DType
from onnxref.errors import KernelError
from onnxref.registry import ghost

from ._checks import broadcasts_to, check_addressable


def like(x: Array, shape: tuple[int, ...] | None = None, dtype: DType | None = None) -> Array:
    """Return a ghost like `x`, but for what is given."""
    return ghost(x.shape if shape is None else check_addressable(shape, x.dtype), dtype or x.dtype)


def check_broadcast(value: Array, shape: tuple[int, ...], name: str) -> None:
    """Refuse a tensor that does not broadcast to `shape` one way."""
    if not broadcasts_to(value.shape, shape):
        raise KernelError(f"{name} must broadcast to {shape} (got {value.shape})")


def numeric(dtype: DType) -> DType:
    """Return a type that native code can address, of real numbers or truth values; refuse others."""
    if dtype.kind in "Oc":
        raise KernelError(f"tensors of {dtype} are left to the kernel")
    return dtype
