"""Scaler, Imputer, Binarizer, Normalizer, FeatureVectorizer, ArrayFeatureExtractor and encoders (ai.onnx.ml).

All are exact but Normalizer, whose norm is a float64 sum in another order: within one rounding to float32.
Keys, values and categories are numbers; strings are refused.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from functools import partial
from typing import Any

import numpy as np

from onnxref.dtypes import Array
from onnxref.gpu import CTYPES, cuda_kernel, grid_for
from onnxref.lowering import Operand, Packed, Site, Unsupported, lower
from onnxref.registry import ML

from ..numpy import ml_encoders as reference
from ._rows import power_above
from ._views import View, emit_view
from .indexing import gather_1
from .movement import check_movable, check_plain, check_result, index_type, magic, only_output, refusing

_CODE = "onnxref.kernels.cupy.code"
_kernel = partial(cuda_kernel, _CODE, "ml_features.cu")
_one_hot = partial(cuda_kernel, _CODE, "one_hot_encoder.cu")
NUMBERS = ("float32", "float64", "int32", "int64")
_ITEMS = 4  # elements of a thread, as in the kernels


def kept(site: Site, source: object, key: Hashable, build: Callable[[], Array]) -> Packed:
    """Return an array that follows from an attribute's value, which stands for the node."""
    return Packed(site.packs.get([source], key, build))


def matrix(x: Operand) -> tuple[int, int]:
    """Return (N, F) of examples; a single dimension is one example."""
    check_plain(x)
    if x.dtype.name not in NUMBERS or x.ndim not in (1, 2) or not x.shape[-1]:
        raise Unsupported(f"X is {x}")
    return (x.shape[0] if x.ndim == 2 else 1), x.shape[-1]


# --- features ------------------------------------------------------------------------------------


def _features(x: Operand, y: Operand) -> int:
    """Return F of (..., F), where the output has the same shape."""
    check_plain(x, y)
    check_result(y, x.shape)
    if x.dtype.name not in NUMBERS:
        raise Unsupported(f"X is {x}")
    return max(1, x.shape[-1]) if x.ndim else 1


def _per_feature(site: Site, values: Any, features: int, dtype: Any, name: str) -> Packed:
    if len(values) not in (1, features):
        raise Unsupported(f"{name} of the wrong number")
    key = (name, features, np.dtype(dtype).name)
    return kept(site, values, key, lambda: np.broadcast_to(np.array(values, dtype), (features,)))


def _element(site: Site, name: str, dtype: str, value: Array) -> Packed:
    """Return an array of one number."""
    return kept(site, None, (name, dtype, value.tobytes()), lambda: value)


def _launch(
    site: Site, entry: str, x: Operand, total: int, *arguments: Any, reach: int = 0, **defines: Any
) -> None:
    """Launch an elementwise kernel."""
    if total:
        index = index_type(total + 4096, x.size, reach)
        kernel = _kernel(entry, **{**_UNUSED, **defines}, T=CTYPES[x.dtype.name], INDEX=index)
        site.launch(kernel, *arguments, grid=grid_for(total, per_thread=_ITEMS))


_UNUSED = {"W": "float", "IS_NAN": 0, "NORM": 0, "GROUP": 1}


_NO_OFFSET, _NO_SCALE = (0.0,), (1.0,)


@lower("Scaler", since=1, domain=ML, backend="cupy")
def scaler(
    site: Site, x: Operand, *, offset: tuple[float, ...] | None = None, scale: tuple[float, ...] | None = None
) -> None:
    """ONNX-ML Scaler-1."""
    y = only_output(site)
    features = _features(x, y)
    wide = "float32" if x.dtype == np.float32 else "float64"
    offsets = _per_feature(site, offset or _NO_OFFSET, features, wide, "offset")
    scales = _per_feature(site, scale or _NO_SCALE, features, wide, "scale")
    arguments = (x, y, offsets, scales, x.size, features, magic(features))
    _launch(site, "scaler", x, x.size, *arguments, W=CTYPES[wide])


@lower("Imputer", since=1, domain=ML, backend="cupy")
def imputer(
    site: Site,
    x: Operand,
    *,
    imputed_value_floats: tuple[float, ...] | None = None,
    imputed_value_int64s: tuple[int, ...] | None = None,
    replaced_value_float: float = 0.0,
    replaced_value_int64: int = 0,
) -> None:
    """ONNX-ML Imputer-1."""
    y = only_output(site)
    features = _features(x, y)
    floating = x.dtype.kind == "f"
    values: Any = imputed_value_floats if floating else imputed_value_int64s
    replaced = replaced_value_float if floating else replaced_value_int64
    if not values:
        raise Unsupported("no imputed value")
    if not floating:
        info = np.iinfo(x.dtype)
        if any(not info.min <= v <= info.max for v in (*values, replaced)):
            raise Unsupported("values that do not fit into the type of X")
    table = _per_feature(site, values, features, x.dtype, "imputed")
    with np.errstate(over="ignore"):
        wanted = _element(site, "replaced", x.dtype.name, np.array([replaced], x.dtype))
    arguments = (x, y, table, wanted, x.size, features, magic(features))
    is_nan = floating and math.isnan(replaced_value_float)
    _launch(site, "imputer", x, x.size, *arguments, IS_NAN=int(is_nan))


@lower("Binarizer", since=1, domain=ML, backend="cupy")
def binarizer(site: Site, x: Operand, *, threshold: float = 0.0) -> None:
    """ONNX-ML Binarizer-1."""
    y = only_output(site)
    _features(x, y)
    whole = x.dtype.kind == "i"
    if whole:
        info = np.iinfo(x.dtype)
        if not math.isfinite(threshold) or not info.min <= math.floor(threshold) <= info.max:
            raise Unsupported("a threshold beyond the integers")
    with np.errstate(over="ignore"):
        limit = np.array([math.floor(threshold) if whole else threshold], x.dtype)
    held = _element(site, "threshold", x.dtype.name, limit)
    _launch(site, "binarizer", x, x.size, x, y, held, x.size)


@lower("Normalizer", since=1, domain=ML, backend="cupy")
def normalizer(site: Site, x: Operand, *, norm: str = "MAX") -> None:
    """ONNX-ML Normalizer-1."""
    y = only_output(site)
    rows, columns = matrix(x)
    check_result(y, x.shape)
    check_plain(y)
    if norm not in ("MAX", "L1", "L2") or columns >= 1 << 31:
        raise Unsupported(f"norm {norm} of {x}")
    group = min(32, power_above(-(-columns // 2)))
    defines = {**_UNUSED, "NORM": ("MAX", "L1", "L2").index(norm), "GROUP": group}
    kernel = _kernel("normalizer", **defines, T=CTYPES[x.dtype.name], INDEX="int")
    if rows:
        site.launch(kernel, x, y, rows, columns, grid=grid_for(rows * group))


@lower("FeatureVectorizer", since=1, domain=ML, backend="cupy")
def feature_vectorizer(site: Site, *x: Operand, inputdimensions: tuple[int, ...] | None = None) -> None:
    """ONNX-ML FeatureVectorizer-1."""
    goal = only_output(site)
    check_plain(goal, *x)
    if not x or any(part.ndim not in (1, 2) or part.dtype.name not in NUMBERS for part in x):
        raise Unsupported("inputs that are no matrices of numbers")
    rows = {part.shape[0] if part.ndim == 2 else 1 for part in x}
    widths = [part.shape[-1] for part in x] if inputdimensions is None else list(inputdimensions)
    if len(rows) != 1 or len(widths) != len(x) or min(widths) < 0:
        raise Unsupported("inputs of different rows, or inputdimensions of the wrong number")
    count, width = rows.pop(), sum(widths)
    check_result(goal, (count, width))
    start = 0
    for part, filled in zip(x, widths, strict=True):
        columns, total = part.shape[-1], count * filled
        arguments = (total, columns, min(columns, filled), filled, magic(filled), width)
        _launch(site, "feature_columns", part, total, part, goal + 4 * start, *arguments, reach=goal.size)
        start += filled


@lower("ArrayFeatureExtractor", since=1, domain=ML, backend="cupy")
def array_feature_extractor(site: Site, x: Operand, y: Operand) -> None:
    """ONNX-ML ArrayFeatureExtractor-1: a gather along the last axis."""
    goal = only_output(site)
    check_movable(x)
    check_plain(x, y, goal)
    if not x.ndim:
        raise Unsupported("X is a scalar")
    shape = (*x.shape[:-1], y.size)
    check_result(goal, shape if len(shape) > 1 else (1, *shape))
    places = View(y, (y.size,), y.dtype)
    gathered = View(goal, shape, x.dtype)
    emit_view(site, gather_1, [View(x, x.shape, x.dtype), places], gathered, axis=x.ndim - 1)


# --- encoders ------------------------------------------------------------------------------------


def _of_attributes(site: Site, attributes: dict[str, Any], name: str, build: Callable[[], Array]) -> Packed:
    sources = [value for _, value in sorted(attributes.items())]
    return Packed(site.packs.get(sources, (name, tuple(sorted(attributes))), build))


def _encode(site: Site, x: Operand, lookup: reference.Lookup, attributes: dict[str, Any]) -> None:
    y = only_output(site)
    values = lookup._values
    check_plain(x, y)
    if x.dtype != lookup._dtype or x.dtype.kind not in "iuf" or values.dtype.kind not in "iuf":
        raise Unsupported("keys or values that are no numbers, or of another type than X")
    key = f"int{8 * x.dtype.itemsize}" if lookup._bitwise else x.dtype.name
    if not lookup._keys.size or y.dtype != values.dtype or key == "float16":
        raise Unsupported("no keys, or values of another type")
    check_result(y, x.shape)
    keys = _of_attributes(site, attributes, "keys", lambda: lookup._keys)
    table = _of_attributes(site, attributes, "values", lambda: np.append(values[lookup._order], values[-1:]))
    kernel = cuda_kernel(_CODE, "label_encoder.cu", "look_up", KEY=CTYPES[key], UNIT=y.dtype.itemsize)
    if x.size:
        site.launch(kernel, x, y, x.size, keys, keys.array.size, table, grid=grid_for(x.size))


@lower("LabelEncoder", since=2, domain=ML, backend="cupy")
@refusing
def label_encoder_2(site: Site, x: Operand, **attributes: Any) -> None:
    """ONNX-ML LabelEncoder-2; floats are found by their bits."""
    _encode(site, x, reference.prepare_labels_2(**attributes), attributes)


@lower("LabelEncoder", since=4, domain=ML, backend="cupy")
@refusing
def label_encoder_4(site: Site, x: Operand, **attributes: Any) -> None:
    """ONNX-ML LabelEncoder-4; NaN finds NaN."""
    _encode(site, x, reference.prepare_labels_4(**attributes), attributes)


@lower("OneHotEncoder", since=1, domain=ML, backend="cupy")
def one_hot_one_hot(
    site: Site,
    x: Operand,
    *,
    cats_int64s: tuple[int, ...] | None = None,
    cats_strings: tuple[str, ...] | None = None,
    zeros: int = 1,
) -> None:
    """ONNX-ML OneHotEncoder-1, where unknown categories are allowed."""
    y = only_output(site)
    check_plain(x, y)
    if cats_strings or not cats_int64s or not zeros:
        raise Unsupported("categories are strings, or none, or must all be known")
    if x.dtype.name not in NUMBERS:
        raise Unsupported(f"X is {x}")
    width = len(cats_int64s)
    check_result(y, (*x.shape, width))
    if not x.size:
        return
    keys, last = np.unique(np.array(cats_int64s, np.int64)[::-1], return_index=True)
    sorted_keys = kept(site, cats_int64s, "keys", lambda: keys)
    columns = kept(site, cats_int64s, "columns", lambda: (width - 1 - last).astype(np.int32))
    found = site.scratch(4 * x.size)
    index = index_type(y.size * 2)  # one more step than there are elements
    defines = {"T": CTYPES[x.dtype.name], "KEY": "int64_t", "INDEX": index}
    known = (sorted_keys, columns, keys.size)
    site.launch(_one_hot("category", **defines), x, found, x.size, *known, grid=grid_for(x.size))
    extents = (y.size, width, magic(width))
    site.launch(_one_hot("one_hot_row", **defines), found, y, *extents, grid=grid_for(y.size, per_thread=4))
