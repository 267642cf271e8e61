"""BatchNormalization by given statistics (ONNX BatchNormalization-15), and when a node makes its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from onnxref.lowering import Operand, Site, Unsupported

from .rules import Rules


class BatchNorm(NamedTuple):
    """(x - mean) * (scale / sqrt(variance + epsilon)) + bias, one of each for a channel.

    Attributes:
        statistics: scale, bias, mean, variance, each (channels,).
        y: None where nothing wants it.
    """

    x: Operand
    statistics: tuple[Operand, ...]
    y: Operand | None
    channels: int
    epsilon: float


BATCH_NORM: Rules[BatchNorm] = Rules()


def trains(opset: int, attributes: Mapping[str, Any]) -> bool:
    """Whether a node makes statistics of its own.

    Up to version 6 training is the default, from 7 to 13 it is told by the number of outputs.
    """
    return bool(attributes.get("training_mode", 0) or (opset < 7 and not attributes.get("is_test", 0)))


@BATCH_NORM.rule("BatchNormalization", since=(1, 6))
@BATCH_NORM.rule("BatchNormalization", since=(7, 9))
@BATCH_NORM.rule("BatchNormalization", since=(14, 15))
def batch_normalization(
    site: Site,
    x: Operand,
    scale: Operand,
    b: Operand,
    mean: Operand,
    var: Operand,
    *,
    epsilon: float = 9.999999747378752e-06,
    is_test: int = 0,
    spatial: int = 1,
    training_mode: int = 0,
    **_hints: Any,
) -> BatchNorm:
    """ONNX BatchNormalization-15 that does not train."""
    y, *others = site.outputs
    if others or not spatial or trains(site.opset, {"training_mode": training_mode, "is_test": is_test}):
        raise Unsupported("training, or statistics of each element")
    if x.ndim == 0:
        raise Unsupported(f"batch normalization of {x}")
    statistics, channels = (scale, b, mean, var), 1 if x.ndim == 1 else x.shape[1]
    if any(s.size != channels for s in statistics):
        raise Unsupported("statistics of different sizes")
    return BatchNorm(x, statistics, y, channels, epsilon)
