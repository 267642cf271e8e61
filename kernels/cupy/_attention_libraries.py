"""Attention by libraries: cuDNN's, or two products of cuBLASLt round a softmax of rows."""

from __future__ import annotations

import math

import numpy as np

from onnxref.gpu import Attention, Matmul, cuda_kernel
from onnxref.lowering import Address, Operand

from ._attention import CODE, MOST_SIZE, View, Work, dense_view, place_rows

_MANY_SCORES = 1 << 22  # from which products by cuBLASLt pay
_MOST_SCRATCH = 256 << 20  # bytes for scores


def _dense(work: Work, view: View, heads: int, rows: int, size: int, *, copies: bool = True) -> View:
    """Return a view of rows that lie one behind the other: the same, or of scratch; emit the copy to it."""
    wanted = dense_view(view.source, heads, rows, size, view.itemsize)
    extents = (work.sizes.batch, heads, rows)
    if all(n == 1 or a == b for n, a, b in zip(extents, view.steps, wanted.steps, strict=True)):
        return view
    nbytes = math.prod(extents) * size * view.itemsize
    goal = dense_view(work.site.scratch(nbytes), heads, rows, size, view.itemsize)
    if copies:
        place_rows(work.site, None, view, goal, (*extents, size))
    return goal


def _dense_operands(work: Work) -> tuple[View, View, View, View]:
    s = work.sizes
    return (
        _dense(work, work.q, s.heads, s.queries, s.size),
        _dense(work, work.k, s.kv_heads, s.keys, s.size),
        _dense(work, work.v, s.kv_heads, s.keys, s.value_size),
        _dense(work, work.y, s.heads, s.queries, s.value_size, copies=False),
    )


def _give(work: Work, y: View) -> None:
    """Emit the copy of a result to where it belongs."""
    s = work.sizes
    if y is not work.y:
        place_rows(work.site, None, y, work.y, (s.batch, s.heads, s.queries, s.value_size))


def fits_cudnn(work: Work) -> bool:
    s = work.sizes
    is_plain = work.softcap == 0 and work.lengths is None and work.mask.keys >= s.keys and not work.is_strict
    if not is_plain or work.q.itemsize != 2 or "cudnn" not in work.site.libraries:
        return False
    if s.size % 8 or s.value_size % 8 or max(s.size, s.value_size) > 128:
        return False
    left, right = work.window
    # It counts positions from the end.
    if left >= 0 or right > 0 or (right == 0 and (work.past != s.keys - s.queries or work.past < 0)):
        return False
    mask = work.mask.operand
    if mask is None:
        return True
    if mask.dtype.name != work.dtype or mask.ndim != 4 or mask.shape[2:] != (s.queries, s.keys) or right == 0:
        return False
    # Rows that see nothing are zeros here.
    return mask.constant is not None and bool((mask.constant.max(axis=-1) > -np.inf).all())


def by_cudnn(work: Work) -> None:
    s = work.sizes
    q, k, v, y = _dense_operands(work)
    mask = work.mask.operand
    op = Attention(
        *(s.batch, s.heads, s.kv_heads, s.queries, s.keys, s.size, s.value_size, work.dtype, work.scale),
        causal=work.window[1] == 0,
        bias_shape=() if mask is None else mask.shape,
    )
    tensors: dict[str, Address | Operand] = {"q": q.address, "k": k.address, "v": v.address, "y": y.address}
    if mask is not None:
        tensors["bias"] = mask
    work.site.library(op, **tensors)
    _give(work, y)


def fits_products(work: Work) -> bool:
    s = work.sizes
    is_tf32 = work.site.precision == "tf32" and work.dtype == "float32"
    if work.q.itemsize == 2 or "cublaslt" not in work.site.libraries or work.is_strict:
        return False
    if s.group * s.queries * s.keys * work.wide > _MOST_SCRATCH:
        return False
    sees_all = work.window == (-1, -1) and work.lengths is None
    too_large = max(s.size, s.value_size) > MOST_SIZE
    pays = (
        (sees_all or is_tf32) and s.scores >= _MANY_SCORES and min(s.queries, s.keys) >= 64 and s.size >= 32
    )
    return pays or too_large


def by_products(work: Work) -> None:
    s = work.sizes
    q, k, v, y = _dense_operands(work)
    units, rows, size = s.batch * s.kv_heads, s.group * s.queries, work.wide
    at_once = min(units, _MOST_SCRATCH // (rows * s.keys * size))
    scores = work.site.scratch(at_once * rows * s.keys * size)
    tf32 = work.site.precision == "tf32" and work.dtype == "float32"
    kernel = cuda_kernel(CODE, "attention_rows.cu", "softmax_of_scores", **work.defines)
    for first in range(0, units, at_once):
        count = min(at_once, units - first)
        by_key = (rows * s.size, s.keys * s.size, rows * s.keys)
        by_value = (rows * s.keys, s.keys * s.value_size, rows * s.value_size)
        work.site.library(
            Matmul(
                *(rows, s.keys, s.size, work.dtype, False, True, work.scale, count, by_key),
                tf32=tf32,
            ),
            a=q.address + first * by_key[0] * size,
            b=k.address + first * by_key[1] * size,
            d=scores,
        )
        work.site.launch(
            kernel,
            *(scores, work.mask.operand or 0, work.lengths or 0, work.fault),
            *(s.numbers, work.mask.strides, work.rules),
            *(first, *work.factors[1:]),
            grid=(count * rows, 1, 1),
        )
        work.site.library(
            Matmul(*(rows, s.value_size, s.keys, work.dtype), batch=count, strides=by_value, tf32=tf32),
            a=scores,
            b=v.address + first * by_value[1] * size,
            d=y.address + first * by_value[2] * size,
        )
    _give(work, y)
