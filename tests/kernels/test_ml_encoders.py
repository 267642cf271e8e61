"""ONNX-ML encoders and feature operators."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from helpers import run_op
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxref import registry
from onnxref.dtypes import Array
from onnxref.errors import KernelError
from onnxref.registry import ML

F32 = np.float32
NAN = float("nan")
NUMBERS = (np.float32, np.float64, np.int64, np.int32)


def ml(op_type: str, *inputs: Any, opset: int = 4, **attributes: Any) -> Any:
    return run_op(op_type, *inputs, opset=opset, domain=ML, **attributes)


def strings(*values: Any) -> Array:
    return np.array(values, object)


# ------------------------------------------------------------------ LabelEncoder, CategoryMapper


def test_label_encoder_1_and_category_mapper() -> None:
    words = strings("b", "?", "a").reshape(3, 1)
    y = ml("LabelEncoder", words, opset=1, classes_strings=("a", "b"), default_int64=-7)
    assert y.tolist() == [[1], [-7], [0]]
    assert y.dtype == np.int64
    y = ml("LabelEncoder", np.array([1, 5, -1, 0]), opset=1, classes_strings=("a", "b"))
    assert y.tolist() == ["b", "_Unused", "_Unused", "a"]
    cats: dict[str, Any] = {"cats_strings": ("a", "b"), "cats_int64s": (30, 10)}
    assert ml("CategoryMapper", words, default_int64=-7, **cats).tolist() == [[10], [-7], [30]]
    assert ml("CategoryMapper", np.array([10, 30, 0]), default_string="?", **cats).tolist() == ["b", "a", "?"]
    with pytest.raises(KernelError, match=r"keys and values must be equally many \(got 1 and 2\)"):
        ml("CategoryMapper", words, cats_strings=("a",), cats_int64s=(1, 2))


KEYS = {"strings": ("x", "y", "x"), "int64s": (5, -3, 5), "floats": (0.5, -3.0, 0.5)}
VALUES = {"strings": ("p", "q", "r"), "int64s": (1, 2, 3), "floats": (0.25, 0.5, 0.75)}
DEFAULTS = {"strings": "_Unused", "int64s": -1, "floats": -0.0}
TYPES = {"strings": np.object_, "int64s": np.int64, "floats": F32}


@pytest.mark.parametrize("opset", [2, 4])
@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("value", VALUES)
def test_label_encoder_maps_every_pair_of_types(key: str, value: str, opset: int) -> None:
    unknown = {"strings": "?", "int64s": 99, "floats": 9.5}[key]
    x = np.array([[KEYS[key][1], unknown], [KEYS[key][0], KEYS[key][1]]], TYPES[key])
    y = ml("LabelEncoder", x, opset=opset, **{f"keys_{key}": KEYS[key], f"values_{value}": VALUES[value]})
    v = VALUES[value]
    assert y.dtype == TYPES[value]
    # "If a key is repeated, the last key takes precedence."
    assert y.tolist() == [[v[1], DEFAULTS[value]], [v[2], v[1]]]


TENSOR_TYPES = (np.int64, np.int32, np.int16, np.float32, np.float64, np.object_)


@pytest.mark.parametrize("key", TENSOR_TYPES)
@pytest.mark.parametrize("value", TENSOR_TYPES)
@pytest.mark.parametrize("with_default", [False, True])
def test_label_encoder_4_tensors(key: Any, value: Any, with_default: bool) -> None:
    keys, values = (np.array(["1", "2"] if t is np.object_ else [1, 2], t) for t in (key, value))
    default = np.array(["9" if value is np.object_ else 9], value)
    kw = {"default_tensor": default} if with_default else {}
    x = np.array(["2", "3"] if key is np.object_ else [2, 3], key)
    y = ml("LabelEncoder", x, keys_tensor=keys, values_tensor=values, **kw)
    fallback = "_Unused" if value is np.object_ else -1 if np.dtype(value).kind == "i" else -0.0
    assert y.dtype == values.dtype
    assert y.tolist() == [values[1], default[0] if with_default else fallback]


def test_label_encoder_compares_bits_in_version_2_only() -> None:
    quiet = np.array([0x7FC00000, 0x7FC00001], np.uint32).view(F32)
    x = np.array([0.0, -0.0, *quiet], F32)
    kw: dict[str, Any] = {"keys_floats": (0.0, NAN), "values_int64s": (7, 8)}
    assert ml("LabelEncoder", x, opset=2, **kw).tolist() == [7, -1, 8, -1]
    assert ml("LabelEncoder", x, opset=4, **kw).tolist() == [7, 7, 8, 8]


@settings(max_examples=50, deadline=None)
@given(
    keys=st.lists(st.integers(-5, 5), max_size=6),
    x=st.lists(st.integers(-6, 6), max_size=8),
)
def test_label_encoder_is_a_dict(keys: list[int], x: list[int]) -> None:
    values = list(range(len(keys)))
    table = dict(zip(keys, values, strict=True))
    y = ml("LabelEncoder", np.array(x, np.int64), keys_int64s=tuple(keys), values_int64s=tuple(values))
    assert y.tolist() == [table.get(v, -1) for v in x]


def test_label_encoder_of_a_scalar() -> None:
    y = ml("LabelEncoder", np.array(1), keys_int64s=(1,), values_strings=("one",))
    assert (y.shape, y.dtype, y.item()) == ((), np.object_, "one")
    y = ml("LabelEncoder", np.array("one", object), keys_strings=("one",), values_int64s=(1,))
    assert (y.shape, y.dtype, y.item()) == ((), np.int64, 1)


@pytest.mark.parametrize(
    ("kw", "message"),
    [
        ({"values_int64s": (1,)}, r"exactly one of keys_floats, .* must be given \(got none\)"),
        ({"keys_int64s": (1,)}, "exactly one of values_floats"),
        (
            {"keys_int64s": (1,), "keys_floats": (1.0,), "values_int64s": (1,)},
            r"\(got keys_floats, keys_int64s\)",
        ),
        ({"keys_int64s": (1, 2), "values_int64s": (1,)}, r"equally many \(got 2 and 1\)"),
        (
            {"keys_strings": ("a",), "values_int64s": (1,)},
            r"X must have the type of the keys, strings \(got int64\)",
        ),
        (
            {"keys_int64s": (1,), "values_int64s": (1,), "default_tensor": np.array([1.0])},
            "default_tensor must hold one value of type int64",
        ),
        (
            {"keys_int64s": (1,), "values_tensor": np.array([1], np.int16), "default_int64": 2**20},
            "default_int64 must fit into int16",
        ),
    ],
)
def test_label_encoder_bad_arguments(kw: dict[str, Any], message: str) -> None:
    with pytest.raises(KernelError, match=message):
        ml("LabelEncoder", np.array([1]), **kw)


# ------------------------------------------------------------------ OneHotEncoder


@pytest.mark.parametrize("dtype", [*NUMBERS, np.object_])
def test_one_hot(dtype: Any) -> None:
    text = dtype is np.object_
    x = np.array([["7", "8"], ["5", "7"]] if text else [[7, 8], [5, 7]], dtype)
    cats: dict[str, Any] = {"cats_strings": ("5", "7")} if text else {"cats_int64s": (5, 7)}
    y = ml("OneHotEncoder", x, **cats)
    assert y.dtype == F32
    assert y.tolist() == [[[0, 1], [0, 0]], [[1, 0], [0, 1]]]
    assert ml(
        "OneHotEncoder", x[0, 0].reshape(()) if not text else np.array("7", object), **cats
    ).tolist() == [0, 1]
    with pytest.raises(KernelError, match="X must hold known categories only"):
        ml("OneHotEncoder", x, zeros=0, **cats)


def test_one_hot_casts_to_integers_first() -> None:
    x = np.array([1.9, -0.9, NAN, np.inf, 1e30], F32)
    y = ml("OneHotEncoder", x, cats_int64s=(0, 1, -(2**63)))
    assert y.tolist() == [[0, 1, 0], [1, 0, 0], [0, 0, 0], [0, 0, 0], [0, 0, 0]]


def test_one_hot_bad_arguments() -> None:
    with pytest.raises(KernelError, match="exactly one of cats_int64s, cats_strings"):
        ml("OneHotEncoder", np.array([1]))
    with pytest.raises(KernelError, match="X must have the type of the keys, strings"):
        ml("OneHotEncoder", np.array([1]), cats_strings=("a",))
    cost = registry.find(ML, "OneHotEncoder", 1).cost
    assert cost is not None
    assert cost(np.zeros((2, 3)), cats_int64s=(1, 2)).out_bytes == 2 * 3 * 2 * 4


# ------------------------------------------------------------------ maps


@pytest.mark.parametrize(
    ("x", "kw", "want"),
    [
        ({3: 1.5, 1: F32(2)}, {}, [[2.0, 1.5]]),
        ({3: "1.5", 1: "2"}, {}, [[2.0, 1.5]]),
        ({3: -1.9, 1: 2.0}, {"cast_to": "TO_INT64"}, [[2, -1]]),
        ({3: "-19", 1: "2"}, {"cast_to": "TO_INT64"}, [[2, -19]]),
        ({3: 1.5, 1: F32(0.1)}, {"cast_to": "TO_STRING"}, [["0.1", "1.5"]]),
        ({3: 1.5, 1: 2.0}, {"map_form": "SPARSE", "max_map": 5}, [[0, 2.0, 0, 1.5, 0]]),
        ({3: "b"}, {"map_form": "SPARSE", "max_map": 4, "cast_to": "TO_STRING"}, [["", "", "", "b"]]),
        ({}, {}, [[]]),
        ({}, {"map_form": "SPARSE", "max_map": 2}, [[0.0, 0.0]]),
    ],
)
def test_cast_map(x: dict[int, Any], kw: dict[str, Any], want: list[Any]) -> None:
    y = ml("CastMap", x, **kw)
    assert y.dtype == {"TO_INT64": np.int64, "TO_STRING": np.object_}.get(kw.get("cast_to", ""), F32)
    assert y.tolist() == want


@pytest.mark.parametrize(
    ("x", "kw", "message"),
    [
        ({1: 1.0}, {"cast_to": "TO_BOOL"}, "cast_to must be one of"),
        ({1: 1.0}, {"map_form": "CSR"}, "map_form must be one of DENSE, SPARSE"),
        ({1: 1.0}, {"map_form": "SPARSE"}, r"keys must be in \[0, 0\]"),
        ({-1: 1.0}, {"map_form": "SPARSE", "max_map": 3}, r"keys must be in \[0, 2\]"),
        ({1: 1.0}, {"map_form": "SPARSE", "max_map": 0}, "max_map must be >= 1"),
        ({1: "x"}, {}, "values must be numbers, for TO_FLOAT"),
        ({1: NAN}, {"cast_to": "TO_INT64"}, "values must be numbers, for TO_INT64"),
        ({1: 1e30}, {"cast_to": "TO_INT64"}, "values must fit into int64"),
    ],
)
def test_cast_map_bad_arguments(x: dict[int, Any], kw: dict[str, Any], message: str) -> None:
    with pytest.raises(KernelError, match=message):
        ml("CastMap", x, **kw)


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        ((4, 8), np.int64),
        ((4.5, 8.5), F32),
        ((F32(4.5), F32(8.5)), F32),
        ((np.float64(4.5), np.float64(8.5)), np.float64),
        (("u", "v"), np.object_),
    ],
)
def test_dict_vectorizer(values: tuple[Any, Any], dtype: Any) -> None:
    blank = "" if dtype is np.object_ else 0
    y = ml("DictVectorizer", {"a": values[0], "c": values[1]}, string_vocabulary=("a", "c", "b", "z"))
    assert y.dtype == dtype
    assert y.tolist() == [*values, blank, blank]
    y = ml("DictVectorizer", {9: values[0]}, int64_vocabulary=(5, 9))
    assert y.tolist() == [blank, values[0]]


def test_dict_vectorizer_refuses() -> None:
    with pytest.raises(KernelError, match=r"keys must be in the vocabulary \(got 'x'\)"):
        ml("DictVectorizer", {"x": 1}, string_vocabulary=("a",))
    with pytest.raises(KernelError, match="exactly one of int64_vocabulary, string_vocabulary"):
        ml("DictVectorizer", {"x": 1})


def test_zip_map() -> None:
    x = np.array([[0.25, 0.75], [1, 0]], F32)
    y = ml("ZipMap", x, classlabels_strings=("no", "yes"))
    assert y == [{"no": 0.25, "yes": 0.75}, {"no": 1.0, "yes": 0.0}]
    assert all(isinstance(v, F32) for row in y for v in row.values())
    assert ml("ZipMap", x[0], classlabels_int64s=(3, 5)) == [{3: 0.25, 5: 0.75}]
    assert ml("ZipMap", x[:0], classlabels_int64s=(3, 5)) == []
    with pytest.raises(KernelError, match="X must have 1 columns, one per label of classlabels_int64s"):
        ml("ZipMap", x, classlabels_int64s=(3,))
    with pytest.raises(KernelError, match="exactly one of classlabels_int64s, classlabels_strings"):
        ml("ZipMap", x)


# ------------------------------------------------------------------ features


@pytest.mark.parametrize("dtype", [*NUMBERS, np.object_])
def test_array_feature_extractor(dtype: Any) -> None:
    x = np.arange(12).astype(dtype).reshape(2, 2, 3)
    if dtype is np.object_:
        x = np.array([str(v) for v in x.flat], object).reshape(x.shape)
    y = ml("ArrayFeatureExtractor", x, np.array([[2, 0], [2, 1]]))
    assert y.dtype == x.dtype
    assert np.array_equal(y, x[..., [2, 0, 2, 1]])
    assert ml("ArrayFeatureExtractor", x[0, 0], np.array([1])).shape == (1, 1)
    for bad in (3, -1):
        with pytest.raises(KernelError, match=r"Y must be in \[0, 2\]"):
            ml("ArrayFeatureExtractor", x, np.array([bad]))
    with pytest.raises(KernelError, match="X must have rank >= 1"):
        ml("ArrayFeatureExtractor", x[0, 0, 0:1].reshape(()), np.array([0]))


@pytest.mark.parametrize("dtype", NUMBERS)
def test_feature_vectorizer(dtype: Any) -> None:
    a, b = np.array([[1, 2, 3], [4, 5, 6]], dtype), np.array([[7], [8]], dtype)
    y = ml("FeatureVectorizer", a, b, inputdimensions=(3, 1))
    assert y.dtype == F32
    assert y.tolist() == [[1, 2, 3, 7], [4, 5, 6, 8]]
    assert ml("FeatureVectorizer", a, b).tolist() == y.tolist()
    assert ml("FeatureVectorizer", a, b, inputdimensions=(2, 2)).tolist() == [[1, 2, 7, 0], [4, 5, 8, 0]]
    assert ml("FeatureVectorizer", a[0], b[0], inputdimensions=(3, 1)).tolist() == [[1, 2, 3, 7]]


def test_feature_vectorizer_refuses() -> None:
    a = np.zeros((2, 3), F32)
    for inputs, kw, message in (
        ((a, a[:1]), {}, "X must have equally many rows"),
        ((a[None],), {}, "X must be matrices or vectors"),
        ((a,), {"inputdimensions": (1, 2)}, "inputdimensions must be 1 sizes >= 0"),
        ((a,), {"inputdimensions": (-1,)}, "inputdimensions must be 1 sizes >= 0"),
    ):
        with pytest.raises(KernelError, match=message):
            ml("FeatureVectorizer", *inputs, **kw)
    cost = registry.find(ML, "FeatureVectorizer", 1).cost
    assert cost is not None
    assert cost(a, inputdimensions=(2**40,)).out_bytes == 2**43


# ------------------------------------------------------------------ numbers


@pytest.mark.parametrize("dtype", NUMBERS)
@pytest.mark.parametrize(
    ("threshold", "want"), [(0.0, [0, 0, 1]), (-1.5, [1, 1, 1]), (2.5, [0, 0, 0]), (-1.0, [0, 1, 1])]
)
def test_binarizer(dtype: Any, threshold: float, want: list[int]) -> None:
    y = ml("Binarizer", np.array([-1, 0, 2], dtype), threshold=threshold)
    assert y.dtype == dtype
    assert y.tolist() == want


def test_binarizer_is_exact_for_large_integers() -> None:
    x = np.array([2**60, 2**60 + 1])
    assert ml("Binarizer", x, threshold=float(2**60)).tolist() == [0, 1]
    assert ml("Binarizer", x, threshold=math.inf).tolist() == [0, 0]
    assert ml("Binarizer", np.array([NAN, 1], F32)).tolist() == [0, 1]


@pytest.mark.parametrize("dtype", NUMBERS)
def test_imputer(dtype: Any) -> None:
    floating = np.dtype(dtype).kind == "f"
    x = np.array([[0, 1], [5, 0]], dtype)
    imputed, replaced = ("imputed_value_floats", "replaced_value_float") if floating else (
        "imputed_value_int64s", "replaced_value_int64")  # fmt: skip
    y = ml("Imputer", x, **{imputed: (7, 8)})
    assert y.dtype == dtype
    assert y.tolist() == [[7, 1], [5, 8]]
    assert ml("Imputer", x, **{imputed: (7,), replaced: 5}).tolist() == [[0, 1], [7, 0]]
    assert x.tolist() == [[0, 1], [5, 0]]


def test_imputer_replaces_nan() -> None:
    x = np.array([NAN, 0.0], F32)
    y = ml("Imputer", x, imputed_value_floats=(3.0,), replaced_value_float=NAN)
    assert y.tolist() == [3, 0]


def test_imputer_refuses() -> None:
    x = np.zeros((2, 2), np.int32)
    with pytest.raises(
        KernelError, match=r"imputed_value_int64s must be given for X of type int32 \(got none\)"
    ):
        ml("Imputer", x, imputed_value_floats=(1.0,))
    with pytest.raises(KernelError, match=r"imputed_value_int64s must hold 1 or 2 values \(got 3\)"):
        ml("Imputer", x, imputed_value_int64s=(1, 2, 3))
    with pytest.raises(KernelError, match="imputed_value_int64s must fit into int32"):
        ml("Imputer", x, imputed_value_int64s=(2**40,))


@pytest.mark.parametrize("dtype", NUMBERS)
def test_scaler(dtype: Any) -> None:
    x = np.array([[1, 2], [3, 4]], dtype)
    y = ml("Scaler", x, offset=(1.0, 0.5), scale=(2.0, 3.0))
    assert y.dtype == F32
    assert y.tolist() == [[0, 4.5], [4, 10.5]]
    assert ml("Scaler", x, offset=(1.0,), scale=(2.0,)).tolist() == [[0, 2], [4, 6]]
    assert ml("Scaler", x).tolist() == x.tolist()
    with pytest.raises(KernelError, match=r"scale must hold 1 or 2 values \(got 3\)"):
        ml("Scaler", x, scale=(1.0, 2.0, 3.0))


@pytest.mark.parametrize("dtype", NUMBERS)
@pytest.mark.parametrize(
    ("norm", "want"),
    [
        ("MAX", [[-1, 0.5, 1], [3, 1, 2]]),
        ("L1", [[-0.4, 0.2, 0.4], [-0.5, -1 / 6, -1 / 3]]),
        ("L2", [[-4 / 6, 2 / 6, 4 / 6], [-3 / 14**0.5, -1 / 14**0.5, -2 / 14**0.5]]),
    ],
)
def test_normalizer(dtype: Any, norm: str, want: list[list[float]]) -> None:
    x = np.array([[-4, 2, 4], [-3, -1, -2], [0, 0, 0]], dtype)
    y = ml("Normalizer", x, norm=norm)
    assert y.dtype == F32
    np.testing.assert_allclose(y, [*want, [0, 0, 0]], rtol=1e-6)
    np.testing.assert_array_equal(ml("Normalizer", x[1], norm=norm), y[1])


def test_normalizer_edges() -> None:
    assert ml("Normalizer", np.zeros((2, 0), F32)).shape == (2, 0)
    with pytest.raises(KernelError, match="norm must be one of MAX, L1, L2"):
        ml("Normalizer", np.zeros(2, F32), norm="L3")
    with pytest.raises(KernelError, match=r"X must have shape \(N, C\) or \(C,\)"):
        ml("Normalizer", np.zeros((1, 1, 1), F32))
