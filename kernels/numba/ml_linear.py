"""Lowerings of linear models, support vector machines and feature scaling (ai.onnx.ml).

Tolerances against the reference: scores of linear models 1e-5 (float32) or 1e-12 (float64) of the sum
of the products' sizes; support vector machines 1e-6, computed in float64 as there; after PROBIT what its
slope makes of that. Scaler, Imputer, Binarizer, ArrayFeatureExtractor and FeatureVectorizer are exact,
Normalizer within one rounding.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Final

import numpy as np

from onnxref.dtypes import Array
from onnxref.lowering import Operand, Packed, Scratch, Site, Unsupported, lower
from onnxref.native import native, target
from onnxref.registry import ML

from ..numpy import ml_linear as reference
from .boxes import check_movable, check_result, refusing
from .indexing import emit_take
from .ml_trees import TRANSFORMS
from .places import emit_axis_places

CODE = "onnxref.kernels.numba.code.ml_linear"
CODE_LANES = "onnxref.kernels.numba.code.ml_lanes"
_KERNELS: Final = ("LINEAR", "POLY", "RBF", "SIGMOID")
_NUMBERS: Final = ("float32", "float64", "int32", "int64")
_COLUMNS = 4  # vectors of support vectors that are compared at once, as in the kernel
_KERNEL_NS = {"LINEAR": 0.1, "RBF": 2.0, "POLY": 30.0, "SIGMOID": 15.0}
_BLOCK = 1024  # elements of a unit of elementwise kernels


def _kept(site: Site, source: object, key: Hashable, build: Callable[[], Array]) -> Packed:
    """Return an array that follows from an attribute's value, which stands for the node."""
    return Packed(site.packs.get([source], key, build))


def _matrix(x: Operand) -> tuple[int, int]:
    """Return (N, F) of examples; a single dimension is one example."""
    if x.dtype.name not in _NUMBERS or x.ndim not in (1, 2) or not x.shape[-1]:
        raise Unsupported(f"X is {x}")
    return (x.shape[0] if x.ndim == 2 else 1), x.shape[-1]


def _only(site: Site) -> Operand:
    (output,) = site.outputs
    if output is None:
        raise Unsupported("nothing wants its output")
    return output


def _transform(kind: str) -> int:
    if kind not in TRANSFORMS:
        raise Unsupported(f"post_transform {kind}")
    return TRANSFORMS.index(kind)


def _as(site: Site, x: Operand, dtype: str) -> Operand | Scratch:
    """Return the elements of x in another type, by a call if it has to be one."""
    if x.dtype.name == dtype:
        return x
    made = site.scratch(x.size * np.dtype(dtype).itemsize)
    units = -(-x.size // _BLOCK)
    site.call(native(CODE, "convert", x.dtype.name, dtype), x, made, x.size, units=units, work=x.size / 2)
    return made


# --- linear models -------------------------------------------------------------------------------


def _emit_linear(
    site: Site, x: Operand, dtype: str, coefficients: Any, intercepts: Any, targets: int
) -> Scratch:
    """Add the calls for X W^T + b; return where the scores `(N, targets)` lie, in float64."""
    rows, features = _matrix(x)
    weights = _kept(
        site, coefficients, ("linear", dtype), lambda: np.array(coefficients, np.float64).astype(dtype)
    )
    bias: Packed | int = 0
    if intercepts:
        # Rounded to the type of the scores, but kept in float64 as these are.
        values = tuple(intercepts)
        bias = _kept(
            site,
            None,
            ("intercepts", dtype, values),
            lambda: np.array(values, np.float64).astype(dtype).astype(np.float64),
        )
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


def _emit_finish(
    site: Site,
    scores: Scratch,
    rows: int,
    columns: int,
    dtype: str,
    *,
    transform: str,
    before: int,
    by_sign: bool,
    labels: Sequence[int],
) -> None:
    """Add the call that makes labels and results of scores; `before` as in the kernel."""
    y, z = site.outputs
    width = columns + (1 if before else 0)
    if z is not None:
        check_result(z, (rows, width))
    known = _kept(site, labels, ("labels",), lambda: np.array(labels, np.int64)) if y is not None else 0
    scratch = site.scratch(8 * width, per_thread=True)
    site.call(
        native(CODE, "finish", dtype, y is not None),
        scores,
        columns,
        _transform(transform),
        before,
        int(by_sign),
        known,
        y if y is not None else 0,
        z if z is not None else site.scratch(4 * rows * width),
        scratch,
        scratch.nbytes,
        units=rows,
        work=rows * width * 10.0,
        grain=16,
    )


def _emit_in_lanes(
    site: Site,
    x: Operand,
    coefficients: Any,
    intercepts: Any,
    targets: int,
    *,
    transform: str,
    before: int = 0,
    by_sign: bool = False,
    labels: Sequence[int] = (),
    y: Operand | None = None,
    z: Operand | None = None,
) -> bool:
    """Add the one call that does all for float32 and few targets; say whether this is such a node."""
    rows, features = _matrix(x)
    columns = targets + (1 if before else 0)
    lanes = target().lanes
    vectors = next((v for v in (1, 2, 4) if columns <= v * lanes), None)
    if x.dtype != np.float32 or vectors is None or transform not in ("NONE", "LOGISTIC", "SOFTMAX"):
        return False
    width, first = vectors * lanes, columns - targets

    def build() -> Array:
        made = np.zeros((features + 1, width), np.float32)
        made[:-1, first:columns] = np.array(coefficients, np.float64).reshape(targets, features).T
        made[-1, first:columns] = np.array(intercepts or (0.0,) * targets, np.float64)
        return made

    key = ("linear in lanes", tuple(intercepts or ()), width, first)
    weights = _kept(site, coefficients, key, build)
    known = _kept(site, labels, ("labels",), lambda: np.array(labels, np.int64)) if y is not None else 0
    scratch = site.scratch(512 * width + 768, per_thread=True)
    site.call(
        native(CODE_LANES, "linear_rows", vectors, _transform(transform), y is not None),
        x, weights, weights + 4 * features * width, features, columns, before, int(by_sign), known,
        y if y is not None else 0, z if z is not None else 0, scratch, scratch.nbytes,
        units=rows, work=rows * (vectors * (5.0 + features * 0.15) + columns), grain=64,
    )  # fmt: skip
    return True


@lower("LinearClassifier", since=1, domain=ML)
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
    """ONNX-ML LinearClassifier-1, for classes that are numbers."""
    if classlabels_strings:
        raise Unsupported("classes are strings")
    rows, features = _matrix(x)
    labels = classlabels_ints or ()
    targets = max(len(coefficients) // features, 1)
    if len(coefficients) != targets * features or len(intercepts or ()) not in (0, targets):
        raise Unsupported("coefficients or intercepts of the wrong number")
    single = targets == 1
    if (single and len(labels) not in (0, 2)) or (not single and len(labels) < targets):
        raise Unsupported("classlabels of the wrong number")
    transform = post_transform
    _transform(transform)
    before = 0
    if single and labels:
        before = 1 if transform in ("PROBIT", "NONE") else 2
    y, z = site.outputs
    if z is not None:
        check_result(z, (rows, targets + (1 if before else 0)))
    if (not single or before) and _emit_in_lanes(
        site, x, coefficients, intercepts, targets, transform=transform, before=before, by_sign=single,
        labels=labels, y=y, z=z,
    ):  # fmt: skip
        return
    dtype = "float32" if x.dtype == np.float32 else "float64"
    scores = _emit_linear(site, x, dtype, coefficients, intercepts, targets)
    _emit_finish(
        site,
        scores,
        rows,
        targets,
        dtype,
        transform=transform,
        before=before,
        by_sign=single,
        labels=labels or (0, 1),
    )


@lower("LinearRegressor", since=1, domain=ML)
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
    rows, features = _matrix(x)
    y = _only(site)
    if targets < 1 or len(coefficients or ()) != targets * features:
        raise Unsupported("coefficients of the wrong number")
    if len(intercepts or ()) not in (0, targets):
        raise Unsupported("intercepts of the wrong number")
    check_result(y, (rows, targets))
    transform = _transform(post_transform)
    if targets > 1 and _emit_in_lanes(
        site, x, coefficients, intercepts, targets, transform=post_transform, z=y
    ):
        return
    dtype = "float32" if x.dtype == np.float32 else "float64"
    scores = _emit_linear(site, x, dtype, coefficients, intercepts, targets)
    scratch = site.scratch(8 * targets, per_thread=True)
    arguments = (scores, targets, transform, 0, 0, 0, 0, y, scratch, scratch.nbytes)
    function = native(CODE, "finish", dtype, False)
    site.call(function, *arguments, units=rows, work=rows * targets * 5.0, grain=16)


# --- support vector machines ---------------------------------------------------------------------


def _emit_kernel(
    site: Site, x: Operand, kernel: reference.SvmKernel, source: object, coefficients: Array, starts: Array
) -> Scratch:
    """Add the calls that compare with the support vectors; return the sums (N, classes, lines) in float64.

    Args:
        coefficients: (lines, support vectors).
        starts: where each class begins, and the end of the last.
    """
    rows, features = _matrix(x)
    count = len(kernel.vectors)
    if kernel.vectors.shape[1] != features:
        raise Unsupported("support_vectors of another width")
    step = _COLUMNS * target().vector_bytes // 8
    padded = -(-count // step) * step

    def by_feature() -> Array:
        made = np.zeros((features, padded))
        made[:, :count] = kernel.vectors.T
        return made

    vectors = _kept(site, source, ("support_vectors", step), by_feature)
    key = (coefficients.tobytes(), starts.tobytes())
    weights = _kept(site, source, ("svm coefficients", *key), lambda: coefficients)
    bounds = _kept(site, source, ("svm starts", *key), lambda: starts.astype(np.int64))
    lines, classes = len(coefficients), len(starts) - 1
    held = _as(site, x, "float64")
    parts = site.scratch(8 * rows * classes * lines)
    scratch = site.scratch(8 * padded, per_thread=True)
    site.call(
        native(CODE, "svm", _KERNELS.index(kernel.name)),
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


@lower("SVMClassifier", since=1, domain=ML)
@refusing
def svm_classifier(site: Site, x: Operand, **attributes: Any) -> None:
    """ONNX-ML SVMClassifier-1, for classes that are numbers."""
    if attributes.get("classlabels_strings"):
        raise Unsupported("classes are strings")
    rows, features = _matrix(x)
    model = reference.prepare_svm_classifier(**attributes)
    labels, kind, classes = attributes["classlabels_ints"], model.post_transform, len(model.labels)
    _transform(kind)
    if model.kernel is None:
        if model.coefficients.size != classes * features:
            raise Unsupported("coefficients of the wrong number")
        rho = (float(model.rho[0]),) * classes
        scores = _emit_linear(site, x, "float64", attributes["coefficients"], rho, classes)
        _emit_finish(
            site, scores, rows, classes, "float64", transform=kind, before=0, by_sign=False, labels=labels
        )
        return
    if model.kernel.vectors.shape[1] != features:
        raise Unsupported("support_vectors of another width")
    source = attributes.get("support_vectors")
    parts = _emit_kernel(site, x, model.kernel, source, model.coefficients, model.starts)
    _emit_pairs(site, parts, rows, model, attributes)


def _emit_pairs(
    site: Site, parts: Scratch, rows: int, model: reference.SvmClassifier, attributes: Any
) -> None:
    """Add the calls that make labels and results of what the classes' support vectors say."""
    y, z = site.outputs
    classes, probable = len(model.labels), bool(model.prob_a.size)
    pairs = classes * (classes - 1) // 2
    columns = classes if probable else pairs
    scores = site.scratch(8 * rows * columns)
    scratch = site.scratch(8 * (2 * classes + pairs + classes * classes), per_thread=True)

    def table(name: str) -> Packed:
        values = attributes.get(name)
        return _kept(site, values, ("svm", name), lambda: np.array(values, np.float64))

    labels = attributes["classlabels_ints"]
    site.call(
        native(CODE, "svm_pairs", y is not None, probable),
        parts,
        classes,
        table("rho"),
        table("prob_a") if probable else 0,
        table("prob_b") if probable else 0,
        _kept(site, labels, ("labels",), lambda: np.array(labels, np.int64)),
        y if y is not None else 0,
        scores,
        scratch,
        scratch.nbytes,
        units=rows,
        work=rows * (pairs * 3.0 + (50.0 * classes * classes if probable else 0.0)),
        grain=8,
    )
    if z is None:
        return
    two = classes == 2 and not probable
    before = (1 if model.post_transform == "PROBIT" else 2) if two else 0
    check_result(z, (rows, columns + (1 if two else 0)))
    scratch = site.scratch(8 * (columns + 1), per_thread=True)
    arguments = (
        scores,
        columns,
        _transform(model.post_transform),
        before,
        0,
        0,
        0,
        z,
        scratch,
        scratch.nbytes,
    )
    site.call(
        native(CODE, "finish", "float64", False), *arguments, units=rows, work=rows * columns * 5.0, grain=16
    )


@lower("SVMRegressor", since=1, domain=ML)
@refusing
def svm_regressor(site: Site, x: Operand, **attributes: Any) -> None:
    """ONNX-ML SVMRegressor-1."""
    rows, features = _matrix(x)
    y = _only(site)
    model = reference.prepare_svm_regressor(**attributes)
    transform = _transform(model.post_transform)
    check_result(y, (rows, 1))
    if model.kernel is None:
        if model.coefficients.size != features:
            raise Unsupported("coefficients of the wrong number")
        sums = _emit_linear(site, x, "float64", attributes.get("coefficients"), None, 1)
    else:
        ends = np.array([0, len(model.kernel.vectors)])
        source = attributes.get("support_vectors")
        sums = _emit_kernel(site, x, model.kernel, source, model.coefficients[None], ends)
    function = native(CODE, "svm_regression", model.one_class)
    site.call(function, sums, transform, float(model.rho), y, units=rows, work=rows * 5.0, grain=64)


# --- features ------------------------------------------------------------------------------------


def _by_feature(x: Operand) -> tuple[int, int]:
    """Return (rows, features) of (..., F)."""
    if x.dtype.name not in _NUMBERS:
        raise Unsupported(f"X is {x}")
    features = x.shape[-1] if x.ndim else 1
    return (x.size // features if features else 0), features


def _per_feature(site: Site, values: Any, features: int, dtype: Any, name: str) -> Packed:
    if len(values) not in (1, features):
        raise Unsupported(f"{name} of the wrong number")
    return _kept(
        site,
        values,
        (name, features, str(dtype)),
        lambda: np.broadcast_to(np.array(values, dtype), (features,)),
    )


@lower("Scaler", since=1, domain=ML)
def scaler(
    site: Site, x: Operand, *, offset: tuple[float, ...] | None = None, scale: tuple[float, ...] | None = None
) -> None:
    """ONNX-ML Scaler-1."""
    y = _only(site)
    rows, features = _by_feature(x)
    check_result(y, x.shape)
    dtype = np.float32 if x.dtype == np.float32 else np.float64
    offsets = _per_feature(site, offset or _NO_OFFSET, features, dtype, "offset")
    scales = _per_feature(site, scale or _NO_SCALE, features, dtype, "scale")
    function = native(CODE, "scaler", x.dtype.name)
    site.call(
        function,
        x,
        y,
        offsets,
        scales,
        features,
        units=rows,
        work=x.size * 0.4,
        grain=-(-4096 // max(1, features)),
    )


_NO_OFFSET, _NO_SCALE = (0.0,), (1.0,)


@lower("Imputer", since=1, domain=ML)
def imputer(
    site: Site,
    x: Operand,
    *,
    imputed_value_floats: tuple[float, ...] | None = None,
    imputed_value_int64s: tuple[int, ...] | None = None,
    replaced_value_float: float = 0.0,
    replaced_value_int64: int = 0,
) -> None:
    """ONNX-ML Imputer-1."""
    y = _only(site)
    rows, features = _by_feature(x)
    check_result(y, x.shape)
    floating = x.dtype.kind == "f"
    values: Any = imputed_value_floats if floating else imputed_value_int64s
    replaced = replaced_value_float if floating else replaced_value_int64
    if not values:
        raise Unsupported("no imputed value")
    if not floating:
        info = np.iinfo(x.dtype)
        if any(not info.min <= v <= info.max for v in (*values, replaced)):
            raise Unsupported("values that do not fit into the type of X")
    table = _per_feature(site, values, features, x.dtype, "imputed")
    with np.errstate(over="ignore"):
        wanted = np.array([replaced], x.dtype)
    held = _kept(site, None, ("replaced", x.dtype.name, wanted.tobytes()), lambda: wanted)
    nan = floating and math.isnan(replaced_value_float)
    site.call(
        native(CODE, "imputer", x.dtype.name, nan),
        x,
        y,
        table,
        features,
        held,
        units=rows,
        work=x.size * 0.4,
        grain=-(-4096 // max(1, features)),
    )


@lower("Binarizer", since=1, domain=ML)
def binarizer(site: Site, x: Operand, *, threshold: float = 0.0) -> None:
    """ONNX-ML Binarizer-1."""
    y = _only(site)
    _by_feature(x)
    check_result(y, x.shape)
    whole = x.dtype.kind == "i"
    if whole:
        info = np.iinfo(x.dtype)
        if not math.isfinite(threshold) or not info.min <= math.floor(threshold) <= info.max:
            raise Unsupported("a threshold beyond the integers")
    with np.errstate(over="ignore"):
        limit = np.array([math.floor(threshold) if whole else threshold], x.dtype)
    held = _kept(site, None, ("threshold", x.dtype.name, limit.tobytes()), lambda: limit)
    units = -(-x.size // _BLOCK)
    site.call(
        native(CODE, "binarizer", x.dtype.name), x, y, x.size, held, units=units, work=x.size * 0.3, grain=4
    )


@lower("Normalizer", since=1, domain=ML)
def normalizer(site: Site, x: Operand, *, norm: str = "MAX") -> None:
    """ONNX-ML Normalizer-1."""
    y = _only(site)
    rows, columns = _matrix(x)
    check_result(y, x.shape)
    if norm not in ("MAX", "L1", "L2"):
        raise Unsupported(f"norm {norm}")
    function = native(CODE, "normalizer", x.dtype.name, ("MAX", "L1", "L2").index(norm))
    site.call(function, x, y, columns, units=rows, work=x.size * 1.5, grain=-(-4096 // columns))


@lower("ArrayFeatureExtractor", since=1, domain=ML)
def array_feature_extractor(site: Site, x: Operand, y: Operand) -> None:
    """ONNX-ML ArrayFeatureExtractor-1."""
    goal = _only(site)
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


@lower("FeatureVectorizer", since=1, domain=ML)
def feature_vectorizer(site: Site, *x: Operand, inputdimensions: tuple[int, ...] | None = None) -> None:
    """ONNX-ML FeatureVectorizer-1."""
    goal = _only(site)
    if not x or any(part.ndim not in (1, 2) or part.dtype.name not in _NUMBERS for part in x):
        raise Unsupported("inputs that are no matrices of numbers")
    rows = {part.shape[0] if part.ndim == 2 else 1 for part in x}
    widths = [part.shape[-1] for part in x] if inputdimensions is None else list(inputdimensions)
    if len(rows) != 1 or len(widths) != len(x) or min(widths) < 0:
        raise Unsupported("inputs of different rows, or inputdimensions of the wrong number")
    count, width = rows.pop(), sum(widths)
    check_result(goal, (count, width))
    start = 0
    for part, filled in zip(x, widths, strict=True):
        columns = part.shape[-1]
        arguments = (part, goal + 4 * start, columns, min(columns, filled), filled, width)
        function = native(CODE, "features", part.dtype.name)
        site.call(function, *arguments, units=count if filled else 0, work=count * filled * 1.0, grain=64)
        start += filled
