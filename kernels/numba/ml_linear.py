"""Lowerings of linear models, support vector machines and feature scaling (ai.onnx.ml).

Tolerances against the reference: scores of linear models 1e-5 (float32) or 1e-12 (float64) of the sum
of the products' sizes; support vector machines 1e-6, computed in float64 as there; after PROBIT what its
slope makes of that. Scaler, Imputer, Binarizer, ArrayFeatureExtractor and FeatureVectorizer are exact,
Normalizer within one rounding.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxref.dtypes import Array
from onnxref.lowering import Operand, Packed, Scratch, Site, Unsupported, lower
from onnxref.native import native, target
from onnxref.registry import ML

from ..common.checks import check_movable, check_result, only_output
from ..common.ml import TRANSFORMS, examples, kept
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
from ..common.ml_linear import (
    LINEAR,
    SVM_KERNELS,
    Linear,
    SvmClassification,
    SvmRegression,
    linear_weights,
    packed_labels,
    rounded_intercepts,
    svm_table,
    svm_weights,
)
from ..numpy import ml_linear as reference
from .indexing import emit_take
from .places import emit_axis_places

CODE = "onnxref.kernels.numba.code.ml_linear"
CODE_LANES = "onnxref.kernels.numba.code.ml_lanes"
_COLUMNS = 4  # vectors of support vectors that are compared at once, as in the kernel
_KERNEL_NS = {"LINEAR": 0.1, "RBF": 2.0, "POLY": 30.0, "SIGMOID": 15.0}
_BLOCK = 1024  # elements of a unit of elementwise kernels


def _as(site: Site, x: Operand, dtype: str) -> Operand | Scratch:
    """Return the elements of x in another type, by a call if it has to be one."""
    if x.dtype.name == dtype:
        return x
    made = site.scratch(x.size * np.dtype(dtype).itemsize)
    units = -(-x.size // _BLOCK)
    site.call(native(CODE, "convert", x.dtype.name, dtype), x, made, x.size, units=units, work=x.size / 2)
    return made


# --- linear models -------------------------------------------------------------------------------


def _emit_sums(
    site: Site, x: Operand, dtype: str, weights: Packed, bias: Packed | int, targets: int
) -> Scratch:
    """Add the calls for X W^T + b; return where the scores `(N, targets)` lie, in float64."""
    rows, features = examples(x)
    held = _as(site, x, dtype)
    scores = site.scratch(8 * rows * targets)
    site.call(
        native(CODE, "linear", dtype == "float64", min(targets, 4) if targets > 1 else 4),
        held,
        weights,
        bias,
        scores,
        features,
        targets,
        units=rows,
        work=rows * targets * (5.0 + features * 0.05),
        grain=4,
    )
    return scores


def _emit_linear(site: Site, model: Linear) -> None:
    if _emit_in_lanes(site, model):
        return
    bias: Packed | int = 0
    if model.intercepts:
        values = tuple(model.intercepts)
        bias = kept(
            site, None, ("intercepts", model.dtype, values), lambda: rounded_intercepts(values, model.dtype)
        )
    weights = linear_weights(site, model.coefficients, model.dtype)
    scores = _emit_sums(site, model.x, model.dtype, weights, bias, model.targets)
    _emit_finish(
        site,
        scores,
        model.rows,
        model.targets,
        model.dtype,
        transform=model.transform,
        goal=model.scores,
        before=model.before,
        by_sign=model.by_sign,
        labels=model.labels,
        label=model.label,
    )


def _emit_finish(
    site: Site,
    scores: Scratch,
    rows: int,
    columns: int,
    dtype: str,
    *,
    transform: str,
    goal: Operand | None,
    before: int = 0,
    by_sign: bool = False,
    labels: Sequence[int] = (),
    label: Operand | None = None,
) -> None:
    """Add the call that makes labels and results of scores; `before` as of `Linear`."""
    width = columns + (1 if before else 0)
    scratch = site.scratch(8 * width, per_thread=True)
    site.call(
        native(CODE, "finish", dtype, label is not None),
        scores,
        columns,
        TRANSFORMS.index(transform),
        before,
        int(by_sign),
        packed_labels(site, labels) if label is not None else 0,
        label if label is not None else 0,
        goal if goal is not None else site.scratch(4 * rows * width),
        scratch,
        scratch.nbytes,
        units=rows,
        work=rows * width * (10.0 if label is not None else 5.0),
        grain=16,
    )


def _emit_in_lanes(site: Site, model: Linear) -> bool:
    """Add the one call that does all for float32 and few targets; say whether this is such a node."""
    features, targets, before = model.features, model.targets, model.before
    columns, lanes = targets + (1 if before else 0), target().lanes
    vectors = next((v for v in (1, 2, 4) if columns <= v * lanes), None)
    if model.dtype != "float32" or columns < 2 or vectors is None:
        return False
    if model.transform not in ("NONE", "LOGISTIC", "SOFTMAX"):
        return False
    width, first = vectors * lanes, columns - targets
    intercepts = tuple(model.intercepts)

    def build() -> Array:
        made = np.zeros((features + 1, width), np.float32)
        made[:-1, first:columns] = np.array(model.coefficients, np.float64).reshape(targets, features).T
        made[-1, first:columns] = np.array(intercepts or (0.0,) * targets, np.float64)
        return made

    weights = kept(site, model.coefficients, ("linear in lanes", intercepts, width, first), build)
    y, z = model.label, model.scores
    scratch = site.scratch(512 * width + 768, per_thread=True)
    site.call(
        native(CODE_LANES, "linear_rows", vectors, TRANSFORMS.index(model.transform), y is not None),
        model.x, weights, weights + 4 * features * width, features, columns, before, int(model.by_sign),
        packed_labels(site, model.labels) if y is not None else 0,
        y if y is not None else 0, z if z is not None else 0, scratch, scratch.nbytes,
        units=model.rows, work=model.rows * (vectors * (5.0 + features * 0.15) + columns), grain=64,
    )  # fmt: skip
    return True


# --- support vector machines ---------------------------------------------------------------------


def _emit_kernel(
    site: Site, x: Operand, kernel: reference.SvmKernel, source: object, coefficients: Array, starts: Array
) -> Scratch:
    """Add the calls that compare with the support vectors; return the sums (N, classes, lines) in float64.

    Args:
        coefficients: (lines, support vectors).
        starts: where each class begins, and the end of the last.
    """
    rows, features = examples(x)
    count = len(kernel.vectors)
    step = _COLUMNS * target().vector_bytes // 8
    padded = -(-count // step) * step

    def by_feature() -> Array:
        made = np.zeros((features, padded))
        made[:, :count] = kernel.vectors.T
        return made

    vectors = kept(site, source, ("support_vectors", step), by_feature)
    weights, bounds = svm_weights(site, source, coefficients, starts)
    lines, classes = len(coefficients), len(starts) - 1
    held = _as(site, x, "float64")
    parts = site.scratch(8 * rows * classes * lines)
    scratch = site.scratch(8 * padded, per_thread=True)
    site.call(
        native(CODE, "svm", SVM_KERNELS.index(kernel.name)),
        held,
        vectors,
        features,
        count,
        padded,
        weights,
        lines,
        bounds,
        classes,
        parts,
        scratch,
        scratch.nbytes,
        float(kernel.gamma),
        float(kernel.coef0),
        float(kernel.degree),
        units=rows,
        work=rows * count * (0.1 * features + _KERNEL_NS[kernel.name] + 0.2 * lines),
    )
    return parts


def _emit_svm(site: Site, asked: SvmClassification) -> None:
    """Add the calls that make labels and results of what the classes' support vectors say."""
    model, y, rows, columns = asked.model, asked.label, asked.rows, asked.columns
    source = asked.attributes.get("support_vectors")
    parts = _emit_kernel(site, asked.x, asked.kernel, source, model.coefficients, model.starts)
    classes = len(model.labels)
    pairs = classes * (classes - 1) // 2
    scores = site.scratch(8 * rows * columns)
    scratch = site.scratch(8 * (2 * classes + pairs + classes * classes), per_thread=True)
    site.call(
        native(CODE, "svm_pairs", y is not None, asked.probable),
        parts,
        classes,
        svm_table(site, asked, "rho"),
        svm_table(site, asked, "prob_a") if asked.probable else 0,
        svm_table(site, asked, "prob_b") if asked.probable else 0,
        packed_labels(site, asked.attributes["classlabels_ints"]),
        y if y is not None else 0,
        scores,
        scratch,
        scratch.nbytes,
        units=rows,
        work=rows * (pairs * 3.0 + (50.0 * classes * classes if asked.probable else 0.0)),
        grain=8,
    )
    if asked.scores is not None:
        transform, before = model.post_transform, asked.before
        _emit_finish(
            site, scores, rows, columns, "float64", transform=transform, goal=asked.scores, before=before
        )


def _emit_svm_regression(site: Site, asked: SvmRegression) -> None:
    if asked.kernel is None:
        weights = linear_weights(site, asked.source, "float64")
        sums = _emit_sums(site, asked.x, "float64", weights, 0, 1)
    else:
        ends = np.array([0, len(asked.kernel.vectors)])
        sums = _emit_kernel(site, asked.x, asked.kernel, asked.source, asked.coefficients[None], ends)
    function = native(CODE, "svm_regression", asked.one_class)
    transform = TRANSFORMS.index(asked.transform)
    rows = asked.rows
    site.call(function, sums, transform, asked.rho, asked.y, units=rows, work=rows * 5.0, grain=64)


def _emit(site: Site, asked: Linear | SvmClassification | SvmRegression) -> None:
    match asked:
        case Linear():
            _emit_linear(site, asked)
        case SvmClassification():
            _emit_svm(site, asked)
        case SvmRegression():
            _emit_svm_regression(site, asked)


LINEAR.register("numba", _emit)


# --- features ------------------------------------------------------------------------------------


def _scale(site: Site, asked: Scaling) -> None:
    x, features = asked.x, asked.features
    site.call(
        native(CODE, "scaler", x.dtype.name),
        *(x, asked.y, asked.offsets, asked.scales, features),
        units=x.size // features,
        work=x.size * 0.4,
        grain=-(-4096 // features),
    )


def _impute(site: Site, asked: Imputing) -> None:
    x, features = asked.x, asked.features
    site.call(
        native(CODE, "imputer", x.dtype.name, asked.is_nan),
        *(x, asked.y, asked.table, features, asked.replaced),
        units=x.size // features,
        work=x.size * 0.4,
        grain=-(-4096 // features),
    )


def _binarize(site: Site, asked: Binarizing) -> None:
    x = asked.x
    site.call(
        native(CODE, "binarizer", x.dtype.name),
        *(x, asked.y, x.size, asked.limit),
        units=-(-x.size // _BLOCK),
        work=x.size * 0.3,
        grain=4,
    )


def _normalize(site: Site, asked: Normalizing) -> None:
    x, columns = asked.x, asked.columns
    function = native(CODE, "normalizer", x.dtype.name, asked.norm)
    site.call(function, x, asked.y, columns, units=asked.rows, work=x.size * 1.5, grain=-(-4096 // columns))


def _join(site: Site, asked: Joining) -> None:
    count = asked.rows
    for x, columns, filled, start in asked.parts:
        arguments = (x, asked.y + 4 * start, columns, min(columns, filled), filled, asked.width)
        function = native(CODE, "features", x.dtype.name)
        site.call(function, *arguments, units=count if filled else 0, work=count * filled * 1.0, grain=64)


SCALER.register("numba", _scale)
IMPUTER.register("numba", _impute)
BINARIZER.register("numba", _binarize)
NORMALIZER.register("numba", _normalize)
VECTORIZER.register("numba", _join)


@lower("ArrayFeatureExtractor", since=1, domain=ML)
def array_feature_extractor(site: Site, x: Operand, y: Operand) -> None:
    """ONNX-ML ArrayFeatureExtractor-1."""
    goal = only_output(site)
    check_movable(x)
    if not x.ndim:
        raise Unsupported("X is a scalar")
    columns, size = x.shape[-1], x.dtype.itemsize
    shape = (*x.shape[:-1], y.size)
    check_result(goal, shape if len(shape) > 1 else (1, *shape))
    table: Packed | Scratch
    if y.constant is None:
        table = emit_axis_places(site, y, size=columns, step=size, lowest=0)
    else:
        places = y.constant.ravel()
        if places.size and not 0 <= places.min() <= places.max() < columns:
            raise Unsupported("places out of range")
        table = site.pack((y,), ("places", size), lambda: places.astype(np.int64) * size)
    if goal.size:
        emit_take(
            site, x, table, outer=x.size // columns, count=y.size, outer_elements=columns, row_elements=1
        )
