"""LinearRegressor, LinearClassifier, SVMRegressor, SVMClassifier (ai.onnx.ml), for classes that are numbers.

Tolerances against the reference: scores of linear models 1e-5 (float32) or 1e-12 (float64) of the sum of the
products' sizes; support vector machines 1e-6, computed in float64 as there; after PROBIT what its slope
makes of that.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from onnxref.dtypes import Array
from onnxref.gpu import CTYPES, cuda_kernel, grid_for
from onnxref.lowering import Operand, Packed, Scratch, Site, Unsupported

from ..common.ml import examples, kept
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
from ._rows import power_above
from .ml_scores import emit_finish
from .movement import check_plain

_CODE = "onnxref.kernels.cupy.code"
_svm = partial(cuda_kernel, _CODE, "ml_svm.cu")
_LINES = 4  # targets of a thread
_PRODUCTS = 1 << 23  # kernel values that are on their way at a time
_MOST_PLACES = 1 << 28  # float64 places of all rows' matrices of pairs


# --- linear models -------------------------------------------------------------------------------


def _emit_sums(site: Site, x: Operand, dtype: str, weights: Packed, targets: int) -> Scratch:
    """Emit X W^T; return where the scores (N, targets) lie, in float64."""
    rows, features = examples(x)
    if features >= 1 << 31 or targets > _LINES * 65535:
        raise Unsupported("too many features or targets")
    scores = site.scratch(8 * rows * targets)
    lines = min(_LINES, power_above(targets))
    group = min(32, power_above(-(-features // 4)))
    kernel = cuda_kernel(
        _CODE, "ml_linear.cu", "linear_scores",
        T=CTYPES[x.dtype.name], S=CTYPES[dtype], LINES=lines, GROUP=group,
    )  # fmt: skip
    grid = (grid_for(rows * group, 128)[0], -(-targets // lines), 1)
    if rows:
        site.launch(kernel, x, weights, scores, rows, features, targets, grid=grid, block=(128, 1, 1))
    return scores


def _emit_linear(site: Site, model: Linear) -> None:
    intercepts = model.intercepts or (-0.0,) * model.targets  # -0 changes nothing
    weights = linear_weights(site, model.coefficients, model.dtype)
    scores = _emit_sums(site, model.x, model.dtype, weights, model.targets)
    emit_finish(
        site,
        scores,
        model.rows,
        model.targets,
        score=model.dtype,
        transform=model.transform,
        base=rounded_intercepts(intercepts, model.dtype),
        goal=model.scores,
        label=model.label,
        labels=model.labels,
        before=model.before,
        by_sign=model.by_sign,
    )


# --- support vector machines ---------------------------------------------------------------------


def _emit_kernel(
    site: Site, x: Operand, kernel: reference.SvmKernel, source: object, coefficients: Array, starts: Array
) -> Scratch:
    """Emit the comparison with the support vectors; return the sums (N, classes, lines) in float64.

    Args:
        coefficients: (lines, support vectors).
        starts: where each class begins, and the end of the last.
    """
    rows, features = examples(x)
    count = len(kernel.vectors)
    vectors = kept(site, source, ("support_vectors",), lambda: np.ascontiguousarray(kernel.vectors.T))
    weights, bounds = svm_weights(site, source, coefficients, starts)
    lines, classes = len(coefficients), len(starts) - 1
    parts = site.scratch(8 * rows * classes * lines)
    most = min(4 * 65535, max(4, _PRODUCTS // count // 4 * 4))
    products = site.scratch(8 * min(rows, most) * count)
    defines = {"T": CTYPES[x.dtype.name], "KERNEL": SVM_KERNELS.index(kernel.name), **_PLAIN}
    constants = (np.float64(kernel.gamma), np.float64(kernel.coef0), np.float64(kernel.degree))
    for begin in range(0, rows, most):
        some = min(most, rows - begin)
        site.launch(
            _svm("svm_kernel", **defines),
            *(x + begin * features * x.dtype.itemsize, vectors, products, some, features, count, *constants),
            grid=(grid_for(count, 128)[0], -(-some // 4), 1),
            block=(128, 1, 1),
        )
        site.launch(
            _svm("svm_sums", **_ANY, **_PLAIN),
            *(products, weights, bounds, parts + 8 * begin * classes * lines, some, count, classes, lines),
            grid=grid_for(some * classes * lines * 32),
        )
    return parts


_PLAIN = {"PROBABLE": 0, "HAS_LABELS": 0}
_ANY = {"T": "float", "KERNEL": 0}


def _emit_svm(site: Site, asked: SvmClassification) -> None:
    classes, rows = len(asked.model.labels), asked.rows
    if rows * classes * classes > _MOST_PLACES:
        raise Unsupported("too many pairs of classes")
    if not rows:
        return
    scores = _emit_pairs(site, asked)
    if asked.scores is not None:
        emit_finish(
            site,
            scores,
            rows,
            asked.columns,
            score="float64",
            transform=asked.model.post_transform,
            base=np.full(asked.columns, -0.0),
            goal=asked.scores,
            before=asked.before,
        )


def _emit_pairs(site: Site, asked: SvmClassification) -> Scratch:
    """Emit the labels; return the scores of the pairs, or the probabilities of the classes."""
    model, y, rows, probable = asked.model, asked.label, asked.rows, asked.probable
    classes, source = len(model.labels), asked.attributes.get("support_vectors")
    parts = _emit_kernel(site, asked.x, asked.kernel, source, model.coefficients, model.starts)
    scores = site.scratch(8 * rows * asked.columns)
    known = packed_labels(site, asked.attributes["classlabels_ints"])
    names = ("rho", "prob_a", "prob_b") if probable else ("rho",) * 3
    site.launch(
        _svm("svm_pairs", **_ANY, PROBABLE=int(probable), HAS_LABELS=int(y is not None)),
        parts,
        *(svm_table(site, asked, name) for name in names),
        *(known, y if y is not None else known),
        *(site.scratch(8 * rows * (classes * classes + 2 * classes)), scores, rows, classes),
        grid=grid_for(rows, 64),
        block=(64, 1, 1),
    )
    return scores


def _emit_svm_regression(site: Site, asked: SvmRegression) -> None:
    rows, y = asked.rows, asked.y
    check_plain(y)
    if not rows:
        return
    if asked.kernel is None:
        weights = linear_weights(site, asked.source, "float64")
        sums = _emit_sums(site, asked.x, "float64", weights, 1)
    else:
        ends = np.array([0, len(asked.kernel.vectors)])
        sums = _emit_kernel(site, asked.x, asked.kernel, asked.source, asked.coefficients[None], ends)
    if asked.one_class:
        kernel = _svm("one_class", **_ANY, **_PLAIN)
        site.launch(kernel, sums, y, rows, np.float64(asked.rho), grid=grid_for(rows))
        return
    base = np.full(1, asked.rho)
    emit_finish(site, sums, rows, 1, score="float64", transform=asked.transform, base=base, goal=y)


def _emit(site: Site, asked: Linear | SvmClassification | SvmRegression) -> None:
    match asked:
        case Linear():
            _emit_linear(site, asked)
        case SvmClassification():
            _emit_svm(site, asked)
        case SvmRegression():
            _emit_svm_regression(site, asked)


LINEAR.register("cupy", _emit)
