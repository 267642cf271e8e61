"""Lowering of TopK with a constant k."""

from __future__ import annotations

import math

from onnxref.lowering import Operand, Site, Unsupported, lower
from onnxref.native import native

_CODE = "onnxref.kernels.numba.code.selection"
_DTYPES = (
    *("float16", "bfloat16", "float32", "float64"),
    *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)),
)


@lower("TopK", since=1)
def top_k_1(site: Site, x: Operand, *, k: int, axis: int = -1) -> None:
    """ONNX TopK-1, exact."""
    _top_k(site, x, k, axis, largest=True)


@lower("TopK", since=10)
def top_k_10(site: Site, x: Operand, k: Operand, *, axis: int = -1) -> None:
    """ONNX TopK-10, exact."""
    _top_k(site, x, _constant(k), axis, largest=True)


@lower("TopK", since=(11, 24))
def top_k(site: Site, x: Operand, k: Operand, *, axis: int = -1, largest: int = 1, sorted: int = 1) -> None:
    """ONNX TopK-24, exact; it sorts whether it is asked to or not."""
    _top_k(site, x, _constant(k), axis, bool(largest))


def _constant(k: Operand) -> int:
    if k.constant is None or k.size != 1:
        raise Unsupported("k is not constant")
    return int(k.constant.reshape(-1)[0])


def _top_k(site: Site, x: Operand, k: int, axis: int, largest: bool) -> None:
    if x.dtype.name not in _DTYPES:
        raise Unsupported(f"elements are {x.dtype.name}")
    if not -x.ndim <= axis < x.ndim or not 0 <= k <= x.shape[axis]:
        raise Unsupported("k or the axis is out of range")
    axis %= x.ndim
    outer, n, inner = math.prod(x.shape[:axis]), x.shape[axis], math.prod(x.shape[axis + 1 :])
    if k == 0 or x.size == 0:
        return
    values, indices = (*site.outputs, None, None)[:2]
    scratch = site.scratch(16 * k, per_thread=True)
    site.call(
        native(_CODE, "top_k", x.dtype.name, largest),
        *(x, values or 0, indices or 0, n, inner, k, scratch, scratch.nbytes),
        units=outer * inner,
        work=outer * inner * (n + 20 * k * max(1.0, math.log2(k + 1))),
    )
