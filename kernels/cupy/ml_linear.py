"""LinearRegressor, LinearClassifier, SVMRegressor, SVMClassifier (ai.onnx.ml), for classes that are numbers.

Tolerances against the reference: scores of linear models 1e-5 (float32) or 1e-12 (float64) of the sum of the
products' sizes; support vector machines 1e-6, computed in float64 as there; after PROBIT what its slope
makes of that.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Final

import numpy as np

from onnxref.dtypes import Array
from onnxref.gpu import CTYPES, cuda_kernel, grid_for
from onnxref.lowering import Operand, Packed, Scratch, Site, Unsupported, lower
from onnxref.registry import ML

from ..numpy import ml_linear as reference
from ._rows import power_above
from .ml_features import kept, matrix
from .ml_scores import check_transform, emit_finish
from .movement import check_plain, check_result, only_output, refusing

_CODE = "onnxref.kernels.cupy.code"
_svm = partial(cuda_kernel, _CODE, "ml_svm.cu")
_KERNELS: Final = ("LINEAR", "POLY", "RBF", "SIGMOID")
_LINES = 4  # targets of a thread
_PRODUCTS = 1 << 23  # kernel values that are on their way at a time
_MOST_PLACES = 1 << 28  # float64 places of all rows' matrices of pairs


# --- linear models -------------------------------------------------------------------------------


def _emit_linear(site: Site, x: Operand, dtype: str, coefficients: Any, targets: int) -> Scratch:
    """Emit X W^T; return where the scores (N, targets) lie, in float64."""
    rows, features = matrix(x)
    if features >= 1 << 31 or targets > _LINES * 65535:
        raise Unsupported("too many features or targets")
    weights = kept(
        site, coefficients, ("linear", dtype), lambda: np.array(coefficients, np.float64).astype(dtype)
    )
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


def _intercepts(intercepts: tuple[float, ...] | None, targets: int, dtype: str) -> Array:
    """Return them rounded to the type of the scores, but in float64 as the scores are."""
    if len(intercepts or ()) not in (0, targets):
        raise Unsupported("intercepts of the wrong number")
    values = np.array(intercepts or (-0.0,) * targets, np.float64)  # -0 changes nothing
    return values.astype(dtype).astype(np.float64)


@lower("LinearClassifier", since=1, domain=ML, backend="cupy")
@refusing
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
) -> None:
    """ONNX-ML LinearClassifier-1."""
    if classlabels_strings:
        raise Unsupported("classes are strings")
    rows, features = matrix(x)
    labels = classlabels_ints or ()
    targets = max(len(coefficients) // features, 1)
    if len(coefficients) != targets * features:
        raise Unsupported("coefficients of the wrong number")
    single = targets == 1
    if (single and len(labels) not in (0, 2)) or (not single and len(labels) < targets):
        raise Unsupported("classlabels of the wrong number")
    before = 0
    if single and labels:
        before = 1 if check_transform(post_transform) in ("PROBIT", "NONE") else 2
    dtype = "float32" if x.dtype == np.float32 else "float64"
    base = _intercepts(intercepts, targets, dtype)
    y, z = site.outputs
    if z is not None:
        check_result(z, (rows, targets + (1 if before else 0)))
    scores = _emit_linear(site, x, dtype, coefficients, targets)
    emit_finish(
        site, scores, rows, targets, score=dtype, transform=check_transform(post_transform), base=base,
        goal=z, label=y, labels=labels or (0, 1), before=before, by_sign=single,
    )  # fmt: skip


@lower("LinearRegressor", since=1, domain=ML, backend="cupy")
@refusing
def linear_regressor(
    site: Site,
    x: Operand,
    *,
    coefficients: tuple[float, ...] | None = None,
    intercepts: tuple[float, ...] | None = None,
    post_transform: str = "NONE",
    targets: int = 1,
) -> None:
    """ONNX-ML LinearRegressor-1."""
    rows, features = matrix(x)
    y = only_output(site)
    check_transform(post_transform)
    if targets < 1 or len(coefficients or ()) != targets * features:
        raise Unsupported("coefficients of the wrong number")
    check_result(y, (rows, targets))
    dtype = "float32" if x.dtype == np.float32 else "float64"
    base = _intercepts(intercepts, targets, dtype)
    scores = _emit_linear(site, x, dtype, coefficients, targets)
    emit_finish(site, scores, rows, targets, score=dtype, transform=post_transform, base=base, goal=y)


# --- support vector machines ---------------------------------------------------------------------


def _emit_kernel(
    site: Site, x: Operand, kernel: reference.SvmKernel, source: object, coefficients: Array, starts: Array
) -> Scratch:
    """Emit the comparison with the support vectors; return the sums (N, classes, lines) in float64.

    Args:
        coefficients: (lines, support vectors).
        starts: where each class begins, and the end of the last.
    """
    rows, features = matrix(x)
    count = len(kernel.vectors)
    if kernel.vectors.shape[1] != features:
        raise Unsupported("support_vectors of another width")
    vectors = kept(site, source, ("support_vectors",), lambda: np.ascontiguousarray(kernel.vectors.T))
    key = (coefficients.tobytes(), starts.tobytes())
    weights = kept(site, source, ("svm coefficients", *key), lambda: coefficients)
    bounds = kept(site, source, ("svm starts", *key), lambda: starts.astype(np.int64))
    lines, classes = len(coefficients), len(starts) - 1
    parts = site.scratch(8 * rows * classes * lines)
    most = min(4 * 65535, max(4, _PRODUCTS // count // 4 * 4))
    products = site.scratch(8 * min(rows, most) * count)
    defines = {"T": CTYPES[x.dtype.name], "KERNEL": _KERNELS.index(kernel.name), **_PLAIN}
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


@lower("SVMClassifier", since=1, domain=ML, backend="cupy")
@refusing
def svm_classifier(site: Site, x: Operand, **attributes: Any) -> None:
    """ONNX-ML SVMClassifier-1."""
    if attributes.get("classlabels_strings"):
        raise Unsupported("classes are strings")
    rows, features = matrix(x)
    model = reference.prepare_svm_classifier(**attributes)
    labels, kind, classes = attributes["classlabels_ints"], model.post_transform, len(model.labels)
    check_transform(kind)
    y, z = site.outputs
    if model.kernel is None:
        if model.coefficients.size != classes * features:
            raise Unsupported("coefficients of the wrong number")
        if z is not None:
            check_result(z, (rows, classes))
        scores = _emit_linear(site, x, "float64", attributes["coefficients"], classes)
        base = np.full(classes, float(model.rho[0]))
        emit_finish(
            site, scores, rows, classes, score="float64", transform=kind, base=base,
            goal=z, label=y, labels=labels,
        )  # fmt: skip
        return
    if model.kernel.vectors.shape[1] != features or rows * classes * classes > _MOST_PLACES:
        raise Unsupported("support_vectors of another width, or too many pairs of classes")
    probable = bool(model.prob_a.size)
    columns = classes if probable else classes * (classes - 1) // 2
    two = classes == 2 and not probable
    if z is not None:
        check_result(z, (rows, columns + (1 if two else 0)))
    if not rows:
        return
    source = attributes.get("support_vectors")
    parts = _emit_kernel(site, x, model.kernel, source, model.coefficients, model.starts)
    scores = _emit_pairs(site, parts, rows, model, attributes, y)
    if z is not None:
        before = (1 if kind == "PROBIT" else 2) if two else 0
        base = np.full(columns, -0.0)
        emit_finish(
            site, scores, rows, columns, score="float64", transform=kind, base=base, goal=z, before=before
        )


def _emit_pairs(
    site: Site, parts: Scratch, rows: int, model: reference.SvmClassifier, attributes: Any, y: Operand | None
) -> Scratch:
    """Emit the labels; return the scores of the pairs, or the probabilities of the classes."""
    classes, probable = len(model.labels), bool(model.prob_a.size)
    columns = classes if probable else classes * (classes - 1) // 2
    scores = site.scratch(8 * rows * columns)

    def table(name: str) -> Packed:
        values = attributes.get(name)
        return kept(site, values, ("svm", name), lambda: np.array(values, np.float64))

    labels = attributes["classlabels_ints"]
    known = kept(site, labels, ("labels",), lambda: np.array(labels, np.int64))
    site.launch(
        _svm("svm_pairs", **_ANY, PROBABLE=int(probable), HAS_LABELS=int(y is not None)),
        *(
            parts,
            table("rho"),
            table("prob_a" if probable else "rho"),
            table("prob_b" if probable else "rho"),
        ),
        *(known, y if y is not None else known),
        *(site.scratch(8 * rows * (classes * classes + 2 * classes)), scores, rows, classes),
        grid=grid_for(rows, 64),
        block=(64, 1, 1),
    )
    return scores


@lower("SVMRegressor", since=1, domain=ML, backend="cupy")
@refusing
def svm_regressor(site: Site, x: Operand, **attributes: Any) -> None:
    """ONNX-ML SVMRegressor-1."""
    rows, features = matrix(x)
    y = only_output(site)
    check_plain(y)
    model = reference.prepare_svm_regressor(**attributes)
    check_transform(model.post_transform)
    check_result(y, (rows, 1))
    if not rows:
        return
    if model.kernel is None:
        if model.coefficients.size != features:
            raise Unsupported("coefficients of the wrong number")
        sums = _emit_linear(site, x, "float64", attributes.get("coefficients"), 1)
    else:
        ends = np.array([0, len(model.kernel.vectors)])
        source = attributes.get("support_vectors")
        sums = _emit_kernel(site, x, model.kernel, source, model.coefficients[None], ends)
    if model.one_class:
        kernel = _svm("one_class", **_ANY, **_PLAIN)
        site.launch(kernel, sums, y, rows, np.float64(model.rho), grid=grid_for(rows))
        return
    base = np.full(1, float(model.rho))
    transform = model.post_transform
    emit_finish(site, sums, rows, 1, score="float64", transform=transform, base=base, goal=y)
