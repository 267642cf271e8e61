"""Lowerings of encoders of ai.onnx.ml whose values are numbers. All are exact."""

from __future__ import annotations

from typing import Any

import numpy as np

from onnxref.lowering import Operand, Site, Unsupported, lower
from onnxref.native import native
from onnxref.registry import ML

from ..common.checks import accept, check_result, only_output, refusing
from ..common.ml import of_attributes
from ..numpy import ml_encoders as reference
from .text import emit_look_up, emit_one_hot

CODE = "onnxref.kernels.numba.code.ml_encoders"
_KEYS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float32", "float64")
_BLOCK = 1024  # elements of a unit of `look_up`, as in the kernel
_LOOK_UP_NS = 4.0


def _encode(site: Site, x: Operand, lookup: reference.Lookup, attributes: dict[str, Any]) -> None:
    if x.dtype.hasobject:
        accept(lookup._dtype.hasobject, "keys that are no strings")
        emit_look_up(site, x, attributes, lookup)
        return
    y = only_output(site)
    values = lookup._values
    if x.dtype != lookup._dtype or x.dtype.name not in _KEYS or values.dtype.kind not in "iuf":
        raise Unsupported("keys or values that are no numbers, or of another type than X")
    if not lookup._keys.size or y.dtype != values.dtype or y.dtype.itemsize > 8:
        raise Unsupported("no keys")
    check_result(y, x.shape)
    key = f"int{8 * x.dtype.itemsize}" if lookup._bitwise else x.dtype.name
    keys = of_attributes(site, attributes, "keys", lambda: lookup._keys)
    table = of_attributes(site, attributes, "values", lambda: np.append(values[lookup._order], values[-1:]))
    site.call(
        native(CODE, "look_up", key, y.dtype.itemsize),
        x,
        y,
        x.size,
        keys,
        keys.array.size,
        table,
        units=-(-x.size // _BLOCK),
        work=x.size * _LOOK_UP_NS * max(1, keys.array.size.bit_length() // 2),
    )


@lower("LabelEncoder", since=2, domain=ML, text=True)
@refusing
def label_encoder_2(site: Site, x: Operand, **attributes: Any) -> None:
    """ONNX-ML LabelEncoder-2; floats are found by their bits."""
    _encode(site, x, reference.prepare_labels_2(**attributes), attributes)


@lower("LabelEncoder", since=4, domain=ML, text=True)
@refusing
def label_encoder_4(site: Site, x: Operand, **attributes: Any) -> None:
    """ONNX-ML LabelEncoder-4; NaN finds NaN."""
    _encode(site, x, reference.prepare_labels_4(**attributes), attributes)


@lower("OneHotEncoder", since=1, domain=ML, text=True)
@refusing
def one_hot_encoder(
    site: Site,
    x: Operand,
    *,
    cats_int64s: tuple[int, ...] | None = None,
    cats_strings: tuple[str, ...] | None = None,
    zeros: int = 1,
) -> None:
    """ONNX-ML OneHotEncoder-1, where unknown categories are allowed."""
    y = only_output(site)
    if not zeros or bool(cats_strings) == bool(cats_int64s):
        raise Unsupported("categories are none, or two lists, or must all be known")
    if cats_strings and x.dtype.hasobject:
        emit_one_hot(site, x, cats_strings)
        return
    if cats_int64s is None:
        raise Unsupported("X is no strings")
    if x.dtype.name not in ("int32", "int64", "float32", "float64"):
        raise Unsupported(f"X is {x}")
    width = len(cats_int64s)
    check_result(y, (*x.shape, width))
    attributes = {"cats_int64s": cats_int64s}
    keys, last = np.unique(np.array(cats_int64s, np.int64)[::-1], return_index=True)
    site.call(
        native(CODE, "one_hot", x.dtype.name),
        x,
        y,
        of_attributes(site, attributes, "keys", lambda: keys),
        of_attributes(site, attributes, "columns", lambda: width - 1 - last),
        keys.size,
        width,
        units=x.size,
        work=x.size * (width * 0.3 + 2.0 * width.bit_length()),
        grain=64,
    )
