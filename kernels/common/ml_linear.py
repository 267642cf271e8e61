"""Linear models and support vector machines (ai.onnx.ml) for classes that are numbers.

Their attributes are checked against the shape of X and resolved into plain numbers: how many targets, which
labels, which column goes before a single score.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from onnxref.dtypes import Array
from onnxref.lowering import Operand, Packed, Site, Unsupported
from onnxref.registry import ML

from ..numpy import ml_linear as reference
from .checks import check_result, only_output
from .ml import check_transform, examples, kept
from .rules import Rules

SVM_KERNELS: Final = ("LINEAR", "POLY", "RBF", "SIGMOID")  # by their numbers in kernels


class Linear(NamedTuple):
    """post_transform(X W^T + b) of X (rows, features), and labels.

    Attributes:
        coefficients: (targets * features,), the attribute's value.
        intercepts: (targets,), or none.
        dtype: type that scores are computed in, and rounded to.
        before: what column to put before a single score: 0 none, 1 one minus it, 2 its negative.
        by_sign: whether the label follows from the sign of the single score.
        label, scores: outputs; None where nothing wants them.
    """

    x: Operand
    rows: int
    features: int
    coefficients: Sequence[float]
    intercepts: Sequence[float]
    targets: int
    dtype: str
    transform: str
    scores: Operand | None
    before: int = 0
    by_sign: bool = False
    labels: Sequence[int] = ()
    label: Operand | None = None


class SvmClassification(NamedTuple):
    """Pairs of classes that are compared by support vectors.

    Attributes:
        columns: scores of a row: of classes (probabilities), else of pairs.
        before: as of `Linear`, for two classes.
        probable: whether probabilities are wanted.
    """

    x: Operand
    rows: int
    kernel: reference.SvmKernel
    model: reference.SvmClassifier
    attributes: dict[str, Any]
    columns: int
    before: int
    probable: bool
    label: Operand | None
    scores: Operand | None


class SvmRegression(NamedTuple):
    """post_transform of what support vectors say of each row, or whether it lies in the one class.

    Attributes:
        kernel: None for a linear model.
        coefficients: of the features, or of the support vectors; `source` is the attribute that it came from.
    """

    x: Operand
    rows: int
    features: int
    kernel: reference.SvmKernel | None
    coefficients: Array
    source: Any
    rho: float
    one_class: bool
    transform: str
    y: Operand


LINEAR: Rules[Linear | SvmClassification | SvmRegression] = Rules()


def _score_type(x: Operand) -> str:
    return "float32" if x.dtype == np.float32 else "float64"


@LINEAR.rule("LinearClassifier", since=1, domain=ML)
def linear_classifier(
    site: Site,
    x: Operand,
    *,
    coefficients: tuple[float, ...],
    classlabels_ints: tuple[int, ...] | None = None,
    classlabels_strings: tuple[str, ...] | None = None,
    intercepts: tuple[float, ...] | None = None,
    multi_class: int = 0,
    post_transform: str = "NONE",
) -> Linear:
    """ONNX-ML LinearClassifier-1."""
    if classlabels_strings:
        raise Unsupported("classes are strings")
    rows, features = examples(x)
    labels = classlabels_ints or ()
    targets = max(len(coefficients) // features, 1)
    if len(coefficients) != targets * features or len(intercepts or ()) not in (0, targets):
        raise Unsupported("coefficients or intercepts of the wrong number")
    single = targets == 1
    if (single and len(labels) not in (0, 2)) or (not single and len(labels) < targets):
        raise Unsupported("classlabels of the wrong number")
    transform, before = check_transform(post_transform), 0
    if single and labels:
        before = 1 if transform in ("PROBIT", "NONE") else 2
    label, scores = site.outputs
    if scores is not None:
        check_result(scores, (rows, targets + (1 if before else 0)))
    return Linear(
        x, rows, features, coefficients, intercepts or (), targets, _score_type(x), transform, scores,
        before, single, labels or (0, 1), label,
    )  # fmt: skip


@LINEAR.rule("LinearRegressor", since=1, domain=ML)
def linear_regressor(
    site: Site,
    x: Operand,
    *,
    coefficients: tuple[float, ...] | None = None,
    intercepts: tuple[float, ...] | None = None,
    post_transform: str = "NONE",
    targets: int = 1,
) -> Linear:
    """ONNX-ML LinearRegressor-1."""
    rows, features = examples(x)
    y = only_output(site)
    if coefficients is None or targets < 1 or len(coefficients) != targets * features:
        raise Unsupported("coefficients of the wrong number")
    if len(intercepts or ()) not in (0, targets):
        raise Unsupported("intercepts of the wrong number")
    check_result(y, (rows, targets))
    transform = check_transform(post_transform)
    return Linear(x, rows, features, coefficients, intercepts or (), targets, _score_type(x), transform, y)


# --- support vector machines ---------------------------------------------------------------------


@LINEAR.rule("SVMClassifier", since=1, domain=ML)
def svm_classifier(site: Site, x: Operand, **attributes: Any) -> Linear | SvmClassification:
    """ONNX-ML SVMClassifier-1."""
    if attributes.get("classlabels_strings"):
        raise Unsupported("classes are strings")
    rows, features = examples(x)
    model = reference.prepare_svm_classifier(**attributes)
    transform, classes = check_transform(model.post_transform), len(model.labels)
    label, scores = site.outputs
    if model.kernel is None:
        if model.coefficients.size != classes * features:
            raise Unsupported("coefficients of the wrong number")
        if scores is not None:
            check_result(scores, (rows, classes))
        rho = (float(model.rho[0]),) * classes
        return Linear(
            x, rows, features, attributes["coefficients"], rho, classes, "float64", transform, scores,
            labels=attributes["classlabels_ints"], label=label,
        )  # fmt: skip
    _check_vectors(model.kernel, features)
    probable = bool(model.prob_a.size)
    columns = classes if probable else classes * (classes - 1) // 2
    before = 0
    if classes == 2 and not probable:
        before = 1 if transform == "PROBIT" else 2
    if scores is not None:
        check_result(scores, (rows, columns + (1 if before else 0)))
    return SvmClassification(
        x, rows, model.kernel, model, attributes, columns, before, probable, label, scores
    )


@LINEAR.rule("SVMRegressor", since=1, domain=ML)
def svm_regressor(site: Site, x: Operand, **attributes: Any) -> SvmRegression:
    """ONNX-ML SVMRegressor-1."""
    rows, features = examples(x)
    y = only_output(site)
    check_result(y, (rows, 1))
    model = reference.prepare_svm_regressor(**attributes)
    source = attributes.get("coefficients" if model.kernel is None else "support_vectors")
    if model.kernel is not None:
        _check_vectors(model.kernel, features)
    elif model.coefficients.size != features:
        raise Unsupported("coefficients of the wrong number")
    return SvmRegression(
        x, rows, features, model.kernel, model.coefficients, source, float(model.rho), model.one_class,
        check_transform(model.post_transform), y,
    )  # fmt: skip


def _check_vectors(kernel: reference.SvmKernel, features: int) -> None:
    if kernel.vectors.shape[1] != features:
        raise Unsupported("support_vectors of another width")


# --- tables --------------------------------------------------------------------------------------


def linear_weights(site: Site, coefficients: Sequence[float], dtype: str) -> Packed:
    """Return the coefficients (targets * features,) in the type of the scores."""
    return kept(
        site, coefficients, ("linear", dtype), lambda: np.array(coefficients, np.float64).astype(dtype)
    )


def rounded_intercepts(intercepts: Sequence[float], dtype: str) -> Array:
    """Return intercepts rounded to the type of the scores, but in float64 as the scores are."""
    return np.array(intercepts, np.float64).astype(dtype).astype(np.float64)


def packed_labels(site: Site, labels: Sequence[int]) -> Packed:
    return kept(site, labels, ("labels",), lambda: np.array(labels, np.int64))


def svm_weights(site: Site, source: object, coefficients: Array, starts: Array) -> tuple[Packed, Packed]:
    """Return coefficients (lines, support vectors) and the place where each class begins, and the end."""
    key = (coefficients.tobytes(), starts.tobytes())
    weights = kept(site, source, ("svm coefficients", *key), lambda: coefficients)
    return weights, kept(site, source, ("svm starts", *key), lambda: starts.astype(np.int64))


def svm_table(site: Site, model: SvmClassification, name: str) -> Packed:
    """Return an attribute of floats: rho, prob_a, prob_b."""
    values = model.attributes.get(name)
    return kept(site, values, ("svm", name), lambda: np.array(values, np.float64))
