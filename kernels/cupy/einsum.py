"""Einsum on the GPU, where it is one product of stacks of matrices; `linalg` tells what computes it."""

from __future__ import annotations

import math

from onnxref.lowering import Operand, Site, Unsupported, lower

from .linalg import MatrixProduct, multiply


@lower("Einsum", since=(12, 28), backend="cupy")
def einsum(site: Site, *inputs: Operand, equation: str) -> None:
    """Einsum of two operands that lie as stacks of matrices (ONNX Einsum-12)."""
    (y,) = site.outputs
    assert y is not None
    if len(inputs) != 2:
        raise Unsupported(f"Einsum of {len(inputs)} operands")
    a, b = inputs
    left, right, out = _labels(equation, a, b)
    batch = [label for label in out if label in left and label in right]
    rows = [label for label in out if label not in right]
    columns = [label for label in out if label not in left]
    summed = [label for label in left if label not in out]
    if not set(summed) <= set(right) or not set(right) <= {*left, *out}:
        raise Unsupported("Einsum that sums along one operand")
    if list(out) == [*batch, *columns, *rows] and rows:
        a, b, left, right, rows, columns = b, a, right, left, columns, rows
    if list(out) != [*batch, *rows, *columns]:
        raise Unsupported("Einsum whose result is no stack of matrices")
    sizes = {**left, **right}
    (a_shape, trans_a), (b_shape, is_plain) = (
        _as_stack(labels, batch, one, summed, sizes) for labels, one in ((left, rows), (right, columns))
    )
    multiply(MatrixProduct(site, a, b, y, trans_a, not is_plain, shapes=(a_shape, b_shape)))


def _labels(equation: str, a: Operand, b: Operand) -> tuple[dict[str, int], dict[str, int], tuple[str, ...]]:
    """Return the extents of each operand's axes by label, and the labels of the output; none of extent 1."""
    terms, arrow, result = equation.replace(" ", "").partition("->")
    if not arrow or terms.count(",") != 1:
        raise Unsupported("Einsum without a named output")
    found: list[dict[str, int]] = []
    rank = 0
    for term, operand in zip(terms.split(","), (a, b), strict=True):
        begin, dots, end = term.partition("...")
        rank = operand.ndim - len(begin + end) if dots else rank
        labels = [*begin, *(f"...{i}" for i in range(rank) if dots), *end]
        if len(labels) != operand.ndim or len(set(labels)) != len(labels):
            raise Unsupported("Einsum along a diagonal")
        found.append(dict(zip(labels, operand.shape, strict=True)))
    left, right = found
    if any(left[label] != right[label] for label in left.keys() & right.keys()):
        raise Unsupported("Einsum that broadcasts")
    begin, dots, end = result.partition("...")
    out = [*begin, *(f"...{i}" for i in range(rank) if dots), *end]
    sizes = {**left, **right}
    real = [{label: n for label, n in operand.items() if n != 1} for operand in found]
    return real[0], real[1], tuple(label for label in out if sizes[label] != 1)


def _as_stack(
    labels: dict[str, int], batch: list[str], one: list[str], summed: list[str], sizes: dict[str, int]
) -> tuple[tuple[int, ...], bool]:
    """Return the shape of an operand as a stack of matrices, and whether the summed axes come first."""
    stack = tuple(sizes[label] for label in batch)
    M, K = (math.prod(sizes[label] for label in group) for group in (one, summed))
    if list(labels) == [*batch, *one, *summed]:
        return (*stack, M, K), False
    if list(labels) == [*batch, *summed, *one]:
        return (*stack, K, M), True
    raise Unsupported("Einsum of an operand that is no stack of matrices")
