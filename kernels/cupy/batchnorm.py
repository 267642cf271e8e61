"""BatchNormalization by given statistics: (x - mean) * (scale / sqrt(var + epsilon)) + B, in that order.

Computed in the widest of the types, float32 at least; within 3 units in the last place of
|x - mean| * |factor| + |B|. With constant statistics the factors are made while planning.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from onnxref.dtypes import Array
from onnxref.lowering import NO_PAD, BlockedUse, Op, Operand, Packed, Site, Unsupported, lower

from .chain import emit_program
from .instructions import FLOATS, instruction


def _trains(opset: int, attributes: dict[str, Any]) -> bool:
    """Up to version 6 training is the default, from 7 to 13 it is told by the number of outputs."""
    return bool(attributes.get("training_mode", 0) or (opset < 7 and not attributes.get("is_test", 0)))


def _blocked(op: Op, lanes: int) -> BlockedUse | None:
    """Normalization of images goes along with channels last."""
    x = op.inputs[0]
    if x is None or x.ndim not in (3, 4, 5) or len(op.outputs) > 1 or not op.attributes.get("spatial", 1):
        return None
    if _trains(op.opset, dict(op.attributes)):
        return None
    return BlockedUse({0: NO_PAD})


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


@lower("BatchNormalization", since=(1, 6), backend="cupy", blocked=_blocked)
@lower("BatchNormalization", since=(7, 9), backend="cupy", blocked=_blocked)
@lower("BatchNormalization", since=(14, 15), backend="cupy", blocked=_blocked)
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
    y, *others = site.outputs
    if others or not spatial or _trains(site.opset, {"training_mode": training_mode, "is_test": is_test}):
        raise Unsupported("training, or statistics of each element")
    statistics = (scale, b, mean, var)
    if x.ndim == 0 or any(s.dtype.name not in FLOATS for s in (x, *statistics)):
        raise Unsupported(f"batch normalization of {x}")
    channels = 1 if x.ndim == 1 else x.shape[1]
    if any(s.size != channels for s in statistics):
        raise Unsupported("statistics of different sizes")
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
