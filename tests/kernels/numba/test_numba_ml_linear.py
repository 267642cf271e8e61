"""Linear models, support vector machines and feature scaling in native code beside the reference."""

from __future__ import annotations

import numba
import numpy as np
import onnxref.kernels.numba.ml_linear
import onnxref.kernels.numpy  # noqa: F401
import pytest

from onnxref.lowering import Unsupported
from tests.lowered import check_lowered, run_lowered

ML = "ai.onnx.ml"
TRANSFORMS = ("NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO", "PROBIT")
DTYPES = ("float32", "float64", "int32", "int64")


def numbers(shape, dtype="float32", seed=0):
    rng = np.random.default_rng(seed)
    return (
        rng.integers(-9, 9, shape).astype(dtype) if "int" in dtype else rng.normal(size=shape).astype(dtype)
    )


def floats(count, seed=1, scale=1.0):
    return tuple((scale * np.random.default_rng(seed).normal(size=count)).astype("f4").tolist())


def check(op_type, inputs, attributes, *, rtol=2e-5, atol=2e-5, **options):
    check_lowered(op_type, inputs, attributes, opset=1, domain=ML, rtol=rtol, atol=atol, **options)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("n", "features", "targets"), [(1, 1, 3), (7, 20, 1), (40, 129, 5), (3, 64, 2), (0, 4, 2)]
)
def test_linear_regressor(n, features, targets, dtype):
    attributes = {"coefficients": floats(features * targets), "targets": targets}
    x = numbers((n, features), dtype)
    check("LinearRegressor", [x], attributes, parallel=True)
    check("LinearRegressor", [x], attributes | {"intercepts": floats(targets)})


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("dtype", ["float32", "float64", "int64"])
@pytest.mark.parametrize(("targets", "labels"), [(1, None), (1, (4, 2)), (3, (4, 2, 7))])
def test_linear_classifier(targets, labels, dtype, transform):
    attributes = {"coefficients": floats(targets * 12, scale=0.2), "post_transform": transform}
    attributes |= {"intercepts": floats(targets)} | ({"classlabels_ints": labels} if labels else {})
    atol = 1e-3 if transform == "PROBIT" else 2e-5
    check("LinearClassifier", [numbers((30, 12), dtype)], attributes, n_outputs=2, rtol=atol, atol=atol)


@pytest.mark.parametrize(
    ("rows", "features", "targets", "transform"),
    [
        (1, 3, 2, "NONE"),
        (15, 1, 4, "SOFTMAX"),
        (64, 20, 16, "LOGISTIC"),
        (150, 9, 10, "SOFTMAX"),
        (65, 33, 17, "SOFTMAX"),
        (131, 5, 40, "NONE"),
    ],
)
def test_many_rows(rows, features, targets, transform):
    attributes = {"coefficients": floats(targets * features), "intercepts": floats(targets, 3)}
    attributes |= {"classlabels_ints": tuple(range(7, 7 + targets)), "post_transform": transform}
    x = numbers((rows, features))
    x[0, 0], x[-1] = np.nan, 0
    for parallel in (False, True):
        check("LinearClassifier", [x], attributes, n_outputs=2, parallel=parallel)


def test_regression_of_many_rows():
    for targets in (2, 9):
        attributes = {"coefficients": floats(targets * 7), "targets": targets}
        check("LinearRegressor", [numbers((150, 7))], attributes)


@pytest.mark.parametrize("kernel", ["LINEAR", "POLY", "RBF", "SIGMOID"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n", "features", "count"), [(9, 5, 40), (3, 30, 1), (1, 1, 33)])
def test_svm_regressor(n, features, count, dtype, kernel):
    attributes = {
        "coefficients": floats(count),
        "kernel_params": (0.1, 0.5, 3.0),
        "kernel_type": kernel,
        "n_supports": count,
        "rho": (0.25,),
        "support_vectors": floats(count * features, 3),
    }
    x = numbers((n, features), dtype)
    check("SVMRegressor", [x], attributes, rtol=1e-6, atol=1e-6)
    check("SVMRegressor", [x], attributes | {"one_class": 1}, rtol=0, atol=0)


def test_models_without_support_vectors():
    x = numbers((8, 6))
    check("SVMRegressor", [x], {"coefficients": floats(6), "rho": (0.5,)}, rtol=1e-6, atol=1e-6)
    attributes = {"coefficients": floats(18), "rho": (0.5,), "classlabels_ints": (3, 1, 2)}
    check("SVMClassifier", [x], attributes, n_outputs=2, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("transform", TRANSFORMS[:3])
@pytest.mark.parametrize("probable", [False, True])
@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("parallel", [False, True])
def test_svm_classifier(classes, probable, transform, parallel):
    counts = (5, 0, 17, 30)[:classes] if classes > 2 else (5, 8)
    total, pairs = sum(counts), classes * (classes - 1) // 2
    attributes = {
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
    x = numbers((25, 7))
    check("SVMClassifier", [x], attributes, n_outputs=2, rtol=2e-6, atol=2e-6, parallel=parallel)


def test_exponential():
    from onnxref.kernels.numba.code.ml_trees import exp64

    x = np.concatenate([np.linspace(-745, 709.7, 20001), [0.0, -0.0, np.inf, -np.inf, 800, np.nan]])
    apply = numba.njit(lambda v: exp64(v))  # only compiled code may call it
    found = np.array([apply(v) for v in x])
    with np.errstate(all="ignore"):
        np.testing.assert_allclose(found, np.exp(x), rtol=5e-16, atol=1e-306)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(20, 7), (7,), (2, 3, 1), (0, 7)])
def test_scaler(shape, dtype):
    x, f = numbers(shape, dtype), shape[-1]
    check("Scaler", [x], {"offset": floats(f), "scale": floats(f, 2)}, rtol=0, atol=0)
    check("Scaler", [x], {"offset": (0.5,)}, rtol=0, atol=0)
    check("Scaler", [x], {}, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(20, 7), (7,), (2, 3, 7)])
def test_imputer(shape, dtype):
    x = numbers(shape, dtype)
    if "int" in dtype:
        for values in ((5,), tuple(range(7))):
            check("Imputer", [x], {"imputed_value_int64s": values, "replaced_value_int64": 3}, rtol=0, atol=0)
        return
    x.flat[::3] = np.nan
    x.flat[1::5] = 0.1
    for replaced in (float("nan"), 0.1):
        for values in ((2.5,), floats(7)):
            attributes = {"imputed_value_floats": values, "replaced_value_float": replaced}
            check("Imputer", [x], attributes, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("threshold", [0.0, -1.5, 0.1])
def test_binarizer(threshold, dtype):
    x = numbers((33, 70), dtype)
    if "float" in dtype:
        x[0, :3] = threshold, np.nan, np.inf
    check("Binarizer", [x], {"threshold": threshold}, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("norm", ["MAX", "L1", "L2"])
@pytest.mark.parametrize("shape", [(20, 7), (7,)])
def test_normalizer(shape, norm, dtype):
    x = numbers(shape, dtype)
    x[0] = 0
    check("Normalizer", [x], {"norm": norm}, rtol=2e-7, atol=0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_array_feature_extractor(dtype):
    for shape in ((4, 6), (6,), (2, 3, 6)):
        for constants in ((), (1,)):
            inputs = [numbers(shape, dtype), np.array([[5, 0, 0]])]
            check("ArrayFeatureExtractor", inputs, {}, constants=constants)


def test_feature_vectorizer():
    inputs = [numbers((5, 3)), numbers((5, 2), "int64"), numbers((5, 4), "float64")]
    check("FeatureVectorizer", inputs, {}, rtol=0, atol=0)
    check("FeatureVectorizer", inputs, {"inputdimensions": (2, 4, 0)}, rtol=0, atol=0)
    check("FeatureVectorizer", [numbers((3,)), numbers((2,))], {}, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("op_type", "attributes"),
    [
        ("LinearRegressor", {"coefficients": (1.0, 2.0)}),
        ("Normalizer", {"norm": "L3"}),
        ("Scaler", {"scale": (1.0, 2.0)}),
        ("SVMRegressor", {"coefficients": (1.0, 2.0)}),
        ("LinearClassifier", {"coefficients": (1.0,) * 9, "classlabels_strings": ("a", "b", "c")}),
    ],
)
def test_the_rest_is_left_to_the_reference(op_type, attributes):
    wanted = [((4, 3), "f4"), ((4, 3), "f4")][: 2 if "Class" in op_type else 1]
    with pytest.raises(Unsupported):
        run_lowered(op_type, [numbers((4, 3))], wanted, attributes, opset=1, domain=ML)
