"""The innermost part of a matrix product: a tile of C that stays in registers while k runs.

Every element of C has one accumulator, and adds its products one by one in the order of k, each by
one fused multiply-add. A tile that is interrupted (blocks of k) leaves its sums in C, unrounded beyond
their own type, and goes on from them. So an element's bits depend on its row of A and its column of B
alone: neither on the tile's size, nor on the number of rows, nor on the blocks of k.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from onnxref.native.ops import F32, F64, I32, I64, typed_pointer
from onnxref.native.vectors import Vectors

ELEMENTS = {"float32": F32, "float64": F64, "int32": I32, "int64": I64}

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

    def __init__(self, builder: Any, dtype: str, rows: int, vectors: int, panels: int) -> None:
        self.b = builder
        self.v = Vectors(builder, ELEMENTS[dtype])
        self.is_float = dtype.startswith("float")
        self.rows, self.vectors, self.panels = rows, vectors, panels
        self.columns = vectors * panels

    def multiply_add(self, x: Any, y: Any, z: Any) -> Any:
        if self.is_float:
            return self.v.fma(x, y, z)
        return self.b.add(self.b.mul(x, y), z)

    def add(self, x: Any, y: Any) -> Any:
        return self.b.fadd(x, y) if self.is_float else self.b.add(x, y)

    def row_offsets(self, m: Any, stride: Any) -> list[Any]:
        """Byte offsets of the rows; rows from `m` on stand for row m - 1."""
        offsets = [I64(0)]
        for i in range(1, self.rows):
            there = self.b.add(offsets[-1], stride)
            offsets.append(self.b.select(self.b.icmp_signed("<", I64(i), m), there, offsets[-1]))
        return offsets

    def sums(self, a: list[Any], a_step: Any, b: list[Any], b_step: Any, k: Any, start: list[Any]) -> list[Any]:
        """Emit the loop over k."""
        builder, v = self.b, self.v

        def body(_: Any, carried: list[Any]) -> list[Any]:
            a_at, b_at, sums = carried[0], carried[1], carried[2:]
            columns = [
                v.load(panel, j * v.nbytes, index=b_at) for panel in b for j in range(self.vectors)
            ]
            for i, row in enumerate(a):
                x = v.broadcast(row, index=a_at)
                for j, y in enumerate(columns):
                    at = i * self.columns + j
                    sums[at] = self.multiply_add(x, y, sums[at])
            return [builder.add(a_at, a_step), builder.add(b_at, b_step), *sums]

        return v.loop(k, [I64(0), I64(0), *start], body)[2:]

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

    def parameter(self, parameters: Any, index: int) -> Any:
        """Emit a vector of a parameter: float64 bits, or for integers an int64."""
        b = self.b
        if not self.is_float:
            value = b.load(typed_pointer(b, parameters, 8 * index, I64))
            return self.v.splat(value if self.v.element == I64 else b.trunc(value, self.v.element))
        value = b.load(typed_pointer(b, parameters, 8 * index, F64))
        return self.v.splat(value if self.v.element == F64 else b.fptrunc(value, F32))

    def scale(self, sums: list[Any], parameters: Any) -> list[Any]:
        factor = self.parameter(parameters, 0)
        multiply = self.b.fmul if self.is_float else self.b.mul
        return [multiply(x, factor) for x in sums]

    def clip(self, sums: list[Any], parameters: Any) -> list[Any]:
        low, high = self.parameter(parameters, 1), self.parameter(parameters, 2)
        return [self.v.minimum(self.v.maximum(x, low), high) for x in sums]

    def add_bias(self, sums: list[Any], bias: Any, mask: Any) -> list[Any]:
        row = self.load_tile(bias, [I64(0)], mask)
        return [self.add(x, row[at % self.columns]) for at, x in enumerate(sums)]


@cache
def tile(dtype: str, rows: int, vectors: int, panels: int = 1) -> Any:
    """Return the intrinsic that computes one tile of C.

    Its arguments: a, bytes between rows of A, between steps of k in A; b, bytes between steps of k in B,
    between panels; c, bytes between rows of C; m rows (1 to `rows`), n columns (so many that the last
    vector holds at least one), k; bias (0 or the address of n values), residual (0 or an address of
    C's layout), flags, parameters (address of scale, low, high).
    """

    @intrinsic
    def product(context, a, a_row, a_step, b, b_step, b_panel, c, c_row, m, n, k, bias, residual, flags, parameters):
        def generate(ctx, builder, signature, values):
            _emit(_Tile(builder, dtype, rows, vectors, panels), *values)
            return ctx.get_dummy_value()

        return types.void(*[types.int64] * 15), generate

    return product


def _emit(
    t: _Tile,
    a: Any,
    a_row: Any,
    a_step: Any,
    b: Any,
    b_step: Any,
    b_panel: Any,
    c: Any,
    c_row: Any,
    m: Any,
    n: Any,
    k: Any,
    bias: Any,
    residual: Any,
    flags: Any,
    parameters: Any,
) -> None:
    builder, v = t.b, t.v

    def has(flag: int) -> Any:
        return builder.icmp_signed("!=", builder.and_(flags, I64(flag)), I64(0))

    def given(address: Any) -> Any:
        return builder.icmp_signed("!=", address, I64(0))

    mask = v.mask(builder.sub(n, I64((t.columns - 1) * v.lanes)))
    a_rows = [v.pointer(a, index=offset) for offset in t.row_offsets(m, a_row)]
    b_panels = [builder.add(b, v.mul(b_panel, q)) if q else b for q in range(t.panels)]
    c_rows = t.row_offsets(m, c_row)
    sums = [ir.Constant(v.type, [0] * v.lanes)] * (t.rows * t.columns)
    sums = _when(builder, has(LOAD_C), sums, lambda _: t.load_tile(c, c_rows, mask))
    some = builder.icmp_signed(">", k, I64(0))
    sums = _when(builder, some, sums, lambda s: t.sums(a_rows, a_step, b_panels, b_step, k, s))
    sums = _when(builder, has(SCALE), sums, lambda s: t.scale(s, parameters))
    sums = _when(builder, given(bias), sums, lambda s: t.add_bias(s, bias, mask))
    sums = _when(
        builder,
        given(residual),
        sums,
        lambda s: [t.add(x, y) for x, y in zip(s, t.load_tile(residual, c_rows, mask), strict=True)],
    )
    if t.is_float:
        sums = _when(builder, has(CLIP), sums, lambda s: t.clip(s, parameters))
    t.store_tile(sums, c, c_rows, m, mask)
