"""RotaryEmbedding on the GPU: one pass over memory.

Products and sums are in float32 (float64 for float64) and rounded once; tolerance 2 units in the last place
of the sum of a pair's magnitudes.
"""

from __future__ import annotations

import math

import numpy as np

from onnxref.gpu import CTYPES, cuda_kernel
from onnxref.lowering import Operand, Site, Unsupported, lower

from ._attention import head_sizes, plain_view
from ._rows import vector_width
from ._values import fault_of

_CODE = "onnxref.kernels.cupy.code"


@lower("RotaryEmbedding", since=23, backend="cupy")
def rotary_embedding(
    site: Site,
    x: Operand,
    cos_cache: Operand,
    sin_cache: Operand,
    position_ids: Operand | None = None,
    *,
    interleaved: int = 0,
    num_heads: int | None = None,
    rotary_embedding_dim: int = 0,
) -> None:
    """Rotate pairs in each head of `(B, H, S, D)` or `(B, S, H * D)` (ONNX RotaryEmbedding-23)."""
    (y,) = site.outputs
    if y is None or y.layout is not None:
        raise Unsupported("nothing wants its output")
    batch, heads, tokens, size = head_sizes(x, num_heads, "X")
    turned = rotary_embedding_dim or size
    if turned % 2 or not 0 <= turned <= size:
        raise Unsupported("rotary_embedding_dim is out of range")
    rows = _check_caches(x, cos_cache, sin_cache, position_ids, (batch, tokens, turned // 2))
    if x.size == 0:
        return
    site.may_overwrite(y, x)
    pairs = turned // 2
    vec = vector_width(x.dtype.itemsize, pairs, size - turned)
    view = plain_view(x, x.shape, heads, x.dtype.itemsize)
    count = batch * tokens * heads * (size - pairs) // vec
    index = "unsigned" if max(count, x.size) < 2**31 else "unsigned long long"
    kernel = cuda_kernel(
        *(_CODE, "rotary.cu", "rotate"),
        T=CTYPES[x.dtype.name],
        VEC=vec,
        INTERLEAVED=int(bool(interleaved)),
        INDEX=index,
    )
    site.launch(
        kernel,
        *(x, cos_cache, sin_cache, position_ids or 0, y, fault_of(position_ids, 0, rows - 1)),
        *((heads, tokens, size, pairs, rows), view.steps, count),
        grid=(-(-count // 256), 1, 1),
    )


def _check_caches(
    x: Operand, cos: Operand, sin: Operand, positions: Operand | None, wanted: tuple[int, int, int]
) -> int:
    """Return the rows of the caches."""
    if any(cache.dtype != x.dtype or cache.layout is not None for cache in (cos, sin)):
        raise Unsupported("caches of another type than X")
    if positions is None:
        if cos.shape != wanted or sin.shape != wanted:
            raise Unsupported("the caches do not have half the rotary dimension per token")
        return math.prod(wanted[:2])
    if cos.ndim != 2 or cos.shape[1] != wanted[2] or sin.shape != cos.shape:
        raise Unsupported("the caches do not have half the rotary dimension per position")
    if positions.shape != wanted[:2] or positions.dtype != np.int64:
        raise Unsupported("position_ids has another shape or type")
    if cos.shape[0] == 0:
        raise Unsupported("empty caches")
    return cos.shape[0]
