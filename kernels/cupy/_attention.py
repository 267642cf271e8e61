"""What attention's lowerings have in common: where operands lie, sizes, masks, the work to be emitted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from onnxref.gpu import CTYPES, cuda_kernel
from onnxref.lowering import Address, Fault, Operand, Scratch, Site, Unsupported

from ._rows import FLOATS
from ._values import fault_of

CODE = "onnxref.kernels.cupy.code"
MOST_SIZE = 512  # of a head, in `attention.cu`
MOST_KEYS = 2**31 - 2**16


@dataclass(frozen=True, slots=True)
class View:
    """Where `(batch, heads, rows, size)` lies in memory; steps in elements, that of `size` is 1."""

    source: Operand | Scratch
    offset: int
    batch: int
    head: int
    row: int
    itemsize: int

    @property
    def address(self) -> Address:
        return self.source + self.offset * self.itemsize

    @property
    def steps(self) -> tuple[int, int, int]:
        """Steps between batches, heads and rows in elements."""
        return self.batch, self.head, self.row

    def divisor(self, *extents: int) -> int:
        """Return how many elements an access may take: 16 bytes at most, and a divisor of all places."""
        return math.gcd(16 // self.itemsize, self.offset, *self.steps, *extents)


@dataclass(frozen=True, slots=True)
class Mask:
    """What hides keys, or is added to scores.

    Attributes:
        strides: steps over (batch, heads, queries, keys) in elements, 0 where it is broadcast.
        fill: what a score becomes where a bool mask is `hides`.
        keys: those that it speaks of; nobody sees any behind them.
    """

    operand: Operand | None = None
    strides: tuple[int, ...] = (0, 0, 0, 0)
    fill: float = -math.inf
    hides: bool = False
    keys: int = MOST_KEYS

    @property
    def defines(self) -> dict[str, str | int]:
        if self.operand is None:
            return {"MASK": 0, "M": "uint8_t"}
        is_bool = self.operand.dtype == np.bool_
        return {"MASK": 1 if is_bool else 2, "M": "uint8_t" if is_bool else CTYPES[self.operand.dtype.name]}


@dataclass(frozen=True, slots=True)
class Sizes:
    """Sizes of an attention."""

    batch: int
    heads: int
    kv_heads: int
    queries: int
    keys: int
    size: int
    value_size: int

    @property
    def group(self) -> int:
        """Query heads that share a head of K and V."""
        return self.heads // self.kv_heads

    @property
    def scores(self) -> int:
        return self.batch * self.heads * self.queries * self.keys

    @property
    def numbers(self) -> tuple[int, ...]:
        """What kernels take."""
        return self.heads, self.kv_heads, self.queries, self.keys, self.size, self.value_size


@dataclass(frozen=True, slots=True)
class Work:
    """An attention to be emitted.

    Attributes:
        window: keys seen before and after the query's own position, -1 for all of them.
        past: position of the first query among the keys, where `lengths` does not decide it.
        blind: what a query gives that sees no key: 0 zeros, 1 NaN, 2 zeros also for a NaN among scores.
    """

    site: Site
    q: View
    k: View
    v: View
    y: View
    sizes: Sizes
    dtype: str
    scale: float
    mask: Mask = field(default_factory=Mask)
    lengths: Operand | None = None
    window: tuple[int, int] = (-1, -1)
    past: int = 0
    softcap: float = 0.0
    blind: int = 0

    @property
    def wide(self) -> int:
        """Bytes of the type of sums."""
        return 8 if self.dtype == "float64" else 4

    @property
    def defines(self) -> dict[str, str | int]:
        return {"T": CTYPES[self.dtype], **self.mask.defines}

    @property
    def rules(self) -> tuple[int, ...]:
        limit = min(self.sizes.keys, self.mask.keys)
        return self.past, *self.window, limit, int(self.mask.hides), self.blind

    @property
    def steps(self) -> tuple[int, ...]:
        return *self.q.steps, *self.k.steps, *self.v.steps, *self.y.steps

    @property
    def factors(self) -> tuple[np.float64, ...]:
        return np.float64(self.scale), np.float64(self.softcap), np.float64(self.mask.fill)

    @property
    def fault(self) -> Fault | int:
        """Where kernels report wrong lengths; whoever can, waits for its device after each run."""
        return fault_of(self.lengths, 0, self.sizes.keys)

    @property
    def is_strict(self) -> bool:
        return self.site.precision == "strict"


def place_rows(
    site: Site, past: Operand | None, added: View, goal: View, extents: tuple[int, int, int, int]
) -> None:
    """Emit the copy of rows (batch, heads, rows, size) behind those of a cache."""
    batch, heads, rows, size = extents
    cached = 0 if past is None else past.shape[2]
    unit = math.gcd(added.divisor(size), goal.divisor(size))
    count = batch * heads * (cached + rows) * size // unit
    index = "unsigned" if count < 2**31 else "unsigned long long"
    site.launch(
        cuda_kernel(CODE, "attention_copy.cu", "place_rows", UNIT=unit * added.itemsize, INDEX=index),
        *(past or 0, added.address, goal.address, (heads, cached, rows, size // unit)),
        *(tuple(n // unit for n in added.steps), tuple(n // unit for n in goal.steps), count),
        grid=(-(-count // 256), 1, 1),
    )


def dense_view(source: Operand | Scratch, heads: int, rows: int, size: int, itemsize: int) -> View:
    return View(source, 0, heads * rows * size, rows * size, size, itemsize)


def plain_view(operand: Operand | Scratch, shape: Sequence[int], heads: int, itemsize: int) -> View:
    """Return the view of `(B, heads, S, D)`, or of `(B, S, heads * D)`."""
    if len(shape) == 4:
        return dense_view(operand, shape[1], shape[2], shape[3], itemsize)
    return View(operand, 0, shape[1] * shape[2], shape[2] // heads, shape[2], itemsize)


def head_sizes(x: Operand, heads: int | None, name: str) -> tuple[int, int, int, int]:
    """Return the sizes (B, heads, S, D) of 4 dimensions, or of `(B, S, heads * D)`."""
    if x.dtype.name not in FLOATS or x.layout is not None:
        raise Unsupported(f"{name} is {x}")
    if x.ndim == 4:
        if heads not in (None, x.shape[1]):
            raise Unsupported(f"heads of {name} contradict its shape")
        batch, count, steps, size = x.shape
        return batch, count, steps, size
    if x.ndim != 3 or not heads or heads < 1 or x.shape[2] % heads:
        raise Unsupported(f"heads of {name} do not divide its last dimension")
    return x.shape[0], heads, x.shape[1], x.shape[2] // heads
