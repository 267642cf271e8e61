"""Scaler, Imputer, Binarizer, Normalizer and FeatureVectorizer (ai.onnx.ml): tables of their attributes.

X is seen as (..., F), with F = 1 for a scalar. Attributes become tables of one value for each feature, in the
type that is computed in.
"""

from __future__ import annotations

import math
from typing import Any, Final, NamedTuple

import numpy as np

from onnxref.dtypes import Array
from onnxref.lowering import Operand, Packed, Site, Unsupported
from onnxref.registry import ML

from .checks import check_result, only_output
from .ml import NUMBERS, examples, kept
from .rules import Rules

NORMS: Final = ("MAX", "L1", "L2")  # by their numbers in kernels


class Scaling(NamedTuple):
    """(x - offsets) * scales, in float32 (`wide` is float64 for what is not float32)."""

    x: Operand
    y: Operand
    features: int
    offsets: Packed
    scales: Packed
    wide: str


class Imputing(NamedTuple):
    """Values of `table` in place of `replaced` (one element of X's type), or of NaN."""

    x: Operand
    y: Operand
    features: int
    table: Packed
    replaced: Packed
    is_nan: bool


class Binarizing(NamedTuple):
    """1 for elements above `limit` (one element of X's type), else 0."""

    x: Operand
    y: Operand
    limit: Packed


class Normalizing(NamedTuple):
    """Rows divided by their norm."""

    x: Operand
    y: Operand
    rows: int
    columns: int
    norm: int


class Part(NamedTuple):
    """Columns of a joined matrix: the first of `x` (rows, columns), and zeros up to `filled`."""

    x: Operand
    columns: int
    filled: int
    start: int


class Joining(NamedTuple):
    """Parts side by side in y (rows, width)."""

    y: Operand
    rows: int
    width: int
    parts: list[Part]


SCALER: Rules[Scaling] = Rules()
IMPUTER: Rules[Imputing] = Rules()
BINARIZER: Rules[Binarizing] = Rules()
NORMALIZER: Rules[Normalizing] = Rules()
VECTORIZER: Rules[Joining] = Rules()

_NO_OFFSET, _NO_SCALE = (0.0,), (1.0,)  # one object each, under which their tables are kept


def _features(x: Operand, y: Operand) -> int:
    """Return F of (..., F), where the output has the same shape."""
    if x.dtype.name not in NUMBERS or x.layout is not None or y.layout is not None:
        raise Unsupported(f"X is {x}")
    check_result(y, x.shape)
    return max(1, x.shape[-1]) if x.ndim else 1


def _per_feature(site: Site, values: Any, features: int, dtype: Any, name: str) -> Packed:
    if len(values) not in (1, features):
        raise Unsupported(f"{name} of the wrong number")
    key = (name, features, np.dtype(dtype).name)
    return kept(site, values, key, lambda: np.broadcast_to(np.array(values, dtype), (features,)))


def _element(site: Site, name: str, value: Array) -> Packed:
    return kept(site, None, (name, value.dtype.name, value.tobytes()), lambda: value)


@SCALER.rule("Scaler", since=1, domain=ML)
def scaler(
    site: Site, x: Operand, *, offset: tuple[float, ...] | None = None, scale: tuple[float, ...] | None = None
) -> Scaling:
    """ONNX-ML Scaler-1."""
    y = only_output(site)
    features = _features(x, y)
    wide = "float32" if x.dtype == np.float32 else "float64"
    offsets = _per_feature(site, offset or _NO_OFFSET, features, wide, "offset")
    scales = _per_feature(site, scale or _NO_SCALE, features, wide, "scale")
    return Scaling(x, y, features, offsets, scales, wide)


@IMPUTER.rule("Imputer", since=1, domain=ML)
def imputer(
    site: Site,
    x: Operand,
    *,
    imputed_value_floats: tuple[float, ...] | None = None,
    imputed_value_int64s: tuple[int, ...] | None = None,
    replaced_value_float: float = 0.0,
    replaced_value_int64: int = 0,
) -> Imputing:
    """ONNX-ML Imputer-1."""
    y = only_output(site)
    features, is_float = _features(x, y), x.dtype.kind == "f"
    values: Any = imputed_value_floats if is_float else imputed_value_int64s
    replaced = replaced_value_float if is_float else replaced_value_int64
    if not values:
        raise Unsupported("no imputed value")
    if not is_float:
        info = np.iinfo(x.dtype)
        if any(not info.min <= v <= info.max for v in (*values, replaced)):
            raise Unsupported("values that do not fit into the type of X")
    table = _per_feature(site, values, features, x.dtype, "imputed")
    with np.errstate(over="ignore"):
        wanted = _element(site, "replaced", np.array([replaced], x.dtype))
    return Imputing(x, y, features, table, wanted, is_float and math.isnan(replaced_value_float))


@BINARIZER.rule("Binarizer", since=1, domain=ML)
def binarizer(site: Site, x: Operand, *, threshold: float = 0.0) -> Binarizing:
    """ONNX-ML Binarizer-1."""
    y = only_output(site)
    _features(x, y)
    is_integer = x.dtype.kind == "i"
    if is_integer:
        info = np.iinfo(x.dtype)
        if not math.isfinite(threshold) or not info.min <= math.floor(threshold) <= info.max:
            raise Unsupported("a threshold beyond the integers")
    with np.errstate(over="ignore"):
        limit = np.array([math.floor(threshold) if is_integer else threshold], x.dtype)
    return Binarizing(x, y, _element(site, "threshold", limit))


@NORMALIZER.rule("Normalizer", since=1, domain=ML)
def normalizer(site: Site, x: Operand, *, norm: str = "MAX") -> Normalizing:
    """ONNX-ML Normalizer-1."""
    y = only_output(site)
    rows, columns = examples(x)
    check_result(y, x.shape)
    if norm not in NORMS:
        raise Unsupported(f"norm {norm}")
    return Normalizing(x, y, rows, columns, NORMS.index(norm))


@VECTORIZER.rule("FeatureVectorizer", since=1, domain=ML)
def feature_vectorizer(site: Site, *x: Operand, inputdimensions: tuple[int, ...] | None = None) -> Joining:
    """ONNX-ML FeatureVectorizer-1."""
    goal = only_output(site)
    if not x or any(part.ndim not in (1, 2) or part.dtype.name not in NUMBERS or part.layout for part in x):
        raise Unsupported("inputs that are no matrices of numbers")
    rows = {part.shape[0] if part.ndim == 2 else 1 for part in x}
    widths = [part.shape[-1] for part in x] if inputdimensions is None else list(inputdimensions)
    if len(rows) != 1 or len(widths) != len(x) or min(widths) < 0:
        raise Unsupported("inputs of different rows, or inputdimensions of the wrong number")
    count, width = rows.pop(), sum(widths)
    check_result(goal, (count, width))
    parts = [
        Part(part, part.shape[-1], filled, sum(widths[:i]))
        for i, (part, filled) in enumerate(zip(x, widths, strict=True))
    ]
    return Joining(goal, count, width, parts)
