"""Lowerings of softmax and of the normalisations: layer, RMS, instance, group, local response, Lp.

Tolerances against the reference: softmax 1e-6 relative; the others 2e-5 of the normalised value's size
for float32 (rows of a million elements included), 1e-12 for float64.
"""

from __future__ import annotations

import math

import numpy as np

from onnxref.lowering import Operand, Site, Unsupported, lower
from onnxref.native import NativeFunction, native
from onnxref.registry import INTERNAL

_CODE = "onnxref.kernels.numba.code.normalization"
_SPAN = 256  # columns that a unit of the column kernels has
_EPSILON, _LRN_ALPHA = (float(np.float32(x)) for x in (1e-5, 1e-4))
_FLOAT, _DOUBLE = 1, 11  # data types as ONNX numbers them


def _function(template: str, *parameters: object) -> NativeFunction:
    return native(_CODE, template, *parameters)


def _real(x: Operand, *others: Operand | None) -> str:
    """Return the name of the type, float32 or float64, that all operands have."""
    for operand in (x, *others):
        if operand is not None and operand.dtype != x.dtype:
            raise Unsupported("operands of different types")
    if x.dtype not in (np.float32, np.float64):
        raise Unsupported(f"elements are {x.dtype.name}")
    return x.dtype.name


def _axis(axis: int, x: Operand) -> int:
    if not -x.ndim <= axis < x.ndim:
        raise Unsupported("the axis is out of range")
    return axis % x.ndim


def _output(site: Site) -> Operand:
    y = site.outputs[0]
    if y is None:
        raise Unsupported("nothing wants its first output")
    return y


# --- softmax -------------------------------------------------------------------------------------


@lower("Softmax", since=13)
def softmax(site: Site, x: Operand, *, axis: int = -1) -> None:
    """ONNX Softmax-13, within 1e-6 of the reference; a float32 below 1e-38 becomes 0."""
    _softmax(site, x, axis, log=False)


@lower("LogSoftmax", since=13)
def log_softmax(site: Site, x: Operand, *, axis: int = -1) -> None:
    """ONNX LogSoftmax-13, within 1e-6 of the largest logarithm in a row."""
    _softmax(site, x, axis, log=True)


@lower("Softmax", since=(1, 11))
def softmax_of_matrix(site: Site, x: Operand, *, axis: int = 1) -> None:
    """ONNX Softmax-11: along all axes from `axis` on."""
    _softmax(site, x, axis, log=False, coerced=True)


@lower("LogSoftmax", since=(1, 11))
def log_softmax_of_matrix(site: Site, x: Operand, *, axis: int = 1) -> None:
    """ONNX LogSoftmax-11: along all axes from `axis` on."""
    _softmax(site, x, axis, log=True, coerced=True)


def _softmax(site: Site, x: Operand, axis: int, log: bool, coerced: bool = False) -> None:
    y, dtype, axis = _output(site), _real(x), _axis(axis, x)
    site.may_overwrite(y, x)
    outer = math.prod(x.shape[:axis])
    n, inner = x.shape[axis], math.prod(x.shape[axis + 1 :])
    if coerced:
        n, inner = n * inner, 1
    if inner == 1 and dtype == "float32":
        site.call(_function("softmax_rows", log), x, y, n, units=outer, work=x.nbytes / 12)
    else:
        slow = 8 if dtype == "float64" else 1
        _columns(site, _function("softmax_columns", dtype, log), x, y, outer, n, inner, slow)


def _columns(
    site: Site,
    function: NativeFunction,
    x: Operand,
    y: Operand,
    outer: int,
    n: int,
    inner: int,
    slow: float = 1,
) -> None:
    """Call a kernel of (outer, n, inner) that takes pieces of columns."""
    if x.size == 0:
        return
    nbytes = 2 * _SPAN * x.dtype.itemsize
    scratch = site.scratch(nbytes, per_thread=True)
    units = outer * -(-inner // _SPAN)
    site.call(function, x, y, n, inner, scratch, scratch.nbytes, units=units, work=slow * x.nbytes / 6)


# --- layer ---------------------------------------------------------------------------------------


@lower("LayerNormalization", since=17)
def layer_normalization(
    site: Site,
    x: Operand,
    scale: Operand,
    b: Operand | None = None,
    *,
    axis: int = -1,
    epsilon: float = _EPSILON,
    stash_type: int = _FLOAT,
) -> None:
    """ONNX LayerNormalization-17."""
    _layer(site, x, scale, b, None, axis, epsilon, stash_type)


@lower("RMSNormalization", since=23)
def rms_normalization(
    site: Site,
    x: Operand,
    scale: Operand,
    *,
    axis: int = -1,
    epsilon: float = _EPSILON,
    stash_type: int = _FLOAT,
) -> None:
    """ONNX RMSNormalization-23."""
    _layer(site, x, scale, None, None, axis, epsilon, stash_type, root_mean_square=True)


@lower("SkipLayerNormalization", since=1, domain=INTERNAL)
def skip_layer_normalization(
    site: Site,
    x: Operand,
    skip: Operand,
    scale: Operand,
    b: Operand | None = None,
    *,
    axis: int = -1,
    epsilon: float = _EPSILON,
) -> None:
    """LayerNormalization-17 of x + skip, which have one shape; the sum is the second output."""
    if x.shape != skip.shape:
        raise Unsupported("skip has another shape")
    stash = _FLOAT if x.dtype == np.float32 else _DOUBLE
    _layer(site, x, scale, b, skip, axis, epsilon, stash)


@lower("SkipRMSNormalization", since=1, domain=INTERNAL)
def skip_rms_normalization(
    site: Site, x: Operand, skip: Operand, scale: Operand, *, axis: int = -1, epsilon: float = _EPSILON
) -> None:
    """RMSNormalization-23 of x + skip, which have one shape; the sum is the second output."""
    if x.shape != skip.shape:
        raise Unsupported("skip has another shape")
    stash = _FLOAT if x.dtype == np.float32 else _DOUBLE
    _layer(site, x, scale, None, skip, axis, epsilon, stash, root_mean_square=True)


def _layer(
    site: Site,
    x: Operand,
    scale: Operand,
    b: Operand | None,
    skip: Operand | None,
    axis: int,
    epsilon: float,
    stash_type: int,
    root_mean_square: bool = False,
) -> None:
    dtype, axis, y = _real(x, scale, b, skip), _axis(axis, x), _output(site)
    if stash_type != (_FLOAT if dtype == "float32" else _DOUBLE):
        raise Unsupported("its statistics are of another type")
    rows, n = math.prod(x.shape[:axis]), math.prod(x.shape[axis:])
    if n == 0:
        raise Unsupported("rows are empty")
    for parameter in (scale, b):
        if parameter is not None and not _is_row(parameter, x.shape[axis:]):
            raise Unsupported("a parameter is not one element for each of a row")
    outputs = [*site.outputs[1:], None, None]
    means = inverses = added = None
    if skip is None:
        means, inverses = outputs[:2]
    else:
        # Where nobody wants the sum it is left where y comes: a row is read before it is written.
        added = outputs[0] or y
        site.may_overwrite(added, x)
        site.may_overwrite(added, skip)
    if added is not y:
        site.may_overwrite(y, x)
    site.call(
        _function("layer", dtype, root_mean_square, b is not None, skip is not None),
        x,
        y,
        n,
        scale,
        0 if b is None else b,
        float(epsilon),
        means or 0,
        inverses or 0,
        0 if skip is None else skip,
        0 if added is None else added,
        units=rows,
        work=x.nbytes / 10 + 20 * rows,
    )


def _is_row(parameter: Operand, shape: tuple[int, ...]) -> bool:
    """Whether a parameter has `shape`, with axes of size 1 before it or left out of it."""
    given = parameter.shape
    while given and given[0] == 1 and len(given) > len(shape):
        given = given[1:]
    return (1,) * (len(shape) - len(given)) + given == shape


# --- groups --------------------------------------------------------------------------------------


@lower("InstanceNormalization", since=(1, 6, 22))
def instance_normalization(
    site: Site,
    input: Operand,
    scale: Operand,
    b: Operand,
    *,
    consumed_inputs: tuple[int, ...] | None = None,
    epsilon: float = _EPSILON,
) -> None:
    """ONNX InstanceNormalization-22."""
    if input.ndim < 2:
        raise Unsupported("the input has no channels")
    _groups(site, input, input.shape[1], scale, b, 1, epsilon, 0.0)


@lower("GroupNormalization", since=18)
def group_normalization_18(
    site: Site, x: Operand, scale: Operand, bias: Operand, *, num_groups: int, epsilon: float = _EPSILON
) -> None:
    """ONNX GroupNormalization-18: scale and bias per group."""
    if x.ndim < 2 or num_groups < 1 or x.shape[1] % num_groups:
        raise Unsupported("the groups do not divide the channels")
    _groups(site, x, num_groups, scale, bias, x.shape[1] // num_groups, epsilon, 0.0)


@lower("GroupNormalization", since=21)
def group_normalization(
    site: Site,
    x: Operand,
    scale: Operand,
    bias: Operand,
    *,
    num_groups: int,
    epsilon: float = _EPSILON,
    stash_type: int = _FLOAT,
) -> None:
    """ONNX GroupNormalization-21: scale and bias per channel."""
    if x.ndim < 2 or num_groups < 1 or x.shape[1] % num_groups:
        raise Unsupported("the groups do not divide the channels")
    if stash_type != (_FLOAT if x.dtype == np.float32 else _DOUBLE):
        raise Unsupported("its statistics are of another type")
    _groups(site, x, num_groups, scale, bias, 1, epsilon, 0.0)


@lower("MeanVarianceNormalization", since=(9, 13))
def mean_variance_normalization(site: Site, x: Operand, *, axes: tuple[int, ...] = (0, 2, 3)) -> None:
    """ONNX MeanVarianceNormalization-13, of axes behind which none is kept."""
    dtype, y = _real(x), _output(site)
    reduced = {_axis(axis, x) for axis in axes} or set(range(x.ndim))
    kept = [i for i in range(x.ndim) if i not in reduced and x.shape[i] != 1]
    split = max(kept, default=-1) + 1
    if any(x.shape[i] != 1 and i in reduced for i in range(split)):
        raise Unsupported("the axes are not the last ones")
    n = math.prod(x.shape[split:])
    site.may_overwrite(y, x)
    site.call(
        _function("groups", dtype),
        *(x, y, 1, 1, n, 0, 0, 1, 0.0, 1e-9),
        units=math.prod(x.shape[:split]) if n else 0,
        work=x.nbytes / 10,
    )


def _groups(
    site: Site,
    x: Operand,
    groups: int,
    scale: Operand,
    b: Operand,
    sharing: int,
    under: float,
    beside: float,
) -> None:
    dtype, y = _real(x, scale, b), _output(site)
    if x.size == 0:
        return
    channels = x.shape[1]
    if scale.shape != (channels // sharing,) or b.shape != scale.shape:
        raise Unsupported("scale and bias have other shapes")
    spatial = math.prod(x.shape[2:])
    site.may_overwrite(y, x)
    site.call(
        _function("groups", dtype),
        *(x, y, groups, channels // groups, spatial, scale, b, sharing, float(under), float(beside)),
        units=x.shape[0] * groups,
        work=x.nbytes / 10 + 10 * x.shape[0] * channels,
    )


# --- across channels -----------------------------------------------------------------------------


@lower("LRN", since=(1, 13))
def lrn(
    site: Site, x: Operand, *, size: int, alpha: float = _LRN_ALPHA, beta: float = 0.75, bias: float = 1.0
) -> None:
    """ONNX LRN-13 of float32, within 1e-5."""
    y = _output(site)
    if x.dtype != np.float32 or x.ndim < 2 or size < 1:
        raise Unsupported("not float32 with channels")
    if alpha < 0 or bias <= 0:
        raise Unsupported("its base may be negative")
    channels, spatial = x.shape[1], math.prod(x.shape[2:])
    special = beta if beta in (0.75, 0.5, 1.0) else 0.0
    site.call(
        _function("local_response", special),
        *(x, y, channels, spatial, (size - 1) // 2, size // 2),
        *(float(np.float32(alpha / size)), float(bias), float(beta)),
        units=x.shape[0] * channels if spatial else 0,
        work=x.size * (size + 4) / 8,
    )


@lower("LpNormalization", since=(1, 22))
def lp_normalization(site: Site, input: Operand, *, axis: int = -1, p: int = 2) -> None:
    """ONNX LpNormalization-22."""
    x, dtype, axis, y = input, _real(input), _axis(axis, input), _output(site)
    if p not in (1, 2):
        raise Unsupported(f"p is {p}")
    outer, n, inner = math.prod(x.shape[:axis]), x.shape[axis], math.prod(x.shape[axis + 1 :])
    site.may_overwrite(y, x)
    if inner == 1:
        site.call(_function("norm_rows", dtype, p == 2), x, y, n, units=outer if n else 0, work=x.nbytes / 10)
    else:
        _columns(site, _function("norm_columns", dtype, p == 2), x, y, outer, n, inner)
