"""Lowerings of softmax and of the normalisations: layer, RMS, instance, group, local response, Lp.

Tolerances against the reference: softmax 1e-6 relative; the others 2e-5 of the normalised value's size
for float32 (rows of a million elements included), 1e-12 for float64.
"""

from __future__ import annotations

import math

import numpy as np

from onnxref.lowering import Operand, Site, Unsupported, lower
from onnxref.native import NativeFunction, native

from ..common.checks import refusing
from ..common.normalization import GROUPS, INSTANCES, LAYERS, GroupNorm, LayerNorm, first_output
from ..numpy._checks import normalize_axis

_CODE = "onnxref.kernels.numba.code.normalization"
_SPAN = 256  # columns that a unit of the column kernels has
_LRN_ALPHA = float(np.float32(1e-4))


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


# --- softmax -------------------------------------------------------------------------------------


@lower("Softmax", since=13)
@refusing
def softmax(site: Site, x: Operand, *, axis: int = -1) -> None:
    """ONNX Softmax-13, within 1e-6 of the reference; a float32 below 1e-38 becomes 0."""
    _softmax(site, x, axis, log=False)


@lower("LogSoftmax", since=13)
@refusing
def log_softmax(site: Site, x: Operand, *, axis: int = -1) -> None:
    """ONNX LogSoftmax-13, within 1e-6 of the largest logarithm in a row."""
    _softmax(site, x, axis, log=True)


@lower("Softmax", since=(1, 11))
@refusing
def softmax_of_matrix(site: Site, x: Operand, *, axis: int = 1) -> None:
    """ONNX Softmax-11: along all axes from `axis` on."""
    _softmax(site, x, axis, log=False, coerced=True)


@lower("LogSoftmax", since=(1, 11))
@refusing
def log_softmax_of_matrix(site: Site, x: Operand, *, axis: int = 1) -> None:
    """ONNX LogSoftmax-11: along all axes from `axis` on."""
    _softmax(site, x, axis, log=True, coerced=True)


def _softmax(site: Site, x: Operand, axis: int, log: bool, coerced: bool = False) -> None:
    y, dtype, axis = first_output(site), _real(x), normalize_axis(axis, x.ndim)
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


def _layer(site: Site, asked: LayerNorm) -> None:
    x, y, scale, b, skip = asked[:5]
    dtype = _real(x, scale, b, skip)
    if skip is None and asked.stash != dtype:
        raise Unsupported("its statistics are of another type")
    added = None
    if skip is not None:
        # Where nobody wants the sum it is left where y comes: a row is read before it is written.
        added = asked.added or y
        site.may_overwrite(added, x)
        site.may_overwrite(added, skip)
    if added is not y:
        site.may_overwrite(y, x)
    site.call(
        _function("layer", dtype, asked.is_rms, b is not None, skip is not None),
        *(x, y, asked.n, scale, b or 0, asked.epsilon),
        *(asked.means or 0, asked.factors or 0, skip or 0, added or 0),
        units=asked.rows,
        work=x.nbytes / 10 + 20 * asked.rows,
    )


LAYERS.register("numba", _layer)


# --- groups --------------------------------------------------------------------------------------


def _groups(site: Site, asked: GroupNorm) -> None:
    x, y, groups, scale, b, parameters, epsilon, stash = asked
    dtype = _real(x, scale, b)
    if stash not in (None, dtype):
        raise Unsupported("its statistics are of another type")
    if x.size == 0:
        return
    channels, spatial = x.shape[1], math.prod(x.shape[2:])
    site.may_overwrite(y, x)
    site.call(
        _function("groups", dtype),
        *(x, y, groups, channels // groups, spatial, scale, b, channels // parameters, epsilon, 0.0),
        units=x.shape[0] * groups,
        work=x.nbytes / 10 + 10 * x.shape[0] * channels,
    )


INSTANCES.register("numba", _groups)
GROUPS.register("numba", _groups)


@lower("MeanVarianceNormalization", since=(9, 13))
@refusing
def mean_variance_normalization(site: Site, x: Operand, *, axes: tuple[int, ...] = (0, 2, 3)) -> None:
    """ONNX MeanVarianceNormalization-13, of axes behind which none is kept."""
    dtype, y = _real(x), first_output(site)
    reduced = {normalize_axis(axis, x.ndim) for axis in axes} or set(range(x.ndim))
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


# --- across channels -----------------------------------------------------------------------------


@lower("LRN", since=(1, 13))
def lrn(
    site: Site, x: Operand, *, size: int, alpha: float = _LRN_ALPHA, beta: float = 0.75, bias: float = 1.0
) -> None:
    """ONNX LRN-13 of float32, within 1e-5."""
    y = first_output(site)
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
@refusing
def lp_normalization(site: Site, input: Operand, *, axis: int = -1, p: int = 2) -> None:
    """ONNX LpNormalization-22."""
    x, dtype, axis, y = input, _real(input), normalize_axis(axis, input.ndim), first_output(site)
    if p not in (1, 2):
        raise Unsupported(f"p is {p}")
    outer, n, inner = math.prod(x.shape[:axis]), x.shape[axis], math.prod(x.shape[axis + 1 :])
    site.may_overwrite(y, x)
    if inner == 1:
        site.call(_function("norm_rows", dtype, p == 2), x, y, n, units=outer if n else 0, work=x.nbytes / 10)
    else:
        _columns(site, _function("norm_columns", dtype, p == 2), x, y, outer, n, inner)
