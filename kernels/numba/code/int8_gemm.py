"""Products of 8-bit integers: the tile that all of them share, packing, and the loop over tiles.

The left side is unsigned and the right side signed, as the 8-bit dot product of AVX-512 wants it. The
right side is packed [panels][steps][4 groups][columns][4]: `columns` = 2 vectors of int32, a group is
4 successive values of K, a step 4 groups. Without that instruction the bytes are widened to 16 bits,
whose products are exact, so all targets give the same bits.
"""

from __future__ import annotations

from functools import cache

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from onnxref.native import target
from onnxref.native.ops import F32, F64, I8, I16, I32, I64, access, arg, declare, device
from onnxref.native.vectors import Vectors

LANES = target().lanes
COLUMNS = 2 * LANES  # of a panel
STEP = 16  # values of K in a step

_MAGIC32 = 12582912.0  # 1.5 * 2**23: adding it rounds a float32 to an integer, half to even
_MAGIC64 = 6755399441055744.0  # 1.5 * 2**52

_load_u8, _store_u8 = access("uint8")
_load_i32, _store_i32 = access("int32")


def named(function, *parameters):
    """Name a function after what it is made of: names must be unique among all code in a process."""
    function.__qualname__ += "".join(f"_{parameter}" for parameter in parameters)
    return function


# The tile --------------------------------------------------------------------------------------------


def dot4(v, total, left, right):
    """Emit total + the sums of 4 products each: unsigned bytes of `left` by signed bytes of `right`."""
    b = v.builder
    if target().vnni and v.lanes == 16:
        byte = ir.VectorType(I8, 64)
        function = declare(b, "llvm.x86.avx512.vpdpbusd.512", v.type, [v.type, byte, byte])
        return b.call(function, [total, b.bitcast(left, byte), b.bitcast(right, byte)])
    pairs = ir.VectorType(I16, 2 * v.lanes)

    def fill(value):
        return ir.Constant(pairs, [value] * 2 * v.lanes)

    left, right = b.bitcast(left, pairs), b.bitcast(right, pairs)
    low = _pair_products(v, b.and_(left, fill(255)), b.ashr(b.shl(right, fill(8)), fill(8)))
    high = _pair_products(v, b.lshr(left, fill(8)), b.ashr(right, fill(8)))
    return b.add(total, b.add(low, high))


def _pair_products(v, left, right):
    """Emit left[2i] * right[2i] + left[2i + 1] * right[2i + 1] in 32 bits, of int16."""
    b = v.builder
    wide = ir.VectorType(I32, 2 * v.lanes)
    products = b.mul(b.sext(left, wide), b.sext(right, wide))
    index = ir.VectorType(I32, v.lanes)
    even = ir.Constant(index, [2 * i for i in range(v.lanes)])
    odd = ir.Constant(index, [2 * i + 1 for i in range(v.lanes)])
    return b.add(b.shuffle_vector(products, products, even), b.shuffle_vector(products, products, odd))


def quantize_float32(v, values, low, high, offset):
    """Emit int32: float32 values limited to [low, high], rounded half to even, plus `offset`.

    `offset` already lacks the bits of the constant that rounds.
    """
    b = v.builder
    f = Vectors(b, F32, v.lanes)
    held = f.minimum(f.maximum(values, low), high)
    return b.add(b.bitcast(b.fadd(held, f.constant(_MAGIC32)), v.type), offset)


def _quantize_float64(v, totals, scales, divisor, low, high, offset):
    """Emit int32: totals * scales [/ divisor] in float64, limited, rounded half to even, plus `offset`."""
    b = v.builder
    d = Vectors(b, F64, v.lanes)
    held = b.fmul(b.sitofp(totals, d.type), scales)
    if divisor is not None:
        held = b.fdiv(held, divisor)
    held = d.minimum(d.maximum(held, low), high)
    bits = b.bitcast(b.fadd(held, d.constant(_MAGIC64)), ir.VectorType(I64, v.lanes))
    return b.add(b.trunc(bits, v.type), offset)


class Finish:
    """What becomes of a tile's sums: parameters are loaded from memory, and results stored.

    Args:
        kind: "int32"; "float32": times a scale per column, plus a bias; "q32", "q64", "q64/": times a
            scale per column (divided by that of y), rounded, as 8-bit integers.
        block: address of the parameters, see `PARAMETERS`.
    """

    def __init__(self, v, kind, block):
        self.v, self.kind, self.block = v, kind, block
        b = v.builder
        self.f = Vectors(b, F32, v.lanes)
        self.d = Vectors(b, F64, v.lanes)
        if kind == "q32":
            self.low, self.high = self.f.broadcast(block, 8), self.f.broadcast(block, 12)
            self.offset = v.broadcast(block, 16)
        elif kind in ("q64", "q64/"):
            self.low, self.high = self.d.broadcast(block, 24), self.d.broadcast(block, 32)
            self.offset = v.broadcast(block, 20)
            self.divisor = self.d.broadcast(block, 40) if kind == "q64/" else None

    def scales(self, address, j):
        """Emit the load of the scales of vector `j` of a panel."""
        if self.kind in ("q64", "q64/"):
            return self.d.load(address, j * self.d.nbytes)
        return self.f.load(address, j * self.f.nbytes)

    def store(self, total, scale, bias, address, j):
        """Emit the store of vector `j` of a row of the output that begins at `address`."""
        v, b = self.v, self.v.builder
        if self.kind == "int32":
            v.store(total, address, j * v.nbytes)
        elif self.kind == "float32":
            y = b.fmul(b.sitofp(total, self.f.type), scale)
            self.f.store(y if bias is None else b.fadd(y, bias), address, j * v.nbytes)
        else:
            v.store(b.trunc(self.quantized(total, scale), ir.VectorType(I8, v.lanes)), address, j * v.lanes)

    def quantized(self, total, scale):
        v, b = self.v, self.v.builder
        if self.kind == "q32":
            y = b.fmul(b.sitofp(total, self.f.type), scale)
            return quantize_float32(v, y, self.low, self.high, self.offset)
        return _quantize_float64(v, total, scale, self.divisor, self.low, self.high, self.offset)


PARAMETERS = """
bytes 0: scale of the left side (float32); 8, 12: least and greatest value before the zero point
(float32); 16, 20: zero point less the bits of the rounding constant in float32 and float64 (int32);
24, 32: least and greatest value (float64); 40: scale of the output (float64).
"""


@cache
def make_tile(rows: int, kind: str, terms: str, has_bias: bool):
    """Make the product of `rows` rows with one panel.

    Args:
        kind: see `Finish`.
        terms: what is added to the sums: "column": a number per column; "row": less `za * column`
            with a zero point per row; "both": less `zb * r` too, with numbers `r` per row.
    """

    @intrinsic
    def tile(context, a, lda, panel, steps, out, ldc, columns, zeros_b, row_terms, scales, bias, block):
        def generate(ctx, builder, signature, values):
            v = Vectors(builder, I32)
            a, lda, panel, steps, out, ldc, columns, zeros_b, row_terms, scales, bias, block = values
            totals = _sums(v, rows, a, lda, panel, steps)
            finish = Finish(v, kind, block)
            f = finish.f
            for j in range(2):
                column = v.load(columns, j * v.nbytes)
                zero = v.load(zeros_b, j * v.nbytes) if terms == "both" else None
                scale = None if kind == "int32" else finish.scales(scales, j)
                if kind == "float32":
                    scale = builder.fmul(f.broadcast(block), scale)
                added = f.load(bias, j * f.nbytes) if has_bias else None
                for i in range(rows):
                    total = totals[2 * i + j]
                    if terms == "column":
                        total = builder.add(total, column)
                    else:
                        total = builder.sub(total, builder.mul(v.broadcast(row_terms, 8 * i), column))
                    if terms == "both":
                        total = builder.sub(total, builder.mul(v.broadcast(row_terms, 8 * i + 4), zero))
                    row = builder.add(out, builder.mul(ldc, I64(i)))
                    finish.store(total, scale, added, row, j)
            return ctx.get_dummy_value()

        return types.void(*[types.int64] * 12), generate

    return tile


def _sums(v, rows, a, lda, panel, steps):
    """Emit the loop over K; return the sums of each row, two vectors each."""
    b = v.builder
    bases = [b.add(a, b.mul(lda, I64(4 * g))) for g in range(-(-rows // 4))]
    strides = [b.mul(lda, I64(r)) for r in range(4)]
    group = 2 * v.nbytes

    def body(i, held):
        place, offset, totals = held[0], held[1], list(held[2:])
        for u in range(4):
            right = [v.load(place, u * group + j * v.nbytes) for j in range(2)]
            for r in range(rows):
                at = b.add(bases[r // 4], offset)
                left = v.broadcast(at, 4 * u, index=strides[r % 4] if r % 4 else None)
                for j in range(2):
                    totals[2 * r + j] = dot4(v, totals[2 * r + j], left, right[j])
        return [b.add(place, I64(4 * group)), b.add(offset, I64(STEP)), *totals]

    return v.loop(steps, [panel, I64(0), *[v.constant(0)] * (2 * rows)], body)[2:]


# The loop over tiles ---------------------------------------------------------------------------------


def gemm(rows: int, kind: str, terms: str, has_bias: bool):
    """Multiply all rows by some panels; a unit is a panel of a chunk of rows.

    Where the rows do not divide by the tile the last tile overlaps the one before.
    """
    tile = make_tile(rows, kind, terms, has_bias)
    size = {"int32": 4, "float32": 4}.get(kind, 1)
    scale_size = 8 if kind in ("q64", "q64/") else 4
    load, store = access("uint8" if size == 1 else "int32")

    def run(a, lda, panel, steps, out, ldc, columns, zeros_b, row_terms, scales, bias, block):
        tile(a, lda, panel, steps, out, ldc, columns, zeros_b, row_terms, scales, bias, block)

    run = device(named(run, rows, kind.replace("/", "d"), terms, has_bias))

    def kernel(p, begin, end, thread):
        a, lda, panels, steps = arg(p, 0), arg(p, 1), arg(p, 2), arg(p, 3)
        out, ldc, m, n = arg(p, 4), arg(p, 5), arg(p, 6), arg(p, 7)
        chunks, chunk = arg(p, 8), arg(p, 9)
        columns, zeros_b, row_terms = arg(p, 10), arg(p, 11), arg(p, 12)
        scales, bias, block = arg(p, 13), arg(p, 14), arg(p, 15)
        spare = arg(p, 16) + thread * (rows * COLUMNS * size)
        panel_bytes = steps * STEP * COLUMNS
        for unit in range(begin, end):
            panel = unit // chunks
            first = (unit - panel * chunks) * chunk
            stop = min(m, first + chunk)
            column = panel * COLUMNS
            width = min(n - column, COLUMNS)
            row = first
            while row < stop:
                at = max(0, min(row, m - rows))
                goal = out + at * ldc + column * size
                whole = width == COLUMNS
                run(
                    a + at * lda,
                    lda,
                    panels + panel * panel_bytes,
                    steps,
                    goal if whole else spare,
                    ldc if whole else COLUMNS * size,
                    columns + 4 * column,
                    zeros_b + 4 * column,
                    row_terms + 8 * at,
                    scales + scale_size * column,
                    bias + 4 * column,
                    block,
                )
                if not whole:
                    for i in range(rows):
                        for j in range(width):
                            store(goal + i * ldc, j, load(spare + i * (COLUMNS * size), j))
                row += rows

    return named(kernel, rows, kind.replace("/", "d"), terms, has_bias)


# Packing ---------------------------------------------------------------------------------------------


def pack_rows(signed: bool, copied: bool, need_sums: bool):
    """Copy rows of K bytes as unsigned ones, filled up to whole steps, and find their terms.

    Beside each row: its zero point, and the sum of its elements less K times that; both int32.
    A signed element plus 128 is its byte with the sign turned. A unit is a row.
    """
    flip = 128 if signed else 0

    def kernel(p, begin, end, thread):
        x, k, goal, padded = arg(p, 0), arg(p, 1), arg(p, 2), arg(p, 3)
        terms, zeros, period, distance = arg(p, 4), arg(p, 5), arg(p, 6), arg(p, 7)
        for row in range(begin, end):
            source, place = x + row * k, goal + row * padded
            total = 0
            if copied:
                for i in range(k):
                    _store_u8(place, i, _load_u8(source, i) ^ flip)
                for i in range(k, padded):
                    _store_u8(place, i, 0)
            if need_sums:
                for i in range(k):
                    total += _load_u8(source, i) ^ flip
            zero = flip
            if zeros != 0:
                zero = _load_u8(zeros, (row % period) * distance) ^ flip
            _store_i32(terms, 2 * row, zero)
            _store_i32(terms, 2 * row + 1, total - k * zero)

    return named(kernel, signed, copied, need_sums)


def pack_columns(signed: bool):
    """Pack a matrix (K, N) that is not constant into panels, with sums and zero points of columns.

    An unsigned element less 128 is its byte with the highest bit turned. A unit is a panel.
    """
    flip = 0 if signed else 128

    def kernel(p, begin, end, thread):
        x, k, n, goal, steps = arg(p, 0), arg(p, 1), arg(p, 2), arg(p, 3), arg(p, 4)
        sums, zeros_b, zeros, distance = arg(p, 5), arg(p, 6), arg(p, 7), arg(p, 8)
        for panel in range(begin, end):
            first = panel * COLUMNS
            width = min(COLUMNS, n - first)
            place = goal + panel * (steps * STEP * COLUMNS)
            for j in range(COLUMNS):
                zero = -128 if flip else 0
                if j < width and zeros != 0:
                    zero = _wrapped(_load_u8(zeros, (first + j) * distance) ^ flip)
                _store_i32(sums, first + j, 0)
                _store_i32(zeros_b, first + j, zero)
            for i in range(steps * STEP):
                row = place + (i // 4) * (4 * COLUMNS) + i % 4
                for j in range(COLUMNS):
                    value = 0
                    if i < k and j < width:
                        value = _wrapped(_load_u8(x + i * n, first + j) ^ flip)
                    _store_u8(row, 4 * j, value & 255)
                    _store_i32(sums, first + j, _load_i32(sums, first + j) + value)

    return named(kernel, signed)


@device
def _wrapped(byte):
    """The signed value of an unsigned byte."""
    return byte - 256 if byte > 127 else byte
