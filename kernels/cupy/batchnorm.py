"""BatchNormalization by given statistics: (x - mean) * (scale / sqrt(var + epsilon)) + B, in that order.

Computed in the widest of the types, float32 at least; within 3 units in the last place of
|x - mean| * |factor| + |B|. With constant statistics the factors are made while planning.
"""

from __future__ import annotations

import numpy as np

from onnxref.dtypes import Array
from onnxref.lowering import NO_PAD, BlockedUse, Op, Operand, Packed, Site, Unsupported

from ..common.batchnorm import BATCH_NORM, BatchNorm, trains
from ..common.instructions import FLOATS, instruction
from .chain import emit_program


def _blocked(op: Op, lanes: int) -> BlockedUse | None:
    """Normalization of images goes along with channels last."""
    x = op.inputs[0]
    if x is None or x.ndim not in (3, 4, 5) or len(op.outputs) > 1 or not op.attributes.get("spatial", 1):
        return None
    if trains(op.opset, op.attributes):
        return None
    return BlockedUse({0: NO_PAD}, pitched=True)


def _tables(site: Site, statistics: tuple[Operand, ...], epsilon: float, wide: str) -> list[Packed]:
    """Return the means, factors and shifts of constant statistics."""

    def values() -> list[Array]:
        return [np.asarray(s.constant).reshape(-1).astype(wide) for s in statistics]

    def factors() -> Array:
        scale, _, _, variance = values()
        with np.errstate(all="ignore"):
            return np.asarray(scale * (1 / np.sqrt(variance + variance.dtype.type(epsilon))))

    key = ("batch normalization", epsilon, wide)
    return [
        site.pack(statistics, (*key, "mean"), lambda: values()[2]),
        site.pack(statistics, (*key, "factor"), factors),
        site.pack(statistics, (*key, "shift"), lambda: values()[1]),
    ]


def _normalize(site: Site, asked: BatchNorm) -> None:
    x, statistics, y, channels, epsilon = asked
    if any(s.dtype.name not in FLOATS for s in (x, *statistics)):
        raise Unsupported(f"batch normalization of {x}")
    if y is None:
        return
    column = (channels, *(1,) * (x.ndim - 2)) if x.ndim > 1 else (1,)
    if all(s.constant is not None for s in statistics):
        wide = "float64" if any(s.dtype.name == "float64" for s in (x, *statistics)) else "float32"
        tables = _tables(site, statistics, epsilon, wide)
        program = [instruction("Normalized", range(4))]
        emit_program(site, (x, *tables), (y,), program, (4,), shapes=(x.shape, *(column,) * 3))
        return
    program = [instruction("BatchNormalization", range(5), {"epsilon": epsilon})]
    emit_program(site, (x, *statistics), (y,), program, (5,), shapes=(x.shape, *(column,) * 4))


BATCH_NORM.register("cupy", _normalize, _blocked)
