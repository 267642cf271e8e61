"""Native code of one row times a matrix that lies as (N, K): read where it lies, once, and never packed.

A square block of one vector by one vector of B is turned in registers, and its rows are then multiplied by
elements of A that all lanes share. An element of the result adds its products in the order of k, as in
`gemm`: the bits are those of a product of more rows.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from onnxref.native._target import target
from onnxref.native.ops import I64, access, arg, arg_float, device, fill_bytes

from ._gemm_micro import LINE, LOAD_C, _Tile, tile
from ._gemm_transpose import turn
from .gemm import SIZES, activator, panel_turner

FAR = 512  # how many bytes before their use the elements of a row are asked for


@cache
def _dots(dtype: str) -> Any:
    """Return the intrinsic (x, source, bytes between its rows, blocks of k, sums): sums = rows by x."""

    @intrinsic
    def dots(context, x, source, source_row, blocks, sums):
        def generate(ctx, builder, signature, values):
            x, source, source_row, blocks, sums = values
            t = _Tile(builder, dtype, 1, 1, 1, False, "")
            v = t.v
            starts = [source]
            for _ in range(v.lanes - 1):
                starts.append(builder.add(starts[-1], source_row))

            def body(_: Any, carried: list[Any]) -> list[Any]:
                at, total = carried
                rows = []
                for start in starts:
                    t.fetch(v.pointer(start, FAR, index=at))
                    rows.append(v.load(start, index=at))
                for i, row in enumerate(turn(builder, rows)):
                    total = t.multiply_add(v.broadcast(x, i * v.size, index=at), row, total)
                return [builder.add(at, I64(v.nbytes)), total]

            zero = ir.Constant(v.type, [0] * v.lanes)
            v.store(v.loop(blocks, [I64(0), zero], body)[1], sums)
            return ctx.get_dummy_value()

        return types.void(*[types.int64] * 5), generate

    return dots


@cache
def _add_rows(dtype: str) -> Any:
    """Return the intrinsic (x, panel of rows of one vector, k, sums): sums += panel's rows by x."""

    @intrinsic
    def add_rows(context, x, panel, k, sums):
        def generate(ctx, builder, signature, values):
            x, panel, k, sums = values
            t = _Tile(builder, dtype, 1, 1, 1, False, "")
            v = t.v

            def body(_: Any, carried: list[Any]) -> list[Any]:
                x_at, at, total = carried
                total = t.multiply_add(v.broadcast(x, index=x_at), v.load(panel, index=at), total)
                return [builder.add(x_at, I64(v.size)), builder.add(at, I64(v.nbytes)), total]

            v.store(v.loop(k, [I64(0), I64(0), v.load(sums)], body)[2], sums)
            return ctx.get_dummy_value()

        return types.void(*[types.int64] * 4), generate

    return add_rows


def row_product(dtype: str, activation: str = ""):
    """Kernel of act(scale * A B + bias + residual) for one row of A; a unit is one vector of columns.

    Arguments: a, b, c, bias (0: none), residual (0: none); N, K, bytes between rows of B; flags; scale, low,
    high; alpha, beta of the activation; scratch and its bytes per thread.
    """
    load, store = access(dtype)
    size = SIZES[dtype]
    lanes = target().vector_bytes // size
    dots, add_rows, turn_panel = _dots(dtype), _add_rows(dtype), panel_turner(dtype, dtype)
    end_of_row = tile(dtype, 1, 1)
    finish = activator(dtype, activation)

    @device
    def rest(a, b, b_row, n, done, K, sums, panel):
        """Add the products from `done` on, in blocks that are no squares."""
        while done < K:
            k = min(lanes, K - done)
            turn_panel(b + done * size, b_row, panel, lanes * size, n, k)
            add_rows(a + done * size, panel, k, sums)
            done += k

    def kernel(p, begin, end, thread):
        a, b, c, bias, residual = arg(p, 0), arg(p, 1), arg(p, 2), arg(p, 3), arg(p, 4)
        N, K, b_row, flags = arg(p, 5), arg(p, 6), arg(p, 7), arg(p, 8)
        held = arg(p, 14) + thread * arg(p, 15)
        sums, panel = held, held + LINE
        for u in range(begin, end):
            j = u * lanes
            n = min(lanes, N - j)
            own, y = b + j * b_row, c + j * size
            done = 0
            if n == lanes:
                dots(a, own, b_row, K // lanes, sums)
                done = K // lanes * lanes
            else:
                fill_bytes(sums, 0, lanes * size)
            rest(a, own, b_row, n, done, K, sums, panel)
            for column in range(n):
                store(y, column, load(sums, column))
            row = bias + j * size if bias else 0
            more = residual + j * size if residual else 0
            end_of_row(a, 0, 0, panel, 0, 0, panel, 0, y, 0, 1, n, 0, row, more, LOAD_C + flags, p + 8 * 9)
            finish(y, 0, 1, n, arg_float(p, 12), arg_float(p, 13))

    return kernel
