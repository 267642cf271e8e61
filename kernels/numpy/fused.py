"""Operators that the planner's fusions make, said with the operators that they stand for.

Accelerated kernel sets compute them at once; here they are the sum of their parts, to check those
against and to run where an accelerated kernel refuses.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from onnxref.dtypes import Array
from onnxref.errors import KernelError
from onnxref.registry import INTERNAL, Context, find, op

Ints = tuple[int, ...] | None


def _newest(op_type: str, *inputs: Any, **attributes: Any) -> Any:
    """Apply the newest version of a standard operator."""
    return find("", op_type, 10_000).kernel(*inputs, **attributes)


def activate(x: Array, activation: str, alpha: float, beta: float) -> Array:
    """Apply an activation by the name that fused operators use; see `ACTIVATIONS`.

    Raises:
        KernelError: there is no such activation.
    """
    match activation:
        case "":
            return x
        case "Relu" | "Sigmoid" | "HardSwish" | "Tanh":
            return np.asarray(_newest(activation, x))
        case "Clip":
            return np.asarray(_newest("Clip", x, x.dtype.type(alpha), x.dtype.type(beta)))
        case "LeakyRelu":
            return np.asarray(_newest("LeakyRelu", x, alpha=alpha))
        case "HardSigmoid":
            return np.asarray(_newest("HardSigmoid", x, alpha=alpha, beta=beta))
        case "Silu":
            return np.asarray(_newest("Swish", x))
        case "Gelu":
            return np.asarray(_newest("Gelu", x))
        case "GeluTanh":
            return np.asarray(_newest("Gelu", x, approximate="tanh"))
    raise KernelError(f"there is no activation {activation!r}")


@op("FusedConv", since=1, domain=INTERNAL)
def fused_conv(
    x: Array,
    w: Array,
    b: Array | None = None,
    residual: Array | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: Ints = None,
    group: int = 1,
    kernel_shape: Ints = None,
    pads: Ints = None,
    strides: Ints = None,
    activation: str = "",
    alpha: float = 0.0,
    beta: float = 0.0,
    order: Ints = None,
    ctx: Context,
) -> Array:
    """Return activation(Conv-11(x, w, b) + residual).

    Args:
        order: channels of x in the order in which w takes them; None as they are.
    """
    conv = find("", "Conv", 11).kernel
    y = conv(
        x if order is None else x[:, order],
        w,
        b,
        auto_pad=auto_pad,
        dilations=dilations,
        group=group,
        kernel_shape=kernel_shape,
        pads=pads,
        strides=strides,
        ctx=ctx,
    )
    return activate(y if residual is None else y + residual, activation, alpha, beta)


@op("ShuffleChannels", since=1, domain=INTERNAL)
def shuffle_channels(x: Array, *, groups: int) -> Array:
    """Return x (N, C, ...) with the channels of `groups` groups in turns: the first of each, the second."""
    n, c, *spatial = x.shape
    parts = x.reshape(n, groups, c // groups, *spatial)
    return np.ascontiguousarray(parts.swapaxes(1, 2)).reshape(x.shape)


@op("FusedMatMul", since=1, domain=INTERNAL)
def fused_matmul(
    a: Array,
    b: Array,
    bias: Array | None = None,
    residual: Array | None = None,
    *,
    trans_a: int = 0,
    trans_b: int = 0,
    scale: float = 1.0,
    activation: str = "",
    alpha: float = 0.0,
    beta: float = 0.0,
) -> Array:
    """Return activation(scale * op(a) @ op(b) + bias + residual); op transposes the last two dimensions."""
    left = np.swapaxes(a, -1, -2) if trans_a else a
    right = np.swapaxes(b, -1, -2) if trans_b else b
    y = np.asarray(_newest("MatMul", left, right))
    if scale != 1.0:
        y = y * y.dtype.type(scale)
    for term in (bias, residual):
        y = y if term is None else y + term
    return activate(y, activation, alpha, beta)


@op("NormalizedMatMul", since=1, domain=INTERNAL)
def normalized_matmul(
    x: Array,
    gain: Array,
    shift: Array | None,
    b: Array,
    bias: Array | None = None,
    residual: Array | None = None,
    *,
    is_rms: int = 0,
    epsilon: float = 1e-5,
    **product: Any,
) -> Array:
    """Return FusedMatMul of x normalised over its last axis: RMSNormalization or LayerNormalization."""
    if is_rms:
        a = np.asarray(find("", "RMSNormalization", 23).kernel(x, gain, epsilon=epsilon))
    else:
        a = np.asarray(find("", "LayerNormalization", 17).kernel(x, gain, shift, epsilon=epsilon)[0])
    return fused_matmul(a, b, bias, residual, **product)


@op("SkipLayerNormalization", since=1, domain=INTERNAL)
def skip_layer_normalization(
    x: Array,
    skip: Array,
    scale: Array,
    b: Array | None = None,
    *,
    axis: int = -1,
    epsilon: float = 1e-5,
    stash_type: int = 1,
) -> tuple[Array, Array]:
    """Return LayerNormalization(x + skip), and the sum."""
    total = np.asarray(x + skip)
    kernel = find("", "LayerNormalization", 17).kernel
    return kernel(total, scale, b, axis=axis, epsilon=epsilon, stash_type=stash_type)[0], total


@op("SkipRMSNormalization", since=1, domain=INTERNAL)
def skip_rms_normalization(
    x: Array, skip: Array, scale: Array, *, axis: int = -1, epsilon: float = 1e-5, stash_type: int = 1
) -> tuple[Array, Array]:
    """Return RMSNormalization(x + skip), and the sum."""
    total = np.asarray(x + skip)
    kernel = find("", "RMSNormalization", 23).kernel
    return np.asarray(kernel(total, scale, axis=axis, epsilon=epsilon, stash_type=stash_type)), total


@op("FirstRows", since=1, domain=INTERNAL)
def first_rows(rows: Array, count: Array) -> Array:
    """Return the first `count` of `rows` (N, ...), which were made for the most that there can be."""
    return rows[: int(count)].copy()
