"""Casts from and to types of 8 bits and less, and BitCast; the bits of the reference.

These types are float8, float6 and float4 in all their kinds, and integers of 4 and 2 bits. Tensors hold each
element in a byte of its own, so nothing is packed or unpacked; the upper bits of small integers mean nothing.
"""

from __future__ import annotations

from onnxref.gpu import CTYPES, cuda_kernel, grid_for
from onnxref.lowering import Operand, Site, Unsupported, lower

from .movement import is_dense

_CODE = "onnxref.kernels.cupy.code"

NARROW = (
    *("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu"),
    *("float6_e2m3fn", "float6_e3m2fn", "float4_e2m1fn"),
    *("int4", "uint4", "int2", "uint2"),
)
"""Types of `narrow_types.cuh`."""

TYPES = {**CTYPES, **{name: f"{name}_t" for name in NARROW}}
"""Names in CUDA of all types that are cast."""

ROUND_MODES = ("up", "down", "nearest")
_MANY = 1 << 18  # elements from which on a thread has several accesses


def items_for(total: int) -> int:
    """Return how many accesses a thread has: several, where enough threads are left."""
    return 4 if total >= _MANY else 1


def emit_narrow_cast(
    site: Site, x: Operand, y: Operand, *, saturate: bool, round_mode: str, before_24: bool
) -> None:
    """Emit the cast of x to y where one of them is narrow.

    Args:
        before_24: whether 4-bit types follow Cast-19 to -23 (see the reference's `cast_array`).
    """
    if x.dtype.name not in TYPES or y.dtype.name not in TYPES:
        raise Unsupported(f"a cast of {x} to {y.dtype.name}")
    is_flat = x.layout == y.layout and is_dense(x) and not (x.layout and x.layout.lanes)
    if not is_flat or x.shape != y.shape:
        raise Unsupported(f"{x} as {y}")
    if round_mode not in ROUND_MODES:
        raise Unsupported(f"round_mode {round_mode}")
    if not x.size:
        return
    goal = y.dtype.name
    vec = 16 // max(x.dtype.itemsize, y.dtype.itemsize)
    # Those that make no difference to this goal stay as they are, so that kernels are few.
    kernel = cuda_kernel(
        _CODE, "narrow_cast.cu", "narrow_cast",
        FROM=TYPES[x.dtype.name], TO=TYPES[goal], VEC=vec, ITEMS=items_for(x.size),
        SATURATE=int(saturate or not goal.startswith("float8")),
        ROUND_MODE=ROUND_MODES.index(round_mode) if goal == "float8_e8m0fnu" else 0,
        BEFORE_24=int(before_24 and goal in ("int4", "uint4", "float4_e2m1fn")),
    )  # fmt: skip
    grid = grid_for(x.size // vec, per_thread=items_for(x.size))
    site.launch(kernel, x, y, x.size, grid=grid)


@lower("BitCast", since=26, backend="cupy")
def bit_cast(site: Site, x: Operand, *, to: int) -> None:
    """ONNX BitCast-26: the same memory."""
    (y,) = site.outputs
    if y is None or x.layout or y.layout or y.shape != x.shape or y.dtype.itemsize != x.dtype.itemsize:
        raise Unsupported(f"the bits of {x}")
    if x.dtype.kind == "O" or _bits(x.dtype.name) != _bits(y.dtype.name):
        raise Unsupported("types of different widths")
    site.alias(y, x)


def _bits(name: str) -> int:
    """Return the width of a type of the wire format; 8 stands for all that fill their bytes."""
    for width in (2, 4, 6):
        if name.startswith((f"int{width}", f"uint{width}", f"float{width}_")) and name in NARROW:
            return width
    return 8
