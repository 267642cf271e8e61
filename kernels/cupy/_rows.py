"""How rows are dealt to threads and vectors: what reductions, softmax and normalisations have in common."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from onnxref.dtypes import DType
from onnxref.gpu import Extent

BUSY = 132 * 2048  # threads that keep a large card busy
FLOATS = ("float32", "float64", "float16", "bfloat16")
INTEGERS = tuple(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64))


def vector_width(itemsize: int, *extents: int) -> int:
    """Return how many elements one access takes: 16 bytes at most, and a divisor of all extents."""
    return math.gcd(max(1, 16 // itemsize), *extents)


def power_above(value: int) -> int:
    """Return the smallest power of two that is at least `value`."""
    return 1 << max(0, value - 1).bit_length()


def compute_type(dtype: DType) -> str:
    """Return the name of the type that a floating-point type is computed in."""
    return "float64" if dtype == np.float64 else "float32"


class Rows(NamedTuple):
    """How rows that fit registers are dealt out.

    Attributes:
        group: threads that have a row, up to a warp; 0 for a whole block.
        items: accesses of each thread.
        vec: elements of an access.
        threads: threads of a block.
    """

    group: int
    items: int
    vec: int
    threads: int

    def grid(self, rows: int) -> Extent:
        return (-(-rows * self.group // self.threads) if self.group else rows, 1, 1)

    @property
    def defines(self) -> dict[str, int]:
        bound = 1024 if self.threads > 512 else 512
        return {"GROUP": self.group, "ITEMS": self.items, "VEC": self.vec, "BOUND": bound}


def rows_in_registers(rows: int, n: int, vec: int, wide: str, strict: bool = False) -> Rows | None:
    """Return how rows of n elements are dealt out, None where a row does not fit a block's registers.

    Args:
        wide: type in which elements are held.
        strict: whether the answer must not depend on the number of rows.
    """
    vectors = -(-n // vec)
    limit = max(1, (32 if wide == "float32" else 16) // vec)
    many = strict or rows >= 132 * 16
    if vectors <= 64 or (many and vectors <= 32 * min(limit, 8)):
        group = min(32, power_above(-(-vectors // 2)))
        return Rows(group, max(1, -(-vectors // group)), vec, 128)
    items = 1
    while items <= limit:
        threads = -(-vectors // (items * 32)) * 32
        if threads <= (256 if many and items < limit else 1024):
            return Rows(0, items, vec, threads)
        items *= 2
    return None
