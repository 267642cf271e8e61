"""Linear models and support vector machines on the emulator beside the reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxref.kernels.cupy.ml_linear
import pytest

from onnxref.dtypes import Array
from onnxref.lowering import Unsupported
from onnxref.registry import ML
from tests.lowered import reference

from .lowered import run_on_device

TRANSFORMS = ("NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO", "PROBIT")
NUMBERS = ("float32", "float64", "int32", "int64")


def numbers(shape: tuple[int, ...], name: str = "float32") -> Array:
    rng = np.random.default_rng(0)
    return (rng.integers(-9, 9, shape) if name.startswith("i") else rng.normal(size=shape)).astype(name)


def floats(count: int, seed: int = 1, scale: float = 1.0) -> tuple[float, ...]:
    return tuple((scale * np.random.default_rng(seed).normal(size=count)).astype("f4").tolist())


def check(op_type: str, x: Array, attributes: dict[str, Any], tolerance: float = 2e-5, **run: Any) -> None:
    expected = reference(op_type, [x], attributes, 1, ML)
    places = [(y.shape, y.dtype) for y in expected]
    found = run_on_device(op_type, [x], places, attributes, opset=1, domain=ML, **run)
    for y, wanted in zip(found, expected, strict=True):
        assert y is not None
        if wanted.dtype.kind == "i":
            np.testing.assert_array_equal(y, wanted)
        else:
            np.testing.assert_allclose(y, wanted, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize(
    ("n", "features", "targets"), [(1, 1, 3), (7, 20, 1), (40, 129, 5), (3, 64, 2), (0, 4, 2)]
)
def test_linear_regressor(n: int, features: int, targets: int, name: str) -> None:
    attributes = {"coefficients": floats(features * targets), "targets": targets}
    x = numbers((n, features), name)
    check("LinearRegressor", x, attributes, orders=(0, 1))
    check("LinearRegressor", x, attributes | {"intercepts": floats(targets)}, orders=(0,))


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("name", ["float32", "int64"])
@pytest.mark.parametrize(("targets", "labels"), [(1, None), (1, (4, 2)), (3, (4, 2, 7))])
def test_linear_classifier(targets: int, labels: Any, name: str, transform: str) -> None:
    attributes: dict[str, Any] = {
        "coefficients": floats(targets * 12, scale=0.2),
        "post_transform": transform,
    }
    attributes |= {"intercepts": floats(targets)} | ({"classlabels_ints": labels} if labels else {})
    tolerance = 1e-3 if transform == "PROBIT" else 2e-5
    check("LinearClassifier", numbers((30, 12), name), attributes, tolerance, orders=(0,))


def test_nan_and_many_classes() -> None:
    attributes = {"coefficients": floats(40 * 5), "classlabels_ints": tuple(range(7, 47))}
    x = numbers((131, 5))
    x[0, 0], x[-1] = np.nan, 0
    check("LinearClassifier", x, attributes)


def test_unwanted_outputs() -> None:
    attributes = {"coefficients": floats(15), "classlabels_ints": (3, 1, 2)}
    x = numbers((9, 5))
    label, scores = reference("LinearClassifier", [x], attributes, 1, ML)
    places = [(label.shape, label.dtype), (scores.shape, scores.dtype)]
    found, _ = run_on_device("LinearClassifier", [x], [places[0], None], attributes, opset=1, domain=ML)
    np.testing.assert_array_equal(found, label)
    _, found = run_on_device("LinearClassifier", [x], [None, places[1]], attributes, opset=1, domain=ML)
    np.testing.assert_allclose(found, scores, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("kernel", ["LINEAR", "POLY", "RBF", "SIGMOID"])
@pytest.mark.parametrize(
    ("n", "features", "count", "name"), [(9, 5, 40, "float32"), (3, 30, 1, "float32"), (5, 3, 133, "int64")]
)
def test_svm_regressor(n: int, features: int, count: int, name: str, kernel: str) -> None:
    attributes: dict[str, Any] = {
        "coefficients": floats(count),
        "kernel_params": (0.1, 0.5, 3.0),
        "kernel_type": kernel,
        "n_supports": count,
        "rho": (0.25,),
        "support_vectors": floats(count * features, 3),
    }
    x = numbers((n, features), name)
    check("SVMRegressor", x, attributes, 1e-6)
    check("SVMRegressor", x, attributes | {"one_class": 1}, 0.0, orders=(0,))


def test_models_without_support_vectors() -> None:
    x = numbers((8, 6))
    check("SVMRegressor", x, {"coefficients": floats(6), "rho": (0.5,)}, 1e-6)
    attributes = {"coefficients": floats(18), "rho": (0.5,), "classlabels_ints": (3, 1, 2)}
    check("SVMClassifier", x, attributes, 1e-6)


@pytest.mark.parametrize("transform", TRANSFORMS[:3])
@pytest.mark.parametrize("probable", [False, True])
@pytest.mark.parametrize("classes", [2, 4])
def test_svm_classifier(
    classes: int, probable: bool, transform: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = (5, 0, 17, 30)[:classes] if classes > 2 else (5, 8)
    total, pairs = sum(counts), classes * (classes - 1) // 2
    attributes: dict[str, Any] = {
        "classlabels_ints": tuple(range(10, 10 + classes)),
        "coefficients": floats((classes - 1) * total),
        "kernel_params": (0.2, 0.0, 3.0),
        "kernel_type": "RBF",
        "post_transform": transform,
        "rho": floats(pairs, 2),
        "support_vectors": floats(total * 7, 3),
        "vectors_per_class": counts,
    }
    if probable:
        attributes |= {"prob_a": floats(pairs, 4), "prob_b": floats(pairs, 5)}
    check("SVMClassifier", numbers((25, 7)), attributes, 2e-6)
    monkeypatch.setattr(onnxref.kernels.cupy.ml_linear, "_PRODUCTS", 8 * total)  # some rows after the others
    check("SVMClassifier", numbers((25, 7)), attributes, 2e-6, orders=(0,))


@pytest.mark.parametrize(
    ("op_type", "attributes"),
    [
        ("LinearRegressor", {"coefficients": (1.0, 2.0)}),
        ("LinearRegressor", {"coefficients": (1.0, 2.0, 3.0), "post_transform": "X"}),
        ("LinearClassifier", {"coefficients": (1.0, 2.0, 3.0), "classlabels_strings": ("a", "b")}),
        ("SVMRegressor", {"coefficients": (1.0, 2.0)}),
    ],
)
def test_refusals(op_type: str, attributes: dict[str, Any]) -> None:
    with pytest.raises(Unsupported):
        run_on_device(op_type, [numbers((2, 3))], [((2, 1), "f4")], attributes, opset=1, domain=ML)
