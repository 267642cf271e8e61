"""Matrix products and convolutions with constant weights in bfloat16, for `precision="bf16"`.

Both sides are rounded to bfloat16 (8 bits of mantissa, to nearest even), products are exact, and sums run
in float32, pair by pair of k. Tolerance: of the rounded sides that of the float32 product, `K * eps * sum
|a b|`; rounding changes each of the two factors by at most 2**-8 of it, and so adds `2**-7 * sum |a b|`. An
element's bits depend neither on the number of rows nor on that of threads, but whether a product is taken
may depend on the number of rows. Numbers below 2**-126 may count as 0; those above 3.39e38 become infinite.

Weights are packed once, in half the memory of float32: `[panel][pair of k][column][2]`. The left side is
rounded by a call of its own before the product. Convolutions do the same with pairs of channels. Where the
processor lacks the instructions (AVX512-BF16), or float32 is faster, or the product is of another kind,
it is computed in float32, and a note that `explain` shows says why.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import ml_dtypes
import numpy as np

from onnxref.dtypes import Array
from onnxref.lowering import Address, Argument, Operand, Packed, Scratch, Site
from onnxref.native import AVX512_BF16, native, target

from .speed import flops

if TYPE_CHECKING:
    from .convolution import Geometry, Source
    from .linalg import _Product

CODE = "onnxref.kernels.numba.code.bf16"
GEMM = "onnxref.kernels.numba.code.gemm"
_PAIR = 4  # bytes of two bfloat16

# Intel's processors that have tiles for bfloat16 (AMX) give the vector instruction half the rate of float32:
# one core did 85 GFLOP/s by it and 165 by fused multiply-adds (measured on emeraldrapids). There it is still
# worth that weights are half as long: few rows take half the time if these come from far memory.
_HALF_RATE = ("sapphirerapids", "emeraldrapids", "graniterapids", "graniterapids-d")
_FEW_ROWS = 4
_LEAST_PRODUCTS = 64  # of each input of a convolution: what half their time saves pays for rounding it
_NEAR_BYTES = 1 << 21  # float32 weights of this size stay in the second-level cache


def form() -> str:
    """Return how this target multiplies bfloat16 (see `Vectors.dot_pairs`), "" where it should not."""
    return AVX512_BF16 if target().bf16 else ""


def is_half_rate() -> bool:
    """Whether float32 has twice the multiplications of bfloat16 on this target."""
    return form() == AVX512_BF16 and target().cpu in _HALF_RATE


def refused(site: Site, reason: str) -> bool:
    """Whether there is a reason against bfloat16; it is left for `explain`."""
    reason = reason if form() else "this processor has no AVX512-BF16"
    if reason:
        site.notes.append(f"in float32, not bfloat16: {reason}")
    return bool(reason)


def narrowed(site: Site, x: Argument, rows: int, count: int, row_bytes: int, y_row_bytes: int) -> Scratch:
    """Emit the rounding of rows of `count` float32 to bfloat16; return where they lie."""
    goal = site.scratch(rows * y_row_bytes)
    site.call(
        native(CODE, "narrow", form()),
        *(x, goal, count, row_bytes, y_row_bytes),
        units=rows,
        work=rows * count * 0.15,
        grain=-(-4096 // count),
    )
    return goal


# Matrix products -----------------------------------------------------------------------------------


def takes(product: _Product) -> bool:
    """Whether a matrix product is to be computed in bfloat16."""
    if product.site.precision != "bf16" or product.a.dtype != np.float32 or product.K == 0:
        return False
    reason = ""
    if product.b.constant is None:
        reason = "the right side is not constant"
    elif product.trans_a:
        reason = "the left side is transposed"
    elif is_half_rate() and (product.M > _FEW_ROWS or (product.M > 1 and product.b.nbytes < _NEAR_BYTES)):
        reason = f"that is faster here for {product.M} rows and these weights"
    return not refused(product.site, reason)


def multiply(product: _Product, row: Argument, addend: Argument, width: int, rows: int, steps: int) -> None:
    """Emit the calls of a product in bfloat16.

    Args:
        row, addend: what is added to every row of the product, and what has its shape; 0 for none.
        width: columns of a panel; rows, steps: rows and pairs of k in a block.
    """
    from .linalg import CLIP, SCALE

    site, a, M, N, K = product.site, product.a, product.M, product.N, product.K
    pairs = -(-K // 2)
    held = narrowed(site, a, a.size // K, K, 4 * K, _PAIR * pairs)
    panels = -(-N // width)
    stack_bytes = panels * pairs * width * _PAIR
    # From elements of A and B to bytes of their packed matrices.
    table = product.table // np.maximum(1, [M * K, K * N]) * [M * pairs * _PAIR, stack_bytes]
    bounds = product.clips
    site.call(
        native(GEMM, "product", "float32", "" if bounds else product.activation, False, form()),
        *(held, _weights(product, width), product.y, row, addend),
        site.pack((), ("matrix table", *map(tuple, table.tolist())), lambda: table),
        *(M, N, pairs),
        *(_PAIR * pairs, _PAIR),
        *(_PAIR * width, _PAIR * width * pairs, 4 * N),
        *(width, rows, steps),
        SCALE * (product.scale != 1) + CLIP * (bounds is not None),
        *(float(product.scale), *(bounds or (0.0, 0.0))),
        *(float(product.alpha), float(product.act_beta)),
        units=product.matrices * -(-M // rows) * panels,
        work=max(M * N * K * product.matrices / flops(), product.b.size * 0.07),
        grain=2,
    )


def _weights(product: _Product, width: int) -> Packed:
    """Return B as [matrix][panel][pair of k][column][2] in bfloat16, filled up with zeros."""
    b, K, N = product.b, product.K, product.N
    held, transposed = b.constant, product.trans_b
    assert held is not None

    def build() -> Array:
        matrices = held.reshape(-1, N, K).swapaxes(1, 2) if transposed else held.reshape(-1, K, N)
        panels, pairs = -(-N // width), -(-K // 2)
        full = np.zeros((len(matrices), 2 * pairs, panels * width), ml_dtypes.bfloat16)
        full[:, :K, :N] = matrices
        return full.reshape(-1, pairs, 2, panels, width).transpose(0, 3, 1, 4, 2)

    return product.site.pack((b,), ("bfloat16 panels of B", width, transposed, K, N), build)


# Convolutions --------------------------------------------------------------------------------------


def takes_convolution(site: Site, x: Operand, g: Geometry, winograd: int) -> bool:
    """Whether a convolution is to be computed in bfloat16.

    Args:
        winograd: size of Winograd's tiles that would be taken in float32, 0 for none.
    """
    if site.precision != "bf16":
        return False
    lanes = target().lanes
    reason = ""
    if x.layout is None or g.c % lanes or lanes < 8:
        reason = "its channels do not fill whole blocks"
    elif winograd == 4:
        reason = "Winograd's algorithm is faster"
    elif is_half_rate():
        reason = "that is faster here"
    elif g.flops < 2 * _LEAST_PRODUCTS * g.n * g.c * math.prod(g.size):
        reason = "rounding its input would take longer than it saves"
    return not refused(site, reason)


def narrowed_source(site: Site, x: Operand, source: Source) -> Source:
    """Emit the rounding of a blocked input with its border; return where its pairs of channels lie."""
    assert x.layout is not None
    assert isinstance(source.address, Address)
    n, blocks, rows, columns, lanes = x.layout.extents(x.shape)
    count = columns * lanes
    held = narrowed(site, x, n * blocks * rows, count, 4 * count, 2 * count)
    return replace(
        source,
        address=held + source.address.offset // 2,
        image=source.image // 2,
        block=source.block // 2,
        row=source.row // 2,
        pixel=source.pixel // 2,
        inputs=source.inputs // 2,
    )


def pack_weights(w: Array, lanes: int, vectors: int, pairs: int) -> Array:
    """Return weights (M, C, kh, kw) as [group][C / 2 pairs][kh][kw][pairs][vectors * lanes][2], flat.

    Where the last group has fewer vectors its rows are shorter.
    """
    if w.ndim == 3:
        w = w[:, :, None, :]
    m, c, kh, kw = w.shape
    blocks, parts = -(-m // lanes), -(-c // (2 * pairs))
    full = np.zeros((blocks * lanes, parts * 2 * pairs, kh, kw), ml_dtypes.bfloat16)
    full[:m, :c] = w
    ordered = full.reshape(blocks * lanes, parts, pairs, 2, kh, kw).transpose(1, 4, 5, 2, 0, 3)
    step = vectors * lanes
    groups = [ordered[..., at : at + step, :] for at in range(0, blocks * lanes, step)]
    return np.concatenate([group.reshape(-1) for group in groups])
