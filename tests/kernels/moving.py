"""The law of data movement, which needs no oracle: renaming the elements before or after is the same."""

from __future__ import annotations

from typing import Any

import numpy as np
from helpers import dtypes, run_op

from onnxref import registry


def palette(dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
    """Two different values of a type; the first is what its zero looks like."""
    values = np.full(2, "", object) if dtype.kind == "O" else np.zeros(2, dtype)
    values[1] = "é" if dtype.kind == "O" else 1
    return values


def same(x: np.ndarray[Any, Any], y: np.ndarray[Any, Any]) -> bool:
    """Equal in type, shape and every bit."""
    if x.dtype != y.dtype or x.shape != y.shape:
        return False
    return x.tolist() == y.tolist() if x.dtype.kind == "O" else x.tobytes() == y.tobytes()


def check_moving(
    op_type: str, version: int, inputs: list[Any], n_outputs: int = 1, **attributes: Any
) -> None:
    """Inputs of uint8 hold 0 and 1, which stand for the values of each type; others stay as they are."""
    as_ints = [_rename(x, np.array([0, 1])) for x in inputs]
    expected = run_op(op_type, *as_ints, opset=version, n_outputs=n_outputs, **attributes)
    for dtype in dtypes(op_type, version):
        values = palette(dtype)
        renamed = [_rename(x, values) for x in inputs]
        before = [None if x is None else x.copy() for x in renamed]
        found = run_op(op_type, *renamed, opset=version, n_outputs=n_outputs, **attributes)
        pairs = [(found, expected)] if n_outputs == 1 else zip(found, expected, strict=True)
        for y, ids in pairs:
            assert same(y, values[ids]), (op_type, version, dtype, y, values[ids])
        for x, old in zip(renamed, before, strict=True):
            assert x is None or same(x, old), f"{op_type}-{version} changed its input"


def _rename(x: Any, values: np.ndarray[Any, Any]) -> Any:
    return values[x] if isinstance(x, np.ndarray) and x.dtype == np.uint8 else x


def cost_of(op_type: str, *inputs: Any, opset: int, **attributes: Any) -> registry.Cost:
    cost = registry.find("", op_type, opset).cost
    assert cost is not None
    return cost(*inputs, **attributes)
