"""Scaler, Imputer, Binarizer, Normalizer, FeatureVectorizer, ArrayFeatureExtractor and encoders (ai.onnx.ml).

All are exact but Normalizer, whose norm is a float64 sum in another order: within one rounding to float32.
Keys, values and categories are numbers; strings are refused.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from onnxref.gpu import CTYPES, cuda_kernel, grid_for
from onnxref.lowering import Operand, Site, Unsupported, lower
from onnxref.registry import ML

from ..common.checks import check_movable, check_result, only_output, refusing
from ..common.ml import NUMBERS, kept, of_attributes
from ..common.ml_features import (
    BINARIZER,
    IMPUTER,
    NORMALIZER,
    SCALER,
    VECTORIZER,
    Binarizing,
    Imputing,
    Joining,
    Normalizing,
    Scaling,
)
from ..numpy import ml_encoders as reference
from ._rows import power_above
from ._views import View, emit_view
from .indexing import gather_1
from .movement import check_plain, index_type, magic

_CODE = "onnxref.kernels.cupy.code"
_kernel = partial(cuda_kernel, _CODE, "ml_features.cu")
_one_hot = partial(cuda_kernel, _CODE, "one_hot_encoder.cu")
_ITEMS = 4  # elements of a thread, as in the kernels


# --- features ------------------------------------------------------------------------------------


def _launch(
    site: Site, entry: str, x: Operand, total: int, *arguments: Any, reach: int = 0, **defines: Any
) -> None:
    """Launch an elementwise kernel."""
    if total:
        index = index_type(total + 4096, x.size, reach)
        kernel = _kernel(entry, **{**_UNUSED, **defines}, T=CTYPES[x.dtype.name], INDEX=index)
        site.launch(kernel, *arguments, grid=grid_for(total, per_thread=_ITEMS))


_UNUSED = {"W": "float", "IS_NAN": 0, "NORM": 0, "GROUP": 1}


def _scale(site: Site, asked: Scaling) -> None:
    x, features = asked.x, asked.features
    arguments = (x, asked.y, asked.offsets, asked.scales, x.size, features, magic(features))
    _launch(site, "scaler", x, x.size, *arguments, W=CTYPES[asked.wide])


def _impute(site: Site, asked: Imputing) -> None:
    x, features = asked.x, asked.features
    arguments = (x, asked.y, asked.table, asked.replaced, x.size, features, magic(features))
    _launch(site, "imputer", x, x.size, *arguments, IS_NAN=int(asked.is_nan))


def _binarize(site: Site, asked: Binarizing) -> None:
    x = asked.x
    _launch(site, "binarizer", x, x.size, x, asked.y, asked.limit, x.size)


def _normalize(site: Site, asked: Normalizing) -> None:
    x, y, rows, columns, norm = asked
    check_plain(y)
    if columns >= 1 << 31:
        raise Unsupported("too many columns")
    group = min(32, power_above(-(-columns // 2)))
    defines = {**_UNUSED, "NORM": norm, "GROUP": group}
    kernel = _kernel("normalizer", **defines, T=CTYPES[x.dtype.name], INDEX="int")
    if rows:
        site.launch(kernel, x, y, rows, columns, grid=grid_for(rows * group))


def _join(site: Site, asked: Joining) -> None:
    goal, count, width, parts = asked
    check_plain(goal)
    for x, columns, filled, start in parts:
        total = count * filled
        arguments = (total, columns, min(columns, filled), filled, magic(filled), width)
        _launch(site, "feature_columns", x, total, x, goal + 4 * start, *arguments, reach=goal.size)


SCALER.register("cupy", _scale)
IMPUTER.register("cupy", _impute)
BINARIZER.register("cupy", _binarize)
NORMALIZER.register("cupy", _normalize)
VECTORIZER.register("cupy", _join)


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
    keys = of_attributes(site, attributes, "keys", lambda: lookup._keys)
    table = of_attributes(site, attributes, "values", lambda: np.append(values[lookup._order], values[-1:]))
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
