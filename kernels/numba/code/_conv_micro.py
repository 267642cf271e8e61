"""The innermost part of convolutions: a tile of output pixels times a group of output channels, in registers.

A tile has `rows` x `columns` pixels and `vectors` vectors of channels. For each weight row (one input
channel of one kernel element) it loads the vectors of weights once and every pixel's input once.

The tile reads what does not change from tile to tile at the address `p` (int64, byte distances):

    0 BLOCKS   input blocks to sum over     1 BLOCK_STEP  from one input block to the next
    2 KY       kernel rows                  3 KY_STEP     from one kernel row to the next in the input
    4 KX       kernel columns (pieces)      5 KX_STEP     likewise of columns
    6 RUN      passes of `unroll` inputs    7 ROW_STEP    from an output row to the next, in the input
    8 Y_BLOCK  from an output block to the next           9 Y_ROW  from an output row to the next
    10 R_BLOCK, 11 R_ROW   the same for the residual (0: the same vectors everywhere)
    12 LOW, 13 HIGH  float64 bits of the numbers below, the upper of which is also the slope
    14 STEPS what is done to the sums, a bit each, in this order:
       1 add the residual,  2 y < 0 ? y * HIGH : y,  4 max(y, LOW),  8 min(y, HIGH)

so that all of these epilogues are one machine code. NaN goes through. Sums begin with the bias and run
over kernel elements of one input block before the next block, one fused multiply-add each:
a pixel's bits do not depend on the tile that it is in.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from numba import types
from numba.extending import intrinsic

from onnxref.native.ops import F32, F64, I8, I32, I64, VOID, declare, device
from onnxref.native.vectors import Vectors

LINE = 64
PARAMETERS = 15
BLOCKS, BLOCK_STEP, KY, KY_STEP, KX, KX_STEP, RUN, ROW_STEP = range(8)
Y_BLOCK, Y_ROW, R_BLOCK, R_ROW, LOW, HIGH, STEPS = range(8, PARAMETERS)
ADD, SLOPE, MAXIMUM, MINIMUM = 1, 2, 4, 8


@cache
def conv_tile(
    rows: int,
    columns: int,
    vectors: int,
    pixel: int,
    unroll: int,
    ahead: int,
    epilogue: bool = True,
    bf16: str = "",
) -> Any:
    """Return `tile(p, x, w, y, r, b, f)`.

    These are the addresses of parameters, input, weights, output, residual, bias, and of weights that
    will be needed soon: `ahead` cache lines of them are fetched in each innermost pass.

    Args:
        pixel: bytes from one output pixel's input to the next one's.
        unroll: consecutive input elements in a pass of the innermost loop.
        epilogue: whether bias, residual and clamp are applied; else the sums are stored as they are.
        bf16: input elements are pairs of bfloat16, of successive channels, and so are weights; they are
            multiplied in this form of `Vectors.dot_pairs`. "": all are float32.
    """

    @intrinsic
    def emit(context, p, x, w, y, r, b, f):
        def generate(ctx, builder, signature, values):
            _Tile(builder, values, rows, columns, vectors, pixel, unroll, ahead, bf16).emit(epilogue)
            return ctx.get_dummy_value()

        return types.void(*[types.int64] * 7), generate

    @device
    def tile(p, x, w, y, r, b, f):
        emit(p, x, w, y, r, b, f)

    return tile


class _Tile:
    """Emits one tile."""

    def __init__(
        self,
        builder: Any,
        values: Any,
        rows: int,
        columns: int,
        vectors: int,
        pixel: int,
        unroll: int,
        ahead: int,
        bf16: str,
    ) -> None:
        self.b = builder
        self.bf16 = bf16
        self.v = Vectors(builder)
        self.p, self.x, self.w, self.y, self.r, self.bias, self.soon = values
        self.rows, self.columns, self.vectors = rows, columns, vectors
        self.pixel, self.unroll, self.ahead = pixel, unroll, ahead

    def emit(self, epilogue: bool) -> None:
        b, v = self.b, self.v
        if epilogue:
            begin = [v.load(self.bias, k * v.nbytes) for k in range(self.vectors)]
        else:
            begin = [v.constant(0.0)] * self.vectors
        begin *= self.rows * self.columns
        row_step = self.parameter(ROW_STEP)
        block_step, ky_step, kx_step = (self.parameter(i) for i in (BLOCK_STEP, KY_STEP, KX_STEP))
        blocks, ky, kx, run = (self.parameter(i) for i in (BLOCKS, KY, KX, RUN))

        def over_blocks(_: Any, carried: list[Any]) -> list[Any]:
            x, *rest = carried
            _, *rest = v.loop(ky, [x, *rest], over_ky)
            return [b.add(x, block_step), *rest]

        def over_ky(_: Any, carried: list[Any]) -> list[Any]:
            x, *rest = carried
            _, *rest = v.loop(kx, [x, *rest], over_kx)
            return [b.add(x, ky_step), *rest]

        def over_kx(_: Any, carried: list[Any]) -> list[Any]:
            x, *rest = carried
            lines = [x]
            for _ in range(1, self.rows):
                lines.append(b.add(lines[-1], row_step))
            rest = v.loop(run, [*lines, *rest], self.passes)[self.rows :]
            return [b.add(x, kx_step), *rest]

        _, _, _, *sums = v.loop(blocks, [self.x, self.w, self.soon, *begin], over_blocks)
        if epilogue:
            sums = self.finish(sums)
        self.store(sums)

    def passes(self, _: Any, carried: list[Any]) -> list[Any]:
        """Emit one pass: carried are the rows' addresses, weights, weights that come soon, the sums."""
        b, v = self.b, self.v
        lines, (w, soon), sums = carried[: self.rows], carried[self.rows :][:2], carried[self.rows + 2 :]
        for i in range(self.ahead):
            self.fetch(soon, i * LINE)
        for u in range(self.unroll):
            weights = [v.load(w, (u * self.vectors + k) * v.nbytes) for k in range(self.vectors)]
            at = 0
            for line in lines:
                for column in range(self.columns):
                    value = v.broadcast(line, column * self.pixel + u * v.size)
                    for weight in weights:
                        sums[at] = self.multiply_add(value, weight, sums[at])
                        at += 1
        lines = [b.add(line, I64(self.unroll * v.size)) for line in lines]
        w = b.add(w, I64(self.unroll * self.vectors * v.nbytes))
        return [*lines, w, b.add(soon, I64(self.ahead * LINE)), *sums]

    def multiply_add(self, value: Any, weight: Any, total: Any) -> Any:
        if self.bf16:
            return self.v.dot_pairs(total, value, weight, self.bf16)
        return self.v.call("llvm.fmuladd", value, weight, total)

    def fetch(self, address: Any, offset: int) -> None:
        """Emit a prefetch into the second cache."""
        pointer = self.v.pointer(address, offset, element=I8)
        function = declare(self.b, "llvm.prefetch.p0", VOID, [pointer.type, I32, I32, I32])
        self.b.call(function, [pointer, I32(0), I32(2), I32(1)])

    def finish(self, sums: list[Any]) -> list[Any]:
        """Emit residual and clamp."""
        steps = self.parameter(STEPS)
        sums = when(self.b, steps, ADD, sums, self.add_residual)
        return clamp(self.v, steps, self.float_parameter(LOW), self.float_parameter(HIGH), sums)

    def add_residual(self, sums: list[Any]) -> list[Any]:
        r_block, r_row = self.parameter(R_BLOCK), self.parameter(R_ROW)
        return [
            self.b.fadd(value, self.v.load(place, offset))
            for value, (place, offset) in zip(sums, self.places(self.r, r_block, r_row), strict=True)
        ]

    def store(self, sums: list[Any]) -> None:
        y_block, y_row = self.parameter(Y_BLOCK), self.parameter(Y_ROW)
        for value, (place, offset) in zip(sums, self.places(self.y, y_block, y_row), strict=True):
            self.v.store(value, place, offset)

    def places(self, base: Any, block: Any, row: Any) -> list[tuple[Any, int]]:
        """Emit the address of each sum's place in an output, as (address, constant offset)."""
        b, v = self.b, self.v
        lines = [base]
        for _ in range(1, self.rows):
            lines.append(b.add(lines[-1], row))
        grid = [
            [line if k == 0 else b.add(line, v.mul(block, k)) for k in range(self.vectors)] for line in lines
        ]
        return [
            (line, column * v.nbytes) for across in grid for column in range(self.columns) for line in across
        ]

    def parameter(self, index: int) -> Any:
        return self.b.load(self.v.pointer(self.p, 8 * index, element=I64))

    def float_parameter(self, index: int) -> Any:
        value = self.b.load(self.v.pointer(self.p, 8 * index, element=F64))
        return self.v.splat(self.b.fptrunc(value, F32))


def clamp(v: Vectors, steps: Any, low: Any, high: Any, values: list[Any]) -> list[Any]:
    """Emit the steps SLOPE, MAXIMUM and MINIMUM on vectors, each where its bit is in `steps`."""
    b = v.builder
    zero = v.constant(0.0)

    def sloped(x: Any) -> Any:
        return b.select(b.fcmp_ordered("<", x, zero), b.fmul(x, high), x)

    values = when(b, steps, SLOPE, values, lambda xs: [sloped(x) for x in xs])
    values = when(b, steps, MAXIMUM, values, lambda xs: [v.maximum(x, low) for x in xs])
    return when(b, steps, MINIMUM, values, lambda xs: [v.minimum(x, high) for x in xs])


def when(b: Any, steps: Any, bit: int, values: list[Any], change: Any) -> list[Any]:
    """Emit `change(values) if steps & bit else values`, as a branch."""
    wanted = b.icmp_signed("!=", b.and_(steps, I64(bit)), I64(0))
    before = b.basic_block
    block, after = b.function.append_basic_block("step"), b.function.append_basic_block("after")
    b.cbranch(wanted, block, after)
    b.position_at_end(block)
    changed = change(values)
    b.branch(after)
    end = b.basic_block
    b.position_at_end(after)
    joined = []
    for old, new in zip(values, changed, strict=True):
        phi = b.phi(old.type)
        phi.add_incoming(old, before)
        phi.add_incoming(new, end)
        joined.append(phi)
    return joined
