"""BatchNormalization by given statistics: (x - mean) * (scale / sqrt(var + epsilon)) + B, in that order.

Computed in the widest of the types, float32 at least; within 3 ulps of |x - mean| * |factor| + |B|.
"""

from __future__ import annotations

import numpy as np

from onnxref.dtypes import Array
from onnxref.lowering import BlockedUse, Op, Operand, Packed, Site, Unsupported
from onnxref.native import native

from ..common.batchnorm import BATCH_NORM, BatchNorm, trains
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
    if trains(op.opset, a) or len(op.outputs) > 1 or not a.get("spatial", 1):
        return None
    return goes_along(0)


def _normalize(site: Site, asked: BatchNorm) -> None:
    x, statistics, y, channels, epsilon = asked
    scale = statistics[0]
    if x.dtype.name not in _FLOATS or scale.dtype.name not in _FLOATS:
        raise Unsupported(f"batch normalization of {x}")
    if any(s.dtype != scale.dtype for s in statistics):
        raise Unsupported("statistics of different types")
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


BATCH_NORM.register("numba", _normalize, blocked_batchnorm)
