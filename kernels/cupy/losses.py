"""NegativeLogLikelihoodLoss and SoftmaxCrossEntropyLoss; classes are checked while running.

Tolerance: 1e-5 relative (float32), 1e-12 (float64), two units in the last place of 16-bit types. Sums
are made in float64, in an order that does not depend on the card.
"""

from __future__ import annotations

import math

from onnxref.gpu import CTYPES, cuda_kernel, grid_for
from onnxref.lowering import Address, Operand, Scratch, Site, Unsupported, lower

from ..common.checks import check_result
from ._rows import FLOATS, compute_type
from ._values import fault_of
from ._views import View, emit_view
from .movement import check_plain
from .softmax import log_softmax

_CODE = "onnxref.kernels.cupy.code"
_PARTS = 264  # blocks that add up losses
_ONE_BLOCK = 1 << 15  # losses that one block adds up


def _group(classes: int, inner: int, positions: int, strict: bool) -> int:
    """Return how many threads have a position: neighbours read neighbours either way."""
    if inner > 1:
        return 1
    return 256 if classes >= 4096 and (strict or positions < 132 * 64) else 32


def _check(
    x: Operand, target: Operand, weight: Operand | None, y: Operand | None, reduction: str
) -> tuple[int, int, int]:
    """Return (positions, classes, inner)."""
    check_plain(x, target, weight, y)
    if y is not None:
        check_result(y, target.shape if reduction == "none" else ())
    if x.dtype.name not in FLOATS or target.dtype.name not in ("int32", "int64"):
        raise Unsupported(f"losses of {x} and {target}")
    if x.ndim < 2 or not x.shape[1] or target.shape != (x.shape[0], *x.shape[2:]):
        raise Unsupported("shapes that do not fit")
    if weight is not None and (weight.shape != x.shape[1:2] or weight.dtype != x.dtype):
        raise Unsupported("weights that do not fit")
    if reduction not in ("none", "sum", "mean") or x.shape[1] >= 1 << 31:
        raise Unsupported(f"reduction {reduction}")
    return target.size, x.shape[1], max(1, math.prod(x.shape[2:]))


def _emit(
    site: Site,
    x: Operand | View,
    target: Operand,
    weight: Operand | None,
    y: Operand,
    extents: tuple[int, int, int],
    ignore_index: int | None,
    reduction: str,
    *,
    is_cross: bool,
) -> None:
    """Emit the losses of scores, or log-probabilities, and their reduction."""
    positions, classes, inner = extents
    wide = compute_type(x.dtype)
    size = 8 if wide == "float64" else 4
    whole = reduction == "none"
    group = _group(classes, inner, positions, site.precision == "strict") if is_cross else 1
    kernel = cuda_kernel(
        _CODE, "losses.cu", "losses",
        T=CTYPES[x.dtype.name], TARGET=CTYPES[target.dtype.name], GROUP=group, IS_CROSS=int(is_cross),
        HAS_WEIGHT=int(weight is not None), HAS_IGNORED=int(ignore_index is not None),
        OUT=CTYPES[y.dtype.name if whole else wide],
    )  # fmt: skip
    memory = x.memory if isinstance(x, View) else x
    loss = y if whole else site.scratch(size * positions)
    # Only the mean asks for factors, but a kernel that may write them wants a place for them.
    factor = site.scratch(size * positions)
    if positions:
        site.launch(
            kernel,
            *(memory, target, memory if weight is None else weight, loss, factor),
            fault_of(target, 0, classes - 1),
            *(positions, classes, inner, 0 if ignore_index is None else ignore_index),
            grid=grid_for(positions * group),
        )
    if not whole and isinstance(loss, Scratch):
        _emit_sum(site, loss, factor, y, positions, wide, is_mean=reduction == "mean")


def _emit_sum(
    site: Site, loss: Scratch, factor: Scratch, y: Operand, count: int, wide: str, *, is_mean: bool
) -> None:
    """Emit the sum of the losses, or their mean by the factors."""
    defines = {"T": CTYPES[y.dtype.name], "IS_MEAN": int(is_mean)}
    held: tuple[Scratch | Address, Scratch | Address] = (loss, factor)
    spare = site.scratch(2 * 8 * _PARTS)
    if count > _ONE_BLOCK:
        kernel = cuda_kernel(_CODE, "loss_sums.cu", "loss_sums", L=CTYPES[wide], FINAL=0, **defines)
        site.launch(kernel, *held, spare, y, count, grid=(_PARTS, 1, 1))
        held, wide, count = (spare, spare + 8 * _PARTS), "float64", _PARTS
    kernel = cuda_kernel(_CODE, "loss_sums.cu", "loss_sums", L=CTYPES[wide], FINAL=1, **defines)
    site.launch(kernel, *held, spare, y, count, grid=(1, 1, 1), block=(1024, 1, 1))


@lower("NegativeLogLikelihoodLoss", since=(12, 13, 22), backend="cupy")
def negative_log_likelihood_loss(
    site: Site,
    x: Operand,
    target: Operand,
    weight: Operand | None = None,
    *,
    ignore_index: int | None = None,
    reduction: str = "mean",
) -> None:
    """ONNX NegativeLogLikelihoodLoss-22."""
    (y,) = site.outputs
    if y is None:
        raise Unsupported("nothing wants its output")
    extents = _check(x, target, weight, y, reduction)
    _emit(site, x, target, weight, y, extents, ignore_index, reduction, is_cross=False)


@lower("SoftmaxCrossEntropyLoss", since=(12, 13), backend="cupy")
def softmax_cross_entropy_loss(
    site: Site,
    scores: Operand,
    labels: Operand,
    weights: Operand | None = None,
    *,
    ignore_index: int | None = None,
    reduction: str = "mean",
) -> None:
    """ONNX SoftmaxCrossEntropyLoss-13."""
    y, log_prob = (*site.outputs, None)[:2]
    extents = _check(scores, labels, weights, y, reduction)
    given: Operand | View = scores
    is_cross = True
    if log_prob is not None:
        check_plain(log_prob)
        check_result(log_prob, scores.shape)
        made = View(log_prob, scores.shape, scores.dtype)
        emit_view(site, log_softmax, [View(scores, scores.shape, scores.dtype)], made, axis=1)
        if scores.dtype.itemsize >= 4:  # narrower ones are rounded, and losses must not see that
            given, is_cross = made, False
    if y is not None:
        _emit(site, given, labels, weights, y, extents, ignore_index, reduction, is_cross=is_cross)
