"""Matrix products (real, integer, quantized), Gemm, Einsum and determinants.

Integer products are exact modulo 2**bits. They run in floating-point BLAS whenever the magnitudes
of the operands guarantee that every partial sum is exact there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from onnxref.dtypes import LOW_PRECISION, Array, DType
from onnxref.errors import KernelError
from onnxref.registry import Cost, op

from ._checks import broadcast_shape, broadcasts_to
from ._common import in_float32, narrow, requantize, to_integers, wrap
from ._einsum_plan import Labels, Shape, plan_einsum

# Products of matrices


def product_shape(a: Shape, b: Shape) -> Shape:
    """Return the shape of numpy.matmul(a, b), or explain why there is none."""
    if not a or not b:
        raise KernelError(f"A and B must have at least 1 dimension (got shapes {a} and {b})")
    rows = b[-2] if len(b) > 1 else b[0]
    if a[-1] != rows:
        raise KernelError(f"A and B must agree in their inner dimension (got shapes {a} and {b})")
    batch = broadcast_shape(a[:-2], b[:-2], names="batch dimensions of A and B")
    return batch + a[-2:-1] + (b[-1:] if len(b) > 1 else ())


def _multiply(a: Array, b: Array, dtype: DType | None = None) -> Array:
    """Matrix product of floats; or of integers, modulo 2**bits of `dtype` (that of A by default)."""
    if a.ndim > 2 and b.ndim == 2:  # one large product instead of a stack of small ones
        rows = a.reshape(math.prod(a.shape[:-1]), a.shape[-1])
        return _multiply(rows, b, dtype).reshape(a.shape[:-1] + b.shape[-1:])
    if a.dtype.kind not in "iu":
        return np.asarray(np.matmul(a, b))
    dtype = dtype or a.dtype
    bound = a.shape[-1] * _magnitude(a) * _magnitude(b)
    # All partial sums, in whatever order BLAS makes them, are integers of at most `bound`.
    for real, exact in ((np.float32, 2**24), (np.float64, 2**53)):
        if bound <= exact:
            product = np.asarray(np.matmul(a.astype(real), b.astype(real)))
            # By way of int64, whose conversion to narrower integers wraps.
            return product.astype(np.int64).astype(dtype, copy=False)
    return np.asarray(np.matmul(a.astype(dtype, copy=False), b.astype(dtype, copy=False)))


def _magnitude(x: Array) -> int:
    return max(-int(x.min(initial=0)), int(x.max(initial=0)))


def _work_bytes(dtype: DType) -> int:
    """Return the bytes of temporaries that `_multiply` makes for each element, `in_float32` included."""
    if dtype in LOW_PRECISION:
        return 4
    return 24 if dtype.kind in "iu" else 0


def _product_cost(a: Array, b: Array, dtype: DType) -> Cost:
    """Cost of a matrix product that comes out as `dtype`."""
    shape = product_shape(a.shape, b.shape)
    elements = math.prod(shape) + a.size + b.size
    return Cost(Cost.of(shape, dtype).out_bytes, _work_bytes(a.dtype) * elements)


def _matmul_cost(a: Array, b: Array) -> Cost:
    return _product_cost(a, b, a.dtype)


@op("MatMul", since=(1, 9, 13), cost=_matmul_cost)
@in_float32
def matmul(a: Array, b: Array) -> Array:
    """numpy.matmul: (..., M, K) times (..., K, N) gives (..., M, N) (ONNX MatMul-1)."""
    product_shape(a.shape, b.shape)
    return _multiply(a, b)


# Gemm


def gemm_operands(a: Array, b: Array, trans_a: int, trans_b: int) -> tuple[Array, Array]:
    if a.ndim != 2 or b.ndim != 2:
        raise KernelError(f"A and B must be matrices (got shapes {a.shape} and {b.shape})")
    return (a.T if trans_a else a), (b.T if trans_b else b)


def _gemm_cost(
    a: Array,
    b: Array,
    c: Array | None = None,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    transA: int = 0,
    transB: int = 0,
    broadcast: int = 1,
) -> Cost:
    return _product_cost(*gemm_operands(a, b, transA, transB), a.dtype)


@op("Gemm", since=(7, 9, 11, 13), cost=_gemm_cost)
@in_float32
def gemm(
    a: Array,
    b: Array,
    c: Array | None = None,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    transA: int = 0,
    transB: int = 0,
) -> Array:
    """alpha A B + beta C: A (M, K) and B (K, N) or transposed, C broadcasts to (M, N) (ONNX Gemm-7).

    As in BLAS, C is not looked at where beta is 0. Integers wrap while alpha and beta are whole
    numbers; otherwise the combination is made in float64 and truncated.
    """
    a, b = gemm_operands(a, b, transA, transB)
    shape = product_shape(a.shape, b.shape)
    if c is not None and not broadcasts_to(c.shape, shape):
        raise KernelError(f"C must broadcast to {shape} (got shape {c.shape})")
    y = _multiply(a, b)
    integers = y.dtype.kind in "iu"
    if integers and not (float(alpha).is_integer() and float(beta).is_integer()):
        real = alpha * y.astype(np.float64)
        return to_integers(real + beta * c if c is not None and beta != 0 else real, y.dtype)
    if alpha != 1:
        y *= wrap(alpha, y.dtype) if integers else alpha
    if c is not None and beta != 0:
        y += c if beta == 1 else c * (wrap(beta, y.dtype) if integers else beta)
    return y


@op("Gemm", since=(1, 6), cost=_gemm_cost)
def gemm_6(
    a: Array,
    b: Array,
    c: Array,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    transA: int = 0,
    transB: int = 0,
    broadcast: int = 0,
) -> Array:
    """Gemm whose C broadcasts to (M, N) only if the attribute says so (ONNX Gemm-1)."""
    rows, columns = gemm_operands(a, b, transA, transB)
    shape = rows.shape[:1] + columns.shape[1:]
    if not broadcast and c.shape != shape:
        raise KernelError(f"C must have shape {shape} unless broadcast is set (got shape {c.shape})")
    return gemm(a, b, c, alpha=alpha, beta=beta, transA=transA, transB=transB)


# Einsum


class _Term(NamedTuple):
    """One operand, with the name of each of its axes."""

    array: Array
    labels: Labels


def _simplify(array: Array, labels: Labels, keep: frozenset[str]) -> _Term:
    """Take the diagonal of repeated indices, drop axes of size 1, sum over indices not in `keep`."""
    found: dict[str, tuple[int, int]] = {}
    for label, size, stride in zip(labels, array.shape, array.strides, strict=True):
        if size != 1:
            found[label] = (size, found.get(label, (0, 0))[1] + stride)
    shape, strides = [d for d, _ in found.values()], [s for _, s in found.values()]
    view = np.lib.stride_tricks.as_strided(array, shape, strides, writeable=False)
    unwanted = tuple(i for i, label in enumerate(found) if label not in keep)
    if unwanted:
        view = np.asarray(np.add.reduce(view, axis=unwanted, dtype=array.dtype))
    return _Term(view, tuple(label for label in found if label in keep))


def _contract(a: _Term, b: _Term, result: frozenset[str]) -> _Term:
    """Multiply two operands and sum over the indices that are not in `result`."""
    shared = [label for label in a.labels if label in b.labels]
    batch = [label for label in shared if label in result]
    summed = [label for label in shared if label not in result]
    left = [label for label in a.labels if label not in shared]
    right = [label for label in b.labels if label not in shared]
    labels = (*batch, *left, *right)
    if not summed:
        x = _ordered(a, [*batch, *left]).reshape(_dims(a, [*batch, *left]) + (1,) * len(right))
        y = _ordered(b, [*batch, *right]).reshape(_dims(b, batch) + (1,) * len(left) + _dims(b, right))
        return _Term(np.asarray(x * y), labels)
    # A stack of matrix products: (batch, left, summed) times (batch, summed, right).
    x = _grouped(a, batch, left, summed)
    y = _grouped(b, batch, summed, right)
    return _Term(_multiply(x, y).reshape(_dims(a, batch) + _dims(a, left) + _dims(b, right)), labels)


def _ordered(term: _Term, labels: Sequence[str]) -> Array:
    return term.array.transpose([term.labels.index(label) for label in labels])


def _dims(term: _Term, labels: Sequence[str]) -> Shape:
    return tuple(term.array.shape[term.labels.index(label)] for label in labels)


def _grouped(term: _Term, *groups: Sequence[str]) -> Array:
    """Return the array with one axis per group of indices; a leading empty group gives no axis."""
    shape = tuple(math.prod(_dims(term, group)) for group in groups)
    ordered = _ordered(term, [label for group in groups for label in group])
    return ordered.reshape(shape if groups[0] else shape[1:])


def _einsum_cost(*inputs: Array, equation: str) -> Cost:
    plan = plan_einsum(equation, tuple(x.shape for x in inputs))
    dtype = inputs[0].dtype
    elements = sum(x.size for x in inputs) + sum(plan.volume(step.result) for step in plan.steps)
    # Each operand and each intermediate result may be copied once, to transpose it.
    scratch = elements * (_work_bytes(dtype) + dtype.itemsize)
    return Cost(Cost.of([plan.sizes[label] for label in plan.output], dtype).out_bytes, scratch)


@op("Einsum", since=(12, 28), cost=_einsum_cost)
@in_float32
def einsum(*inputs: Array, equation: str) -> Array:
    """Sum of products over the indices that `equation` does not keep (ONNX Einsum-12)."""
    plan = plan_einsum(equation, tuple(x.shape for x in inputs))
    terms = [_simplify(*operand) for operand in zip(inputs, plan.inputs, plan.kept, strict=True)]
    for step in plan.steps:
        b, a = terms.pop(step.j), terms.pop(step.i)
        terms.append(_contract(a, b, step.result))
    (last,) = terms
    ordered = _ordered(last, [label for label in plan.output if label in last.labels])
    return ordered.reshape([plan.sizes[label] for label in plan.output])


# Determinants


def _det_shape(x: Array) -> Shape:
    if x.ndim < 2 or x.shape[-1] != x.shape[-2]:
        raise KernelError(f"X must consist of square matrices (got shape {x.shape})")
    return x.shape[:-2]


def _det_cost(x: Array) -> Cost:
    # Matrices of size 0 have no elements and the determinant 1.
    return Cost(Cost.of(_det_shape(x), x.dtype).out_bytes, 16 * x.size)


@op("Det", since=(11, 22), cost=_det_cost)
def det(x: Array) -> Array:
    """Determinants of square matrices: (..., M, M) gives (...) (ONNX Det-11)."""
    _det_shape(x)
    # In float64 for every type: elimination loses digits in proportion to the condition number.
    return narrow(np.linalg.det(x.astype(np.float64)), x.dtype)


# Quantized products


def _per_row(value: Array, matrix: Shape, name: str) -> Array:
    """Return a scalar, or one value per row of (..., M, K), so that it broadcasts to (..., M, 1)."""
    value = value[:, None] if value.ndim == 1 and value.size != 1 else value
    return _per_tensor(value, (*matrix[:-1], 1), name)


def _per_column(value: Array, matrix: Shape, name: str) -> Array:
    """Return a scalar, or one value per column of (..., K, N), so that it broadcasts to (..., 1, N)."""
    return _per_tensor(value, (*matrix[:-2], 1, matrix[-1]), name)


def _per_tensor(value: Array, shape: Shape, name: str) -> Array:
    """Return a scalar, or a tensor that broadcasts to `shape`."""
    if value.size == 1:
        return value.reshape(())
    if not broadcasts_to(value.shape, shape):
        raise KernelError(f"{name} must be a scalar or broadcast to {shape} (got shape {value.shape})")
    return value


def _as_matrices(a: Array, b: Array) -> tuple[Array, Array]:
    """Return A with rows and B with columns, as numpy.matmul sees vectors."""
    return (a if a.ndim > 1 else a[None, :]), (b if b.ndim > 1 else b[:, None])


def _integer_cost(
    a: Array, b: Array, a_zero_point: Array | None = None, b_zero_point: Array | None = None
) -> Cost:
    return _product_cost(a, b, np.dtype(np.int32))


@op("MatMulInteger", since=10, cost=_integer_cost)
def matmul_integer(
    a: Array, b: Array, a_zero_point: Array | None = None, b_zero_point: Array | None = None
) -> Array:
    """(A - a_zero_point) (B - b_zero_point) of 8-bit integers, in int32 (ONNX MatMulInteger-10).

    Zero points are scalars, one per row of A and one per column of B.
    """
    shape = product_shape(a.shape, b.shape)
    return _centred_product(a, b, a_zero_point, b_zero_point, np.dtype(np.int32)).reshape(shape)


def _centred_product(a: Array, b: Array, a_zero: Array | None, b_zero: Array | None, dtype: DType) -> Array:
    """Product of A and B less their zero points: integers modulo 2**bits of `dtype`, floats in float64."""
    a, b = _as_matrices(a, b)
    wide = np.float64 if {a.dtype, b.dtype} & LOW_PRECISION else np.int16  # both without loss
    a_wide, b_wide = a.astype(wide), b.astype(wide)
    if a_zero is not None:
        a_wide = a_wide - _per_row(a_zero, a.shape, "a_zero_point").astype(wide)
    if b_zero is not None:
        b_wide = b_wide - _per_column(b_zero, b.shape, "b_zero_point").astype(wide)
    return _multiply(a_wide, b_wide, dtype)


def _qlinear_cost(
    a: Array,
    a_scale: Array,
    a_zero_point: Array,
    b: Array,
    b_scale: Array,
    b_zero_point: Array,
    y_scale: Array,
    y_zero_point: Array,
) -> Cost:
    cost = _product_cost(a, b, y_zero_point.dtype)
    return Cost(cost.out_bytes, 32 * (cost.out_bytes + a.size + b.size))


@op("QLinearMatMul", since=(10, 21), cost=_qlinear_cost)
def qlinear_matmul(
    a: Array,
    a_scale: Array,
    a_zero_point: Array,
    b: Array,
    b_scale: Array,
    b_zero_point: Array,
    y_scale: Array,
    y_zero_point: Array,
) -> Array:
    """Product of quantized tensors, quantized to the type of y_zero_point (ONNX QLinearMatMul-10).

    Scales and zero points are scalars or: one per row of a, one per column of b, broadcasting to y.
    """
    shape = product_shape(a.shape, b.shape)
    product = _centred_product(a, b, a_zero_point, b_zero_point, np.dtype(np.int64))
    rows, columns = (x.shape for x in _as_matrices(a, b))
    # In float64 the product of the scales is exact: no rounding before the one that the formula has.
    scale = _per_row(a_scale, rows, "a_scale").astype(np.float64) * _per_column(
        b_scale, columns, "b_scale"
    ).astype(np.float64)
    y = (product * scale).reshape(shape)
    y = y / _per_tensor(y_scale, shape, "y_scale").astype(np.float64)
    return requantize(y, _per_tensor(y_zero_point, shape, "y_zero_point"))
