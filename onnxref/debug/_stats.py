"""What one value looks like: its range, its moments, what is not finite, and how it would fit in float16.

Everything is computed chunk by chunk in float64, so that a value of any size needs under 2 MB beside it.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..dtypes import LOW_PRECISION, Array, tensor_type_string
from ..graph import SparseTensor

HALF_LARGEST = 65504.0
"""The largest finite float16."""
HALF_SMALLEST_NORMAL = 2.0**-14
"""The smallest normal float16: below it, precision is lost bit by bit."""
HALF_VANISHING = 2.0**-25
"""What is this small or smaller becomes zero in float16 (a tie goes to the even zero)."""
BINS = 32
"""Bins of a histogram."""

_CHUNK = 1 << 15  # elements; a few float64 arrays of this size stay in a core's own cache


@dataclass(frozen=True, slots=True)
class Histogram:
    """Counts of a value's finite elements in bins of equal width from `low` to `high`, both included."""

    low: float
    high: float
    counts: tuple[int, ...]

    @property
    def edges(self) -> list[float]:
        """The borders of the bins, one more than there are bins."""
        steps = np.linspace(0.0, 1.0, len(self.counts) + 1)
        return [float(edge) for edge in self.low * (1 - steps) + self.high * steps]

    def to_json(self) -> dict[str, Any]:
        """Return the histogram as plain data for `json.dumps`."""
        return {"low": self.low, "high": self.high, "counts": list(self.counts)}

    def coarse(self, bins: int) -> str:
        """Return one block character for each of `bins` bins, a divisor of their number; empty ones blank."""
        width = len(self.counts) // bins
        counts = [sum(self.counts[i : i + width]) for i in range(0, len(self.counts), width)]
        top = max(counts, default=0)
        return "".join(" ▁▂▃▄▅▆▇█"[math.ceil(8 * count / top) if top else 0] for count in counts)

    def __str__(self) -> str:
        return self.coarse(len(self.counts))


@dataclass(frozen=True, slots=True)
class ValueStatistics:
    """Statistics of one value: a tensor, all tensors of a sequence, or a sparse tensor's stored elements.

    Complex elements count by their magnitude. Values without numbers (strings, maps, absent optionals)
    have a type and a shape only.

    Attributes:
        dtype: ONNX type string such as `tensor(float)` or `seq(tensor(float))`; `map` or `optional`.
        shape: of the tensor; the length of a sequence or map.
        size: number of elements that were looked at.
        min, max, mean, std: of the finite elements; None where there are none.
        nan, inf, zeros: how many elements are NaN, infinite (of both signs), or zero.
        headroom: the largest finite |x| as a share of float16's largest number, 65504: above 1 it overflows
            there. None for integers, as for the next two.
        below_half: share of the nonzero finite elements under float16's smallest normal number, 2**-14,
            where float16 loses precision.
        vanishing: share of the nonzero finite elements that are zero in float16.
        histogram: of the finite elements; None where there are none, or where it was not asked for.
    """

    dtype: str
    shape: tuple[int, ...]
    size: int = 0
    min: float | int | None = None
    max: float | int | None = None
    mean: float | None = None
    std: float | None = None
    nan: int = 0
    inf: int = 0
    zeros: int = 0
    headroom: float | None = None
    below_half: float | None = None
    vanishing: float | None = None
    histogram: Histogram | None = None

    @classmethod
    def of(cls, value: Any, *, histogram: bool = True) -> ValueStatistics:
        """Return the statistics of any value that a model can hold.

        Args:
            value: an array, a list of values, a `SparseTensor`, a dictionary, or None.
            histogram: whether to count the bins, which takes a second look at every element.
        """
        value = np.asarray(value) if isinstance(value, np.generic) else value
        dtype, shape = type_and_shape(value)
        arrays = [array for array in _arrays(value) if _is_numeric(array)]
        if not arrays:
            return cls(dtype, shape)
        moments = _Moments()
        for array in arrays:
            for chunk in _chunks(array):
                moments.add(chunk)
        bins = _histogram(arrays, moments) if histogram else None
        is_float = all(array.dtype.kind in "fc" or array.dtype in LOW_PRECISION for array in arrays)
        return cls(dtype, shape, **moments.result(is_float=is_float), histogram=bins)

    @property
    def finite(self) -> bool:
        """Whether there is neither a NaN nor an infinity."""
        return not self.nan and not self.inf

    @property
    def largest(self) -> float | None:
        """The largest finite magnitude."""
        if self.min is None or self.max is None:
            return None
        return float(max(abs(self.min), abs(self.max)))

    def to_json(self) -> dict[str, Any]:
        """Return the statistics as plain data for `json.dumps`."""
        names = ("dtype", "size", "min", "max", "mean", "std", "nan", "inf", "zeros")
        found: dict[str, Any] = {name: json_number(getattr(self, name)) for name in names}
        found["shape"] = list(self.shape)
        found |= {name: getattr(self, name) for name in ("headroom", "below_half", "vanishing")}
        found["histogram"] = None if self.histogram is None else self.histogram.to_json()
        return found

    def cells(self) -> tuple[str, str, str, str, str, str]:
        """Return the cells of a table's row: type and shape, range, mean, deviation, oddities, headroom."""
        low, high = short(self.min), short(self.max)
        extent = low if low == high else f"{low} to {high}"
        counts = (("NaN", self.nan), ("Inf", self.inf), ("zero", self.zeros))
        odd = ", ".join(f"{count} {name}" for name, count in counts if count)
        headroom = "" if self.headroom is None else f"{100 * self.headroom:.3g}%"
        kind = f"{self.dtype} {list(self.shape)}"
        return kind, extent, short(self.mean), short(self.std), odd, headroom

    def __str__(self) -> str:
        kind, extent, mean, std, odd, headroom = self.cells()
        parts = [kind]
        if extent:
            parts.append(f"{extent}, mean {mean}, std {std}")
        if odd:
            parts.append(odd)
        if headroom:
            parts.append(f"{headroom} of float16's range")
        return "; ".join(parts)

    def _repr_html_(self) -> str:
        heads = ("type and shape", "range", "mean", "std", "counts", "of float16's range")
        rows = "".join(
            f"<tr><th>{html.escape(head)}</th><td>{html.escape(cell)}</td></tr>"
            for head, cell in zip(heads, self.cells(), strict=True)
        )
        return f"<table>{rows}</table>"


def type_and_shape(value: Any) -> tuple[str, tuple[int, ...]]:
    """Return a value's ONNX type string as far as it can be told, and its shape or length."""
    match value:
        case np.ndarray():
            return tensor_type_string(value.dtype), value.shape
        case SparseTensor():
            return f"sparse_{tensor_type_string(value.values.dtype)}", value.shape
        case list():
            inner = type_and_shape(value[0])[0] if value else ""
            return f"seq({inner})", (len(value),)
        case dict():
            return "map", (len(value),)
        case None:
            return "optional", ()
        case _:
            return type(value).__name__, ()


def json_number(value: Any) -> Any:
    """Return `value`; as text where it is a number that JSON does not have."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def short(value: Any) -> str:
    """Return a number in four digits; empty for None."""
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


class _Moments:
    """Counts, range, mean and variance of the finite elements, chunk after chunk.

    Means and sums of squares are merged by Chan, Golub and LeVeque (1979), which does not cancel.
    """

    def __init__(self) -> None:
        self.size = self.nan = self.inf = self.zeros = 0
        self.below = self.vanishing = self.count = 0
        self.low: float | int = math.inf
        self.high: float | int = -math.inf
        # Wider than float64, whose own extremes would overflow in the sum of their squares.
        self.mean = np.longdouble(0)
        self.squares = np.longdouble(0)

    def add(self, chunk: Array) -> None:
        self.size += chunk.size
        self._range_of_integers(chunk)
        wide = _wide(chunk)
        low, high = wide.min(), wide.max()
        if not (math.isfinite(low) and math.isfinite(high)):  # a NaN makes both of them NaN
            finite = np.isfinite(wide)
            nan = int(np.count_nonzero(np.isnan(wide)))
            self.nan += nan
            self.inf += wide.size - int(np.count_nonzero(finite)) - nan
            wide = wide[finite]
            if not wide.size:
                return
            low, high = wide.min(), wide.max()
        if chunk.dtype.kind not in "iub":
            self.low, self.high = min(self.low, float(low)), max(self.high, float(high))
        self._count_small(wide)
        self._merge(wide, constant=bool(low == high))

    def _range_of_integers(self, chunk: Array) -> None:
        """Note the range of integers as they are: float64 rounds those of more than 53 bits."""
        if chunk.dtype.kind in "iub":
            self.low, self.high = min(self.low, int(chunk.min())), max(self.high, int(chunk.max()))

    def _count_small(self, wide: Array) -> None:
        magnitude = np.abs(wide)
        if magnitude.min() >= HALF_SMALLEST_NORMAL:
            return
        zeros = wide.size - int(np.count_nonzero(wide))
        self.zeros += zeros
        self.below += int(np.count_nonzero(magnitude < HALF_SMALLEST_NORMAL)) - zeros
        self.vanishing += int(np.count_nonzero(magnitude <= HALF_VANISHING)) - zeros

    def _merge(self, wide: Array, *, constant: bool) -> None:
        mean, squares = np.longdouble(wide[0]), np.longdouble(0)
        if not constant:
            with np.errstate(over="ignore", invalid="ignore"):
                mean = np.longdouble(wide.mean())
                spread = wide - np.float64(mean)
                np.square(spread, out=spread)  # `dot` would wake BLAS's threads
                squares = np.longdouble(spread.sum())
            if not 1e-250 < squares < math.inf:  # the squares were out of float64's range
                exact = wide.astype(np.longdouble)
                mean = exact.mean()
                squares = ((exact - mean) ** 2).sum()
        total = self.count + wide.size
        delta = mean - self.mean
        self.mean += delta * wide.size / total
        self.squares += squares + delta * delta * self.count * wide.size / total
        self.count = total

    def result(self, *, is_float: bool) -> dict[str, Any]:
        """Return the fields of `ValueStatistics`."""
        found: dict[str, Any] = {"size": self.size, "nan": self.nan, "inf": self.inf, "zeros": self.zeros}
        if self.count:
            found |= {"min": self.low, "max": self.high, "mean": float(self.mean)}
            found["std"] = float(np.sqrt(self.squares / self.count))
        if self.count and is_float:
            nonzero = max(self.count - self.zeros, 1)
            found["headroom"] = max(abs(self.low), abs(self.high)) / HALF_LARGEST
            found["below_half"] = self.below / nonzero
            found["vanishing"] = self.vanishing / nonzero
        return found


def _histogram(arrays: list[Array], moments: _Moments) -> Histogram | None:
    if not moments.count:
        return None
    low, high = float(moments.low), float(moments.high)
    counts = np.zeros(BINS, np.int64)
    # Halved, because the distance between float64's extremes is not a float64.
    span = high / 2 - low / 2
    for array in arrays:
        for chunk in _chunks(array):
            wide = _wide(chunk)
            if moments.nan or moments.inf:
                wide = wide[np.isfinite(wide)]
            if not span or not math.isfinite(BINS / span):
                counts[0] += wide.size
                continue
            wide /= 2
            wide -= low / 2
            wide *= BINS / span
            # An element at the upper end falls into the last bin, or by rounding just behind it.
            found = np.bincount(wide.astype(np.int32), minlength=BINS + 1)
            counts += found[:BINS]
            counts[-1] += found[BINS]
    return Histogram(low, high, tuple(int(count) for count in counts))


def _chunks(array: Array) -> Iterator[Array]:
    """Yield all elements, flat, a bounded number at a time, without copying the array as a whole."""
    if array.size <= _CHUNK:
        if array.size:
            yield array.reshape(-1)
        return
    if array.flags.c_contiguous:
        flat = array.reshape(-1)
        for start in range(0, flat.size, _CHUNK):
            yield flat[start : start + _CHUNK]
        return
    yield from np.nditer(array, flags=["external_loop", "buffered"], order="K", buffersize=_CHUNK)


def _wide(chunk: Array) -> Array:
    return (np.abs(chunk) if chunk.dtype.kind == "c" else chunk).astype(np.float64)


def _arrays(value: Any) -> Iterator[Array]:
    if isinstance(value, np.ndarray):
        yield value
    elif isinstance(value, SparseTensor):
        yield value.values
    elif isinstance(value, list):
        for item in value:
            yield from _arrays(item)


def _is_numeric(array: Array) -> bool:
    return array.dtype.kind not in "OSUTMm"
