"""Is what came out what was expected, and how far off is it?

The verdict follows the rule of the onnx package's own tests: equal number of outputs, equal shapes, equal
dtypes, and values within `atol + rtol * |expected|`, with NaN equal to NaN; bfloat16 is granted two units in
the last place. The measured error is told apart from the verdict: a pass can still be far off.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

Array = np.ndarray[Any, Any]

BFLOAT16_RTOL = 2**-6  # two units in the last place, as the onnx package's own tests grant


@dataclass(frozen=True, slots=True)
class Difference:
    """One element that is not as expected."""

    where: str
    expected: Any
    actual: Any


@dataclass(frozen=True, slots=True)
class Comparison:
    """The verdict and the measured error.

    Attributes:
        message: what is wrong; "" when the outputs are as expected.
        max_ulp: largest distance in representable numbers of the expected type, the plain difference for
            integers; None where it cannot be measured (other shapes or types, NaN against a number).
        max_abs: largest absolute difference; None likewise.
        differences: the elements beyond the tolerance, a limited number of them.
    """

    message: str = ""
    max_ulp: float | None = 0.0
    max_abs: float | None = 0.0
    differences: tuple[Difference, ...] = ()

    @property
    def passed(self) -> bool:
        return not self.message


def compare_outputs(
    expected: Sequence[Any], actual: Sequence[Any], *, rtol: float, atol: float, shown: int = 1
) -> Comparison:
    """Compare all outputs of a run; the first fault gives the message, the errors are of them all."""
    if not isinstance(actual, (list, tuple)):
        return Comparison(f"outputs must be a list or tuple (got {_kind(actual)})", None, None)
    return _sequence("output", expected, actual, rtol, atol, shown)


def _value(where: str, expected: Any, actual: Any, rtol: float, atol: float, shown: int) -> Comparison:
    if isinstance(actual, np.generic):
        actual = np.asarray(actual)
    if isinstance(expected, (list, tuple)) and isinstance(actual, (list, tuple)):
        return _sequence(where, expected, actual, rtol, atol, shown)
    if isinstance(expected, np.ndarray) and isinstance(actual, np.ndarray):
        return _array(where, expected, actual, rtol, atol, shown)
    if isinstance(expected, dict) and isinstance(actual, dict) and expected.keys() == actual.keys():
        # A map's value may be a tensor without dimensions or the number itself.
        numbers = {
            key: np.asarray(value, expected[key].dtype) if isinstance(value, (int, float)) else value
            for key, value in actual.items()
            if isinstance(expected[key], np.ndarray)
        }
        pairs = [[side[key] for key in expected] for side in (expected, actual | numbers)]
        return _sequence(where, pairs[0], pairs[1], rtol, atol, shown)
    if expected is None and actual is None:
        return Comparison()
    if isinstance(expected, (int, float, str)) and isinstance(actual, (int, float, str)):
        return _array(where, np.array(expected), np.array(actual), rtol, atol, shown)
    difference = Difference(where, _kind(expected), _kind(actual))
    message = f"{where} must be {_kind(expected)} (got {_kind(actual)})"
    return Comparison(message, None, None, (difference,))


def _sequence(
    where: str, expected: Sequence[Any], actual: Sequence[Any], rtol: float, atol: float, shown: int
) -> Comparison:
    if len(expected) != len(actual):
        return Comparison(f"{where} has {len(actual)} values instead of {len(expected)}", None, None)
    found = [
        _value(f"{where}[{i}]", one, other, rtol, atol, shown)
        for i, (one, other) in enumerate(zip(expected, actual, strict=True))
    ]
    return Comparison(
        next((one.message for one in found if one.message), ""),
        _worst(one.max_ulp for one in found),
        _worst(one.max_abs for one in found),
        tuple(difference for one in found for difference in one.differences)[:shown],
    )


def _worst(errors: Iterator[float | None]) -> float | None:
    worst = 0.0
    for error in errors:
        if error is None:
            return None
        worst = max(worst, error)
    return worst


def _array(where: str, expected: Array, actual: Array, rtol: float, atol: float, shown: int) -> Comparison:
    texts = expected.dtype.kind in "OUT"
    same_kind = actual.dtype.kind in "OUT" if texts else expected.dtype == actual.dtype
    for fact, wanted, got in (
        ("shape", expected.shape, actual.shape),
        ("dtype", "string" if texts else expected.dtype, actual.dtype if not same_kind else None),
    ):
        if got is not None and wanted != got:
            message = f"{where} has {fact} {got} instead of {wanted}"
            return Comparison(message, None, None, (Difference(f"{where}.{fact}", str(wanted), str(got)),))
    wide_expected, wide_actual = _wide(expected), _wide(actual)
    if expected.dtype.name == "bfloat16":
        rtol = max(rtol, BFLOAT16_RTOL)
    with np.errstate(all="ignore"):
        if texts:
            equal = np.asarray(wide_expected == wide_actual)
        else:
            equal = np.isclose(wide_actual, wide_expected, rtol=rtol, atol=atol, equal_nan=True)
    max_ulp, max_abs = (None, None) if texts and not equal.all() else _errors(expected, actual)
    if equal.all():
        return Comparison("", max_ulp, max_abs)
    wrong = np.argwhere(~equal)
    differences = tuple(
        Difference(
            where + (str([int(i) for i in at]) if len(at) else ""), expected[tuple(at)], actual[tuple(at)]
        )
        for at in wrong[:shown]
    )
    first = differences[0] if differences else None
    message = f"{where}: {len(wrong)} of {expected.size} elements differ"
    if first is not None:
        message += f", the first at {first.where}: {first.actual} instead of {first.expected}"
    return Comparison(message, max_ulp, max_abs, differences)


def _wide(array: Array) -> Array:
    """Types that NumPy cannot promote (bfloat16, float8, int4 ...) as float32, which holds them exactly."""
    if _is_narrow(array.dtype):
        return array.astype(np.float32)
    return array.astype(object) if array.dtype.kind in "UT" else array


def _is_narrow(dtype: np.dtype[Any]) -> bool:
    return dtype.kind not in "biufcOUTSM" or dtype.type.__module__.startswith("ml_dtypes")


def _errors(expected: Array, actual: Array) -> tuple[float | None, float | None]:
    """Return the largest error in ulp and in absolute terms."""
    if expected.dtype.kind in "OUT" or not expected.size:
        return 0.0, 0.0
    if expected.dtype.kind == "c":
        parts = expected.dtype.type(0).real.dtype
        expected, actual = (np.ascontiguousarray(side).view(parts) for side in (expected, actual))
    if expected.dtype.kind in "biu" and not _is_narrow(expected.dtype):
        distance = float(_distance(expected, actual).max())
        return distance, distance
    wide_expected, wide_actual = (side.astype(np.float64) for side in (expected, actual))
    missing = np.isnan(wide_expected)
    if not np.array_equal(missing, np.isnan(wide_actual)):
        return None, None
    if missing.all():
        return 0.0, 0.0
    with np.errstate(all="ignore"):
        gaps = np.where(wide_expected == wide_actual, 0.0, np.abs(wide_expected - wide_actual))[~missing]
    largest = float(gaps.max())
    max_abs = largest if math.isfinite(largest) else None
    if _is_narrow_integer(expected.dtype):
        return max_abs, max_abs
    ordered = [_order(side[~missing]) for side in (expected, actual)]
    return float(_distance(ordered[0], ordered[1]).max()), max_abs


def _is_narrow_integer(dtype: np.dtype[Any]) -> bool:
    return dtype.name in ("int2", "uint2", "int4", "uint4")


def _order(array: Array) -> Array:
    """Map floats to int64 so that neighbouring numbers differ by one; both zeros are 0."""
    size = array.dtype.itemsize
    bits = np.ascontiguousarray(array).view(f"u{size}").astype(np.uint64)
    if array.dtype.name == "float8_e8m0fnu":
        return bits.astype(np.int64)  # has no sign
    width = int(ml_dtypes.finfo(array.dtype).bits)  # type: ignore[no-untyped-call]
    sign = np.uint64(1 << (width - 1))
    magnitude = (bits & (sign - np.uint64(1))).astype(np.int64)
    return np.where(bits & sign, -magnitude, magnitude)


def _distance(one: Array, other: Array) -> Array:
    """Return |one - other| of integers without overflow."""
    one, other = (side.astype(np.int64) if side.dtype != np.uint64 else side for side in (one, other))
    low, high = np.minimum(one, other), np.maximum(one, other)
    return np.subtract(high.view(np.uint64), low.view(np.uint64))


def _kind(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"a tensor of {value.dtype}"
    return "None" if value is None else f"a {type(value).__name__}"
