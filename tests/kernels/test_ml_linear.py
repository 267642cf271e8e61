"""Linear models and support vector machines of ai.onnx.ml, and the transforms of their scores.

Oracles: definitions written out here, scikit-learn's own predictions, and ONNX Runtime.
"""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from helpers import run_op
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from onnxref.kernels.numpy._ml_common import apply_post_transform, two_class_scores

from onnxref import registry
from onnxref.errors import KernelError

ML = "ai.onnx.ml"
F32, F64 = np.float32, np.float64
INPUT_TYPES = [F32, F64, np.int64, np.int32]
TRANSFORMS = ["NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO", "PROBIT"]
RNG = np.random.default_rng(5)


def run(op, x, n_outputs=1, **attributes):
    return run_op(op, x, opset=1, domain=ML, n_outputs=n_outputs, **attributes)


def make(*shape, low=-1.0, high=1.0):
    return RNG.uniform(low, high, shape).astype(F32)


def floats(values):
    return tuple(np.ravel(values).tolist())


def data(dtype, *shape):
    return RNG.integers(-3, 4, shape).astype(dtype)


# Transforms


def slow_transform(row, kind):
    if kind == "SOFTMAX":
        return np.exp(row) / np.exp(row).sum()
    if kind == "LOGISTIC":
        return 1 / (1 + np.exp(-row))
    if kind == "SOFTMAX_ZERO":
        weights = np.where(row == 0, 0, np.exp(row))
        return weights / weights.sum()
    return row


@pytest.mark.parametrize("kind", TRANSFORMS[:4])
@pytest.mark.parametrize("dtype", [F32, F64])
def test_transforms(kind, dtype):
    scores = np.array([[1, 0, -3], [0.2, 0.5, 0.9]], dtype)
    actual = apply_post_transform(scores, kind)
    assert actual.dtype == dtype
    np.testing.assert_allclose(actual, [slow_transform(row, kind) for row in scores.astype(F64)], rtol=1e-5)
    assert apply_post_transform(scores[:0], kind).shape == (0, 3)


def test_transforms_at_the_ends():
    far = np.array([[-1e4, 0, 1e4]], F32)
    with np.errstate(all="ignore"):
        np.testing.assert_array_equal(apply_post_transform(far, "SOFTMAX"), [[0, 0, 1]])
        np.testing.assert_array_equal(apply_post_transform(far, "LOGISTIC"), [[0, 0.5, 1]])
        assert np.isnan(apply_post_transform(np.zeros((1, 2), F32), "SOFTMAX_ZERO")).all()
        probit = apply_post_transform(np.array([[0, 0.5, 1, 1.5]], F32), "PROBIT")
    np.testing.assert_array_equal(probit, [[-np.inf, 0, np.inf, np.nan]])
    tail = apply_post_transform(np.array([[-80.0]], F32), "LOGISTIC")
    np.testing.assert_allclose(tail, np.exp(-80.0), rtol=1e-5)  # 1 - logistic(80) would be 0


@given(st.floats(1e-4, 1 - 1e-4))
def test_probit_is_near_the_normal_quantile(p):
    from statistics import NormalDist

    actual = apply_post_transform(np.array([[p]], F64), "PROBIT").item()
    assert actual == pytest.approx(NormalDist().inv_cdf(p), rel=4e-3, abs=1e-6)


@pytest.mark.parametrize(
    ("kind", "complement", "expected"),
    [
        ("NONE", True, [0.75, 0.25]),
        ("NONE", False, [-0.25, 0.25]),
        ("LOGISTIC", True, [0.4378235, 0.5621765]),
        ("LOGISTIC", False, [0.4378235, 0.5621765]),
        ("SOFTMAX", True, [0.3775407, 0.6224593]),
        ("SOFTMAX_ZERO", False, [0.3775407, 0.6224593]),
        ("PROBIT", False, [0.675, -0.675]),
    ],
)
def test_scores_of_two_classes(kind, complement, expected):
    actual = two_class_scores(np.array([0.25], F32), kind, complement=complement)
    np.testing.assert_allclose(actual, [expected], rtol=1e-3)


# Linear models


@pytest.mark.parametrize("dtype", INPUT_TYPES)
@pytest.mark.parametrize("kind", TRANSFORMS[:4])
@pytest.mark.parametrize("strings", [False, True])
def test_linear_classifier(dtype, kind, strings):
    x, weights, bias = data(dtype, 5, 4), make(3, 4), make(3)
    labels = ("a", "b", "c") if strings else (7, -1, 2**40)
    names = {"classlabels_strings": labels} if strings else {"classlabels_ints": labels}
    y, z = run(
        "LinearClassifier", x, 2,
        coefficients=floats(weights), intercepts=floats(bias), post_transform=kind, multi_class=1, **names,
    )  # fmt: skip
    scores = x.astype(F64) @ weights.T.astype(F64) + bias
    assert y.dtype == (np.object_ if strings else np.int64)
    assert y.tolist() == [labels[k] for k in scores.argmax(1)]
    assert z.dtype == F32
    np.testing.assert_allclose(z, [slow_transform(row, kind) for row in scores], rtol=1e-5, atol=1e-6)


def test_linear_classifier_with_one_score():
    x, attributes = np.array([[1.0], [-2.0], [0.0]], F32), {"coefficients": (0.5,)}
    y, z = run("LinearClassifier", x, 2, classlabels_strings=("no", "yes"), **attributes)
    assert y.tolist() == ["yes", "no", "no"]
    np.testing.assert_array_equal(z, [[0.5, 0.5], [2, -1], [1, 0]])
    y, z = run("LinearClassifier", x, 2, intercepts=(0.25,), **attributes)
    assert y.tolist() == [1, 0, 1]
    np.testing.assert_array_equal(z, [[0.75], [-0.75], [0.25]])


@pytest.mark.parametrize("dtype", INPUT_TYPES)
@pytest.mark.parametrize("targets", [1, 2])
@pytest.mark.parametrize("kind", TRANSFORMS[:4])
@pytest.mark.parametrize("bias", [False, True])
def test_linear_regressor(dtype, targets, kind, bias):
    x, weights, intercepts = data(dtype, 5, 3), make(targets, 3), make(targets)
    y = run(
        "LinearRegressor", x, targets=targets, coefficients=floats(weights), post_transform=kind,
        **({"intercepts": floats(intercepts)} if bias else {}),
    )  # fmt: skip
    scores = x.astype(F64) @ weights.T.astype(F64) + (intercepts if bias else 0)
    assert y.dtype == F32
    np.testing.assert_allclose(y, [slow_transform(row, kind) for row in scores], rtol=1e-5, atol=1e-6)


def test_one_dimension_is_one_example_and_none_is_fine():
    assert run("LinearRegressor", np.ones(3, F32), coefficients=(1.0, 2.0, 3.0)).tolist() == [[6]]
    assert run("LinearRegressor", np.ones((0, 3), F32), coefficients=(1.0, 2.0, 3.0)).shape == (0, 1)
    y, z = run("LinearClassifier", np.ones((0, 1), F32), 2, coefficients=(1.0, 2.0), classlabels_ints=(1, 2))
    assert (y.shape, z.shape) == ((0,), (0, 2))


def test_large_integers_are_not_rounded_to_float32():
    x = np.array([[2**24 + 1, -(2**24)]])
    assert run("LinearRegressor", x, coefficients=(1.0, 1.0)).tolist() == [[1]]


# Support vector machines


def slow_kernel(kind, x, v, gamma, coef0, degree):
    match kind:
        case "LINEAR":
            return x @ v
        case "POLY":
            return (gamma * (x @ v) + coef0) ** degree
        case "RBF":
            return np.exp(-gamma * np.square(x - v).sum())
    return np.tanh(gamma * (x @ v) + coef0)


def slow_pairs(x, kind, params, vectors, counts, coefficients, rho):
    """Scores of one example for all pairs of classes, and the number of pairs that each has won."""
    values = np.array([slow_kernel(kind, x, v, *params) for v in vectors])
    starts = np.concatenate(([0], np.cumsum(counts)))
    scores, votes = [], np.zeros(len(counts), int)
    for i in range(len(counts)):
        for j in range(i + 1, len(counts)):
            a, b = slice(starts[i], starts[i + 1]), slice(starts[j], starts[j + 1])
            s = coefficients[j - 1, a] @ values[a] + coefficients[i, b] @ values[b] + rho[len(scores)]
            scores.append(s)
            votes[i if s > 0 else j] += 1
    return np.array(scores), votes


def make_svc(classes, kind, counts=None, features=3):
    counts = counts or RNG.integers(0, 4, classes).tolist()
    counts[0] += 1
    total, pairs = sum(counts), classes * (classes - 1) // 2
    arrays = {
        "vectors": make(total, features),
        "coefficients": make(classes - 1, total),
        "rho": make(pairs),
        "params": np.array([0.5, 0.25, 2], F32),
    }
    attributes = {
        "classlabels_ints": tuple(range(10, 10 + classes)),
        "support_vectors": floats(arrays["vectors"]),
        "coefficients": floats(arrays["coefficients"]),
        "rho": floats(arrays["rho"]),
        "kernel_params": floats(arrays["params"]),
        "kernel_type": kind,
        "vectors_per_class": tuple(counts),
    }
    return counts, arrays, attributes


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 5), st.sampled_from(["LINEAR", "POLY", "RBF", "SIGMOID"]), st.sampled_from(INPUT_TYPES))
def test_svm_classifier_is_its_definition(classes, kind, dtype):
    counts, arrays, attributes = make_svc(classes, kind)
    x = data(dtype, 4, 3)
    y, z = run("SVMClassifier", x, 2, **attributes)
    expected = [
        slow_pairs(
            row, kind, arrays["params"], arrays["vectors"], counts, arrays["coefficients"], arrays["rho"]
        )
        for row in x.astype(F64)
    ]
    assert y.tolist() == [10 + votes.argmax() for _, votes in expected]
    scores = np.stack([s for s, _ in expected])
    if classes == 2:
        scores = np.concatenate((-scores, scores), 1)
    assert (y.dtype, z.dtype) == (np.int64, F32)
    np.testing.assert_allclose(z, scores, rtol=1e-4, atol=1e-5)


def slow_coupling(pairwise):
    """Minimise the sum of (r_ji p_i - r_ij p_j)^2 over probabilities, by its linear equations."""
    k = len(pairwise)
    q = -pairwise.T * pairwise
    np.fill_diagonal(q, np.square(pairwise).sum(0) - np.square(np.diag(pairwise)))
    system = np.block([[q, np.ones((k, 1))], [np.ones((1, k)), np.zeros((1, 1))]])
    return np.linalg.solve(system, np.r_[np.zeros(k), 1])[:k]


@pytest.mark.parametrize("classes", [2, 3, 5])
@pytest.mark.parametrize("strings", [False, True])
def test_svm_probabilities(classes, strings):
    counts, arrays, attributes = make_svc(classes, "RBF", [3] * classes)
    pairs = classes * (classes - 1) // 2
    a, b = make(pairs, low=-2, high=-0.5), make(pairs)
    labels = tuple("abcde"[:classes])
    if strings:
        del attributes["classlabels_ints"]
        attributes["classlabels_strings"] = labels
    x = make(6, 3)
    y, z = run("SVMClassifier", x, 2, prob_a=floats(a), prob_b=floats(b), **attributes)
    for row, label, probabilities in zip(x.astype(F64), y, z, strict=True):
        scores, votes = slow_pairs(
            row, "RBF", arrays["params"], arrays["vectors"], counts, arrays["coefficients"], arrays["rho"]
        )
        wins = 1 / (1 + np.exp(scores * a + b))
        pairwise = np.zeros((classes, classes))
        pairwise[np.triu_indices(classes, 1)] = wins
        pairwise += np.tril(1 - pairwise.T, -1)
        # libsvm stops at 0.005 / C, so that is how far it may be from the minimum
        np.testing.assert_allclose(probabilities, slow_coupling(pairwise), atol=0.01)
        assert probabilities.sum() == pytest.approx(1, abs=1e-5)
        assert label == (labels[votes.argmax()] if strings else 10 + votes.argmax())


def test_svm_classifier_without_support_vectors():
    x, weights = make(5, 4), make(3, 4)
    y, z = run(
        "SVMClassifier", x, 2, coefficients=floats(weights), rho=(0.5,), classlabels_ints=(1, 2, 3),
        kernel_type="LINEAR", post_transform="SOFTMAX",
    )  # fmt: skip
    scores = x.astype(F64) @ weights.T + 0.5
    assert y.tolist() == (1 + scores.argmax(1)).tolist()
    np.testing.assert_allclose(z, [slow_transform(s, "SOFTMAX") for s in scores], rtol=1e-5)


@pytest.mark.parametrize("kind", ["LINEAR", "POLY", "RBF", "SIGMOID"])
@pytest.mark.parametrize("dtype", INPUT_TYPES)
@pytest.mark.parametrize("one_class", [0, 1])
@pytest.mark.parametrize("supports", [0, 4])
def test_svm_regressor(kind, dtype, one_class, supports):
    x, vectors, weights = data(dtype, 5, 3), make(supports, 3), make(supports or 3)
    params = (0.5, 0.25, 3.0)
    attributes = {"support_vectors": floats(vectors), "kernel_type": kind} if supports else {}
    y = run(
        "SVMRegressor", x, coefficients=floats(weights), rho=(0.125,), kernel_params=params,
        n_supports=supports, one_class=one_class, **attributes,
    )  # fmt: skip
    exact = x.astype(F64)
    values = (
        np.array([[slow_kernel(kind, row, v, *params) for v in vectors] for row in exact])
        if supports
        else exact
    )
    scores = values @ weights.astype(F64) + 0.125
    expected = np.where(scores > 0, 1, -1) if one_class else scores
    assert (y.dtype, y.shape) == (F32, (5, 1))
    np.testing.assert_allclose(y[:, 0], expected, rtol=1e-5, atol=1e-6)


def test_svm_regressor_transforms_its_score():
    y = run(
        "SVMRegressor", np.zeros((1, 2), F32), coefficients=(1.0, 1.0), rho=(2.0,), post_transform="LOGISTIC"
    )
    assert y.item() == pytest.approx(1 / (1 + np.exp(-2)))


def test_distances_do_not_cancel():
    x = np.array([[1e4, 1e4 + 0.125]], F32)
    y = run(
        "SVMRegressor", x, coefficients=(1.0,), rho=(0.0,), n_supports=1, kernel_type="RBF",
        kernel_params=(1.0, 0.0, 0.0), support_vectors=(1e4, 1e4),
    )  # fmt: skip
    assert y.item() == pytest.approx(np.exp(-0.015625), rel=1e-6)


# Peers


def in_onnxruntime(op, x, outputs, attributes):
    import onnxruntime

    node = helper.make_node(op, ["X"], [name for name, _ in outputs], domain=ML, **attributes)
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("X", helper.np_dtype_to_tensor_dtype(x.dtype), x.shape)],
        [helper.make_tensor_value_info(name, element, None) for name, element in outputs],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(ML, 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    return onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"X": x})


@pytest.mark.parametrize("classes", [2, 3, 4])
@pytest.mark.parametrize("kind", TRANSFORMS)
@pytest.mark.parametrize("platt", [False, True])
def test_svm_classifier_as_in_onnxruntime(classes, kind, platt):
    if classes == 2 and not platt and kind not in ("NONE", "LOGISTIC"):
        pytest.skip("ONNX Runtime leaves a single score untransformed, or half of it (docs/numerics.md)")
    _, _, attributes = make_svc(classes, "RBF", [2] * classes)
    pairs = classes * (classes - 1) // 2
    attributes |= {"post_transform": kind, "rho": floats(make(pairs))}
    if platt:
        attributes |= {"prob_a": floats(make(pairs, low=-2, high=-1)), "prob_b": floats(make(pairs))}
    x = make(8, 3)
    with np.errstate(all="ignore"):
        y, z = run("SVMClassifier", x, 2, **attributes)
    outputs = [("Y", TensorProto.INT64), ("Z", TensorProto.FLOAT)]
    expected_y, expected_z = in_onnxruntime("SVMClassifier", x, outputs, attributes)
    np.testing.assert_array_equal(y, expected_y)
    np.testing.assert_allclose(z, expected_z, rtol=2e-3, atol=2e-4)


@pytest.mark.parametrize("targets", [1, 2, 3])
@pytest.mark.parametrize("kind", TRANSFORMS)
def test_linear_classifier_as_in_onnxruntime(targets, kind):
    if targets == 1 and kind not in ("NONE", "LOGISTIC"):
        pytest.skip("ONNX Runtime leaves a single score untransformed, or half of it (docs/numerics.md)")
    attributes = {
        "coefficients": floats(make(targets, 4)),
        "intercepts": floats(make(targets)),
        "classlabels_ints": tuple(range(max(targets, 2))),
        "post_transform": kind,
    }
    x = make(8, 4)
    y, z = run("LinearClassifier", x, 2, **attributes)
    outputs = [("Y", TensorProto.INT64), ("Z", TensorProto.FLOAT)]
    expected_y, expected_z = in_onnxruntime("LinearClassifier", x, outputs, attributes)
    np.testing.assert_array_equal(y, expected_y)
    np.testing.assert_allclose(z, expected_z, rtol=1e-3, atol=1e-4)


def exported(model, x):
    """Return the one ai.onnx.ml node of a scikit-learn model's export and its attributes."""
    skl2onnx = pytest.importorskip("skl2onnx")
    proto = skl2onnx.to_onnx(model, x[:1], target_opset={"": 17, ML: 1})
    (node,) = (n for n in proto.graph.node if n.op_type.startswith(("SVM", "Linear")))

    def value(attribute: onnx.AttributeProto):
        found = helper.get_attribute_value(attribute)
        if isinstance(found, bytes):
            return found.decode()
        return found if isinstance(found, int | float) else tuple(found)

    return node.op_type, {a.name: value(a) for a in node.attribute}


@pytest.mark.filterwarnings("ignore:Attribute `prob._` was deprecated:FutureWarning")  # read by skl2onnx
@pytest.mark.parametrize("kernel", ["linear", "poly", "rbf", "sigmoid"])
@pytest.mark.parametrize("classes", [2, 3])
def test_predictions_of_scikit_learn(kernel, classes):
    svm = pytest.importorskip("sklearn.svm")
    rng = np.random.default_rng(1)
    x = rng.normal(size=(60, 3)).astype(F32)
    target = (x[:, 0] > 0).astype(int) + (x[:, 1] > 0.3) * (classes - 2)
    options = {"kernel": kernel, "gamma": 0.3, "coef0": 0.2}
    classifier = svm.SVC(**options).fit(x, target)
    op, attributes = exported(classifier, x)
    y, _ = run(op, x, 2, **attributes)
    np.testing.assert_array_equal(y, classifier.predict(x))
    regressor = svm.SVR(**options).fit(x, x[:, 0] + target)
    op, attributes = exported(regressor, x)
    np.testing.assert_allclose(run(op, x, **attributes)[:, 0], regressor.predict(x), rtol=1e-3, atol=1e-4)
    outliers = svm.OneClassSVM(kernel=kernel, gamma=0.3, coef0=0.2, nu=0.3).fit(x)
    op, attributes = exported(outliers, x)
    sure = np.abs(outliers.decision_function(x)) > 1e-3
    scores = run(op, x, **{**attributes, "one_class": 1})[:, 0]
    np.testing.assert_array_equal(scores[sure], outliers.predict(x)[sure])


@pytest.mark.parametrize("classes", [2, 3])
def test_logistic_regression_of_scikit_learn(classes):
    linear_model = pytest.importorskip("sklearn.linear_model")
    rng = np.random.default_rng(2)
    x = rng.normal(size=(60, 3)).astype(F32)
    target = rng.integers(0, classes, 60)
    model = linear_model.LogisticRegression().fit(x, target)
    op, attributes = exported(model, x)
    y, z = run(op, x, 2, **attributes)
    np.testing.assert_array_equal(y, model.predict(x))
    np.testing.assert_allclose(z, model.predict_proba(x), rtol=1e-4, atol=1e-5)


# Errors

X = np.ones((2, 3), F32)
SVC = {
    "classlabels_ints": (0, 1),
    "coefficients": (1.0, -1.0),
    "support_vectors": (0.0,) * 6,
    "vectors_per_class": (1, 1),
    "rho": (0.0,),
}
SVR = {"coefficients": (1.0, -1.0), "support_vectors": (0.0,) * 6, "n_supports": 2, "rho": (0.0,)}


@pytest.mark.parametrize(
    ("op", "x", "attributes", "message"),
    [
        (
            "LinearRegressor",
            X,
            {"coefficients": (1.0,) * 4},
            "coefficients must have F = 3 entries for each target",
        ),
        ("LinearRegressor", X, {"coefficients": (1.0,) * 3, "targets": 0}, "coefficients must have F = 3"),
        (
            "LinearRegressor",
            X,
            {"coefficients": (1.0,) * 3, "intercepts": (1.0,) * 2},
            "intercepts must have 1",
        ),
        ("LinearRegressor", X[None], {"coefficients": (1.0,) * 3}, r"X must have shape \(N, F\) or \(F\)"),
        (
            "LinearRegressor",
            X,
            {"coefficients": (1.0,) * 3, "post_transform": "RELU"},
            "post_transform must be one of",
        ),
        (
            "LinearClassifier",
            X,
            {"coefficients": (1.0,) * 3, "classlabels_ints": (1, 2, 3)},
            "must have 2 entries",
        ),
        (
            "LinearClassifier",
            X,
            {"coefficients": (1.0,) * 6, "classlabels_ints": (1,)},
            "must have an entry for each",
        ),
        (
            "LinearClassifier",
            X,
            {"coefficients": (1.0,) * 6, "classlabels_ints": (1, 2), "classlabels_strings": ("a", "b")},
            "must not both be given",
        ),
        (
            "SVMClassifier",
            X,
            SVC | {"classlabels_ints": ()},
            "classlabels_ints or classlabels_strings must be given",
        ),
        ("SVMClassifier", X, SVC | {"rho": ()}, "rho must be given"),
        ("SVMClassifier", X, SVC | {"prob_a": (1.0,)}, "prob_b must be as long as prob_a"),
        (
            "SVMClassifier",
            X,
            SVC | {"vectors_per_class": (2,)},
            "vectors_per_class must count for 2 > 1 classes",
        ),
        ("SVMClassifier", X, SVC | {"vectors_per_class": (3, -1)}, "vectors_per_class must count for 2"),
        ("SVMClassifier", X, SVC | {"coefficients": (1.0,)}, r"coefficients must have 2 entries \(got 1\)"),
        ("SVMClassifier", X, SVC | {"classlabels_ints": (0, 1, 2)}, "vectors_per_class must count for 3"),
        ("SVMClassifier", X, SVC | {"support_vectors": (0.0,) * 5}, "support_vectors must hold 2 equal rows"),
        ("SVMClassifier", X[:, :2], SVC, "X must have 3 features"),
        ("SVMClassifier", X, SVC | {"kernel_type": "COSINE"}, "kernel_type must be one of"),
        (
            "SVMClassifier",
            X,
            SVC | {"kernel_params": (1.0,)},
            "kernel_params must be gamma, coef0 and degree",
        ),
        ("SVMRegressor", X, SVR | {"n_supports": -1}, "n_supports must not be negative"),
        ("SVMRegressor", X, SVR | {"n_supports": 3}, "coefficients must have 3 entries, as n_supports"),
        ("SVMRegressor", X, SVR | {"rho": None}, "rho must be given"),
        ("SVMRegressor", X, {"coefficients": (1.0,), "rho": (0.0,)}, "coefficients must have F = 3"),
    ],
)
def test_errors(op, x, attributes, message):
    with pytest.raises(KernelError, match=message):
        run(op, x, 2, **attributes)


@pytest.mark.parametrize("classes", [2, 3, 6])
def test_cost_counts_all_outputs(classes):
    _, _, attributes = make_svc(classes, "RBF")
    x = make(100, 3)
    cost = registry.find(ML, "SVMClassifier", 1).cost
    assert cost(x, **attributes).out_bytes >= sum(a.nbytes for a in run("SVMClassifier", x, 2, **attributes))
    linear = {"coefficients": floats(make(classes, 3)), "classlabels_ints": tuple(range(classes))}
    cost = registry.find(ML, "LinearClassifier", 1).cost
    assert cost(x, **linear).out_bytes >= sum(a.nbytes for a in run("LinearClassifier", x, 2, **linear))
