"""BatchNormalization by given statistics: (x - mean) * (scale / sqrt(var + epsilon)) + B, in that order.

Computed in the widest of the types, float32 at least; within 3 ulps of |x - mean| * |factor| + |B|.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from onnxref.dtypes import Array
from onnxref.lowering import BlockedUse, Op, Operand, Packed, Site, Unsupported, lower
from onnxref.native import native

from .layout import goes_along, image_shape, steps

CODE = "onnxref.kernels.numba.code.batchnorm"
_FLOATS = ("float32", "float64", "float16", "bfloat16")


def blocked_batchnorm(op: Op, lanes: int) -> BlockedUse | None:
    """Normalization of float32 by constants goes along with blocks."""
    x, *statistics = op.inputs
    if x is None or x.dtype != np.float32 or x.ndim not in (3, 4) or x.size == 0:
        return None
    if any(s is None or s.constant is None or s.dtype != np.float32 for s in statistics):
        return None
    a = op.attributes
    training = a.get("training_mode", 0) or (op.opset < 7 and not a.get("is_test", 0))
    if training or len(op.outputs) > 1 or not a.get("spatial", 1):
        return None
    return goes_along(0)


def _normalize(site: Site, x: Operand, statistics: tuple[Operand, ...], epsilon: float) -> None:
    y, *others = site.outputs
    if others:
        raise Unsupported("training")
    scale = statistics[0]
    channels = 1 if x.ndim == 1 else x.shape[1] if x.ndim else 0
    if x.dtype.name not in _FLOATS or scale.dtype.name not in _FLOATS or x.ndim == 0:
        raise Unsupported(f"batch normalization of {x}")
    if any(s.dtype != scale.dtype for s in statistics) or any(s.size != channels for s in statistics):
        raise Unsupported("statistics of different types or sizes")
    if y is None or y.size == 0:
        return
    if x.layout is not None or y.layout is not None:
        _normalize_blocks(site, x, y, statistics, epsilon)
        return
    wide = "float64" if "float64" in (x.dtype.name, scale.dtype.name) else "float32"
    size = x.size // (x.shape[0] * channels)
    site.call(
        native(CODE, "features" if size == 1 else "planes", x.dtype.name, scale.dtype.name, wide),
        *(x, y, *statistics),
        *(channels, size),
        float(epsilon),
        units=x.shape[0] * (1 if size == 1 else channels),
        work=x.nbytes / 8,
    )
    site.may_overwrite(y, x)


def _normalize_blocks(
    site: Site, x: Operand, y: Operand, statistics: tuple[Operand, ...], epsilon: float
) -> None:
    if x.layout is None or y.layout is None or x.layout.lanes != y.layout.lanes or x.dtype != np.float32:
        raise Unsupported("batch normalization with input and output in different layouts")
    lanes = x.layout.lanes
    here, there = steps(x.shape, x.layout, 4), steps(y.shape, y.layout, 4)
    n, _, h, w = image_shape(x.shape)
    site.call(
        native(CODE, "blocked", lanes),
        *(x + here.begin, here.image, here.plane, here.row),
        *(y + there.begin, there.image, there.plane, there.row),
        *(here.planes, h, w),
        _table(site, statistics, epsilon, lanes),
        units=n * here.planes * h,
        work=x.nbytes / 8,
    )
    if x.layout == y.layout:
        site.may_overwrite(y, x)


def _table(site: Site, statistics: tuple[Operand, ...], epsilon: float, lanes: int) -> Packed:
    """Return (blocks, 3, lanes): means, factors, shifts; zeros past the last channel."""
    values: list[Array] = []
    for s in statistics:
        if s.constant is None or s.dtype != np.float32:
            raise Unsupported("statistics that are not constant, in blocks")
        values.append(s.constant.reshape(-1))

    def build() -> Array:
        scale, b, mean, variance = values
        with np.errstate(all="ignore"):
            factor = scale * (1 / np.sqrt(variance + np.float32(epsilon)))
        held = np.zeros((3, -(-scale.size // lanes) * lanes), np.float32)
        held[:, : scale.size] = mean, factor, b
        return held.reshape(3, -1, lanes).transpose(1, 0, 2)

    return site.pack(statistics, ("batch normalization", epsilon, lanes), build)


@lower("BatchNormalization", since=(1, 6), blocked=blocked_batchnorm)
@lower("BatchNormalization", since=(7, 9), blocked=blocked_batchnorm)
@lower("BatchNormalization", since=(14, 15), blocked=blocked_batchnorm)
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
) -> None:
    """Lower BatchNormalization that does not train."""
    # Up to version 6 training is the default, from 7 to 13 it is told by the number of outputs.
    if training_mode or (site.opset < 7 and not is_test) or not spatial:
        raise Unsupported("training, or statistics of each element")
    _normalize(site, x, (scale, b, mean, var), epsilon)
