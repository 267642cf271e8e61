"""Features and encoders of ai.onnx.ml on the emulator, held to the reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxref.kernels.cupy.ml_features  # noqa: F401 - registers
import pytest

from onnxref.dtypes import Array
from onnxref.lowering import Unsupported
from onnxref.plan.specialize import RefusedError
from onnxref.registry import ML
from tests.lowered import reference

from .lowered import run_on_device

NUMBERS = ("float32", "float64", "int32", "int64")
_NAN = float("nan")


def check(
    op_type: str,
    inputs: list[Array],
    attributes: dict[str, Any],
    opset: int = 1,
    rtol: float = 0.0,
    **run: Any,
) -> None:
    expected = reference(op_type, inputs, attributes, opset, ML)
    places = [(y.shape, y.dtype) for y in expected]
    found = run_on_device(op_type, inputs, places, attributes, opset=opset, domain=ML, **run)
    for y, wanted in zip(found, expected, strict=True):
        assert y is not None
        if rtol:
            np.testing.assert_allclose(y, wanted, rtol=rtol, atol=0)
        else:
            assert y.tobytes() == wanted.tobytes(), (y, wanted)


def rows(name: str, shape: tuple[int, ...] = (37, 5)) -> Array:
    x = np.random.default_rng(2).integers(-9, 9, shape) / (2 if name.startswith("f") else 1)
    return x.astype(name)


@pytest.mark.parametrize("name", NUMBERS)
def test_scaler(name: str) -> None:
    check("Scaler", [rows(name)], {"offset": (0.1, 1, 2, 3, -4), "scale": (0.3, 1, 0.7, -2, 1e-3)})
    check("Scaler", [rows(name, (3, 400))], {"offset": (0.1,), "scale": (0.3,)})
    check("Scaler", [rows(name, (7,))], {"offset": (0.25,)})
    check("Scaler", [rows(name, (0, 3))], {"scale": (0.25,)})


@pytest.mark.parametrize("name", NUMBERS)
def test_imputer(name: str) -> None:
    x = rows(name)
    if name.startswith("f"):
        check("Imputer", [x], {"imputed_value_floats": (0.1, 1, 2, 3, 4), "replaced_value_float": 1.5})
        x[::3, 1:4] = np.nan
        check("Imputer", [x], {"imputed_value_floats": (7.5,), "replaced_value_float": _NAN})
    else:
        check("Imputer", [x], {"imputed_value_int64s": (10, 20, 30, 40, 50), "replaced_value_int64": 3})


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("threshold", [0.0, 1.5, -2.0])
def test_binarizer(name: str, threshold: float) -> None:
    check("Binarizer", [rows(name, (1031,))], {"threshold": threshold})


@pytest.mark.parametrize("norm", ["MAX", "L1", "L2"])
@pytest.mark.parametrize("columns", [1, 3, 5, 70])
def test_normalizer(columns: int, norm: str) -> None:
    x = rows("float32", (19, columns))
    x[3] = 0
    x[4, 0] = np.nan
    check("Normalizer", [x], {"norm": norm}, rtol=2e-7)


@pytest.mark.parametrize("name", ["float64", "int64"])
def test_normalizer_of_other_types(name: str) -> None:
    check("Normalizer", [rows(name, (9,))], {"norm": "L2"}, rtol=2e-7)


def test_feature_vectorizer() -> None:
    parts = [
        rows("float32", (13, 5)),
        rows("int64", (13, 3)),
        rows("float64", (13, 1)),
        rows("int32", (13, 2)),
    ]
    check("FeatureVectorizer", parts, {"inputdimensions": (4, 6, 1, 0)})
    check("FeatureVectorizer", parts, {})
    check("FeatureVectorizer", [rows("float32", (4,))], {"inputdimensions": (6,)})


@pytest.mark.parametrize("shape", [(6, 7), (2, 3, 7), (7,)])
@pytest.mark.parametrize("constants", [(), (1,)])
def test_array_feature_extractor(shape: tuple[int, ...], constants: tuple[int, ...]) -> None:
    places = np.array([[6, 0, 3, 3]])
    for name in ("float32", "int64"):
        check("ArrayFeatureExtractor", [rows(name, shape), places], {}, constants=constants)


@pytest.mark.parametrize("place", [7, -1])
def test_places_out_of_range(place: int) -> None:
    x = rows("float32", (6, 7))
    with pytest.raises(RefusedError):
        run_on_device("ArrayFeatureExtractor", [x, np.array([place])], [((6, 1), "f4")], opset=1, domain=ML)


_KEYS_I, _KEYS_F = (5, -3, 7, 5, 2**60), (0.5, -0.0, _NAN, 2.0, 0.5)
_VALUES_I, _VALUES_F = (1, 2, 3, 4, 5), (0.1, 0.2, _NAN, -0.0, 1.0)


@pytest.mark.parametrize("opset", [2, 4])
@pytest.mark.parametrize("keys", [("int64s", _KEYS_I), ("floats", _KEYS_F), ("floats", (1.0,))])
@pytest.mark.parametrize("values", [("int64s", _VALUES_I), ("floats", _VALUES_F)])
def test_label_encoder(values: Any, keys: Any, opset: int) -> None:
    (key, held), (value, found) = keys, values
    attributes = {f"keys_{key}": held, f"values_{value}": found[: len(held)], "default_int64": 42}
    dtype = "int64" if key == "int64s" else "float32"
    check("LabelEncoder", [np.array([*held, 0, 1, -7] * 50, dtype).reshape(2, -1)], attributes, opset)


@pytest.mark.parametrize(("key", "value"), [("int16", "float64"), ("int32", "int16"), ("float64", "int32")])
def test_label_encoder_of_tensors(key: str, value: str) -> None:
    attributes = {
        "keys_tensor": np.array([4, 1, 3], key),
        "values_tensor": np.array([7, 8, 9], value),
        "default_tensor": np.array([-5], value),
    }
    for shape in ((6,), (2, 3), (0,), ()):
        check("LabelEncoder", [np.arange(int(np.prod(shape))).reshape(shape).astype(key)], attributes, 4)


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("cats", [(3, 1, 2), (1, 5, 1, -2), (9,)])
def test_one_hot_encoder(cats: tuple[int, ...], name: str) -> None:
    x = np.array([[1, 2, 3], [5, -2, 9]], name)
    if name.startswith("f"):
        x[0] = 1.75, np.nan, np.inf
    check("OneHotEncoder", [x], {"cats_int64s": cats})


@pytest.mark.parametrize(
    ("op_type", "attributes", "opset"),
    [
        ("LabelEncoder", {"keys_strings": ("a",), "values_int64s": (1,)}, 2),
        ("LabelEncoder", {"keys_int64s": (1,), "values_strings": ("a",)}, 2),
        ("OneHotEncoder", {"cats_int64s": (1,), "zeros": 0}, 1),
        ("Scaler", {"offset": (1.0, 2.0)}, 1),
        ("Binarizer", {"threshold": _NAN}, 1),
        ("Normalizer", {"norm": "L3"}, 1),
    ],
)
def test_refusals(op_type: str, attributes: dict[str, Any], opset: int) -> None:
    x = np.zeros((2, 3), np.int64)
    with pytest.raises(Unsupported):
        run_on_device(op_type, [x], [(x.shape, np.int64)], attributes, opset=opset, domain=ML)
