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
    12 LOW, 13 HIGH, 14 SLOPE  float64 bits: y = min(max(y < 0 ? y * slope : y, low), high)

so that none, Relu, Clip and LeakyRelu are one machine code. NaN goes through.
Sums run over kernel elements of one input block before the next block, one fused multiply-add each:
a pixel's bits do not depend on the tile that it is in.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from numba import types
from numba.extending import intrinsic

from onnxref.native.ops import F32, F64, I64, device
from onnxref.native.vectors import Vectors

PARAMETERS = 15
BLOCKS, BLOCK_STEP, KY, KY_STEP, KX, KX_STEP, RUN, ROW_STEP = range(8)
Y_BLOCK, Y_ROW, R_BLOCK, R_ROW, LOW, HIGH, SLOPE = range(8, PARAMETERS)


@cache
def conv_tile(rows: int, columns: int, vectors: int, pixel: int, unroll: int) -> Any:
    """Return `tile(p, x, w, y, r, b)`: addresses of parameters, input, weights, output, residual, bias.

    Args:
        pixel: bytes from one output pixel's input to the next one's.
        unroll: consecutive input elements in a pass of the innermost loop.
    """

    @intrinsic
    def emit(context, p, x, w, y, r, b):
        def generate(ctx, builder, signature, values):
            _Tile(builder, values, rows, columns, vectors, pixel, unroll).emit()
            return ctx.get_dummy_value()

        return types.void(*[types.int64] * 6), generate

    @device
    def tile(p, x, w, y, r, b):
        emit(p, x, w, y, r, b)

    return tile


class _Tile:
    """Emits one tile."""

    def __init__(
        self, builder: Any, values: Any, rows: int, columns: int, vectors: int, pixel: int, unroll: int
    ) -> None:
        self.b = builder
        self.v = Vectors(builder)
        self.p, self.x, self.w, self.y, self.r, self.bias = values
        self.rows, self.columns, self.vectors = rows, columns, vectors
        self.pixel, self.unroll = pixel, unroll

    def emit(self) -> None:
        b, v = self.b, self.v
        zeros = [v.constant(0.0)] * (self.rows * self.columns * self.vectors)
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

        _, _, *sums = v.loop(blocks, [self.x, self.w, *zeros], over_blocks)
        self.finish(sums)

    def passes(self, _: Any, carried: list[Any]) -> list[Any]:
        """Emit one pass: carried are the rows' addresses, that of the weights, the sums."""
        b, v = self.b, self.v
        lines, w, sums = carried[: self.rows], carried[self.rows], list(carried[self.rows + 1 :])
        for u in range(self.unroll):
            weights = [v.load(w, (u * self.vectors + k) * v.nbytes) for k in range(self.vectors)]
            at = 0
            for line in lines:
                for column in range(self.columns):
                    value = v.broadcast(line, column * self.pixel + u * v.size)
                    for weight in weights:
                        sums[at] = v.call("llvm.fmuladd", value, weight, sums[at])
                        at += 1
        lines = [b.add(line, I64(self.unroll * v.size)) for line in lines]
        return [*lines, b.add(w, I64(self.unroll * self.vectors * v.nbytes)), *sums]

    def finish(self, sums: list[Any]) -> None:
        """Emit bias, residual, clamp and stores."""
        b, v = self.b, self.v
        low, high, slope = (self.float_parameter(i) for i in (LOW, HIGH, SLOPE))
        y_block, y_row, r_block, r_row = (self.parameter(i) for i in (Y_BLOCK, Y_ROW, R_BLOCK, R_ROW))
        zero = v.constant(0.0)
        for k in range(self.vectors):
            bias = v.load(self.bias, k * v.nbytes)
            y, r = (b.add(base, v.mul(step, k)) for base, step in ((self.y, y_block), (self.r, r_block)))
            for row in range(self.rows):
                for column in range(self.columns):
                    value = sums[(row * self.columns + column) * self.vectors + k]
                    value = b.fadd(b.fadd(value, bias), v.load(r, column * v.nbytes))
                    value = b.select(b.fcmp_ordered("<", value, zero), b.fmul(value, slope), value)
                    v.store(v.minimum(v.maximum(value, low), high), y, column * v.nbytes)
                y, r = b.add(y, y_row), b.add(r, r_row)

    def parameter(self, index: int) -> Any:
        return self.b.load(self.v.pointer(self.p, 8 * index, element=I64))

    def float_parameter(self, index: int) -> Any:
        value = self.b.load(self.v.pointer(self.p, 8 * index, element=F64))
        return self.v.splat(self.b.fptrunc(value, F32))
