"""ONNX-ML encoders and feature operators: labels, categories, maps, scaling, selection."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from onnxref.dtypes import Array, DType
from onnxref.errors import KernelError
from onnxref.registry import ML, Cost, op

from ._checks import check_choice, only_one
from ._common import zeros

_STRING = np.dtype(np.object_)
# In CPython: a small map, what a larger one has for each entry at most, a number of NumPy.
_MAP_BYTES, _ENTRY_BYTES, _NUMBER_BYTES = 256, 64, 32


# ------------------------------------------------------------------ look-ups


class Lookup:
    """A mapping from keys to values with a default, applied to whole tensors.

    A repeated key means its last value. NaN finds NaN; with `bitwise`, floats find equal bits only.
    """

    def __init__(self, keys: Array, values: Array, default: Any, *, bitwise: bool = False) -> None:
        if len(keys) != len(values):
            raise KernelError(f"keys and values must be equally many (got {len(keys)} and {len(values)})")
        self._dtype: DType = keys.dtype
        self._table: dict[str, int] = {}
        self._bitwise = bitwise and keys.dtype.kind == "f"
        # The default stands behind the values, where index -1 finds it.
        self._values = np.append(values, np.array([default], values.dtype))
        if keys.dtype.kind == "O":
            self._table = {key: i for i, key in enumerate(keys.tolist())}
            return
        # np.unique keeps first occurrences: from behind, those are the last ones.
        self._keys, last = np.unique(self._comparable(keys)[::-1], return_index=True)
        self._order = len(keys) - 1 - last

    @property
    def keys_of_strings(self) -> Mapping[str, int]:
        """The places of the values by key; there are none where keys are numbers."""
        return self._table

    @property
    def values(self) -> Array:
        """The values, and the default behind them."""
        return self._values

    def _comparable(self, x: Array) -> Array:
        return x.view(f"i{x.dtype.itemsize}") if self._bitwise else x

    def __call__(self, x: Array) -> Array:
        """Return the value of each element of `x`, in its shape."""
        # Flat, so that a scalar string stays an array.
        return self._values[self.index(x).ravel()].reshape(x.shape)

    def index(self, x: Array) -> Array:
        """Return each element's position among the keys, -1 where it is missing."""
        if x.dtype != self._dtype:
            shown, wanted = ("strings" if d.kind == "O" else str(d) for d in (x.dtype, self._dtype))
            raise KernelError(f"X must have the type of the keys, {wanted} (got {shown})")
        if x.dtype.kind == "O":
            found = [self._table.get(element, -1) for element in x.flat]
            return np.array(found, np.intp).reshape(x.shape)
        if self._keys.size == 0:
            return np.full(x.shape, -1, np.intp)
        x = self._comparable(np.ascontiguousarray(x).reshape(x.shape))
        position = np.minimum(np.searchsorted(self._keys, x), self._keys.size - 1)
        nearest = self._keys[position]
        same = (nearest == x) | ((nearest != nearest) & (x != x))
        return np.where(same, self._order[position], -1)


def prepare_classes(
    *,
    classes_strings: tuple[str, ...] | None = None,
    default_int64: int = -1,
    default_string: str = "_Unused",
) -> tuple[Lookup, Lookup]:
    classes = np.array(classes_strings or (), _STRING)
    numbers = np.arange(len(classes), dtype=np.int64)
    return Lookup(classes, numbers, default_int64), Lookup(numbers, classes, default_string)


def prepare_categories(
    *,
    cats_int64s: tuple[int, ...] | None = None,
    cats_strings: tuple[str, ...] | None = None,
    default_int64: int = -1,
    default_string: str = "_Unused",
) -> tuple[Lookup, Lookup]:
    names = np.array(cats_strings or (), _STRING)
    numbers = np.array(cats_int64s or (), np.int64)
    return Lookup(names, numbers, default_int64), Lookup(numbers, names, default_string)


@op("LabelEncoder", since=1, domain=ML, prepare=prepare_classes)
def label_encoder_1(x: Array, *, prepared: tuple[Lookup, Lookup]) -> Array:
    """Map labels to their positions in a list, or positions to labels (ONNX-ML LabelEncoder-1)."""
    to_number, to_name = prepared
    return (to_number if x.dtype.kind == "O" else to_name)(x)


@op("CategoryMapper", since=1, domain=ML, prepare=prepare_categories)
def category_mapper(x: Array, *, prepared: tuple[Lookup, Lookup]) -> Array:
    """Map strings to integers or back (ONNX-ML CategoryMapper-1)."""
    return label_encoder_1(x, prepared=prepared)


_LABEL_TYPES = {"strings": _STRING, "int64s": np.dtype(np.int64), "floats": np.dtype(np.float32)}


def _labels(kind: str, **choices: Any) -> Array:
    """Return the one list of keys (or values) that is given, as a 1-D tensor."""
    name, values = only_one(**{f"{kind}_{suffix}": value for suffix, value in choices.items()})
    if isinstance(values, np.ndarray):
        return values.ravel()
    return np.array(values, _LABEL_TYPES[name.removeprefix(f"{kind}_")])


def prepare_labels_2(
    *,
    default_float: float = -0.0,
    default_int64: int = -1,
    default_string: str = "_Unused",
    keys_floats: tuple[float, ...] | None = None,
    keys_int64s: tuple[int, ...] | None = None,
    keys_strings: tuple[str, ...] | None = None,
    values_floats: tuple[float, ...] | None = None,
    values_int64s: tuple[int, ...] | None = None,
    values_strings: tuple[str, ...] | None = None,
) -> Lookup:
    keys = _labels("keys", floats=keys_floats, int64s=keys_int64s, strings=keys_strings)
    values = _labels("values", floats=values_floats, int64s=values_int64s, strings=values_strings)
    default = {"O": default_string, "i": default_int64, "f": default_float}[values.dtype.kind]
    return Lookup(keys, values, default, bitwise=True)


def prepare_labels_4(
    *,
    default_float: float = -0.0,
    default_int64: int = -1,
    default_string: str = "_Unused",
    default_tensor: Array | None = None,
    keys_floats: tuple[float, ...] | None = None,
    keys_int64s: tuple[int, ...] | None = None,
    keys_strings: tuple[str, ...] | None = None,
    keys_tensor: Array | None = None,
    values_floats: tuple[float, ...] | None = None,
    values_int64s: tuple[int, ...] | None = None,
    values_strings: tuple[str, ...] | None = None,
    values_tensor: Array | None = None,
) -> Lookup:
    keys = _labels("keys", floats=keys_floats, int64s=keys_int64s, strings=keys_strings, tensor=keys_tensor)
    values = _labels(
        "values", floats=values_floats, int64s=values_int64s, strings=values_strings, tensor=values_tensor
    )
    default = {"O": default_string, "i": default_int64, "f": default_float}.get(values.dtype.kind)
    if default is None:
        raise KernelError(f"values_tensor must hold strings, integers or floats (got {values.dtype})")
    if default_tensor is not None:
        if default_tensor.size != 1 or default_tensor.dtype != values.dtype:
            raise KernelError(
                f"default_tensor must hold one value of type {values.dtype} "
                f"(got {default_tensor.size} of type {default_tensor.dtype})"
            )
        default = default_tensor.reshape(()).item()
    elif values.dtype.kind == "i" and not _fits(default_int64, values.dtype):
        raise KernelError(f"default_int64 must fit into {values.dtype} (got {default_int64})")
    return Lookup(keys, values, default)


def _fits(value: int, dtype: DType) -> bool:
    info = np.iinfo(dtype)
    return bool(info.min <= value <= info.max)


def _label_encoder(x: Array, *, prepared: Lookup) -> Array:
    """Map each element by parallel lists of keys and values (ONNX-ML LabelEncoder-2, -4)."""
    return prepared(x)


op("LabelEncoder", since=2, domain=ML, prepare=prepare_labels_2)(_label_encoder)
op("LabelEncoder", since=4, domain=ML, prepare=prepare_labels_4)(_label_encoder)


# ------------------------------------------------------------------ OneHotEncoder


def _one_hot_cost(
    x: Array,
    *,
    cats_int64s: tuple[int, ...] | None = None,
    cats_strings: tuple[str, ...] | None = None,
    zeros: int = 1,
) -> Cost:
    return Cost(4 * x.size * len(cats_strings or cats_int64s or ()), 40 * x.size)


def _prepare_one_hot(
    *,
    cats_int64s: tuple[int, ...] | None = None,
    cats_strings: tuple[str, ...] | None = None,
    zeros: int = 1,
) -> tuple[Lookup, int, bool]:
    name, cats = only_one(cats_int64s=cats_int64s, cats_strings=cats_strings)
    keys = np.array(cats, _STRING if name == "cats_strings" else np.int64)
    return Lookup(keys, np.arange(len(keys)), -1), len(keys), bool(zeros)


@op("OneHotEncoder", since=1, domain=ML, cost=_one_hot_cost, prepare=_prepare_one_hot)
def one_hot_encoder(x: Array, *, prepared: tuple[Lookup, int, bool]) -> Array:
    """Encode each element as a row of zeros with one 1, (..., categories) (ONNX-ML OneHotEncoder-1)."""
    lookup, width, zeros = prepared
    if x.dtype.kind == "O":
        index = lookup.index(x)
    else:
        # Floats are cut to integers; those that are none (NaN, infinity, too large) have no category.
        castable = np.abs(x) < 2.0**63 if x.dtype.kind == "f" else np.True_
        index = np.where(castable, lookup.index(np.where(castable, x, 0).astype(np.int64)), -1)
    index = index.ravel()
    known = np.flatnonzero(index >= 0)
    if not zeros and known.size < index.size:
        unknown = x.ravel()[int(np.argmax(index < 0))]
        raise KernelError(f"X must hold known categories only, for zeros=0 (got {unknown!r})")
    result = np.zeros((x.size, width), np.float32)
    result[known, index[known]] = 1.0
    return result.reshape(*x.shape, width)


# ------------------------------------------------------------------ maps


def _cast_map_cost(
    x: Mapping[int, Any], *, cast_to: str = "TO_FLOAT", map_form: str = "DENSE", max_map: int = 1
) -> Cost:
    return Cost(8 * (max(max_map, 0) if map_form == "SPARSE" else len(x)), 8 * len(x))


@op("CastMap", since=1, domain=ML, cost=_cast_map_cost)
def cast_map(
    x: Mapping[int, Any], *, cast_to: str = "TO_FLOAT", map_form: str = "DENSE", max_map: int = 1
) -> Array:
    """Return a map's values in the order of its keys, (1, n) as in ONNX Runtime (ONNX-ML CastMap-1)."""
    types: dict[str, Any] = {"TO_FLOAT": np.float32, "TO_INT64": np.int64, "TO_STRING": object}
    check_choice(cast_to, types, "cast_to")
    check_choice(map_form, ("DENSE", "SPARSE"), "map_form")
    keys = sorted(x)
    values = [_cast_value(x[key], cast_to) for key in keys]
    if map_form == "DENSE":
        return np.array(values, types[cast_to]).reshape(1, -1)
    if max_map < 1:
        raise KernelError(f"max_map must be >= 1 (got {max_map})")
    if keys and not 0 <= keys[0] <= keys[-1] < max_map:
        raise KernelError(f"keys must be in [0, {max_map - 1}] (got {keys[0]} to {keys[-1]})")
    result = zeros((1, max_map), np.dtype(types[cast_to]))
    result[0, keys] = np.array(values, types[cast_to])
    return result


def _cast_value(value: Any, cast_to: str) -> Any:
    """Convert one value of a map: text as a number, a number as the shortest text that means it."""
    if cast_to == "TO_STRING":
        return value if isinstance(value, str) else str(np.float32(value))
    try:
        if cast_to == "TO_FLOAT":
            return np.float32(value)
        number = int(value) if isinstance(value, str) else math.trunc(value)
    except (ValueError, OverflowError):
        raise KernelError(f"values must be numbers, for {cast_to} (got {value!r})") from None
    if not _fits(number, np.dtype(np.int64)):
        raise KernelError(f"values must fit into int64 (got {value!r})")
    return number


def _prepare_vocabulary(
    *,
    int64_vocabulary: tuple[int, ...] | None = None,
    string_vocabulary: tuple[str, ...] | None = None,
) -> tuple[dict[Any, int], int]:
    _, words = only_one(int64_vocabulary=int64_vocabulary, string_vocabulary=string_vocabulary)
    return {word: i for i, word in enumerate(words)}, len(words)


@op("DictVectorizer", since=1, domain=ML, prepare=_prepare_vocabulary)
def dict_vectorizer(x: Mapping[Any, Any], *, prepared: tuple[dict[Any, int], int]) -> Array:
    """Return a map's values at their keys' places in the vocabulary, (n,) (ONNX-ML DictVectorizer-1)."""
    places, width = prepared
    unknown = next((key for key in x if key not in places), None)
    if unknown is not None:
        raise KernelError(f"keys must be in the vocabulary (got {unknown!r})")
    values = list(x.values())
    dtype = _value_type(values)
    result = zeros((width,), dtype)
    result[[places[key] for key in x]] = np.array(values, dtype)
    return result


def _value_type(values: Sequence[Any]) -> DType:
    """Return the element type of a map's values; Python floats count as float32, as in ZipMap."""
    if any(isinstance(v, str) for v in values):
        return _STRING
    if any(isinstance(v, np.float64) for v in values):
        return np.dtype(np.float64)
    whole = values and all(isinstance(v, int | np.integer) for v in values)
    return np.dtype(np.int64) if whole else np.dtype(np.float32)


def _zip_map_cost(x: Array, **labels: Any) -> Cost:
    """Maps take far more than the numbers in them: dicts of CPython, and an object for each value."""
    rows = x.shape[0] if x.ndim == 2 else 1
    return Cost(rows * _MAP_BYTES + x.size * (_ENTRY_BYTES + _NUMBER_BYTES))


@op("ZipMap", since=1, domain=ML, cost=_zip_map_cost)
def zip_map(
    x: Array,
    *,
    classlabels_int64s: tuple[int, ...] | None = None,
    classlabels_strings: tuple[str, ...] | None = None,
) -> list[dict[Any, np.float32]]:
    """Make a map {label: value} of each row of (N, C) or (C,) (ONNX-ML ZipMap-1)."""
    name, labels = only_one(classlabels_int64s=classlabels_int64s, classlabels_strings=classlabels_strings)
    if x.ndim not in (1, 2) or x.shape[-1] != len(labels):
        raise KernelError(f"X must have {len(labels)} columns, one per label of {name} (got shape {x.shape})")
    # One iterator for all rows: each takes as many values as there are labels.
    values = iter(x.ravel())
    return [dict(zip(labels, values, strict=False)) for _ in range(len(np.atleast_2d(x)))]


# ------------------------------------------------------------------ selecting and joining features


def _feature_extractor_cost(x: Array, y: Array) -> Cost:
    return Cost(math.prod(x.shape[:-1]) * y.size * x.dtype.itemsize)


@op("ArrayFeatureExtractor", since=1, domain=ML, cost=_feature_extractor_cost)
def array_feature_extractor(x: Array, y: Array) -> Array:
    """Select entries `y` of the last axis, (..., y.size), at least 2-D (ONNX-ML ArrayFeatureExtractor-1)."""
    if x.ndim == 0:
        raise KernelError("X must have rank >= 1 (got 0)")
    index = y.ravel()
    low, high = int(index.min(initial=0)), int(index.max(initial=0))
    if index.size and not 0 <= low <= high < x.shape[-1]:
        raise KernelError(f"Y must be in [0, {x.shape[-1] - 1}] (got {low} to {high})")
    return np.atleast_2d(x.take(index, axis=-1))


def _vectorizer_widths(x: Sequence[Array], inputdimensions: tuple[int, ...] | None) -> tuple[int, list[int]]:
    """Return the rows, and the columns that each input fills in the output."""
    if not x or any(part.ndim not in (1, 2) for part in x):
        raise KernelError(f"X must be matrices or vectors (got shapes {[part.shape for part in x]})")
    rows = {part.shape[0] if part.ndim == 2 else 1 for part in x}
    if len(rows) != 1:
        raise KernelError(f"X must have equally many rows (got shapes {[part.shape for part in x]})")
    widths = [part.shape[-1] for part in x] if inputdimensions is None else list(inputdimensions)
    if len(widths) != len(x) or min(widths) < 0:
        raise KernelError(f"inputdimensions must be {len(x)} sizes >= 0 (got {tuple(widths)})")
    return rows.pop(), widths


def _feature_vectorizer_cost(*x: Array, inputdimensions: tuple[int, ...] | None = None) -> Cost:
    rows, widths = _vectorizer_widths(x, inputdimensions)
    return Cost(4 * rows * sum(widths))


@op("FeatureVectorizer", since=1, domain=ML, cost=_feature_vectorizer_cost)
def feature_vectorizer(*x: Array, inputdimensions: tuple[int, ...] | None = None) -> Array:
    """Join (N, C) or (C,) inputs, cut or padded to their dimensions (ONNX-ML FeatureVectorizer-1)."""
    rows, widths = _vectorizer_widths(x, inputdimensions)
    result = np.zeros((rows, sum(widths)), np.float32)
    start = 0
    for part, width in zip(x, widths, strict=True):
        part = np.atleast_2d(part)[:, :width]
        result[:, start : start + part.shape[1]] = part
        start += width
    return result


# ------------------------------------------------------------------ numbers


@op("Binarizer", since=1, domain=ML)
def binarizer(x: Array, *, threshold: float = 0.0) -> Array:
    """Return 1 where `x` exceeds the threshold, else 0 (ONNX-ML Binarizer-1)."""
    # For integers x > t means x > floor(t), which is exact where float64 would round x.
    whole = x.dtype.kind == "i" and math.isfinite(threshold)
    return (x > (math.floor(threshold) if whole else threshold)).astype(x.dtype)


def _per_feature(values: Sequence[float], x: Array, dtype: Any, name: str) -> Array:
    """Return one value per feature of (..., F), or the one value for all."""
    features = x.shape[-1] if x.ndim else 1
    if len(values) not in (1, features):
        raise KernelError(f"{name} must hold 1 or {features} values (got {len(values)})")
    return np.array(values, dtype)


@op("Imputer", since=1, domain=ML)
def imputer(
    x: Array,
    *,
    imputed_value_floats: tuple[float, ...] | None = None,
    imputed_value_int64s: tuple[int, ...] | None = None,
    replaced_value_float: float = 0.0,
    replaced_value_int64: int = 0,
) -> Array:
    """Replace one value (possibly NaN) of (..., F) by another, per feature (ONNX-ML Imputer-1)."""
    floating = x.dtype.kind == "f"
    name = "imputed_value_floats" if floating else "imputed_value_int64s"
    imputed = imputed_value_floats if floating else imputed_value_int64s
    if not imputed:
        raise KernelError(f"{name} must be given for X of type {x.dtype} (got none)")
    if not floating:
        misfit = next((v for v in imputed if not _fits(int(v), x.dtype)), None)
        if misfit is not None:
            raise KernelError(f"{name} must fit into {x.dtype} (got {misfit})")
        missing = x == replaced_value_int64
    elif math.isnan(replaced_value_float):
        missing = np.isnan(x)
    else:
        missing = x == replaced_value_float
    return np.where(missing, _per_feature(imputed, x, x.dtype, name), x)


def _wide(x: Array) -> Array:
    """Return integers as float64; the results are float32 whatever the input."""
    return x if x.dtype.kind == "f" else x.astype(np.float64)


@op("Scaler", since=1, domain=ML)
def scaler(
    x: Array, *, offset: tuple[float, ...] | None = None, scale: tuple[float, ...] | None = None
) -> Array:
    """Return (x - offset) * scale of (..., F) in float32 (ONNX-ML Scaler-1)."""
    y = _wide(x)
    if offset:
        y = y - _per_feature(offset, x, y.dtype, "offset")
    if scale:
        y = y * _per_feature(scale, x, y.dtype, "scale")
    return y.astype(np.float32)


@op("Normalizer", since=1, domain=ML)
def normalizer(x: Array, *, norm: str = "MAX") -> Array:
    """Divide each row of (N, C) or (C,) by its maximum, L1 or L2 norm, in float32 (ONNX-ML Normalizer-1)."""
    if x.ndim not in (1, 2):
        raise KernelError(f"X must have shape (N, C) or (C,) (got {x.shape})")
    check_choice(norm, ("MAX", "L1", "L2"), "norm")
    y = x.astype(np.float64)
    if norm == "MAX":
        # As the formula says: the largest value, not the largest magnitude.
        divisor = y.max(axis=-1, keepdims=True, initial=-np.inf)
    elif norm == "L1":
        divisor = np.abs(y).sum(axis=-1, keepdims=True)
    else:
        divisor = np.sqrt(np.square(y).sum(axis=-1, keepdims=True))
    return (y / np.where(divisor == 0, 1.0, divisor)).astype(np.float32)
