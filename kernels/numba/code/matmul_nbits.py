"""Native code of products with weights of 2, 4 or 8 bits in blocks of K.

The weights lie as rows (N, bytes), 32 bits (a word) of a row being 16, 8 or 4 successive codes. A square
block of one vector by one vector of words is turned in registers, so that each lane has a column of the
product: `[word][lane]`. The codes of a word become floats without a conversion: a code at bit p of the lower
16, under the bits of 2**23, is the float 2**23 + code * 2**p, and less 2**23 + zero * 2**p it is
(code - zero) * 2**p, exactly. What is multiplied by it, an element of A or a scale, has the factor 2**-p.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from llvmlite import ir
from numba import int32, types
from numba.extending import intrinsic

from onnxref.native._target import target
from onnxref.native.ops import F32, I8, I32, I64, access, arg, device, fill_bytes, int_as_float
from onnxref.native.vectors import Vectors

from ._gemm_micro import HAS_FMA, LOAD_C, _Tile, tile
from .gemm import FULL_ROWS, HALF_ROWS, SIZES, panel_turner

LANES = target().vector_bytes // 4
VECTOR = 4 * LANES  # bytes
HALF_WORD = 16
ZERO_BYTES = {"": 0, "uint8": LANES, "float32": VECTOR}  # of a vector of zero points, by their kind
_MAGIC = 0x4B000000  # the bits of 2**23


class _Codes:
    """Emits the codes of words as floats.

    Args:
        zeros: kind of the zero points: "": all are 2**(bits - 1); "uint8"; "float32": any number.
    """

    def __init__(self, builder: Any, bits: int, zeros: str) -> None:
        self.b, self.bits, self.zeros = builder, bits, zeros
        self.v, self.ints = Vectors(builder, F32), Vectors(builder, I32)
        self.places = range(0, HALF_WORD, bits)  # first bits of the codes of half a word
        self.per_word = 32 // bits

    def offsets(self, zeros: Any) -> list[Any]:
        """Emit what is to be subtracted at each place, given the address of the zero points of a block."""
        b, ints = self.b, self.ints
        if self.zeros == "uint8":
            pointer = self.v.pointer(zeros, element=ir.VectorType(I8, LANES))
            held = b.zext(b.load(pointer, align=1), ints.type)
            moved = [b.shl(held, ints.constant(p)) for p in self.places]
            return [b.bitcast(b.or_(x, ints.constant(_MAGIC)), self.v.type) for x in moved]
        if self.zeros == "float32":
            held = self.v.load(zeros)
            return [b.fmul(held, self.v.constant(2.0**p)) for p in self.places]
        return [self.v.constant(2.0**23 + 2.0 ** (self.bits - 1 + p)) for p in self.places]

    def differences(self, words: Any, offsets: list[Any]) -> list[Any]:
        """Emit (code - zero) * 2**p of all codes of a vector of words, those in the lowest bits first."""
        b, ints, found = self.b, self.ints, []
        for half in (words, b.lshr(words, ints.constant(HALF_WORD))):
            for p, offset in zip(self.places, offsets, strict=True):
                bits = b.and_(half, ints.constant((2**self.bits - 1) << p))
                value = b.bitcast(b.or_(bits, ints.constant(_MAGIC)), self.v.type)
                if self.zeros == "float32":
                    value = b.fsub(value, self.v.constant(2.0**23))
                found.append(b.fsub(value, offset))
        return found

    def zero_step(self) -> Any:
        """Emit the bytes from the zero points of a block to those of the next."""
        return I64(ZERO_BYTES[self.zeros])

    def multiply_add(self, x: Any, y: Any, z: Any) -> Any:
        return self.v.fma(x, y, z) if HAS_FMA else self.b.fadd(self.b.fmul(x, y), z)


@cache
def _block_sums(bits: int, zeros: str, rows: int) -> Any:
    """Return the intrinsic that adds to the sums of `rows` rows of A and one vector of columns.

    Its arguments: words, scales, zero points; A, less the factors of the places; bytes between rows of it;
    blocks, words of a block; the sums, a vector for each row; an address that will be read soon.
    """
    chains = 4 if rows == 1 else 1  # additions that need not wait for each other

    @intrinsic
    def sums(context, words, scales, zero, a, a_row, blocks, block_words, totals, soon):
        def generate(ctx, builder, signature, values):
            words, scales, zero, a, a_row, blocks, block_words, totals, soon = values
            c = _Codes(builder, bits, zeros)
            t, v = _Tile(builder, "float32", 1, 1, 1, False, ""), c.v
            starts = [v.pointer(a, index=v.mul(a_row, i)) for i in range(rows)]
            nothing = [ir.Constant(v.type, [0] * LANES)] * (rows * chains)

            def word(_: Any, carried: list[Any]) -> list[Any]:
                offsets = carried[3 : 3 + len(c.places)] if zeros else c.offsets(None)
                at, a_at, ahead, held = *carried[:3], list(carried[3 + len(offsets) * bool(zeros) :])
                t.fetch(v.pointer(soon, index=ahead))
                found = c.differences(c.ints.load(words, index=at), offsets)
                for k, weight in enumerate(found):
                    for i, start in enumerate(starts):
                        place = i * chains + k % chains
                        x = v.broadcast(start, 4 * k, index=a_at)
                        held[place] = c.multiply_add(x, weight, held[place])
                steps = ((at, VECTOR), (a_at, 4 * c.per_word), (ahead, VECTOR))
                moved = [builder.add(x, I64(step)) for x, step in steps]
                return [*moved, *(offsets if zeros else ()), *held]

            def block(_: Any, carried: list[Any]) -> list[Any]:
                scale_at, zero_at, *places = carried[:5]
                offsets = c.offsets(builder.add(zero, zero_at)) if zeros else []
                found = v.loop(block_words, [*places, *offsets, *nothing], word)
                held = found[3 + len(offsets) :]
                scale = v.load(scales, index=scale_at)
                added = list(carried[5:])
                for i in range(rows):
                    own = held[i * chains : (i + 1) * chains]
                    while len(own) > 1:
                        own = [builder.fadd(x, y) for x, y in zip(own[::2], own[1::2], strict=True)]
                    added[i] = c.multiply_add(own[0], scale, added[i])
                steps = (builder.add(scale_at, I64(VECTOR)), builder.add(zero_at, c.zero_step()))
                return [*steps, *found[:3], *added]

            start = [v.load(totals, i * VECTOR) for i in range(rows)]
            for i, total in enumerate(v.loop(blocks, [*[I64(0)] * 5, *start], block)[5:]):
                v.store(total, totals, i * VECTOR)
            return ctx.get_dummy_value()

        return types.void(*[types.int64] * 9), generate

    return sums


@cache
def _weights(bits: int, zeros: str) -> Any:
    """Return the intrinsic that writes (code - zero) * scale of one vector of columns, row by row of k.

    Its arguments: words, scales, zero points; blocks, words of a block; goal, bytes between its rows.
    """

    @intrinsic
    def weights(context, words, scales, zero, blocks, block_words, goal, goal_row):
        def generate(ctx, builder, signature, values):
            words, scales, zero, blocks, block_words, goal, goal_row = values
            c = _Codes(builder, bits, zeros)
            v = c.v

            def block(_: Any, carried: list[Any]) -> list[Any]:
                scale_at, zero_at, at, to = carried
                offsets = c.offsets(builder.add(zero, zero_at) if zeros else None)
                scale = v.load(scales, index=scale_at)
                factors = [builder.fmul(scale, v.constant(2.0**-p)) for p in c.places]

                def word(_: Any, carried: list[Any]) -> list[Any]:
                    at, to = carried
                    for k, weight in enumerate(c.differences(c.ints.load(words, index=at), offsets)):
                        v.store(builder.fmul(weight, factors[k % len(factors)]), to)
                        to = builder.add(to, goal_row)
                    return [builder.add(at, I64(VECTOR)), to]

                moved = v.loop(block_words, [at, to], word)
                return [builder.add(scale_at, I64(VECTOR)), builder.add(zero_at, c.zero_step()), *moved]

            v.loop(blocks, [I64(0), I64(0), I64(0), goal], block)
            return ctx.get_dummy_value()

        return types.void(*[types.int64] * 7), generate

    return weights


def spread_rows(dtype: str, bits: int):
    """Kernel that writes rows of A as float32, each element with the factor 2**-p of its place.

    What lies behind K, and rows behind the last, become zeros. A unit is a row of the goal. Arguments: a,
    goal, M, K, elements between rows of the goal.
    """
    load, _ = access(dtype)
    _, store = access("float32")
    size = SIZES[dtype]
    last = HALF_WORD // bits - 1  # place in half a word

    def kernel(p, begin, end, thread):
        a, goal, M, K, pitch = arg(p, 0), arg(p, 1), arg(p, 2), arg(p, 3), arg(p, 4)
        for row in range(begin, end):
            source, to = a + row * K * size, goal + row * pitch * 4
            count = K if row < M else 0
            for i in range(count):
                factor = int_as_float(int32((127 - bits * (i & last)) << 23))
                store(to, i, load(source, i) * factor)
            fill_bytes(to + 4 * count, 0, 4 * (pitch - count))

    return kernel


def few_rows(dtype: str, bits: int, zeros: str, rows: int):
    """Kernel of a product of few rows of A, which reads B once; a unit is one vector of columns.

    Arguments: a as `spread_rows` leaves it, b, scales and zeros (as [vector of columns][block][lane]), y,
    bias (0: none); M, N; words of a row of b, of a block, of the blocks that are turned at once; bytes
    between rows of a; scratch, its bytes per thread.
    """
    sums, turn_panel = _block_sums(bits, zeros, rows), panel_turner("int32", "int32")
    load, store = access(dtype)
    load_sum, _ = access("float32")
    size, zero_bytes = SIZES[dtype], ZERO_BYTES[zeros]
    per_word = 32 // bits

    @device
    def finish(totals, bias, y, n):
        for column in range(n):
            total = load_sum(totals, column)
            store(y, column, total + load(bias, column) if bias else total)

    def kernel(p, begin, end, thread):
        a, b, scales, zero, y, bias = arg(p, 0), arg(p, 1), arg(p, 2), arg(p, 3), arg(p, 4), arg(p, 5)
        M, N, row_words, block_words, turned = arg(p, 6), arg(p, 7), arg(p, 8), arg(p, 9), arg(p, 10)
        a_row, totals = arg(p, 11), arg(p, 12) + thread * arg(p, 13)
        b_row, blocks = 4 * row_words, row_words // block_words
        words = totals + (M + rows - 1) // rows * rows * VECTOR
        for u in range(begin, end):
            j = u * LANES
            n = min(LANES, N - j)
            fill_bytes(totals, 0, words - totals)
            done = 0
            while done < row_words:
                k = min(turned, row_words - done)
                source = b + j * b_row + 4 * done
                turn_panel(source, b_row, words, VECTOR, n, k)
                first = u * blocks + done // block_words
                own_scales, own_zeros = scales + first * VECTOR, zero + first * zero_bytes
                x = a + 4 * done * per_word
                for i in range(0, M, rows):
                    sums(
                        *(words, own_scales, own_zeros, x + i * a_row, a_row, k // block_words, block_words),
                        *(totals + i * VECTOR, source + LANES * b_row),
                    )
                done += k
            for i in range(M):
                row = bias + j * size if bias else 0
                finish(totals + i * VECTOR, row, y + (i * N + j) * size, n)

    return kernel


def many_rows(bits: int, zeros: str):
    """Kernel of a product of float32; a unit is one panel of columns of one block of rows.

    Arguments: a, b, scales and zeros (as for `few_rows`), y, bias (0: none; float32); M, N, K; words of a row
    of b, of a block, of the blocks that become float32 at once; columns of a panel, rows of a block; scratch,
    its bytes per thread.
    """
    weights, turn_panel = _weights(bits, zeros), panel_turner("int32", "int32")
    full1, full2, full3 = (tile("float32", FULL_ROWS, vectors) for vectors in (1, 2, 3))
    half2, half3 = (tile("float32", HALF_ROWS, vectors, 1, True) for vectors in (2, 3))
    zero_bytes = ZERO_BYTES[zeros]
    per_word = 32 // bits

    @device
    def make_panel(b, b_row, scales, zero, panel, panel_row, words, n, count, block_words):
        """Write the weights of n columns (rows of b) and `count` words as rows of float32."""
        for column in range(0, n, LANES):
            own = min(LANES, n - column)
            turn_panel(b + column * b_row, b_row, words, VECTOR, own, count)
            at = column // LANES * (b_row // (4 * block_words))
            weights(
                *(words, scales + at * VECTOR, zero + at * zero_bytes, count // block_words, block_words),
                *(panel + 4 * column, panel_row),
            )

    def kernel(p, begin, end, thread):
        a, b, scales, zero, y, bias = arg(p, 0), arg(p, 1), arg(p, 2), arg(p, 3), arg(p, 4), arg(p, 5)
        M, N, K, row_words, block_words = arg(p, 6), arg(p, 7), arg(p, 8), arg(p, 9), arg(p, 10)
        turned, width, rows = arg(p, 11), arg(p, 12), arg(p, 13)
        words = arg(p, 14) + thread * arg(p, 15)
        panel, nums = words + turned * VECTOR, p
        b_row, blocks, ar, cr, wk = 4 * row_words, row_words // block_words, 4 * K, 4 * N, 4 * width
        panels = (N + width - 1) // width
        for u in range(begin, end):
            place = u // panels
            j, i0 = (u - place * panels) * width, place * rows
            n, m = min(width, N - j), min(rows, M - i0)
            done = 0
            while done < row_words:
                count = min(turned, row_words - done)
                first = j // LANES * blocks + done // block_words
                make_panel(
                    *(b + j * b_row + 4 * done, b_row, scales + first * VECTOR, zero + first * zero_bytes),
                    *(panel, wk, words, n, count, block_words),
                )
                todo = LOAD_C if done else 0
                k = min(count * per_word, K - done * per_word)
                row = bias + 4 * j if bias and done + count >= row_words else 0
                for i in range(0, m, FULL_ROWS):
                    x = a + (i0 + i) * ar + 4 * done * per_word
                    c, left = y + (i0 + i) * cr + 4 * j, m - i
                    if n > 2 * LANES:
                        if left > HALF_ROWS:
                            full3(x, ar, 4, panel, wk, 0, panel, 0, c, cr, left, n, k, row, 0, todo, nums)
                        else:
                            half3(x, ar, 4, panel, wk, 0, panel, 0, c, cr, left, n, k, row, 0, todo, nums)
                    elif n > LANES:
                        if left > HALF_ROWS:
                            full2(x, ar, 4, panel, wk, 0, panel, 0, c, cr, left, n, k, row, 0, todo, nums)
                        else:
                            half2(x, ar, 4, panel, wk, 0, panel, 0, c, cr, left, n, k, row, 0, todo, nums)
                    else:
                        full1(x, ar, 4, panel, wk, 0, panel, 0, c, cr, left, n, k, row, 0, todo, nums)
                done += count

    return kernel
