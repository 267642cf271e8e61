"""Classification losses: negative log likelihood, and softmax cross entropy, which is built on it."""

from __future__ import annotations

from typing import Any

import numpy as np

from onnxref.dtypes import Array
from onnxref.errors import KernelError
from onnxref.registry import op

from ._checks import check_choice, check_shape
from ._common import in_float32, log_softmax


def _checked_targets(
    shape: tuple[int, ...], target: Array, weight: Array | None, ignore_index: int | None
) -> tuple[Array, Array]:
    """Return class indices that are safe to gather with, and which of them are to be ignored."""
    if len(shape) < 2 or shape[1] == 0:
        raise KernelError(f"input must have shape (N, C, d1, ...) with C > 0 (got shape {shape})")
    check_shape(target, shape[:1] + shape[2:], "target")
    if weight is not None:
        check_shape(weight, shape[1:2], "weight")
    ignored = np.zeros(target.shape, bool) if ignore_index is None else target == ignore_index
    wrong = ~ignored & ((target < 0) | (target >= shape[1]))
    if wrong.any():
        raise KernelError(f"target must be in [0, {shape[1]}) or ignore_index (got {int(target[wrong][0])})")
    return np.where(ignored, 0, target), ignored


def _nll(
    log_prob: Array,
    target: Array,
    weight: Array | None,
    ignore_index: int | None,
    reduction: str,
) -> Any:
    """Return the loss of log-probabilities (N, C, d1, ...) for classes (N, d1, ...)."""
    check_choice(reduction, ("none", "sum", "mean"), "reduction")
    classes, ignored = _checked_targets(log_prob.shape, target, weight, ignore_index)
    loss = -np.take_along_axis(log_prob, classes[:, None], axis=1)[:, 0]
    factors = np.ones(classes.shape, loss.dtype) if weight is None else weight[classes]
    # Chosen, not multiplied by zero: an infinite loss that is ignored must not become NaN.
    loss = np.where(ignored, 0, loss * factors)
    if reduction == "none":
        return loss
    total = loss.sum(dtype=loss.dtype)
    if reduction == "sum":
        return total
    return total / np.where(ignored, 0, factors).sum(dtype=loss.dtype)


@op("NegativeLogLikelihoodLoss", since=(12, 13, 22))
@in_float32
def negative_log_likelihood_loss(
    input: Array,
    target: Array,
    weight: Array | None = None,
    *,
    ignore_index: int | None = None,
    reduction: str = "mean",
) -> Any:
    """-weight[c] * input[n, c, ...] at the target classes c (ONNX NegativeLogLikelihoodLoss-13).

    The mean is over the weights of what is not ignored; nothing to average gives NaN (0 / 0).
    """
    return _nll(input, target, weight, ignore_index, reduction)


@op("SoftmaxCrossEntropyLoss", since=(12, 13))
@in_float32
def softmax_cross_entropy_loss(
    scores: Array,
    labels: Array,
    weights: Array | None = None,
    *,
    ignore_index: int | None = None,
    reduction: str = "mean",
) -> tuple[Any, Array]:
    """Negative log likelihood of the log-softmax of (N, C, d1, ...) along C, and that log-softmax itself.

    ONNX SoftmaxCrossEntropyLoss-13.
    """
    if scores.ndim < 2:
        raise KernelError(f"scores must have shape (N, C, d1, ...) (got shape {scores.shape})")
    log_prob = log_softmax(scores, 1)
    return _nll(log_prob, labels, weights, ignore_index, reduction), log_prob
