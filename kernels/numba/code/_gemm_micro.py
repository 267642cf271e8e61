"""The innermost part of a matrix product: a tile of C that stays in registers while k runs.

Every element of C has one accumulator, and adds its products one by one in the order of k, each by
one fused multiply-add (by a product and a sum where the processor has none). A tile that is interrupted
(blocks of k) leaves its sums in C, unrounded beyond their own type, and goes on from them. So an element's
bits depend on its row of A and its column of B alone: neither on the tile's size, nor on the number of
rows, nor on the blocks of k. Of a pair of bfloat16 the second product is added first.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from onnxref.native._target import target
from onnxref.native.ops import F32, F64, I32, I64, VOID, declare, typed_pointer
from onnxref.native.vectors import Vectors

ELEMENTS = {"float32": F32, "float64": F64, "int32": I32, "int64": I64}

LINE = 64  # bytes of a cache line
HAS_FMA = target().vector_bytes >= 32 or target().registers >= 32  # else it would be a call for each element
MASKS_ARE_FAST = target().vector_bytes >= 32  # else B must be in whole vectors
LOAD_C, SCALE, CLIP = 1, 2, 4
"""What else a tile does: begin with the sums that C holds, multiply by the scale, clip at the end."""


def _when(builder: Any, condition: Any, values: list[Any], emit: Any) -> list[Any]:
    """Emit `values = emit(values)` under a condition."""
    before = builder.basic_block
    with builder.if_then(condition):
        changed = emit(values)
        inside = builder.basic_block
    merged = []
    for old, new in zip(values, changed, strict=True):
        phi = builder.phi(old.type)
        phi.add_incoming(old, before)
        phi.add_incoming(new, inside)
        merged.append(phi)
    return merged


class _Tile:
    """Emits one tile: `rows` by `panels` times `vectors`."""

    def __init__(
        self, builder: Any, dtype: str, rows: int, vectors: int, panels: int, fetch_all: bool, bf16: str
    ) -> None:
        self.b = builder
        self.bf16 = bf16
        self.v = Vectors(builder, ELEMENTS[dtype])
        self.is_float = dtype.startswith("float")
        self.rows, self.vectors, self.panels, self.fetch_all = rows, vectors, panels, fetch_all
        self.columns = vectors * panels

    def multiply_add(self, x: Any, y: Any, z: Any) -> Any:
        if self.bf16:
            return self.v.dot_pairs(z, x, y, self.bf16)
        if not self.is_float:
            return self.b.add(self.b.mul(x, y), z)
        return self.v.fma(x, y, z) if HAS_FMA else self.b.fadd(self.b.fmul(x, y), z)

    def add(self, x: Any, y: Any) -> Any:
        return self.b.fadd(x, y) if self.is_float else self.b.add(x, y)

    def row_offsets(self, m: Any, stride: Any) -> list[Any]:
        """Byte offsets of the rows; rows from `m` on stand for row m - 1."""
        offsets = [I64(0)]
        for i in range(1, self.rows):
            there = self.b.add(offsets[-1], stride)
            offsets.append(self.b.select(self.b.icmp_signed("<", I64(i), m), there, offsets[-1]))
        return offsets

    def sums(
        self,
        a: list[Any],
        a_step: Any,
        b: list[Any],
        b_step: Any,
        soon: list[Any],
        soon_step: Any,
        k: Any,
        mask: Any,
    ) -> Any:
        """Return what emits the loop over k, from the sums to begin with."""
        builder, v = self.b, self.v
        row_bytes = v.nbytes * self.vectors

        def body(_: Any, carried: list[Any]) -> list[Any]:
            a_at, b_at, soon_at, sums = *carried[:3], carried[3:]
            for panel in soon:
                for line in range(0, row_bytes if self.fetch_all else 1, LINE):
                    self.fetch(v.pointer(panel, line, index=soon_at))
            columns = [v.load(panel, j * v.nbytes, index=b_at) for panel in b for j in range(self.vectors)][
                :-1
            ]
            columns.append(self.load_end(mask, b[-1], row_bytes - v.nbytes, b_at))
            for i, row in enumerate(a):
                x = v.broadcast(row, index=a_at)
                for j, y in enumerate(columns):
                    at = i * self.columns + j
                    sums[at] = self.multiply_add(x, y, sums[at])
            steps = zip((a_at, b_at, soon_at), (a_step, b_step, soon_step), strict=True)
            return [*(builder.add(at, step) for at, step in steps), *sums]

        def emit(start: list[Any]) -> list[Any]:
            return v.loop(k, [I64(0), I64(0), I64(0), *start], body)[3:]

        return emit

    def load_end(self, mask: Any, address: Any, offset: int, index: Any) -> Any:
        """Emit the load of a row's last vector: B in place may end with it."""
        if MASKS_ARE_FAST:
            return self.v.load_masked(mask, address, offset, index=index)
        return self.v.load(address, offset, index=index)

    def fetch(self, pointer: Any) -> None:
        """Emit the hint that a line will be read soon; it may lie outside of all memory."""
        function = declare(self.b, "llvm.prefetch.p0", VOID, [pointer.type, I32, I32, I32])
        self.b.call(function, [pointer, I32(0), I32(2), I32(1)])

    def load_tile(self, address: Any, offsets: list[Any], mask: Any) -> list[Any]:
        """Emit the loads of a tile of C's shape; the last vector of each row is masked."""
        v, loaded = self.v, []
        for offset in offsets:
            for j in range(self.columns):
                if j < self.columns - 1:
                    loaded.append(v.load(address, j * v.nbytes, index=offset))
                else:
                    loaded.append(v.load_masked(mask, address, j * v.nbytes, index=offset))
        return loaded

    def store_tile(self, sums: list[Any], address: Any, offsets: list[Any], m: Any, mask: Any) -> None:
        v, width = self.v, self.columns
        for i, offset in enumerate(offsets):
            with self.b.if_then(self.b.icmp_signed("<", I64(i), m)):
                row = sums[i * width : (i + 1) * width]
                for j in range(width - 1):
                    v.store(row[j], address, j * v.nbytes, index=offset)
                v.store_masked(mask, row[-1], address, (width - 1) * v.nbytes, index=offset)

    def parameter(self, numbers: Any, index: int) -> Any:
        """Emit a vector of a parameter: float64 bits, or for integers an int64."""
        b = self.b
        if not self.is_float:
            value = b.load(typed_pointer(b, numbers, 8 * index, I64))
            return self.v.splat(value if self.v.element == I64 else b.trunc(value, self.v.element))
        value = b.load(typed_pointer(b, numbers, 8 * index, F64))
        return self.v.splat(value if self.v.element == F64 else b.fptrunc(value, F32))

    def scale(self, sums: list[Any], numbers: Any) -> list[Any]:
        factor = self.parameter(numbers, 0)
        multiply = self.b.fmul if self.is_float else self.b.mul
        return [multiply(x, factor) for x in sums]

    def clip(self, sums: list[Any], numbers: Any) -> list[Any]:
        low, high = self.parameter(numbers, 1), self.parameter(numbers, 2)
        return [self.v.minimum(self.v.maximum(x, low), high) for x in sums]

    def add_bias(self, sums: list[Any], bias: Any, mask: Any) -> list[Any]:
        row = self.load_tile(bias, [I64(0)], mask)
        return [self.add(x, row[at % self.columns]) for at, x in enumerate(sums)]


@cache
def tile(
    dtype: str, rows: int, vectors: int, panels: int = 1, fetch_all: bool = False, bf16: str = ""
) -> Any:
    """Return the intrinsic that computes one tile of C.

    Its arguments: a, bytes between rows of A, between steps of k in A; b, bytes between steps of k in B,
    between panels; an address in B that will be read soon, bytes between steps of k there; c, bytes between
    rows of C; m rows (more than `rows` count as `rows`), n columns (so many that the last vector holds at
    least one), k; bias (0 or the address of n values), residual (0 or an address of C's layout), flags,
    numbers (address of scale, low and high).

    Args:
        fetch_all: ask for all lines that lie there, not just for one per step of k.
        bf16: elements of A and B are pairs of bfloat16 at successive k, multiplied in this form of
            `Vectors.dot_pairs`, and `dtype` (float32) is that of C; "": all are of `dtype`.
    """

    @intrinsic
    def product(
        context,
        a,
        a_row,
        a_step,
        b,
        b_step,
        b_panel,
        soon,
        soon_step,
        c,
        c_row,
        m,
        n,
        k,
        bias,
        residual,
        flags,
        numbers,
    ):
        def generate(ctx, builder, signature, values):
            _emit(_Tile(builder, dtype, rows, vectors, panels, fetch_all, bf16), *values)
            return ctx.get_dummy_value()

        return types.void(*[types.int64] * 17), generate

    return product


@cache
def copy_panel(dtype: str, vectors: int) -> Any:
    """Return the intrinsic that copies `k` rows of n columns of B into a panel, filled up with zeros.

    Its arguments: source, bytes between its rows, goal, bytes between its rows, n columns (so many that the
    last vector holds at least one), k (at least 1).
    """

    @intrinsic
    def copy(context, source, source_row, goal, goal_row, n, k):
        def generate(ctx, builder, signature, values):
            source, source_row, goal, goal_row, n, k = values
            t = _Tile(builder, dtype, 1, vectors, 1, True, "")
            v = t.v
            last = (vectors - 1) * v.nbytes
            mask = v.mask(builder.sub(n, I64((vectors - 1) * v.lanes)))
            far = v.mul(source_row, 16)  # rows are often in pages of their own, where nothing fetches ahead

            def body(_: Any, carried: list[Any]) -> list[Any]:
                at, to = carried
                for line in range(0, vectors * v.nbytes, LINE):
                    t.fetch(v.pointer(builder.add(at, far), line))
                for j in range(vectors - 1):
                    v.store(v.load(at, j * v.nbytes), to, j * v.nbytes)
                v.store(v.load_masked(mask, at, last), to, last)
                return [builder.add(at, source_row), builder.add(to, goal_row)]

            v.loop(k, [source, goal], body)
            return ctx.get_dummy_value()

        return types.void(*[types.int64] * 6), generate

    return copy


def _emit(
    t: _Tile,
    a: Any,
    a_row: Any,
    a_step: Any,
    b: Any,
    b_step: Any,
    b_panel: Any,
    soon: Any,
    soon_step: Any,
    c: Any,
    c_row: Any,
    m: Any,
    n: Any,
    k: Any,
    bias: Any,
    residual: Any,
    flags: Any,
    numbers: Any,
) -> None:
    builder, v = t.b, t.v

    def has(flag: int) -> Any:
        return builder.icmp_signed("!=", builder.and_(flags, I64(flag)), I64(0))

    def given(address: Any) -> Any:
        return builder.icmp_signed("!=", address, I64(0))

    mask = v.mask(builder.sub(n, I64((t.columns - 1) * v.lanes)))
    a_rows = [v.pointer(a, index=offset) for offset in t.row_offsets(m, a_row)]
    b_panels, soon_panels = (
        [v.pointer(x, index=v.mul(b_panel, q)) for q in range(t.panels)] for x in (b, soon)
    )
    c_rows = t.row_offsets(m, c_row)
    sums = [ir.Constant(v.type, [0] * v.lanes)] * (t.rows * t.columns)
    sums = _when(builder, has(LOAD_C), sums, lambda _: t.load_tile(c, c_rows, mask))
    some = builder.icmp_signed(">", k, I64(0))
    sums = _when(
        builder, some, sums, t.sums(a_rows, a_step, b_panels, b_step, soon_panels, soon_step, k, mask)
    )
    sums = _when(builder, has(SCALE), sums, lambda s: t.scale(s, numbers))
    sums = _when(builder, given(bias), sums, lambda s: t.add_bias(s, bias, mask))
    sums = _when(
        builder,
        given(residual),
        sums,
        lambda s: [t.add(x, y) for x, y in zip(s, t.load_tile(residual, c_rows, mask), strict=True)],
    )
    if t.is_float:
        sums = _when(builder, has(CLIP), sums, lambda s: t.clip(s, numbers))
    t.store_tile(sums, c, c_rows, m, mask)
