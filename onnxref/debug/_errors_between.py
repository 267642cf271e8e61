"""How far two values are apart: absolute, relative, in units in the last place, by angle, as noise.

Everything is computed chunk by chunk in float64, so that a value of any size needs a few MB beside it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import ml_dtypes
import numpy as np

from ..dtypes import LOW_PRECISION, Array, DType, tensor_type_string
from ..graph import SparseTensor
from ._stats import json_number, short

_CHUNK = 1 << 18  # elements


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How far an element may be off: `atol + rtol * |golden|`.

    Attributes:
        rtol: relative part; types narrower than float32 are granted 8 of their epsilons if that is more.
        atol: absolute part; None means `rtol` times the root mean square of the golden value, so that
            elements near zero are held to the scale of those around them.
    """

    rtol: float = 1e-3
    atol: float | None = None

    def relative(self, dtype: DType) -> float:
        """Return the relative part for values of a type."""
        if dtype in LOW_PRECISION:
            return max(self.rtol, min(8.0 * float(_finfo(dtype).eps), 0.5))
        return self.rtol


@dataclass(frozen=True, slots=True)
class Errors:
    """The distance of a value from its golden counterpart.

    Attributes:
        size: number of elements.
        absolute: largest |value - golden|.
        relative: largest |value - golden| / |golden| where golden is not zero.
        ulp: largest distance in representable numbers of golden's type; the plain difference for
            integers. None where the types differ.
        cosine: of the angle between both as vectors.
        snr: signal-to-noise ratio in dB, 20 log10(|golden| / |value - golden|); infinite where equal.
        beyond: number of elements beyond the tolerance; all of them where shapes or kinds differ.
        where: coordinates of the element that is farthest beyond its tolerance, or off at all.
        golden, value: what is there.
        message: why nothing can be measured, such as different shapes; empty otherwise.
    """

    size: int = 0
    absolute: float = 0.0
    relative: float = 0.0
    ulp: float | None = 0.0
    cosine: float = 1.0
    snr: float = math.inf
    beyond: int = 0
    where: tuple[int, ...] | None = None
    golden: Any = None
    value: Any = None
    message: str = ""

    @property
    def passed(self) -> bool:
        """Whether every element is within the tolerance."""
        return not self.beyond and not self.message

    def to_json(self) -> dict[str, Any]:
        """Return the errors as plain data for `json.dumps`."""
        names = ("size", "absolute", "relative", "ulp", "cosine", "snr", "beyond", "golden", "value")
        found: dict[str, Any] = {name: json_number(getattr(self, name)) for name in names}
        found["where"] = None if self.where is None else list(self.where)
        return found | {"passed": self.passed, "message": self.message}

    def __str__(self) -> str:
        if self.message:
            return self.message
        if not self.absolute and not self.beyond:
            return "equal"
        text = (
            f"absolute {short(self.absolute)}, relative {short(self.relative)}, ulp {short(self.ulp)}, "
            f"cosine {self.cosine:.6g}, SNR {short(self.snr)} dB"
        )
        if self.where is not None:
            text += f"; at {list(self.where)}: {short(self.value)} instead of {short(self.golden)}"
        return text


def errors_between(golden: Any, value: Any, tolerance: Tolerance | None = None) -> Errors:
    """Return how far a value is from its golden counterpart.

    Args:
        golden: an array, a list or dictionary of values, a `SparseTensor`, or None for an absent optional.
        tolerance: for counting elements beyond it; NaN equals NaN, and an infinity only itself.
    """
    tolerance = tolerance or Tolerance()
    golden, value = _as_value(golden), _as_value(value)
    if isinstance(golden, np.ndarray) and isinstance(value, np.ndarray):
        return _between_arrays(golden, value, tolerance)
    if isinstance(golden, list) and isinstance(value, list):
        return _between_lists(golden, value, tolerance)
    if isinstance(golden, dict) and isinstance(value, dict) and golden.keys() == value.keys():
        return _between_lists(list(golden.values()), [value[key] for key in golden], tolerance)
    if golden is None and value is None:
        return Errors()
    return _incomparable(f"is {_kind(value)} instead of {_kind(golden)}", 1)


def _as_value(value: Any) -> Any:
    if isinstance(value, SparseTensor):
        return value.to_dense()
    if isinstance(value, (np.generic, bool, int, float, complex, str)):
        value = np.asarray(value)
    if isinstance(value, np.ndarray) and value.dtype.kind in "UT":
        return value.astype(np.object_)
    return value


def _between_lists(golden: list[Any], value: list[Any], tolerance: Tolerance) -> Errors:
    if len(golden) != len(value):
        return _incomparable(f"has {len(value)} elements instead of {len(golden)}", max(len(golden), 1))
    if not golden:
        return Errors()
    parts = [errors_between(g, v, tolerance) for g, v in zip(golden, value, strict=True)]
    worst = min(range(len(parts)), key=lambda i: (parts[i].passed, parts[i].snr))
    found = parts[worst]
    where = None if found.where is None else (worst, *found.where)
    return replace(found, where=where, size=sum(p.size for p in parts), beyond=sum(p.beyond for p in parts))


def _incomparable(message: str, size: int) -> Errors:
    nan = math.nan
    return Errors(size, nan, nan, None, nan, -math.inf, max(size, 1), message=message)


def _kind(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return tensor_type_string(value.dtype)
    return "an absent value" if value is None else f"a {type(value).__name__}"


def _between_arrays(golden: Array, value: Array, tolerance: Tolerance) -> Errors:
    if value.dtype.type is np.void and value.dtype.itemsize == golden.dtype.itemsize:
        value = value.view(golden.dtype)  # NumPy's files lose the names of types such as bfloat16
    if golden.shape != value.shape:
        shapes = f"has shape {list(value.shape)} instead of {list(golden.shape)}"
        return _incomparable(shapes, golden.size)
    texts = (golden.dtype == np.object_, value.dtype == np.object_)
    if any(texts):
        if not all(texts):
            return _incomparable(f"is {_kind(value)} instead of {_kind(golden)}", golden.size)
        return _between_texts(golden, value)
    if not golden.size:
        return Errors()
    sums = _Sums(golden, value, tolerance)
    for start, one, other in _chunks(golden, value):
        sums.add(start, one, other)
    return sums.result()


def _between_texts(golden: Array, value: Array) -> Errors:
    differ = np.asarray(golden != value)
    beyond = int(np.count_nonzero(differ))
    if not beyond:
        return Errors(golden.size)
    at = tuple(int(i) for i in np.unravel_index(int(np.argmax(differ)), golden.shape))
    share = beyond / golden.size
    snr = -20 * math.log10(share)
    return Errors(
        golden.size, math.nan, math.nan, None, 1 - share, snr, beyond, at, str(golden[at]), str(value[at])
    )


def _chunks(golden: Array, value: Array) -> Iterator[tuple[int, Array, Array]]:
    one, other = golden.reshape(-1), value.reshape(-1)
    for start in range(0, golden.size, _CHUNK):
        yield start, one[start : start + _CHUNK], other[start : start + _CHUNK]


def wide(array: Array) -> Array:
    """Return numbers as float64, complex ones as complex128."""
    return array.astype(np.complex128 if array.dtype.kind == "c" else np.float64)


class _Sums:
    """What is gathered over the chunks of two arrays of one shape."""

    def __init__(self, golden: Array, value: Array, tolerance: Tolerance) -> None:
        self.arrays = (golden, value)
        self.scale, self.mean_square = _scale(golden, value)
        self.rtol = tolerance.relative(golden.dtype)
        # Integers have no noise to be held to: neighbours of a large one are as wrong as those of a small.
        is_float = _is_float(golden.dtype)
        own = self.rtol * math.sqrt(self.mean_square) * self.scale if is_float else 0.0
        self.atol = own if tolerance.atol is None else tolerance.atol
        self.absolute = self.relative = 0.0
        self.ulp: float | None = 0.0 if golden.dtype == value.dtype else None
        self.dot = self.golden_square = self.value_square = self.noise = 0.0
        self.odd = 0  # elements where one side is not finite and the other differs
        self.beyond = 0
        self.worst = 0.0
        self.at: int | None = None

    def add(self, start: int, golden: Array, value: Array) -> None:
        """Gather one chunk, whose first element is at `start`."""
        one, other = wide(golden), wide(value)
        with np.errstate(all="ignore"):
            same = (one == other) | (np.isnan(one) & np.isnan(other))
            finite = np.isfinite(one) & np.isfinite(other)
            distance = np.where(same, 0.0, np.abs(other - one))
            if golden.dtype == value.dtype and golden.dtype.kind in "iu" and golden.dtype.itemsize == 8:
                # float64 cannot tell large integers apart.
                same = golden == value
                distance = _distance(golden, value).astype(np.float64)
            size = np.abs(one)
            usable = finite & (size > 0)
            self.relative = max(self.relative, float(np.max(distance[usable] / size[usable], initial=0.0)))
            allowed = self.atol + self.rtol * size
            bad = np.where(finite, distance > allowed, ~same)
            # An element that is not finite is worse than any other.
            excess = np.where(finite, np.where(allowed > 0, distance / allowed, distance * np.inf), np.inf)
        excess = np.where(same, 0.0, np.nan_to_num(excess, nan=0.0, posinf=np.inf))
        self.beyond += int(np.count_nonzero(bad))
        self.odd += int(np.count_nonzero(~finite & ~same))
        self.absolute = max(self.absolute, float(np.max(distance[finite], initial=0.0)))
        worst = int(np.argmax(excess))
        if excess[worst] > self.worst:
            self.worst, self.at = float(excess[worst]), start + worst
        if self.ulp is not None:
            self.ulp = max(self.ulp, _largest_ulp(golden, value))
        self._add_products(one[finite], other[finite])

    def _add_products(self, one: Array, other: Array) -> None:
        one, other = one / self.scale, other / self.scale
        self.dot += float(np.sum((one * other.conj()).real))
        self.golden_square += float(np.sum(np.abs(one) ** 2))
        self.value_square += float(np.sum(np.abs(other) ** 2))
        self.noise += float(np.sum(np.abs(one - other) ** 2))

    def result(self) -> Errors:
        golden, value = self.arrays
        if self.odd:
            self.absolute, self.noise, self.dot = math.inf, math.inf, math.nan
        product = math.sqrt(self.golden_square) * math.sqrt(self.value_square)
        at = None if self.at is None else tuple(int(i) for i in np.unravel_index(self.at, golden.shape))
        return Errors(
            size=golden.size,
            absolute=self.absolute,
            relative=math.inf if self.odd else self.relative,
            ulp=self.ulp,
            cosine=_cosine(self.dot, product, self.noise),
            snr=_decibels(self.golden_square, self.noise),
            beyond=self.beyond,
            where=at,
            golden=None if at is None else _plain(golden[at]),
            value=None if at is None else _plain(value[at]),
        )


def _cosine(dot: float, product: float, noise: float) -> float:
    if not noise:
        return 1.0
    return dot / product if product else 0.0


def _decibels(signal: float, noise: float) -> float:
    if not noise:
        return math.inf
    return 10 * math.log10(signal / noise) if signal and math.isfinite(noise) else -math.inf


def _plain(item: Any) -> Any:
    if isinstance(item, np.generic) and item.dtype.kind in "iub":
        return item.item()
    return str(item) if isinstance(item, (complex, np.complexfloating)) else float(item)


def _scale(golden: Array, value: Array) -> tuple[float, float]:
    """Return a scale that keeps squares in range, and golden's mean square in it."""
    largest, squares, count = 0.0, 0.0, 0
    for _, one, other in _chunks(golden, value):
        for part in (one, other):
            size = np.abs(wide(part))
            largest = max(largest, float(np.max(size[np.isfinite(size)], initial=0.0)))
    scale = largest or 1.0
    for _, one, _ in _chunks(golden, value):
        size = np.abs(wide(one))
        size = size[np.isfinite(size)] / scale
        squares += float(np.sum(size * size))
        count += size.size
    return scale, squares / count if count else 0.0


# Units in the last place --------------------------------------------------------------------------


def _is_float(dtype: DType) -> bool:
    return dtype.kind in "fc" or dtype in LOW_PRECISION


def _finfo(dtype: DType) -> Any:
    return ml_dtypes.finfo(dtype)  # type: ignore[no-untyped-call]


def _largest_ulp(golden: Array, value: Array) -> float:
    """Return the largest distance in representable numbers; infinite from a number to a NaN."""
    if golden.dtype.kind == "c":
        part = golden.real.dtype
        golden, value = (np.ascontiguousarray(side).view(part) for side in (golden, value))
    if not _is_float(golden.dtype):
        return float(np.max(_distance(*(_as_int64(side) for side in (golden, value)))))
    missing = [np.isnan(side) for side in (golden, value)]
    if not np.array_equal(missing[0], missing[1]):
        return math.inf
    ordered = [np.where(missing[0], 0, _order(side)) for side in (golden, value)]
    return float(np.max(_distance(*ordered), initial=0))


def _as_int64(array: Array) -> Array:
    return array if array.dtype == np.uint64 else array.astype(np.int64)


def _order(array: Array) -> Array:
    """Map floats to int64 so that neighbouring numbers differ by one; both zeros are 0."""
    size = array.dtype.itemsize
    bits = np.ascontiguousarray(array).view(f"u{size}").astype(np.uint64)
    if array.dtype.name == "float8_e8m0fnu":
        return bits.astype(np.int64)  # has no sign
    sign = np.uint64(1 << (int(_finfo(array.dtype).bits) - 1))
    magnitude = (bits & (sign - np.uint64(1))).astype(np.int64)
    return np.where(bits & sign, -magnitude, magnitude)


def _distance(one: Array, other: Array) -> Array:
    """Return |one - other| of integers without overflow."""
    low, high = np.minimum(one, other), np.maximum(one, other)
    return np.subtract(high.view(np.uint64), low.view(np.uint64))


def spacing(exact: Array, dtype: DType) -> Array:
    """Return the distance between neighbours of a type at the magnitudes of float64 numbers.

    Args:
        exact: float64 numbers; where they are not finite the spacing is NaN.
        dtype: any floating-point type.
    """
    info = _finfo(dtype)
    _, exponent = np.frexp(np.abs(exact))
    # frexp's mantissa is in [0.5, 1): a number of exponent e lies in [2**(e-1), 2**e).
    lowest = int(info.minexp)
    steps = np.ldexp(1.0, np.maximum(exponent - 1, lowest) - int(info.nmant))
    return np.where(np.isfinite(exact), steps, np.nan)


@dataclass(frozen=True, slots=True)
class Rounding:
    """The error of a value of limited precision against an exact one, in units of its own type.

    Attributes:
        ulp: root mean square of the error over that of the value, in epsilons of the type: what rounding
            alone would make is about 0.3.
        largest: largest error of an element in units of its own last place; large where elements cancel.
        mean: the same as a mean over the elements.
        snr: signal-to-noise ratio in dB.
        lost: elements that are finite in the exact value only, or the other way round.
    """

    ulp: float = 0.0
    largest: float = 0.0
    mean: float = 0.0
    snr: float = math.inf
    lost: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return the errors as plain data for `json.dumps`."""
        names = ("ulp", "largest", "mean", "snr", "lost")
        return {name: json_number(getattr(self, name)) for name in names}


def rounding_between(exact: Array, value: Array, dtype: DType | None = None) -> Rounding:
    """Return the error of `value` against float64 (or complex128) numbers.

    Args:
        dtype: type whose units count; that of `value` if None.
    """
    if exact.dtype.kind == "c":
        exact, value = (np.ascontiguousarray(side).view(side.real.dtype) for side in (exact, value))
    dtype = value.dtype if dtype is None else dtype
    scale, mean_square = _scale(exact, exact)
    noise = total = largest = 0.0
    lost = 0
    for _, one, other in _chunks(exact, value):
        with np.errstate(all="ignore"):
            one, other = wide(one), wide(other)
            same = (one == other) | (np.isnan(one) & np.isnan(other))
            lost += int(np.count_nonzero(~same & ~(np.isfinite(one) & np.isfinite(other))))
            usable = np.isfinite(one) & np.isfinite(other)
            error = np.abs(one[usable] - other[usable])
            units = error / spacing(one[usable], dtype)
            noise += float(np.sum((error / scale) ** 2))
        largest = max(largest, float(np.max(units, initial=0.0)))
        total += float(np.sum(units))
    if lost:
        return Rounding(math.inf, math.inf, math.inf, -math.inf, lost)
    size = max(exact.size, 1)
    share = math.sqrt(noise / size / mean_square) if mean_square else (math.inf if noise else 0.0)
    eps = float(_finfo(dtype).eps)
    return Rounding(share / eps, largest, total / size, _decibels(mean_square * size, noise))
