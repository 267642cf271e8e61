"""MatMulNBits of com.microsoft on the GPU: a product with weights of 2, 4 or 8 bits.

What computes it:
    nbits_few      up to 16 rows of A (decoding), or one column, and all with `precision="strict"`: the packed
                   weights are read at the speed of memory, and become floats in registers;
    nbits_weights  makes weights of A's type, and cuBLASLt (`gemm.cu` where it is not installed) multiplies.

Tolerance: an element differs from the exact sum by at most `(K + 2) * eps * sum |a w|`, eps being that of
float32, then rounded once to the type of A. For many rows the weights are rounded to the type of A besides,
once, and float32 is multiplied in TF32 where `precision` is "tf32" or "bf16". For few rows that holds for
finite scales, and where `2**16 * sum |a|` is within float32. `accuracy_level` allows to round A, of which no
use is made.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from onnxref.gpu import CTYPES, Matmul, cuda_kernel, grid_for
from onnxref.lowering import Operand, Scratch, Site, Unsupported, lower
from onnxref.registry import MICROSOFT

from ..numpy.matmul_nbits import BITS
from .linalg import MatrixProduct, emit_tiles

_CODE = "onnxref.kernels.cupy.code"
_TYPES = ("float32", "float16", "bfloat16")
_FEW_ROWS = 16  # more are faster by way of weights of A's type, which take nine times the memory traffic
_MANY_WARPS = 132 * 16
_TEAMS = 8  # warps of a block
_MOST_ROW_BLOCKS = 65535


def _accept(condition: bool, reason: str) -> None:
    if not condition:
        raise Unsupported(reason)


@dataclass(slots=True)
class _Weights:
    """B (N, K) as it lies: words of 32 bits, scales, zero points.

    Attributes:
        words: of a row; block_words: of a block, a power of two.
        zeros: 0 none, 1 packed, 2 of A's type; `zero_bytes` of a row of packed ones.
    """

    b: Operand
    scales: Operand
    zero_points: Operand | None
    bits: int
    N: int
    K: int
    blocks: int
    words: int
    block_words: int
    zeros: int
    zero_bytes: int

    def defines(self, codes: int) -> dict[str, str | int]:
        """Return what both kernels are compiled with, one that handles so many codes at once."""
        name = self.scales.dtype.name
        return {"T": CTYPES[name], "BITS": self.bits, "ZEROS": self.zeros, "WHOLE": int(self.K % codes == 0)}

    @property
    def places(self) -> tuple[int, int, int, int]:
        return self.blocks, self.zero_bytes, self.words, self.block_words.bit_length() - 1


def _few_rows(site: Site, a: Operand, weights: _Weights, y: Operand, bias: Operand | None, M: int) -> None:
    """Emit `nbits_few`."""
    N, K, words = weights.N, weights.K, weights.words
    # Sums, one for each place of a code in half a word, are to fit the registers, and elements of A.
    most = 4 if a.dtype.itemsize == 2 and weights.bits > 2 else 2
    rows = most if site.precision == "strict" or M > 2 else M
    columns = (2 if rows > 2 else 4) // (2 if weights.bits == 2 else 1)
    access = math.gcd(words, 4)
    warps = 1
    while warps < _TEAMS and -(-N // columns) * warps < _MANY_WARPS and words // access > 32 * warps:
        warps *= 2
    row_blocks = -(-M // rows)
    _accept(row_blocks <= _MOST_ROW_BLOCKS, "more rows than a grid has")
    kernel = cuda_kernel(
        *(_CODE, "matmul_nbits.cu", "nbits_few"),
        **weights.defines(16 // weights.bits),
        WORDS=access,
        SPAN=min(access, weights.block_words),
        ROWS=rows,
        COLUMNS=columns,
        WARPS=warps,
    )
    site.launch(
        kernel,
        *(a, weights.b, weights.scales, weights.zero_points or 0, y, bias or 0),
        *(M, N, K, *weights.places),
        grid=(-(-N // (columns * _TEAMS // warps)), row_blocks, 1),
    )


def _many_rows(site: Site, a: Operand, weights: _Weights, y: Operand, bias: Operand | None, M: int) -> None:
    """Emit `nbits_weights` and the product with what it makes."""
    N, K, name = weights.N, weights.K, a.dtype.name
    wide = site.scratch(N * K * a.dtype.itemsize)
    site.launch(
        cuda_kernel(_CODE, "nbits_weights.cu", "nbits_weights", **weights.defines(32 // weights.bits)),
        *(weights.b, weights.scales, weights.zero_points or 0, wide),
        *(N, K, *weights.places),
        grid=grid_for(N * weights.words),
    )
    if "cublaslt" in site.libraries:
        tf32 = name == "float32" and site.precision in ("tf32", "bf16")
        op = Matmul(M, N, K, name, trans_b=True, tf32=tf32, has_bias=bias is not None)
        site.library(op, a=a, b=wide, d=y, **({} if bias is None else {"bias": bias}))
    else:
        _own_product(site, a, wide, y, bias, N)


def _own_product(site: Site, a: Operand, wide: Scratch, y: Operand, bias: Operand | None, N: int) -> None:
    described = Operand((N, a.shape[-1]), a.dtype)
    product = MatrixProduct(site, a, described, y, trans_b=True, bias=bias)
    strides = product.bias_strides()
    product.b = wide  # type: ignore[assignment]  # from here on only its address is asked for
    emit_tiles(product, strides)


def _check_groups(g_idx: Operand | None, K: int, block_size: int) -> None:
    """Refuse elements that have other blocks' scales than of the block that they lie in."""
    if g_idx is not None:
        known = g_idx.constant
        ordered = known is not None and np.array_equal(known[:K], np.arange(K) // block_size)
        _accept(ordered, "g_idx that mixes blocks")


@lower("MatMulNBits", since=1, domain=MICROSOFT, backend="cupy")
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
    _accept(not (a.layout or y.layout), "matrices with the channels last")
    _check_groups(g_idx, K, block_size)
    _accept(K > 0, "a product of no columns")
    if y.size == 0:
        return
    blocks, block_words = -(-K // block_size), block_size * bits // 32
    zeros = 0 if zero_points is None else 1 if zero_points.dtype == np.uint8 else 2
    weights = _Weights(
        *(b, scales, zero_points, bits, N, K, blocks, blocks * block_words, block_words, zeros),
        zero_bytes=-(-blocks * bits // 8),
    )
    M = math.prod(a.shape[:-1])
    emit = _few_rows if M <= _FEW_ROWS or N == 1 or site.precision == "strict" else _many_rows
    emit(site, a, weights, y, bias, M)
