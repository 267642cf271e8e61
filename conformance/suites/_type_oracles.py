"""Expected outputs of the cells, computed without any kernel.

Numbers are computed in wide types, float64 for floats, Python's own for integers and text, and rounded once
to the narrow type. Elements that only move are tracked by their position, so that their type cannot matter.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from ..cases import RTOL
from ..compare import BFLOAT16_RTOL
from ._type_models import Call
from ._type_specs import dtype_of

Array = NDArray[Any]
Oracle = Callable[[Call], Any]


def expected_outputs(call: Call) -> tuple[Any, ...] | None:
    """Return the outputs that a call must have; None where no oracle knows."""
    from . import (
        _type_oracles_attention,
        _type_oracles_image,
        _type_oracles_math,
        _type_oracles_ml,
        _type_oracles_moving,
        _type_oracles_nn,
    )

    key = (call.schema.domain, call.schema.name)
    tables = (
        _type_oracles_moving,
        _type_oracles_math,
        _type_oracles_nn,
        _type_oracles_ml,
        _type_oracles_image,
        _type_oracles_attention,
    )
    oracle = next((table.ORACLES[key] for table in tables if key in table.ORACLES), None)
    if oracle is None:
        return None
    with np.errstate(all="ignore"):
        found = oracle(call)
    if found is None:
        return None
    outputs = found if isinstance(found, tuple) else (found,)
    if len(outputs) != len(call.output_types):
        raise ValueError(f"{call.schema.name} has {len(call.output_types)} outputs (oracle: {len(outputs)})")
    with np.errstate(over="ignore"):
        return tuple(
            narrow(value, dtype_of(type_string)) if type_string.startswith("tensor(") else value
            for value, type_string in zip(outputs, call.output_types, strict=True)
        )


def tolerance(call: Call) -> float:
    """Return the relative tolerance: wider where the specification rounds an intermediate result."""
    stashed = call.schema.name == "LayerNormalization" and call.output_types[1] == "tensor(bfloat16)"
    return BFLOAT16_RTOL if stashed else RTOL


def is_float(dtype: np.dtype[Any]) -> bool:
    """Whether a type holds real numbers that are not integers."""
    return dtype.kind == "f" or dtype.name.startswith(("float", "bfloat"))


def wide(array: Array) -> Array:
    """Return the same numbers in a type that computes without rounding or wrapping at the narrow width."""
    if is_float(array.dtype):
        return array.astype(np.float64)
    if array.dtype.kind == "c":
        return array.astype(np.complex128)
    if array.dtype.kind in "bO":
        return array
    as_int64 = array if array.dtype.kind in "iu" else array.astype(np.int64)
    return as_int64.astype(object)


def narrow(value: Any, dtype: np.dtype[Any]) -> Array:
    """Return wide numbers rounded once, or reduced modulo 2^n; what has the type already stays."""
    array = np.asarray(value)
    if array.dtype == dtype or dtype.kind in "bcO":
        return array.astype(dtype)
    if is_float(dtype):
        numbers = array.astype(np.float64)
        return numbers.astype(dtype) if dtype.kind == "f" and dtype.itemsize > 1 else nearest(numbers, dtype)
    return wrap(array, dtype)


def wrap(array: Array, dtype: np.dtype[Any]) -> Array:
    """Return integers modulo 2^n, in two's complement where the type is signed."""
    bits = int(ml_dtypes.iinfo(dtype).bits)  # type: ignore[no-untyped-call]
    signed = int(ml_dtypes.iinfo(dtype).min) < 0  # type: ignore[no-untyped-call]
    numbers = [int(x) % (1 << bits) for x in array.reshape(-1).tolist()]
    numbers = [x - (1 << bits) if signed and x >> (bits - 1) else x for x in numbers]
    made = np.array(numbers, np.int64 if signed else np.uint64).astype(dtype)
    return made.reshape(array.shape)


def nearest(numbers: Array, dtype: np.dtype[Any]) -> Array:
    """Round by search among all values of a type; of two equally near the one with the even code."""
    codes = np.arange(1 << (8 * dtype.itemsize)).astype(f"u{dtype.itemsize}")
    bits = int(ml_dtypes.finfo(dtype).bits)  # type: ignore[no-untyped-call]
    codes = codes[: 1 << bits]
    with np.errstate(invalid="ignore"):  # some codes are NaN
        held = codes.view(dtype).astype(np.float64)
    # -0.0 would be the neighbour of 0 at no distance; signs of zero are given back below.
    usable = np.isfinite(held) & ~((held == 0) & np.signbit(held))
    order = np.argsort(held[usable], kind="stable")
    values, codes = held[usable][order], codes[usable][order]
    above = np.clip(np.searchsorted(values, numbers), 1, len(values) - 1)
    down, up = numbers - values[above - 1], values[above] - numbers
    upper = (up < down) | ((up == down) & (codes[above] % 2 == 0))
    rounded = np.where(upper, values[above], values[above - 1])
    rounded = np.where((rounded == 0) & np.signbit(numbers), -0.0, rounded)
    return np.where(np.isfinite(numbers), rounded, numbers).astype(dtype)
