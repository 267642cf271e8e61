"""Rows of float32 as pairs of bfloat16: the left side of products in that type, see `Vectors.dot_pairs`."""

from __future__ import annotations

from functools import cache

from numba import types
from numba.extending import intrinsic

from onnxref.native.ops import F32, I32, I64, arg
from onnxref.native.vectors import Vectors


@cache
def _narrow_row(form: str):
    """Return the intrinsic that rounds `count` float32 of x to bfloat16 at y.

    An odd one is paired with a zero, so that ceil(count / 2) times 4 bytes are written.
    """

    @intrinsic
    def narrow(context, x, y, count):
        def generate(ctx, builder, signature, values):
            x, y, count = values
            v, pairs = Vectors(builder, F32), Vectors(builder, I32)
            step = 2 * v.lanes
            whole = builder.sdiv(count, I64(step))
            rest = builder.sub(count, builder.mul(whole, I64(step)))

            def body(i, _):
                at = builder.mul(i, I64(2 * v.nbytes))
                read = [v.load(x, j * v.nbytes, index=at) for j in range(2)]
                pairs.store(v.round_pairs(*read, form), y, index=builder.mul(i, I64(v.nbytes)))
                return []

            with builder.if_then(builder.icmp_signed(">", whole, I64(0))):
                v.loop(whole, [], body)
            with builder.if_then(builder.icmp_signed(">", rest, I64(0))):
                at = builder.mul(whole, I64(2 * v.nbytes))
                masks = [v.mask(builder.sub(rest, I64(j * v.lanes))) for j in range(2)]
                read = [v.load_masked(mask, x, j * v.nbytes, index=at) for j, mask in enumerate(masks)]
                some = pairs.mask(builder.sdiv(builder.add(rest, I64(1)), I64(2)))
                goal = builder.mul(whole, I64(v.nbytes))
                pairs.store_masked(some, v.round_pairs(*read, form), y, index=goal)
            return ctx.get_dummy_value()

        return types.void(*[types.int64] * 3), generate

    return narrow


def narrow(form: str):
    """Kernel that rounds rows of float32 to bfloat16 (`form` as of `Vectors.round_pairs`); a unit is a row.

    Arguments: x, y, elements of a row, bytes between rows of x, of y.
    """
    convert = _narrow_row(form)

    def kernel(p, begin, end, thread):
        x, y, count, x_row, y_row = arg(p, 0), arg(p, 1), arg(p, 2), arg(p, 3), arg(p, 4)
        for row in range(begin, end):
            convert(x + row * x_row, y + row * y_row, count)

    return kernel
