"""MatMulNBits of com.microsoft on the CPU: a product with weights of 2, 4 or 8 bits.

Few rows of A (decoding) read the packed weights once and make floats of them in registers: a block's codes
less its zero point, which is exact, are multiplied and added, and the sum by the scale. For many rows a panel
of weights becomes float32 in the second-level cache, as the tiles of MatMul want it.

Tolerance: an element differs from the exact sum by at most `(K + 2) * eps * sum |a w|`, eps being that of
float32, then rounded once to the type of A. That holds for finite scales, where neither elements of A nor
scales are below 2**-112 (but 0), and where `2**bits * sum |a|` is within float32. With `precision="strict"`
all rows are computed like few ones, so that results do not depend on their number.

Scales and zero points must be constants. `accuracy_level` allows to round A, of which no use is made.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from onnxref.dtypes import Array
from onnxref.lowering import LINE, Argument, Operand, Site, Unsupported, lower
from onnxref.native import NativeFunction, native, target
from onnxref.registry import MICROSOFT

from ..numpy.matmul_nbits import BITS, unpack
from .linalg import CODE as GEMM
from .speed import flops

CODE = "onnxref.kernels.numba.code.matmul_nbits"
_TYPES = ("float32", "float16", "bfloat16")
_FEW_ROWS = 8
_TURNED_BYTES = 1 << 15  # of packed weights that few rows have in the first-level cache
_STEPS = 768  # of k that become float32 at once
_BLOCK_BYTES = 1 << 19  # of A in a block of rows
_UNITS = 12  # as many are wanted, so that threads end together


def _code(factory: str, *parameters: str | int) -> NativeFunction:
    return native(CODE, factory, *parameters)


def _accept(condition: bool, reason: str) -> None:
    if not condition:
        raise Unsupported(reason)


@dataclass(slots=True)
class _Product:
    """A product of M rows with N rows of packed weights.

    Attributes:
        block_words: 32-bit words of a block, row_words: of a row of `b`.
        scales, zeros: as the kernels take them; `kind` is that of the zero points.
    """

    site: Site
    a: Operand
    b: Operand
    y: Operand
    bias: Operand | None
    bits: int
    M: int
    N: int
    K: int
    block_words: int
    row_words: int
    scales: Argument = 0
    zeros: Argument = 0
    kind: str = ""

    def turned(self, words: int) -> int:
        """Return about so many words in whole blocks, at least one."""
        return min(self.row_words, max(1, words // self.block_words) * self.block_words)


def _vectors(values: Array, N: int) -> Array:
    """Return (N, blocks) as (vectors of columns, blocks, lanes), filled up with zeros."""
    lanes = target().lanes
    full = np.zeros((-(-N // lanes) * lanes, values.shape[1]), values.dtype)
    full[:N] = values
    return full.reshape(-1, lanes, values.shape[1]).swapaxes(1, 2)


def _pack_scales(product: _Product, scales: Operand, zero_points: Operand | None, blocks: int) -> None:
    site, N, bits = product.site, product.N, product.bits
    lanes = target().lanes
    held = scales.constant
    _accept(held is not None and scales.size == N * blocks, "scales that are not constant")
    assert held is not None
    product.scales = site.pack(
        (scales,),
        ("vectors of scales", lanes, N),
        lambda: _vectors(held.reshape(N, blocks).astype(np.float32), N),
    )
    if zero_points is None:
        return
    zero = zero_points.constant
    _accept(zero is not None, "zero points that are not constant")
    assert zero is not None
    product.kind = "uint8" if zero.dtype == np.uint8 else "float32"
    width = -(-blocks * bits // 8) if product.kind == "uint8" else blocks
    _accept(zero.size == N * width, f"zero points of shape {zero.shape}")

    def build() -> Array:
        rows = zero.reshape(N, width)
        rows = unpack(rows, bits)[:, :blocks] if product.kind == "uint8" else rows.astype(np.float32)
        return _vectors(rows, N)

    product.zeros = site.pack((zero_points,), ("vectors of zero points", lanes, N, bits, blocks), build)


def _few_rows(product: _Product) -> None:
    """Emit a product that reads the weights once."""
    site, a, M, N = product.site, product.a, product.M, product.N
    lanes, vector = target().lanes, target().vector_bytes
    rows = 4 if target().registers < 32 else _FEW_ROWS
    if site.precision != "strict":
        rows = next(count for count in (1, 4, rows) if count >= min(M, rows))
    padded = -(-M // rows) * rows
    pitch = product.row_words * 32 // product.bits
    wide = site.scratch(padded * pitch * 4)
    site.call(
        _code("spread_rows", a.dtype.name, product.bits),
        *(a, wide, M, product.K, pitch),
        units=padded,
        work=padded * pitch * 0.3,
        grain=-(-16384 // pitch),
    )
    turned = product.turned(_TURNED_BYTES // vector)
    scratch = -(-(padded + turned) * vector // LINE) * LINE
    site.call(
        _code("few_rows", a.dtype.name, product.bits, product.kind, rows),
        *(wide, product.b, product.scales, product.zeros, product.y, product.bias or 0),
        *(M, N, product.row_words, product.block_words, turned, 4 * pitch),
        *(site.scratch(scratch, per_thread=True), scratch),
        units=-(-N // lanes),
        work=max(product.b.nbytes * 0.08, M * N * product.K / flops()),
        grain=1,
    )


def _many_rows(product: _Product) -> None:
    """Emit a product that makes panels of float32 of the weights."""
    site, a, y, M, N, K = product.site, product.a, product.y, product.M, product.N, product.K
    lanes = target().lanes
    vectors = -(-N // lanes)
    panels = -(-vectors // 3)
    width = -(-vectors // panels) * lanes
    turned = product.turned(_STEPS * product.bits // 32)
    steps = turned * 32 // product.bits
    blocks = max(-(-M * min(K, steps) * 4 // _BLOCK_BYTES), min(-(-_UNITS // panels), -(-M // 64)))
    rows = -(-M // (8 * blocks)) * 8
    left, bias = _widened(site, a), _widened(site, product.bias)
    goal: Argument = y if a.dtype == np.float32 else site.scratch(y.size * 4)
    scratch = turned * target().vector_bytes + steps * width * 4
    site.call(
        _code("many_rows", product.bits, product.kind),
        *(left, product.b, product.scales, product.zeros, goal, bias),
        *(M, N, K, product.row_words, product.block_words, turned, width, rows),
        *(site.scratch(scratch, per_thread=True), scratch),
        units=-(-M // rows) * panels,
        work=M * N * K * 2 / flops(),
        grain=1,
    )
    if goal is not y:
        _convert(site, "float32", y.dtype.name, goal, y, y.size)


def _convert(site: Site, kind: str, goal: str, x: Argument, y: Argument, count: int) -> None:
    site.call(native(GEMM, "convert", kind, goal), x, y, count, units=-(-count // 1024), work=count * 0.2)


def _widened(site: Site, operand: Operand | None) -> Argument:
    """Return an operand in float32, 0 for none."""
    if operand is None or operand.dtype == np.float32:
        return operand or 0
    wide = site.scratch(operand.size * 4)
    _convert(site, operand.dtype.name, "float32", operand, wide, operand.size)
    return wide


def _check_groups(g_idx: Operand | None, K: int, block_size: int) -> None:
    """Refuse elements that have other blocks' scales than of the block that they lie in."""
    if g_idx is not None:
        known = g_idx.constant
        ordered = known is not None and np.array_equal(known[:K], np.arange(K) // block_size)
        _accept(ordered, "g_idx that mixes blocks")


@lower("MatMulNBits", since=1, domain=MICROSOFT)
def matmul_nbits(
    site: Site,
    a: Operand,
    b: Operand,
    scales: Operand,
    zero_points: Operand | None = None,
    g_idx: Operand | None = None,
    bias: Operand | None = None,
    *,
    K: int,
    N: int,
    block_size: int,
    bits: int = 4,
    accuracy_level: int = 0,
    weight_prepacked: int = 0,
) -> None:
    """A (..., K) by quantised weights B (N, blocks, bytes) (com.microsoft MatMulNBits-1)."""
    (y,) = site.outputs
    assert y is not None
    _accept(a.dtype.name in _TYPES, f"A of {a.dtype.name}")
    _accept(bits in BITS and weight_prepacked == 0, "weights in another layout")
    _accept(not (a.layout or y.layout), "matrices in blocks of channels")
    _check_groups(g_idx, K, block_size)
    _accept(K > 0, "a product of no columns")
    if y.size == 0:
        return
    blocks, words = -(-K // block_size), block_size * bits // 32
    M = math.prod(a.shape[:-1])
    product = _Product(site, a, b, y, bias, bits, M, N, K, words, blocks * words)
    _pack_scales(product, scales, zero_points, blocks)
    if M <= _FEW_ROWS or site.precision == "strict":
        _few_rows(product)
    else:
        _many_rows(product)
