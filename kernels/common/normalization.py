"""Layer, RMS, instance and group normalisation: rows, groups, and the parameters that belong to them.

ONNX LayerNormalization-17, RMSNormalization-23, InstanceNormalization-22, GroupNormalization-21, and fused
operators that add a skip connection first.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final, NamedTuple

import numpy as np

from onnxref.lowering import Operand, Site, Unsupported
from onnxref.registry import INTERNAL

from ..numpy._checks import normalize_axis
from .rules import Rules

EPSILON: Final = float(np.float32(1e-5))  # the schemas' default
_STASH = {1: "float32", 11: "float64"}  # data types as ONNX numbers them


class LayerNorm(NamedTuple):
    """Rows of n elements normalised, of x or of x + skip.

    Attributes:
        stash: type of the statistics.
        is_rms: whether by the root of the mean square, else by mean and variance.
        means, factors: outputs of the statistics, None where nothing wants them.
        added: output of x + skip.
    """

    x: Operand
    y: Operand
    scale: Operand
    bias: Operand | None
    skip: Operand | None
    rows: int
    n: int
    epsilon: float
    stash: str
    is_rms: bool
    means: Operand | None
    factors: Operand | None
    added: Operand | None


class GroupNorm(NamedTuple):
    """Groups of channels of x (N, C, ...) normalised.

    Attributes:
        parameters: length of scale and bias: the groups, or the channels.
        stash: type of the statistics, None where the version names none.
    """

    x: Operand
    y: Operand
    groups: int
    scale: Operand
    bias: Operand
    parameters: int
    epsilon: float
    stash: str | None


LAYERS: Rules[LayerNorm] = Rules()
INSTANCES: Rules[GroupNorm] = Rules()
GROUPS: Rules[GroupNorm] = Rules()


def first_output(site: Site) -> Operand:
    """Return the first of the node's outputs."""
    y = site.outputs[0]
    if y is None:
        raise Unsupported("nothing wants its first output")
    return y


def _stash(stash_type: int) -> str:
    if stash_type not in _STASH:
        raise Unsupported("its statistics are of another type")
    return _STASH[stash_type]


# --- layer ---------------------------------------------------------------------------------------


def _layer(
    site: Site,
    x: Operand,
    scale: Operand,
    bias: Operand | None,
    skip: Operand | None,
    axis: int,
    epsilon: float,
    stash_type: int,
    *,
    is_rms: bool,
) -> LayerNorm:
    y, at = first_output(site), normalize_axis(axis, x.ndim)
    rows, n = math.prod(x.shape[:at]), math.prod(x.shape[at:])
    if n == 0:
        raise Unsupported("rows are empty")
    for parameter in (scale, bias):
        if parameter is not None and not _is_row(parameter, x.shape[at:]):
            raise Unsupported("a parameter is not one element for each of a row")
    if skip is not None and skip.shape != x.shape:
        raise Unsupported("skip has another shape")
    means, factors = (*site.outputs[1:], None, None)[:2]
    statistics = (means, factors, None) if skip is None else (None, None, means)
    return LayerNorm(
        x, y, scale, bias, skip, rows, n, float(epsilon), _stash(stash_type), is_rms, *statistics
    )


def _is_row(parameter: Operand, shape: tuple[int, ...]) -> bool:
    """Whether a parameter has `shape`, with axes of size 1 before it or left out of it."""
    given = parameter.shape
    while given and given[0] == 1 and len(given) > len(shape):
        given = given[1:]
    return (1,) * (len(shape) - len(given)) + given == shape


@LAYERS.rule("LayerNormalization", since=17)
def layer_normalization(
    site: Site,
    x: Operand,
    scale: Operand,
    b: Operand | None = None,
    *,
    axis: int = -1,
    epsilon: float = EPSILON,
    stash_type: int = 1,
) -> LayerNorm:
    """ONNX LayerNormalization-17."""
    return _layer(site, x, scale, b, None, axis, epsilon, stash_type, is_rms=False)


@LAYERS.rule("RMSNormalization", since=23)
def rms_normalization(
    site: Site, x: Operand, scale: Operand, *, axis: int = -1, epsilon: float = EPSILON, stash_type: int = 1
) -> LayerNorm:
    """ONNX RMSNormalization-23; the result has scale's type."""
    return _layer(site, x, scale, None, None, axis, epsilon, stash_type, is_rms=True)


@LAYERS.rule("SkipLayerNormalization", since=1, domain=INTERNAL)
def skip_layer_normalization(
    site: Site,
    x: Operand,
    skip: Operand,
    scale: Operand,
    b: Operand | None = None,
    *,
    axis: int = -1,
    epsilon: float = EPSILON,
    stash_type: int = 1,
) -> LayerNorm:
    """LayerNormalization-17 of x + skip, which have one shape; the sum is the second output."""
    return _layer(site, x, scale, b, skip, axis, epsilon, stash_type, is_rms=False)


@LAYERS.rule("SkipRMSNormalization", since=1, domain=INTERNAL)
def skip_rms_normalization(
    site: Site,
    x: Operand,
    skip: Operand,
    scale: Operand,
    *,
    axis: int = -1,
    epsilon: float = EPSILON,
    stash_type: int = 1,
) -> LayerNorm:
    """RMSNormalization-23 of x + skip, which have one shape; the sum is the second output."""
    return _layer(site, x, scale, None, skip, axis, epsilon, stash_type, is_rms=True)


# --- groups --------------------------------------------------------------------------------------


def _groups(
    site: Site,
    x: Operand,
    scale: Operand,
    bias: Operand,
    groups_and_parameters: Callable[[int], tuple[int, int]],
    epsilon: float,
    stash: str | None = None,
) -> GroupNorm:
    """Check a node; groups and parameters follow from its channels."""
    if x.ndim < 2:
        raise Unsupported("the input has no channels")
    groups, parameters = groups_and_parameters(x.shape[1])
    if x.size and (groups < 1 or x.shape[1] % groups):
        raise Unsupported("the groups do not divide the channels")
    if scale.shape != (parameters,) or bias.shape != scale.shape:
        raise Unsupported("scale and bias have other shapes")
    return GroupNorm(x, first_output(site), groups, scale, bias, parameters, float(epsilon), stash)


@INSTANCES.rule("InstanceNormalization", since=(1, 6, 22))
def instance_normalization(
    site: Site,
    input: Operand,
    scale: Operand,
    b: Operand,
    *,
    consumed_inputs: tuple[int, ...] | None = None,
    epsilon: float = EPSILON,
) -> GroupNorm:
    """ONNX InstanceNormalization-22."""
    return _groups(site, input, scale, b, lambda channels: (channels, channels), epsilon)


@GROUPS.rule("GroupNormalization", since=18)
def group_normalization_18(
    site: Site, x: Operand, scale: Operand, bias: Operand, *, num_groups: int, epsilon: float = EPSILON
) -> GroupNorm:
    """ONNX GroupNormalization-18: scale and bias per group."""
    return _groups(site, x, scale, bias, lambda _: (num_groups, num_groups), epsilon)


@GROUPS.rule("GroupNormalization", since=21)
def group_normalization(
    site: Site,
    x: Operand,
    scale: Operand,
    bias: Operand,
    *,
    num_groups: int,
    epsilon: float = EPSILON,
    stash_type: int = 1,
) -> GroupNorm:
    """ONNX GroupNormalization-21: scale and bias per channel."""
    return _groups(site, x, scale, bias, lambda channels: (num_groups, channels), epsilon, _stash(stash_type))
