"""Encoders in native code beside the reference: exact."""

from __future__ import annotations

import numpy as np
import onnxref.kernels.numba.ml_encoders
import onnxref.kernels.numpy  # noqa: F401
import pytest

from onnxref.lowering import Unsupported
from tests.lowered import check_lowered, run_lowered

ML = "ai.onnx.ml"
NAN = float("nan")
KEYS_I, KEYS_F = (5, -3, 7, 5, 2**60), (0.5, -0.0, NAN, 2.0, 0.5)
VALUES_I, VALUES_F = (1, 2, 3, 4, 5), (0.1, 0.2, NAN, -0.0, 1.0)


@pytest.mark.parametrize("parallel", [False, True])
@pytest.mark.parametrize("opset", [2, 4])
@pytest.mark.parametrize("keys", [("int64s", KEYS_I), ("floats", KEYS_F), ("floats", (1.0,))])
@pytest.mark.parametrize("values", [("int64s", VALUES_I), ("floats", VALUES_F)])
def test_label_encoder(values, keys, opset, parallel):
    (key, held), (value, found) = keys, values
    attributes = {f"keys_{key}": held, f"values_{value}": found[: len(held)], "default_int64": 42}
    dtype = "int64" if key == "int64s" else "float32"
    x = np.array([*held, 0, 1, -7] * 500, dtype).reshape(2, -1)
    check_lowered("LabelEncoder", [x], attributes, opset=opset, domain=ML, parallel=parallel)


@pytest.mark.parametrize("key", ["int16", "int32", "float64", "int64"])
@pytest.mark.parametrize("value", ["int16", "int32", "float64"])
def test_label_encoder_of_tensors(key, value):
    attributes = {
        "keys_tensor": np.array([4, 1, 3], key),
        "values_tensor": np.array([7, 8, 9], value),
        "default_tensor": np.array([-5], value),
    }
    for shape in ((6,), (2, 3), (0,), ()):
        x = np.arange(int(np.prod(shape))).reshape(shape).astype(key)
        check_lowered("LabelEncoder", [x], attributes, opset=4, domain=ML)


@pytest.mark.parametrize("dtype", ["int32", "int64", "float32", "float64"])
@pytest.mark.parametrize("cats", [(3, 1, 2), (1, 5, 1, -2), (9,)])
def test_one_hot_encoder(cats, dtype):
    x = np.array([[1, 2, 3], [5, -2, 9]], dtype)
    if "float" in dtype:
        x[0] = 1.75, np.nan, np.inf
    check_lowered("OneHotEncoder", [x], {"cats_int64s": cats}, opset=1, domain=ML)


@pytest.mark.parametrize(
    ("op_type", "attributes", "opset"),
    [
        ("LabelEncoder", {"keys_strings": ("a",), "values_int64s": (1,)}, 2),
        ("LabelEncoder", {"keys_int64s": (1,), "values_strings": ("a",)}, 2),
        ("LabelEncoder", {"keys_floats": (1.0,), "values_int64s": (1,)}, 2),
        ("OneHotEncoder", {"cats_int64s": (1,), "zeros": 0}, 1),
    ],
)
def test_the_rest_is_left_to_the_reference(op_type, attributes, opset):
    x = np.array([1, 2])
    with pytest.raises(Unsupported):
        run_lowered(op_type, [x], [((2,), "int64")], attributes, opset=opset, domain=ML)
