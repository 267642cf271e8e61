"""Linear models and support vector machines of ai.onnx.ml.

The spec names inputs and attributes but leaves most of the arithmetic unsaid: ONNX Runtime and
libsvm, whose models these operators carry, are followed there. Scores are computed in float64
(linear models: in float32 for float32 data) and rounded to float32 once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from onnxref.dtypes import Array
from onnxref.errors import KernelError
from onnxref.registry import ML, Cost, op

from ._checks import check_choice
from ._common import sigmoid
from ._ml_common import apply_post_transform, two_class_scores

_MIN_PROBABILITY: Final = 1e-7  # libsvm keeps pairwise probabilities away from 0 and 1 by this
_KERNELS: Final = ("LINEAR", "POLY", "RBF", "SIGMOID")


def _labels(ints: tuple[int, ...] | None, strings: tuple[str, ...] | None) -> Array:
    """Return the class labels, int64 or `str` objects; none if neither attribute is there."""
    if ints and strings:
        raise KernelError("classlabels_ints and classlabels_strings must not both be given (got both)")
    return np.array(strings, np.object_) if strings else np.array(ints or (), np.int64)


def _floats(values: tuple[float, ...] | None) -> Array:
    return np.array(values or (), np.float64)


def _rows(x: Array) -> Array:
    """Return the examples as `(N, F)`; a single dimension is one example."""
    if x.ndim not in (1, 2):
        raise KernelError(f"X must have shape (N, F) or (F) (got {x.shape})")
    return x[None] if x.ndim == 1 else x


def _n_rows(x: Array) -> int:
    return x.shape[0] if x.ndim == 2 else 1


def _weights(coefficients: Array, features: int, targets: int | None = None) -> Array:
    """Return `coefficients` as one row per target `(E, F)`."""
    if targets is None:
        targets = max(coefficients.size // max(features, 1), 1)
    if targets < 1 or coefficients.size != targets * features:
        raise KernelError(
            f"coefficients must have F = {features} entries for each target (got {coefficients.size})"
        )
    return coefficients.reshape(targets, features)


def _linear_scores(x: Array, weights: Array, intercepts: Array) -> Array:
    """Return X W^T + b, `(N, E)`."""
    if intercepts.size not in (0, len(weights)):
        raise KernelError(f"intercepts must have {len(weights)} entries or none (got {intercepts.size})")
    dtype = np.result_type(x.dtype, np.float32)  # float64 for integers, too
    scores: Array = x.astype(dtype, copy=False) @ weights.astype(dtype).T
    if intercepts.size:
        scores += intercepts.astype(dtype)
    return scores


# Linear models --------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Linear:
    coefficients: Array
    intercepts: Array
    post_transform: str
    labels: Array
    targets: int = 1


def _prepare_classifier(
    *,
    classlabels_ints: tuple[int, ...] | None = None,
    classlabels_strings: tuple[str, ...] | None = None,
    coefficients: tuple[float, ...],
    intercepts: tuple[float, ...] | None = None,
    multi_class: int = 0,
    post_transform: str = "NONE",
) -> _Linear:
    # multi_class tells how the model was trained; the post_transform holds all that it means here.
    labels = _labels(classlabels_ints, classlabels_strings)
    return _Linear(_floats(coefficients), _floats(intercepts), post_transform, labels)


def _classifier_cost(x: Array, *, coefficients: tuple[float, ...], **attributes: Any) -> Cost:
    rows = _n_rows(x)
    targets = len(coefficients) // max(x.shape[-1] if x.ndim else 1, 1)
    return Cost(rows * (8 + 4 * max(targets, 2)), 8 * (rows * targets + x.size))


@op("LinearClassifier", since=1, domain=ML, prepare=_prepare_classifier, cost=_classifier_cost)
def linear_classifier(x: Array, *, prepared: _Linear) -> tuple[Array, Array]:
    """Classify `(N, F)`; return labels `(N)` and scores `(N, E)` in float32 (ONNX-ML LinearClassifier-1)."""
    labels, kind = prepared.labels, prepared.post_transform
    x = _rows(x)
    scores = _linear_scores(x, _weights(prepared.coefficients, x.shape[1]), prepared.intercepts)
    targets = scores.shape[1]
    if targets == 1:
        if labels.size not in (0, 2):
            raise KernelError(f"classlabels must have 2 entries beside one score (got {labels.size})")
        if labels.size:
            z = two_class_scores(scores[:, 0], kind, complement=True)
        else:
            labels, z = np.array([0, 1], np.int64), apply_post_transform(scores, kind)
        return labels[(scores[:, 0] > 0).astype(np.intp)], z.astype(np.float32)
    if labels.size < targets:
        raise KernelError(f"classlabels must have an entry for each of {targets} scores (got {labels.size})")
    return labels[scores.argmax(axis=1)], apply_post_transform(scores, kind).astype(np.float32)


def _prepare_regressor(
    *,
    coefficients: tuple[float, ...] | None = None,
    intercepts: tuple[float, ...] | None = None,
    post_transform: str = "NONE",
    targets: int = 1,
) -> _Linear:
    no_labels = np.array((), np.int64)
    return _Linear(_floats(coefficients), _floats(intercepts), post_transform, no_labels, targets)


def _regressor_cost(x: Array, *, targets: int = 1, **attributes: Any) -> Cost:
    count = _n_rows(x) * max(targets, 0)
    return Cost(4 * count, 8 * (count + x.size))


@op("LinearRegressor", since=1, domain=ML, prepare=_prepare_regressor, cost=_regressor_cost)
def linear_regressor(x: Array, *, prepared: _Linear) -> Array:
    """Map `(N, F)` to `(N, targets)` in float32 (ONNX-ML LinearRegressor-1)."""
    x = _rows(x)
    weights = _weights(prepared.coefficients, x.shape[1], prepared.targets)
    scores = _linear_scores(x, weights, prepared.intercepts)
    return apply_post_transform(scores, prepared.post_transform).astype(np.float32)


# Support vector machines ----------------------------------------------------------------------


@dataclass(frozen=True)
class SvmKernel:
    """A kernel function and the support vectors `(V, F)` that it compares with."""

    name: str
    gamma: float
    coef0: float
    degree: float
    vectors: Array

    @classmethod
    def of(
        cls, name: str, params: tuple[float, ...] | None, vectors: tuple[float, ...] | None, count: int
    ) -> SvmKernel:
        check_choice(name, _KERNELS, "kernel_type")
        if params and len(params) != 3:
            raise KernelError(f"kernel_params must be gamma, coef0 and degree (got {len(params)} entries)")
        flat = _floats(vectors)
        if flat.size % count:
            raise KernelError(f"support_vectors must hold {count} equal rows (got {flat.size} entries)")
        gamma, coef0, degree = params or (0.0, 0.0, 0.0)
        return cls(name, gamma, coef0, degree, flat.reshape(count, flat.size // count))

    def __call__(self, x: Array) -> Array:
        """Return the kernel of each example with each support vector, `(N, V)` in float64."""
        features = self.vectors.shape[1]
        if x.shape[1] != features:
            raise KernelError(f"X must have {features} features, as support_vectors (got {x.shape[1]})")
        wide = x.astype(np.float64)
        products = wide @ self.vectors.T
        if self.name == "LINEAR":
            return products
        if self.name == "RBF":
            # |x - v|^2 by its three products; in float64 their cancellation stays harmless
            distances = np.square(wide).sum(1)[:, None] - 2 * products + np.square(self.vectors).sum(1)
            return np.exp(-self.gamma * np.maximum(distances, 0))  # type: ignore[no-any-return]
        products = self.gamma * products + self.coef0
        return np.tanh(products) if self.name == "SIGMOID" else np.power(products, self.degree)


@dataclass(frozen=True)
class SvmClassifier:
    """Arrays of an SVMClassifier; `kernel` is None for a linear model without support vectors.

    Attributes:
        coefficients: `(C - 1, V)`; without support vectors flat.
        starts: where the support vectors of each class begin, and the end of the last.
    """

    kernel: SvmKernel | None
    coefficients: Array
    starts: Array
    rho: Array
    prob_a: Array
    prob_b: Array
    labels: Array
    post_transform: str


def prepare_svm_classifier(
    *,
    classlabels_ints: tuple[int, ...] | None = None,
    classlabels_strings: tuple[str, ...] | None = None,
    coefficients: tuple[float, ...] | None = None,
    kernel_params: tuple[float, ...] | None = None,
    kernel_type: str = "LINEAR",
    post_transform: str = "NONE",
    prob_a: tuple[float, ...] | None = None,
    prob_b: tuple[float, ...] | None = None,
    rho: tuple[float, ...] | None = None,
    support_vectors: tuple[float, ...] | None = None,
    vectors_per_class: tuple[int, ...] | None = None,
) -> SvmClassifier:
    labels = _labels(classlabels_ints, classlabels_strings)
    weights, counts = _floats(coefficients), vectors_per_class or ()
    if not labels.size:
        raise KernelError("classlabels_ints or classlabels_strings must be given (got neither)")
    if not rho:
        raise KernelError("rho must be given (got none)")
    if len(prob_a or ()) != len(prob_b or ()):
        raise KernelError(f"prob_b must be as long as prob_a, {len(prob_a or ())} (got {len(prob_b or ())})")
    total, classes = sum(counts), len(labels)
    kernel = None
    if total:
        pairs, wanted = classes * (classes - 1) // 2, (classes - 1) * total
        if classes < 2 or len(counts) != classes or min(counts) < 0:
            raise KernelError(f"vectors_per_class must count for {classes} > 1 classes (got {counts[:16]})")
        if weights.size != wanted:
            raise KernelError(f"coefficients must have {wanted} entries (got {weights.size})")
        if len(rho) < pairs or (prob_a and len(prob_a) < pairs):
            raise KernelError(f"rho and prob_a must have {pairs} entries, one per pair (got {len(rho)})")
        kernel = SvmKernel.of(kernel_type, kernel_params, support_vectors, total)
        weights = weights.reshape(classes - 1, total)
    starts = np.cumsum([0, *counts])
    bounds = (_floats(rho), _floats(prob_a), _floats(prob_b))
    return SvmClassifier(kernel, weights, starts, *bounds, labels, post_transform)


def _svm_classifier_cost(
    x: Array,
    *,
    classlabels_ints: tuple[int, ...] | None = None,
    classlabels_strings: tuple[str, ...] | None = None,
    vectors_per_class: tuple[int, ...] | None = None,
    **attributes: Any,
) -> Cost:
    rows, classes = _n_rows(x), len(classlabels_ints or classlabels_strings or ())
    vectors = max(sum(vectors_per_class or ()), 0)
    scores = max(classes * (classes - 1) // 2, classes, 2)
    return Cost(rows * (8 + 4 * scores), 8 * (rows * (2 * vectors + 6 * classes * classes) + x.size))


@op("SVMClassifier", since=1, domain=ML, prepare=prepare_svm_classifier, cost=_svm_classifier_cost)
def svm_classifier(x: Array, *, prepared: SvmClassifier) -> tuple[Array, Array]:
    """Classify `(N, F)`; return labels `(N)` and scores or probabilities (ONNX-ML SVMClassifier-1).

    Scores are those of all pairs of classes `(N, C(C - 1)/2)`, of both classes `(N, 2)` if there
    are two, or of each class `(N, C)` for probabilities and for models without support vectors.
    """
    x, labels, kind = _rows(x), prepared.labels, prepared.post_transform
    if prepared.kernel is None:
        weights = _weights(prepared.coefficients, x.shape[1], len(labels))
        scores = x.astype(np.float64) @ weights.T + prepared.rho[0]
        return labels[scores.argmax(axis=1)], apply_post_transform(scores, kind).astype(np.float32)
    scores = _pair_scores(prepared.kernel(x), prepared)
    winners = labels[_votes(scores, len(labels)).argmax(axis=1)]
    if prepared.prob_a.size:
        z = apply_post_transform(_probabilities(scores, prepared), kind)
    elif len(labels) == 2:
        z = two_class_scores(scores[:, 0], kind, complement=False)
    else:
        z = apply_post_transform(scores, kind)
    return winners, z.astype(np.float32)


def _pair_scores(kernels: Array, model: SvmClassifier) -> Array:
    """Return the score of each pair of classes i < j, above 0 where i wins: `(N, C(C - 1)/2)`.

    Support vectors of class i carry C - 1 coefficients, one for each other class: those against
    j > i stand in row j - 1, those against j < i in row j.
    """
    classes = len(model.labels)
    parts = np.stack(
        [
            kernels[:, start:end] @ model.coefficients[:, start:end].T
            for start, end in zip(model.starts[:-1], model.starts[1:], strict=True)
        ],
        axis=1,
    )
    first, second = np.triu_indices(classes, 1)
    scores = parts[:, first, second - 1] + parts[:, second, first]
    return scores + model.rho[: len(first)]  # type: ignore[no-any-return]


def _votes(scores: Array, classes: int) -> Array:
    """Return how many pairs each class has won, `(N, C)`."""
    first, second = np.triu_indices(classes, 1)
    won = np.zeros((len(scores), classes, classes), np.bool_)
    won[:, first, second] = scores > 0
    won[:, second, first] = ~won[:, first, second]
    return won.sum(axis=2)  # type: ignore[no-any-return]


def _probabilities(scores: Array, model: SvmClassifier) -> Array:
    """Return the probability of each class, `(N, C)`, from the scores of all pairs.

    Pairs by Platt's sigmoid, joined as libsvm does: Wu, Lin and Weng (2004), "Probability
    estimates for multi-class classification by pairwise coupling", second method. Each example
    stops iterating on its own.
    """
    rows, classes = len(scores), len(model.labels)
    first, second = np.triu_indices(classes, 1)
    pairs = len(first)
    wins = sigmoid(-(scores * model.prob_a[:pairs] + model.prob_b[:pairs]))
    wins = np.clip(wins, _MIN_PROBABILITY, 1 - _MIN_PROBABILITY)
    against = np.zeros((rows, classes, classes))  # [n, i, j]: how likely i loses to j
    against[:, second, first] = wins
    against[:, first, second] = 1 - wins
    q = -against * against.transpose(0, 2, 1)
    diagonal = np.arange(classes)
    q[:, diagonal, diagonal] = np.square(against).sum(axis=2)

    p = np.full((rows, classes), 1 / classes)
    active = np.arange(rows)
    for _ in range(max(100, classes)):
        q_active = q[active]
        qp = np.einsum("nij,nj->ni", q_active, p[active])
        pqp = (p[active] * qp).sum(1)
        open_ = np.abs(qp - pqp[:, None]).max(axis=1, initial=0) >= 0.005 / classes
        active = active[open_]
        if not active.size:
            break
        p[active] = _coupling_sweep(p[active], q_active[open_], qp[open_], pqp[open_])
    return p


def _coupling_sweep(p: Array, q: Array, qp: Array, pqp: Array) -> Array:
    """Adjust each class probability once; `qp` is Q p and `pqp` p^T Q p on entry."""
    for c in range(p.shape[1]):
        own = q[:, c, c]
        delta = (pqp - qp[:, c]) / own
        p[:, c] += delta
        pqp = (pqp + delta * (delta * own + 2 * qp[:, c])) / np.square(1 + delta)
        qp = (qp + delta[:, None] * q[:, c]) / (1 + delta)[:, None]
        p /= (1 + delta)[:, None]
    return p


@dataclass(frozen=True)
class _SvmRegressor:
    kernel: SvmKernel | None
    coefficients: Array
    rho: float
    one_class: bool
    post_transform: str


def prepare_svm_regressor(
    *,
    coefficients: tuple[float, ...] | None = None,
    kernel_params: tuple[float, ...] | None = None,
    kernel_type: str = "LINEAR",
    n_supports: int = 0,
    one_class: int = 0,
    post_transform: str = "NONE",
    rho: tuple[float, ...] | None = None,
    support_vectors: tuple[float, ...] | None = None,
) -> _SvmRegressor:
    weights = _floats(coefficients)
    if n_supports < 0:
        raise KernelError(f"n_supports must not be negative (got {n_supports})")
    if not rho:
        raise KernelError("rho must be given (got none)")
    kernel = None
    if n_supports:
        if weights.size != n_supports:
            raise KernelError(
                f"coefficients must have {n_supports} entries, as n_supports (got {weights.size})"
            )
        kernel = SvmKernel.of(kernel_type, kernel_params, support_vectors, n_supports)
    return _SvmRegressor(kernel, weights, rho[0], bool(one_class), post_transform)


def _svm_regressor_cost(x: Array, *, n_supports: int = 0, **attributes: Any) -> Cost:
    rows = _n_rows(x)
    return Cost(4 * rows, 8 * (2 * rows * max(n_supports, 1) + x.size))


@op("SVMRegressor", since=1, domain=ML, prepare=prepare_svm_regressor, cost=_svm_regressor_cost)
def svm_regressor(x: Array, *, prepared: _SvmRegressor) -> Array:
    """Map `(N, F)` to `(N, 1)` in float32; 1 inside and -1 outside for one class (ONNX-ML SVMRegressor-1)."""
    x = _rows(x)
    if prepared.kernel is None:
        scores = x.astype(np.float64) @ _weights(prepared.coefficients, x.shape[1], 1)[0]
    else:
        scores = prepared.kernel(x) @ prepared.coefficients
    scores = (scores + prepared.rho)[:, None]
    if prepared.one_class:  # a decision, which a transform of scores does not concern
        return np.where(scores > 0, np.float32(1), np.float32(-1))
    return apply_post_transform(scores, prepared.post_transform).astype(np.float32)
